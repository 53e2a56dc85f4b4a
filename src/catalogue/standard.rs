//! The rows of the standard level: why a process is slow, and what will end it.

use super::metric::{Counter, Level, Metric, Reading, Unit, Value, Wire};
use super::time_to_limit::TIME_TO_LIMIT;
use super::usage;
use crate::interval::Interval;
use crate::snapshot::{MemoryParts, Snapshot, Source, ThreadTimes};

/// Fewer major page faults per second than this are those of a program that starts or maps a file.
const MIN_FAULT_RATE: f64 = 10.0;

/// The metrics of the standard level, then its alarms.
pub const ROWS: &[Metric] = &[
    Metric {
        name: "runtime.python.os.hiccup.max",
        unit: Unit::Nanosecond,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Probe],
        reading: Reading::Aggregate(|s| nanoseconds(s.probe.overslept?)),
        source: "a thread of runtime-metrics that sleeps for 0.5 to 2 seconds at a time, as for gil.wait.max",
        description: "How much later than it wanted a sleeping thread was woken, at most. It needs nothing of Python: \
                      where this is high, it is the machine or its limits, not the program.",
        absent: "in AWS Lambda; for an interval without a probe",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gil.wait.p95",
        unit: Unit::Nanosecond,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Probe],
        reading: Reading::Aggregate(|s| nanoseconds(s.probe.wait_p95?)),
        source: "a thread of runtime-metrics that enters the interpreter every 0.5 seconds, or every second while the \
                 process is idle; less often, down to every 2 seconds, where that costs more than 20 µs of CPU each \
                 time",
        description: "How long a thread waits for the GIL: 95 of 100 waits took no longer. A single thread that \
                      computes hands it over after 5 milliseconds (sys.getswitchinterval()), so up to some ten times \
                      that means busy, not contended. On free-threaded builds threads wait only where all are stopped.",
        absent: "in AWS Lambda; for an interval without a probe that was answered",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gil.wait.max",
        unit: Unit::Nanosecond,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Probe],
        reading: Reading::Aggregate(|s| nanoseconds(s.probe.longest_wait?)),
        source: "a thread of runtime-metrics that enters the interpreter every 0.5 seconds, or every second while the \
                 process is idle; less often, down to every 2 seconds, where that costs more than 20 µs of CPU each \
                 time",
        description: "The longest that a thread waited for the GIL, also if it still waits: a C extension that keeps \
                      it for seconds shows while it does.",
        absent: "in AWS Lambda; for an interval without a probe",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.cpu.run_delay",
        unit: Unit::Nanosecond,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ThreadTimes],
        reading: Reading::Change(|interval| {
            nanoseconds(interval.threads()?.map(|thread| thread.delay).sum())
        }),
        source: "/proc/self/task/*/schedstat, field 2",
        description: "Time in which threads of the process could have run, but waited for a CPU: the sum over its \
                      threads. A thread that ends takes its last part with it.",
        absent: "on anything but Linux; with more than 256 threads; where the kernel keeps no such statistics",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.cpu.thread.max_percent",
        unit: Unit::Percent,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ThreadTimes],
        reading: Reading::Change(busiest_thread),
        source: "/proc/self/task/*/schedstat, field 1, over the monotonic clock",
        description: "CPU time of the busiest thread, as a percentage of one core: near 100 while the host looks idle, \
                      one thread is all that runs, as where the GIL is what is contended.",
        absent: "where runtime.python.cpu.run_delay or runtime.python.cpu.percent is absent",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.cpu.limit",
        unit: Unit::Core,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Cgroup],
        reading: Reading::Now(|s| s.process.cgroup.cpus.map(Value::Real)),
        source: "cpu.max of the cgroup and its ancestors, or cpu.cfs_quota_us; sched_getaffinity. Which cgroups have \
                 limits is looked up once a minute, here and below",
        description: "How many CPUs the process may use: the smallest quota of a cgroup that holds for it, or the CPUs \
                      that it may run on.",
        absent: "on anything but Linux",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.cpu.throttled.percent",
        unit: Unit::Percent,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Cgroup],
        reading: Reading::Change(throttled_percent),
        source: "cpu.stat of the nearest cgroup with a quota: nr_throttled, nr_periods",
        description: "In how many of the periods of its CPU quota, mostly of 0.1 seconds, the container used it up and \
                      was stopped until the next one.",
        absent: "without a CPU quota; for an interval in which the container did not run",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.rss.anon",
        unit: Unit::Byte,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::MemoryParts],
        reading: Reading::Now(|s| parts(s).anonymous.map(Value::Whole)),
        source: "/proc/self/status, RssAnon",
        description: "The part of the resident set that belongs to no file: what Python and native libraries have \
                      allocated.",
        absent: "on anything but Linux",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.rss.peak",
        unit: Unit::Byte,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::MemoryParts],
        reading: Reading::Now(|s| parts(s).peak.map(Value::Whole)),
        source: "/proc/self/status, VmHWM",
        description: "The largest resident set that the process has ever had, also between two flushes.",
        absent: "on anything but Linux",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.headroom.percent",
        unit: Unit::Percent,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Cgroup],
        reading: Reading::Now(headroom_percent),
        source: "memory.max, memory.current and memory.stat of the cgroup and its ancestors, or those of version 1",
        description: "How much of the container's memory limit is left, not counting what the kernel can drop at once. \
                      At 0 the kernel kills a process. It is that of the whole container, not of the process.",
        absent: "without a memory limit below the machine's memory",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.python.blocks",
        unit: Unit::Block,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::PythonBlocks],
        reading: Reading::Now(|s| s.interpreter.as_ref()?.blocks.map(Value::Whole)),
        source: "sys.getallocatedblocks()",
        description: "Blocks of memory that Python's own allocator has handed out, mostly one for each object. Where \
                      they grow with runtime.python.mem.rss.anon, objects are kept; where they do not, the memory is \
                      that of a native library, or fragmented.",
        absent: "more often than once a minute if counting them took longer than 0.2 ms, or once in 10 minutes if \
                 longer than 1 ms; any more, after a warning, if it took longer than 5 ms twice in a row; with \
                 PYTHONMALLOC=malloc; on free-threaded builds; while the interpreter does not answer in time",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.event_loop.delay.p95",
        unit: Unit::Nanosecond,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::EventLoops],
        reading: Reading::Aggregate(|s| nanoseconds(s.event_loops.delay_p95?)),
        source: "a function in place of select() of the loop's selector, which times the loop's iterations; where the \
                 loop has none, as in uvloop, call_later() 10 times a second, or twice while the process is idle",
        description: "How long a callback that becomes ready at a random moment waits for its event loop: 95 of 100 \
                      wait no longer. Over all running loops, from the length of each iteration, to within 6 %; 0 if \
                      they are idle for more than 95 % of the time. Blocking calls and long computations in async \
                      code raise it.",
        absent: "without a running event loop of asyncio; in AWS Lambda; where gevent or eventlet has patched threads",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.event_loop.delay.max",
        unit: Unit::Nanosecond,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::EventLoops],
        reading: Reading::Aggregate(|s| nanoseconds(s.event_loops.longest_delay?)),
        source: "as runtime.python.event_loop.delay.p95",
        description: "The longest that an event loop kept its callbacks waiting: its longest iteration, also one that \
                      goes on. In uvloop the longest delay of a call_later(), which may miss a part of it.",
        absent: "without a running event loop of asyncio; in AWS Lambda; where gevent or eventlet has patched threads",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.event_loop.utilization",
        unit: Unit::Percent,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::EventLoops],
        reading: Reading::Change(busiest_loop),
        source: "a function in place of select() of the loop's selector, over the monotonic clock",
        description: "How much of the time the busiest event loop ran callbacks and did not wait for something to do. \
                      Near 100, requests begin to wait for each other.",
        absent: "without a running event loop of asyncio; in AWS Lambda; where gevent or eventlet has patched threads; \
                 for loops without a selector of the standard library, such as uvloop's",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.asyncio.tasks",
        unit: Unit::Task,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Tasks],
        reading: Reading::Now(|s| s.interpreter.as_ref()?.tasks.map(Value::Whole)),
        source: "the length of asyncio's registry of tasks",
        description: "Tasks of all event loops: those that are not done, and those that are done but still referenced. \
                      If it grows without end, tasks are created faster than they end, or never end.",
        absent: "where the program has not imported asyncio; from CPython 3.14 on, which has no such registry; while \
                 the interpreter does not answer in time; in AWS Lambda",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.executor.queue_depth",
        unit: Unit::Item,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Executors],
        reading: Reading::Now(|s| s.interpreter.as_ref()?.queue_depth.map(Value::Whole)),
        source: "the queues of concurrent.futures.ThreadPoolExecutor, which asyncio's run_in_executor() uses, and the \
                 statistics of anyio's limiter of threads",
        description: "Calls that wait for a thread of a pool: the most of any pool. If it does not fall to 0, the pool \
                      is too small for its work.",
        absent: "without a pool of threads; with more than 512 threads in pools; while the interpreter does not answer \
                 in time; in AWS Lambda",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.accept_queue.depth",
        unit: Unit::Connection,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::AcceptQueue],
        reading: Reading::Now(|s| s.accept_queue.map(Value::Whole)),
        source: "getsockopt(TCP_INFO); unix_diag of the kernel for Unix sockets; listeners are searched for once a \
                 minute and, in the first minute, at each flush that finds another number of descriptors open, among \
                 those below 4096, up to 256 of them",
        description: "Connections that wait until the program accepts them, at the listening socket with the most of \
                      them: requests that no trace shows yet. Processes that share a listener, as workers do, all \
                      report its queue: take the maximum or the average, never the sum.",
        absent: "on anything but Linux; without a listening socket; for Unix sockets where the kernel does not \
                 diagnose them; in AWS Lambda; for TCP in Gunicorn's master and workers while gunicorn.backlog is \
                 sent, which counts the same connections",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.collected",
        unit: Unit::Object,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCallback, Source::GcObjects],
        reading: Reading::Counter(Counter::of(|s| Some(s.collections?.collected))),
        source: "our callback in gc.callbacks",
        description: "Objects that garbage collections found unreachable: cycles, which reference counts do not free.",
        absent: "for an interval in which the program removed our callback from gc.callbacks",
        opentelemetry: Some("cpython.gc.collected_objects"),
    },
    Metric {
        name: "runtime.python.fd.count",
        unit: Unit::Descriptor,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Descriptors],
        reading: Reading::Now(|s| s.process.descriptors.map(Value::Whole)),
        source: "/proc/self/fd",
        description: "Open file descriptors: files, sockets, pipes.",
        absent: "on anything but Linux; where it is hidden",
        opentelemetry: Some("process.unix.file_descriptor.count"),
    },
    Metric {
        name: "runtime.python.fd.percent",
        unit: Unit::Percent,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Descriptors],
        reading: Reading::Now(descriptor_percent),
        source: "/proc/self/fd and getrlimit(RLIMIT_NOFILE)",
        description: "Open file descriptors as a percentage of the soft limit, at which opening another one fails.",
        absent: "where runtime.python.fd.count is absent; without a limit",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.process.uptime",
        unit: Unit::Second,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Uptime],
        reading: Reading::Now(|s| Some(Value::Real(s.process.uptime?.as_secs_f64()))),
        source: "/proc/self/stat, field 22, and the boot clock",
        description: "Time since the process started or, in a forked process, since it was forked.",
        absent: "on anything but Linux",
        opentelemetry: Some("process.uptime"),
    },
    Metric {
        name: "runtime.python.collector.cpu",
        unit: Unit::Nanosecond,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::OwnCpu],
        reading: Reading::Change(|interval| nanoseconds(interval.time(|s| s.own_cpu)?)),
        source: "the CPU clock of the threads of runtime-metrics",
        description: "CPU time that the threads of runtime-metrics used, up to the end of the previous flush. Without \
                      what they run on threads of the program: some 0.5 microseconds in each garbage collection.",
        absent: "on Windows; in AWS Lambda, where there are no such threads",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.time_to_limit",
        unit: Unit::Second,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Cgroup, Source::LimitApproach],
        reading: Reading::TaggedAlarm(TIME_TO_LIMIT),
        source: "the memory of runtime.python.mem.headroom.percent, once a minute; /proc/self/status; \
                 sys.getallocatedblocks(); mallinfo2() of glibc, every 10 minutes while the limit is near, and never \
                 again once it took longer than 5 ms",
        description: "When the container will reach its memory limit, if its memory goes on growing as it has for the \
                      last 15 to 30 minutes: less than 6 hours from now, or not sent. What levels off, or falls again \
                      and again, does not count; each process begins to watch when it starts. cause is what makes up \
                      most of the growth of this process: python (objects), fragmentation (what malloc has free and \
                      cannot use), mmap (mapped files and shared memory), native (other memory, which objects are as \
                      well if they are few and large, or if blocks are not counted), or other, if this process has \
                      hardly grown. Where there is nothing to report, 6 hours are sent instead of 0.",
        absent: "without a memory limit below the machine's memory; with more than 2 minutes between two flushes; \
                 in AWS Lambda",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.limit_hits",
        unit: Unit::Hit,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Cgroup],
        reading: Reading::Alarm(|interval| interval.growth(|s| s.process.cgroup.limit_hits)),
        source: "memory.events.local of the nearest cgroup with a limit: max; memory.failcnt in version 1",
        description: "How often the container reached its memory limit, so that the kernel had to take memory from it. \
                      If that is no longer enough, it kills a process.",
        absent: "without a memory limit below the machine's memory",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.oom_kills",
        unit: Unit::Process,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Cgroup],
        reading: Reading::Alarm(|interval| interval.growth(|s| s.process.cgroup.oom_kills)),
        source: "memory.events.local of the cgroup: oom_kill; memory.oom_control in version 1",
        description: "Processes of the container that the kernel killed for lack of memory. Each process that is left \
                      reports all of them. Where the kernel kills the whole container, none is left to report.",
        absent: "outside cgroups; in the root of the cgroups of version 2",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.uncollectable",
        unit: Unit::Object,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCallback, Source::GcObjects],
        reading: Reading::Alarm(|interval| interval.growth(|s| Some(s.collections?.uncollectable))),
        source: "our callback in gc.callbacks",
        description: "Objects that garbage collections found unreachable and could not free: a leak, mostly of an \
                      extension module.",
        absent: "for an interval in which the program removed our callback from gc.callbacks",
        opentelemetry: Some("cpython.gc.uncollectable_objects"),
    },
    Metric {
        name: "runtime.python.mem.swap",
        unit: Unit::Byte,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::MemoryParts],
        reading: Reading::Alarm(|interval| parts(interval.end()).swapped),
        source: "/proc/self/status, VmSwap",
        description: "Memory of the process that was swapped out: each use of it waits for a disk.",
        absent: "on anything but Linux",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.faults.major",
        unit: Unit::Fault,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ResourceUsage],
        reading: Reading::Alarm(major_faults),
        source: "getrusage(RUSAGE_SELF).ru_majflt",
        description: "Page faults for which the kernel had to read from a disk, if there were more than 10 per second: \
                      memory is so short that it drops pages that are in use.",
        absent: "where the operating system does not count them",
        opentelemetry: Some("process.paging.faults{system.paging.fault.type=major}"),
    },
];

