//! Separates exceptions that are ours to handle from those that a signal handler of the program raised: see the rule in
//! `mod.rs`.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;

/// Returns an `Exception` for the caller to handle, and passes on everything else, such as `KeyboardInterrupt` and
/// `SystemExit`.
pub fn catch_exception<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<PyResult<T>> {
    match result {
        Err(error) if !error.is_instance_of::<PyException>(py) => Err(error),
        result => Ok(result),
    }
}

/// The value, or `None` in place of an `Exception`; passes on everything else, such as `KeyboardInterrupt` and
/// `SystemExit`.
pub fn ignore_exception<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<Option<T>> {
    catch_exception(py, result).map(Result::ok)
}
