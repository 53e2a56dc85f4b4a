//! Where facts come from: one file per origin, each a plain reader that decides nothing.
//!
//! [`Sources`] holds them all and alone builds a [`Snapshot`]. To *read* is to look at facts and leave everything as it
//! is; to *drain* is to take what has gathered since the last drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::event_loops::EventLoops;
use self::gc::GcCounters;
use self::growth::{GrowthWatch, Memory};
use self::gunicorn::Gunicorn;
use self::gunicorn::objects::GunicornObjects;
use self::limit_approach::{LimitWatch, Parts};
use self::own_cpu::OwnCpu;
use self::own_work::OwnWork;
use self::probe::Probe;
use self::python_blocks::PythonBlocks;
use self::stalls::Stalls;
use self::uncaught::UncaughtCounters;
use crate::snapshot::{Growth, InterpreterFacts, ProcessFacts, ResourceUsage, Snapshot, Source, SourceSet};

#[cfg(target_os = "linux")]
mod accept_queue;
pub mod ancestors;
pub mod budget;
#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
mod children;
#[cfg(target_os = "linux")]
pub mod container;
pub mod description;
#[cfg(target_os = "linux")]
pub mod descriptors;
pub mod event_loops;
pub mod gc;
pub mod growth;
pub mod gunicorn;
#[cfg(target_os = "linux")]
mod kernel_file;
mod limit_approach;
#[cfg(target_os = "linux")]
pub mod linux;
mod malloc;
#[cfg(target_os = "linux")]
mod mapped_allocator;
#[cfg(target_os = "linux")]
pub mod memory_parts;
pub mod own_cpu;
pub mod own_work;
mod pace;
// On Linux it is the oracle of the tests.
#[cfg_attr(target_os = "linux", doc(hidden))]
pub mod portable;
pub mod probe;
pub mod python_blocks;
pub mod reservoir;
#[cfg(unix)]
pub mod rusage;
pub mod stalls;
#[cfg(target_os = "linux")]
mod storage;
#[cfg(target_os = "linux")]
mod thread_files;
#[cfg(target_os = "linux")]
mod thread_states;
#[cfg(target_os = "linux")]
pub mod thread_times;
pub mod trend;
pub mod uncaught;
#[cfg(target_os = "linux")]
pub mod uptime;

#[cfg(target_os = "linux")]
type Process = linux::Linux;
#[cfg(not(target_os = "linux"))]
type Process = portable::Portable;

/// What this operating system does not have.
const UNSUPPORTED: &[Source] = if cfg!(target_os = "linux") {
    &[]
} else {
    &[
        Source::Threads,
        Source::MemoryParts,
        Source::Descriptors,
        Source::Children,
        Source::EndedChildren,
        Source::Storage,
        Source::Uptime,
        Source::ThreadTimes,
        Source::ThreadStates,
        Source::Growth,
        Source::Cgroup,
        Source::CgroupTasks,
        Source::Pressure,
        Source::AcceptQueue,
    ]
};

/// Every source of one collector.
#[derive(Debug)]
pub struct Sources {
    process: Process,
    #[cfg(target_os = "linux")]
    accept_queues: accept_queue::AcceptQueues,
    limit_watch: LimitWatch,
    stalls: Arc<Stalls>,
    /// Whether the interpreter has ever answered so; the GIL stays on then.
    is_gil_reenabled: bool,
    growth_watch: GrowthWatch,
    counters: Counters,
}

/// Counters that threads update, most of them the program's own.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// The event loops of the program.
    pub event_loops: Arc<EventLoops>,
    /// Garbage collections.
    pub gc: Arc<GcCounters>,
    /// What Gunicorn does in this process.
    pub gunicorn: Arc<Gunicorn>,
    /// CPU time of our own threads.
    pub own_cpu: Arc<OwnCpu>,
    /// What else they do.
    pub own_work: Arc<OwnWork>,
    /// Probes of the interpreter.
    pub probe: Arc<Probe>,
    /// How often Python is asked for the blocks that it has allocated.
    pub blocks: Arc<PythonBlocks>,
    /// Exceptions that nothing handles.
    pub uncaught: Arc<UncaughtCounters>,
}

/// Whether to reset what is counted since the last flush.
#[derive(Clone, Copy)]
enum Mode {
    Drain,
    Read,
}

/// What the interpreter answers about facts; each is `None` if it was not asked for or is not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterpreterAnswer {
    /// Its own facts.
    pub facts: InterpreterFacts,
    /// The state of Gunicorn's own objects.
    pub gunicorn: Option<GunicornObjects>,
}

