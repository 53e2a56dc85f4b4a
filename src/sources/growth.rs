//! By how much the memory of the process grows in a minute, while it grows steadily: over the last 15 to 30 minutes, as
//! the approach to a memory limit is found, but with no need of a limit.

use std::collections::VecDeque;
use std::time::Duration;

use super::trend::{self, MIN_POINTS, Point};
use crate::snapshot::Growth;

/// The time between two points, at least.
const PERIOD: Duration = Duration::from_mins(1);

/// How long a point is kept.
const WINDOW: Duration = Duration::from_mins(30);

/// What grows by less than this part of itself does not grow.
const MIN_GROWTH: f64 = 0.01;

/// The memory of the last half hour.
#[derive(Debug, Default)]
pub struct GrowthWatch {
    history: VecDeque<(Duration, Memory)>,
    growth: Growth,
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
    /// Observes the memory at `now`, if it is time for that.
    pub fn observe(&mut self, now: Duration, memory: Memory) {
        let index = |at: Duration| at.as_secs() / PERIOD.as_secs();
        if self.history.back().is_none_or(|(last, _)| index(*last) < index(now)) {
            self.history.retain(|(at, _)| now.saturating_sub(*at) <= WINDOW);
            self.history.push_back((now, memory));
            self.growth = Growth {
                anonymous: self.growth_of(|memory| memory.anonymous),
                blocks: self.growth_of(|memory| memory.blocks),
            };
        }
    }

    /// What was found.
    #[must_use]
    pub fn read(&self) -> Growth {
        self.growth
    }

    #[expect(clippy::cast_precision_loss, reason = "A trend needs no more precision.")]
    fn growth_of(&self, part: fn(&Memory) -> Option<u64>) -> Option<f64> {
        let minutes = |at: &Duration| at.as_secs_f64() / PERIOD.as_secs_f64();
        let points = self.history.iter().filter_map(|(at, memory)| Some((minutes(at), part(memory)? as f64)));
        let points: Vec<Point> = points.collect();
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
}
