//! The alarm that memory grows towards its limit, by its cause.

use super::metric::TaggedAlarm;
use crate::interval::Interval;
use crate::snapshot::{GrowthCause, LimitApproach};

/// The time that is left, for the cause that there is, and the most that is predicted for the others.
pub const TIME_TO_LIMIT: TaggedAlarm = TaggedAlarm {
    key: "cause",
    quiet: LimitApproach::MAX.as_secs(),
    values: &[
        ("python", |interval| seconds(interval, GrowthCause::Python)),
        ("fragmentation", |interval| seconds(interval, GrowthCause::Fragmentation)),
        ("mmap", |interval| seconds(interval, GrowthCause::Mmap)),
        ("native", |interval| seconds(interval, GrowthCause::Native)),
        ("other", |interval| seconds(interval, GrowthCause::Other)),
    ],
};

fn seconds(interval: &Interval, cause: GrowthCause) -> Option<u64> {
    let is_watched = interval.planned() <= LimitApproach::MAX_INTERVAL;
    interval.end().process.cgroup.memory.filter(|_| is_watched)?;
    let approach = interval.end().limit_approach.filter(|approach| approach.cause == cause);
    Some(approach.map_or(LimitApproach::MAX, |approach| approach.left).as_secs())
}