/// A snapshot that ends an interval.
#[derive(Debug)]
pub struct Drained {
    /// The facts.
    pub snapshot: Snapshot,
    /// Whether garbage collections may have gone uncounted in the interval, as our callback was missing.
    pub missed_collections: bool,
    /// A read that is not made any more as it costs too much, and what the last one cost.
    pub given_up: Option<(&'static str, Duration)>,
}

impl Sources {
    /// Opens the sources of this process; `root` is `/` except in tests.
    ///
    /// They are those of the process that opened them: after a fork the child opens its own.
    #[must_use]
    pub fn open(root: &Path, counters: Counters) -> Self {
        Self {
            process: Process::open(root),
            #[cfg(target_os = "linux")]
            accept_queues: accept_queue::AcceptQueues::default(),
            limit_watch: LimitWatch::new(),
            stalls: Arc::new(Stalls::new(root, &counters.probe, &counters.event_loops, &counters.gc)),
            is_gil_reenabled: false,
            growth_watch: GrowthWatch::default(),
            counters,
        }
    }

    /// What is to be looked at by the thread that keeps the schedule.
    #[must_use]
    pub fn stalls(&self) -> Arc<Stalls> {
        Arc::clone(&self.stalls)
    }

    /// Takes the first of two readings where a source needs two; gives the time until the second is due.
    ///
    /// `None` if nothing has to be waited for.
    #[must_use]
    pub fn prepare(&self, now: Duration, needed: SourceSet) -> Option<Duration> {
        if needed.contains(Source::GunicornObjects) { self.counters.gunicorn.prepare(now) } else { None }
    }

    /// The facts at `now` as the start of an interval; drains what has gathered.
    #[must_use]
    pub fn baseline(&mut self, now: Duration, needed: SourceSet) -> Snapshot {
        // Most programs listen later, and then would have to wait until listeners are searched for again.
        self.snapshot(now, needed.without(Source::AcceptQueue), Mode::Drain, || None)
    }

    /// The facts at `now`, which ends the interval.
    ///
    /// What has to be asked for is read if a selected row needs it. What gathers by itself is always drained, so that a
    /// row which is selected later starts from now. The interpreter comes last, as it may have to be waited for.
    pub fn drain(
        &mut self,
        now: Duration,
        needed: SourceSet,
        ask_interpreter: impl FnOnce() -> Option<InterpreterAnswer>,
    ) -> Drained {
        let own_work = Arc::clone(&self.counters.own_work);
        let is_withheld =
            needed.contains(Source::PythonBlocks) && self.counters.blocks.withheld(now).is_some();
        let snapshot = self.snapshot(now, needed, Mode::Drain, || {
            let answer = ask_interpreter();
            match &answer {
                None => own_work.fail(),
                Some(answer) if is_withheld && answer.facts.blocks.is_none() => own_work.skip(),
                Some(_) => {}
            }
            answer
        });
        Drained {
            snapshot,
            missed_collections: self.counters.gc.take_missed(),
            given_up: self.counters.blocks.take_given_up().or_else(|| self.limit_watch.take_given_up()),
        }
    }

    /// The facts at `now`; the interval goes on.
    pub fn read(&mut self, now: Duration, needed: SourceSet, answer: Option<InterpreterAnswer>) -> Snapshot {
        let mut snapshot = self.snapshot(now, needed, Mode::Read, || answer);
        if self.counters.gc.has_missed() {
            snapshot.collections = None;
        }
        snapshot
    }

