//! The table: one row per metric. Documents, dashboards and tests derive from it.
//!
//! A row is data and one small pure function. The variant of its [`Reading`] is its kind, so that kind and
//! computation cannot disagree. A reading gives `None` for "unknown here", and nothing is sent.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::interval::Interval;
use crate::selection::Selection;
use crate::snapshot::{
    self, Collections, Ended, Observations, Record, Requests, Running, Snapshot, Usage, Workers,
};

/// What every name begins with.
pub const PREFIX: &str = "runtime.python.";

/// Every metric there is, in the order in which they are sent.
pub static CATALOGUE: [Metric; 29] = [
    Metric {
        name: "runtime.python.cpu.time.sys",
        unit: Unit::Second,
        level: Level::Default,
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
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
        wire: Wire::Chosen,
        reading: Reading::Now(|s| s.process.threads.map(Value::Whole)),
        source: "/proc/self/task",
        description: "Operating-system threads of the process: Python's, ours, and those of native libraries.",
        absent: "where the operating system hides it; on macOS and Windows",
        opentelemetry: Some("process.thread.count"),
    },
    Metric {
        name: "gunicorn.requests",
        unit: Unit::Request,
        level: Level::Default,
        wire: Wire::Count,
        reading: Reading::Change(|interval| {
            interval.growth_from_zero(|s| Some(ended(s)?.count)).map(Value::Whole)
        }),
        source: "requests that ended, seen by the worker's hooks or around its ASGI application",
        description: "Requests that a Gunicorn worker has answered, or failed to.",
        absent: "outside Gunicorn's workers; where Gunicorn's statsd_host sends it",
        opentelemetry: Some("http.server.request.duration (count)"),
    },
    Metric {
        name: "gunicorn.request.status",
        unit: Unit::Request,
        level: Level::Default,
        wire: Wire::Count,
        reading: Reading::Family(Family {
            suffix: Some("NNN"),
            tags: &[],
            members: |interval| by_status(interval).unwrap_or_default(),
        }),
        source: "the status of the answer; 500 where the application raised before it began one, unless the client had gone",
        description: "The same by HTTP status, which ends the name: gunicorn.request.status.404.",
        absent: "for a status that the interval did not have; where gunicorn.requests is not",
        opentelemetry: Some("http.server.request.duration{http.response.status_code} (count)"),
    },
    Metric {
        name: "gunicorn.request.duration",
        unit: Unit::Millisecond,
        level: Level::Default,
        wire: Wire::Timing,
        reading: Reading::Observations(|s| Some(&ended(s)?.durations)),
        source: "monotonic clock, from before the application to after its answer",
        description: "How long each request took, also one that raised. Above 4,096 in an interval a uniform choice \
                      of as many is sent, with its sample rate.",
        absent: "without requests; where gunicorn.requests is not",
        opentelemetry: Some("http.server.request.duration"),
    },
    Metric {
        name: "gunicorn.request.queue_time",
        unit: Unit::Millisecond,
        level: Level::Default,
        wire: Wire::Timing,
        reading: Reading::Observations(|s| Some(&requests(s)?.queue_times)),
        source: "the header X-Request-Start, against the wall clock",
        description: "How long each request had been on its way from the proxy when its worker began with it.",
        absent: "for requests without the header, or with one from the future or of more than a day ago",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.critical",
        unit: Unit::Record,
        level: Level::Default,
        wire: Wire::Count,
        reading: Reading::Change(|interval| recorded(interval, Record::Critical)),
        source: "a handler on the logger gunicorn.error",
        description: "Records of the level CRITICAL on Gunicorn's own logger, not on the application's, that its log level lets \
                      through.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.error",
        unit: Unit::Record,
        level: Level::Default,
        wire: Wire::Count,
        reading: Reading::Change(|interval| recorded(interval, Record::Error)),
        source: "a handler on the logger gunicorn.error",
        description: "Records of the level ERROR without an exception on Gunicorn's own logger.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.warning",
        unit: Unit::Record,
        level: Level::Default,
        wire: Wire::Count,
        reading: Reading::Change(|interval| recorded(interval, Record::Warning)),
        source: "a handler on the logger gunicorn.error",
        description: "Records of the level WARNING on Gunicorn's own logger.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.exception",
        unit: Unit::Record,
        level: Level::Default,
        wire: Wire::Count,
        reading: Reading::Change(|interval| recorded(interval, Record::Exception)),
        source: "a handler on the logger gunicorn.error",
        description: "Records of the level ERROR with an exception on Gunicorn's own logger.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.workers",
        unit: Unit::Worker,
        level: Level::Default,
        wire: Wire::Gauge,
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["app", "state"],
            members: |interval| workers(interval.end()).unwrap_or_default(),
        }),
        source: "requests in flight, which workers note in memory shared with the master; CPU ticks where that is asked for",
        description: "Workers of a Gunicorn master by what they do: state:working if they serve a request, \
                      state:idle if not. app is the name that the process title shows.",
        absent: "outside Gunicorn's master",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.is_running",
        unit: Unit::Status,
        level: Level::Default,
        wire: Wire::ServiceCheck,
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["app"],
            members: |interval| running(interval.end()).into_iter().collect(),
        }),
        source: "the workers that Gunicorn's master has",
        description: "A service check, without runtime-id: OK (0) while the master has workers, CRITICAL (2) without and \
                      at its end.",
        absent: "outside Gunicorn's master; after SIGKILL; while another master serves in its place (USR2)",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.backlog",
        unit: Unit::Connection,
        level: Level::Default,
        wire: Wire::Histogram,
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["app"],
            members: |interval| backlog(interval.end()).into_iter().collect(),
        }),
        source: "getsockopt(TCP_INFO) of the master's listeners",
        description: "Connections that wait for a worker to accept them, on all listeners of a Gunicorn master together.",
        absent: "outside Gunicorn's master; but on Linux; for Unix sockets",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.worker.requests.active",
        unit: Unit::Request,
        level: Level::ByName,
        wire: Wire::Gauge,
        reading: Reading::Now(|s| Some(Value::Whole(requests(s)?.active))),
        source: "requests in flight",
        description: "Requests that a Gunicorn worker is serving: the busy threads of gthread.",
        absent: "outside Gunicorn's workers",
        opentelemetry: Some("http.server.active_requests"),
    },
    Metric {
        name: "gunicorn.worker.connections",
        unit: Unit::Connection,
        level: Level::ByName,
        wire: Wire::Gauge,
        reading: Reading::Now(|s| Some(Value::Whole(s.interpreter.as_ref()?.server()?.connections?))),
        source: "the worker's own count: nr_conns of gthread and asgi, the pool of gevent",
        description: "Connections that a Gunicorn worker holds, with and without a request.",
        absent: "outside Gunicorn's gthread, gevent and asgi workers; while the interpreter does not answer in time",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.worker.busy.percent",
        unit: Unit::Percent,
        level: Level::ByName,
        wire: Wire::Gauge,
        reading: Reading::Change(busy_percent),
        source: "time in requests over time and capacity: 1, the threads of gthread, or worker_connections",
        description: "How much of what a Gunicorn worker could serve at once was in use, on average over the interval: at \
                      100 it had no thread left.",
        absent: "outside Gunicorn's workers; for UvicornWorker, which has no limit",
        opentelemetry: None,
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
    /// Its DogStatsD type.
    pub wire: Wire,
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
    /// Every single value that was observed since the last flush.
    Observations(fn(&Snapshot) -> Option<&Observations>),
    /// Several values at once, each with something of its own to its name or its tags.
    Family(Family),
}

