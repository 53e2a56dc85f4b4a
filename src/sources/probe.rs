//! What a thread of ours observes by sleeping and then entering the interpreter: how late the system wakes it, and how
//! long it then has to wait for the interpreter.
//!
//! The first is the delay that every thread of this machine has, the second the one of every thread that wants to run
//! Python code next to the program's own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pace::Pace;
use crate::clock::{self, thread_id};
use crate::snapshot::ProbeFacts;

/// The mean time between two probes, where that is cheap enough. Each costs a busy program a hand-over of the GIL.
const PAUSE: Duration = Duration::from_millis(500);

/// The same while the process does little. It does not stop then: a thread that blocks in C code while it holds the GIL
/// uses no CPU.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// The thread that probes may use one part in so many of the time. A probe takes 10 to 100 µs, depending on the machine
/// and on how often the thread is woken until it has the GIL.
const BUDGET_SHARE: u32 = 25_000;

/// The mean time between two probes however much they cost.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The most observations that are kept of one interval; if there are more, the latest are.
const MAX_KEPT: usize = 4096;

/// The observations since the last flush.
#[derive(Debug, Default)]
pub struct Probe {
    is_needed: AtomicBool,
    /// No probe may begin.
    is_held: AtomicBool,
    observed: Mutex<Observed>,
    /// The kernel's id of the thread that probes, or 0.
    thread: AtomicU32,
}

/// Counts the probes that a thread makes between two of its other tasks, as counting what each costs would take another
/// system call.
#[derive(Debug)]
pub struct Meter {
    probes: u32,
    /// The thread's CPU time before the first of them; at its start it has used none.
    restarted: Option<Duration>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { probes: 0, restarted: Some(Duration::ZERO) }
    }
}

impl Meter {
    /// Counts one that is about to be made.
    pub fn add_probe(&mut self) {
        self.probes += 1;
    }
}

#[derive(Debug, Default)]
struct Observed {
    /// How late the system woke it.
    overslept: Recent,
    waits: Recent,
    /// Since when the thread has been waiting, if it is.
    waiting_since: Option<Duration>,
    /// Long waits that have ended and were not taken.
    long_waits: Vec<LongWait>,
    /// What a probe costs, as far as that is known.
    cost: Duration,
    pace: Pace,
}

/// A wait for the interpreter that took [`LongWait::MIN`] or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongWait {
    /// When it began.
    pub since: Duration,
    /// When it ended.
    pub until: Duration,
}

impl LongWait {
    /// What takes less is not long.
    pub const MIN: Duration = Duration::from_secs(1);

    /// At most this many are kept until they are taken; later ones are dropped.
    const MAX: usize = 8;
}

/// The latest observations of one kind.
#[derive(Debug, Default)]
struct Recent {
    kept: Vec<Duration>,
    /// How many there were.
    count: usize,
}

impl Recent {
    fn add(&mut self, value: Duration) {
        match self.kept.get_mut(self.count % MAX_KEPT) {
            Some(oldest) => *oldest = value,
            None => self.kept.push(value),
        }
        self.count += 1;
    }

    fn longest(&self) -> Option<Duration> {
        self.kept.iter().max().copied()
    }

    /// The nearest rank.
    fn p95(&self) -> Option<Duration> {
        let mut sorted = self.kept.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).copied()
    }

    fn mean(&self) -> Option<Duration> {
        self.kept.iter().sum::<Duration>().checked_div(self.kept.len().try_into().ok()?)
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.count = 0;
    }
}

impl Probe {
    /// Sets whether probes are needed.
    pub fn need(&self, is_needed: bool) {
        self.is_needed.store(is_needed, SeqCst);
    }

    /// The calling thread probes from now on.
    pub fn begin_thread(&self) {
        self.thread.store(thread_id(), SeqCst);
    }

    /// The kernel's id of the thread that probes, or 0.
    #[must_use]
    pub fn thread(&self) -> u32 {
        self.thread.load(SeqCst)
    }

