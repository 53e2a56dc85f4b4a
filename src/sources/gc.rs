//! Garbage collections, counted as they happen by the callback that `src/python/gc_callback.rs` installs.
//!
//! The writer runs inside a collection, on whatever thread collects: it may neither allocate nor lock. There is one
//! writer at a time, since collections do not nest. Readers take differences and reset only the maximum.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::snapshot::Collections;

/// No collection is running.
const IDLE: u64 = u64::MAX;

/// Counters of one collector's lifetime. Times are nanoseconds on one monotonic clock.
#[derive(Debug)]
pub struct GcCounters {
    started: AtomicU64,
    count: [AtomicU64; 3],
    pause: AtomicU64,
    longest_pause: AtomicU64,
    missed: AtomicBool,
}

impl GcCounters {
    /// Counters at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            started: AtomicU64::new(IDLE),
            count: [const { AtomicU64::new(0) }; 3],
            pause: AtomicU64::new(0),
            longest_pause: AtomicU64::new(0),
            missed: AtomicBool::new(false),
        }
    }

    /// A collection begins.
    pub fn start(&self, now: u64) {
        self.started.store(now, Relaxed);
    }

    /// The collection ends. Without a start, or of an unknown generation, it is ignored.
    pub fn stop(&self, now: u64, generation: usize) {
        let started = self.started.swap(IDLE, Relaxed);
        let Some(count) = self.count.get(generation) else {
            return;
        };
        if started == IDLE {
            return;
        }
        let pause = now.saturating_sub(started);
        count.fetch_add(1, Relaxed);
        self.pause.fetch_add(pause, Relaxed);
        self.longest_pause.fetch_max(pause, Relaxed);
    }

    /// The callback was missing for some time: collections may have gone uncounted.
    pub fn mark_missed(&self) {
        self.missed.store(true, Relaxed);
    }

    /// Whether collections may have gone uncounted since [`take_missed`](Self::take_missed).
    pub fn has_missed(&self) -> bool {
        self.missed.load(Relaxed)
    }

    /// Whether collections may have gone uncounted since the last call.
    pub fn take_missed(&self) -> bool {
        self.missed.swap(false, Relaxed)
    }

    /// Discards the start of a collection that will not end here.
    pub fn discard_start(&self) {
        self.started.store(IDLE, Relaxed);
    }

    /// The counts so far.
    #[must_use]
    pub fn read(&self) -> Collections {
        Collections {
            count: self.count.each_ref().map(|count| count.load(Relaxed)),
            pause: self.pause.load(Relaxed),
            longest_pause: self.longest_pause.load(Relaxed),
        }
    }

    /// The counts so far; the longest pause starts again at 0.
    pub fn drain(&self) -> Collections {
        Collections { longest_pause: self.longest_pause.swap(0, Relaxed), ..self.read() }
    }
}

impl Default for GcCounters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_counted_when_it_ends() {
        let gc = GcCounters::new();
        gc.start(100);
        assert_eq!(gc.read(), Collections::default());
        gc.stop(350, 2);
        gc.start(1_000);
        gc.stop(1_040, 0);
        assert_eq!(gc.read(), Collections { count: [1, 0, 1], pause: 290, longest_pause: 250 });
    }

    #[test]
    fn draining_resets_the_longest_pause_and_nothing_else() {
        let gc = GcCounters::new();
        gc.start(0);
        gc.stop(9, 1);
        assert_eq!(gc.drain().longest_pause, 9);
        assert_eq!(gc.drain(), Collections { count: [0, 1, 0], pause: 9, longest_pause: 0 });
    }

    #[test]
    fn a_stop_without_a_start_is_ignored() {
        let gc = GcCounters::new();
        gc.stop(50, 0);
        gc.start(60);
        gc.stop(70, 0);
        gc.stop(80, 0);
        assert_eq!(gc.read(), Collections { count: [1, 0, 0], pause: 10, longest_pause: 10 });
    }

    #[test]
    fn an_unknown_generation_is_ignored() {
        let gc = GcCounters::new();
        gc.start(0);
        gc.stop(10, 3);
        assert_eq!(gc.read(), Collections::default());
    }
}
