//! Plain facts at one instant, one struct per source.
//!
//! Facts are cumulative where their source is: differences are taken in [`crate::interval`] alone.
//! `None` means "unknown here", never zero.

use std::time::Duration;

pub mod server;

use self::server::GunicornFacts;

/// All facts at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// When, on the collector's monotonic clock.
    pub at: Duration,
    /// What the process has used of the machine since it started.
    pub usage: Option<ResourceUsage>,
    /// The process as the operating system sees it now.
    pub process: ProcessFacts,
    /// The garbage collections counted by our callback; `None` if some may have gone uncounted.
    pub collections: Option<Collections>,
    /// What only the interpreter knows; `None` if it did not answer in time.
    pub interpreter: Option<InterpreterFacts>,
    /// What Gunicorn does in this process, if it runs here.
    pub gunicorn: GunicornFacts,
}

/// A source of facts, as a row of the catalogue names it: what no selected row needs is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPU time and context switches: [`Snapshot::usage`].
    ResourceUsage,
    /// Resident memory: [`ProcessFacts::resident`].
    Memory,
    /// Operating-system threads: [`ProcessFacts::threads`].
    Threads,
    /// Garbage collections: [`Snapshot::collections`].
    GcCallback,
    /// `gc.get_count()`: [`InterpreterFacts::gc_count`].
    GcCount,
    /// Gunicorn's log records and requests: [`Snapshot::gunicorn`].
    Gunicorn,
    /// Gunicorn's own objects: [`GunicornFacts::master`] and [`GunicornFacts::connections`].
    GunicornObjects,
}

/// A set of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSet(u64);

impl SourceSet {
    /// Whether the source is in the set.
    #[must_use]
    pub fn contains(self, source: Source) -> bool {
        self.0 & Self::bit(source) != 0
    }

    /// The set as bits, to be stored in an atomic.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The set of these [`bits`](Self::bits).
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn bit(source: Source) -> u64 {
        1 << source as u64
    }
}

impl FromIterator<Source> for SourceSet {
    fn from_iter<I: IntoIterator<Item = Source>>(sources: I) -> Self {
        Self(sources.into_iter().fold(0, |set, source| set | Self::bit(source)))
    }
}

/// What the process has used since it started: all its threads, also ended ones, not its children.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ResourceUsage {
    /// CPU time in user and kernel mode together.
    pub cpu: Duration,
    /// CPU time in user mode.
    pub user: Option<Duration>,
    /// CPU time in kernel mode.
    pub system: Option<Duration>,
    /// Times a thread gave up the CPU.
    pub voluntary_switches: Option<u64>,
    /// Times a thread was preempted.
    pub involuntary_switches: Option<u64>,
}

/// The process as the operating system sees it now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Resident set, in bytes.
    pub resident: Option<u64>,
    /// Operating-system threads.
    pub threads: Option<u64>,
}

/// Garbage collections since the callback was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Collections {
    /// Collections that ended, by generation.
    pub count: [u64; 3],
    /// Total pause, in nanoseconds.
    pub pause: u64,
    /// The longest pause since the last flush, in nanoseconds: not cumulative.
    pub longest_pause: u64,
}

/// What only the interpreter knows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InterpreterFacts {
    /// `gc.get_count()`.
    pub gc_count: Option<[u64; 3]>,
}
