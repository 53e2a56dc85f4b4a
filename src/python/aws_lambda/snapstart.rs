//! What happens around the image that a function is stored as: before it is made, and after each restore.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pyo3::prelude::*;

use super::{Invocations, wall};
use crate::python::process::Process;
use crate::python::running::{Running, current, shielded};

/// How long our threads, where there are any, may take to end before the process is stored.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks to be told of the image, once.
pub fn hook(py: Python<'_>, of: &Invocations) {
    if of.is_hooked.swap(true, SeqCst) {
        return;
    }
    let register = || -> PyResult<()> {
        let hooks = py.import("snapshot_restore_py")?;
        hooks.call_method1("register_before_snapshot", (pyo3::wrap_pyfunction!(before_snapshot, py)?,))?;
        hooks.call_method1("register_after_restore", (pyo3::wrap_pyfunction!(after_restore, py)?,))?;
        Ok(())
    };
    // The image is made after this, so whatever is invoked has been restored from it.
    of.is_restored_unseen.store(register().is_err(), SeqCst);
}

/// Leaves nothing behind in the image that another process could share.
#[pyfunction]
fn before_snapshot(py: Python<'_>) {
    shielded((), || {
        if let Some(running) = current(py) {
            py.detach(|| running.collector().prepare_for_snapshot(PATIENCE));
        }
    });
}

/// Begins as a process of its own. An error here would end the function.
#[pyfunction]
fn after_restore(py: Python<'_>) {
    shielded((), || {
        if let Some(process) = Process::known() {
            drop(renew(py, process));
        }
    });
}

/// The process is another's copy: an id of its own, and the next invocation is its first.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
pub fn renew(py: Python<'_>, process: &Process) -> PyResult<()> {
    process.draw_runtime_id();
    process.invocations.guard.reset(wall());
    Running::restore(py, process)
}
