//! The native functions of ours that the program's objects call.

use pyo3::PyTypeInfo;
use pyo3::ffi::PyCFunction_GetSelf;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

/// What a native function was made of, if that is one of these; `None` of any other callable. Runs no Python code.
#[expect(unsafe_code, reason = "An attribute of the program's object could be code of the program.")]
pub fn owner_of<'py, T: PyTypeInfo>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, T>> {
    let function = function.cast::<PyCFunction>().ok()?;
    // SAFETY: it is a native function, which keeps alive what it was made of, if it was made of anything.
    let owner =
        unsafe { Bound::from_borrowed_ptr_or_opt(function.py(), PyCFunction_GetSelf(function.as_ptr())) };
    owner?.cast_into().ok()
}
