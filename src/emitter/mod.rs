//! From samples to bytes at the Agent: cadence builds the lines, [`transport`] packs and sends them.

use std::panic::RefUnwindSafe;

use cadence::ext::{MetricValue, ToDistributionValue, ToGaugeValue};
use cadence::prelude::*;
use cadence::{ErrorKind, MetricError, MetricResult, MetricSink, StatsdClient};

use self::telemetry::{COUNTERS, Report};
use crate::catalogue::{Sample, Value};
use crate::config::WireType;
use crate::distribution::Distribution;

pub mod address;
#[cfg(target_os = "linux")]
mod container;
mod health;
mod log;
pub mod named_host;
pub mod origin;
mod packets;
mod socket;
pub mod status;
pub mod telemetry;
pub mod transport;

pub use log::{LogLines, Printed};
pub use packets::LONGEST;

/// Writes samples as DogStatsD lines to a sink.
#[derive(Debug)]
pub struct Emitter {
    client: StatsdClient,
    tags: String,
    wire_type: WireType,
    metrics: u64,
}

impl Emitter {
    /// `tags` is the cleaned and joined block that every line carries.
    pub fn new(
        sink: impl MetricSink + Send + Sync + RefUnwindSafe + 'static,
        tags: String,
        wire_type: WireType,
    ) -> Self {
        Self { client: StatsdClient::from_sink("", sink), tags, wire_type, metrics: 0 }
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
        samples: impl Iterator<Item = Sample>,
        report: Option<(Report, &'static str)>,
    ) -> bool {
        let mut all_written = true;
        for Sample { metric, value } in samples {
            // One block for all tags: they are joined once, not per line.
            let written = match self.wire_type {
                WireType::Distribution => self
                    .client
                    .distribution_with_tags(metric.name, value)
                    .with_tag_value(&self.tags)
                    .try_send()
                    .is_ok(),
                WireType::Gauge => self
                    .client
                    .gauge_with_tags(metric.name, value)
                    .with_tag_value(&self.tags)
                    .try_send()
                    .is_ok(),
            };
            self.metrics += u64::from(written);
            all_written &= written;
        }
        if let Some((untold, transport)) = report {
            all_written &= self.write(&untold, transport);
        }
        self.client.flush().is_ok() && all_written
    }

    /// Writes a metric of the program's own with these tags alone, flushes the sink and says whether it has left.
    #[must_use]
    pub fn distribute(&self, distribution: &Distribution, tags: &str) -> bool {
        let mut line = self.client.distribution_with_tags(&distribution.name, distribution.value);
        if !tags.is_empty() {
            line = line.with_tag_value(tags);
        }
        if let Some(timestamp) = distribution.timestamp {
            line = line.with_timestamp(timestamp);
        }
        let is_written = line.try_send().is_ok();
        self.client.flush().is_ok() && is_written
    }

    /// The tags of every line.
    #[must_use]
    pub fn tags(&self) -> &str {
        &self.tags
    }

    fn write(&self, untold: &Report, transport: &str) -> bool {
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

impl ToDistributionValue for Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        wire_value(self)
    }
}

impl ToGaugeValue for Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        wire_value(self)
    }
}

/// cadence would write "NaN" and "inf", which receivers refuse or misread.
fn wire_value(value: Value) -> MetricResult<MetricValue> {
    match value {
        Value::Whole(whole) => Ok(MetricValue::Unsigned(whole)),
        Value::Real(real) if real.is_finite() => Ok(MetricValue::Float(real)),
        Value::Real(_) => Err(MetricError::from((ErrorKind::InvalidInput, "not a finite number"))),
    }
}