/// A row with several values.
#[derive(Debug)]
pub struct Family {
    /// What follows the row's name in the names of members, as documents write it; `None` if the name is one.
    pub suffix: Option<&'static str>,
    /// The keys of the tags that members have.
    pub tags: &'static [&'static str],
    /// Its members and their values.
    pub members: fn(&Interval) -> Vec<(Member, Value)>,
}

/// What tells a sample from others of its row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Member {
    /// It is the only one.
    #[default]
    Only,
    /// A number that follows the row's name, after a dot.
    Suffixed(u16),
    /// Tags of its own, cleaned and joined.
    Tagged(String),
}

/// The DogStatsD type of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The one that the settings choose: `d` or `g`.
    Chosen,
    /// `c`
    Count,
    /// `g`
    Gauge,
    /// `h`
    Histogram,
    /// `ms`
    Timing,
    /// `_sc`: not a metric, but a state.
    ServiceCheck,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chosen => "d or g",
            Self::Count => "c",
            Self::Gauge => "g",
            Self::Histogram => "h",
            Self::Timing => "ms",
            Self::ServiceCheck => "_sc",
        })
    }
}

impl Reading {
    /// The kind as documents name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Now(_) => "now",
            Self::Change(_) => "change",
            Self::Aggregate(_) => "aggregate",
            Self::Observations(_) => "observations",
            Self::Family(_) => "family",
        }
    }

    /// What its values have each of their own, if there are several.
    #[must_use]
    pub fn family(&self) -> Option<&Family> {
        match self {
            Self::Family(family) => Some(family),
            _ => None,
        }
    }

    fn read(&self, interval: &Interval, mut take: impl FnMut(Member, Value)) {
        let only = match self {
            Self::Now(read) | Self::Aggregate(read) => read(interval.end()),
            Self::Change(read) => read(interval),
            Self::Observations(read) => {
                read(interval.end()).filter(|all| all.seen > 0).cloned().map(Value::Observed)
            }
            Self::Family(family) => {
                return (family.members)(interval)
                    .into_iter()
                    .for_each(|(member, value)| take(member, value));
            }
        };
        if let Some(value) = only {
            take(Member::Only, value);
        }
    }
}

