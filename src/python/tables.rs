//! The catalogue and the variables, for the commands and documents that derive from them.

use pyo3::prelude::*;

use crate::catalogue::CATALOGUE;
use crate::variables::VARIABLES;

/// A row of the catalogue.
#[pyclass(frozen, get_all, module = "runtime_metrics._core")]
pub struct Metric {
    name: &'static str,
    unit: String,
    kind: &'static str,
    level: String,
    source: &'static str,
    description: &'static str,
    absent: &'static str,
    opentelemetry: Option<&'static str>,
}

/// An environment variable.
#[pyclass(frozen, get_all, module = "runtime_metrics._core")]
pub struct Variable {
    name: &'static str,
    default: &'static str,
    accepts: &'static str,
    effect: &'static str,
}

#[pyfunction]
pub fn catalogue() -> Vec<Metric> {
    let row = |metric: &crate::catalogue::Metric| Metric {
        name: metric.name,
        unit: metric.unit.to_string(),
        kind: metric.reading.kind(),
        level: metric.level.to_string(),
        source: metric.source,
        description: metric.description,
        absent: metric.absent,
        opentelemetry: metric.opentelemetry,
    };
    CATALOGUE.iter().map(row).collect()
}

#[pyfunction]
pub fn variables() -> Vec<Variable> {
    let row = |variable: &&'static crate::variables::Variable| Variable {
        name: variable.name,
        default: variable.default,
        accepts: variable.accepts,
        effect: variable.effect,
    };
    VARIABLES.iter().map(row).collect()
}
