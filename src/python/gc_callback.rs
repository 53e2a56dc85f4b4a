//! Our entry in `gc.callbacks`: a bound native method, which CPython calls without a frame or a tuple.
//!
//! It runs inside a collection, which up to CPython 3.11 means inside any allocation of any thread: it allocates
//! nothing, but for what tells where that is needed which collections are explicit, locks nothing, and returns None
//! whatever happens. `PyO3`'s wrapper of a method may allocate: it uses
//! thread-local data, which the C library makes at a thread's first use where it had no room for it before.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use pyo3::ffi::{
    METH_FASTCALL, Py_IncRef, Py_None, Py_ssize_t, PyCFunction_New, PyMethodDef, PyMethodDefPointer, PyObject,
};
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyList, PyString};

use super::event_loops::LoopInstrumentation;
use super::explicit_collections::ExplicitCollections;
use super::native_function::owner_of;
use super::stopped_world::with_world_stopped;
use super::turn::Turn;
use crate::clock::Clock;
use crate::collector::Postponement;
use crate::fork_mark::ForkMark;
use crate::python::interned::intern;
use crate::snapshot::Source;
use crate::sources::gc::GcCounters;

/// The callback in gc.callbacks that counts collections.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct GcCallback {
    counters: Arc<GcCounters>,
    clock: Clock,
    fork_mark: &'static ForkMark,
    postponement: &'static Postponement,
    resume_soon: fn() -> bool,
    loop_instrumentation: Arc<LoopInstrumentation>,
    explicit: Option<ExplicitCollections>,
    /// It was removed for good and is not installed again.
    is_removed: AtomicBool,
}

/// The method that gc calls, with the phase and facts about the collection.
struct Method(PyMethodDef);

#[expect(unsafe_code, reason = "It has a pointer in it.")]
// SAFETY: nothing changes it.
unsafe impl Sync for Method {}

static OBSERVE: Method = Method(PyMethodDef {
    ml_name: c"observe".as_ptr(),
    ml_meth: PyMethodDefPointer { PyCFunctionFast: observe },
    ml_flags: METH_FASTCALL,
    ml_doc: ptr::null(),
});

#[expect(unsafe_code, reason = "CPython calls it.")]
unsafe extern "C" fn observe(
    callback: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: Py_ssize_t,
) -> *mut PyObject {
    // SAFETY: CPython calls attached, with the object that the method was made of, and so many arguments, all of which
    // live until it returns.
    unsafe {
        let py = Python::assume_attached();
        if count == 2 {
            let callback = Borrowed::from_ptr(py, callback);
            let (phase, info) =
                (Borrowed::from_ptr(py, *arguments), Borrowed::from_ptr(py, *arguments.add(1)));
            callback.cast_unchecked::<GcCallback>().get().observe(&phase, &info);
        }
        let none = Py_None();
        Py_IncRef(none);
        none
    }
}

impl GcCallback {
    /// Records the start or the end of a collection.
    fn observe(&self, phase: &Bound<'_, PyAny>, info: &Bound<'_, PyAny>) {
        // After a fork by C code this may be the first call of ours in the child. It is not counted.
        if self.fork_mark.is_inherited() {
            (self.resume_soon)();
            return;
        }
        let phase = phase.cast::<PyString>().ok().and_then(|phase| phase.to_str().ok());
        if phase == Some("start")
            && self.counters.needs(Source::GcExplicit)
            && self.explicit.as_ref().is_some_and(|explicit| explicit.is_one(info.py()))
        {
            self.counters.add_explicit();
        }
        let now = self.clock.nanoseconds();
        match phase {
            Some("start") => self.counters.start(now),
            Some("stop") => {
                self.loop_instrumentation.notice(info.py());
                let [generation, collected, uncollectable] = keys(info.py());
                self.counters.stop(now, entry(info, generation).unwrap_or(usize::MAX));
                if self.counters.needs(Source::GcObjects) {
                    let found = |key| entry(info, key).unwrap_or(0);
                    self.counters.found(found(collected), found(uncollectable));
                }
            }
            _ => {}
        }
        self.postponement.start_if_due(now, self.resume_soon);
    }
}

/// A number among the facts about the collection.
fn entry<T: for<'a, 'py> FromPyObject<'a, 'py>>(
    info: &Bound<'_, PyAny>,
    key: &Bound<'_, PyString>,
) -> Option<T> {
    info.cast::<PyDict>().ok()?.get_item(key).ok()??.extract().ok()
}

/// The keys of the facts that are read. They are interned before the callback is installed, as it must not allocate.
fn keys(py: Python<'_>) -> [&Bound<'_, PyString>; 3] {
    [intern!(py, "generation"), intern!(py, "collected"), intern!(py, "uncollectable")]
}

