//! Whether the memory of the container grows towards its limit, when it will get there, and whose memory that is.
//!
//! The series is one of the container. Whose memory has grown is decided for this process alone, by its parts at the
//! beginning of the series, which each point keeps as they cost nothing then, and by its parts now. What `malloc` has
//! free would cost too much to be read all the time: it is read once the limit is approached, and counts as grown.

use std::collections::VecDeque;
use std::time::Duration;

use super::malloc::Malloc;
use super::python_blocks::PythonBlocks;
use super::trend::{self, Point};
use crate::snapshot::{GrowthCause, LimitApproach, LimitedMemory, MemoryParts, Withheld};

/// The time between two points, at least.
const PERIOD: Duration = Duration::from_mins(1);

/// How long a point is kept.
const WINDOW: Duration = Duration::from_mins(30);

/// The container grows if it does so by one part in so many of its limit while it is watched.
const MIN_GROWTH: f64 = 0.01;

/// How often it is looked again whose memory it is.
const CAUSE_PERIOD: Duration = Duration::from_mins(10);

/// Python's allocator leaves what is larger to `malloc`.
const MAX_BLOCK: u64 = 512;

/// A process that has grown by less than one part in so many of what the container has is not its cause.
const MIN_SHARE: u64 = 20;

/// Memory of this process, in bytes, and blocks of Python's allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Memory that belongs to no file.
    pub anonymous: Option<u64>,
    /// Mapped files and shared memory.
    pub mapped: Option<u64>,
    /// Blocks, where they were counted.
    pub blocks: Option<u64>,
}

impl Parts {
    /// Of this memory and so many blocks.
    #[must_use]
    pub fn of(memory: &MemoryParts, blocks: Option<u64>) -> Self {
        let mapped = memory.file.map(|file| file + memory.shared.unwrap_or(0));
        Self { anonymous: memory.anonymous, mapped, blocks }
    }
}

/// The memory of the container in the last half hour.
#[derive(Debug)]
pub struct LimitWatch {
    limit: u64,
    history: VecDeque<Observed>,
    /// Bytes per second, while they grow steadily.
    growth: Option<f64>,
    /// Whose memory it is, and when that was decided.
    cause: Option<(Duration, GrowthCause)>,
    /// Blocks were asked for, to decide it.
    has_asked: bool,
    /// Blocks as they were counted last, for points at which they are not.
    last_blocks: Option<u64>,
    malloc: Malloc,
}

#[derive(Clone, Copy, Debug)]
struct Observed {
    at: Duration,
    used: u64,
    parts: Parts,
}

