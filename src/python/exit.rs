//! The last flush, at the exit of the interpreter and of multiprocessing's children.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::log;
use super::process::Process;
use super::program::loaded;
use super::running::{self, shielded};
use crate::collector::Collector;

/// How long the interpreter's exit is held up at most.
const EXIT_TIMEOUT: Duration = Duration::from_millis(100);

/// Sends a last time; nothing of ours enters the interpreter afterwards.
#[pyfunction]
pub fn at_exit(py: Python<'_>) {
    shielded((), || {
        if let Some(collector) = end(py) {
            log::at_exit(py, &collector.take_messages());
        }
    });
}

/// The same for multiprocessing's children, of which there may be many: their parent logs for them.
#[pyfunction]
fn at_child_exit(py: Python<'_>) {
    shielded((), || drop(end(py)));
}

fn end(py: Python<'_>) -> Option<Arc<Collector>> {
    if let Some(process) = Process::known() {
        process.begin_exit();
    }
    running::stop(py, EXIT_TIMEOUT, true).ok().flatten()
}

/// Has multiprocessing's children flush when they exit, if the program has imported it.
///
/// They run no exit handler that they inherited, on any version. A finaliser does run, provided that it was made in the
/// child, after multiprocessing has cleared its registry of them: by a function that multiprocessing calls then, or at
/// once if it has done so already.
pub fn register_with_multiprocessing(py: Python<'_>) {
    let register = || -> PyResult<()> {
        let Some(util) = loaded(py, "multiprocessing.util") else { return Ok(()) };
        let Some(process) = Process::known() else { return Ok(()) };
        if process.multiprocessing_hook.get().is_none() {
            let hook = pyo3::wrap_pyfunction!(in_multiprocessing_child, py)?;
            util.call_method1("register_after_fork", (&hook, &hook))?;
            // multiprocessing refers to its key weakly.
            drop(process.multiprocessing_hook.set(hook.unbind().into_any()));
            let parent =
                loaded(py, "multiprocessing.process").map(|process| process.call_method0("parent_process"));
            if parent.transpose()?.is_some_and(|parent| !parent.is_none()) {
                make_finaliser(py)?;
            }
        }
        Ok(())
    };
    // If it fails, such a child does not send its last interval.
    drop(register());
}

#[pyfunction]
fn in_multiprocessing_child(py: Python<'_>, _key: &Bound<'_, PyAny>) {
    drop(make_finaliser(py));
}

fn make_finaliser(py: Python<'_>) -> PyResult<()> {
    let Some(util) = loaded(py, "multiprocessing.util") else { return Ok(()) };
    let priority = PyDict::new(py);
    // After the program's own finalisers.
    priority.set_item("exitpriority", -100)?;
    let at_exit = pyo3::wrap_pyfunction!(at_child_exit, py)?;
    let arguments = PyTuple::new(py, [py.None().into_bound(py), at_exit.into_any()])?;
    util.getattr("Finalize")?.call(arguments, Some(&priority)).map(drop)
}
