//! Plain facts at one instant, one struct per source.
//!
//! Facts are cumulative where their source is: differences are taken in [`crate::interval`] alone.
//! `None` means "unknown here", never zero.

use std::time::Duration;

/// All facts at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// When, on the collector's monotonic clock.
    pub at: Duration,
    /// What the process has used of the machine since it began.
    pub usage: Option<Usage>,
    /// The process as the operating system sees it now.
    pub process: Process,
    /// The garbage collections seen by our callback; `None` if one may have gone unseen.
    pub collections: Option<Collections>,
    /// What only the interpreter knows; `None` if it did not answer in time.
    pub interpreter: Option<Interpreter>,
}

/// What the process has used since it began: all its threads, also ended ones, not its children.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time in user and kernel together.
    pub cpu: Duration,
    /// CPU time in user mode.
    pub user: Option<Duration>,
    /// CPU time in the kernel.
    pub system: Option<Duration>,
    /// Times a thread gave up the CPU.
    pub voluntary_switches: Option<u64>,
    /// Times a thread was preempted.
    pub involuntary_switches: Option<u64>,
}

/// The process as the operating system sees it now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Resident set, in bytes.
    pub resident: Option<u64>,
    /// Operating-system threads.
    pub threads: Option<u64>,
}

/// Garbage collections since the callback was installed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collections {
    /// Collections that ended, by generation.
    pub count: [u64; 3],
    /// Total pause, in nanoseconds.
    pub pause: u64,
    /// The longest pause since the last flush, in nanoseconds: the one fact here that is a window's.
    pub longest_pause: u64,
}

/// What only the interpreter knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interpreter {
    /// `gc.get_count()`.
    pub gc_count: [u64; 3],
}
