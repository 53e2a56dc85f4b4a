//! The threads that `threading` knows.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::program;
use crate::python::interned::intern;

/// How many of them there are; `None` where the program has not imported it, or where greenlets are in their place.
pub fn count(modules: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let py = modules.py();
    let Some(threading) = modules.get_item(intern!(py, "threading"))? else { return Ok(None) };
    if program::is_monkey_patched(modules)? {
        return Ok(None);
    }
    // Its functions would take a lock, and look at each thread.
    let active = threading.getattr_opt(intern!(py, "_active"))?;
    Ok(active.and_then(|active| active.cast_into::<PyDict>().ok()).map(|active| active.len() as u64))
}
