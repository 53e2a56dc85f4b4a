//! From samples to bytes at the receiver.
//!
//! An [`Emitter`] writes each sample as a `line`, with tags and the fields of its `origin`, to a sink: the
//! [`Transport`]. That packs lines into payloads (`packets`) and sends them through a `link`, which is an open `socket`
//! and what is needed to open another (`address`, `resolver`, `candidates`). `delivery` decides what is done about a
//! payload that fails; `health`, `status` and `telemetry` report how sending goes. A `distribution` is a value of a
//! custom metric, and `log` writes lines for a log where there is no receiver.

use std::time::Duration;

use cadence::MetricSink;

use self::line::Line;
use self::packets::Counts;
use self::telemetry::Telemetry;
use crate::catalogue::metric::{Member, Sample, Value, Wire, WireType};
use crate::snapshot::server::Observations;
use crate::tag::Tags;

pub mod address;
mod candidates;
mod delivery;
mod distribution;
mod health;
mod line;
mod link;
mod log;
pub mod origin;
mod packets;
mod resolver;
mod socket;
mod socket_errors;
mod status;
mod telemetry;
mod transport;

pub use self::delivery::Totals;
pub use self::distribution::{Distribution, Refusal};
pub use self::log::LogLines;
pub use self::packets::MAX_PAYLOAD;
pub use self::resolver::LookUp;
pub use self::status::{Sending, Status};
pub use self::telemetry::COUNTERS;
pub use self::transport::{Handover, Transport};

/// A packed line whose tags would leave less room than this for values, in bytes, does not share a UDP payload.
const MIN_PACKED_VALUES: usize = 400;

/// What a packed line has beside its name, its values, its tags and its suffix: a type, a sample rate of at most 20
/// digits, and the separators.
const LINE_OVERHEAD: usize = 30;

/// What a line holds beside its tags and its origin fields, in bytes: a name, a type, and a value, which as a float may
/// take 327, or a metric's own tags, of which one may take 800.
const MAX_BESIDE_TAGS: usize = 900;

/// How many bytes the tags of every line may take, beside so many bytes of origin fields.
#[must_use]
pub fn max_tag_bytes(origin_fields: usize) -> usize {
    MAX_PAYLOAD.saturating_sub(MAX_BESIDE_TAGS + origin_fields)
}

/// Writes samples as DogStatsD lines to a sink.
#[derive(Debug)]
pub struct Emitter<S = Transport> {
    sink: S,
    line: Line,
    /// The tags of every line.
    tags: Tags,
    /// What follows the tags in every line.
    suffix: String,
    /// `|#`, the tags, and the suffix: joined once, not line by line.
    tail: String,
    wire_type: WireType,
    /// Samples written.
    metrics: u64,
    /// `None` if client telemetry is off.
    telemetry: Option<Telemetry>,
}

impl<S: MetricSink> Emitter<S> {
    /// `tags` are those of every line.
    pub fn new(sink: S, tags: Tags, wire_type: WireType) -> Self {
        let mut emitter = Self {
            sink,
            line: Line::new(),
            tags,
            suffix: String::new(),
            tail: String::new(),
            wire_type,
            metrics: 0,
            telemetry: None,
        };
        emitter.join_tail();
        emitter
    }

    /// Replaces the tags, for the lines to come.
    pub fn set_tags(&mut self, tags: Tags) {
        self.tags = tags;
        self.join_tail();
    }

    /// Replaces what follows the tags in every line: the fields of the origin.
    pub fn set_suffix(&mut self, suffix: String) {
        self.suffix = suffix;
        self.join_tail();
    }

    /// The tags of a sample: its own, then those of every line.
    pub fn tags<'a>(&'a self, sample: &'a Sample) -> impl Iterator<Item = &'a str> {
        sample.member.tags().into_iter().flat_map(Tags::iter).chain(self.tags.iter())
    }

    /// Writes every sample and flushes the sink; returns whether everything was sent. A number that is not finite is
    /// not written.
    pub fn emit(&mut self, samples: impl IntoIterator<Item = Sample>) -> bool {
        let all_written = self.write_all(samples);
        self.sink.flush().is_ok() && all_written
    }

    /// Writes a value of a custom metric with these tags alone; returns whether the sink accepted it.
    pub fn write_distribution(&mut self, distribution: &Distribution, tags: &Tags) -> bool {
        if !self.line.custom(distribution, tags.as_str()) {
            return false;
        }
        self.line.push_str(&self.suffix);
        self.emit_line()
    }

    fn write_all(&mut self, samples: impl IntoIterator<Item = Sample>) -> bool {
        let mut all_written = true;
        for sample in samples {
            let is_written = self.write(&sample);
            self.metrics += u64::from(is_written && sample.metric.wire != Wire::ServiceCheck);
            all_written &= is_written;
        }
        all_written
    }

    fn write(&mut self, sample: &Sample) -> bool {
        let (name, value) = (sample.name(), &sample.value);
        let has_begun = match sample.metric.wire {
            Wire::Chosen if self.wire_type == WireType::Distribution => self.line.distribution(&name, value),
            Wire::Chosen | Wire::Gauge => self.line.gauge(&name, value),
            Wire::Count => self.line.count(&name, value),
            Wire::Histogram => self.line.histogram(&name, value),
            Wire::Timing => match value {
                Value::Observed(observed) => return self.write_packed(&name, observed, sample),
                Value::Whole(_) | Value::Real(_) => self.line.timing(&name, value),
            },
            Wire::ServiceCheck => return self.write_service_check(&name, sample),
        };
        has_begun && self.finish(&sample.member)
    }

