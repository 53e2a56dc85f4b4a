//! Exceptions that nothing handles, counted as they happen by the hooks that `src/python/exception_hooks.rs` installs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::snapshot::Uncaught;

/// Counters of one collector's lifetime.
#[derive(Debug, Default)]
pub struct UncaughtCounters([Counter; Uncaught::ALL.len()]);

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    is_watched: AtomicBool,
}

impl UncaughtCounters {
    /// One more exception.
    pub fn count(&self, place: Uncaught) {
        self.0[place as usize].count.fetch_add(1, Relaxed);
    }

    /// Sets whether such exceptions are counted. From when they are, they are counted from zero.
    pub fn watch(&self, place: Uncaught, is_watched: bool) {
        let counter = &self.0[place as usize];
        if is_watched && !counter.is_watched.load(Relaxed) {
            counter.count.store(0, Relaxed);
        }
        counter.is_watched.store(is_watched, Relaxed);
    }

    /// The counts so far; `None` where nothing counts.
    #[must_use]
    pub fn read(&self) -> [Option<u64>; Uncaught::ALL.len()] {
        self.0.each_ref().map(|counter| counter.is_watched.load(Relaxed).then(|| counter.count.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_watches_is_unknown_and_counts_from_zero_once_something_does() {
        let counters = UncaughtCounters::default();
        counters.count(Uncaught::Thread);
        assert_eq!(counters.read(), [None; 4]);
        counters.watch(Uncaught::Thread, true);
        assert_eq!(counters.read(), [None, Some(0), None, None]);
        counters.count(Uncaught::Thread);
        counters.watch(Uncaught::Thread, true);
        assert_eq!(counters.read(), [None, Some(1), None, None]);
        counters.watch(Uncaught::Thread, false);
        assert_eq!(counters.read(), [None; 4]);
    }
}
