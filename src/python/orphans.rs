//! What a child process inherits of a collector that another thread of its parent was disabling at the fork: nothing in
//! the child removes it.

use pyo3::prelude::*;
use pyo3::types::PyList;

use super::exception_hooks::{ExceptionHook, Hook, programs_own};
use super::gc_callback::GcCallback;
use super::native_function::owner_of;
use crate::python::interned::intern;

/// Removes any callback and any hook of ours, in a child process that has one thread and in which nothing runs.
pub fn remove(py: Python<'_>) -> PyResult<()> {
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    // The thread may have been importing it, which would never end here.
    if let Ok(gc) = modules.get_item(intern!(py, "gc")) {
        remove_callbacks(&gc)?;
    }
    for hook in Hook::ALL {
        // Another hook of ours is to be removed if this one cannot be.
        drop(remove_hook(&modules, hook));
    }
    Ok(())
}

fn remove_callbacks(gc: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(callbacks) = gc.getattr_opt(intern!(gc.py(), "callbacks"))? else { return Ok(()) };
    let callbacks = callbacks.cast::<PyList>()?;
    let is_ours =
        |at: &usize| callbacks.get_item(*at).is_ok_and(|entry| owner_of::<GcCallback>(&entry).is_some());
    while let Some(at) = (0..callbacks.len()).find(is_ours) {
        callbacks.del_item(at)?;
    }
    Ok(())
}

fn remove_hook(modules: &Bound<'_, PyAny>, hook: Hook) -> PyResult<()> {
    let (module, attribute) = hook.names(modules.py());
    let module = modules.get_item(module)?;
    match module.getattr_opt(attribute)? {
        Some(current) if owner_of::<ExceptionHook>(&current).is_some() => {
            module.setattr(attribute, programs_own(current))
        }
        _ => Ok(()),
    }
}
