//! The thread with the schedule. It never touches the interpreter, so that nothing the program does with it can
//! delay what the operating system knows.
//!
//! What is done at each beat is the caller's closure; here is only the sleep.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;

/// Reading, formatting and sending need little.
const STACK: usize = 256 * 1024;

/// How often to look whether the kernel is done with a thread that has ended; the first look is mostly the last.
const MOST_LOOKS: usize = 10_000;

/// The schedule, and the thread that keeps it while it runs.
pub struct Sampler {
    shared: Arc<Shared>,
    beat: Arc<dyn Fn() -> Option<Duration> + Send + Sync>,
    thread: Mutex<Option<Thread>>,
}

struct Shared {
    clock: Clock,
    schedule: Mutex<Timetable>,
    changed: Condvar,
}

struct Timetable {
    next: Duration,
    /// A beat in between, which the last one has asked for.
    again: Option<Duration>,
    interval: Duration,
    halting: bool,
    running: bool,
    closed: bool,
}

impl Sampler {
    /// A sampler that does not run yet: `beat` will be called every `interval`, first one interval from now, and once
    /// more so long after a call as that call says.
    pub fn new(
        clock: Clock,
        interval: Duration,
        beat: impl Fn() -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        let schedule = Timetable {
            next: clock.now() + interval,
            again: None,
            interval,
            halting: false,
            running: false,
            closed: false,
        };
        let shared = Shared { clock, schedule: Mutex::new(schedule), changed: Condvar::new() };
        Self { shared: Arc::new(shared), beat: Arc::new(beat), thread: Mutex::default() }
    }

    /// Starts the thread. After a [`halt`](Self::halt) it goes on where the schedule stands; once it is
    /// [closed](Self::close) it does not.
    ///
    /// # Errors
    ///
    /// If the system has no thread left.
    pub fn run(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let mut schedule = self.shared.lock();
        if schedule.closed {
            return Ok(());
        }
        schedule.halting = false;
        if schedule.running {
            return Ok(());
        }
        let (shared, beat) = (Arc::clone(&self.shared), Arc::clone(&self.beat));
        let run = move || {
            while shared.wait() {
                // A defect of ours costs a beat; the panic has printed itself.
                let again = catch_unwind(AssertUnwindSafe(|| beat())).ok().flatten();
                shared.lock().again = again.map(|after| shared.clock.now() + after);
            }
        };
        *thread = Some(spawn("rtm-sampler", STACK, Box::new(run))?);
        schedule.running = true;
        Ok(())
    }

    /// Beats at another interval, the next time one such interval from now.
    pub fn reschedule(&self, interval: Duration) {
        let mut schedule = self.shared.lock();
        schedule.interval = interval;
        schedule.next = self.shared.clock.now() + interval;
        schedule.again = None;
        drop(schedule);
        self.shared.changed.notify_all();
    }

    /// Asks the thread to end.
    pub fn begin_halt(&self) {
        let was_halting = std::mem::replace(&mut self.shared.lock().halting, true);
        if !was_halting {
            self.shared.changed.notify_all();
        }
    }

    /// Asks the thread to end and waits for it, at most so long; says whether it has ended. The schedule stands.
    pub fn halt(&self, within: Duration) -> bool {
        self.begin_halt();
        let running = |schedule: &mut Timetable| schedule.running;
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), within, running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        // Whoever starts another thread takes this lock first.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = !self.shared.lock().running;
        if let Some(thread) = thread.take_if(|_| ended) {
            thread.join();
        }
        ended
    }

    /// Never runs again.
    pub fn close(&self) {
        self.shared.lock().closed = true;
    }
}

