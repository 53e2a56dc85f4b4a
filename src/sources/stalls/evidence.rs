//! What the operating system and the garbage collector tell about an episode while it lasts.

use std::path::Path;
use std::time::Duration;

use crate::snapshot::{StallCause, ThreadTimes};

/// Which thread keeps others waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// The thread with this id of the kernel.
    Thread(u32),
    /// The one that wanted to run for the most time. If none did, the main thread.
    Busiest {
        /// Our thread that waits: it wants to run just because it does.
        prober: u32,
        /// Our thread that observes.
        observer: u32,
    },
}

/// A thread that waits for the GIL asks for it every 5 ms. One that has run so rarely has waited for a CPU instead.
const MAX_RUNS: u64 = 4;

/// What was observed of an episode.
#[derive(Debug)]
pub struct Evidence {
    suspect: Suspect,
    since: Duration,
    /// For how long before the first observation the thread that observes has waited for a CPU.
    starved: Duration,
    /// What the suspects had used of the CPUs then; `None` where that is not known.
    before: Option<Vec<ThreadTimes>>,
    /// How often our thread that waits had run then.
    runs: Option<u64>,
    observations: u32,
    /// How often the suspect waited for a disk or the like, and could not be interrupted.
    in_disk: u32,
    /// How often a garbage collection was running.
    collecting: u32,
    /// How often the interpreter was waited for.
    blocked: u32,
}

impl Evidence {
    /// Begins to observe; the thread that does has waited for a CPU for so long before.
    pub fn begin(root: &Path, suspect: Suspect, now: Duration, starved: Duration) -> Self {
        Self {
            suspect,
            since: now.saturating_sub(starved),
            starved,
            before: suspect.times(root),
            runs: suspect.prober().and_then(|prober| runs(root, prober)),
            observations: 0,
            in_disk: 0,
            collecting: 0,
            blocked: 0,
        }
    }

    /// Observes it once more.
    pub fn observe(&mut self, root: &Path, is_collecting: bool, is_blocked: bool) {
        let thread = match self.suspect {
            Suspect::Thread(id) => id,
            Suspect::Busiest { .. } => std::process::id(),
        };
        self.observations += 1;
        self.in_disk += u32::from(is_in_disk_sleep(root, thread));
        self.collecting += u32::from(is_collecting);
        self.blocked += u32::from(is_blocked);
    }

    /// Whether it was observed after its beginning.
    pub fn is_observed(&self) -> bool {
        self.observations > 0
    }

    /// Whether the interpreter was waited for in half of the observations.
    pub fn is_blocked(&self) -> bool {
        self.is_half(self.blocked)
    }

    /// The cause, if it is one that these observations show.
    pub fn cause(&self, root: &Path, now: Duration) -> Option<StallCause> {
        if self.is_starved(root, now) == Some(true) {
            Some(StallCause::CpuStarved)
        } else if self.is_half(self.in_disk) {
            Some(StallCause::IoDState)
        } else if self.is_half(self.collecting) {
            Some(StallCause::Gc)
        } else {
            None
        }
    }

    fn is_half(&self, count: u32) -> bool {
        count > 0 && 2 * count >= self.observations
    }

    /// Whether a CPU was waited for in half of the time: by the suspect or, if hardly anything has run, by our thread.
    fn is_starved(&self, root: &Path, now: Duration) -> Option<bool> {
        let half = now.saturating_sub(self.since) / 2;
        if half.is_zero() {
            return None;
        }
        let (before, after) = (self.before.as_ref()?, self.suspect.times(root)?);
        let spent = after.iter().map(|thread| {
            let before = before.iter().find(|before| before.id == thread.id);
            let (cpu, delay) = before.map_or_else(Default::default, |before| (before.cpu, before.delay));
            ThreadTimes {
                id: thread.id,
                cpu: thread.cpu.saturating_sub(cpu),
                delay: thread.delay.saturating_sub(delay),
            }
        });
        let delay_of = |id: u32| spent.clone().find(|thread| thread.id == id).map(|thread| thread.delay);
        let delay = match self.suspect {
            Suspect::Thread(id) => delay_of(id)?,
            Suspect::Busiest { prober, observer } => {
                let programs = spent.clone().filter(|thread| thread.id != prober && thread.id != observer);
                let busiest = programs.max_by_key(|thread| thread.cpu + thread.delay)?;
                let has_run =
                    self.runs.zip(runs(root, prober)).and_then(|(before, after)| after.checked_sub(before));
                let is_prober_starved = has_run.is_some_and(|runs| runs <= MAX_RUNS);
                busiest.delay.max(delay_of(prober).filter(|_| is_prober_starved).unwrap_or_default())
            }
        };
        Some(self.starved + delay >= half)
    }
}

impl Suspect {
    fn prober(self) -> Option<u32> {
        if let Self::Busiest { prober, .. } = self { Some(prober) } else { None }
    }

    /// What the threads that it may be have used of the CPUs.
    fn times(self, root: &Path) -> Option<Vec<ThreadTimes>> {
        match self {
            Self::Thread(id) => read_thread(root, id).map(|times| vec![times]),
            Self::Busiest { .. } => read_threads(root),
        }
    }
}

#[cfg(target_os = "linux")]
fn read_threads(root: &Path) -> Option<Vec<ThreadTimes>> {
    crate::sources::thread_times::Threads::default().read(root)
}

#[cfg(target_os = "linux")]
fn read_thread(root: &Path, id: u32) -> Option<ThreadTimes> {
    crate::sources::thread_times::read(root, id)
}

/// The time that the main thread has waited for a CPU.
pub fn delay_of_main(root: &Path) -> Option<Duration> {
    read_thread(root, std::process::id()).map(|times| times.delay)
}

/// The time that the calling thread has waited for a CPU.
#[cfg(target_os = "linux")]
pub fn own_delay(root: &Path) -> Option<Duration> {
    let text = crate::sources::kernel_file::read(&root.join("proc/thread-self/schedstat")).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().map(Duration::from_nanos).ok()
}

/// How often the thread has run.
#[cfg(target_os = "linux")]
fn runs(root: &Path, thread: u32) -> Option<u64> {
    let path = root.join(format!("proc/self/task/{thread}/schedstat"));
    crate::sources::kernel_file::read(&path).ok()?.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// Whether the thread is in the state D.
#[cfg(target_os = "linux")]
fn is_in_disk_sleep(root: &Path, thread: u32) -> bool {
    let path = root.join(format!("proc/self/task/{thread}/stat"));
    let Ok(text) = crate::sources::kernel_file::read(&path) else { return false };
    // The name of the thread may contain anything.
    text.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('D'))
}

#[cfg(not(target_os = "linux"))]
fn read_threads(_root: &Path) -> Option<Vec<ThreadTimes>> {
    None
}

#[cfg(not(target_os = "linux"))]
fn read_thread(_root: &Path, _id: u32) -> Option<ThreadTimes> {
    None
}

/// Not known on this platform.
#[cfg(not(target_os = "linux"))]
pub fn own_delay(_root: &Path) -> Option<Duration> {
    None
}

#[cfg(not(target_os = "linux"))]
fn runs(_root: &Path, _thread: u32) -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
fn is_in_disk_sleep(_root: &Path, _thread: u32) -> bool {
    false
}
