//! The interpreter as a source: what the reader, or a thread that is attached anyway, reads from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::environment::IdentityReader;
use super::gc_callback::Installation;
use super::process::Process;
use super::{log, tracers};
use crate::clock::Clock;
use crate::collector::{Answer, Interpreter};
use crate::identity::tracers::Tracers;
use crate::memory;
use crate::message::Message;
use crate::snapshot::{InterpreterFacts, Source, SourceSet};
use crate::sources::gc::GcCounters;
use crate::sources::python_blocks::PythonBlocks;

/// What the interpreter is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To send: ddtrace's own runtime metrics may be disabled for it.
    Flush,
    /// To inspect values, or to send them for the last time.
    Inspect,
}

/// The interpreter of this process.
pub struct CPython {
    process: &'static Process,
    clock: Clock,
    gc_counters: Arc<GcCounters>,
    gc_callback: Installation,
    get_count: Py<PyAny>,
    /// `sys.getallocatedblocks`, where there is one.
    count_blocks: Option<Py<PyAny>>,
    blocks: Arc<PythonBlocks>,
    identity: IdentityReader,
    /// `sys.modules`.
    modules: Py<PyDict>,
    /// Whether ddtrace's own runtime metrics are to be disabled.
    force: AtomicBool,
    /// The sources that the selected rows need, as bits.
    needs: AtomicU64,
}

impl CPython {
    /// Finds what will be called; installs nothing yet. The GC callback calls `resume_soon` where it notices a fork, or
    /// that threads are due.
    pub fn new(
        py: Python<'_>,
        process: &'static Process,
        clock: Clock,
        force: bool,
        needs: SourceSet,
        resume_soon: fn() -> bool,
    ) -> PyResult<Self> {
        let gc_counters = Arc::new(GcCounters::new());
        let (counters, fork_mark) = (Arc::clone(&gc_counters), &process.fork_mark);
        let gc_callback =
            Installation::new(py, counters, clock, fork_mark, &process.postponement, resume_soon)?;
        let sys = py.import(intern!(py, "sys"))?;
        Ok(Self {
            process,
            clock,
            gc_counters,
            gc_callback,
            get_count: py.import(intern!(py, "gc"))?.getattr(intern!(py, "get_count"))?.unbind(),
            count_blocks: sys.getattr_opt(intern!(py, "getallocatedblocks"))?.map(Bound::unbind),
            blocks: Arc::default(),
            identity: IdentityReader::new(py)?,
            modules: sys.getattr(intern!(py, "modules"))?.cast_into()?.unbind(),
            force: AtomicBool::new(force),
            needs: AtomicU64::new(needs.bits()),
        })
    }

    /// Changes whether ddtrace's own runtime metrics are to be disabled, and what is read.
    pub fn reconfigure(&self, force: bool, needs: SourceSet) {
        self.force.store(force, SeqCst);
        self.needs.store(needs.bits(), SeqCst);
    }

    /// The counters of our GC callback.
    pub fn gc_counters(&self) -> Arc<GcCounters> {
        Arc::clone(&self.gc_counters)
    }

    /// How often blocks are counted.
    pub fn blocks(&self) -> Arc<PythonBlocks> {
        Arc::clone(&self.blocks)
    }

    /// Starts to count collections.
    pub fn install(&self, py: Python<'_>) -> PyResult<()> {
        self.gc_callback.install(py).map(drop)
    }

    /// Stops to count collections, for good.
    pub fn uninstall(&self, py: Python<'_>) -> PyResult<()> {
        self.gc_callback.remove(py)
    }

    /// Reads everything that is needed; installs our GC callback again if the program has removed it.
    pub fn answer(&self, py: Python<'_>, purpose: Purpose) -> PyResult<Answer> {
        if self.gc_callback.install(py).unwrap_or(false) {
            self.gc_counters.mark_missed();
        }
        let needs = SourceSet::from_bits(self.needs.load(SeqCst));
        let gc_count = if needs.contains(Source::GcCount) { self.gc_count(py) } else { None };
        let needs_blocks = needs.contains_any(&[Source::PythonBlocks, Source::LimitApproach]);
        let blocks = if needs_blocks { self.count_blocks(py) } else { None };
        let gunicorn = if needs.contains(Source::GunicornObjects) {
            self.process.gunicorn_state.read(py)?
        } else {
            None
        };
        Ok(Answer {
            facts: InterpreterFacts { gc_count, blocks },
            gunicorn,
            environment: self.identity.read(py)?,
            tracers: self.tracers(py, purpose)?,
        })
    }

    /// What tracers in this process report; `None` if one of them failed to answer.
    pub fn tracers(&self, py: Python<'_>, purpose: Purpose) -> PyResult<Option<Tracers>> {
        tracers::read(self.modules.bind(py), purpose == Purpose::Flush && self.force.load(SeqCst))
    }

    fn gc_count(&self, py: Python<'_>) -> Option<[i64; 3]> {
        let count: (i64, i64, i64) = self.get_count.bind(py).call0().ok()?.extract().ok()?;
        Some(count.into())
    }

    /// The memory blocks of Python's own allocator, if they are to be counted now.
    fn count_blocks(&self, py: Python<'_>) -> Option<u64> {
        let count = self.count_blocks.as_ref()?.bind(py);
        let blocks = self.blocks.spend(|| self.clock.now(), || count.call0().ok()?.extract().ok()).flatten();
        // It has none where it is told to use another allocator (PYTHONMALLOC=malloc).
        blocks.filter(|blocks| *blocks > 0)
    }
}

impl Interpreter for CPython {
    fn read(&self, entered: &dyn Fn()) -> Option<Answer> {
        if !memory::is_available() {
            return None;
        }
        Python::try_attach(|py| {
            entered();
            // Only the main thread runs signal handlers, so there is no interrupt to pass on.
            self.answer(py, Purpose::Flush).ok()
        })
        .flatten()
    }

    fn enter(&self) -> bool {
        memory::is_available() && Python::try_attach(|_| ()).is_some()
    }

    fn log(&self, messages: Vec<Message>) -> Vec<Message> {
        if !memory::is_available() {
            return messages;
        }
        // It can attach unless the interpreter is finalising; then nothing can be logged any more.
        Python::try_attach(|py| log::from_native_thread(py, messages)).unwrap_or_default()
    }

    fn write(&self, messages: Vec<Message>) -> Vec<Message> {
        log::without_interpreter(messages)
    }
}

/// Whether this is the interpreter that the process began with, and not one of its sub-interpreters.
#[expect(unsafe_code, reason = "Only the C API has an interpreter's id.")]
pub fn is_main(_py: Python<'_>) -> bool {
    // SAFETY: the thread is attached, so there is a current interpreter.
    unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) == 0 }
}
