//! By how much the memory of the process grows in a minute, while it grows steadily: over the last 15 to 30 minutes, as
//! the approach to a memory limit is found, but with no need of a limit.

use std::collections::VecDeque;
use std::time::Duration;

use super::trend::{self, MIN_POINTS, Point};
use crate::snapshot::Growth;

/// The time between two points, at least: about a minute, as a flush may come a moment early.
const PERIOD: Duration = Duration::from_secs(55);

/// What growth is given for.
const MINUTE: Duration = Duration::from_mins(1);

/// How long a point is kept.
const WINDOW: Duration = Duration::from_mins(30);

/// What grows by less than this part of itself does not grow.
const MIN_GROWTH: f64 = 0.01;

/// The memory of the last half hour. Each kind has points of its own, as blocks are not counted at every flush.
#[derive(Debug, Default)]
pub struct GrowthWatch {
    anonymous: Series,
    blocks: Series,
}

/// One kind of memory.
#[derive(Debug, Default)]
struct Series {
    history: VecDeque<(Duration, u64)>,
    growth: Option<f64>,
}

/// The memory of the process at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What belongs to no file, in bytes.
    pub anonymous: Option<u64>,
    /// Blocks of Python's allocator, where they were counted.
    pub blocks: Option<u64>,
}

impl GrowthWatch {
    /// Observes the memory at `now`.
    pub fn observe(&mut self, now: Duration, memory: Memory) {
        self.anonymous.observe(now, memory.anonymous);
        self.blocks.observe(now, memory.blocks);
    }

    /// What was found.
    #[must_use]
    pub fn read(&self) -> Growth {
        Growth { anonymous: self.anonymous.growth, blocks: self.blocks.growth }
    }
}

impl Series {
    /// Adds a point if it is known and it is time for one.
    fn observe(&mut self, now: Duration, value: Option<u64>) {
        let before = self.history.len();
        self.history.retain(|(at, _)| now.saturating_sub(*at) <= WINDOW);
        let is_due = self.history.back().is_none_or(|(last, _)| now.saturating_sub(*last) >= PERIOD);
        match value.filter(|_| is_due) {
            Some(value) => self.history.push_back((now, value)),
            None if self.history.len() == before => return,
            None => {}
        }
        self.growth = self.find_growth();
    }

    #[expect(clippy::cast_precision_loss, reason = "A trend needs no more precision.")]
    fn find_growth(&self) -> Option<f64> {
        let minutes = |at: &Duration| at.as_secs_f64() / MINUTE.as_secs_f64();
        let points: Vec<Point> =
            self.history.iter().map(|(at, value)| (minutes(at), *value as f64)).collect();
        let (_, last) = points.last().filter(|_| points.len() >= MIN_POINTS)?;
        Some(trend::growth(&points, MIN_GROWTH * last).unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// What is found after so many minutes of this memory, which is looked at three times a minute.
    fn after(minutes: u64, memory: impl Fn(u64) -> Memory) -> Growth {
        let mut watch = GrowthWatch::default();
        for tick in 0..3 * minutes {
            watch.observe(Duration::from_secs(20 * tick), memory(tick / 3));
        }
        watch.read()
    }

    fn bytes(anonymous: u64) -> Memory {
        Memory { anonymous: Some(anonymous), blocks: None }
    }

    #[test]
    fn a_leak_grows_by_what_it_leaks_in_a_minute() {
        let growth = after(20, |minute| Memory {
            anonymous: Some((100 + 2 * minute) * MB),
            blocks: Some(50_000 + 1000 * minute),
        });
        let about = |found: Option<f64>, expected: f64| (found.unwrap() / expected - 1.0).abs() < 0.01;
        assert!(about(growth.anonymous, 2.0 * 1_048_576.0) && about(growth.blocks, 1000.0), "{growth:?}");
    }

    #[test]
    fn what_falls_stays_levels_off_or_goes_up_and_down_does_not_grow() {
        for memory in [
            |minute| bytes((500 - minute) * MB),
            |_| bytes(500 * MB),
            |minute| bytes((500 + 100 * u64::from(minute > 7)) * MB),
            |minute: u64| bytes((500 + 20 * (minute % 5)) * MB),
        ] {
            assert_eq!(after(25, memory).anonymous, Some(0.0));
        }
    }

    #[test]
    fn before_fifteen_points_nothing_is_known_nor_of_blocks_that_are_not_counted() {
        let leak = |minute| bytes((100 + 2 * minute) * MB);
        assert_eq!(after(14, leak), Growth::default());
        let growth = after(15, leak);
        assert!(growth.anonymous > Some(0.0) && growth.blocks.is_none());
    }

    #[test]
    fn what_was_half_an_hour_ago_does_not_matter() {
        let growth = after(70, |minute| bytes((100 + 2 * minute.min(35)) * MB));
        assert_eq!(growth.anonymous, Some(0.0));
    }

    #[test]
    fn blocks_that_are_counted_at_few_flushes_are_known_all_the_same_until_none_are() {
        let mut watch = GrowthWatch::default();
        let mut observe = |tick: u64, is_counted: bool| {
            let blocks = is_counted.then_some(50_000 + 1000 * tick);
            watch.observe(Duration::from_secs(10 * tick), Memory { anonymous: Some(500 * MB), blocks });
            watch.read().blocks
        };
        // Every 70 s, so that other flushes are the first of most minutes.
        let growth: Vec<_> = (0..200).map(|tick| observe(tick, tick % 7 == 3)).collect();
        assert_eq!(growth.iter().position(Option::is_some), Some(3 + 14 * 7));
        assert!((growth[199].unwrap() / 6000.0 - 1.0).abs() < 0.01, "{:?}", growth[199]);
        let later: Vec<_> = (200..400).map(|tick| observe(tick, false)).collect();
        assert!(later[0].is_some() && later[199].is_none());
    }
}
