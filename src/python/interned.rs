//! Names of Python's attributes and modules, each made into a string once.

use once_cell::race::OnceBox;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// A name as a Python string, which is made the first time. The macro of the same name in `pyo3` gives up the GIL then,
/// and lets other threads wait until the string is there: in a child that is forked at that moment they would wait for
/// ever.
macro_rules! intern {
    ($py:expr, $name:expr) => {{
        static NAME: $crate::python::interned::Interned = $crate::python::interned::Interned::new($name);
        NAME.get($py)
    }};
}

pub(super) use intern;

/// What [`intern!`] keeps.
pub struct Interned {
    name: &'static str,
    string: OnceBox<Py<PyString>>,
}

impl Interned {
    /// A name of which there is no string yet.
    pub const fn new(name: &'static str) -> Self {
        Self { name, string: OnceBox::new() }
    }

    /// The string. Two threads may both make it, but neither waits.
    #[inline(never)]
    pub fn get<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        self.string.get_or_init(|| Box::new(PyString::intern(py, self.name).unbind())).bind(py)
    }
}
