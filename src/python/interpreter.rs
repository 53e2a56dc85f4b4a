//! The interpreter as a source: what the reader, or a caller that is attached anyway, reads from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::gc_callback::Installation;
use super::process::Process;
use super::{log, process, tracers};
use crate::clock::Clock;
use crate::collector::{Answer, Interpreter};
use crate::identity::tracers::Tracers;
use crate::message::Message;
use crate::settings::variables::Variable;
use crate::snapshot::{InterpreterFacts, Source, SourceSet};
use crate::sources::gc::GcCounters;

/// What the interpreter is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To send: another sender of the same metrics may be stopped.
    Flush,
    /// To inspect values, or to send them for the last time.
    Inspect,
}

/// The running interpreter.
pub struct CPython {
    gc_counters: Arc<GcCounters>,
    get_count: Py<PyAny>,
    /// Kept, as importing what is loaded already takes longer than all the rest.
    os: Py<PyAny>,
    /// What `sys.modules` is.
    modules: Py<PyDict>,
    gc_callback: Installation,
    /// Whether ddtrace's own runtime metrics are to be disabled.
    force: AtomicBool,
    /// What the selected rows need.
    needs: AtomicU64,
}

impl CPython {
    /// Finds what will be called; installs nothing.
    pub fn new(py: Python<'_>, clock: Clock, force: bool, needs: SourceSet) -> PyResult<Self> {
        let gc_counters = Arc::new(GcCounters::new());
        Ok(Self {
            get_count: py.import(intern!(py, "gc"))?.getattr(intern!(py, "get_count"))?.unbind(),
            os: py.import(intern!(py, "os"))?.into_any().unbind(),
            modules: py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?.cast_into()?.unbind(),
            gc_callback: Installation::new(py, Arc::clone(&gc_counters), clock)?,
            gc_counters,
            force: AtomicBool::new(force),
            needs: AtomicU64::new(needs.bits()),
        })
    }

    /// Changes what is asked from now on: `force` disables ddtrace's own runtime metrics, `needs` is what is read.
    pub fn reconfigure(&self, force: bool, needs: SourceSet) {
        self.force.store(force, SeqCst);
        self.needs.store(needs.bits(), SeqCst);
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

    /// What the interpreter answers now; installs our callback again if the program has removed it.
    ///
    /// # Errors
    ///
    /// What a signal handler of the program raised meanwhile.
    pub fn answer(&self, py: Python<'_>, purpose: Purpose) -> PyResult<Answer> {
        if self.gc_callback.install(py).unwrap_or(false) {
            self.gc_counters.mark_missed();
        }
        let needs = SourceSet::from_bits(self.needs.load(SeqCst));
        let get_count =
            || self.get_count.bind(py).call0().and_then(|count| count.extract::<(u64, u64, u64)>());
        let gc_count = needs.contains(Source::GcCount).then(get_count).and_then(Result::ok).map(Into::into);
        let process = Process::known().filter(|_| needs.contains(Source::GunicornObjects));
        Ok(Answer {
            facts: InterpreterFacts { gc_count },
            gunicorn: process.map_or(Ok(None), |process| process.questions.ask(py))?,
            environment: process::environment(self.os.bind(py), Variable::identity())?,
            tracers: self.tracers(py, purpose)?,
        })
    }

    /// What tracers say now; `None` if one has failed to.
    ///
    /// # Errors
    ///
    /// What a signal handler of the program has raised meanwhile.
    pub fn tracers(&self, py: Python<'_>, purpose: Purpose) -> PyResult<Option<Tracers>> {
        tracers::read(self.modules.bind(py), purpose == Purpose::Flush && self.force.load(SeqCst))
    }
}

impl Interpreter for CPython {
    fn read(&self, entered: &dyn Fn()) -> Option<Answer> {
        Python::try_attach(|py| {
            entered();
            // Signal handlers run on the main thread alone.
            self.answer(py, Purpose::Flush).ok()
        })
        .flatten()
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
