//! How our code runs in a callback of a loop.

use std::panic::{AssertUnwindSafe, catch_unwind};

use once_cell::race::OnceBox;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::python::interned::intern;

/// `contextvars.Context`.
static CONTEXT: OnceBox<Py<PyAny>> = OnceBox::new();

/// Has a loop call us in an empty context: that of the caller would keep alive what the program has put there.
pub fn without_context(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let class = CONTEXT.get_or_try_init(|| {
        let module = py.import(intern!(py, "contextvars"))?;
        module.getattr(intern!(py, "Context")).map(|class| Box::new(class.unbind()))
    });
    [(intern!(py, "context"), class?.bind(py).call0()?)].into_py_dict(py)
}

/// Runs it so that a panic, which is a bug of ours, does not reach the program.
pub fn shielded(work: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Ok(()))
}
