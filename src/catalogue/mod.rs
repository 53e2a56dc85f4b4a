//! The table: one row per metric. Documents, dashboards and tests derive from it.
//!
//! A row is data and one small pure function. The variant of its [`Reading`] is its kind, so that kind and computation
//! cannot disagree. A reading gives `None` for "unknown here", and then nothing is sent.

use self::metric::{Counter, Level, Metric, Reading, Unit, Value, Wire};
use crate::snapshot::{Collections, ResourceUsage, Snapshot, Source};

pub mod absence;
mod detailed;
mod gunicorn;
pub mod incidents;
pub mod metric;
mod program;
pub mod selection;
mod standard;
mod time_to_limit;
mod unit;

/// What the runtime's own names begin with.
pub const PREFIX: &str = "runtime.python.";

/// Every metric, in the order in which they are sent.
pub static CATALOGUE: [Metric;
    DEFAULT.len() + standard::ROWS.len() + program::ROWS.len() + detailed::ROWS.len() + gunicorn::ROWS.len()] =
    joined([DEFAULT, standard::ROWS, program::ROWS, detailed::ROWS, gunicorn::ROWS]);

/// The metrics that every process sends without any setting.
const DEFAULT: &[Metric] = &[
    Metric {
        name: "runtime.python.cpu.time.sys",
        unit: Unit::Second,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ResourceUsage],
        reading: Reading::Time(|s| usage(s)?.system),
        source: "getrusage(RUSAGE_SELF).ru_stime",
        description: "CPU time that the process spent in kernel mode: all threads, including ended ones, without \
                      child processes. Sent at every flush, zeros included.",
        absent: "on Windows, where only the sum of both is read; where a sandbox forbids getrusage",
        opentelemetry: Some("process.cpu.time{cpu.mode=system}"),
    },
    Metric {
        name: "runtime.python.cpu.time.user",
        unit: Unit::Second,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ResourceUsage],
        reading: Reading::Time(|s| usage(s)?.user),
        source: "getrusage(RUSAGE_SELF).ru_utime",
        description: "CPU time that the process spent in user mode: all threads, including ended ones, without child \
                      processes.",
        absent: "on Windows, where only the sum of both is read; where a sandbox forbids getrusage",
        opentelemetry: Some("process.cpu.time{cpu.mode=user}"),
    },
    Metric {
        name: "runtime.python.cpu.percent",
        unit: Unit::Percent,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ResourceUsage],
        reading: Reading::Change(|interval| interval.cpu_percent(|s| Some(usage(s)?.cpu)).map(Value::Real)),
        source: "getrusage(RUSAGE_SELF), on Windows sysinfo, over the monotonic clock",
        description: "CPU time of the process, user and kernel mode, as a percentage of one core: above 100 on several \
                      cores.",
        absent: "for an interval shorter than 0.05 seconds, as between two flushes in a row; for one in which the \
                 process was frozen or suspended for more than three intervals",
        opentelemetry: Some("process.cpu.utilization x 100 x CPUs"),
    },
    Metric {
        name: "runtime.python.cpu.ctx_switch.voluntary",
        unit: Unit::Switch,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ResourceUsage],
        reading: Reading::Counter(Counter::of(|s| usage(s)?.voluntary_switches)),
        source: "getrusage(RUSAGE_SELF).ru_nvcsw",
        description: "How often a thread of the process gave up the CPU to wait: all threads, not only the main one.",
        absent: "on Windows; where a sandbox forbids getrusage",
        opentelemetry: Some("process.context_switches{type=voluntary}"),
    },
    Metric {
        name: "runtime.python.cpu.ctx_switch.involuntary",
        unit: Unit::Switch,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::ResourceUsage],
        reading: Reading::Counter(Counter::of(|s| usage(s)?.involuntary_switches)),
        source: "getrusage(RUSAGE_SELF).ru_nivcsw",
        description: "How often the kernel preempted a thread of the process: all threads, not only the main one.",
        absent: "on Windows; where a sandbox forbids getrusage",
        opentelemetry: Some("process.context_switches{type=involuntary}"),
    },
    Metric {
        name: "runtime.python.gc.count.gen0",
        unit: Unit::Object,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCount],
        reading: Reading::Now(|s| gc_count(s, 0)),
        source: "gc.get_count()[0]",
        description: "Container objects allocated minus those freed since the last collection of generation 0.",
        absent: "while the interpreter does not answer in time, as when C code holds the GIL; while it is negative, as \
                 it may be on free-threaded builds",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.count.gen1",
        unit: Unit::Collection,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCount],
        reading: Reading::Now(|s| gc_count(s, 1)),
        source: "gc.get_count()[1]",
        description: "Collections of generation 0 since the last collection of generation 1.",
        absent: "while the interpreter does not answer in time, as when C code holds the GIL",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.count.gen2",
        unit: Unit::Collection,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCount],
        reading: Reading::Now(|s| gc_count(s, 2)),
        source: "gc.get_count()[2]",
        description: "Collections of generation 1 since the last collection of generation 2.",
        absent: "while the interpreter does not answer in time, as when C code holds the GIL",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.collections.gen0",
        unit: Unit::Collection,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCallback],
        reading: Reading::Counter(Counter::of(|s| Some(collections(s)?.count[0]))),
        source: "our callback in gc.callbacks",
        description: "Collections of generation 0 that finished, automatic and explicit ones.",
        absent: "for an interval in which the program removed our callback from gc.callbacks",
        opentelemetry: Some("cpython.gc.collections{generation=0}"),
    },
    Metric {
        name: "runtime.python.gc.collections.gen1",
        unit: Unit::Collection,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCallback],
        reading: Reading::Counter(Counter::of(|s| Some(collections(s)?.count[1]))),
        source: "our callback in gc.callbacks",
        description: "Collections of generation 1 that finished, automatic and explicit ones.",
        absent: "for an interval in which the program removed our callback from gc.callbacks",
        opentelemetry: Some("cpython.gc.collections{generation=1}"),
    },
    Metric {
        name: "runtime.python.gc.collections.gen2",
        unit: Unit::Collection,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCallback],
        reading: Reading::Counter(Counter::of(|s| Some(collections(s)?.count[2]))),
        source: "our callback in gc.callbacks",
        description: "Collections of generation 2 (full collections) that finished, automatic and explicit ones.",
        absent: "for an interval in which the program removed our callback from gc.callbacks",
        opentelemetry: Some("cpython.gc.collections{generation=2}"),
    },
    Metric {
        name: "runtime.python.gc.pause.time",
        unit: Unit::Nanosecond,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCallback],
        reading: Reading::Counter(Counter::of(|s| Some(collections(s)?.pause.iter().sum()))),
        source: "our callback in gc.callbacks, monotonic clock",
        description: "Time spent in garbage collections that finished in the interval, all generations. The program is \
                      paused during that time.",
        absent: "for an interval in which the program removed our callback from gc.callbacks",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.pause.max",
        unit: Unit::Nanosecond,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::GcCallback],
        reading: Reading::Aggregate(|s| collections(s)?.longest_pause.into_iter().max().map(Value::Whole)),
        source: "our callback in gc.callbacks, monotonic clock",
        description: "The longest single garbage collection that finished in the interval; 0 if there was none.",
        absent: "for an interval in which the program removed our callback from gc.callbacks",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.rss",
        unit: Unit::Byte,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Memory],
        reading: Reading::Now(|s| s.process.resident.map(Value::Whole)),
        source: "/proc/self/statm on Linux, sysinfo elsewhere",
        description: "Resident set size: physical memory that the process occupies, including shared pages.",
        absent: "where the operating system hides it",
        opentelemetry: Some("process.memory.usage"),
    },
    Metric {
        name: "runtime.python.thread_count",
        unit: Unit::Thread,
        level: Level::Default,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Threads],
        reading: Reading::Now(|s| s.process.threads.map(Value::Whole)),
        source: "the link count of /proc/self/task",
        description: "Operating-system threads of the process, including those of native libraries and ours.",
        absent: "on macOS and Windows; where the operating system hides it",
        opentelemetry: Some("process.thread.count"),
    },
];

const fn joined<const TABLES: usize, const ROWS: usize>(tables: [&[Metric]; TABLES]) -> [Metric; ROWS] {
    let mut rows = [tables[0][0]; ROWS];
    let (mut table, mut before) = (0, 0);
    while table < TABLES {
        let mut row = 0;
        while row < tables[table].len() {
            rows[before + row] = tables[table][row];
            row += 1;
        }
        before += row;
        table += 1;
    }
    assert!(before == ROWS);
    rows
}

fn usage(snapshot: &Snapshot) -> Option<&ResourceUsage> {
    snapshot.usage.as_ref()
}

fn collections(snapshot: &Snapshot) -> Option<&Collections> {
    snapshot.collections.as_ref()
}

fn gc_count(snapshot: &Snapshot, generation: usize) -> Option<Value> {
    let count = snapshot.interpreter.as_ref()?.gc_count?[generation];
    u64::try_from(count).ok().map(Value::Whole)
}