    /// Whether probes are needed, and none is held back.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_needed.load(SeqCst) && !self.is_held.load(SeqCst)
    }

    /// Holds probes back, as while a fork is made, or lets them go on.
    pub fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, SeqCst);
    }

    /// How long to sleep before the next probe.
    #[must_use]
    pub fn choose_pause(&self, now: Duration) -> Duration {
        let mut observed = self.lock();
        let affordable = (observed.cost * BUDGET_SHARE).min(MAX_PAUSE);
        observed.pace.choose(now, PAUSE.max(affordable), IDLE_PAUSE.max(affordable))
    }

    /// Sees what the probes of the calling thread have cost since the meter was restarted; whether there were any.
    pub fn charge(&self, meter: &mut Meter) -> bool {
        let probes = std::mem::take(&mut meter.probes);
        if probes > 0
            && let Some((before, now)) = meter.restarted.zip(clock::cpu_of_thread())
        {
            self.lock().cost = now.saturating_sub(before) / probes;
        }
        probes > 0
    }

    /// What the thread has used up to now is not that of the probes that follow.
    pub fn restart(&self, meter: &mut Meter) {
        if self.is_wanted() {
            meter.restarted = clock::cpu_of_thread();
        }
    }

    /// The thread woke up so much later than it wanted to, if it slept, and waits for the interpreter from `now` on.
    pub fn begin(&self, overslept: Option<Duration>, now: Duration) {
        let mut observed = self.lock();
        if let Some(overslept) = overslept {
            observed.overslept.add(overslept);
        }
        observed.waiting_since = Some(now);
    }

    /// The thread entered the interpreter at `now`; `None` if the interpreter could not be entered.
    pub fn end(&self, now: Option<Duration>) {
        let mut observed = self.lock();
        let Some((since, now)) = observed.waiting_since.take().zip(now) else { return };
        let wait = now.saturating_sub(since);
        if wait >= LongWait::MIN && observed.long_waits.len() < LongWait::MAX {
            observed.long_waits.push(LongWait { since, until: now });
        }
        observed.waits.add(wait);
    }

    /// Since when the thread has been waiting for the interpreter, if it is.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Duration> {
        self.lock().waiting_since
    }

    /// Whether long waits have ended that were not taken.
    #[must_use]
    pub fn has_long_waits(&self) -> bool {
        !self.lock().long_waits.is_empty()
    }

    /// Since when the thread has been waiting, if it is, and the long waits that have ended since the last call.
    #[must_use]
    pub fn take_waits(&self) -> (Option<Duration>, Vec<LongWait>) {
        let mut observed = self.lock();
        (observed.waiting_since, std::mem::take(&mut observed.long_waits))
    }

    /// The observations so far. A wait that goes on counts with what it has taken until `now`.
    #[must_use]
    pub fn read(&self, now: Duration) -> ProbeFacts {
        self.lock().facts(now)
    }

    /// The same, and forgets what has ended.
    #[must_use]
    pub fn drain(&self, now: Duration) -> ProbeFacts {
        let mut observed = self.lock();
        let facts = observed.facts(now);
        observed.overslept.clear();
        observed.waits.clear();
        facts
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observed {
    fn facts(&self, now: Duration) -> ProbeFacts {
        let going_on = self.waiting_since.map(|since| now.saturating_sub(since));
        ProbeFacts {
            overslept: self.overslept.longest(),
            overslept_p95: self.overslept.p95(),
            wait_p95: self.waits.p95(),
            wait_mean: self.waits.mean(),
            longest_wait: self.waits.longest().max(going_on),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn wait(probe: &Probe, overslept: Duration, wait: Duration) {
        probe.begin(Some(overslept), SECOND);
        probe.end(Some(SECOND + wait));
    }

    #[test]
    fn the_percentile_is_the_nearest_rank() {
        let probe = Probe::default();
        for milliseconds in (1..=40).rev() {
            wait(&probe, MS, milliseconds * MS);
        }
        let expected = ProbeFacts {
            overslept: Some(MS),
            overslept_p95: Some(MS),
            wait_p95: Some(38 * MS),
            wait_mean: Some(41 * MS / 2),
            longest_wait: Some(40 * MS),
        };
        assert_eq!(probe.read(SECOND), expected);
        assert_eq!(probe.drain(SECOND), expected);
        assert_eq!(probe.drain(SECOND), ProbeFacts::default());
        wait(&probe, 3 * MS, 2 * MS);
        wait(&probe, MS, MS);
        let expected = ProbeFacts {
            overslept: Some(3 * MS),
            overslept_p95: Some(3 * MS),
            wait_p95: Some(2 * MS),
            wait_mean: Some(3 * MS / 2),
            longest_wait: Some(2 * MS),
        };
        assert_eq!(probe.drain(SECOND), expected);
    }

    #[test]
    fn a_wait_that_goes_on_counts_as_long_as_it_has_taken_and_then_as_a_whole() {
        let probe = Probe::default();
        wait(&probe, MS, 5 * MS);
        probe.begin(Some(2 * MS), 10 * SECOND);
        let facts = probe.drain(14 * SECOND);
        let expected = ProbeFacts {
            overslept: Some(2 * MS),
            overslept_p95: Some(2 * MS),
            wait_p95: Some(5 * MS),
            wait_mean: Some(5 * MS),
            longest_wait: Some(4 * SECOND),
        };
        assert_eq!(facts, expected);
        let expected = ProbeFacts { longest_wait: Some(6 * SECOND), ..ProbeFacts::default() };
        assert_eq!(probe.drain(16 * SECOND), expected);
        probe.end(Some(17 * SECOND));
        assert_eq!(probe.drain(20 * SECOND).longest_wait, Some(7 * SECOND));
    }

    #[test]
    fn where_the_interpreter_could_not_be_entered_nothing_was_observed() {
        let probe = Probe::default();
        probe.begin(Some(MS), SECOND);
        probe.end(None);
        let expected = ProbeFacts { overslept: Some(MS), overslept_p95: Some(MS), ..ProbeFacts::default() };
        assert_eq!(probe.drain(9 * SECOND), expected);
    }

    #[test]
    fn of_many_waits_the_latest_are_kept() {
        let probe = Probe::default();
        wait(&probe, MS, SECOND);
        for _ in 0..MAX_KEPT {
            wait(&probe, MS, MS);
        }
        assert_eq!(probe.read(SECOND).longest_wait, Some(MS));
    }

    #[test]
    fn probes_that_cost_more_than_they_may_are_made_less_often() {
        let mean = |cost: Duration| {
            let probe = Probe::default();
            probe.lock().cost = cost;
            (0..1000).map(|_| probe.choose_pause(SECOND)).sum::<Duration>() / 1000
        };
        let is_about = |pause: Duration, expected: Duration| pause.abs_diff(expected) < expected / 10;
        let micros = Duration::from_micros;
        assert!(is_about(mean(Duration::ZERO), PAUSE) && is_about(mean(micros(10)), PAUSE));
        assert!(is_about(mean(micros(40)), SECOND));
        assert!(is_about(mean(micros(10_000)), MAX_PAUSE));
    }

    #[cfg(unix)]
    #[test]
    fn only_what_probes_have_cost_is_charged_to_them() {
        let work = |until: Duration| while clock::cpu_of_thread().unwrap() < until {};
        let (probe, mut meter) = (Probe::default(), Meter::default());
        probe.need(true);
        let start = clock::cpu_of_thread().unwrap();
        work(start + 5 * MS);
        assert!(!probe.charge(&mut meter));
        probe.restart(&mut meter);
        let restarted = clock::cpu_of_thread().unwrap();
        meter.add_probe();
        meter.add_probe();
        work(restarted + 2 * MS);
        assert!(probe.charge(&mut meter));
        let (cost, used) = (probe.lock().cost, clock::cpu_of_thread().unwrap().saturating_sub(restarted));
        assert!(cost >= MS && cost <= used / 2 + MS, "{cost:?} of {used:?}");
        assert!(!probe.charge(&mut meter));
    }

    #[test]
    fn held_back_or_not_needed_none_is_wanted() {
        let probe = Probe::default();
        assert!(!probe.is_wanted());
        probe.need(true);
        assert!(probe.is_wanted());
        probe.hold(true);
        assert!(!probe.is_wanted());
        probe.hold(false);
        assert!(probe.is_wanted());
    }
}
