//! When our threads start that cannot start now: in a child that has just been forked, and after the system has refused
//! another thread.
//!
//! Until then no thread waits for that moment, as it would be what must not exist yet; and no signal announces it, as
//! it would interrupt what the program waits for: `signal.pause()` would return. What comes along has to do: pending
//! calls, which the main thread makes while it runs Python code; garbage collections; calls of ours; forks.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// A thread that the system has refused is tried again at the earliest after this time.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How many pending calls are made in each step of the program: whenever the interpreter looks for them, which is at
/// each function call and in each round of a loop, it makes one that asks for itself again 32 times in a row. That
/// takes some 4 µs.
const CALLS_PER_STEP: u32 = 32;

/// After how many steps the threads of a child start. A child that waits in C code before that reports only when it
/// runs Python code again, so these are few.
const CHILD_STEPS: u32 = 20;

/// The same in a child of multiprocessing, whose own start takes 60 to 85 of them.
const MULTIPROCESSING_STEPS: u32 = 100;

/// After how many steps the pending calls end that wait to try a refused thread again, 4 ms at most. A busy program
/// makes them before that is due, and has garbage collections.
const RETRY_STEPS: u32 = 1000;

const NEVER: u64 = u64::MAX;

/// Whether our threads are yet to start, and when. Times are those of the collector's clock.
pub struct Postponement {
    /// In nanoseconds.
    due: AtomicU64,
    calls_left: AtomicU32,
    was_refused: AtomicBool,
    /// The pending call that counts. One of a parent process, or of an earlier postponement, may still be made.
    current: AtomicUsize,
}

/// What a pending call has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Have it made again.
    Again,
    /// Start the threads.
    Start,
    /// Nothing: something else starts them.
    Nothing,
}

impl Default for Postponement {
    /// Nothing is postponed.
    fn default() -> Self {
        Self {
            due: AtomicU64::new(NEVER),
            calls_left: AtomicU32::new(0),
            was_refused: AtomicBool::new(false),
            current: AtomicUsize::new(0),
        }
    }
}

impl Postponement {
    /// Nothing is postponed any more.
    pub fn end(&self) {
        self.calls_left.store(0, SeqCst);
        self.due.store(NEVER, SeqCst);
    }

    /// Until `due`, or until a child that code of `module` has forked has run Python code for a while. Returns the
    /// pending call to be made; none if the child only prepares to execute another program.
    #[must_use]
    pub fn begin_after_fork(&self, due: Duration, module: Option<&str>) -> Option<usize> {
        let steps = match module {
            Some("subprocess") => {
                self.calls_left.store(0, SeqCst);
                self.due.store(nanoseconds(due), SeqCst);
                return None;
            }
            Some("multiprocessing.popen_fork") => MULTIPROCESSING_STEPS,
            _ => CHILD_STEPS,
        };
        Some(self.count(due, steps, false))
    }

    /// Until `due`, as they were refused. Returns the pending call to be made.
    #[must_use]
    pub fn begin_after_refusal(&self, due: Duration) -> usize {
        self.count(due, RETRY_STEPS, true)
    }

    fn count(&self, due: Duration, steps: u32, was_refused: bool) -> usize {
        self.was_refused.store(was_refused, SeqCst);
        self.due.store(nanoseconds(due), SeqCst);
        self.calls_left.store(CALLS_PER_STEP * steps, SeqCst);
        self.current.fetch_add(1, SeqCst) + 1
    }

    /// What this pending call has to do.
    ///
    /// After a refusal it only finds out that a wait of the main thread has ended. While that is busy, to ask all the
    /// time would slow it down.
    #[must_use]
    pub fn step(&self, call: usize, now: impl FnOnce() -> Duration) -> Step {
        let left = self.calls_left.load(SeqCst);
        if left == 0 || call != self.current.load(SeqCst) {
            return Step::Nothing;
        }
        if nanoseconds(now()) >= self.due.load(SeqCst) {
            self.calls_left.store(0, SeqCst);
            return Step::Start;
        }
        self.calls_left.store(left - 1, SeqCst);
        match (left, self.was_refused.load(SeqCst)) {
            (2.., _) => Step::Again,
            (_, false) => Step::Start,
            (_, true) => Step::Nothing,
        }
    }

    /// Whether they must not start yet unless the program asks for it.
    #[must_use]
    pub fn is_waiting(&self, now: Duration) -> bool {
        self.is_pending() && nanoseconds(now) < self.due.load(SeqCst)
    }

    /// Whether they are yet to start.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.due.load(SeqCst) != NEVER
    }

    /// Calls `start_soon` once if they are due, at `now` in nanoseconds, and no pending call will find that. May be
    /// called within a garbage collection.
    pub fn start_if_due(&self, now: u64, start_soon: fn() -> bool) {
        if self.due.load(SeqCst) <= now && self.calls_left.load(SeqCst) == 0 && start_soon() {
            self.due.store(NEVER, SeqCst);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: Duration = Duration::from_nanos(9);
    const DUE: Duration = Duration::from_nanos(10);

    fn steps(postponement: &Postponement, call: usize, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        while steps.last().is_none_or(|step| *step == Step::Again) {
            steps.push(postponement.step(call, || now));
        }
        steps
    }

    fn forked(postponement: &Postponement) -> usize {
        postponement.begin_after_fork(DUE, Some("__main__")).unwrap()
    }

    #[test]
    fn a_child_s_threads_start_after_some_steps_or_when_they_are_due() {
        let postponement = Postponement::default();
        let call = forked(&postponement);
        assert_eq!(postponement.step(call, || EARLY), Step::Again);
        assert!(postponement.is_waiting(EARLY) && !postponement.is_waiting(DUE));
        assert_eq!(postponement.step(call, || DUE), Step::Start);
        let call = forked(&postponement);
        let steps = steps(&postponement, call, EARLY);
        assert_eq!(u32::try_from(steps.len()).unwrap(), CALLS_PER_STEP * CHILD_STEPS);
        assert_eq!(steps.last(), Some(&Step::Start));
    }

    #[test]
    fn after_a_refusal_the_calls_end_without_another_attempt() {
        let postponement = Postponement::default();
        let call = postponement.begin_after_refusal(DUE);
        assert_eq!(steps(&postponement, call, EARLY).last(), Some(&Step::Nothing));
        let call = postponement.begin_after_refusal(DUE);
        assert_eq!(steps(&postponement, call, DUE), [Step::Start]);
    }

    #[test]
    fn a_call_of_an_earlier_postponement_does_nothing() {
        let postponement = Postponement::default();
        let earlier = forked(&postponement);
        let call = forked(&postponement);
        assert_eq!(postponement.step(earlier, || DUE), Step::Nothing);
        postponement.end();
        assert_eq!(postponement.step(call, || DUE), Step::Nothing);
        assert!(!postponement.is_pending());
    }

    #[test]
    fn a_collection_starts_what_is_due_once() {
        let postponement = Postponement::default();
        let unexpected = || unreachable!("not due");
        postponement.start_if_due(NEVER - 1, unexpected);
        assert_eq!(postponement.begin_after_fork(DUE, Some("subprocess")), None);
        postponement.start_if_due(9, unexpected);
        postponement.start_if_due(10, || false);
        assert!(postponement.is_pending());
        postponement.start_if_due(10, || true);
        postponement.start_if_due(10, unexpected);
        forked(&postponement);
        // The pending call finds it.
        postponement.start_if_due(10, unexpected);
    }
}
