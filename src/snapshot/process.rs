//! The process and the control groups that it is in, as the operating system sees them.

use std::time::Duration;

/// The process as the operating system sees it now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Resident set, in bytes.
    pub resident: Option<u64>,
    /// Operating-system threads.
    pub threads: Option<u64>,
    /// The parts of its memory.
    pub memory: MemoryParts,
    /// Open file descriptors.
    pub descriptors: Option<u64>,
    /// How many file descriptors it may open, if that is limited.
    pub max_descriptors: Option<u64>,
    /// Its child processes that it has not waited for.
    pub children: Option<u64>,
    /// CPU time of the children that it has waited for, and of theirs.
    pub children_cpu: Option<Duration>,
    /// What it has read from storage and written to it.
    pub storage: Option<Storage>,
    /// Time since it started, or was forked.
    pub uptime: Option<Duration>,
    /// What each of its threads has used of the CPUs, sorted by id; `None` if there are too many.
    pub thread_times: Option<Vec<ThreadTimes>>,
    /// What its threads do.
    pub thread_states: Option<ThreadStates>,
    /// The limits of the control groups that it is in.
    pub cgroup: CgroupFacts,
    /// The library that replaces the C library's allocator, if one is mapped.
    pub allocator: Option<&'static str>,
}

/// The memory of the process in detail, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryParts {
    /// Resident memory that belongs to no file.
    pub anonymous: Option<u64>,
    /// The largest resident set so far.
    pub peak: Option<u64>,
    /// Memory that was swapped out.
    pub swapped: Option<u64>,
    /// Resident pages of files.
    pub file: Option<u64>,
    /// Resident shared memory.
    pub shared: Option<u64>,
    /// Addresses that are in use, whether there is memory behind them or not.
    pub addresses: Option<u64>,
}

/// What a process has transferred since it started, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Read from storage.
    pub read: u64,
    /// Written to storage, or to be.
    pub written: u64,
}

/// What a thread has used of the CPUs since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadTimes {
    /// The kernel's id of the thread.
    pub id: u32,
    /// Time on a CPU.
    pub cpu: Duration,
    /// Time in which it could have run, but others did.
    pub delay: Duration,
}

/// How many threads do what, without the one that looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadStates {
    /// They run, or could.
    pub running: u64,
    /// They wait.
    pub sleeping: u64,
    /// They wait for storage, and cannot be interrupted.
    pub disk: u64,
}

impl ThreadTimes {
    /// Of more threads nothing is known.
    pub const MAX: u64 = 256;
}

/// The limits of the control groups that the process is in; all of them hold for the whole group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CgroupFacts {
    /// How many CPUs may be used: the smallest quota of a group, or the CPUs that the process may run on.
    pub cpus: Option<f64>,
    /// The periods of the nearest group with a quota.
    pub periods: Option<CpuPeriods>,
    /// The memory of the group that is the closest to its limit.
    pub memory: Option<LimitedMemory>,
    /// Times that the memory of a group would have exceeded its limit.
    pub limit_hits: Option<u64>,
    /// Processes of the group that were killed as it was out of memory.
    pub oom_kills: Option<u64>,
    /// The processes and threads of the group that is the closest to its limit.
    pub tasks: Option<LimitedTasks>,
    /// How long its processes wait for each other, by [`Pressure`].
    pub pressure: [Option<f64>; Pressure::ALL.len()],
}

/// What the processes of a group wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// A CPU.
    Cpu,
    /// Memory, which has to be freed or read back first.
    Memory,
    /// Storage.
    Io,
}

impl Pressure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];
}

/// Processes and threads, whose number is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitedTasks {
    /// The limit.
    pub limit: u64,
    /// How many there are.
    pub count: u64,
}

/// The periods in which the kernel enforces a CPU quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuPeriods {
    /// All of them in which the group ran.
    pub all: u64,
    /// Those in which it used up its quota and had to wait.
    pub throttled: u64,
    /// For how long it had to wait; of several CPUs, the sum.
    pub throttled_time: Option<Duration>,
}

/// Memory that is limited, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitedMemory {
    /// The limit.
    pub limit: u64,
    /// What is used, without pages of files that the kernel can drop at once.
    pub working_set: u64,
}
