//! Converts arguments from Python objects. An error names the argument, its value and what is accepted.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyFloat, PyInt, PyString};

use crate::message::MAX_SHOWN;
use crate::python::interned::intern;
use crate::python::interrupt::ignore_exception;
use crate::settings::InvalidArgument;
use crate::settings::variables;

const TAGS: &str = "a mapping of str to str, or an iterable of \"key:value\" strings";

/// Refuses as `tracer`, which no one has any more, what was meant for another argument: it would be ignored.
pub fn tracer(value: &Bound<'_, PyAny>) -> PyResult<()> {
    let intended = if value.is_instance_of::<PyString>() {
        "dogstatsd_url"
    } else if value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>() {
        "flush_interval"
    } else {
        return Ok(());
    };
    let value = repr(value);
    let text =
        format!("tracer={value}: expected {intended}={value}; the first argument is the deprecated tracer");
    Err(PyTypeError::new_err(text))
}

/// A string; `None` counts as not given.
pub fn text(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<String>> {
    value.map(|value| string(value).ok_or_else(|| wrong_type(name, value, "a str"))).transpose()
}

/// A number; `None` counts as not given.
pub fn number(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<f64>> {
    let accepted = variables::INTERVAL.row().accepts;
    value.map(|value| value.extract().map_err(|_| wrong_type(name, value, accepted))).transpose()
}

/// Tags as `key:value` strings; `None` counts as not given.
pub fn tags(value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<String>>> {
    let Some(value) = value else { return Ok(None) };
    let refused = |found: &Bound<'_, PyAny>| wrong_type("tags", found, TAGS);
    // They can be iterated over, character by character.
    if value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyBytes>()
        || value.is_instance_of::<PyByteArray>()
    {
        return Err(refused(value));
    }
    let py = value.py();
    if ignore_exception(py, value.hasattr(intern!(py, "keys")))? == Some(true) {
        let items = value.call_method0(intern!(py, "items")).and_then(|items| items.try_iter());
        let pairs = ignore_exception(py, items)?.ok_or_else(|| refused(value))?.map(|pair| {
            let (key, item): (Bound<PyAny>, Bound<PyAny>) = pair?.extract()?;
            let name = string(&key).ok_or_else(|| wrong_type("a key of tags", &key, "a str"))?;
            let place = || format!("tags[{}]", repr(&key));
            let text = string(&item).ok_or_else(|| wrong_type(&place(), &item, "a str"))?;
            Ok(format!("{name}:{text}"))
        });
        return list(pairs).map(Some);
    }
    let items = value.try_iter().map_err(|_| refused(value))?;
    let texts = items.enumerate().map(|(place, item)| {
        let item = item?;
        string(&item).ok_or_else(|| wrong_type(&format!("tags[{place}]"), &item, "a \"key:value\" string"))
    });
    list(texts).map(Some)
}

/// A list of these texts. `collect()` would ask an iterator of Python for its length, and `PyO3` imports a module for
/// that.
fn list(texts: impl Iterator<Item = PyResult<String>>) -> PyResult<Vec<String>> {
    let mut list = Vec::new();
    for text in texts {
        list.push(text?);
    }
    Ok(list)
}

impl From<InvalidArgument> for PyErr {
    fn from(invalid: InvalidArgument) -> Self {
        PyValueError::new_err(invalid.to_string())
    }
}

fn string(value: &Bound<'_, PyAny>) -> Option<String> {
    Some(value.cast::<PyString>().ok()?.to_string_lossy().into_owned())
}

fn wrong_type(name: &str, value: &Bound<'_, PyAny>, accepted: &str) -> PyErr {
    PyTypeError::new_err(format!("{name}={}: expected {accepted}", repr(value)))
}

/// A value as Python prints it, without what is beyond the limit.
fn repr(value: &Bound<'_, PyAny>) -> String {
    let shown = value.repr().map(|repr| repr.to_string_lossy().chars().take(MAX_SHOWN).collect());
    shown.unwrap_or_else(|_| "?".to_owned())
}
