//! What a row of the catalogue is made of, and the samples that it gives.

use std::borrow::Cow;
use std::fmt;

use crate::interval::Interval;
use crate::snapshot::{Observations, Snapshot};

/// A row of the catalogue.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug)]
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

    /// Computes the values of an interval.
    pub fn read(&self, interval: &Interval, mut take: impl FnMut(Member, Value)) {
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

/// The DogStatsD type of every line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WireType {
    /// `d`: values of several processes are merged.
    #[default]
    Distribution,
    /// `g`: the last value of an interval wins.
    Gauge,
}
