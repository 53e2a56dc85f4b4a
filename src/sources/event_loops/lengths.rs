//! Lengths of time in a histogram whose buckets hold their number and their sum, and the delay that they mean for a
//! callback.
//!
//! The sums make all but one bucket exact in what is computed of them, so that the result is off by less than that
//! bucket is wide: 6 % at most.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is shorter is in the first bucket: 2^10 nanoseconds.
const MIN_BITS: u32 = 10;

/// What is longer is in the last bucket: 2^36 nanoseconds, 68 seconds.
const MAX_BITS: u32 = 36;

/// Each power of two has 2^4 buckets.
const PART_BITS: u32 = 4;

/// How many buckets there are.
pub const BUCKETS: usize = (((MAX_BITS - MIN_BITS) as usize) << PART_BITS) + 2;

/// A delay that is exceeded by no more than this share is the 95th percentile.
const EXCEEDING: f64 = 0.05;

/// Lengths of time, in nanoseconds, that one thread adds to and others read.
#[derive(Debug)]
pub struct Lengths([Bucket; BUCKETS]);

/// The lengths of one bucket. They only grow.
#[derive(Debug, Default)]
struct Bucket {
    count: AtomicU64,
    sum: AtomicU64,
}

/// The lengths of one bucket at an instant, or those that were added in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// How many there are.
    pub count: u64,
    /// Their sum, in nanoseconds.
    pub sum: u64,
}

/// The lengths at an instant.
#[derive(Debug)]
pub struct Totals([Group; BUCKETS]);

impl Lengths {
    /// No lengths yet.
    #[must_use]
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Bucket::default()))
    }

    /// Adds a length. Only one thread does.
    pub fn add(&self, length: u64) {
        let bucket = &self.0[bucket_of(length)];
        // Without the cost of a read-modify-write operation, which several writers would need. A reader may see one of
        // the two without the other, which then is in its next interval.
        bucket.count.store(bucket.count.load(Relaxed) + 1, Relaxed);
        bucket.sum.store(bucket.sum.load(Relaxed).saturating_add(length), Relaxed);
    }

    /// The lengths that were added since `before`.
    pub fn since<'a>(&'a self, before: &'a Totals) -> impl Iterator<Item = Group> + 'a {
        self.0.iter().zip(&before.0).filter_map(|(bucket, before)| {
            let count = bucket.count.load(Relaxed).saturating_sub(before.count);
            let sum = bucket.sum.load(Relaxed).saturating_sub(before.sum);
            (count > 0).then_some(Group { count, sum })
        })
    }

    /// The same; `before` becomes the lengths so far. Each bucket is read once, so that what is added meanwhile is in
    /// this interval or in the next.
    pub fn take_since<'a>(&'a self, before: &'a mut Totals) -> impl Iterator<Item = Group> + 'a {
        self.0.iter().zip(&mut before.0).filter_map(|(bucket, before)| {
            let total = Group { count: bucket.count.load(Relaxed), sum: bucket.sum.load(Relaxed) };
            let last = std::mem::replace(before, total);
            let (count, sum) = (total.count.saturating_sub(last.count), total.sum.saturating_sub(last.sum));
            (count > 0).then_some(Group { count, sum })
        })
    }
}

impl Totals {
    /// No lengths.
    #[must_use]
    pub fn new() -> Self {
        Self([Group::default(); BUCKETS])
    }
}

/// The bucket of a length.
#[must_use]
pub fn bucket_of(length: u64) -> usize {
    if length < 1 << MIN_BITS {
        return 0;
    }
    let bits = length.ilog2();
    if bits >= MAX_BITS {
        return BUCKETS - 1;
    }
    // The bits that follow the highest.
    let part = (length >> (bits - PART_BITS)) & ((1 << PART_BITS) - 1);
    1 + (((bits - MIN_BITS) as usize) << PART_BITS) + usize::try_from(part).unwrap_or(0)
}

/// The length in the middle of a bucket.
#[must_use]
pub fn middle_of(bucket: usize) -> u64 {
    let Some(at) = bucket.checked_sub(1) else { return 1 << (MIN_BITS - 1) };
    let width = 1 << (at >> PART_BITS) << (MIN_BITS - PART_BITS);
    let parts = (1 << PART_BITS) + (at & ((1 << PART_BITS) - 1)) as u64;
    parts * width + width / 2
}

/// What is known of how long callbacks wait: a part of the time that was observed.
#[derive(Clone, Copy, Debug)]
pub enum Evidence {
    /// Iterations of a loop: what becomes ready within one waits for its end.
    Iterations(Group),
    /// Delays themselves, each of which stands for so much time, in nanoseconds.
    Delays {
        /// The delays.
        group: Group,
        /// The time that each stands for.
        weight: f64,
    },
}

impl Evidence {
    /// In how much of the time a callback that becomes ready waits longer than `delay`.
    #[expect(clippy::cast_precision_loss, reason = "A percentile needs no more precision.")]
    fn exceeding(&self, delay: f64) -> f64 {
        match *self {
            Self::Iterations(Group { count, sum }) => (sum as f64 - count as f64 * delay).max(0.0),
            Self::Delays { group: Group { count, sum }, weight } => {
                if sum as f64 > count as f64 * delay {
                    count as f64 * weight
                } else {
                    0.0
                }
            }
        }
    }

