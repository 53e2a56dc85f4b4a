//! A metric of the program's own: what Python gives, converted, and what is said of what is refused.

#![allow(clippy::doc_markdown, reason = "the functions' comments are their docstrings in Python")]

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyString};

use super::{enable_in_lambda, wall, warn_unsent, write};
use crate::emitter::{Distribution, Refusal};
use crate::message::Message;
use crate::python::arguments;
use crate::python::log::{self, unless_exception};
use crate::python::process::Process;
use crate::python::running::{self, current, shielded};

/// Send one value of a distribution now, through the socket of the runtime metrics.
///
/// In AWS Lambda with neither the Datadog Lambda Extension nor an address it goes to the log if DD_FLUSH_TO_LOG is
/// true, else nowhere. Nothing is raised on account of a wrong value; the first of each kind is a warning.
///
/// Args:
///     metric_name: The name of the metric.
///     value: The value.
///     timestamp: When it was so: seconds since 1970 or a datetime, at most 4 hours ago. Now by default.
///     tags: Its tags: "key:value" strings.
#[pyfunction]
#[pyo3(signature = (metric_name, value, timestamp=None, tags=None))]
pub fn lambda_metric(
    py: Python<'_>,
    metric_name: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
    timestamp: Option<&Bound<'_, PyAny>>,
    tags: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    shielded(Ok(()), || {
        enable_in_lambda(py)?;
        let process = Process::this(py)?;
        let now = wall();
        let distribution = match taken(py, (metric_name, value, timestamp, tags), now)? {
            Ok(distribution) => distribution,
            Err(refusal) => return tell(py, process, metric_name, refusal),
        };
        let Some(running) = current(py) else {
            return write(py, &running::distribute(py, process, &distribution)?);
        };
        let lines = py.detach(|| running.collector().send_custom(&distribution));
        write(py, &lines)?;
        warn_unsent(py, process, &running)?;
        log::from_program(py, &running.collector().take_messages())
    })
}

type Given<'a, 'py> = (
    &'a Bound<'py, PyAny>,
    &'a Bound<'py, PyAny>,
    Option<&'a Bound<'py, PyAny>>,
    Option<&'a Bound<'py, PyAny>>,
);

/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
fn taken(
    py: Python<'_>,
    (name, value, timestamp, tags): Given<'_, '_>,
    now: Duration,
) -> PyResult<Result<Distribution, Refusal>> {
    let Ok(name) = name.cast::<PyString>() else { return Ok(Err(Refusal::Name)) };
    let Some(value) = unless_exception(py, number(value))? else { return Ok(Err(Refusal::Value)) };
    let seconds = match timestamp {
        None => None,
        Some(timestamp) => match unless_exception(py, seconds(timestamp))? {
            None => return Ok(Err(Refusal::Timestamp)),
            seconds => seconds,
        },
    };
    let Some(tags) = unless_exception(py, arguments::tags(tags))? else {
        return Ok(Err(Refusal::Tags));
    };
    Ok(Distribution::new(&name.to_string_lossy(), value, seconds, tags.unwrap_or_default(), now))
}

/// As `float()` takes it, which is more than a number.
fn number(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    value.py().get_type::<PyFloat>().call1((value,))?.extract()
}

/// A datetime knows its seconds itself.
fn seconds(timestamp: &Bound<'_, PyAny>) -> PyResult<f64> {
    match timestamp.getattr_opt(intern!(timestamp.py(), "timestamp"))? {
        Some(method) => method.call0()?.extract(),
        None => number(timestamp),
    }
}

/// Says once of each kind that a value is not sent.
fn tell(py: Python<'_>, process: &Process, name: &Bound<'_, PyAny>, refusal: Refusal) -> PyResult<()> {
    let kind = Refusal::ALL.iter().position(|kind| *kind == refusal);
    if kind.is_none_or(|kind| process.invocations.told[kind].swap(true, SeqCst)) {
        return Ok(());
    }
    let shown: String =
        name.str().map(|name| name.to_string_lossy().chars().take(200).collect()).unwrap_or_default();
    let text = format!("the metric {shown:?} is not sent: {refusal}; others like it are not told of");
    log::from_program(py, &[Message::warning(text)])
}
