//! The event loops of the program: how they are found, and what observes them.
//!
//! Nothing of asyncio is patched. A loop is found in the registry of tasks, or by a garbage collection in its thread,
//! or as it runs the code that calls ours. It is then asked once, from whatever thread, to call us: what observes it is
//! installed in its own thread. Loops are held weakly.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use once_cell::race::OnceBox;
use pyo3::ffi::{Py_DecRef, Py_IsNone, PyErr_Clear, PyObject, PyObject_CallNoArgs, PyWeakref_NewRef};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyWeakrefMethods, PyWeakrefReference};

pub use self::beat::Beat;
use self::known::{Known, Probe, Watch};
pub use self::run_watch::RunEnd;
use self::select::Outcome;
pub use self::select::Select;
use super::interrupt::ignore_exception;
use super::loop_handler::LoopHandler;
use super::program;
use crate::clock::Clock;
use crate::fork_mark::ForkMark;
use crate::python::interned::intern;
use crate::replaceable::Replaceable;
use crate::snapshot::{LoopQueues, Source, SourceSet};
use crate::sources::event_loops::{EventLoops, Method};
use crate::sources::uncaught::UncaughtCounters;

mod beat;
mod callback;
mod known;
mod run_watch;
mod select;
pub mod tasks;

/// What is known of loops that are known alone.
pub const NEED_LOOPS: [Source; 2] = [Source::EventLoops, Source::LoopQueues];

/// How many addresses of loops are kept for collections to compare with.
const SEEN: usize = 16;

/// Finds the event loops of the program, and installs what observes them.
pub struct LoopInstrumentation {
    clock: Clock,
    fork_mark: &'static ForkMark,
    is_needed: AtomicBool,
    /// Whether exceptions that nobody asks for are counted.
    needs_exceptions: AtomicBool,
    uncaught: Arc<UncaughtCounters>,
    watch: Replaceable<Watch>,
    /// `asyncio._get_running_loop`, once the program has imported asyncio.
    get_running_loop: OnceBox<Py<PyAny>>,
    /// A weak reference to a loop that a collection has found, or null.
    noticed: AtomicPtr<PyObject>,
    /// The addresses of loops that are known.
    seen: [AtomicUsize; SEEN],
}

impl LoopInstrumentation {
    /// Finds none yet.
    pub fn new(
        clock: Clock,
        fork_mark: &'static ForkMark,
        needs: SourceSet,
        uncaught: Arc<UncaughtCounters>,
    ) -> Self {
        Self {
            clock,
            fork_mark,
            is_needed: AtomicBool::new(needs.contains_any(&NEED_LOOPS)),
            needs_exceptions: AtomicBool::new(needs.contains(Source::UncaughtExceptions)),
            uncaught,
            watch: Replaceable::empty(),
            get_running_loop: OnceBox::new(),
            noticed: AtomicPtr::new(ptr::null_mut()),
            seen: [const { AtomicUsize::new(0) }; SEEN],
        }
    }

    /// Sets whether loops are observed, and what is counted in them.
    pub fn need(&self, needs: SourceSet) {
        self.is_needed.store(needs.contains_any(&NEED_LOOPS), SeqCst);
        self.needs_exceptions.store(needs.contains(Source::UncaughtExceptions), SeqCst);
    }

    /// From now on counts for this collector. In a child process nothing is known any more: what the parent installed
    /// does nothing there.
    pub fn watch(&self, observed: Arc<EventLoops>) {
        let watch = Watch { observed, known: Mutex::default() };
        let Some(before) = self.watch.swap(Some(Arc::new(watch))) else { return };
        // A thread that the child does not have may hold its lock for ever.
        let is_empty = before.known.try_lock().is_ok_and(|known| {
            known.iter().for_each(|known| known.deactivate());
            known.is_empty()
        });
        if !is_empty {
            std::mem::forget(before);
        }
        self.seen.iter().for_each(|seen| seen.store(0, SeqCst));
    }

    /// Looks for loops, and checks those that are known. May be called in any thread.
    pub fn update(self: &Arc<Self>, modules: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = modules.py();
        let Some(watch) = self.watch.load() else { return Ok(()) };
        if !self.is_needed.load(SeqCst) {
            // They were needed before.
            return if watch.known().is_empty() { Ok(()) } else { self.uninstrument_all(py) };
        }
        // Not while it is locked: this runs code of the program's loops.
        let known = watch.known().clone();
        for known in known {
            if !ignore_exception(py, self.check(py, &known))?.unwrap_or(false) {
                watch.forget(&known);
                known.remove_handler(py)?;
                let seen = self.seen_at(known.address);
                let _ = seen.compare_exchange(known.address, 0, SeqCst, SeqCst);
            }
        }
        self.instrument_running(py)?;
        self.find(modules)
    }