/// The number of one sample, or its numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count, a size, a whole number of nanoseconds.
    Whole(u64),
    /// Seconds, percentages.
    Real(f64),
    /// Every one that was observed.
    Observed(Observations),
}

/// What one of a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Byte.
    Byte,
    /// Garbage collection.
    Collection,
    /// Connection of a client.
    Connection,
    /// Millisecond.
    Millisecond,
    /// Nanosecond.
    Nanosecond,
    /// Container object.
    Object,
    /// Percent: of one core, of what a worker can serve.
    Percent,
    /// Record of a log.
    Record,
    /// HTTP request.
    Request,
    /// Second.
    Second,
    /// Status of a service check: 0 is OK, 2 is CRITICAL.
    Status,
    /// Context switch.
    Switch,
    /// Operating-system thread.
    Thread,
    /// Worker process.
    Worker,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Byte => "byte",
            Self::Collection => "collection",
            Self::Connection => "connection",
            Self::Millisecond => "millisecond",
            Self::Nanosecond => "nanosecond",
            Self::Object => "object",
            Self::Percent => "percent",
            Self::Record => "record",
            Self::Request => "request",
            Self::Second => "second",
            Self::Status => "status",
            Self::Switch => "switch",
            Self::Thread => "thread",
            Self::Worker => "worker",
        })
    }
}

/// How much is sent: a level holds the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The names that ddtrace sends, and those that Gunicorn and its Agent check do.
    #[default]
    Default,
    /// Only what is asked for by name.
    ByName,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::ByName => "by name",
        })
    }
}

/// One value of one metric.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The row it belongs to.
    pub metric: &'static Metric,
    /// Which of the row's it is.
    pub member: Member,
    /// Its number.
    pub value: Value,
}

impl Sample {
    /// Its full name on the wire.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        match self.member {
            Member::Suffixed(suffix) => format!("{}.{suffix}", self.metric.name).into(),
            Member::Only | Member::Tagged(_) => self.metric.name.into(),
        }
    }
}

/// The samples of an interval that are selected, in catalogue order; what is unknown is left out.
#[must_use]
pub fn samples(selection: Selection, interval: &Interval<'_>) -> Vec<Sample> {
    let mut samples = Vec::with_capacity(CATALOGUE.len());
    // A loop, as what iterators make of this takes three times as long.
    for (row, metric) in CATALOGUE.iter().enumerate() {
        if selection.contains(row) {
            metric.reading.read(interval, |member, value| samples.push(Sample { metric, member, value }));
        }
    }
    samples
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

fn requests(snapshot: &Snapshot) -> Option<&Requests> {
    snapshot.gunicorn.requests.as_ref()
}

fn ended(snapshot: &Snapshot) -> Option<&Ended> {
    requests(snapshot)?.ended.as_ref()
}

fn by_status(interval: &Interval) -> Option<Vec<(Member, Value)>> {
    let statuses = ended(interval.end())?.by_status.iter().map(|(status, _)| *status);
    let grown = statuses.filter_map(|status| {
        let count = interval.growth_from_zero(|s| ended(s)?.with_status(status))?;
        (count > 0).then_some((Member::Suffixed(status), Value::Whole(count)))
    });
    Some(grown.collect())
}

fn recorded(interval: &Interval, record: Record) -> Option<Value> {
    let grown = interval.growth(|s| Some(s.gunicorn.records[record as usize]))?;
    (grown > 0).then_some(Value::Whole(grown))
}

fn workers(snapshot: &Snapshot) -> Option<Vec<(Member, Value)>> {
    let snapshot::Master { app, workers, .. } = snapshot.gunicorn.master.as_ref()?;
    let Workers { idle, working } = (*workers)?;
    let member = |state, count| (Member::Tagged(format!("{app},state:{state}")), Value::Whole(count));
    Some(vec![member("idle", idle), member("working", working)])
}

fn running(snapshot: &Snapshot) -> Option<(Member, Value)> {
    let master = snapshot.gunicorn.master.as_ref()?;
    let status = match master.running? {
        Running::Ok => 0,
        Running::Critical => 2,
    };
    Some((Member::Tagged(master.app.clone()), Value::Whole(status)))
}

fn backlog(snapshot: &Snapshot) -> Option<(Member, Value)> {
    let waiting = snapshot.interpreter.as_ref()?.server()?.backlog?;
    let master = snapshot.gunicorn.master.as_ref()?;
    Some((Member::Tagged(master.app.clone()), Value::Whole(waiting)))
}

#[allow(clippy::cast_precision_loss, reason = "no worker serves 2^52 requests at once")]
fn busy_percent(interval: &Interval) -> Option<Value> {
    let capacity = requests(interval.end())?.capacity.filter(|capacity| *capacity > 0)?;
    let percent = interval.percent(|s| Some(requests(s).map_or(Duration::ZERO, |requests| requests.busy)))?;
    // Its time is told by a clock of its own, read a moment later.
    Some(Value::Real((percent / capacity as f64).min(100.0)))
}
