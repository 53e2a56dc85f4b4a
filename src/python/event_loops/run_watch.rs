//! Notices when a run of a loop ends. While C code holds the GIL, the loop itself could not be asked.
//!
//! A loop that is started makes a hook for asynchronous generators, which lives only as long as it runs.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::callback;
use crate::clock::Clock;
use crate::python::interned::intern;
use crate::python::interrupt::ignore_exception;
use crate::sources::event_loops::EventLoop;

/// Reports to what observes a loop that a run has ended.
pub struct RunWatch {
    /// `sys.get_asyncgen_hooks`.
    get_hooks: Py<PyAny>,
    end: Py<RunEnd>,
    /// The hook of the run under way.
    hook: Mutex<Option<Py<PyWeakrefReference>>>,
}

/// What is called when a hook is gone.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct RunEnd {
    observed: Arc<EventLoop>,
    clock: Clock,
    event_loop: Py<PyWeakrefReference>,
}

#[pymethods]
impl RunEnd {
    /// Runs no Python code, as what a signal handler raises in it would be lost.
    fn __call__(&self, hook: &Bound<'_, PyAny>) -> PyResult<()> {
        callback::shielded(|| {
            let py = hook.py();
            let event_loop = self.event_loop.bind(py).upgrade();
            let thread = event_loop.map(|event_loop| event_loop.getattr_opt(intern!(py, "_thread_id")));
            let thread = ignore_exception(py, thread.transpose())?.flatten().flatten();
            // While it runs, somebody may have set another hook.
            if thread.is_none_or(|thread| thread.is_none()) {
                self.observed.set_stopped(self.clock.nanoseconds());
            }
            Ok(())
        })
    }
}

impl RunWatch {
    /// Watches nothing yet.
    pub fn new(event_loop: &Bound<'_, PyAny>, observed: &Arc<EventLoop>, clock: Clock) -> PyResult<Self> {
        let py = event_loop.py();
        let get_hooks = py.import(intern!(py, "sys"))?.getattr(intern!(py, "get_asyncgen_hooks"))?.unbind();
        let event_loop = PyWeakrefReference::new(event_loop)?.unbind();
        let end = Py::new(py, RunEnd { observed: Arc::clone(observed), clock, event_loop })?;
        Ok(Self { get_hooks, end, hook: Mutex::default() })
    }

    /// Watches the run under way, in its thread. A loop may do without hooks: then nothing is noticed.
    pub fn begin(&self, py: Python<'_>) {
        let hook = || self.get_hooks.bind(py).call0()?.get_item(0);
        let hook = hook().ok().filter(|hook| !hook.is_none());
        let hook = hook.and_then(|hook| PyWeakrefReference::new_with(&hook, self.end.bind(py)).ok());
        let mut watched = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *watched, hook.map(Bound::unbind));
        // It is dropped once this is unlocked.
        drop(watched);
        drop(before);
    }
}
