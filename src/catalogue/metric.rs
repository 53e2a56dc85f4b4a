//! What a row of the catalogue is made of, and the samples that it gives.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::interval::Interval;
use crate::snapshot::server::Observations;
use crate::snapshot::{Description, Snapshot, Source};
use crate::tag::Tags;

pub use super::unit::Unit;

/// A row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Full name on the wire.
    pub name: &'static str,
    /// The unit of its values.
    pub unit: Unit,
    /// The lowest level at which it is sent.
    pub level: Level,
    /// Whether it is sent only where it is asked for by name, whatever the level.
    pub by_name: bool,
    /// Its DogStatsD type.
    pub wire: Wire,
    /// The sources that its reading needs.
    pub needs: &'static [Source],
    /// How its value is computed; the variant is its kind.
    pub reading: Reading,
    /// Where the fact comes from, for documents.
    pub source: &'static str,
    /// What the value means, in full sentences.
    pub description: &'static str,
    /// When it is not sent, as the end of the sentence "Not sent: ...".
    pub absent: &'static str,
    /// The nearest OpenTelemetry metric, if there is one.
    pub opentelemetry: Option<&'static str>,
}

/// How a row is computed. The variant is the metric's kind.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    /// The value at the flush.
    Now(fn(&Snapshot) -> Option<Value>),
    /// A cumulative count, of which the growth between two flushes is sent.
    Counter(Counter),
    /// A cumulative time, of which the growth between two flushes is sent, in seconds.
    Time(fn(&Snapshot) -> Option<Duration>),
    /// What is computed of two snapshots.
    Change(fn(&Interval) -> Option<Value>),
    /// What is computed of two snapshots, if it is not 0. A 0 is sent once an hour, which shows that it is watched.
    Alarm(ReadAlarm),
    /// An alarm for each value of a tag.
    TaggedAlarm(TaggedAlarm),
    /// 1, with what describes the process as its tags; sent once a minute.
    Description(fn(&Snapshot) -> Option<Description>),
    /// An aggregate of what was observed since the last flush.
    Aggregate(fn(&Snapshot) -> Option<Value>),
    /// Every single value that was observed since the last flush.
    Observations(fn(&Snapshot) -> Option<&Observations>),
    /// Several values at once, each with a suffix to the name or tags of its own.
    Family(Family),
}

/// A cumulative count.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// The count so far.
    pub total: fn(&Snapshot) -> Option<u64>,
    /// Whether a count that was unknown at the last flush was zero then; otherwise its growth is unknown.
    pub starts_at_zero: bool,
    /// Whether nothing is sent where it has not grown.
    pub omits_zero: bool,
}

impl Counter {
    /// A count whose growth is sent, zeros included, if both ends of the interval know it.
    #[must_use]
    pub const fn of(total: fn(&Snapshot) -> Option<u64>) -> Self {
        Self { total, starts_at_zero: false, omits_zero: false }
    }

    /// Counts from zero where the last flush did not know it: it came into being since.
    #[must_use]
    pub const fn starting_at_zero(self) -> Self {
        Self { starts_at_zero: true, ..self }
    }

    /// Sends nothing where it has not grown.
    #[must_use]
    pub const fn omitting_zero(self) -> Self {
        Self { omits_zero: true, ..self }
    }

    fn growth(&self, interval: &Interval) -> Option<u64> {
        let growth = if self.starts_at_zero {
            interval.growth_from_zero(self.total)
        } else {
            interval.growth(self.total)
        };
        growth.filter(|growth| *growth > 0 || !self.omits_zero)
    }
}

/// A row with several values.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The placeholder for what follows the row's name in the names of members; `None` if all have the same name.
    pub suffix: Option<&'static str>,
    /// The keys of the tags that members have.
    pub tags: &'static [&'static str],
    /// How many members a process has at most.
    pub series: usize,
    /// Its members and their values.
    pub members: fn(&Interval) -> Vec<(Member, Value)>,
}

/// Computes an alarm of two snapshots.
pub type ReadAlarm = fn(&Interval) -> Option<u64>;

/// An alarm for each value of a tag.
#[derive(Clone, Copy, Debug)]
pub struct TaggedAlarm {
    /// The key of the tag.
    pub key: &'static str,
    /// What it is where there is nothing to report.
    pub quiet: u64,
    /// The values that it may have, and what is computed for each.
    pub values: &'static [(&'static str, ReadAlarm)],
}

impl TaggedAlarm {
    /// Computes its values; whether one of them is known.
    fn read(&self, interval: &Interval, mut take: impl FnMut(Member, Value)) -> bool {
        let mut is_known = false;
        for (value, read) in self.values {
            let Some(alarm) = read(interval) else { continue };
            is_known = true;
            if alarm != self.quiet || interval.shows_quiet_alarms() {
                let tag = format!("{}:{value}", self.key);
                take(Member::Tagged(Tags::from_iter([tag.as_str()])), Value::Whole(alarm));
            }
        }
        is_known
    }
}