    /// What waits in the loops that are known; `None` where none of them shows it.
    pub fn queues(&self, py: Python<'_>) -> PyResult<Option<LoopQueues>> {
        let Some(watch) = self.watch.load() else { return Ok(None) };
        let known = watch.known().clone();
        let mut longest: Option<LoopQueues> = None;
        for event_loop in known.iter().filter_map(|known| known.event_loop.bind(py).upgrade()) {
            let length = |name| match event_loop.getattr_opt(name)? {
                Some(queue) => queue.len().map(|length| Some(length as u64)),
                None => Ok(None),
            };
            let lengths = length(intern!(py, "_ready"))
                .and_then(|ready| Ok(ready.zip(length(intern!(py, "_scheduled"))?)));
            if let Some((ready, timers)) = ignore_exception(py, lengths)?.flatten() {
                let others = longest.unwrap_or_default();
                longest =
                    Some(LoopQueues { ready: ready.max(others.ready), timers: timers.max(others.timers) });
            }
        }
        Ok(longest)
    }

    /// Looks for a first loop: a glance while there is none.
    pub fn find_first(self: &Arc<Self>, modules: &Bound<'_, PyDict>) -> PyResult<()> {
        let is_first = || self.watch.load().is_some_and(|watch| watch.known().is_empty());
        if self.is_needed.load(SeqCst) && is_first() { self.find(modules) } else { Ok(()) }
    }

    /// Called by a garbage collection, in whatever thread collects: remembers the loop that runs there. Locks nothing,
    /// and allocates nothing but one weak reference for a loop that is not known yet.
    #[expect(unsafe_code, reason = "PyO3's way to release a reference may allocate.")]
    pub fn notice(&self, _py: Python<'_>) {
        if !(self.is_needed.load(SeqCst) && self.noticed.load(SeqCst).is_null()) {
            return;
        }
        let Some(get_running_loop) = self.get_running_loop.get() else { return };
        // SAFETY: the thread is attached. What is called is a native function, which returns a new reference; so does
        // the other call. Errors are cleared, as a collection has none.
        unsafe {
            let event_loop = PyObject_CallNoArgs(get_running_loop.as_ptr());
            if event_loop.is_null() {
                PyErr_Clear();
                return;
            }
            let address = event_loop.addr();
            if Py_IsNone(event_loop) == 0 && self.seen_at(address).load(SeqCst) != address {
                let reference = PyWeakref_NewRef(event_loop, ptr::null_mut());
                if reference.is_null() {
                    PyErr_Clear();
                } else {
                    Py_DecRef(self.noticed.swap(reference, SeqCst));
                }
            }
            Py_DecRef(event_loop);
        }
    }

    /// Removes what observes loops, and forgets them.
    pub fn uninstrument_all(&self, py: Python<'_>) -> PyResult<()> {
        self.need(SourceSet::default());
        drop(self.take_noticed(py));
        let Some(watch) = self.watch.load() else { return Ok(()) };
        let known = std::mem::take(&mut *watch.known());
        for known in known {
            let event_loop = known.event_loop.bind(py).upgrade();
            ignore_exception(py, self.uninstrument(py, &known, event_loop.as_ref()))?;
        }
        Ok(())
    }

    /// Observes the loop that runs the code that called this, if there is one.
    fn instrument_running(&self, py: Python<'_>) -> PyResult<()> {
        let Some(get_running_loop) = self.get_running_loop.get() else { return Ok(()) };
        let event_loop = get_running_loop.bind(py).call0()?;
        if event_loop.is_none() { Ok(()) } else { self.instrument(&event_loop) }
    }

