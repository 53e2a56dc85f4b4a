//! Custom metrics: converts and sends their values, and warns about those that are refused.

#![expect(clippy::doc_markdown, reason = "The function's comment is its docstring in Python.")]

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyString};

use super::start::{enable_in_lambda, unsent_message, warn_unsent};
use crate::clock::since_epoch;
use crate::collector;
use crate::emitter::{Distribution, Refusal};
use crate::identity::tracers::Tracers;
use crate::message::{MAX_SHOWN, Message};
use crate::python::interned::intern;
use crate::python::interrupt::ignore_exception;
use crate::python::plan::Plan;
use crate::python::process::Process;
use crate::python::running::{current, shielded};
use crate::python::{arguments, hooks, log};
use crate::settings::Arguments;

/// Send one value of a distribution now, to where the runtime metrics are sent.
///
/// In AWS Lambda, with neither the Datadog Lambda Extension nor an address, it is written to the log if DD_FLUSH_TO_LOG
/// is true, else dropped. A wrong value raises nothing; the first of each kind is logged as a warning.
///
/// Args:
///     metric_name: The name of the metric.
///     value: The value.
///     timestamp: The time of the value: seconds since 1970 or a datetime, at most 4 hours ago. Now by default.
///         A number too large for seconds counts milliseconds, microseconds or nanoseconds. Left out unless the
///         value goes to the Datadog Lambda Extension or to the log: the Agent would discard it.
///     tags: The tags of the value: "key:value" strings.
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
        let process = hooks::install(py)?;
        let given = Given { name: metric_name, value, timestamp, tags };
        let distribution = match given.distribution(py, since_epoch())? {
            Ok(distribution) => distribution,
            Err(refusal) => return warn_refused(py, process, metric_name, refusal),
        };
        let Some(running) = current(py) else {
            return log::write_lines(py, &send_alone(py, process, &distribution)?);
        };
        let lines = py.detach(|| running.collector().send_custom(&distribution));
        log::write_lines(py, &lines)?;
        warn_unsent(py, process, &running)?;
        log::from_program(py, &running.collector().take_messages())
    })
}

/// What the program gives.
struct Given<'a, 'py> {
    name: &'a Bound<'py, PyAny>,
    value: &'a Bound<'py, PyAny>,
    timestamp: Option<&'a Bound<'py, PyAny>>,
    tags: Option<&'a Bound<'py, PyAny>>,
}

impl Given<'_, '_> {
    fn distribution(&self, py: Python<'_>, now: Duration) -> PyResult<Result<Distribution, Refusal>> {
        let Ok(name) = self.name.cast::<PyString>() else { return Ok(Err(Refusal::Name)) };
        let Some(value) = ignore_exception(py, number(self.value))? else { return Ok(Err(Refusal::Value)) };
        let timestamp = match self.timestamp {
            None => None,
            Some(timestamp) => match ignore_exception(py, seconds(timestamp))? {
                None => return Ok(Err(Refusal::Timestamp)),
                seconds => seconds,
            },
        };
        let Some(tags) = ignore_exception(py, arguments::tags(self.tags))? else {
            return Ok(Err(Refusal::Tags));
        };
        let name = name.to_string_lossy();
        Ok(Distribution::new(&name, value, timestamp, tags.unwrap_or_default(), now))
    }
}

/// Converts as `float()` does, which accepts more than numbers.
fn number(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    value.py().get_type::<PyFloat>().call1((value,))?.extract()
}

/// The seconds of a number or of a `datetime`.
fn seconds(timestamp: &Bound<'_, PyAny>) -> PyResult<f64> {
    match timestamp.getattr_opt(intern!(timestamp.py(), "timestamp"))? {
        Some(method) => method.call0()?.extract(),
        None => number(timestamp),
    }
}

/// Sends where no collector runs; returns lines for the program's log.
fn send_alone(py: Python<'_>, process: &Process, distribution: &Distribution) -> PyResult<String> {
    let (plan, warnings) = Plan::new(py, &Arguments::default())?;
    if plan.settings.disabled {
        return Ok(String::new());
    }
    let mut messages = process.messages(warnings);
    messages.extend(unsent_message(process, &plan.settings));
    log::from_program(py, &messages)?;
    let inputs = plan.identity_inputs(process, Tracers::default());
    Ok(collector::send_custom(&plan.settings, inputs, distribution))
}

/// Warns that a value is not sent, once for each reason.
fn warn_refused(
    py: Python<'_>,
    process: &Process,
    name: &Bound<'_, PyAny>,
    refusal: Refusal,
) -> PyResult<()> {
    let index = Refusal::ALL.iter().position(|known| *known == refusal);
    if index.is_none_or(|index| process.invocations.warned_refused[index].swap(true, SeqCst)) {
        return Ok(());
    }
    let shown: String =
        name.str().map(|name| name.to_string_lossy().chars().take(MAX_SHOWN).collect()).unwrap_or_default();
    let text = format!("the metric {shown:?} is not sent: {refusal}; later ones like it are not logged");
    log::from_program(py, &[Message::warning(text)])
}
