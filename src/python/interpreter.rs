//! The interpreter as a source: what the reader, or a thread that is attached anyway, reads from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::absence;
use super::description::DescriptionReader;
use super::environment::IdentityReader;
use super::event_loops::{LoopInstrumentation, NEED_LOOPS, tasks};
use super::exception_hooks::ExceptionHooks;
use super::executors::longest_queue;
use super::gc_callback::Installation;
use super::interrupt::ignore_exception;
use super::process::Process;
use super::program::is_free_threaded;
use super::{log, threads, tracers};
use crate::clock::Clock;
use crate::collector::{Answer, Interpreter};
use crate::identity::tracers::Tracers;
use crate::memory;
use crate::message::Message;
use crate::python::interned::intern;
use crate::settings::Settings;
use crate::snapshot::{InterpreterFacts, Source, SourceSet};
use crate::sources::event_loops::EventLoops;
use crate::sources::gc::GcCounters;
use crate::sources::python_blocks::PythonBlocks;
use crate::sources::uncaught::UncaughtCounters;

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
    loop_instrumentation: Arc<LoopInstrumentation>,
    exception_hooks: ExceptionHooks,
    description: DescriptionReader,
    get_count: Py<PyAny>,
    get_threshold: Py<PyAny>,
    /// `sys.getallocatedblocks`, where there is one that can be called.
    count_blocks: Option<Py<PyAny>>,
    blocks: Arc<PythonBlocks>,
    identity: IdentityReader,
    /// `sys.modules`.
    modules: Py<PyDict>,
    /// Whether ddtrace's own runtime metrics are to be disabled.
    force: AtomicBool,
    /// The sources that the selected rows need, as bits.
    needs: AtomicU64,
    /// Whether this is the interpreter that what runs reads: it may have been disabled, and another enabled.
    is_current: fn(&Self) -> bool,
}

impl CPython {
    /// Finds what will be called; installs nothing yet. The GC callback calls `resume_soon` where it notices a fork, or
    /// that threads are due. Callback and hooks are installed only while `is_current` says so.
    pub fn new(
        py: Python<'_>,
        process: &'static Process,
        clock: Clock,
        settings: &Settings,
        resume_soon: fn() -> bool,
        is_current: fn(&Self) -> bool,
    ) -> PyResult<Self> {
        let gc_counters = Arc::new(GcCounters::new());
        let (counters, fork_mark) = (Arc::clone(&gc_counters), &process.fork_mark);
        let needs = settings.needs();
        let sys = py.import(intern!(py, "sys"))?;
        let modules = sys.getattr(intern!(py, "modules"))?.cast_into::<PyDict>()?.unbind();
        // Without a GIL it looks at the memory of other threads while they use it.
        let count_blocks =
            if is_free_threaded() { None } else { sys.getattr_opt(intern!(py, "getallocatedblocks"))? };
        let exception_hooks = ExceptionHooks::new(modules.clone_ref(py));
        let loop_instrumentation =
            Arc::new(LoopInstrumentation::new(clock, fork_mark, needs, exception_hooks.counters()));
        let loops = Arc::clone(&loop_instrumentation);
        let gc_callback =
            Installation::new(py, counters, clock, fork_mark, &process.postponement, resume_soon, loops)?;
        let gc = py.import(intern!(py, "gc"))?;
        Ok(Self {
            process,
            clock,
            gc_counters,
            gc_callback,
            loop_instrumentation,
            exception_hooks,
            description: DescriptionReader::new(
                py,
                clock,
                modules.clone_ref(py),
                settings.aws_lambda.is_some(),
                needs.contains(Source::Description),
            )?,
            get_count: gc.getattr(intern!(py, "get_count"))?.unbind(),
            get_threshold: gc.getattr(intern!(py, "get_threshold"))?.unbind(),
            count_blocks: count_blocks.map(Bound::unbind),
            blocks: Arc::default(),
            identity: IdentityReader::new(py)?,
            modules,
            force: AtomicBool::new(settings.force),
            needs: AtomicU64::new(needs.bits()),
            is_current,
        })
    }

    /// Changes whether ddtrace's own runtime metrics are to be disabled, and what is read.
    pub fn reconfigure(&self, py: Python<'_>, settings: &Settings) {
        let needs = settings.needs();
        self.force.store(settings.force, SeqCst);
        self.needs.store(needs.bits(), SeqCst);
        self.loop_instrumentation.need(needs);
        self.update_exception_hooks(py);
    }

    /// Event loops are observed for a collector that counts with these from now on.
    pub fn watch_loops(&self, observed: Arc<EventLoops>) {
        self.loop_instrumentation.watch(observed);
    }

    /// The counters of our GC callback.
    pub fn gc_counters(&self) -> Arc<GcCounters> {
        Arc::clone(&self.gc_counters)
    }

    /// How often blocks are counted.
    pub fn blocks(&self) -> Arc<PythonBlocks> {
        Arc::clone(&self.blocks)
    }

    /// The counters of our hooks for exceptions.
    pub fn uncaught_counters(&self) -> Arc<UncaughtCounters> {
        self.exception_hooks.counters()
    }

