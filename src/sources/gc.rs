//! Garbage collections, counted as they happen by the callback that `src/python/gc_callback.rs` installs.
//!
//! The writer runs inside a collection, on whatever thread collects: it may neither allocate nor lock. There is one
//! writer at a time, since collections do not nest. Readers take differences and reset only the maximum.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::event_loops::lengths::{BUCKETS, bucket_of, middle_of};
use crate::snapshot::{Collections, Source, SourceSet};

/// No collection is running.
const IDLE: u64 = u64::MAX;

/// Whether collections are explicit is not known.
const UNKNOWN: u64 = u64::MAX;

/// Counters of one collector's lifetime. Times are nanoseconds on one monotonic clock.
#[derive(Debug)]
pub struct GcCounters {
    started: AtomicU64,
    count: [AtomicU64; 3],
    collected: AtomicU64,
    uncollectable: AtomicU64,
    explicit: AtomicU64,
    pause: [AtomicU64; 3],
    longest_pause: [AtomicU64; 3],
    /// How many pauses since the last flush were about so long, where that is needed.
    pauses: [AtomicU32; BUCKETS],
    missed: AtomicBool,
    /// The sources that the selected rows need, as bits.
    needs: AtomicU64,
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
            explicit: AtomicU64::new(UNKNOWN),
            pause: [const { AtomicU64::new(0) }; 3],
            longest_pause: [const { AtomicU64::new(0) }; 3],
            pauses: [const { AtomicU32::new(0) }; BUCKETS],
            missed: AtomicBool::new(false),
            needs: AtomicU64::new(0),
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
        self.pause[generation].fetch_add(pause, Relaxed);
        self.longest_pause[generation].fetch_max(pause, Relaxed);
        if self.needs(Source::GcPauses) {
            self.pauses[bucket_of(pause)].fetch_add(1, Relaxed);
        }
    }

    /// Sets what is needed beside counts and pauses.
    pub fn need(&self, needed: SourceSet) {
        if needed.contains(Source::GcPauses) && !self.needs(Source::GcPauses) {
            // Those of a time at which they were needed before.
            self.pauses.iter().for_each(|count| count.store(0, Relaxed));
        }
        self.needs.store(needed.bits(), Relaxed);
    }

    /// Whether that source is needed.
    pub fn needs(&self, source: Source) -> bool {
        SourceSet::from_bits(self.needs.load(Relaxed)).contains(source)
    }

    /// From now on it is known which collections are explicit.
    pub fn begin_explicit(&self) {
        let _ = self.explicit.compare_exchange(UNKNOWN, 0, Relaxed, Relaxed);
    }

    /// The collection that begins now is explicit.
    pub fn add_explicit(&self) {
        self.explicit.fetch_add(1, Relaxed);
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
        self.collections(|of_generation| of_generation.load(Relaxed), |pauses| pauses.load(Relaxed))
    }

    /// The counts so far; what is said of the pauses since the last flush starts again.
    pub fn drain(&self) -> Collections {
        self.collections(|of_generation| of_generation.swap(0, Relaxed), |pauses| pauses.swap(0, Relaxed))
    }

    fn collections(
        &self,
        longest_pause: impl FnMut(&AtomicU64) -> u64,
        pauses: impl FnMut(&AtomicU32) -> u32,
    ) -> Collections {
        let longest_pause = self.longest_pause.each_ref().map(longest_pause);
        let pauses = self.needs(Source::GcPauses).then(|| self.pauses.each_ref().map(pauses));
        let longest = longest_pause.into_iter().max().unwrap_or(0);
        let explicit = self.explicit.load(Relaxed);
        Collections {
            count: self.count.each_ref().map(|count| count.load(Relaxed)),
            collected: self.collected.load(Relaxed),
            uncollectable: self.uncollectable.load(Relaxed),
            pause: self.pause.each_ref().map(|pause| pause.load(Relaxed)),
            longest_pause,
            pause_p95: pauses.and_then(|pauses| p95(&pauses)).map(|pause| pause.min(longest)),
            explicit: (explicit != UNKNOWN).then_some(explicit),
        }
    }
}

/// The nearest rank, to within half of the bucket that it is in.
fn p95(pauses: &[u32; BUCKETS]) -> Option<u64> {
    let all: u64 = pauses.iter().map(|count| u64::from(*count)).sum();
    let rank = (all * 95).div_ceil(100);
    let mut seen = 0;
    let bucket = pauses.iter().position(|count| {
        seen += u64::from(*count);
        seen >= rank
    });
    bucket.filter(|_| all > 0).map(middle_of)
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
        let expected = Collections {
            count: [1, 0, 1],
            pause: [40, 0, 250],
            longest_pause: [40, 0, 250],
            ..Collections::default()
        };
        assert_eq!(gc.read(), expected);
    }

    #[test]
    fn draining_resets_the_longest_pause_and_nothing_else() {
        let gc = GcCounters::new();
        gc.start(0);
        gc.stop(9, 1);
        assert_eq!(gc.drain().longest_pause, [0, 9, 0]);
        assert_eq!(gc.drain(), Collections { count: [0, 1, 0], pause: [0, 9, 0], ..Collections::default() });
    }

    #[test]
    fn a_stop_without_a_start_is_ignored() {
        let gc = GcCounters::new();
        gc.stop(50, 0);
        gc.start(60);
        gc.stop(70, 0);
        gc.stop(80, 0);
        let expected = Collections {
            count: [1, 0, 0],
            pause: [10, 0, 0],
            longest_pause: [10, 0, 0],
            ..Collections::default()
        };
        assert_eq!(gc.read(), expected);
    }

    #[test]
    fn of_a_hundred_pauses_ninety_five_are_no_longer() {
        const MS: u64 = 1_000_000;
        let gc = GcCounters::new();
        let pause = |length| {
            gc.start(0);
            gc.stop(length, 0);
        };
        pause(MS);
        assert_eq!(gc.drain().pause_p95, None, "it is not needed");
        gc.need([Source::GcPauses].into_iter().collect());
        assert_eq!(gc.drain().pause_p95, None);
        (1..=100).for_each(|length| pause(length * MS));
        let p95 = gc.read().pause_p95.unwrap();
        assert!(p95.abs_diff(95 * MS) <= 3 * MS, "{p95}");
        assert_eq!(gc.drain().pause_p95, Some(p95));
        pause(5);
        assert_eq!(gc.drain().pause_p95, Some(5));
        pause(1 << 40);
        assert!(gc.drain().pause_p95.unwrap() > 1 << 35);
        assert_eq!(gc.drain().pause_p95, None);
        pause(MS);
        for needed in [SourceSet::default(), [Source::GcPauses].into_iter().collect()] {
            gc.need(needed);
        }
        assert_eq!(gc.drain().pause_p95, None, "it was not needed since");
    }

    #[test]
    fn explicit_collections_are_unknown_until_they_can_be_told() {
        let gc = GcCounters::new();
        assert_eq!(gc.read().explicit, None);
        gc.begin_explicit();
        assert_eq!(gc.drain().explicit, Some(0));
        gc.add_explicit();
        gc.begin_explicit();
        assert_eq!(gc.drain().explicit, Some(1));
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
