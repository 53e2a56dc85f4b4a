//! How a line begins, formatted by cadence: name, value and type, with a sample rate or a timestamp where there is one.
//!
//! Tags are left out where they are the same for every line: the emitter appends them.

use std::fmt::Write;

use cadence::ext::{
    MetricValue, ToCounterValue, ToDistributionValue, ToGaugeValue, ToHistogramValue, ToTimerValue,
};
use cadence::prelude::*;
use cadence::{ErrorKind, Metric, MetricBuilder, MetricError, MetricResult, NopMetricSink, StatsdClient};

use super::distribution::Distribution;
use crate::catalogue::metric::Value;

/// A line being written. Its memory serves for one line after the other.
#[derive(Debug)]
pub struct Line {
    /// Returns what it formats; its own sink takes nothing.
    cadence: StatsdClient,
    text: String,
}

impl Line {
    /// An empty line.
    pub fn new() -> Self {
        Self { cadence: StatsdClient::from_sink("", NopMetricSink), text: String::new() }
    }

    /// Begins `name:value|c`; false if the value is not one finite number.
    pub fn count(&mut self, name: &str, value: &Value) -> bool {
        begin(&mut self.text, self.cadence.count_with_tags(name, value))
    }

    /// Begins `name:value|d`; false if the value is not one finite number.
    pub fn distribution(&mut self, name: &str, value: &Value) -> bool {
        begin(&mut self.text, self.cadence.distribution_with_tags(name, value))
    }

    /// Begins `name:value|g`; false if the value is not one finite number.
    pub fn gauge(&mut self, name: &str, value: &Value) -> bool {
        begin(&mut self.text, self.cadence.gauge_with_tags(name, value))
    }

    /// Begins `name:value|h`; false if the value is not one finite number.
    pub fn histogram(&mut self, name: &str, value: &Value) -> bool {
        begin(&mut self.text, self.cadence.histogram_with_tags(name, value))
    }

    /// Begins `name:value|ms`; false if the value is not one finite number.
    pub fn timing(&mut self, name: &str, value: &Value) -> bool {
        begin(&mut self.text, self.cadence.time_with_tags(name, value))
    }

    /// Begins `name:value:value|ms|@rate` with durations in microseconds, without a rate if there is none.
    pub fn packed_timings(&mut self, name: &str, microseconds: &[u64], sample_rate: Option<f64>) -> bool {
        let line = self.cadence.time_with_tags(name, Milliseconds(microseconds));
        begin(
            &mut self.text,
            match sample_rate {
                Some(rate) => line.with_sampling_rate(rate),
                None => line,
            },
        )
    }

    /// Begins `_sc|name|status`, which is not a metric.
    pub fn service_check(&mut self, name: &str, status: u64) {
        self.text.clear();
        // A String takes everything.
        let _ = write!(self.text, "_sc|{name}|{status}");
    }

    /// Begins a line of a custom metric, with its tags: a timestamp comes after them.
    pub fn custom(&mut self, distribution: &Distribution, tags: &str) -> bool {
        let mut line = self.cadence.distribution_with_tags(&distribution.name, distribution.value);
        if !tags.is_empty() {
            line = line.with_tag_value(tags);
        }
        if let Some(timestamp) = distribution.timestamp {
            line = line.with_timestamp(timestamp);
        }
        begin(&mut self.text, line)
    }

    /// Appends a text.
    pub fn push_str(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The line as far as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn begin<T: Metric + From<String>>(text: &mut String, line: MetricBuilder<'_, '_, T>) -> bool {
    let Ok(formatted) = line.try_send() else { return false };
    text.clear();
    text.push_str(formatted.as_metric_str());
    true
}

/// Durations in microseconds, which leave as milliseconds.
struct Milliseconds<'a>(&'a [u64]);

impl ToTimerValue for Milliseconds<'_> {
    #[expect(clippy::cast_precision_loss, reason = "2^52 microseconds are 142 years.")]
    fn try_to_value(self) -> MetricResult<MetricValue> {
        Ok(MetricValue::PackedFloat(self.0.iter().map(|value| *value as f64 / 1000.0).collect()))
    }
}

impl ToCounterValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        one_number(self)
    }
}

impl ToDistributionValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        one_number(self)
    }
}

impl ToGaugeValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        one_number(self)
    }
}

impl ToHistogramValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        one_number(self)
    }
}

impl ToTimerValue for &Value {
    fn try_to_value(self) -> MetricResult<MetricValue> {
        one_number(self)
    }
}

/// cadence would write "NaN" and "inf", which receivers refuse or misread.
fn one_number(value: &Value) -> MetricResult<MetricValue> {
    match value {
        Value::Whole(whole) => Ok(MetricValue::Unsigned(*whole)),
        Value::Real(real) if real.is_finite() => Ok(MetricValue::Float(*real)),
        Value::Real(_) => Err(MetricError::from((ErrorKind::InvalidInput, "not a finite number"))),
        Value::Observed(_) => Err(MetricError::from((ErrorKind::InvalidInput, "not one number"))),
    }
}
