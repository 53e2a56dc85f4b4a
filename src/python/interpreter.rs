//! The interpreter as a source: what the reader, or a caller that is attached anyway, reads from it.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;

use super::gc_callback::Installation;
use super::log;
use crate::clock::Clock;
use crate::message::Message;
use crate::reader::Interpreter;
use crate::snapshot;
use crate::sources::gc::GcCounters;

/// The running interpreter.
pub struct CPython {
    gc_counters: Arc<GcCounters>,
    get_count: Py<PyAny>,
    gc_callback: Installation,
}

impl CPython {
    /// Finds what will be called; installs nothing.
    pub fn new(py: Python<'_>, clock: Clock) -> PyResult<Self> {
        let gc_counters = Arc::new(GcCounters::new());
        Ok(Self {
            get_count: py.import(intern!(py, "gc"))?.getattr(intern!(py, "get_count"))?.unbind(),
            gc_callback: Installation::new(py, Arc::clone(&gc_counters), clock)?,
            gc_counters,
        })
    }

    /// What our callback counts.
    pub fn gc_counters(&self) -> Arc<GcCounters> {
        Arc::clone(&self.gc_counters)
    }

    /// Begins to count collections.
    pub fn install(&self, py: Python<'_>) -> PyResult<()> {
        self.gc_callback.install(py).map(drop)
    }

    /// Counts no more.
    pub fn uninstall(&self, py: Python<'_>) -> PyResult<()> {
        self.gc_callback.remove(py)
    }

    /// What the interpreter knows now; puts the callback back if the program has removed it.
    pub fn facts(&self, py: Python<'_>) -> Option<snapshot::Interpreter> {
        if self.gc_callback.install(py).ok()? {
            self.gc_counters.note_unseen();
        }
        let gc_count = self.get_count.bind(py).call0().ok()?.extract::<(u64, u64, u64)>().ok()?.into();
        Some(snapshot::Interpreter { gc_count })
    }
}

impl Interpreter for CPython {
    fn read(&self) -> Option<snapshot::Interpreter> {
        Python::try_attach(|py| self.facts(py)).flatten()
    }

    fn log(&self, messages: Vec<Message>) -> Vec<Message> {
        // Only a finalising interpreter refuses, and then there is nobody left to tell.
        Python::try_attach(|py| log::from_foreign_thread(py, messages)).unwrap_or_default()
    }
}

/// Whether this is the interpreter that the process began with, and not one of its sub-interpreters.
#[allow(unsafe_code, reason = "interpreters are told apart in the C API alone")]
pub fn is_main(_py: Python<'_>) -> bool {
    // SAFETY: the interpreter is ours here, so there is a current one.
    unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) == 0 }
}
