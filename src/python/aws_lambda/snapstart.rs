//! Snapshots of a function: what happens before AWS Lambda takes one of its process, and after each restore from it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pyo3::prelude::*;

use crate::clock::since_epoch;
use crate::python::invocations::Invocations;
use crate::python::process::Process;
use crate::python::running::{Running, current, shielded};
use crate::python::{exit, log};

/// How long our threads, if there are any, may take to end before the snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_millis(500);

/// Registers the hooks around the snapshot, once.
pub fn register(py: Python<'_>, invocations: &Invocations) {
    if invocations.is_hooked.swap(true, SeqCst) {
        return;
    }
    let register = || -> PyResult<()> {
        let hooks = py.import("snapshot_restore_py")?;
        hooks.call_method1("register_before_snapshot", (pyo3::wrap_pyfunction!(before_snapshot, py)?,))?;
        hooks.call_method1("register_after_restore", (pyo3::wrap_pyfunction!(after_restore, py)?,))?;
        Ok(())
    };
    // The snapshot is taken later than this, so every invocation is in a restored process.
    invocations.is_restored_unnoticed.store(register().is_err(), SeqCst);
}

/// Leaves nothing in the snapshot that several processes would share.
#[pyfunction]
fn before_snapshot(py: Python<'_>) {
    shielded((), || {
        if let Some(running) = current(py) {
            py.detach(|| running.collector().prepare_for_snapshot(SNAPSHOT_TIMEOUT));
        }
    });
}

/// Makes the restored process an independent one. An exception here would end the function.
#[pyfunction]
fn after_restore(py: Python<'_>) {
    shielded((), || {
        if let Some(process) = Process::known() {
            drop(become_restored(py, process));
        }
    });
}

/// Makes a restored process, which may be one of several copies, an independent one: with a new runtime-id, and without
/// invocations so far.
pub fn become_restored(py: Python<'_>, process: &'static Process) -> PyResult<()> {
    process.renew_runtime_id();
    process.invocations.guard.reset(since_epoch());
    let messages = Running::restore(py, process)?;
    exit::register_with_pools(py);
    log::from_program(py, &messages)
}