impl Shared {
    /// Sleeps until the next beat; false when the thread is to end, and counts as ended: whoever lets the sampler
    /// run from now on needs another. Beats that were missed are not made up for.
    fn wait(&self) -> bool {
        let mut schedule = self.lock();
        loop {
            if schedule.halting {
                schedule.running = false;
                drop(schedule);
                self.changed.notify_all();
                return false;
            }
            let now = self.clock.now();
            if schedule.again.take_if(|again| *again <= now).is_some() {
                return true;
            }
            let left = schedule.again.unwrap_or(schedule.next).saturating_sub(now);
            if left.is_zero() {
                let next = schedule.next + schedule.interval;
                schedule.next = if next > now { next } else { now + schedule.interval };
                return true;
            }
            (schedule, _) = self.changed.wait_timeout(schedule, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Timetable> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread of ours.
pub struct Thread {
    handle: JoinHandle<()>,
    /// The kernel's number of it, once it runs.
    number: Arc<AtomicI32>,
}

impl Thread {
    /// Waits for the end of a thread that has nothing more to do.
    ///
    /// The kernel counts it for some microseconds after it can be joined, and CPython asks the kernel whether a fork
    /// is made in a process with threads.
    pub fn join(self) {
        // Its panics have been caught.
        drop(self.handle.join());
        let name = format!("/proc/self/task/{}", self.number.load(SeqCst));
        for _ in 0..MOST_LOOKS {
            if !Path::new(&name).exists() {
                break;
            }
            thread::yield_now();
        }
    }

    /// Whether this is the thread that asks.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.handle.thread().id() == thread::current().id()
    }
}

/// Starts a thread that receives no signal but those of its own faults: the program's threads must go on being
/// interrupted by theirs.
///
/// # Errors
///
/// If the system has no thread left.
pub fn spawn(name: &str, stack: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
    let number = Arc::new(AtomicI32::new(0));
    let numbered = Arc::clone(&number);
    let run = move || {
        numbered.store(thread_number(), SeqCst);
        run();
    };
    let spawn = || thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(run);
    #[cfg(unix)]
    let handle = {
        use nix::sys::signal::{SigSet, SigmaskHow, Signal};
        let mut blocked = SigSet::all();
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
            blocked.remove(fault);
        }
        // A thread inherits the mask of the one that starts it.
        let before = blocked.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let thread = spawn();
        before.thread_set_mask()?;
        thread?
    };
    #[cfg(not(unix))]
    let handle = spawn()?;
    Ok(Thread { handle, number })
}

#[cfg(target_os = "linux")]
fn thread_number() -> i32 {
    nix::unistd::gettid().as_raw()
}

#[cfg(not(target_os = "linux"))]
fn thread_number() -> i32 {
    0
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn beating(interval: Duration) -> (Sampler, mpsc::Receiver<()>) {
        let (beats, received) = mpsc::channel();
        let sampler = Sampler::new(Clock::start(), interval, move || {
            beats.send(()).unwrap();
            None
        });
        sampler.run().unwrap();
        (sampler, received)
    }

    #[test]
    fn it_beats_until_it_is_halted() {
        let (sampler, received) = beating(Duration::from_millis(10));
        for _ in 0..3 {
            received.recv_timeout(LONG).unwrap();
        }
        assert!(sampler.halt(LONG));
        received.try_iter().for_each(drop);
        assert_eq!(received.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
    }

    #[test]
    fn halting_does_not_wait_for_the_next_beat() {
        let sampler = Sampler::new(Clock::start(), 100 * LONG, || panic!("no beat was due"));
        sampler.run().unwrap();
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn closed_it_does_not_go_on() {
        let (sampler, received) = beating(Duration::from_millis(10));
        received.recv_timeout(LONG).unwrap();
        sampler.close();
        assert!(sampler.halt(LONG));
        sampler.run().unwrap();
        received.try_iter().for_each(drop);
        assert_eq!(received.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
    }

    #[test]
    fn it_goes_on_where_the_schedule_stands() {
        let (sampler, received) = beating(Duration::from_millis(200));
        let start = Instant::now();
        // Halted again and again, it would never beat if that put off the next beat.
        while received.try_recv().is_err() {
            assert!(sampler.halt(LONG));
            sampler.run().unwrap();
        }
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn a_new_schedule_holds_at_once() {
        let (sampler, received) = beating(100 * LONG);
        sampler.reschedule(Duration::from_millis(10));
        received.recv_timeout(LONG).unwrap();
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn a_thread_that_does_not_end_is_not_waited_for_longer_than_asked() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (beats, received) = mpsc::channel();
        let sampler = Sampler::new(Clock::start(), Duration::from_millis(10), move || {
            beats.send(()).unwrap();
            assert!(held.lock().unwrap().recv().is_err(), "held until the test lets go");
            None
        });
        sampler.run().unwrap();
        received.recv_timeout(LONG).unwrap();
        assert!(!sampler.halt(Duration::from_millis(1)));
        // Asked to run before it has ended, it goes on.
        sampler.run().unwrap();
        drop(release);
        received.recv_timeout(LONG).unwrap();
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn missed_beats_are_not_made_up_for() {
        let (beats, received) = mpsc::channel();
        let interval = Duration::from_millis(50);
        let sampler = Sampler::new(Clock::start(), interval, move || {
            beats.send(Instant::now()).unwrap();
            thread::sleep(3 * interval);
            None
        });
        sampler.run().unwrap();
        let first = received.recv_timeout(LONG).unwrap();
        let second = received.recv_timeout(LONG).unwrap();
        // The beat took three intervals; the next one is a whole interval after its end, or nearly.
        assert!(second - first > 3 * interval, "{:?}", second - first);
        assert!(sampler.halt(LONG));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_was_joined_is_gone() {
        for _ in 0..200 {
            let thread = spawn("ended", STACK, Box::new(|| ())).unwrap();
            let number = Arc::clone(&thread.number);
            thread.join();
            let number = number.load(SeqCst);
            assert!(number > 0 && !Path::new(&format!("/proc/self/task/{number}")).exists());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_thread_receives_no_signal() {
        use nix::sys::signal::SigSet;
        let before = SigSet::thread_get_mask().unwrap();
        let (masks, received) = mpsc::channel();
        let run = move || masks.send(SigSet::thread_get_mask().unwrap()).unwrap();
        spawn("masked", STACK, Box::new(run)).unwrap();
        let mask = received.recv_timeout(LONG).unwrap();
        assert!(mask.contains(nix::sys::signal::SIGTERM) && mask.contains(nix::sys::signal::SIGINT));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
