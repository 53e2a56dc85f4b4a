//! Our entry in `gc.callbacks`: a bound native method, which CPython calls without a frame or a tuple.
//!
//! It runs inside a collection, which up to CPython 3.11 means inside any allocation of any thread: it allocates
//! nothing, locks nothing, and returns None whatever happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyList, PyString};

use crate::clock::Clock;
use crate::collector::Postponement;
use crate::fork_mark::ForkMark;
use crate::sources::gc::GcCounters;

/// The callback in gc.callbacks that counts collections.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct GcCallback {
    counters: Arc<GcCounters>,
    clock: Clock,
    fork_mark: &'static ForkMark,
    postponement: &'static Postponement,
    resume_soon: fn() -> bool,
}

#[pymethods]
impl GcCallback {
    /// Record the start or the end of a collection; gc calls it.
    fn observe(&self, phase: &Bound<'_, PyAny>, info: &Bound<'_, PyAny>) {
        // After a fork by C code this may be the first call of ours in the child. It is not counted.
        if self.fork_mark.is_inherited() {
            (self.resume_soon)();
            return;
        }
        let now = self.clock.nanoseconds();
        match phase.cast::<PyString>().ok().and_then(|phase| phase.to_str().ok()) {
            Some("start") => self.counters.start(now),
            Some("stop") => self.counters.stop(now, generation(info).unwrap_or(usize::MAX)),
            _ => {}
        }
        self.postponement.start_if_due(now, self.resume_soon);
    }
}

/// The generation that is collected.
fn generation(info: &Bound<'_, PyAny>) -> Option<usize> {
    let generation = info.cast::<PyDict>().ok()?.get_item(generation_key(info.py())).ok()??;
    generation.extract().ok()
}

/// Interned before the callback is installed, as it must not allocate.
fn generation_key(py: Python<'_>) -> &Bound<'_, PyString> {
    intern!(py, "generation")
}

/// The callback, and the list that it is installed in.
///
/// Several threads may install it at once, and the program may change the list meanwhile. Without a GIL, the list's own
/// lock makes what is looked up and what is changed one step: nothing in between runs Python code or waits, which would
/// release it.
pub struct Installation {
    observe: Py<PyAny>,
    callbacks: Py<PyList>,
    /// It was installed before.
    is_installed: AtomicBool,
    /// It was removed for good and is not installed again.
    is_removed: AtomicBool,
}

impl Installation {
    /// Makes a callback, and does not install it yet.
    ///
    /// In a child process, which has inherited `fork_mark`, it counts nothing and calls `resume_soon`, as it does where
    /// threads are due that were postponed.
    pub fn new(
        py: Python<'_>,
        counters: Arc<GcCounters>,
        clock: Clock,
        fork_mark: &'static ForkMark,
        postponement: &'static Postponement,
        resume_soon: fn() -> bool,
    ) -> PyResult<Self> {
        generation_key(py);
        let callback = Bound::new(py, GcCallback { counters, clock, fork_mark, postponement, resume_soon })?;
        let observe = callback.getattr(intern!(py, "observe"))?.unbind();
        let callbacks = py.import(intern!(py, "gc"))?.getattr(intern!(py, "callbacks"))?;
        Ok(Self {
            observe,
            callbacks: callbacks.cast_into::<PyList>()?.unbind(),
            is_installed: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
        })
    }

    /// Installs the callback, unless it was removed for good; whether the program had removed it.
    pub fn install(&self, py: Python<'_>) -> PyResult<bool> {
        let callbacks = self.callbacks.bind(py);
        with_critical_section(callbacks, || {
            if self.is_removed.load(SeqCst) || self.position(callbacks).is_some() {
                return Ok(false);
            }
            callbacks.append(&self.observe)?;
            Ok(self.is_installed.swap(true, SeqCst))
        })
    }

    /// Removes the callback for good.
    pub fn remove(&self, py: Python<'_>) -> PyResult<()> {
        let callbacks = self.callbacks.bind(py);
        with_critical_section(callbacks, || {
            self.is_removed.store(true, SeqCst);
            self.position(callbacks).map_or(Ok(()), |at| callbacks.del_item(at))
        })
    }

    fn position(&self, callbacks: &Bound<'_, PyList>) -> Option<usize> {
        callbacks.iter().position(|entry| entry.is(&self.observe))
    }
}
