//! Which collections the program has asked for, by `gc.collect()`.
//!
//! The interpreter collects by itself only where more containers than `gc.get_threshold()` allows were made since the
//! last collection, without those that were freed. A collection that begins while there are fewer, or while automatic
//! ones are disabled, was asked for. One that is asked for just when the interpreter would collect is not counted.

use pyo3::ffi::PyGC_IsEnabled;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use super::program::{hexversion, is_free_threaded};
use crate::python::interned::intern;

/// From this version on, a collection that is due begins later.
const COLLECTS_LATER: u32 = 0x030c_0000;

/// What tells it: functions of `gc` that run no Python code.
pub struct ExplicitCollections {
    get_count: Py<PyCFunction>,
    get_threshold: Py<PyCFunction>,
}

impl ExplicitCollections {
    /// `None` where the program has replaced the functions, on free-threaded builds, whose threads count apart, and
    /// from CPython 3.12 on: there a collection waits until the code that made the containers has ended, and by then
    /// some may have been freed.
    pub fn find(gc: &Bound<'_, PyModule>) -> PyResult<Option<Self>> {
        let py = gc.py();
        let count = gc.getattr(intern!(py, "get_count"))?.cast_into().map(Bound::unbind);
        let threshold = gc.getattr(intern!(py, "get_threshold"))?.cast_into().map(Bound::unbind);
        let is_known = hexversion(py)? < COLLECTS_LATER && !is_free_threaded();
        let functions = count.ok().zip(threshold.ok()).filter(|_| is_known);
        Ok(functions.map(|(get_count, get_threshold)| Self { get_count, get_threshold }))
    }

    /// Whether the collection that begins now is one; not if memory is too short to tell.
    pub fn is_one(&self, py: Python<'_>) -> bool {
        #[expect(unsafe_code, reason = "PyO3 has no function for it.")]
        // SAFETY: the thread is attached.
        let is_enabled = unsafe { PyGC_IsEnabled() } == 1;
        let first = |function: &Py<PyCFunction>| {
            let (first, _, _): (i64, i64, i64) = function.bind(py).call0().ok()?.extract().ok()?;
            Some(first)
        };
        let both = first(&self.get_count).zip(first(&self.get_threshold));
        both.is_some_and(|(count, threshold)| !is_enabled || threshold <= 0 || count <= threshold)
    }
}
