//! Why the interpreter has no fact about the program.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::event_loops::tasks::WITHOUT_REGISTRY;
use super::interrupt::ignore_exception;
use super::program;
use crate::python::interned::intern;
use crate::snapshot::Absence;

/// Why no event loop can be observed; `None` if one could.
pub fn of_event_loops(modules: &Bound<'_, PyDict>) -> PyResult<Option<Absence>> {
    let py = modules.py();
    if !modules.contains(intern!(py, "_asyncio"))? {
        return Ok(Some(Absence::NoAsyncio));
    }
    let is_patched = ignore_exception(py, program::is_monkey_patched(modules))?;
    Ok(is_patched.unwrap_or(false).then_some(Absence::Greenlets))
}

/// Why tasks were not counted, as far as that is known.
pub fn of_tasks(modules: &Bound<'_, PyDict>) -> PyResult<Option<Absence>> {
    let py = modules.py();
    if !modules.contains(intern!(py, "asyncio.tasks"))? {
        return Ok(Some(Absence::NoAsyncio));
    }
    Ok((program::hexversion(py)? >= WITHOUT_REGISTRY).then_some(Absence::NoTaskRegistry))
}