pub(super) fn parts(snapshot: &Snapshot) -> &MemoryParts {
    &snapshot.process.memory
}

pub(super) fn nanoseconds(time: std::time::Duration) -> Option<Value> {
    time.as_nanos().try_into().ok().map(Value::Whole)
}

fn busiest_thread(interval: &Interval) -> Option<Value> {
    let busiest = interval.threads()?.map(|ThreadTimes { cpu, .. }| cpu).max()?;
    interval.cpu_percent_of(busiest).map(Value::Real)
}

fn busiest_loop(interval: &Interval) -> Option<Value> {
    let running = interval.event_loops().filter(|times| !times.known.is_zero());
    let share = interval.percent_of(running.map(|times| times.busy).max()?)?;
    // An iteration that began before the interval is counted where it ends.
    Some(Value::Real(share.min(100.0)))
}

fn throttled_percent(interval: &Interval) -> Option<Value> {
    let periods = interval.growth(|s| Some(s.process.cgroup.periods?.all))?;
    percent(interval.growth(|s| Some(s.process.cgroup.periods?.throttled))?, periods)
}

fn headroom_percent(snapshot: &Snapshot) -> Option<Value> {
    let memory = snapshot.process.cgroup.memory?;
    percent(memory.limit.saturating_sub(memory.working_set), memory.limit)
}

fn descriptor_percent(snapshot: &Snapshot) -> Option<Value> {
    percent(snapshot.process.descriptors?, snapshot.process.max_descriptors?)
}

fn major_faults(interval: &Interval) -> Option<u64> {
    let faults = |s: &Snapshot| usage(s)?.major_faults;
    Some(if interval.rate(faults)? > MIN_FAULT_RATE { interval.growth(faults)? } else { 0 })
}

/// A part as a percentage of the whole; `None` of nothing.
#[expect(clippy::cast_precision_loss, reason = "A percentage needs no more precision.")]
pub(super) fn percent(part: u64, whole: u64) -> Option<Value> {
    (whole > 0).then(|| Value::Real(100.0 * part as f64 / whole as f64))
}
