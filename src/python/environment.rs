//! Environment variables as the module `os` has them. The C library's own are not read: another thread may be changing
//! them.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::interrupt::ignore_exception;
use crate::python::interned::intern;
use crate::replaceable::Replaceable;
use crate::settings::variables::{Environment, Variable};

/// Reads these variables.
pub fn read(py: Python<'_>, variables: impl IntoIterator<Item = Variable>) -> PyResult<Environment> {
    let Some(environ) = environ(&module_os(py)?)? else { return Ok(Environment::default()) };
    match encoded(&environ) {
        Some(encoded) => Ok(read_encoded(&encoded, variables)),
        None => read_by_method(&environ, variables),
    }
}

/// A variable; `None` if it is not set.
pub fn variable(py: Python<'_>, name: &str) -> Option<String> {
    let environ = environ(&module_os(py).ok()?).ok()??;
    let value = match encoded(&environ) {
        Some(encoded) => encoded.get_item(PyBytes::new(py, name.as_bytes())).ok()??,
        None => environ.call_method1(intern!(py, "get"), (name,)).ok()?,
    };
    match value.cast::<PyBytes>() {
        Ok(bytes) => Some(String::from_utf8_lossy(bytes.as_bytes()).into_owned()),
        Err(_) => value.extract().ok(),
    }
}

/// What follows this prefix in the names of variables, in alphabetical order.
pub fn names(py: Python<'_>, prefix: &str) -> PyResult<Vec<String>> {
    let names = || {
        let mut names = Vec::new();
        for name in module_os(py)?.as_any().get_item(intern!(py, "environ"))?.try_iter()? {
            let name = name?.cast_into::<PyString>()?;
            names.extend(name.to_string_lossy().strip_prefix(prefix).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    };
    Ok(ignore_exception(py, names())?.unwrap_or_default())
}

/// Reads the variables that identify the process, again and again: while they stay the same, that costs a look-up each
/// and no allocation, and the answer is the same object.
pub struct IdentityReader {
    /// The dict of the module `os`.
    os: Py<PyDict>,
    /// The names of the variables, as [`encoded`] has them.
    names: Vec<Py<PyBytes>>,
    /// No lock guards it, as a child process could inherit that locked.
    last: Replaceable<LastRead>,
}

/// What was read last. The objects are kept alive, so that the same address is the same object.
struct LastRead {
    environ: Py<PyAny>,
    encoded: Option<Py<PyDict>>,
    /// In the order of the names.
    values: Vec<Option<Py<PyAny>>>,
    environment: Arc<Environment>,
}

impl IdentityReader {
    /// A reader that has read nothing yet.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        let name = |variable: Variable| PyBytes::new(py, variable.row().name.as_bytes()).unbind();
        Ok(Self {
            os: module_os(py)?.unbind(),
            names: Variable::identity().map(name).collect(),
            last: Replaceable::empty(),
        })
    }

    /// Reads the variables.
    pub fn read(&self, py: Python<'_>) -> PyResult<Arc<Environment>> {
        let Some(environ) = environ(self.os.bind(py))? else { return Ok(Arc::default()) };
        let last = self.last.load();
        if let Some(last) = &last
            && self.is_current(&environ, last)
        {
            return Ok(Arc::clone(&last.environment));
        }
        let encoded = encoded(&environ);
        // Before the variables: if one changes in between, the next read finds another object.
        let values =
            encoded.iter().flat_map(|encoded| self.values(encoded)).map(|value| value.map(Bound::unbind));
        let values = values.collect();
        let environment = match &encoded {
            Some(encoded) => read_encoded(encoded, Variable::identity()),
            None => read_by_method(&environ, Variable::identity())?,
        };
        let environment = match &last {
            Some(last) if *last.environment == environment => Arc::clone(&last.environment),
            _ => Arc::new(environment),
        };
        let (environ, encoded) = (environ.unbind(), encoded.map(Bound::unbind));
        let read = LastRead { environ, encoded, values, environment: Arc::clone(&environment) };
        self.last.store(Some(Arc::new(read)));
        Ok(environment)
    }

    /// Whether nothing has changed since the last read.
    fn is_current(&self, environ: &Bound<'_, PyAny>, last: &LastRead) -> bool {
        let Some(encoded) = last.encoded.as_ref().filter(|_| environ.is(&last.environ)) else { return false };
        let values = self.values(encoded.bind(environ.py())).zip(&last.values);
        values.into_iter().all(|(value, last)| match (value, last) {
            (Some(value), Some(last)) => value.is(last),
            (None, None) => true,
            _ => false,
        })
    }

    fn values<'py>(&self, encoded: &Bound<'py, PyDict>) -> impl Iterator<Item = Option<Bound<'py, PyAny>>> {
        self.names.iter().map(|name| encoded.get_item(name.bind(encoded.py())).ok().flatten())
    }
}

fn module_os(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    Ok(py.import(intern!(py, "os"))?.dict())
}

/// `os.environ`.
fn environ<'py>(os: &Bound<'py, PyDict>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = os.py();
    Ok(ignore_exception(py, os.get_item(intern!(py, "environ")))?.flatten())
}

/// The dict in which `os.environ` holds the variables on Unix, as bytes. It is the same dict for good, and to read it
/// takes a twentieth of the time of the method of `os.environ`.
fn encoded<'py>(environ: &Bound<'py, PyAny>) -> Option<Bound<'py, PyDict>> {
    let data = if cfg!(unix) { environ.getattr_opt(intern!(environ.py(), "_data")).ok()? } else { None };
    data?.cast_into().ok()
}

fn read_encoded(encoded: &Bound<'_, PyDict>, variables: impl IntoIterator<Item = Variable>) -> Environment {
    Environment::read(variables, |name| {
        let value = encoded.get_item(PyBytes::new(encoded.py(), name.as_bytes())).ok()??;
        Some(String::from_utf8_lossy(value.cast::<PyBytes>().ok()?.as_bytes()).into_owned())
    })
}

fn read_by_method(
    environ: &Bound<'_, PyAny>,
    variables: impl IntoIterator<Item = Variable>,
) -> PyResult<Environment> {
    let py = environ.py();
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