    /// Starts to count collections and, where that is needed, exceptions, and to observe the event loop that runs the
    /// caller.
    pub fn install(&self, py: Python<'_>) -> PyResult<()> {
        self.update_exception_hooks(py);
        self.gc_callback.install(py, || (self.is_current)(self))?;
        ignore_exception(py, self.loop_instrumentation.find_first(self.modules.bind(py))).map(drop)
    }

    /// Stops counting and observing event loops, for good.
    pub fn uninstall(&self, py: Python<'_>) -> PyResult<()> {
        self.exception_hooks.remove(py);
        self.gc_callback.remove(py).and(self.loop_instrumentation.uninstrument_all(py))
    }

    /// Reads everything that is needed; installs our GC callback again if the program has removed it.
    pub fn answer(&self, py: Python<'_>, purpose: Purpose) -> PyResult<Answer> {
        if self.gc_callback.install(py, || (self.is_current)(self)).unwrap_or(false) {
            self.gc_counters.mark_missed();
        }
        self.update_exception_hooks(py);
        let needs = self.needs();
        let modules = self.modules.bind(py);
        ignore_exception(py, self.loop_instrumentation.update(modules))?;
        let is_needed = |source| needs.contains(source);
        let tasks =
            if is_needed(Source::Tasks) { ignore_exception(py, tasks::count(modules))? } else { None };
        let tasks = tasks.flatten();
        let no_tasks = if is_needed(Source::Tasks) && tasks.is_none() {
            ignore_exception(py, absence::of_tasks(modules))?.flatten()
        } else {
            None
        };
        let no_event_loop = if needs.contains_any(&NEED_LOOPS) {
            ignore_exception(py, absence::of_event_loops(modules))?.flatten()
        } else {
            None
        };
        let queue_depth =
            if is_needed(Source::Executors) { ignore_exception(py, longest_queue(modules))? } else { None };
        let threads = if is_needed(Source::PythonThreads) {
            ignore_exception(py, threads::count(modules))?
        } else {
            None
        };
        let loop_queues = if is_needed(Source::LoopQueues) {
            ignore_exception(py, self.loop_instrumentation.queues(py))?
        } else {
            None
        };
        let needs_blocks = needs.contains_any(&[Source::PythonBlocks, Source::LimitApproach, Source::Growth]);
        let facts = InterpreterFacts {
            gc_count: is_needed(Source::GcCount).then(|| triple(self.get_count.bind(py))).flatten(),
            gc_threshold: is_needed(Source::GcThreshold).then(|| self.gc_threshold(py)).flatten(),
            blocks: needs_blocks.then(|| self.count_blocks(py)).flatten(),
            modules: is_needed(Source::Modules).then(|| modules.len() as u64),
            threads: threads.flatten(),
            tasks,
            no_tasks,
            queue_depth: queue_depth.and_then(Result::ok),
            no_queue_depth: queue_depth.and_then(Result::err),
            loop_queues: loop_queues.flatten(),
            no_event_loop,
            is_gil_reenabled: is_needed(Source::Gil).then(|| self.description.is_gil_reenabled(py)).flatten(),
            description: is_needed(Source::Description).then(|| self.description.read(py)).flatten(),
        };
        let gunicorn = if needs.contains(Source::GunicornObjects) {
            self.process.gunicorn_state.read(py)?
        } else {
            None
        };
        Ok(Answer {
            facts,
            gunicorn,
            environment: self.identity.read(py)?,
            tracers: self.tracers(py, purpose)?,
        })
    }

    /// What tracers in this process report; `None` if one of them failed to answer.
    pub fn tracers(&self, py: Python<'_>, purpose: Purpose) -> PyResult<Option<Tracers>> {
        tracers::read(self.modules.bind(py), purpose == Purpose::Flush && self.force.load(SeqCst))
    }

    fn update_exception_hooks(&self, py: Python<'_>) {
        let are_needed = self.needs().contains(Source::UncaughtExceptions);
        self.exception_hooks.update(py, are_needed, || (self.is_current)(self));
    }

    fn needs(&self) -> SourceSet {
        SourceSet::from_bits(self.needs.load(SeqCst))
    }

    fn gc_threshold(&self, py: Python<'_>) -> Option<u64> {
        let [threshold, ..] = triple(self.get_threshold.bind(py))?;
        threshold.try_into().ok()
    }

    /// The memory blocks of Python's own allocator, if they are to be counted now.
    fn count_blocks(&self, py: Python<'_>) -> Option<u64> {
        let count = self.count_blocks.as_ref()?.bind(py);
        let blocks = self.blocks.spend(|| self.clock.now(), || count.call0().ok()?.extract().ok()).flatten();
        // It has none where it is told to use another allocator (PYTHONMALLOC=malloc).
        blocks.filter(|blocks| *blocks > 0)
    }
}

/// The numbers that a function of `gc` returns, one for each generation.
fn triple(function: &Bound<'_, PyAny>) -> Option<[i64; 3]> {
    let numbers: (i64, i64, i64) = function.call0().ok()?.extract().ok()?;
    Some(numbers.into())
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

    fn enter(&self, entered: &dyn Fn()) {
        if memory::is_available() {
            Python::try_attach(|py| {
                entered();
                // Only the main thread runs signal handlers, so there is no interrupt to pass on.
                drop(self.loop_instrumentation.find_first(self.modules.bind(py)));
            });
        }
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
