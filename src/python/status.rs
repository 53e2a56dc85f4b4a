//! `RuntimeMetrics.status()`: the delivery status.

#![expect(clippy::doc_markdown, reason = "The function's comment is its docstring in Python.")]

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::environment;
use super::plan::settings;
use super::running::{current, shielded};
use crate::emitter::Totals;
use crate::memory;
use crate::settings::Arguments;
use crate::settings::variables::Variable;

/// Return the delivery status.
///
/// Returns:
///     A dict with these keys:
///     state: "off", "disabled" by DD_DOGSTATSD_DISABLE, "untried" before the first flush, "working", "failing",
///         "busy" if a flush takes longer than 2 s, or "on demand" if the system refuses another thread: until it
///         allows one, only flush() and the exit send.
///     since: The time.time() of the change to this state; None if metrics are not collected.
///     error: The last error with its likely cause, even if sending works again, or None.
///     address: Where metrics are sent, such as "udp://localhost:8125"; None if that is the log, or nowhere.
///     chosen_by: The argument or variable that chose the address, "default" if none did, or None.
///     peer: The address that a UDP host was resolved to, such as "127.0.0.1:8125", or None.
///     transport: "udp", "uds" for datagrams over a Unix socket, "uds-stream", or None.
///     metrics: Values written since enable().
///     packets_sent, bytes_sent: What the kernel accepted, without what is known to have been refused.
///     packets_dropped, bytes_dropped: What was lost, even if that became known only after the kernel had accepted it.
///     left_to_ddtrace: The names of metrics that are not sent as ddtrace sends them itself.
///     selected: Each metric that is selected, by name: "sent" if the last flush had a value of it, otherwise why not:
///         the reason, or every possible one where the actual one is unknown.
///
/// Raises:
///     MemoryError: Memory is short.
#[pyfunction]
pub fn status(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    if !memory::is_available() {
        return Err(PyMemoryError::new_err(()));
    }
    let running = shielded(None, || {
        let running = current(py)?;
        running.end_postponement();
        Some(running)
    });
    let refusal = running.as_ref().and_then(|running| running.collector().refusal());
    let status =
        running.as_ref().and_then(|running| shielded(None, || py.detach(|| running.collector().status())));
    let state = match (&running, &status) {
        (Some(_), Some(_)) if refusal.is_some() => "on demand",
        (_, Some(status)) => status.sending.as_str(),
        (Some(_), None) => "busy",
        (None, None) if is_disabled(py)? => "disabled",
        (None, None) => "off",
    };
    let since = status
        .as_ref()
        .map(|status| refusal.as_ref().map_or(status.since, |refusal| refusal.since).as_secs_f64());
    let Totals { metrics, sent, dropped } = status.as_ref().map(|status| status.totals).unwrap_or_default();
    // By a call that fails where there is no memory for a dict; PyDict::new() would panic.
    let values = py.get_type::<PyDict>().call0()?.cast_into::<PyDict>()?;
    shielded(Err(PyMemoryError::new_err(())), || {
        values.set_item("state", state)?;
        values.set_item("since", since)?;
        let destination = status.as_ref().and_then(|status| status.destination.as_ref());
        let texts = [
            ("error", refusal.map(|refusal| refusal.reason).or_else(|| status.as_ref()?.error.clone())),
            ("address", destination.map(|destination| destination.address.to_string())),
            ("chosen_by", destination.map(|destination| destination.chosen_by.as_str().to_owned())),
            ("peer", status.as_ref().and_then(|status| status.peer).map(|peer| peer.to_string())),
            ("transport", status.as_ref().and_then(|status| status.transport).map(str::to_owned)),
        ];
        for (key, text) in texts {
            values.set_item(key, text)?;
        }
        let counts = [
            ("metrics", metrics),
            ("packets_sent", sent.packets),
            ("bytes_sent", sent.bytes),
            ("packets_dropped", dropped.packets),
            ("bytes_dropped", dropped.bytes),
        ];
        for (key, count) in counts {
            values.set_item(key, count)?;
        }
        let left = status.as_ref().map(|status| status.left_to_ddtrace.names().collect::<Vec<_>>());
        values.set_item("left_to_ddtrace", left.unwrap_or_default())?;
        let selected = py.get_type::<PyDict>().call0()?;
        for (name, state) in status.into_iter().flat_map(|status| status.rows) {
            selected.set_item(name, &*state)?;
        }
        values.set_item("selected", selected)
    })?;
    Ok(values)
}

/// Whether `DD_DOGSTATSD_DISABLE` is true.
fn is_disabled(py: Python<'_>) -> PyResult<bool> {
    let environment = environment::read(py, Variable::all())?;
    Ok(settings(&Arguments::default(), &environment).is_ok_and(|(settings, _)| settings.disabled))
}