#[expect(unsafe_code, reason = "PyO3 makes no method without its wrapper.")]
fn bound_method<'py>(callback: &Bound<'py, GcCallback>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the definition is static, and CPython only reads it; the method keeps its object alive.
    unsafe {
        let method = PyCFunction_New((&raw const OBSERVE.0).cast_mut(), callback.as_ptr());
        Bound::from_owned_ptr_or_err(callback.py(), method)
    }
}

/// The callback, and the list that it is installed in.
///
/// Several threads may install it at once, and the program may change the list meanwhile. The list's own lock makes
/// what is looked up and what is changed one step: nothing in between runs Python code or waits, which would release
/// it. But a collection walks through the list without that lock, so where it could do so meanwhile it is stopped.
pub struct Installation {
    callback: Py<GcCallback>,
    observe: Py<PyAny>,
    callbacks: Py<PyList>,
    /// It was installed before.
    is_installed: AtomicBool,
}

impl Installation {
    /// Makes a callback, and does not install it yet.
    ///
    /// In a child process, which has inherited `fork_mark`, it counts nothing and calls `resume_soon`, as it does where
    /// threads are due that were postponed. It shows `loop_instrumentation` the loops of the threads that collect.
    pub fn new(
        py: Python<'_>,
        counters: Arc<GcCounters>,
        clock: Clock,
        fork_mark: &'static ForkMark,
        postponement: &'static Postponement,
        resume_soon: fn() -> bool,
        loop_instrumentation: Arc<LoopInstrumentation>,
    ) -> PyResult<Self> {
        keys(py);
        let gc = py.import(intern!(py, "gc"))?;
        let explicit = ExplicitCollections::find(&gc)?;
        if explicit.is_some() {
            counters.begin_explicit();
        }
        let is_removed = AtomicBool::new(false);
        let callback = Bound::new(
            py,
            GcCallback {
                counters,
                clock,
                fork_mark,
                postponement,
                resume_soon,
                loop_instrumentation,
                explicit,
                is_removed,
            },
        )?;
        let observe = bound_method(&callback)?.unbind();
        let callbacks = gc.getattr(intern!(py, "callbacks"))?;
        Ok(Self {
            callback: callback.unbind(),
            observe,
            callbacks: callbacks.cast_into::<PyList>()?.unbind(),
            is_installed: AtomicBool::new(false),
        })
    }

    /// Installs the callback if it is wanted and was not removed for good; whether the program had removed it.
    ///
    /// It takes the place of one that another thread, which is disabling metrics, has not removed yet.
    pub fn install(&self, py: Python<'_>, is_wanted: impl Fn() -> bool) -> PyResult<bool> {
        let callbacks = self.callbacks.bind(py);
        let is_there = || self.is_removed() || self.position(callbacks).is_some();
        if is_there() {
            return Ok(false);
        }
        let _turn = Turn::wait(py);
        with_critical_section(callbacks, || {
            if is_there() {
                return Ok(false);
            }
            if !is_wanted() {
                return Ok(self.is_installed.load(SeqCst));
            }
            with_world_stopped(py, || {
                // The lock was released if another thread was stopping the world.
                if is_there() || !is_wanted() {
                    return Ok(false);
                }
                let other = callbacks
                    .iter()
                    .enumerate()
                    .find_map(|(at, entry)| Some((at, owner_of::<GcCallback>(&entry)?)));
                match other {
                    Some((at, other)) => {
                        other.get().is_removed.store(true, SeqCst);
                        callbacks.set_item(at, &self.observe)?;
                    }
                    None => callbacks.append(&self.observe)?,
                }
                Ok(self.is_installed.swap(true, SeqCst))
            })
        })
    }

    /// Removes the callback for good.
    pub fn remove(&self, py: Python<'_>) -> PyResult<()> {
        let callbacks = self.callbacks.bind(py);
        let _turn = Turn::wait(py);
        with_critical_section(callbacks, || {
            self.callback.get().is_removed.store(true, SeqCst);
            if self.position(callbacks).is_none() {
                return Ok(());
            }
            with_world_stopped(py, || self.position(callbacks).map_or(Ok(()), |at| callbacks.del_item(at)))
        })
    }

    fn is_removed(&self) -> bool {
        self.callback.get().is_removed.load(SeqCst)
    }

    fn position(&self, callbacks: &Bound<'_, PyList>) -> Option<usize> {
        // Unlike an iterator, this needs no lock.
        (0..callbacks.len()).find(|at| callbacks.get_item(*at).is_ok_and(|entry| entry.is(&self.observe)))
    }
}