    fn snapshot(
        &mut self,
        now: Duration,
        needed: SourceSet,
        mode: Mode,
        ask_interpreter: impl FnOnce() -> Option<InterpreterAnswer>,
    ) -> Snapshot {
        let Counters { event_loops, gc, gunicorn, own_cpu, own_work, probe, uncaught, blocks } =
            &self.counters;
        gc.need(needed);
        probe.need(needed.contains(Source::Probe));
        self.stalls.need(needed.contains(Source::Stalls));
        own_work.need(needed.contains(Source::OwnWork));
        // First, so that no collection that the rest provokes is counted in it.
        let collections = match mode {
            Mode::Drain => gc.drain(),
            Mode::Read => gc.read(),
        };
        let (usage, process) = read_process(&mut self.process, now, needed);
        #[cfg(target_os = "linux")]
        let accept_queue = if needed.contains(Source::AcceptQueue) {
            let is_in_backlog = needed.contains(Source::GunicornBacklog) && gunicorn.is_here();
            self.accept_queues.read(now, !is_in_backlog, process.descriptors)
        } else {
            Err(None)
        };
        #[cfg(not(target_os = "linux"))]
        let accept_queue = Err(None);
        // Before it may be asked for them.
        let blocks_withheld = blocks.withheld(now);
        let answer = ask_interpreter();
        let is_gil_reenabled = answer.as_ref().and_then(|answer| answer.facts.is_gil_reenabled);
        self.is_gil_reenabled |= is_gil_reenabled == Some(true);
        let objects = answer.as_ref().and_then(|answer| answer.gunicorn.as_ref());
        let counted = answer.as_ref().and_then(|answer| answer.facts.blocks);
        if needed.contains(Source::Growth) && matches!(mode, Mode::Drain) {
            let memory = Memory { anonymous: process.memory.anonymous, blocks: counted };
            self.growth_watch.observe(now, memory);
        }
        let limit_approach = needed.contains(Source::LimitApproach).then(|| {
            let memory = process.cgroup.memory;
            if matches!(mode, Mode::Drain) {
                self.limit_watch.observe(now, memory, Parts::of(&process.memory, counted), blocks);
            }
            self.limit_watch.read(memory)
        });
        Snapshot {
            at: now,
            usage,
            process,
            own_cpu: needed.contains(Source::OwnCpu).then(|| own_cpu.read()).flatten(),
            own_work: match mode {
                Mode::Drain => Some(own_work.drain()),
                Mode::Read => Some(own_work.read()),
            }
            .filter(|_| needed.contains(Source::OwnWork)),
            limit_approach: limit_approach.flatten(),
            growth: if needed.contains(Source::Growth) {
                self.growth_watch.read()
            } else {
                Growth::default()
            },
            accept_queue: accept_queue.ok(),
            no_accept_queue: accept_queue.err().flatten(),
            probe: match mode {
                Mode::Drain => probe.drain(now),
                Mode::Read => probe.read(now),
            },
            event_loops: match mode {
                Mode::Drain => event_loops.drain(now),
                Mode::Read => event_loops.read(now),
            },
            collections: Some(collections),
            gunicorn: match mode {
                Mode::Drain => gunicorn.drain(objects, now),
                Mode::Read => gunicorn.read(objects),
            },
            uncaught: if needed.contains(Source::UncaughtExceptions) {
                uncaught.read()
            } else {
                Default::default()
            },
            stalls: needed.contains(Source::Stalls).then(|| match mode {
                Mode::Drain => self.stalls.drain(now),
                Mode::Read => self.stalls.read(now),
            }),
            interpreter: answer.map(|answer| answer.facts),
            is_gil_reenabled: if self.is_gil_reenabled { Some(true) } else { is_gil_reenabled },
            blocks_withheld,
            unsupported: UNSUPPORTED.iter().copied().collect(),
        }
    }
}

#[cfg(target_os = "linux")]
fn read_process(
    linux: &mut Process,
    now: Duration,
    needed: SourceSet,
) -> (Option<ResourceUsage>, ProcessFacts) {
    let usage = needed.contains(Source::ResourceUsage).then(rusage::read).flatten();
    (usage, linux.read(now, needed))
}

#[cfg(all(unix, not(target_os = "linux")))]
fn read_process(
    portable: &mut Process,
    _now: Duration,
    needed: SourceSet,
) -> (Option<ResourceUsage>, ProcessFacts) {
    let exact = needed.contains(Source::ResourceUsage).then(rusage::read).flatten();
    let rest = if exact.is_some() { needed.without(Source::ResourceUsage) } else { needed };
    let (summed, process) = portable.read(rest);
    (exact.or(summed), process)
}

#[cfg(not(unix))]
fn read_process(
    portable: &mut Process,
    _now: Duration,
    needed: SourceSet,
) -> (Option<ResourceUsage>, ProcessFacts) {
    portable.read(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_late_ticks_were_before_it_was_needed_is_not_said() {
        let counters = Counters::default();
        let own_work = Arc::clone(&counters.own_work);
        let mut sources = Sources::open(Path::new("/nowhere"), counters);
        let mut flush = |late: u64, needed: &[Source]| {
            own_work.begin_tick(Duration::from_millis(late));
            let needed = needed.iter().copied().collect();
            let snapshot = sources.drain(Duration::from_secs(1), needed, || None).snapshot;
            snapshot.own_work.map(|work| work.latest_tick)
        };
        assert_eq!(flush(700, &[]), None);
        assert_eq!(flush(2, &[Source::OwnWork]), Some(Some(Duration::from_millis(2))));
    }
}
