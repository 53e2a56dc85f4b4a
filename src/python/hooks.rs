//! Installs our hooks, once per process: at forks, at the interpreter's exit, and in uWSGI.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use super::process::Process;
use super::program::loaded;
use super::running::{self, shielded};
use super::{exit, fork};

/// Whether a thread has installed the hooks, or does: two may initialise the process at once.
static IS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// This process; installs the hooks at the first call.
pub fn install(py: Python<'_>) -> PyResult<&'static Process> {
    Process::get_or_init(py, || {
        if IS_INSTALLED.swap(true, SeqCst) {
            return Ok(());
        }
        // If it fails, the next call tries again.
        install_each(py).inspect_err(|_| IS_INSTALLED.store(false, SeqCst))
    })
}

fn install_each(py: Python<'_>) -> PyResult<()> {
    let at_exit = pyo3::wrap_pyfunction!(exit::at_exit, py)?;
    py.import("atexit")?.call_method1("register", (at_exit,))?;
    register_at_fork(py)?;
    chain_uwsgi(py)
}

fn register_at_fork(py: Python<'_>) -> PyResult<()> {
    let hooks = PyDict::new(py);
    hooks.set_item("before", pyo3::wrap_pyfunction!(fork::before, py)?)?;
    hooks.set_item("after_in_parent", pyo3::wrap_pyfunction!(fork::after_in_parent, py)?)?;
    hooks.set_item("after_in_child", pyo3::wrap_pyfunction!(fork::after_in_child, py)?)?;
    // Not on every platform.
    if let Ok(register_at_fork) = py.import("os")?.getattr("register_at_fork") {
        register_at_fork.call((), Some(&hooks))?;
    }
    Ok(())
}

/// uWSGI forks in C and, by default, runs no hooks of Python, but it calls one of its own in the child.
fn chain_uwsgi(py: Python<'_>) -> PyResult<()> {
    let Some(uwsgi) = loaded(py, "uwsgi") else {
        return Ok(());
    };
    let previous = uwsgi.getattr_opt("post_fork_hook")?.map(Bound::unbind);
    let chained = PyCFunction::new_closure(py, None, None, move |arguments, _keywords| {
        let py = arguments.py();
        shielded((), || {
            running::become_child(py);
            // A worker, which may wait for its first request in C code.
            if let Some(running) = running::current(py) {
                running.ensure_running();
            }
        });
        previous.as_ref().map_or_else(|| Ok(py.None()), |previous| previous.call0(py))
    })?;
    uwsgi.setattr("post_fork_hook", chained)
}
