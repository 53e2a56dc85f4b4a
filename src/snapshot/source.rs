//! The names of the sources of facts: by them the rows of the catalogue say what they need.

/// A source of facts, as a row of the catalogue names it: what no selected row needs is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPU time and context switches: `Snapshot::usage`.
    ResourceUsage,
    /// Resident memory: `ProcessFacts::resident`.
    Memory,
    /// Operating-system threads: `ProcessFacts::threads`.
    Threads,
    /// The parts of memory: `ProcessFacts::memory`.
    MemoryParts,
    /// Open file descriptors and their limit: `ProcessFacts::descriptors`, `ProcessFacts::max_descriptors`.
    Descriptors,
    /// Child processes that run: `ProcessFacts::children`.
    Children,
    /// CPU time of those that have ended: `ProcessFacts::children_cpu`.
    EndedChildren,
    /// What was read from storage and written to it: `ProcessFacts::storage`.
    Storage,
    /// The start of the process: `ProcessFacts::uptime`.
    Uptime,
    /// What each thread has used: `ProcessFacts::thread_times`.
    ThreadTimes,
    /// What each thread does: `ProcessFacts::thread_states`.
    ThreadStates,
    /// Limits of control groups: `ProcessFacts::cgroup`.
    Cgroup,
    /// The limit of processes and threads: `CgroupFacts::tasks`.
    CgroupTasks,
    /// How long the group waits for CPU, memory and storage: `CgroupFacts::pressure`.
    Pressure,
    /// The trend of the container's memory: `Snapshot::limit_approach`.
    LimitApproach,
    /// The trend of the process's own memory: `Snapshot::growth`.
    Growth,
    /// Connections that wait at listeners: `Snapshot::accept_queue`.
    AcceptQueue,
    /// CPU time of our own threads: `Snapshot::own_cpu`.
    OwnCpu,
    /// What else our own threads do: `Snapshot::own_work`.
    OwnWork,
    /// Probes of the interpreter: `Snapshot::probe`.
    Probe,
    /// The program's event loops: `Snapshot::event_loops`.
    EventLoops,
    /// The queues of these loops: `InterpreterFacts::loop_queues`.
    LoopQueues,
    /// What keeps others waiting: `Snapshot::stalls`.
    Stalls,
    /// Garbage collections: `Snapshot::collections`.
    GcCallback,
    /// What collections found: `Collections::collected`, `Collections::uncollectable`.
    GcObjects,
    /// How long each collection paused: `Collections::pause_p95`.
    GcPauses,
    /// Collections that the program asked for: `Collections::explicit`.
    GcExplicit,
    /// `gc.get_threshold()`: `InterpreterFacts::gc_threshold`.
    GcThreshold,
    /// `gc.get_count()`: `InterpreterFacts::gc_count`.
    GcCount,
    /// `sys.getallocatedblocks()`: `InterpreterFacts::blocks`.
    PythonBlocks,
    /// `sys.modules`: `InterpreterFacts::modules`.
    Modules,
    /// The threads of Python: `InterpreterFacts::threads`.
    PythonThreads,
    /// Tasks of asyncio: `InterpreterFacts::tasks`.
    Tasks,
    /// Pools of threads: `InterpreterFacts::queue_depth`.
    Executors,
    /// Exceptions that nothing handles: `Snapshot::uncaught`.
    UncaughtExceptions,
    /// Whether a free-threaded build has its GIL again: `Snapshot::is_gil_reenabled`.
    Gil,
    /// What describes the process: `InterpreterFacts::description`, `ProcessFacts::allocator`.
    Description,
    /// Gunicorn's log records and requests: `Snapshot::gunicorn`.
    Gunicorn,
    /// Gunicorn's own objects: `GunicornFacts::master` and `GunicornFacts::connections`.
    GunicornObjects,
    /// The backlog of a Gunicorn master: `MasterFacts::backlog`. Its listeners are left out of the accept queues.
    GunicornBacklog,
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

    /// Whether one of these sources is in the set.
    #[must_use]
    pub fn contains_any(self, sources: &[Source]) -> bool {
        sources.iter().any(|source| self.contains(*source))
    }

    /// The set without this source.
    #[must_use]
    pub fn without(self, source: Source) -> Self {
        Self(self.0 & !Self::bit(source))
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
