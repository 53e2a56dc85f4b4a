//! How metrics start in a function, by whichever of our functions is called first.

use std::sync::atomic::Ordering::SeqCst;

use pyo3::prelude::*;

use super::snapstart;
use crate::clock::since_epoch;
use crate::message::Message;
use crate::python::interrupt::ignore_exception;
use crate::python::process::Process;
use crate::python::running::{Running, is_running, shielded};
use crate::python::{environment, hooks, log};
use crate::settings::Settings;
use crate::settings::variables::{LAMBDA_FUNCTION_NAME, LAMBDA_INITIALIZATION_TYPE};

/// Mark the execution environment of a function as set up; does nothing elsewhere, and starts nothing.
///
/// In a function that is restored from a snapshot, it counts as set up when it is restored.
#[pyfunction]
pub fn mark_set_up(py: Python<'_>) -> PyResult<()> {
    shielded(Ok(()), || {
        let environment = environment::read(py, [LAMBDA_FUNCTION_NAME, LAMBDA_INITIALIZATION_TYPE])?;
        let uses_snapstart = environment.get(LAMBDA_INITIALIZATION_TYPE) == Some("snap-start");
        if environment.get(LAMBDA_FUNCTION_NAME).is_none() || uses_snapstart {
            return Ok(());
        }
        if let Some(process) = ignore_exception(py, hooks::install(py))? {
            process.invocations.guard.set_up(since_epoch());
        }
        Ok(())
    })
}

/// In a function, starts metrics once, as any automatic start would: a later `enable()` may still give arguments.
pub fn enable_in_lambda(py: Python<'_>) -> PyResult<()> {
    let Some(process) = ignore_exception(py, hooks::install(py))? else { return Ok(()) };
    if process.invocations.is_prepared.swap(true, SeqCst) {
        return Ok(());
    }
    let environment = environment::read(py, [LAMBDA_FUNCTION_NAME])?;
    if environment.get(LAMBDA_FUNCTION_NAME).is_none() || is_running() {
        return Ok(());
    }
    let start = || py.import("runtime_metrics.automatic")?.call_method0("start");
    ignore_exception(py, start()).map(drop)
}

/// What is done when metrics were started in a function: its execution environment is marked as set up, and if a
/// snapshot will be taken of it, the hooks around that are registered.
pub fn prepare(py: Python<'_>, process: &Process, uses_snapstart: bool) {
    let invocations = &process.invocations;
    invocations.is_prepared.store(true, SeqCst);
    invocations.guard.set_up(since_epoch());
    if uses_snapstart {
        snapstart::register(py, invocations);
    }
}

/// If nothing is sent, a message that says why; once in a process and its children. Asked for when there is something
/// to send, for until then the program may set an address.
pub fn unsent_message(process: &Process, settings: &Settings) -> Option<Message> {
    let text = settings.unsent_message()?;
    let is_new = !process.invocations.warned_unsent.swap(true, SeqCst);
    is_new.then(|| Message::warning(text))
}

/// Logs why nothing is sent, if that is so.
pub fn warn_unsent(py: Python<'_>, process: &Process, running: &Running) -> PyResult<()> {
    let message = unsent_message(process, running.settings());
    message.map_or(Ok(()), |message| log::from_program(py, &[message]))
}