/// What distinguishes a sample from others of its row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Member {
    /// It is the only one.
    #[default]
    Only,
    /// A number that follows the row's name, after a dot.
    Suffixed(u16),
    /// Tags of its own.
    Tagged(Tags),
}

impl Member {
    /// The tags of its own, if it has any.
    #[must_use]
    pub fn tags(&self) -> Option<&Tags> {
        match self {
            Self::Tagged(tags) => Some(tags),
            Self::Only | Self::Suffixed(_) => None,
        }
    }
}

/// The DogStatsD type of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The type that the settings choose: `d` or `g`.
    Chosen,
    /// `c`
    Count,
    /// `g`
    Gauge,
    /// `h`
    Histogram,
    /// `ms`
    Timing,
    /// `_sc`, a service check.
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
            Self::Now(_) | Self::Description(_) => "now",
            Self::Counter(_) | Self::Time(_) | Self::Change(_) => "change",
            Self::Alarm(_) | Self::TaggedAlarm(_) => "alarm",
            Self::Aggregate(_) => "aggregate",
            Self::Observations(_) => "observations",
            Self::Family(_) => "family",
        }
    }

    /// The placeholder for what follows the row's name in the names of its samples, if something does.
    #[must_use]
    pub fn suffix(&self) -> Option<&'static str> {
        if let Self::Family(family) = self { family.suffix } else { None }
    }

    /// How many series a process sends at most: names with distinct tags.
    #[must_use]
    pub fn series(&self) -> usize {
        match self {
            Self::Family(family) => family.series,
            Self::TaggedAlarm(alarm) => alarm.values.len(),
            _ => 1,
        }
    }

    /// The keys of the tags that its samples have of their own.
    #[must_use]
    pub fn tags(&self) -> Vec<&'static str> {
        match self {
            Self::Family(family) => family.tags.to_vec(),
            Self::TaggedAlarm(alarm) => vec![alarm.key],
            Self::Description(_) => Description::default().tags().map(|(key, _)| key).to_vec(),
            _ => Vec::new(),
        }
    }

    /// Computes the values of an interval. Returns whether the value of a row that is not sent every time is known.
    pub fn read(&self, interval: &Interval, mut take: impl FnMut(Member, Value)) -> bool {
        let mut is_known = false;
        let only = match self {
            Self::Now(read) | Self::Aggregate(read) => read(interval.end()),
            Self::Counter(counter) => counter.growth(interval).map(Value::Whole),
            Self::Time(spent) => interval.time(spent).map(|time| Value::Real(time.as_secs_f64())),
            Self::Change(read) => read(interval),
            Self::Alarm(read) => {
                let value = read(interval);
                is_known = value.is_some();
                value.filter(|value| *value > 0 || interval.shows_quiet_alarms()).map(Value::Whole)
            }
            Self::TaggedAlarm(alarm) => return alarm.read(interval, take),
            Self::Description(read) => {
                let description = read(interval.end());
                if let Some(description) = description.filter(|_| interval.shows_description()) {
                    take(Member::Tagged(described(&description)), Value::Whole(1));
                }
                return description.is_some();
            }
            Self::Observations(read) => {
                read(interval.end()).filter(|all| all.seen > 0).cloned().map(Value::Observed)
            }
            Self::Family(family) => {
                for (member, value) in (family.members)(interval) {
                    take(member, value);
                }
                return false;
            }
        };
        if let Some(value) = only {
            take(Member::Only, value);
        }
        is_known
    }
}

fn described(description: &Description) -> Tags {
    let words = description.tags().into_iter();
    let tags: Vec<_> = words.filter_map(|(key, word)| Some(format!("{key}:{}", word?))).collect();
    tags.iter().map(String::as_str).collect()
}

/// The value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count, a size, a whole number of nanoseconds.
    Whole(u64),
    /// Seconds, percentages.
    Real(f64),
    /// Every value that was observed.
    Observed(Observations),
}

/// How much is sent: a level includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The names that ddtrace sends, and those that Gunicorn and its Agent check send.
    #[default]
    Default,
    /// In addition, what explains why a process is slow, and what will end it.
    Standard,
    /// In addition, what an investigation asks for next.
    Detailed,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Standard => "standard",
            Self::Detailed => "detailed",
        })
    }
}

/// One value of one metric.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The row it belongs to.
    pub metric: &'static Metric,
    /// Which of the row's samples it is.
    pub member: Member,
    /// Its value.
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
