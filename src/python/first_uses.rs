//! What `PyO3` makes when it is first used: here, as our module is imported.
//!
//! While a thread makes such a thing, other threads get the GIL, and wait until it is there. In a child that is forked
//! at that moment everyone who needs it would wait for ever. So would they for a module that is being imported, which
//! `PyO3` does for what is not made here: lengths of iterators, mappings, sequences, types of weak references.

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyType, PyTypeMethods};

use super::event_loops::{Beat, Instrument, RunEnd, Select};
use super::exception_hooks::ExceptionHook;

/// Makes all of it. Types that the module exports are made then.
///
/// # Errors
///
/// Any exception.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    Beat::type_object(py);
    ExceptionHook::type_object(py);
    Instrument::type_object(py);
    RunEnd::type_object(py);
    Select::type_object(py);
    // The names that errors contain.
    let class = PyType::type_object(py);
    class.name()?;
    class.qualname()?;
    class.fully_qualified_name()?;
    class.module()?;
    // What takes an exception compares its type with that of a panic.
    PyErr::new::<PyException, _>(()).restore(py);
    drop(PyErr::take(py));
    // What attaches a thread looks whether there is an interpreter.
    py.detach(|| Python::attach(|_| ()));
    Ok(())
}
