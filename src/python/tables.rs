//! The catalogue and the variables, for the commands and documents that derive from them.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::catalogue::{CATALOGUE, selection};
use crate::emitter::COUNTERS;
use crate::settings::variables::{Row, VARIABLES};

/// A row of the catalogue.
#[pyclass(frozen, get_all, module = "runtime_metrics._core")]
pub struct Metric {
    /// Full name on the wire.
    name: &'static str,
    /// Unit of the value: byte, second, ...
    unit: String,
    /// Kind of value: now, change, alarm, aggregate, observations or family.
    kind: &'static str,
    /// Its DogStatsD type; "d or g" if the settings decide.
    wire: String,
    /// What follows the name after a dot in the names that are sent; None if the name itself is sent.
    suffix: Option<&'static str>,
    /// The keys of the tags that only this metric has.
    tags: Vec<&'static str>,
    /// The lowest level that includes it.
    level: String,
    /// Whether it is sent only if it is included by name, whatever the level.
    by_name: bool,
    /// The sources that its value needs.
    needs: Vec<String>,
    /// Where the fact comes from.
    source: &'static str,
    /// What the value means.
    description: &'static str,
    /// When it is not sent, as the end of a sentence.
    absent: &'static str,
    /// The nearest OpenTelemetry metric, if there is one.
    opentelemetry: Option<&'static str>,
}

/// An environment variable.
#[pyclass(frozen, get_all, module = "runtime_metrics._core")]
pub struct Variable {
    /// Its name.
    name: &'static str,
    /// What applies while it is unset, empty or wrong.
    default: &'static str,
    /// The values that are accepted.
    accepts: &'static str,
    /// What it does.
    effect: &'static str,
}

/// List every metric there is, in the order in which they are sent.
#[pyfunction]
pub fn catalogue() -> Vec<Metric> {
    let row = |metric: &crate::catalogue::metric::Metric| Metric {
        wire: metric.wire.to_string(),
        suffix: metric.reading.suffix(),
        tags: metric.reading.tags(),
        name: metric.name,
        unit: metric.unit.to_string(),
        kind: metric.reading.kind(),
        level: metric.level.to_string(),
        by_name: metric.by_name,
        needs: metric.needs.iter().map(|source| format!("{source:?}")).collect(),
        source: metric.source,
        description: metric.description,
        absent: metric.absent,
        opentelemetry: metric.opentelemetry,
    };
    CATALOGUE.iter().map(row).collect()
}

/// Whether a pattern names a metric, as those of the variables do.
#[pyfunction]
pub fn is_named(name: &str, pattern: &str) -> bool {
    selection::is_named(name, pattern)
}

/// Describe the counts of what was sent and lost, by name; they are sent only if that is enabled.
#[pyfunction]
pub fn client_telemetry(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let descriptions = PyDict::new(py);
    for counter in &COUNTERS {
        descriptions.set_item(counter.name, counter.description)?;
    }
    Ok(descriptions)
}

/// List every environment variable that is read.
#[pyfunction]
pub fn variables() -> Vec<Variable> {
    let row = |variable: &'static Row| Variable {
        name: variable.name,
        default: variable.default,
        accepts: variable.accepts,
        effect: variable.effect,
    };
    VARIABLES.iter().map(row).collect()
}
