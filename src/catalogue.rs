//! The table: one row per metric. Documents, dashboards and tests derive from it.
//!
//! A row is data and one small pure function. The variant of its [`Reading`] is its kind, so that kind and
//! computation cannot disagree. A reading gives `None` for "unknown here", and nothing is sent.

use std::fmt;
use std::time::Duration;

use crate::interval::Interval;
use crate::selection::Selection;
use crate::snapshot::{Collections, Snapshot, Usage};

/// What every name begins with.
pub const PREFIX: &str = "runtime.python.";

/// Every metric there is, in the order in which they are sent.
pub static CATALOGUE: [Metric; 15] = [
    Metric {
        name: "runtime.python.cpu.time.sys",
        unit: Unit::Second,
        level: Level::Default,
        reading: Reading::Change(|interval| interval.time(|s| usage(s)?.system).map(seconds)),
        source: "getrusage(RUSAGE_SELF).ru_stime",
        description: "CPU time the process spent in the kernel: all threads, also ended ones, not its children. \
                      Sent at every flush, zero included.",
        absent: "on Windows",
        opentelemetry: Some("process.cpu.time{cpu.mode=system}"),
    },
    Metric {
        name: "runtime.python.cpu.time.user",
        unit: Unit::Second,
        level: Level::Default,
        reading: Reading::Change(|interval| interval.time(|s| usage(s)?.user).map(seconds)),
        source: "getrusage(RUSAGE_SELF).ru_utime",
        description: "CPU time the process spent in user mode: all threads, also ended ones, not its children.",
        absent: "on Windows",
        opentelemetry: Some("process.cpu.time{cpu.mode=user}"),
    },
    Metric {
        name: "runtime.python.cpu.percent",
        unit: Unit::Percent,
        level: Level::Default,
        reading: Reading::Change(|interval| interval.percent(|s| Some(usage(s)?.cpu)).map(Value::Real)),
        source: "getrusage(RUSAGE_SELF) over the monotonic clock",
        description: "CPU time of the process, user and kernel, as a percentage of one core: \
                      above 100 on several cores.",
        absent: "once when the process was frozen or suspended for more than three intervals",
        opentelemetry: Some("process.cpu.utilization x 100 x CPUs"),
    },
    Metric {
        name: "runtime.python.cpu.ctx_switch.voluntary",
        unit: Unit::Switch,
        level: Level::Default,
        reading: Reading::Change(|interval| {
            interval.growth(|s| usage(s)?.voluntary_switches).map(Value::Whole)
        }),
        source: "getrusage(RUSAGE_SELF).ru_nvcsw",
        description: "Times a thread of the process gave up the CPU to wait: the whole process, every thread.",
        absent: "on Windows",
        opentelemetry: Some("process.context_switches{type=voluntary}"),
    },
    Metric {
        name: "runtime.python.cpu.ctx_switch.involuntary",
        unit: Unit::Switch,
        level: Level::Default,
        reading: Reading::Change(|interval| {
            interval.growth(|s| usage(s)?.involuntary_switches).map(Value::Whole)
        }),
        source: "getrusage(RUSAGE_SELF).ru_nivcsw",
        description: "Times the kernel took the CPU away from a thread of the process: \
                      the whole process, every thread.",
        absent: "on Windows",
        opentelemetry: Some("process.context_switches{type=involuntary}"),
    },
    Metric {
        name: "runtime.python.gc.count.gen0",
        unit: Unit::Object,
        level: Level::Default,
        reading: Reading::Now(|s| gc_count(s, 0)),
        source: "gc.get_count()[0]",
        description: "Container objects allocated, less those freed, since the last collection of generation 0.",
        absent: "while the interpreter does not answer in time (C code holds the GIL)",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.count.gen1",
        unit: Unit::Collection,
        level: Level::Default,
        reading: Reading::Now(|s| gc_count(s, 1)),
        source: "gc.get_count()[1]",
        description: "Collections of generation 0 since the last collection of generation 1.",
        absent: "while the interpreter does not answer in time (C code holds the GIL)",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.count.gen2",
        unit: Unit::Collection,
        level: Level::Default,
        reading: Reading::Now(|s| gc_count(s, 2)),
        source: "gc.get_count()[2]",
        description: "Collections of generation 1 since the last collection of generation 2.",
        absent: "while the interpreter does not answer in time (C code holds the GIL)",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.collections.gen0",
        unit: Unit::Collection,
        level: Level::Default,
        reading: Reading::Change(|interval| collected(interval, 0)),
        source: "our entry in gc.callbacks",
        description: "Collections of generation 0 that ended, automatic and explicit.",
        absent: "for an interval in which the program removed our entry from gc.callbacks",
        opentelemetry: Some("cpython.gc.collections{generation=0}"),
    },
    Metric {
        name: "runtime.python.gc.collections.gen1",
        unit: Unit::Collection,
        level: Level::Default,
        reading: Reading::Change(|interval| collected(interval, 1)),
        source: "our entry in gc.callbacks",
        description: "Collections of generation 1 that ended, automatic and explicit.",
        absent: "for an interval in which the program removed our entry from gc.callbacks",
        opentelemetry: Some("cpython.gc.collections{generation=1}"),
    },
    Metric {
        name: "runtime.python.gc.collections.gen2",
        unit: Unit::Collection,
        level: Level::Default,
        reading: Reading::Change(|interval| collected(interval, 2)),
        source: "our entry in gc.callbacks",
        description: "Collections of generation 2, the full ones, that ended, automatic and explicit.",
        absent: "for an interval in which the program removed our entry from gc.callbacks",
        opentelemetry: Some("cpython.gc.collections{generation=2}"),
    },
    Metric {
        name: "runtime.python.gc.pause.time",
        unit: Unit::Nanosecond,
        level: Level::Default,
        reading: Reading::Change(|interval| {
            interval.growth(|s| Some(collections(s)?.pause)).map(Value::Whole)
        }),
        source: "our entry in gc.callbacks, monotonic clock",
        description: "Time spent in garbage collections that ended in the interval, all generations: \
                      the program stood still for it.",
        absent: "for an interval in which the program removed our entry from gc.callbacks",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gc.pause.max",
        unit: Unit::Nanosecond,
        level: Level::Default,
        reading: Reading::Aggregate(|s| Some(Value::Whole(collections(s)?.longest_pause))),
        source: "our entry in gc.callbacks, monotonic clock",
        description: "The longest single garbage collection that ended in the interval; 0 if there was none.",
        absent: "for an interval in which the program removed our entry from gc.callbacks",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.mem.rss",
        unit: Unit::Byte,
        level: Level::Default,
        reading: Reading::Now(|s| s.process.resident.map(Value::Whole)),
        source: "/proc/self/statm; elsewhere sysinfo",
        description: "Resident set: physical memory the process occupies, shared pages included.",
        absent: "where the operating system hides it",
        opentelemetry: Some("process.memory.usage"),
    },
    Metric {
        name: "runtime.python.thread_count",
        unit: Unit::Thread,
        level: Level::Default,
        reading: Reading::Now(|s| s.process.threads.map(Value::Whole)),
        source: "/proc/self/task",
        description: "Operating-system threads of the process: Python's, ours, and those of native libraries.",
        absent: "where the operating system hides it; on macOS and Windows",
        opentelemetry: Some("process.thread.count"),
    },
];

