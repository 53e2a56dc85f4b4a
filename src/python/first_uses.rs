//! What `PyO3` makes and what CPython imports when it is first used: here, as our module is imported.
//!
//! While a thread makes such a thing, other threads get the GIL, and wait until it is there. In a child that is forked
//! at that moment everyone who needs it would wait for ever.

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMapping, PySequence, PyType, PyTypeMethods, PyWeakrefReference};

use super::aws_lambda::Instrumented;
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
    Instrumented::type_object(py);
    Select::type_object(py);
    PyMapping::type_object(py);
    PySequence::type_object(py);
    PyWeakrefReference::type_object(py);
    RunEnd::type_object(py);
    // The names that errors contain.
    let class = PyType::type_object(py);
    class.name()?;
    class.qualname()?;
    class.fully_qualified_name()?;
    class.module()?;
    // What collects an iterator asks for its length.
    let _ = PyList::empty(py).try_iter()?.size_hint();
    // What takes an exception compares its type with that of a panic.
    PyErr::new::<PyException, _>(()).restore(py);
    drop(PyErr::take(py));
    for module in ["_tracemalloc", "atexit", "gc", "os.path"] {
        py.import(module)?;
    }
    // What attaches a thread looks whether there is an interpreter.
    py.detach(|| Python::attach(|_| ()));
    Ok(())
}