    fn longest(&self) -> u64 {
        let (Self::Iterations(group) | Self::Delays { group, .. }) = self;
        group.sum.div_ceil(group.count.max(1))
    }
}

/// How long a callback waits that becomes ready at a random moment of the time that was observed, in nanoseconds: in 95
/// of 100 cases no longer than this.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "A percentile needs no more precision.")]
pub fn percentile(evidence: &[Evidence], observed: u64) -> u64 {
    let allowed = EXCEEDING * observed as f64;
    let is_allowed =
        |delay: u64| evidence.iter().map(|part| part.exceeding(delay as f64)).sum::<f64>() <= allowed;
    let (mut least, mut most) = (0, evidence.iter().map(Evidence::longest).max().unwrap_or(0));
    while least < most {
        let middle = least + (most - least) / 2;
        if is_allowed(middle) { most = middle } else { least = middle + 1 }
    }
    least
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn evidence(lengths: &[u64]) -> Vec<Evidence> {
        let all = Lengths::new();
        for length in lengths {
            all.add(*length);
        }
        all.since(&Totals::new()).map(Evidence::Iterations).collect()
    }

    /// By the definition: the delay that is exceeded in 5 % of the time.
    #[expect(clippy::cast_precision_loss, reason = "They are small.")]
    fn exact(lengths: &[u64], observed: u64) -> f64 {
        let allowed = 0.05 * observed as f64;
        let exceeding =
            |delay: f64| lengths.iter().map(|length| (*length as f64 - delay).max(0.0)).sum::<f64>();
        let (mut least, mut most) = (0.0, *lengths.iter().max().unwrap() as f64);
        if exceeding(0.0) <= allowed {
            return 0.0;
        }
        for _ in 0..100 {
            let middle = f64::midpoint(least, most);
            if exceeding(middle) <= allowed { most = middle } else { least = middle }
        }
        most
    }

    #[test]
    fn the_middle_of_a_bucket_is_near_every_length_in_it() {
        for length in (1..36).flat_map(|bits| [1 << bits, (1 << bits) + 1, 3 << (bits - 1), (1 << bits) - 1])
        {
            let middle = middle_of(bucket_of(length));
            let off = middle.abs_diff(length);
            assert!(length < 1 << MIN_BITS || off * 32 <= length + 32, "{length}: {middle}");
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap_and_are_no_wider_than_stated() {
        let mut length = 1_u64 << MIN_BITS;
        let mut before = 0;
        while length < 1 << MAX_BITS {
            let (bucket, width) = (bucket_of(length), 1 << (length.ilog2() - PART_BITS));
            assert_eq!((bucket, bucket_of(length + width - 1)), (before + 1, bucket), "{length}");
            assert!(width * 16 <= length);
            (before, length) = (bucket, length + width);
        }
        assert_eq!([bucket_of(0), bucket_of((1 << MIN_BITS) - 1)], [0, 0]);
        assert_eq!([bucket_of(length), bucket_of(u64::MAX), before + 1], [BUCKETS - 1; 3]);
    }

    #[test]
    fn one_block_of_a_tenth_of_the_time_delays_by_half_of_itself() {
        // A tenth of the callbacks wait; half of those wait for more than half of it.
        assert_eq!(percentile(&evidence(&[100 * MS]), 1000 * MS), 50 * MS);
    }

    #[test]
    fn a_loop_that_is_idle_for_97_percent_of_the_time_delays_nothing() {
        assert_eq!(percentile(&evidence(&[10 * MS, 20 * MS]), 1000 * MS), 0);
        assert!(percentile(&evidence(&[26 * MS, 26 * MS]), 1000 * MS) > 0);
        assert_eq!(percentile(&[], 1000 * MS), 0);
    }

    #[test]
    fn of_delays_themselves_it_is_the_nearest_rank() {
        let (lengths, before) = (Lengths::new(), Totals::new());
        (1..=100).for_each(|delay| lengths.add(delay * MS));
        let delays = lengths.since(&before).map(|group| Evidence::Delays { group, weight: 10.0 });
        let found = percentile(&delays.collect::<Vec<_>>(), 1000);
        assert!(found.abs_diff(95 * MS) <= 95 * MS / 16, "{found}");
    }

    #[test]
    fn only_what_was_added_since_is_in_an_interval() {
        let (lengths, mut before) = (Lengths::new(), Totals::new());
        lengths.add(5 * MS);
        assert_eq!(lengths.take_since(&mut before).count(), 1);
        assert_eq!(lengths.since(&before).count(), 0);
        lengths.add(5 * MS);
        let groups: Vec<_> = lengths.since(&before).collect();
        assert_eq!(groups, [Group { count: 1, sum: 5 * MS }]);
    }

    proptest! {
        #[test]
        fn it_is_the_exact_percentile_to_within_a_bucket(
            lengths in prop::collection::vec(1_000_u64..20_000_000_000, 1..200),
            idle in 0_u64..100_000_000_000
        ) {
            let observed = lengths.iter().sum::<u64>() + idle;
            let (exact, found) = (exact(&lengths, observed), percentile(&evidence(&lengths), observed));
            #[expect(clippy::cast_precision_loss, reason = "They are small.")]
            let error = (found as f64 - exact).abs();
            prop_assert!(error <= exact / 16.0 + 1_024.0, "{found} instead of {exact}");
        }
    }
}