impl LimitWatch {
    /// Nothing has been observed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            limit: 0,
            history: VecDeque::new(),
            growth: None,
            cause: None,
            has_asked: false,
            last_blocks: None,
            malloc: Malloc::new(),
        }
    }

    /// Observes the memory of the container and of this process at `now`, if it is time for that.
    pub fn observe(
        &mut self,
        now: Duration,
        memory: Option<LimitedMemory>,
        parts: Parts,
        blocks: &PythonBlocks,
    ) {
        let Some(memory) = memory else {
            self.forget(0);
            return;
        };
        // Another limit, mostly that of another group.
        if memory.limit != self.limit {
            self.forget(memory.limit);
        }
        let observed = Observed { at: now, used: memory.working_set, parts };
        self.last_blocks = parts.blocks.or(self.last_blocks);
        // A tick that comes a moment early or late does not shift those after it.
        let index = |at: Duration| at.as_secs() / PERIOD.as_secs();
        if self.history.back().is_none_or(|last| index(last.at) < index(now)) {
            self.history.retain(|earlier| now.saturating_sub(earlier.at) <= WINDOW);
            let blocks = parts.blocks.or(self.last_blocks);
            self.history.push_back(Observed { parts: Parts { blocks, ..parts }, ..observed });
            self.growth = self.steady_growth();
        }
        if self.left(memory).is_some() {
            self.find_cause(observed, blocks);
        } else {
            self.cause = None;
            self.has_asked = false;
        }
    }

    /// When the limit will be reached, and why; `None` unless memory grows steadily towards it.
    #[must_use]
    pub fn read(&self, memory: Option<LimitedMemory>) -> Option<LimitApproach> {
        let (_, cause) = self.cause?;
        Some(LimitApproach { left: self.left(memory?)?, cause })
    }

    /// The read that is not made any more as it costs too much, and what the last one cost, once.
    #[must_use]
    pub fn take_given_up(&self) -> Option<(&'static str, Duration)> {
        self.malloc.take_given_up()
    }

    fn forget(&mut self, limit: u64) {
        self.limit = limit;
        self.history.clear();
        self.growth = None;
        self.cause = None;
        self.has_asked = false;
        self.last_blocks = None;
    }

    #[expect(clippy::cast_precision_loss, reason = "A trend needs no more precision.")]
    fn steady_growth(&self) -> Option<f64> {
        let points: Vec<Point> =
            self.history.iter().map(|observed| (observed.at.as_secs_f64(), observed.used as f64)).collect();
        trend::growth(&points, MIN_GROWTH * self.limit as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "A prediction needs no more precision.")]
    fn left(&self, memory: LimitedMemory) -> Option<Duration> {
        let headroom = memory.limit.saturating_sub(memory.working_set);
        let left = Duration::try_from_secs_f64(headroom as f64 / self.growth?).ok()?;
        (left < LimitApproach::MAX).then_some(left)
    }

    fn find_cause(&mut self, now: Observed, blocks: &PythonBlocks) {
        let since = |then| now.at.saturating_sub(then);
        if self.cause.is_some_and(|(found, _)| since(found) < CAUSE_PERIOD) {
            return;
        }
        // Once they are counted, at the next flush, it is decided, or then without them.
        let may_come = !matches!(blocks.withheld(now.at), Some(Withheld::GivenUp { .. }));
        if now.parts.blocks.is_none() && may_come && !self.has_asked {
            self.has_asked = true;
            blocks.demand();
            return;
        }
        self.has_asked = false;
        let has_blocks = |observed: &&Observed| observed.parts.blocks.is_some();
        let first = self.history.iter().find(has_blocks).or(self.history.front());
        self.cause = first.map(|first| (now.at, cause(first, &now, || self.malloc.free(now.at))));
    }
}

/// Whose memory has grown. The first that makes up most of the growth of this process is its cause.
fn cause(first: &Observed, now: &Observed, free: impl FnOnce() -> Option<u64>) -> GrowthCause {
    let grown = |part: fn(&Parts) -> Option<u64>| {
        part(&now.parts).zip(part(&first.parts)).map_or(0, |(now, first)| now.saturating_sub(first))
    };
    let (anonymous, mapped) = (grown(|parts| parts.anonymous), grown(|parts| parts.mapped));
    let own = anonymous + mapped;
    let of_container = now.used.saturating_sub(first.used);
    if own == 0 || own.saturating_mul(MIN_SHARE) < of_container {
        return GrowthCause::Other;
    }
    let is_most = |part: u64| part.saturating_mul(2) >= own;
    // Nothing says how large the new blocks are: as large as those that there are on average.
    let size = now.parts.anonymous.zip(now.parts.blocks.filter(|blocks| *blocks > 0));
    let size = size.map_or(0, |(bytes, blocks)| (bytes / blocks).min(MAX_BLOCK));
    let python = grown(|parts| parts.blocks).saturating_mul(size);
    if is_most(python.min(anonymous)) {
        GrowthCause::Python
    } else if is_most(mapped) {
        // Then it is not that of malloc, which need not be asked.
        GrowthCause::Mmap
    } else if free().is_some_and(|free| free >= anonymous) {
        // Some of it may be older: only if it could be all of the growth.
        GrowthCause::Fragmentation
    } else {
        GrowthCause::Native
    }
}