    /// Writes several values a line, which may be a sample of more.
    fn write_packed(&mut self, name: &str, observed: &Observations, sample: &Sample) -> bool {
        let rate = sample_rate(observed);
        let tags = self.tags(sample).map(|tag| tag.len() + 1).sum::<usize>();
        let fixed = name.len() + tags + self.suffix.len() + LINE_OVERHEAD;
        let shared = packets::MAX_UDP_PAYLOAD.saturating_sub(fixed);
        let room = if shared > MIN_PACKED_VALUES { shared } else { MAX_PAYLOAD.saturating_sub(fixed) };
        let mut rest = observed.kept.as_slice();
        let mut all_written = true;
        while !rest.is_empty() {
            let (values, after) = rest.split_at(fitting(rest, room));
            rest = after;
            all_written &= self.line.packed_timings(name, values, rate) && self.finish(&sample.member);
        }
        all_written
    }

    /// Without the tag runtime-id: the last status of a process would stay for ever, as its successor has another id.
    fn write_service_check(&mut self, name: &str, sample: &Sample) -> bool {
        let Value::Whole(status) = sample.value else { return false };
        let lasting: Vec<_> = self.tags(sample).filter(|tag| !tag.starts_with("runtime-id:")).collect();
        let lasting = lasting.join(",");
        self.line.service_check(name, status);
        for part in ["|#", &lasting, &self.suffix] {
            self.line.push_str(part);
        }
        self.emit_line()
    }

    fn finish(&mut self, member: &Member) -> bool {
        self.append_tags(member);
        self.emit_line()
    }

    /// Appends the tags and the suffix.
    fn append_tags(&mut self, member: &Member) {
        let Some(own) = member.tags() else { return self.line.push_str(&self.tail) };
        let separator = if self.tags.as_str().is_empty() { "" } else { "," };
        for part in ["|#", own.as_str(), separator, self.tags.as_str(), &self.suffix] {
            self.line.push_str(part);
        }
    }

    fn emit_line(&self) -> bool {
        self.sink.emit(self.line.as_str()).is_ok()
    }

    fn join_tail(&mut self) {
        self.tail.clear();
        if !self.tags.as_str().is_empty() {
            self.tail.push_str("|#");
            self.tail.push_str(self.tags.as_str());
        }
        self.tail.push_str(&self.suffix);
    }
}

impl Emitter<Transport> {
    /// Reports to the receiver what is sent to it, as `datadog.dogstatsd.client.*`.
    #[must_use]
    pub fn with_client_telemetry(mut self) -> Self {
        self.telemetry = Some(Telemetry::default());
        self
    }

    /// What the lines go through.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.sink
    }

    /// Sends every sample, and then what client telemetry has to report, in at most `within`; returns whether
    /// everything was sent.
    pub fn send(
        &mut self,
        samples: impl IntoIterator<Item = Sample>,
        now: Duration,
        within: Duration,
    ) -> bool {
        self.sink.begin(now, within);
        let report = self.telemetry.as_ref().map(|telemetry| telemetry.unreported(&self.totals()));
        let mut all_written = self.write_all(samples);
        if let Some(counts) = report {
            all_written &= self.write_report(&counts);
        }
        let is_delivered = self.sink.flush().is_ok();
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.retract(&self.sink.lost_counts());
        }
        is_delivered && all_written
    }

    /// Sends a value of a custom metric with these tags alone, in at most `within`. A loss is counted, and logged after
    /// the next [`send`](Self::send).
    pub fn distribute(&mut self, distribution: &Distribution, tags: &Tags, now: Duration, within: Duration) {
        self.sink.begin(now, within);
        self.write_distribution(distribution, tags);
        // Whatever is lost has been counted.
        drop(self.sink.flush_custom());
    }

    /// Whether sending works, and what has been sent and lost.
    #[must_use]
    pub fn status(&self) -> Status {
        Status { totals: self.totals(), ..self.sink.status() }
    }

    fn totals(&self) -> Totals {
        Totals { metrics: self.metrics, ..self.sink.totals() }
    }

    fn write_report(&mut self, counts: &Counts) -> bool {
        let mut client = Tags::default();
        client.push("client:python-runtime-metrics");
        client.push(concat!("client_version:", env!("CARGO_PKG_VERSION")));
        client.push(&format!("client_transport:{}", self.sink.protocol()));
        let member = Member::Tagged(client);
        let mut all_written = true;
        for (number, (counter, count)) in COUNTERS.iter().zip(counts).enumerate() {
            let is_written = self.line.count(counter.name, &Value::Whole(*count)) && {
                self.append_tags(&member);
                self.sink.emit_count(self.line.as_str(), number, *count).is_ok()
            };
            if let (true, Some(telemetry)) = (is_written, &mut self.telemetry) {
                telemetry.record(number, *count);
            }
            all_written &= is_written;
        }
        all_written
    }
}

/// The share of the values that are kept, unless that is all of them.
#[expect(clippy::cast_precision_loss, reason = "There are fewer than 2^52 values in an interval.")]
fn sample_rate(observed: &Observations) -> Option<f64> {
    let kept = observed.kept.len() as u64;
    (kept < observed.seen).then(|| kept as f64 / observed.seen as f64)
}

/// How many of these durations fit in so many bytes, at least one.
fn fitting(microseconds: &[u64], room: usize) -> usize {
    let mut left = room;
    let fit = microseconds.iter().take_while(|value| {
        // Milliseconds with three digits after the point: at least one digit before it, the point, and a colon.
        let length = value.checked_ilog10().unwrap_or(0).max(3) as usize + 3;
        left.checked_sub(length).inspect(|after| left = *after).is_some()
    });
    fit.count().max(1)
}
