//! Plain facts at one instant, one struct per source.
//!
//! Facts are cumulative where their source is: differences are taken in [`crate::interval`] alone.
//! `None` means "unknown here", never zero.

use std::time::Duration;

mod absence;
mod process;
pub mod server;
mod source;

use self::server::GunicornFacts;

pub use self::absence::{Absence, Withheld};
pub use self::process::{
    CgroupFacts, CpuPeriods, LimitedMemory, LimitedTasks, MemoryParts, Pressure, ProcessFacts, Storage,
    ThreadStates, ThreadTimes,
};
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
    /// CPU time of our own threads since they first started.
    pub own_cpu: Option<Duration>,
    /// What they have done since they first started; `None` if no selected row needs it.
    pub own_work: Option<OwnWorkFacts>,
    /// When the memory of the container will reach its limit, if it grows steadily towards it.
    pub limit_approach: Option<LimitApproach>,
    /// How fast the memory of the process grows.
    pub growth: Growth,
    /// The most connections that wait to be accepted at one listener.
    pub accept_queue: Option<u64>,
    /// Why those are not known.
    pub no_accept_queue: Option<Absence>,
    /// What our probes observed since the last flush: not cumulative.
    pub probe: ProbeFacts,
    /// How long the event loops of the program kept callbacks waiting.
    pub event_loops: EventLoopFacts,
    /// The garbage collections counted by our callback; `None` if some may have gone uncounted.
    pub collections: Option<Collections>,
    /// Exceptions that nothing handled, by [`Uncaught`], since our hooks count them; `None` where no hook does.
    pub uncaught: [Option<u64>; Uncaught::ALL.len()],
    /// Stalls by [`StallCause`], since there is something to observe them by; `None` if nothing observes them.
    pub stalls: Option<[u64; StallCause::ALL.len()]>,
    /// What only the interpreter knows; `None` if it did not answer in time.
    pub interpreter: Option<InterpreterFacts>,
    /// Whether it has answered, now or before, that a free-threaded build runs with the GIL although nobody asked for
    /// that; `None` if that is not known.
    pub is_gil_reenabled: Option<bool>,
    /// Why it was not asked for the blocks of its allocator.
    pub blocks_withheld: Option<Withheld>,
    /// What Gunicorn does in this process, if it runs here.
    pub gunicorn: GunicornFacts,
    /// The sources that this operating system does not have.
    pub unsupported: SourceSet,
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
    /// Page faults for which the kernel had to read from a disk.
    pub major_faults: Option<u64>,
    /// Page faults that the kernel could serve from memory.
    pub minor_faults: Option<u64>,
}

/// What our own threads do; cumulative but for the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnWorkFacts {
    /// How late a tick of the schedule began at most since the last flush; `None` without one.
    pub latest_tick: Option<Duration>,
    /// Time in which they had the interpreter.
    pub in_interpreter: Duration,
    /// Flushes and reads that were left out, as there was no memory for them or they cost too much.
    pub skipped: u64,
    /// Flushes without an answer of the interpreter, and ticks that a bug of ours has ended.
    pub errors: u64,
}

/// Memory that will reach its limit if it goes on growing as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitApproach {
    /// The time until then, less than [`MAX`](Self::MAX).
    pub left: Duration,
    /// Whose memory has grown.
    pub cause: GrowthCause,
}

impl LimitApproach {
    /// What takes longer is not predicted.
    pub const MAX: Duration = Duration::from_hours(6);

    /// With more time between two flushes too few of them are seen for a prediction.
    pub const MAX_INTERVAL: Duration = Duration::from_mins(2);
}

/// By how much memory grows in a minute: 0 if not steadily; `None` until it was observed for long enough.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Growth {
    /// Memory that belongs to no file, in bytes.
    pub anonymous: Option<f64>,
    /// Blocks of Python's own allocator.
    pub blocks: Option<f64>,
}

/// Whose memory makes up most of what this process has grown by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowthCause {
    /// Objects of Python.
    Python,
    /// What `malloc` has free, and cannot use.
    Fragmentation,
    /// Mapped files and shared memory.
    Mmap,
    /// Other memory of its own.
    Native,
    /// This process has hardly grown: others of the container have, or its page cache.
    Other,
}

/// Garbage collections since the callback was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Collections {
    /// Collections that ended, by generation.
    pub count: [u64; 3],
    /// Objects that they found unreachable. Counted, like the next, only while a selected row needs it.
    pub collected: u64,
    /// Objects that they found unreachable and could not free.
    pub uncollectable: u64,
    /// Total pause by generation, in nanoseconds.
    pub pause: [u64; 3],
    /// The longest pause by generation since the last flush, in nanoseconds: not cumulative.
    pub longest_pause: [u64; 3],
    /// 95 of 100 pauses since the last flush were no longer, in nanoseconds; `None` without one.
    pub pause_p95: Option<u64>,
    /// Collections that the program asked for; `None` where they look as those that it did not.
    pub explicit: Option<u64>,
}

/// Where an exception ended that nothing handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncaught {
    /// In the main thread, or wherever the program calls `sys.excepthook`.
    Main,
    /// In another thread, which it ended.
    Thread,
    /// Where nothing could be raised: in a finaliser, in a callback of C code.
    Unraisable,
    /// In a task or a future of asyncio, whose result nobody has asked for.
    NeverRetrieved,
}

