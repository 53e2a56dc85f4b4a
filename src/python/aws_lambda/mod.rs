//! The edge to AWS Lambda: what has metrics started in a function, and the invocations that its process serves.

mod metric;
mod snapstart;
mod wrapper;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;

use super::log::{self, unless_exception};
use super::process::{self, Process};
use super::running::{self, Running, shielded};
use crate::collector::InvocationGuard;
use crate::emitter::Refusal;
use crate::message::Message;
use crate::settings::Settings;
use crate::settings::variables::{LAMBDA_FUNCTION_NAME, LAMBDA_INITIALIZATION_TYPE};

pub use metric::lambda_metric;
use wrapper::Context;
pub use wrapper::instrument;

/// The invocations that this process serves, and what has been done for them once.
#[derive(Default)]
pub struct Invocations {
    /// Tells them apart, by their contexts.
    guard: InvocationGuard<Context>,
    /// Whether somebody has had metrics started for them.
    is_prepared: AtomicBool,
    /// Whether hooks around a stored image have been asked for.
    is_hooked: AtomicBool,
    /// There are none, so that the first invocation finds a process that was restored.
    is_restored_unseen: AtomicBool,
    /// Whether it has been logged why nothing is sent.
    warned_unsent: AtomicBool,
    /// What has been said of refused values, in the order of [`Refusal::ALL`].
    told: [AtomicBool; Refusal::ALL.len()],
}

/// The time of the wall, since 1970.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Writes lines to the log at once, so that what others print does not cut them.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
pub fn write(py: Python<'_>, lines: &str) -> PyResult<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let written = || {
        let stdout = py.import(intern!(py, "sys"))?.getattr(intern!(py, "stdout"))?;
        stdout.call_method1(intern!(py, "write"), (lines,))?;
        stdout.call_method0(intern!(py, "flush"))
    };
    unless_exception(py, written()).map(drop)
}

/// Note that a function has been set up by now, if this is one; nothing is started.
///
/// In an image that is stored it is set up where the image is restored.
#[pyfunction]
pub fn note_set_up(py: Python<'_>) -> PyResult<()> {
    shielded(Ok(()), || {
        let os = py.import(intern!(py, "os"))?;
        let environment =
            process::environment(os.as_any(), [LAMBDA_FUNCTION_NAME, LAMBDA_INITIALIZATION_TYPE])?;
        let is_stored = environment.get(LAMBDA_INITIALIZATION_TYPE) == Some("snap-start");
        if environment.get(LAMBDA_FUNCTION_NAME).is_none() || is_stored {
            return Ok(());
        }
        if let Some(process) = unless_exception(py, Process::this(py))? {
            process.invocations.guard.set_up(wall());
        }
        Ok(())
    })
}

/// Has metrics started in a function as any automatic start would, once; a later explicit start may still give arguments.
fn enable_in_lambda(py: Python<'_>) -> PyResult<()> {
    let process = match Process::this(py) {
        Ok(process) => process,
        Err(error) if error.is_instance_of::<PyException>(py) => return Ok(()),
        Err(error) => return Err(error),
    };
    if process.invocations.is_prepared.swap(true, SeqCst) {
        return Ok(());
    }
    let os = py.import(intern!(py, "os"))?;
    let environment = process::environment(os.as_any(), [LAMBDA_FUNCTION_NAME])?;
    if environment.get(LAMBDA_FUNCTION_NAME).is_none() || running::enabled() {
        return Ok(());
    }
    let automatic = || py.import("runtime_metrics.automatic")?.call_method0("start");
    unless_exception(py, automatic()).map(drop)
}

/// If nothing is sent, a message that says why; once in a process and its children. Asked for when there is something to
/// send, for until then the program may set an address.
pub fn unsent_message(process: &Process, settings: &Settings) -> Option<Message> {
    let text = settings.unsent_message()?;
    let is_new = !process.invocations.warned_unsent.swap(true, SeqCst);
    is_new.then(|| Message::warning(text))
}

/// Logs why nothing is sent, if that is so.
fn warn_unsent(py: Python<'_>, process: &Process, running: &Running) -> PyResult<()> {
    let message = unsent_message(process, running.settings());
    message.map_or(Ok(()), |message| log::from_program(py, &[message]))
}

/// Notes when the environment was set up and, if the process will be stored, asks to be told. Called where metrics are
/// enabled in a function.
pub fn prepare(py: Python<'_>, process: &Process, is_stored: bool) {
    let of = &process.invocations;
    of.is_prepared.store(true, SeqCst);
    of.guard.set_up(wall());
    if is_stored {
        snapstart::hook(py, of);
    }
}
