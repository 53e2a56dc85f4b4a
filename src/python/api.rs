//! The functions of `RuntimeMetrics`, but for `status()`.

#![expect(clippy::doc_markdown, reason = "The functions' comments are their docstrings in Python.")]

use pyo3::exceptions::{PyDeprecationWarning, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::interpreter::Purpose;
use super::interrupt::catch_exception;
use super::running::{self, STOP_TIMEOUT, current, shielded};
use super::start::{Started, start};
use super::{arguments, aws_lambda, exit, hooks, log};
use crate::catalogue::metric::{Member, Value};
use crate::memory;
use crate::message::Message;
use crate::settings::{Arguments, ServiceArguments};

/// Start to collect this process's runtime metrics and to send them at every interval.
///
/// Arguments that are not given come from the environment (DD_DOGSTATSD_URL, DD_SERVICE, ...), else from the
/// defaults. The first metrics are sent one interval from now, the last when the interpreter exits. In AWS Lambda,
/// metrics are sent only at the end of each invocation of a handler that runtime_metrics.aws_lambda has wrapped.
///
/// Called again without arguments, or with those in effect, it does nothing. Other arguments are applied after an
/// automatic start; after an explicit one they are ignored, with a warning that names them.
///
/// Args:
///     tracer: Ignored, with a DeprecationWarning; ddtrace used to accept it.
///     dogstatsd_url: Where to send: udp://host[:port], unix:///path, unixgram:///path, unixstream:///path,
///         host[:port] or /path.
///     flush_interval: Seconds between two flushes, from 0.01 to 86400; 10 by default.
///     service: The tag service.
///     env: The tag env.
///     version: The tag version.
///     tags: Further tags: a mapping, or "key:value" strings.
///     level: How much to send: "default"; "standard", which adds what explains why a process is slow and what will end
///         it; or "detailed", which adds what an investigation asks for next.
///     wire_type: "distribution", or "gauge", of which only the last value in an interval counts.
///
/// Raises:
///     TypeError: An argument has the wrong type.
///     ValueError: An argument has a wrong value. In both cases nothing is started.
#[pyfunction]
#[pyo3(signature = (
    tracer=None, dogstatsd_url=None, flush_interval=None, *,
    service=None, env=None, version=None, tags=None, level=None, wire_type=None,
))]
#[expect(clippy::too_many_arguments, reason = "They are the function's signature in Python.")]
pub fn enable(
    py: Python<'_>,
    tracer: Option<&Bound<'_, PyAny>>,
    dogstatsd_url: Option<&Bound<'_, PyAny>>,
    flush_interval: Option<&Bound<'_, PyAny>>,
    service: Option<&Bound<'_, PyAny>>,
    env: Option<&Bound<'_, PyAny>>,
    version: Option<&Bound<'_, PyAny>>,
    tags: Option<&Bound<'_, PyAny>>,
    level: Option<&Bound<'_, PyAny>>,
    wire_type: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    if let Some(tracer) = tracer {
        arguments::tracer(tracer)?;
        let text = c"RuntimeMetrics.enable(): the argument 'tracer' is deprecated and has no effect";
        PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), text, 1)?;
    }
    let arguments = Arguments {
        dogstatsd_url: arguments::text("dogstatsd_url", dogstatsd_url)?,
        flush_interval: arguments::number("flush_interval", flush_interval)?,
        level: arguments::text("level", level)?,
        wire_type: arguments::text("wire_type", wire_type)?,
        service_arguments: ServiceArguments {
            service: arguments::text("service", service)?,
            env: arguments::text("env", env)?,
            version: arguments::text("version", version)?,
            tags: arguments::tags(tags)?,
        },
    };
    shielded(Ok(()), || start_or_log(py, &arguments, true))
}

/// Start as a launcher does: a later enable() may still give arguments.
#[pyfunction]
pub fn enable_automatically(py: Python<'_>) -> PyResult<()> {
    shielded(Ok(()), || start_or_log(py, &Arguments::default(), false))
}

/// Starts, or logs why that is not possible: it is no reason to disturb the program.
fn start_or_log(py: Python<'_>, arguments: &Arguments, is_explicit: bool) -> PyResult<()> {
    if !memory::is_available() {
        let text = "RuntimeMetrics.enable() did nothing, because memory is short: call it again";
        return log::from_program(py, &[Message::warning(text)]);
    }
    let process = match catch_exception(py, hooks::install(py))? {
        Ok(process) => process,
        Err(error) => return log::from_program(py, &[running::not_collected(&error)]),
    };
    let Started { running, messages } = start(py, process, arguments, is_explicit)?;
    if let Some(running) = running {
        exit::register_with_pools(py);
        if let Some(function) = running.settings().aws_lambda {
            aws_lambda::prepare(py, process, function.uses_snapstart);
        }
    }
    log::from_program(py, &messages)
}

/// Send a last time and stop; both threads have ended when it returns, after 1 s at the latest.
///
/// Does nothing if metrics are not collected.
#[pyfunction]
pub fn disable(py: Python<'_>) -> PyResult<()> {
    shielded(Ok(()), || {
        let collector = running::stop(py, STOP_TIMEOUT, false)?;
        collector.map_or(Ok(()), |collector| log::from_program(py, &collector.take_messages()))
    })
}

/// Collect and send now, in the calling thread, and begin a new interval.
///
/// Returns:
///     Whether everything was sent: False if metrics are not collected, if another flush is under way and does not
///     end within 100 ms, if something could not be sent, or if memory is short. Then the interval goes on.
#[pyfunction]
pub fn flush(py: Python<'_>) -> PyResult<bool> {
    shielded(Ok(false), || {
        let Some(running) = current(py) else { return Ok(false) };
        if !memory::is_available() {
            // Nothing is read, so that nothing is needed; the collector counts it.
            return Ok(py.detach(|| running.collector().flush(None)).everything_sent);
        }
        running.ensure_running();
        let answer = catch_exception(py, running.interpreter().answer(py, Purpose::Flush))?.ok();
        let flushed = py.detach(|| running.collector().flush(answer));
        log::write_lines(py, &flushed.log)?;
        log::from_program(py, &running.collector().take_messages())?;
        Ok(flushed.everything_sent)
    })
}

/// Read the current values without sending them or beginning a new interval.
///
/// Returns:
///     The values by full name, as a flush would send them now: changes and aggregates are those since the last
///     flush. Without values that are unknown or not a single number. Empty if metrics are not collected, or while
///     memory is short.
#[pyfunction]
pub fn snapshot(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // By a call that fails where there is no memory for a dict; PyDict::new() would panic.
    let values = py.get_type::<PyDict>().call0()?.cast_into::<PyDict>()?;
    shielded(Err(PyMemoryError::new_err(())), || {
        if !memory::is_available() {
            return Ok(());
        }
        let Some(running) = current(py) else { return Ok(()) };
        running.end_postponement();
        let answer = catch_exception(py, running.interpreter().answer(py, Purpose::Inspect))?.ok();
        for sample in py.detach(|| running.collector().inspect(answer)) {
            match (&sample.member, &sample.value) {
                (Member::Tagged(_), _) | (_, Value::Observed(_)) => {}
                (_, Value::Whole(whole)) => values.set_item(sample.name(), whole)?,
                (_, Value::Real(real)) => values.set_item(sample.name(), real)?,
            }
        }
        Ok(())
    })?;
    Ok(values)
}

/// Return whether metrics are collected.
#[pyfunction]
pub fn enabled() -> bool {
    running::is_running()
}