impl Uncaught {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Main, Self::Thread, Self::Unraisable, Self::NeverRetrieved];
}

/// Why an event loop, or a thread that wants to run Python code, has been waiting for a second or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallCause {
    /// The thread that keeps the others waiting waits for a CPU.
    CpuStarved,
    /// It waits for a disk or a file system in a way that cannot be interrupted: the state D.
    IoDState,
    /// A garbage collection runs.
    Gc,
    /// It does not give up the GIL: it runs or blocks in native code.
    GilNative,
    /// The interpreter can be entered: a callback of the loop computes or blocks.
    Python,
}

impl StallCause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::CpuStarved, Self::IoDState, Self::Gc, Self::GilNative, Self::Python];
}

/// What a thread of ours observes that sleeps and then enters the interpreter; `None` where it did not get there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeFacts {
    /// How late the system woke it at most.
    pub overslept: Option<Duration>,
    /// The same, for 95 of 100 times.
    pub overslept_p95: Option<Duration>,
    /// How long it waited for the interpreter: 95 of 100 waits took no longer.
    pub wait_p95: Option<Duration>,
    /// The mean of these waits.
    pub wait_mean: Option<Duration>,
    /// The longest wait, also one that goes on.
    pub longest_wait: Option<Duration>,
}

/// What is observed of the event loops of the program; `None` where none ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLoopFacts {
    /// How long a callback waits that becomes ready at a random moment since the last flush: 95 of 100 wait no longer.
    pub delay_p95: Option<Duration>,
    /// The longest wait since the last flush, also one that goes on.
    pub longest_delay: Option<Duration>,
    /// Iterations that have ended since the last flush, of loops that select; `None` where none ran.
    pub iterations: Option<u64>,
    /// Those of them that took longer than [`SLOW`](Self::SLOW).
    pub slow_iterations: Option<u64>,
    /// What each loop that selects has done since it was found, sorted by id.
    pub times: Vec<LoopTimes>,
}

impl EventLoopFacts {
    /// As long as asyncio lets a callback take before it warns of it, in its debug mode.
    pub const SLOW: Duration = Duration::from_millis(100);
}

/// What waits in an event loop: the most of any loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopQueues {
    /// Callbacks that are ready to run.
    pub ready: u64,
    /// Calls that are scheduled for later, also those that were cancelled.
    pub timers: u64,
}

/// What an event loop has done since it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopTimes {
    /// A number that no other loop has.
    pub id: u64,
    /// Time in which it ran callbacks.
    pub busy: Duration,
    /// Time in which it ran callbacks or waited for something to do: in the rest it did not run.
    pub known: Duration,
}

/// What only the interpreter knows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InterpreterFacts {
    /// `gc.get_count()`. The first may be negative on free-threaded builds, where threads count apart for a while.
    pub gc_count: Option<[i64; 3]>,
    /// `gc.get_threshold()[0]`.
    pub gc_threshold: Option<u64>,
    /// `sys.getallocatedblocks()`, where it was due: memory blocks of Python's own allocator.
    pub blocks: Option<u64>,
    /// Modules that are imported.
    pub modules: Option<u64>,
    /// Threads that `threading` knows.
    pub threads: Option<u64>,
    /// Tasks of asyncio that are alive.
    pub tasks: Option<u64>,
    /// Why those are not known.
    pub no_tasks: Option<Absence>,
    /// What waits for a thread of a pool: the most of any pool.
    pub queue_depth: Option<u64>,
    /// Why that is not known.
    pub no_queue_depth: Option<Absence>,
    /// What waits in the event loops.
    pub loop_queues: Option<LoopQueues>,
    /// Why no event loop can be observed.
    pub no_event_loop: Option<Absence>,
    /// Whether a free-threaded build runs with the GIL, although that was not asked for; `None` on other builds.
    pub is_gil_reenabled: Option<bool>,
    /// What describes it, as it was within the last minute.
    pub description: Option<Description>,
}

/// What describes a process and its interpreter: words of closed sets, by which processes are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// `on`, `off`, or `reenabled` on a free-threaded build.
    pub gil: &'static str,
    /// `on` or `off`, if that is known.
    pub jit: Option<&'static str>,
    /// `generational`, `incremental` or `free_threaded`.
    pub gc_implementation: &'static str,
    /// `enabled` or `disabled`.
    pub gc: &'static str,
    /// `pymalloc`, `mimalloc`, `jemalloc`, `tcmalloc` or `malloc`.
    pub allocator: &'static str,
    /// The library of event loops that the program has imported, or `none`.
    pub event_loop: &'static str,
    /// The server or task queue that runs the program, or `other`.
    pub server: &'static str,
    /// What slows the program down for the sake of debugging, or `none`.
    pub debug: &'static str,
}

impl Description {
    /// The words with the keys of their tags.
    #[must_use]
    pub const fn tags(&self) -> [(&'static str, Option<&'static str>); 8] {
        [
            ("gil", Some(self.gil)),
            ("jit", self.jit),
            ("gc_impl", Some(self.gc_implementation)),
            ("gc", Some(self.gc)),
            ("allocator", Some(self.allocator)),
            ("loop", Some(self.event_loop)),
            ("server", Some(self.server)),
            ("debug", Some(self.debug)),
        ]
    }
}
