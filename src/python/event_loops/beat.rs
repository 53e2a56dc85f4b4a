//! What a loop without a selector is asked to call, again and again: how late it does is how long others wait too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::callback;
use super::run_watch::RunWatch;
use crate::clock::Clock;
use crate::fork_mark::ForkMark;
use crate::python::interned::intern;
use crate::python::interrupt::ignore_exception;
use crate::sources::event_loops::{EventLoop, EventLoops, Method};

/// What the loop calls.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct Beat {
    observed: Arc<EventLoop>,
    loops: Arc<EventLoops>,
    clock: Clock,
    fork_mark: &'static ForkMark,
    event_loop: Py<PyWeakrefReference>,
    run_watch: RunWatch,
    /// The loop's handle of the next call, which has this, and the loop. Only the thread that runs the loop changes it.
    handle: Mutex<Option<Py<PyWeakrefReference>>>,
}

#[pymethods]
impl Beat {
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        callback::shielded(|| {
            let (py, this) = (slf.py(), slf.get());
            if !this.observed.is_active() || this.fork_mark.is_inherited() {
                return Ok(());
            }
            this.observed.beat(this.clock.nanoseconds());
            // It may be closing.
            ignore_exception(py, Self::schedule(slf)).map(drop)
        })
    }

    /// Cancels the next call, in the loop's thread.
    fn cancel_timer(&self, py: Python<'_>) -> PyResult<()> {
        callback::shielded(|| {
            let handle = self.handle().take();
            let handle = handle.and_then(|handle| handle.bind(py).upgrade());
            let cancelled = handle.map(|handle| handle.call_method0(intern!(py, "cancel"))).transpose();
            ignore_exception(py, cancelled).map(drop)
        })
    }
}

impl Beat {
    /// Begins to beat in the running loop of this thread; `None` if there are too many.
    pub fn start(
        event_loop: &Bound<'_, PyAny>,
        loops: &Arc<EventLoops>,
        clock: Clock,
        fork_mark: &'static ForkMark,
    ) -> PyResult<Option<Py<Self>>> {
        let py = event_loop.py();
        let weak_loop = PyWeakrefReference::new(event_loop)?.unbind();
        let Some(observed) = loops.add(Method::Beats, clock.nanoseconds()) else { return Ok(None) };
        let run_watch = RunWatch::new(event_loop, &observed, clock).inspect_err(|_| observed.deactivate())?;
        let beat = Self {
            observed,
            loops: Arc::clone(loops),
            clock,
            fork_mark,
            event_loop: weak_loop,
            run_watch,
            handle: Mutex::default(),
        };
        // What fails drops it, which ends what was begun, unless the loop has it already.
        let beat = Bound::new(py, beat)?;
        Self::schedule(&beat).inspect_err(|_| beat.get().deactivate())?;
        Ok(Some(beat.unbind()))
    }

    /// Sees whether the loop runs; whether it still beats.
    pub fn check(&self, event_loop: &Bound<'_, PyAny>, now: u64) -> PyResult<bool> {
        if !event_loop.call_method0(intern!(event_loop.py(), "is_running"))?.is_truthy()? {
            self.observed.set_stopped(now);
        }
        Ok(self.observed.is_active())
    }

    /// Beats no more.
    pub fn deactivate(&self) {
        self.observed.deactivate();
    }

    /// Beats no more, and leaves no timer in the loop.
    pub fn remove(
        beat: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        is_own_thread: bool,
    ) -> PyResult<()> {
        let py = beat.py();
        beat.get().observed.deactivate();
        if is_own_thread || !event_loop.call_method0(intern!(py, "is_running"))?.is_truthy()? {
            return beat.get().cancel_timer(py);
        }
        let cancel = beat.getattr(intern!(py, "cancel_timer"))?;
        let context = callback::without_context(py)?;
        event_loop.call_method(intern!(py, "call_soon_threadsafe"), (cancel,), Some(&context)).map(drop)
    }

    fn schedule(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Some(event_loop) = this.event_loop.bind(py).upgrade() else { return Ok(()) };
        let now = this.clock.now();
        let pause = this.loops.choose_pause(now);
        let arguments = (pause.as_secs_f64(), slf);
        let context = callback::without_context(py)?;
        let handle = event_loop.call_method(intern!(py, "call_later"), arguments, Some(&context))?;
        // Not every object can be referred to weakly. Without a handle, the call that is due is the last.
        let handle = PyWeakrefReference::new(&handle).ok().map(Bound::unbind);
        // Dropped when it is unlocked.
        let before = std::mem::replace(&mut *this.handle(), handle);
        drop(before);
        this.run_watch.begin(py);
        this.observed.await_beat(u64::try_from((now + pause).as_nanos()).unwrap_or(u64::MAX));
        Ok(())
    }

    fn handle(&self) -> MutexGuard<'_, Option<Py<PyWeakrefReference>>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.observed.deactivate();
    }
}
