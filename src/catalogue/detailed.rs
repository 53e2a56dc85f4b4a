//! The rows of the detailed level: what an investigation asks for next.

use super::metric::{Counter, Family, Level, Member, Metric, Reading, Unit, Value, Wire};
use super::standard::{nanoseconds, parts, percent};
use super::{collections, usage};
use crate::snapshot::{Growth, OwnWorkFacts, Pressure, Snapshot, Source, ThreadStates};
use crate::tag::Tags;

/// What all rows of the level have in common.
const DETAILED: Metric = Metric {
    name: "",
    unit: Unit::Byte,
    level: Level::Detailed,
    by_name: false,
    wire: Wire::Chosen,
    needs: &[],
    reading: Reading::Now(|_| None),
    source: "",
    description: "",
    absent: "",
    opentelemetry: None,
};

const GC_CALLBACK: &str = "our callback in gc.callbacks, monotonic clock";
const GC_ABSENT: &str = "for an interval in which the program removed our callback from gc.callbacks";

const LOOPS_ABSENT: &str = "without a running event loop of asyncio; in AWS Lambda; where gevent or eventlet has \
                            patched threads; for loops without a selector of the standard library, such as uvloop's";

/// The metrics of the detailed level.
pub const ROWS: &[Metric] = &[
    Metric {
        name: "runtime.python.gc.pause.p95",
        unit: Unit::Nanosecond,
        needs: &[Source::GcCallback, Source::GcPauses],
        reading: Reading::Aggregate(|s| collections(s)?.pause_p95.map(Value::Whole)),
        source: GC_CALLBACK,
        description: "How long a garbage collection pauses the program, of any generation: 95 of 100 took no longer, \
                      to within 3 %. Where it is far below runtime.python.gc.pause.max, few are long.",
        absent: "for an interval without a collection, or in which the program removed our callback from gc.callbacks",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.pause.time.gen0",
        unit: Unit::Nanosecond,
        needs: &[Source::GcCallback],
        reading: Reading::Counter(Counter::of(|s| Some(collections(s)?.pause[0]))),
        source: GC_CALLBACK,
        description: "The part of runtime.python.gc.pause.time that collections of generation 0 took.",
        absent: GC_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.pause.time.gen1",
        unit: Unit::Nanosecond,
        needs: &[Source::GcCallback],
        reading: Reading::Counter(Counter::of(|s| Some(collections(s)?.pause[1]))),
        source: GC_CALLBACK,
        description: "The part of runtime.python.gc.pause.time that collections of generation 1 took.",
        absent: GC_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.pause.time.gen2",
        unit: Unit::Nanosecond,
        needs: &[Source::GcCallback],
        reading: Reading::Counter(Counter::of(|s| Some(collections(s)?.pause[2]))),
        source: GC_CALLBACK,
        description: "The part of runtime.python.gc.pause.time that collections of generation 2 took.",
        absent: GC_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.pause.max.gen0",
        unit: Unit::Nanosecond,
        needs: &[Source::GcCallback],
        reading: Reading::Aggregate(|s| Some(Value::Whole(collections(s)?.longest_pause[0]))),
        source: GC_CALLBACK,
        description: "The longest collection of generation 0 that finished in the interval; 0 if there was none.",
        absent: GC_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.pause.max.gen1",
        unit: Unit::Nanosecond,
        needs: &[Source::GcCallback],
        reading: Reading::Aggregate(|s| Some(Value::Whole(collections(s)?.longest_pause[1]))),
        source: GC_CALLBACK,
        description: "The longest collection of generation 1 that finished in the interval; 0 if there was none.",
        absent: GC_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.pause.max.gen2",
        unit: Unit::Nanosecond,
        needs: &[Source::GcCallback],
        reading: Reading::Aggregate(|s| Some(Value::Whole(collections(s)?.longest_pause[2]))),
        source: GC_CALLBACK,
        description: "The longest collection of generation 2 that finished in the interval; 0 if there was none.",
        absent: GC_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.explicit",
        unit: Unit::Collection,
        needs: &[Source::GcCallback, Source::GcExplicit],
        reading: Reading::Counter(Counter::of(|s| collections(s)?.explicit)),
        source: "gc.get_count(), gc.get_threshold() and gc.isenabled() as a collection begins",
        description: "Collections that the program, a library or a server asked for with gc.collect(). They began \
                      while there were too few new containers for the interpreter to collect by itself.",
        absent: "from CPython 3.12 on, where containers may be freed before a collection that is due begins; on \
                 free-threaded builds; where the program has replaced functions of gc; for an interval in which the \
                 program removed our callback from gc.callbacks",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gc.threshold.gen0",
        unit: Unit::Object,
        needs: &[Source::GcThreshold],
        reading: Reading::Now(|s| s.interpreter.as_ref()?.gc_threshold.map(Value::Whole)),
        source: "gc.get_threshold()[0]",
        description: "How many new containers, beyond those that were freed, let the interpreter collect. At 0 it \
                      never does by itself.",
        absent: "while the interpreter does not answer in time",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.gil.wait.avg",
        unit: Unit::Nanosecond,
        needs: &[Source::Probe],
        reading: Reading::Aggregate(|s| nanoseconds(s.probe.wait_mean?)),
        source: "as runtime.python.gil.wait.p95",
        description: "How long a thread waits for the GIL, on average. Where it is near runtime.python.gil.wait.p95, \
                      all threads wait; where it is far below, some.",
        absent: "in AWS Lambda; for an interval without a probe that was answered",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.mem.rss.file",
        needs: &[Source::MemoryParts],
        reading: Reading::Now(|s| parts(s).file.map(Value::Whole)),
        source: "/proc/self/status, RssFile",
        description: "The part of the resident set that belongs to files: code of libraries, and files that the \
                      program has mapped. The kernel can drop what was not changed.",
        absent: "on anything but Linux",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.mem.rss.shmem",
        needs: &[Source::MemoryParts],
        reading: Reading::Now(|s| parts(s).shared.map(Value::Whole)),
        source: "/proc/self/status, RssShmem",
        description: "The part of the resident set that is shared memory: of multiprocessing, of files in /dev/shm and \
                      of anonymous mappings that children share. Each process that uses it reports it.",
        absent: "on anything but Linux",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.mem.virtual",
        needs: &[Source::MemoryParts],
        reading: Reading::Now(|s| parts(s).addresses.map(Value::Whole)),
        source: "/proc/self/status, VmSize",
        description: "The size of all addresses that the process has reserved, whether there is memory behind them or \
                      not. It matters where it is limited (ulimit -v), and where it grows: something is mapped and \
                      never unmapped, as the stacks of threads are.",
        absent: "on anything but Linux",
        opentelemetry: Some("process.memory.virtual"),
        ..DETAILED
    },
    Metric {
        name: "runtime.python.mem.growth_rate",
        needs: &[Source::Growth],
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["kind"],
            series: 2,
            members: |interval| {
                let Growth { anonymous, blocks } = interval.end().growth;
                tagged([("kind:anon", anonymous.map(Value::Real)), ("kind:blocks", blocks.map(Value::Real))])
            },
        }),
        source: "runtime.python.mem.rss.anon and runtime.python.mem.python.blocks, once a minute",
        description: "By how much memory of the process grows in a minute, if it has grown steadily for the last 15 to \
                      30 minutes; otherwise 0. kind:anon is in bytes: what Python and native libraries have \
                      allocated. kind:blocks is in blocks: objects of Python. If the first grows without the second, \
                      it is a native library.",
        absent: "on anything but Linux; in the first 15 minutes; with more than 2 minutes between two flushes; \
                 kind:blocks where blocks are not counted once a minute; in AWS Lambda",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.threads.state",
        unit: Unit::Thread,
        needs: &[Source::ThreadStates],
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["state"],
            series: 3,
            members: |interval| {
                let states = interval.end().process.thread_states;
                let count = |of: fn(ThreadStates) -> u64| states.map(of).map(Value::Whole);
                tagged([
                    ("state:running", count(|states| states.running)),
                    ("state:sleeping", count(|states| states.sleeping)),
                    ("state:disk", count(|states| states.disk)),
                ])
            },
        }),
        source: "/proc/self/task/*/stat",
        description: "Threads by what they do at the flush: state:running could run, state:sleeping waits, \
                      state:disk waits for storage or a network file system and cannot even be killed. The thread \
                      that counts and those of runtime-metrics are none of them.",
        absent: "on anything but Linux; with more than 256 threads",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.threads.python",
        unit: Unit::Thread,
        needs: &[Source::PythonThreads],
        reading: Reading::Now(|s| s.interpreter.as_ref()?.threads.map(Value::Whole)),
        source: "the length of threading's registry",
        description: "Threads that threading knows: the main thread, those that Python has started, and those of \
                      native libraries that have asked for their own. Each competes for the GIL when it has something \
                      to do.",
        absent: "where the program has not imported threading; where gevent or eventlet has patched threads; while the \
                 interpreter does not answer in time",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.threads.native",
        unit: Unit::Thread,
        needs: &[Source::Threads, Source::PythonThreads],
        reading: Reading::Now(|s| {
            let native = s.process.threads?.checked_sub(s.interpreter.as_ref()?.threads?)?;
            Some(Value::Whole(native))
        }),
        source: "runtime.python.thread_count without runtime.python.threads.python",
        description: "Threads that threading does not know: those of native libraries, such as BLAS and gRPC, and the \
                      two of runtime-metrics.",
        absent: "where either of the two is absent; where threading lists more threads than there are, as up to \
                 CPython 3.12 it keeps native ones that have run Python code",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.event_loop.iterations",
        unit: Unit::Operation,
        needs: &[Source::EventLoops],
        reading: Reading::Aggregate(|s| s.event_loops.iterations.map(Value::Whole)),
        source: "a function in place of select() of the loop's selector",
        description: "How often event loops have run what was ready and looked for more, all of them together. Far \
                      more than there are requests while runtime.python.event_loop.utilization is high: a coroutine \
                      spins, as with sleep(0).",
        absent: LOOPS_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.event_loop.slow_callbacks",
        unit: Unit::Operation,
        needs: &[Source::EventLoops],
        reading: Reading::Aggregate(|s| s.event_loops.slow_iterations.map(Value::Whole)),
        source: "a function in place of select() of the loop's selector",
        description: "Iterations that took longer than 0.1 seconds, to within 6 %, of all event loops: how often one \
                      blocked, where runtime.python.event_loop.delay.max shows for how long.",
        absent: LOOPS_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.event_loop.ready",
        unit: Unit::Item,
        needs: &[Source::LoopQueues],
        reading: Reading::Now(|s| Some(Value::Whole(s.interpreter.as_ref()?.loop_queues?.ready))),
        source: "the length of the loop's _ready",
        description: "Callbacks that are ready and wait for their event loop, at the flush: the most of any loop. \
                      Many, again and again: more arrives than it can do.",
        absent: LOOPS_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.event_loop.timers",
        unit: Unit::Item,
        needs: &[Source::LoopQueues],
        reading: Reading::Now(|s| Some(Value::Whole(s.interpreter.as_ref()?.loop_queues?.timers))),
        source: "the length of the loop's _scheduled",
        description: "Calls that an event loop has scheduled for later, by sleep(), timeouts and call_later(), also \
                      those that were cancelled: the most of any loop. Growth without end is a leak.",
        absent: LOOPS_ABSENT,
        ..DETAILED
    },
    Metric {
        name: "runtime.python.io.read",
        needs: &[Source::Storage],
        reading: Reading::Counter(Counter::of(|s| Some(s.process.storage?.read))),
        source: "/proc/self/io, read_bytes",
        description: "What had to be read from storage for the process. What the kernel had in memory does not count, \
                      nor do networks. Children that have ended and were waited for count as well.",
        absent: "on anything but Linux; where the kernel does not count it, or hides it",
        opentelemetry: Some("process.disk.io{disk.io.direction=read}"),
        ..DETAILED
    },
    Metric {
        name: "runtime.python.io.write",
        needs: &[Source::Storage],
        reading: Reading::Counter(Counter::of(|s| Some(s.process.storage?.written))),
        source: "/proc/self/io, write_bytes",
        description: "What the process has written to files on storage, as soon as it has, although the kernel may \
                      write it out later. Children that have ended and were waited for count as well.",
        absent: "on anything but Linux; where the kernel does not count it, or hides it",
        opentelemetry: Some("process.disk.io{disk.io.direction=write}"),
        ..DETAILED
    },
    Metric {
        name: "runtime.python.mem.limit",
        needs: &[Source::Cgroup],
        reading: Reading::Now(|s| Some(Value::Whole(s.process.cgroup.memory?.limit))),
        source: "as runtime.python.mem.headroom.percent",
        description: "The memory limit of the container, of which runtime.python.mem.headroom.percent is the part that \
                      is left.",
        absent: "without a memory limit below the machine's memory",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.mem.working_set",
        needs: &[Source::Cgroup],
        reading: Reading::Now(|s| Some(Value::Whole(s.process.cgroup.memory?.working_set))),
        source: "as runtime.python.mem.headroom.percent",
        description: "The memory that the container uses, of all its processes, without what the kernel can drop at \
                      once: what Kubernetes compares with the limit.",
        absent: "without a memory limit below the machine's memory",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.cpu.throttled.time",
        unit: Unit::Nanosecond,
        needs: &[Source::Cgroup],
        reading: Reading::Change(|interval| {
            nanoseconds(interval.time(|s| s.process.cgroup.periods?.throttled_time)?)
        }),
        source: "cpu.stat of the nearest cgroup with a quota: throttled_usec, or throttled_time",
        description: "For how long the container was stopped as its CPU quota was used up. The kernel adds up the CPUs \
                      on which it wanted to run, so that it may be more than the time that has passed.",
        absent: "without a CPU quota",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.pids.percent",
        unit: Unit::Percent,
        needs: &[Source::CgroupTasks],
        reading: Reading::Now(|s| {
            let tasks = s.process.cgroup.tasks?;
            percent(tasks.count, tasks.limit)
        }),
        source: "pids.current and pids.max of the cgroup and its ancestors; which of them have a limit is looked up \
                 once a minute",
        description: "Processes and threads of the container as a percentage of what it may have. At 100 no thread can \
                      be started, which Python reports as RuntimeError: can't start new thread.",
        absent: "on anything but Linux; without such a limit",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.pressure.cpu",
        unit: Unit::Percent,
        needs: &[Source::Pressure],
        reading: Reading::Now(|s| pressure(s, Pressure::Cpu)),
        source: "cpu.pressure of the process's cgroup, some avg10",
        description: "The percentage of the last 10 seconds in which at least one thread of the container could have \
                      run, but waited for a CPU.",
        absent: "on anything but Linux; where the kernel does not track it, or only for another group (version 1)",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.pressure.memory",
        unit: Unit::Percent,
        needs: &[Source::Pressure],
        reading: Reading::Now(|s| pressure(s, Pressure::Memory)),
        source: "memory.pressure of the process's cgroup, some avg10",
        description: "The percentage of the last 10 seconds in which at least one thread of the container waited for \
                      memory, which the kernel had to free or to read back first.",
        absent: "on anything but Linux; where the kernel does not track it, or only for another group (version 1)",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.pressure.io",
        unit: Unit::Percent,
        needs: &[Source::Pressure],
        reading: Reading::Now(|s| pressure(s, Pressure::Io)),
        source: "io.pressure of the process's cgroup, some avg10",
        description: "The percentage of the last 10 seconds in which at least one thread of the container waited for \
                      storage.",
        absent: "on anything but Linux; where the kernel does not track it, or only for another group (version 1)",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.modules.count",
        unit: Unit::Module,
        needs: &[Source::Modules],
        reading: Reading::Now(|s| s.interpreter.as_ref()?.modules.map(Value::Whole)),
        source: "the length of sys.modules",
        description: "Modules that are imported. If it grows under a steady load, the program makes modules at run \
                      time, which are never freed.",
        absent: "while the interpreter does not answer in time",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.children.count",
        unit: Unit::Process,
        needs: &[Source::Children],
        reading: Reading::Now(|s| s.process.children.map(Value::Whole)),
        source: "/proc/self/task/*/children",
        description: "Child processes of the process: those that run, and those that have ended but were not waited \
                      for (zombies). Children of children do not count.",
        absent: "on anything but Linux; with more than 256 threads; where the kernel does not list children",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.children.cpu",
        unit: Unit::Second,
        needs: &[Source::EndedChildren],
        reading: Reading::Time(|s| s.process.children_cpu),
        source: "getrusage(RUSAGE_CHILDREN)",
        description: "CPU time of child processes, user and kernel mode, of their whole lives: it is counted when one \
                      has ended and was waited for.",
        absent: "on anything but Linux; where a sandbox forbids getrusage",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.faults.minor",
        unit: Unit::Fault,
        needs: &[Source::ResourceUsage],
        reading: Reading::Counter(Counter::of(|s| usage(s)?.minor_faults)),
        source: "getrusage(RUSAGE_SELF).ru_minflt",
        description: "Page faults that the kernel served without a disk: memory that is used for the first time \
                      since it was mapped, or since a fork. Each takes some 0.5 to 3 µs, mostly in kernel mode.",
        absent: "on Windows; where a sandbox forbids getrusage",
        opentelemetry: Some("process.paging.faults{system.paging.fault.type=minor}"),
        ..DETAILED
    },
    Metric {
        name: "runtime.python.os.hiccup.p95",
        unit: Unit::Nanosecond,
        needs: &[Source::Probe],
        reading: Reading::Aggregate(|s| nanoseconds(s.probe.overslept_p95?)),
        source: "as runtime.python.os.hiccup.max",
        description: "How late a sleeping thread was woken: 95 of 100 times by no more than this. Where it is near \
                      runtime.python.os.hiccup.max, the machine is late all the time.",
        absent: "in AWS Lambda; for an interval without a probe",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.collector.tick.late",
        unit: Unit::Nanosecond,
        needs: &[Source::OwnWork],
        reading: Reading::Aggregate(|s| nanoseconds(own_work(s)?.latest_tick?)),
        source: "the thread of runtime-metrics that keeps the schedule",
        description: "How much later than planned a flush began: its values cover a longer interval.",
        absent: "for a flush that RuntimeMetrics.flush() makes, if no other was due since the last; in AWS Lambda",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.collector.gil_held",
        unit: Unit::Nanosecond,
        needs: &[Source::OwnWork],
        reading: Reading::Change(|interval| {
            nanoseconds(interval.time(|s| Some(own_work(s)?.in_interpreter))?)
        }),
        source: "the monotonic clock of the thread of runtime-metrics that enters the interpreter",
        description: "How long that thread was in the interpreter, which others wait for meanwhile where there is a \
                      GIL. Without the handlers of the program's log, and without what runs on threads of the \
                      program.",
        absent: "in AWS Lambda, where there is no such thread",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.collector.skipped",
        unit: Unit::Operation,
        needs: &[Source::OwnWork],
        reading: Reading::Counter(Counter::of(|s| Some(own_work(s)?.skipped))),
        source: "runtime-metrics itself",
        description: "What was left out on purpose: reads that are not due yet as the last one took so long (see \
                      runtime.python.mem.python.blocks), and flushes, as memory was short or another flush was under \
                      way. The next flush covers their time.",
        absent: "in AWS Lambda",
        ..DETAILED
    },
    Metric {
        name: "runtime.python.collector.errors",
        unit: Unit::Error,
        needs: &[Source::OwnWork],
        reading: Reading::Counter(Counter::of(|s| Some(own_work(s)?.errors))),
        source: "runtime-metrics itself",
        description: "What failed: flushes for which the interpreter did not answer in time, so that they lack what \
                      only it knows, and flushes that ended by an error of runtime-metrics.",
        absent: "in AWS Lambda",
        ..DETAILED
    },
];

fn pressure(snapshot: &Snapshot, of: Pressure) -> Option<Value> {
    snapshot.process.cgroup.pressure[of as usize].map(Value::Real)
}

/// What is known, each with its tag.
fn tagged<const N: usize>(values: [(&str, Option<Value>); N]) -> Vec<(Member, Value)> {
    let known = values.into_iter().filter_map(|(tag, value)| Some((tag, value?)));
    known.map(|(tag, value)| (Member::Tagged(Tags::from_iter([tag])), value)).collect()
}

fn own_work(snapshot: &Snapshot) -> Option<&OwnWorkFacts> {
    snapshot.own_work.as_ref()
}
