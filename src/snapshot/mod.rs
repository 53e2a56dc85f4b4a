//! Plain facts at one instant, one struct per source.
//!
//! Facts are cumulative where their source is: differences are taken in [`crate::interval`] alone.
//! `None` means "unknown here", never zero.

use std::time::Duration;

pub mod server;
mod source;

use self::server::GunicornFacts;

pub use self::source::{Source, SourceSet};

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
    /// `gc.get_count()`. The first may be negative on free-threaded builds, where threads count apart for a while.
    pub gc_count: Option<[i64; 3]>,
}
