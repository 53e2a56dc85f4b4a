//! From samples to bytes at the Agent: cadence builds the lines, [`transport`] packs and sends them.

use std::borrow::Cow;
use std::panic::RefUnwindSafe;

use cadence::ext::{
    MetricBackend, MetricValue, ToCounterValue, ToDistributionValue, ToGaugeValue, ToHistogramValue,
    ToTimerValue,
};
use cadence::prelude::*;
use cadence::{ErrorKind, Metric, MetricBuilder, MetricError, MetricResult, MetricSink, StatsdClient};

use self::telemetry::{COUNTERS, Report};
use crate::catalogue::metric::{Member, Sample, Value, Wire, WireType};
use crate::emitter::distribution::Distribution;
use crate::snapshot::Observations;

pub mod address;
mod delivery;
pub mod distribution;
mod health;
mod log;
pub mod origin;
mod packets;
mod resolver;
mod socket;
pub mod status;
pub mod telemetry;
pub mod transport;

pub use delivery::Totals;
pub use log::LogLines;
pub use packets::LONGEST;
pub use resolver::LookUp;

/// Lines of many values are cut to share a UDP payload with others, unless the tags alone need more.
const PACKED: usize = 1432;

/// The fewest bytes of values that are worth a line with all its tags.
const FEWEST: usize = 400;

/// What a line of many values has beside its name, its values, its tags and its ending: a type, a sample rate of at most
/// 20 digits, and what stands between.
const BESIDE: usize = 30;

/// Writes samples as DogStatsD lines to a sink.
#[derive(Debug)]
pub struct Emitter {
    client: StatsdClient,
    tags: String,
    wire_type: WireType,
    ending: usize,
    metrics: u64,
}

impl Emitter {
    /// `tags` is the cleaned and joined block that every line carries.
    pub fn new(
        sink: impl MetricSink + Send + Sync + RefUnwindSafe + 'static,
        tags: String,
        wire_type: WireType,
    ) -> Self {
        Self { client: StatsdClient::from_sink("", sink), tags, wire_type, ending: 0, metrics: 0 }
    }

    /// Leaves so many bytes of a payload to what the sink adds to each line.
    #[must_use]
    pub fn with_room_for(mut self, ending: usize) -> Self {
        self.ending = ending;
        self
    }

    /// Takes other tags for the lines to come.
    pub fn set_tags(&mut self, tags: String) {
        self.tags = tags;
    }

    /// How many samples have been written.
    #[must_use]
    pub fn metrics(&self) -> u64 {
        self.metrics
    }

    /// Writes every sample and, if there is one, the report of what was sent over which transport; flushes the sink and
    /// says whether everything has left.
    ///
    /// A number that is not finite is not written.
    pub fn emit(
        &mut self,
        samples: impl IntoIterator<Item = Sample>,
        report: Option<(Report, &'static str)>,
    ) -> bool {
        let mut all_written = true;
        for sample in samples {
            let written = self.write(&sample);
            self.metrics += u64::from(written && sample.metric.wire != Wire::ServiceCheck);
            all_written &= written;
        }
        if let Some((untold, transport)) = report {
            all_written &= self.report(&untold, transport);
        }
        self.client.flush().is_ok() && all_written
    }

    /// Writes a metric of the program's own with these tags alone, and flushes the sink, which counts what is lost.
    pub fn distribute(&self, distribution: &Distribution, tags: &str) {
        let mut line = self.client.distribution_with_tags(&distribution.name, distribution.value);
        if !tags.is_empty() {
            line = line.with_tag_value(tags);
        }
        if let Some(timestamp) = distribution.timestamp {
            line = line.with_timestamp(timestamp);
        }
        drop(line.try_send());
        drop(self.client.flush());
    }

    fn write(&self, sample: &Sample) -> bool {
        let (client, name, value, tags) = (&self.client, &sample.name(), &sample.value, &self.tags(sample));
        match sample.metric.wire {
            Wire::Chosen if self.wire_type == WireType::Distribution => {
                sent(client.distribution_with_tags(name, value), tags)
            }
            Wire::Chosen | Wire::Gauge => sent(client.gauge_with_tags(name, value), tags),
            Wire::Count => sent(client.count_with_tags(name, value), tags),
            Wire::Histogram => sent(client.histogram_with_tags(name, value), tags),
            Wire::Timing => match value {
                Value::Observed(observed) => self.write_packed(name, observed, tags),
                Value::Whole(_) | Value::Real(_) => sent(client.time_with_tags(name, value), tags),
            },
            Wire::ServiceCheck => match value {
                Value::Whole(status) => client.send_metric(&ServiceCheck::new(name, *status, tags)).is_ok(),
                Value::Real(_) | Value::Observed(_) => false,
            },
        }
    }

    /// One block for all tags: they are joined once, not per line.
    #[must_use]
    pub fn tags(&self, sample: &Sample) -> Cow<'_, str> {
        match &sample.member {
            Member::Tagged(own) if self.tags.is_empty() => own.clone().into(),
            Member::Tagged(own) => format!("{own},{}", self.tags).into(),
            Member::Only | Member::Suffixed(_) => self.tags.as_str().into(),
        }
    }

