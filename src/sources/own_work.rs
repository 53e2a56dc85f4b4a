//! What our own threads do, beside the CPU time that they use: how late they begin, how long they keep the interpreter,
//! what they leave out, and what fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::snapshot::OwnWorkFacts;

/// No tick has begun.
const NONE: u64 = u64::MAX;

/// Counters of one collector's lifetime.
#[derive(Debug)]
pub struct OwnWork {
    is_needed: AtomicBool,
    latest_tick: AtomicU64,
    in_interpreter: AtomicU64,
    skipped: AtomicU64,
    errors: AtomicU64,
}

impl Default for OwnWork {
    fn default() -> Self {
        Self {
            is_needed: AtomicBool::new(false),
            latest_tick: AtomicU64::new(NONE),
            in_interpreter: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }
}

impl OwnWork {
    /// Sets whether it is needed.
    pub fn need(&self, is_needed: bool) {
        self.is_needed.store(is_needed, Relaxed);
    }

    /// Whether it is.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.is_needed.load(Relaxed)
    }

    /// A tick of the schedule begins, so late.
    pub fn begin_tick(&self, late: Duration) {
        let late = nanoseconds(late);
        let _ = self.latest_tick.try_update(Relaxed, Relaxed, |latest| {
            Some(if latest == NONE { late } else { latest.max(late) })
        });
    }

    /// A thread of ours had the interpreter for so long.
    pub fn leave_interpreter(&self, after: Duration) {
        self.in_interpreter.fetch_add(nanoseconds(after), Relaxed);
    }

    /// A flush or a read is left out.
    pub fn skip(&self) {
        self.skipped.fetch_add(1, Relaxed);
    }

    /// Something failed.
    pub fn fail(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> OwnWorkFacts {
        self.facts(self.latest_tick.load(Relaxed))
    }

    /// The same, and forgets how late ticks were.
    #[must_use]
    pub fn drain(&self) -> OwnWorkFacts {
        self.facts(self.latest_tick.swap(NONE, Relaxed))
    }

    fn facts(&self, latest_tick: u64) -> OwnWorkFacts {
        OwnWorkFacts {
            latest_tick: (latest_tick != NONE).then(|| Duration::from_nanos(latest_tick)),
            in_interpreter: Duration::from_nanos(self.in_interpreter.load(Relaxed)),
            skipped: self.skipped.load(Relaxed),
            errors: self.errors.load(Relaxed),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NONE).min(NONE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_latest_tick_since_the_last_flush_counts() {
        let work = OwnWork::default();
        assert_eq!(work.drain().latest_tick, None);
        for late in [2 * MS, 7 * MS, MS] {
            work.begin_tick(late);
        }
        assert_eq!(work.read().latest_tick, Some(7 * MS));
        assert_eq!(work.drain().latest_tick, Some(7 * MS));
        assert_eq!(work.drain().latest_tick, None);
        work.begin_tick(Duration::ZERO);
        assert_eq!(work.drain().latest_tick, Some(Duration::ZERO));
    }

    #[test]
    fn the_rest_adds_up() {
        let work = OwnWork::default();
        work.leave_interpreter(MS);
        work.leave_interpreter(2 * MS);
        work.skip();
        work.fail();
        work.fail();
        let expected = OwnWorkFacts { latest_tick: None, in_interpreter: 3 * MS, skipped: 1, errors: 2 };
        assert_eq!((work.drain(), work.drain()), (expected, expected));
    }
}
