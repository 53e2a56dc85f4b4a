//! The edge to AWS Lambda: what has metrics started in a function, and the invocations that its process serves.

mod image;
mod metric;
mod wrapper;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;

use super::log::unless_exception;
use super::process::{self, Process};
use super::running;
use crate::config::Arguments;
use crate::distribution::Refusal;
use crate::invocation::Guard;
use crate::variables::LAMBDA_FUNCTION_NAME;

pub use metric::lambda_metric;
use wrapper::Context;
pub use wrapper::instrument;

/// The invocations that this process serves, and what has been done for them once.
#[derive(Default)]
pub struct Invocations {
    /// Tells them apart, by their contexts.
    guard: Guard<Context>,
    /// Whether somebody has had metrics started for them.
    is_prepared: AtomicBool,
    /// Whether hooks around a stored image have been asked for.
    is_hooked: AtomicBool,
    /// There are none, so that the first invocation finds a process that was restored.
    is_restored_unseen: AtomicBool,
    /// What has been said of refused values, in the order of [`Refusal::ALL`].
    told: [AtomicBool; Refusal::ALL.len()],
}

/// Since 1970.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Writes lines to the log at once, so that what others print does not cut them.
fn write(py: Python<'_>, lines: &str) -> PyResult<()> {
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

/// Has metrics started in a function, once; a later explicit start may still give arguments.
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
    let environment = process::environment(os.as_any(), &[&LAMBDA_FUNCTION_NAME])?;
    if environment.get(&LAMBDA_FUNCTION_NAME).is_none() || running::enabled() {
        return Ok(());
    }
    running::start(py, &Arguments::default(), false)
}

/// Notes when the environment was set up and, if the process will be stored, asks to be told. Called where metrics are
/// enabled in a function.
pub fn prepare(py: Python<'_>, process: &Process, is_stored: bool) {
    let of = &process.invocations;
    of.is_prepared.store(true, SeqCst);
    of.guard.set_up(wall());
    if is_stored {
        image::hook(py, of);
    }
}