/// A row of the catalogue.
#[derive(Debug)]
pub struct Metric {
    /// Full name on the wire.
    pub name: &'static str,
    /// What one of the value is.
    pub unit: Unit,
    /// The lowest level at which it is sent.
    pub level: Level,
    /// How its value is computed; the variant is its kind.
    pub reading: Reading,
    /// Where the fact comes from.
    pub source: &'static str,
    /// What the value means, in full sentences.
    pub description: &'static str,
    /// When it is not sent, as the end of the sentence "Not sent ...".
    pub absent: &'static str,
    /// The nearest OpenTelemetry metric, if there is one.
    pub opentelemetry: Option<&'static str>,
}

/// How a row is computed. The variant is the metric's kind.
#[derive(Debug)]
pub enum Reading {
    /// The value at the flush.
    Now(fn(&Snapshot) -> Option<Value>),
    /// What happened between two flushes.
    Change(fn(&Interval) -> Option<Value>),
    /// An aggregate of what was observed since the last flush.
    Aggregate(fn(&Snapshot) -> Option<Value>),
}

impl Reading {
    /// The kind as documents name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Now(_) => "now",
            Self::Change(_) => "change",
            Self::Aggregate(_) => "aggregate",
        }
    }

    fn value(&self, interval: &Interval) -> Option<Value> {
        match self {
            Self::Now(read) | Self::Aggregate(read) => read(interval.end()),
            Self::Change(read) => read(interval),
        }
    }
}

/// The number of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count, a size, a whole number of nanoseconds.
    Whole(u64),
    /// Seconds, percentages.
    Real(f64),
}

/// What one of a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Byte.
    Byte,
    /// Garbage collection.
    Collection,
    /// Nanosecond.
    Nanosecond,
    /// Container object.
    Object,
    /// Percent of one core.
    Percent,
    /// Second.
    Second,
    /// Context switch.
    Switch,
    /// Operating-system thread.
    Thread,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Byte => "byte",
            Self::Collection => "collection",
            Self::Nanosecond => "nanosecond",
            Self::Object => "object",
            Self::Percent => "percent",
            Self::Second => "second",
            Self::Switch => "switch",
            Self::Thread => "thread",
        })
    }
}

/// How much is sent: a level holds the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The names that ddtrace sends.
    #[default]
    Default,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
        })
    }
}

/// One value of one metric.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The row it belongs to.
    pub metric: &'static Metric,
    /// Its number.
    pub value: Value,
}

/// The samples of an interval that are selected, in catalogue order; what is unknown is left out.
pub fn samples<'a>(selection: Selection, interval: &'a Interval<'a>) -> impl Iterator<Item = Sample> + 'a {
    let selected = CATALOGUE.iter().enumerate().filter(move |(row, _)| selection.contains(*row));
    selected.filter_map(move |(_, metric)| {
        let value = metric.reading.value(interval)?;
        Some(Sample { metric, value })
    })
}

fn usage(snapshot: &Snapshot) -> Option<&Usage> {
    snapshot.usage.as_ref()
}

fn collections(snapshot: &Snapshot) -> Option<&Collections> {
    snapshot.collections.as_ref()
}

fn collected(interval: &Interval, generation: usize) -> Option<Value> {
    interval.growth(|s| Some(collections(s)?.count[generation])).map(Value::Whole)
}

fn gc_count(snapshot: &Snapshot, generation: usize) -> Option<Value> {
    Some(Value::Whole(snapshot.interpreter.as_ref()?.gc_count?[generation]))
}

fn seconds(time: Duration) -> Value {
    Value::Real(time.as_secs_f64())
}
