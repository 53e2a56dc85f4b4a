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
    collected: AtomicU64,
    uncollectable: AtomicU64,
    pause: AtomicU64,
    longest_pause: AtomicU64,
    missed: AtomicBool,
    needs_objects: AtomicBool,
}

impl GcCounters {
    /// Counters at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            started: AtomicU64::new(IDLE),
            count: [const { AtomicU64::new(0) }; 3],
            collected: AtomicU64::new(0),
            uncollectable: AtomicU64::new(0),
            pause: AtomicU64::new(0),
            longest_pause: AtomicU64::new(0),
            missed: AtomicBool::new(false),
            needs_objects: AtomicBool::new(false),
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

    /// Sets whether the number of objects that collections find is needed.
    pub fn need_objects(&self, are_needed: bool) {
        self.needs_objects.store(are_needed, Relaxed);
    }

    /// Whether it is needed.
    pub fn needs_objects(&self) -> bool {
        self.needs_objects.load(Relaxed)
    }

    /// What the collection that ends now found: objects that could be freed, and those that could not.
    pub fn found(&self, collected: u64, uncollectable: u64) {
        self.collected.fetch_add(collected, Relaxed);
        self.uncollectable.fetch_add(uncollectable, Relaxed);
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

    /// Whether a collection is running.
    pub fn is_collecting(&self) -> bool {
        self.started.load(Relaxed) != IDLE
    }

    /// The counts so far.
    #[must_use]
    pub fn read(&self) -> Collections {
        Collections {
            count: self.count.each_ref().map(|count| count.load(Relaxed)),
            collected: self.collected.load(Relaxed),
            uncollectable: self.uncollectable.load(Relaxed),
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
        let expected =
            Collections { count: [1, 0, 1], pause: 290, longest_pause: 250, ..Collections::default() };
        assert_eq!(gc.read(), expected);
    }

    #[test]
    fn draining_resets_the_longest_pause_and_nothing_else() {
        let gc = GcCounters::new();
        gc.start(0);
        gc.stop(9, 1);
        assert_eq!(gc.drain().longest_pause, 9);
        assert_eq!(gc.drain(), Collections { count: [0, 1, 0], pause: 9, ..Collections::default() });
    }

    #[test]
    fn a_stop_without_a_start_is_ignored() {
        let gc = GcCounters::new();
        gc.stop(50, 0);
        gc.start(60);
        gc.stop(70, 0);
        gc.stop(80, 0);
        let expected =
            Collections { count: [1, 0, 0], pause: 10, longest_pause: 10, ..Collections::default() };
        assert_eq!(gc.read(), expected);
    }

    #[test]
    fn what_collections_found_adds_up() {
        let gc = GcCounters::new();
        gc.found(7, 0);
        gc.found(5, 2);
        let found = gc.drain();
        assert_eq!((found.collected, found.uncollectable), (12, 2));
        assert_eq!((gc.read().collected, gc.read().uncollectable), (12, 2));
    }

    #[test]
    fn an_unknown_generation_is_ignored() {
        let gc = GcCounters::new();
        gc.start(0);
        gc.stop(10, 3);
        assert_eq!(gc.read(), Collections::default());
    }
}
