//! The state of Gunicorn's own objects, read by a Python function of `runtime_metrics.gunicorn`.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::interrupt::catch_exception;
use crate::python::interned::intern;
use crate::replaceable::Replaceable;
use crate::sources::gunicorn::objects::GunicornObjects;

/// The function that reads the state in this process, if Gunicorn runs here.
#[derive(Default)]
pub struct StateReader(Replaceable<Py<PyAny>>);

impl StateReader {
    /// The state now, or why it could not be read; `None` without Gunicorn.
    pub fn read(&self, py: Python<'_>) -> PyResult<Option<Result<GunicornObjects, String>>> {
        let Some(read_state) = self.0.load() else { return Ok(None) };
        let state = read_state.call0(py).and_then(|state| objects(state.bind(py).cast::<PyDict>()?));
        Ok(Some(catch_exception(py, state)?.map_err(|error| error.to_string())))
    }

    /// Calls this function from now on.
    pub fn set(&self, read_state: Py<PyAny>) {
        self.0.store(Some(Arc::new(read_state)));
    }

    /// In a child process: forgets the function, which reads its parent's objects. It is not dropped, as that could run
    /// code of the program.
    pub fn forget(&self) {
        std::mem::forget(self.0.swap(None));
    }
}

fn objects(state: &Bound<'_, PyDict>) -> PyResult<GunicornObjects> {
    let py = state.py();
    let number = |key| state.get_item(key)?.map_or(Ok(None), |value| value.extract::<Option<u64>>());
    let workers = state.get_item(intern!(py, "workers"))?.map_or(Ok(Vec::new()), |pids| pids.extract())?;
    let is_replaced = state.get_item(intern!(py, "replaced"))?;
    Ok(GunicornObjects {
        workers,
        is_replaced: is_replaced.map_or(Ok(false), |value| value.is_truthy())?,
        backlog: number(intern!(py, "backlog"))?,
        connections: number(intern!(py, "connections"))?,
    })
}