    /// Several values a line, of which some may stand for more than themselves.
    fn write_packed(&self, name: &str, observed: &Observations, tags: &str) -> bool {
        let rate = sample_rate(observed);
        let fixed = name.len() + tags.len() + self.ending + BESIDE;
        let room = if fixed + FEWEST < PACKED { PACKED - fixed } else { LONGEST.saturating_sub(fixed) };
        let mut rest = observed.kept.as_slice();
        let mut all_written = true;
        while !rest.is_empty() {
            let (values, after) = rest.split_at(fitting(rest, room));
            rest = after;
            let mut line = self.client.time_with_tags(name, Milliseconds(values)).with_tag_value(tags);
            if let Some(rate) = rate {
                line = line.with_sampling_rate(rate);
            }
            all_written &= line.try_send().is_ok();
        }
        all_written
    }

    fn report(&self, untold: &Report, transport: &str) -> bool {
        let version = env!("CARGO_PKG_VERSION");
        let client =
            format!("client:python-runtime-metrics,client_version:{version},client_transport:{transport}");
        let tags = if self.tags.is_empty() { client } else { format!("{client},{}", self.tags) };
        let mut all_written = true;
        for (counter, count) in COUNTERS.iter().zip(*untold) {
            all_written &=
                self.client.count_with_tags(counter.name, count).with_tag_value(&tags).try_send().is_ok();
        }
        all_written
    }
}

fn sent<T: Metric + From<String>>(line: MetricBuilder<'_, '_, T>, tags: &str) -> bool {
    line.with_tag_value(tags).try_send().is_ok()
}

/// The share of the values that are kept, unless that is all of them.
#[allow(clippy::cast_precision_loss, reason = "as many values as 2^52 do not occur in an interval")]
fn sample_rate(observed: &Observations) -> Option<f64> {
    let kept = observed.kept.len() as u64;
    (kept < observed.seen).then(|| kept as f64 / observed.seen as f64)
}

/// How many of these durations fit in a line, at least one.
fn fitting(microseconds: &[u64], room: usize) -> usize {
    let mut left = room;
    let fit = microseconds.iter().take_while(|value| {
        // Three digits are behind the point: the colon and the point beside.
        let length = value.checked_ilog10().unwrap_or(0).max(3) as usize + 3;
        left.checked_sub(length).inspect(|after| left = *after).is_some()
    });
    fit.count().max(1)
}

/// Durations in microseconds, which leave as milliseconds.
struct Milliseconds<'a>(&'a [u64]);

impl ToTimerValue for Milliseconds<'_> {
    #[allow(clippy::cast_precision_loss, reason = "2^52 microseconds are 142 years")]
    fn try_to_value(self) -> MetricResult<MetricValue> {
        Ok(MetricValue::PackedFloat(self.0.iter().map(|value| *value as f64 / 1000.0).collect()))
    }
}

/// A line that is no metric.
struct ServiceCheck(String);

impl ServiceCheck {
    /// Without the runtime-id: what a process said last would be its state for ever, as its successor has another id.
    fn new(name: &str, status: u64, tags: &str) -> Self {
        let lasting: Vec<_> = tags.split(',').filter(|tag| !tag.starts_with("runtime-id:")).collect();
        Self(format!("_sc|{name}|{status}|#{}", lasting.join(",")))
    }
}

impl Metric for ServiceCheck {
    fn as_metric_str(&self) -> &str {
        &self.0
    }
}

impl ToCounterValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        wire_value(self)
    }
}

impl ToDistributionValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        wire_value(self)
    }
}

impl ToGaugeValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        wire_value(self)
    }
}

impl ToHistogramValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        wire_value(self)
    }
}

impl ToTimerValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        wire_value(self)
    }
}

/// cadence would write "NaN" and "inf", which receivers refuse or misread.
fn wire_value(value: &Value) -> MetricResult<MetricValue> {
    match value {
        Value::Whole(whole) => Ok(MetricValue::Unsigned(*whole)),
        Value::Real(real) if real.is_finite() => Ok(MetricValue::Float(*real)),
        Value::Real(_) => Err(MetricError::from((ErrorKind::InvalidInput, "not a finite number"))),
        Value::Observed(_) => Err(MetricError::from((ErrorKind::InvalidInput, "not one number"))),
    }
}
