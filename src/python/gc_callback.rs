//! Our entry in `gc.callbacks`: a bound native method, so that CPython calls it without a frame or a tuple.
//!
//! It runs inside a collection, which up to 3.11 means inside any allocation of any thread: it allocates nothing,
//! locks nothing, and returns None whatever happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use super::fork::resume_soon;
use super::process::Process;
use crate::clock::Clock;
use crate::sources::gc::GcCounters;

/// Counts the collections of one collector.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct GcCallback {
    counters: Arc<GcCounters>,
    clock: Clock,
}

#[pymethods]
impl GcCallback {
    /// Note the start or the stop of a collection; what gc calls.
    fn observe(&self, phase: &Bound<'_, PyAny>, info: &Bound<'_, PyAny>) {
        // The first chance that a child gives us which was forked by C code: the rest must wait until it runs Python.
        if Process::known().is_some_and(|process| process.image.is_inherited()) {
            resume_soon();
            return;
        }
        let now = self.clock.nanoseconds();
        match phase.cast::<PyString>().ok().and_then(|phase| phase.to_str().ok()) {
            Some("start") => self.counters.start(now),
            Some("stop") => self.counters.stop(now, generation(info).unwrap_or(usize::MAX)),
            _ => {}
        }
    }
}

/// Of the collection that `info` describes.
fn generation(info: &Bound<'_, PyAny>) -> Option<usize> {
    let generation = info.cast::<PyDict>().ok()?.get_item(intern!(info.py(), "generation")).ok()??;
    generation.extract().ok()
}

/// The callback, and the list it is to be in.
pub struct Installation {
    observe: Py<PyAny>,
    callbacks: Py<PyList>,
    /// For good: whoever still looks after it lets it be.
    removed: AtomicBool,
}

impl Installation {
    /// Makes a callback that is not installed yet.
    pub fn new(py: Python<'_>, counters: Arc<GcCounters>, clock: Clock) -> PyResult<Self> {
        let callback = Bound::new(py, GcCallback { counters, clock })?;
        let observe = callback.getattr(intern!(py, "observe"))?.unbind();
        let callbacks = py.import(intern!(py, "gc"))?.getattr(intern!(py, "callbacks"))?;
        Ok(Self {
            observe,
            callbacks: callbacks.cast_into::<PyList>()?.unbind(),
            removed: AtomicBool::new(false),
        })
    }

    /// Puts the callback into the list, unless it has been removed for good; says whether it was missing.
    pub fn install(&self, py: Python<'_>) -> PyResult<bool> {
        if self.removed.load(SeqCst) || self.position(py).is_some() {
            return Ok(false);
        }
        self.callbacks.bind(py).append(&self.observe)?;
        Ok(true)
    }

    /// Takes the callback out of the list for good.
    pub fn remove(&self, py: Python<'_>) -> PyResult<()> {
        self.removed.store(true, SeqCst);
        self.position(py).map_or(Ok(()), |at| self.callbacks.bind(py).del_item(at))
    }

    fn position(&self, py: Python<'_>) -> Option<usize> {
        self.callbacks.bind(py).iter().position(|entry| entry.is(&self.observe))
    }
}
