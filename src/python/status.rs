//! `RuntimeMetrics.status()`: how it stands with sending.

#![allow(clippy::doc_markdown, reason = "the function's comment is its docstring in Python")]

use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::process;
use super::running::{current, settings, shielded};
use crate::emitter::Totals;
use crate::settings::Arguments;
use crate::settings::variables::Variable;

/// Tell how it stands with sending.
///
/// Returns:
///     A dict with these keys:
///     state: "off", "disabled" by DD_DOGSTATSD_DISABLE, "untried" before the first flush, "working", "failing", or
///         "busy" if a flush takes longer than 2 s.
///     since: When sending began to be so, as time.time() counts; None if nothing is collected.
///     error: The last error with its likely cause, also where sending works again, or None.
///     address: Where metrics go, "udp://localhost:8125"; None if that is the log, or nowhere.
///     chosen_by: The argument or variable that chose the address, "default" if none did, or None.
///     peer: The address that a UDP host has been resolved to, "127.0.0.1:8125", or None.
///     transport: "udp", "uds" for datagrams over a Unix socket, "uds-stream", or None.
///     metrics: Values written since enable().
///     packets_sent, bytes_sent: What the kernel took.
///     packets_dropped, bytes_dropped: What was lost, also where that was learnt after the kernel had taken it.
#[pyfunction]
pub fn status(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let running = shielded(None, || current(py));
    let status =
        running.as_ref().and_then(|running| shielded(None, || py.detach(|| running.collector().status())));
    let state = match (&running, &status) {
        (_, Some(status)) => status.sending.as_str(),
        (Some(_), None) => "busy",
        (None, None) if is_disabled(py)? => "disabled",
        (None, None) => "off",
    };
    let since = running.zip(status.as_ref()).map(|(running, status)| {
        let age = running.clock().now().saturating_sub(status.since);
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age).as_secs_f64()
    });
    let Totals { metrics, sent, dropped } = status.as_ref().map(|status| status.totals).unwrap_or_default();
    let told = PyDict::new(py);
    told.set_item("state", state)?;
    told.set_item("since", since)?;
    let destination = status.as_ref().and_then(|status| status.destination.as_ref());
    let texts = [
        ("error", status.as_ref().and_then(|status| status.error.clone())),
        ("address", destination.map(|destination| destination.address.to_string())),
        ("chosen_by", destination.map(|destination| destination.chosen_by.as_str().to_owned())),
        ("peer", status.as_ref().and_then(|status| status.peer).map(|peer| peer.to_string())),
        ("transport", status.as_ref().and_then(|status| status.transport).map(str::to_owned)),
    ];
    for (key, text) in texts {
        told.set_item(key, text)?;
    }
    let counts = [
        ("metrics", metrics),
        ("packets_sent", sent.packets),
        ("bytes_sent", sent.bytes),
        ("packets_dropped", dropped.packets),
        ("bytes_dropped", dropped.bytes),
    ];
    for (key, count) in counts {
        told.set_item(key, count)?;
    }
    Ok(told)
}

/// Whether the environment forbids to collect.
fn is_disabled(py: Python<'_>) -> PyResult<bool> {
    let environment = process::environment(py.import(intern!(py, "os"))?.as_any(), Variable::all())?;
    Ok(settings(&Arguments::default(), &environment).is_ok_and(|(settings, _)| settings.disabled))
}
