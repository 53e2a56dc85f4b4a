//! Environment variables as the module `os` has them. The C library's own are not read: another thread may be changing
//! them.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::interrupt::ignore_exception;
use crate::settings::variables::{Environment, Variable};

/// These variables.
pub fn read(os: &Bound<'_, PyAny>, variables: impl IntoIterator<Item = Variable>) -> PyResult<Environment> {
    let py = os.py();
    let Some(environ) = ignore_exception(py, os.getattr(intern!(py, "environ")))? else {
        return Ok(Environment::default());
    };
    // On Unix, os.environ holds them as bytes: reading those takes a twentieth of the time of its own method.
    let held = environ.getattr_opt(intern!(py, "_data")).ok().flatten();
    if let Some(Ok(held)) = held.filter(|_| cfg!(unix)).map(Bound::cast_into::<PyDict>) {
        return Ok(Environment::read(variables, |name| {
            let value = held.get_item(PyBytes::new(py, name.as_bytes())).ok()??;
            Some(String::from_utf8_lossy(value.cast::<PyBytes>().ok()?.as_bytes()).into_owned())
        }));
    }
    let mut interrupted = Ok(());
    let environment = Environment::read(variables, |name| {
        let value = ignore_exception(py, environ.call_method1(intern!(py, "get"), (name,)));
        let value = value.unwrap_or_else(|error| {
            interrupted = Err(error);
            None
        });
        Some(value?.cast::<PyString>().ok()?.to_string_lossy().into_owned())
    });
    interrupted.map(|()| environment)
}
