//! How our code runs in a callback of a loop.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyType};

static CONTEXT: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// Has a loop call us in an empty context: that of the caller would keep alive what the program has put there.
pub fn without_context(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let context = CONTEXT.import(py, "contextvars", "Context")?.call0()?;
    [(intern!(py, "context"), context)].into_py_dict(py)
}

/// Runs it so that a panic, which is a bug of ours, does not reach the program.
pub fn shielded(work: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Ok(()))
}
