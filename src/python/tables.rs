//! The catalogue and the variables, for the commands and documents that derive from them.

#![expect(clippy::doc_markdown, reason = "The comments on Python's items are their docstrings.")]

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::environment;
use super::plan;
use crate::catalogue::incidents::{Clue, INCIDENTS, LADDER, explained_by, read_after};
use crate::catalogue::{CATALOGUE, selection};
use crate::emitter::COUNTERS;
use crate::settings::Arguments;
use crate::settings::variables::{Row, VARIABLES, Variable as Name};

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
    /// How many series a process sends at most: names with distinct tags.
    series: usize,
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
    /// The symptoms of the incidents that it explains.
    explains: Vec<&'static str>,
    /// The names of the metrics to read after it.
    read_next: Vec<&'static str>,
}

/// Something that goes wrong, and the metrics that tell why.
#[pyclass(frozen, get_all, module = "runtime_metrics._core")]
pub struct Incident {
    /// What is seen.
    symptom: &'static str,
    /// The names of metrics in the order in which to read them, each with what to look for and what it means.
    clues: Vec<(&'static str, &'static str)>,
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
        series: metric.reading.series(),
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
        explains: explained_by(metric.name).map(|incident| incident.symptom).collect(),
        read_next: read_after(metric.name),
    };
    CATALOGUE.iter().map(row).collect()
}

/// List the incidents that metrics explain.
#[pyfunction]
pub fn incidents() -> Vec<Incident> {
    INCIDENTS.iter().map(|it| Incident { symptom: it.symptom, clues: clues(it.clues) }).collect()
}

/// List the metrics that tell whose fault it is that something comes late, and whom each blames.
///
/// Each contains the ones before it: the first that is high is to blame.
#[pyfunction]
pub fn lag_ladder() -> Vec<(&'static str, &'static str)> {
    clues(LADDER)
}

fn clues(clues: &[Clue]) -> Vec<(&'static str, &'static str)> {
    clues.iter().map(|clue| (clue.name(), clue.finding)).collect()
}

/// List the names of the metrics that a level selects, with what variables include and exclude.
///
/// Raises:
///     ValueError: There is no such level.
#[pyfunction]
#[pyo3(signature = (level=None))]
pub fn selected_names(py: Python<'_>, level: Option<String>) -> PyResult<Vec<&'static str>> {
    let arguments = Arguments { level, ..Arguments::default() };
    let (settings, _) = plan::settings(&arguments, &environment::read(py, Name::all())?)?;
    Ok(settings.selection.names().collect())
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