    /// Asks loops that are not known to call us. Mostly there is none, which is to cost as little as can be.
    fn find(self: &Arc<Self>, modules: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = modules.py();
        let is_ready = self.get_running_loop.get().is_some();
        if is_ready && self.noticed.load(SeqCst).is_null() && !tasks::are_there(modules)? {
            return Ok(());
        }
        let Some(native) = modules.get_item(intern!(py, "_asyncio"))? else { return Ok(()) };
        // Greenlets share a thread, and the functions that a loop calls are not those of a thread of ours.
        if program::is_monkey_patched(modules)? {
            return Ok(());
        }
        if !is_ready && let Some(get_running_loop) = native.getattr_opt(intern!(py, "_get_running_loop"))? {
            // If another thread was first, it found the same.
            let _ = self.get_running_loop.set(Box::new(get_running_loop.unbind()));
            self.instrument_running(py)?;
        }
        if let Some(noticed) = self.take_noticed(py) {
            self.request(&noticed)?;
        }
        for event_loop in tasks::some_loops(modules)? {
            self.request(&event_loop)?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "A collection stores a pointer.")]
    fn take_noticed<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let noticed = self.noticed.swap(ptr::null_mut(), SeqCst);
        // SAFETY: it is null, or a reference that is owned by whoever takes it.
        let noticed = unsafe { Bound::from_owned_ptr_or_opt(py, noticed) };
        noticed.and_then(|noticed| noticed.cast_into::<PyWeakrefReference>().ok()?.upgrade())
    }

    /// Asks a running loop to call us, if it is not known.
    fn request(self: &Arc<Self>, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event_loop.py();
        let Some(watch) = self.watch.load() else { return Ok(()) };
        let known = watch.find(event_loop);
        let observed = &watch.observed;
        let has_room =
            |known: &Known| matches!(known.probe, Probe::NoRoom(method) if observed.has_room(method));
        if known.as_ref().is_some_and(|known| !has_room(known)) {
            return Ok(());
        }
        let handler = known.and_then(|known| known.handler.clone());
        let requested = || {
            if event_loop.call_method0(intern!(py, "is_running"))?.is_truthy()? {
                watch.know(event_loop, Probe::Requested, handler)?;
                let instrument = Bound::new(py, Instrument(Arc::clone(self)))?;
                let context = callback::without_context(py)?;
                event_loop.call_method(intern!(py, "call_soon_threadsafe"), (instrument,), Some(&context))?;
            }
            Ok(())
        };
        // It may be closing.
        ignore_exception(py, requested()).map(drop)
    }

    /// Observes a loop: each new loop passes here once, in its own thread, while it runs. What else is to be installed
    /// in a loop belongs here and, to be removed, in [`uninstrument`](Self::uninstrument).
    fn instrument(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = event_loop.py();
        let Some(watch) = self.watch.load() else { return Ok(()) };
        let known = watch.find(event_loop);
        if !self.is_needed.load(SeqCst) || known.as_ref().is_some_and(|known| !known.is_waiting()) {
            return Ok(());
        }
        let probe = match ignore_exception(py, self.probe(event_loop, &watch.observed))? {
            Some(probe) => probe,
            None => Probe::Nothing,
        };
        let handler = match known.and_then(|known| known.handler.clone()) {
            None if self.needs_exceptions.load(SeqCst) => {
                ignore_exception(py, LoopHandler::install(event_loop, &self.uncaught))?.map(Arc::new)
            }
            handler => handler,
        };
        let Some(known) = ignore_exception(py, watch.know(event_loop, probe, handler))? else {
            return Ok(());
        };
        // Another thread may have disabled metrics meanwhile, when this one was not known yet.
        if !self.is_needed.load(SeqCst) {
            return if watch.forget(&known) {
                self.uninstrument(py, &known, Some(event_loop))
            } else {
                Ok(())
            };
        }
        if !known.is_waiting() {
            self.seen_at(known.address).store(known.address, SeqCst);
        }
        Ok(())
    }

    fn probe(&self, event_loop: &Bound<'_, PyAny>, observed: &Arc<EventLoops>) -> PyResult<Probe> {
        let py = event_loop.py();
        let placed = select::place(event_loop, observed, self.clock, self.fork_mark);
        match ignore_exception(py, placed)? {
            Some(Outcome::Placed(placed)) => return Ok(Probe::Select(placed)),
            Some(Outcome::NoRoom) => return Ok(Probe::NoRoom(Method::Iterations)),
            Some(Outcome::Impossible) | None => {}
        }
        let beat = Beat::start(event_loop, observed, self.clock, self.fork_mark)?;
        Ok(beat.map_or(Probe::NoRoom(Method::Beats), Probe::Beat))
    }

    /// Whether a loop is still observed as it was; also sees whether it runs.
    fn check(&self, py: Python<'_>, known: &Known) -> PyResult<bool> {
        let Some(event_loop) = known.event_loop.bind(py).upgrade() else { return Ok(false) };
        if event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy()? {
            known.deactivate();
            return Ok(false);
        }
        let now = self.clock.nanoseconds();
        match &known.probe {
            Probe::Select(placed) => placed.check(&event_loop, now),
            Probe::Beat(beat) => beat.get().check(&event_loop, now),
            Probe::Requested | Probe::NoRoom(_) | Probe::Nothing => Ok(true),
        }
    }

    /// Removes what observes a loop: called once for each that is known, in any thread.
    fn uninstrument(
        &self,
        py: Python<'_>,
        known: &Known,
        event_loop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        known.remove_handler(py)?;
        match (&known.probe, event_loop) {
            (Probe::Select(placed), _) => placed.remove(py, self.clock.nanoseconds()),
            (Probe::Beat(beat), Some(event_loop)) => {
                let is_own_thread = self.get_running_loop.get().is_some_and(|get_running_loop| {
                    get_running_loop.bind(py).call0().is_ok_and(|running| running.is(event_loop))
                });
                Beat::remove(beat.bind(py), event_loop, is_own_thread)
            }
            (Probe::Beat(_) | Probe::Requested | Probe::NoRoom(_) | Probe::Nothing, _) => Ok(()),
        }
    }

    fn seen_at(&self, address: usize) -> &AtomicUsize {
        // Objects begin at multiples of 16.
        &self.seen[address / 16 % SEEN]
    }
}

/// What a loop calls once it has been found.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct Instrument(Arc<LoopInstrumentation>);

#[pymethods]
impl Instrument {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        callback::shielded(|| {
            if self.0.fork_mark.is_inherited() { Ok(()) } else { self.0.instrument_running(py) }
        })
    }
}
