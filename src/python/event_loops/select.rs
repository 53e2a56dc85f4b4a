//! A native function in place of a selector's `select`, which sees where each iteration of a loop begins and ends.
//!
//! It stands in the selector's own dictionary, in front of its class's. It calls the original with the same arguments,
//! and returns or raises what that does.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};

use pyo3::exceptions::PyReferenceError;
use pyo3::ffi::{
    METH_FASTCALL, METH_KEYWORDS, Py_DecRef, Py_ssize_t, PyCFunction_New, PyMethodDef, PyMethodDefPointer,
    PyObject, PyObject_CallFunctionObjArgs,
};
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use super::run_watch::RunWatch;
use crate::clock::Clock;
use crate::fork_mark::ForkMark;
use crate::python::interned::intern;
use crate::python::native_function::owner_of;
use crate::sources::event_loops::{EventLoop, EventLoops, Method};

/// What is called in place of `select`.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct Select {
    observed: Arc<EventLoop>,
    clock: Clock,
    fork_mark: &'static ForkMark,
    /// The function of the selector's class.
    original: Py<PyAny>,
    /// Weak, as the selector has this.
    selector: Py<PyWeakrefReference>,
    event_loop: Py<PyWeakrefReference>,
    /// The loop's `_thread_id`, which it makes anew whenever it is started; owned.
    run: AtomicPtr<PyObject>,
    run_watch: RunWatch,
}

/// What became of a loop's `select`.
pub enum Outcome {
    /// It was put in place.
    Placed(Placed),
    /// There are too many already.
    NoRoom,
    /// The loop has no selector of the standard library, or that is not as it was made.
    Impossible,
}

/// A `select` that was put in place.
pub struct Placed {
    observed: Arc<EventLoop>,
    selector: Py<PyWeakrefReference>,
    /// The address of the function.
    function: usize,
}

/// The method that a loop calls.
struct Definition(PyMethodDef);

#[expect(unsafe_code, reason = "It has a pointer in it.")]
// SAFETY: nothing changes it.
unsafe impl Sync for Definition {}

static SELECT: Definition = Definition(PyMethodDef {
    ml_name: c"select".as_ptr(),
    ml_meth: PyMethodDefPointer { PyCFunctionFastWithKeywords: select },
    ml_flags: METH_FASTCALL | METH_KEYWORDS,
    ml_doc: ptr::null(),
});

#[expect(unsafe_code, reason = "CPython calls it.")]
unsafe extern "C" fn select(
    this: *mut PyObject,
    arguments: *const *mut PyObject,
    count: Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython calls attached, with the object that the function was made of, so many arguments, and a tuple of
    // the names of those that follow, or null; all of them live until it returns.
    unsafe {
        let py = Python::assume_attached();
        let this = Borrowed::from_ptr(py, this);
        let this = this.cast_unchecked::<Select>().get();
        let is_counted = this.is_counted();
        if is_counted {
            let (now, is_same_run) = (this.clock.nanoseconds(), this.is_same_run(py));
            this.observed.begin_select(now, is_same_run);
            if !is_same_run {
                this.run_watch.begin(py);
            }
        }
        let result = this.call(py, arguments, count, names);
        // A signal handler may have forked meanwhile.
        if is_counted && this.is_counted() {
            this.observed.end_select(this.clock.nanoseconds());
        }
        result
    }
}

impl Select {
    fn is_counted(&self) -> bool {
        self.observed.is_active() && !self.fork_mark.is_inherited()
    }

    /// Whether the loop was not started anew since the last call.
    #[expect(unsafe_code, reason = "An atomic pointer owns a reference.")]
    fn is_same_run(&self, py: Python<'_>) -> bool {
        let Some(event_loop) = self.event_loop.bind(py).upgrade() else { return true };
        let Ok(run) = event_loop.getattr(intern!(py, "_thread_id")) else { return true };
        if self.run.load(SeqCst) == run.as_ptr() {
            return true;
        }
        // nest_asyncio runs a loop within a callback of it, and then goes on with the run before.
        let pending = event_loop.getattr_opt(intern!(py, "_num_runs_pending"));
        if pending.is_ok_and(|pending| pending.is_some_and(|pending| pending.gt(1).unwrap_or(false))) {
            return true;
        }
        // SAFETY: the old one was owned here; the new one is from now on.
        unsafe { Py_DecRef(self.run.swap(run.into_ptr(), SeqCst)) };
        false
    }

    /// Calls the original.
    #[expect(unsafe_code, reason = "This is what makes it cheap.")]
    unsafe fn call(
        &self,
        py: Python<'_>,
        arguments: *const *mut PyObject,
        count: Py_ssize_t,
        names: *mut PyObject,
    ) -> *mut PyObject {
        let (Some(selector), original) = (self.selector.bind(py).upgrade(), self.original.as_ptr()) else {
            PyReferenceError::new_err("the selector does not exist any more").restore(py);
            return ptr::null_mut();
        };
        // SAFETY: as the caller promises. A null pointer ends the arguments.
        unsafe {
            if names.is_null() && count <= 1 {
                let end = ptr::null_mut::<PyObject>();
                let timeout = if count == 1 { *arguments } else { end };
                return PyObject_CallFunctionObjArgs(original, selector.as_ptr(), timeout, end);
            }
            let keys = Borrowed::from_ptr_or_opt(py, names);
            let argument = |at: usize| Borrowed::from_ptr(py, *arguments.add(at)).to_owned();
            let result = Python::attach(|py| {
                let positional = usize::try_from(count).unwrap_or(0);
                let all = [selector].into_iter().chain((0..positional).map(argument));
                let keywords = PyDict::new(py);
                if let Some(keys) = keys {
                    for (name, at) in keys.cast::<PyTuple>()?.iter().zip(positional..) {
                        keywords.set_item(name, argument(at))?;
                    }
                }
                let all = PyTuple::new(py, all.collect::<Vec<_>>())?;
                self.original.bind(py).call(all, Some(&keywords)).map(Bound::unbind)
            });
            match result {
                Ok(result) => result.into_ptr(),
                Err(error) => {
                    error.restore(py);
                    ptr::null_mut()
                }
            }
        }
    }
}

impl Drop for Select {
    #[expect(unsafe_code, reason = "An atomic pointer owns a reference.")]
    fn drop(&mut self) {
        // The selector is gone, or has another.
        self.observed.deactivate();
        // SAFETY: it is owned here, and CPython drops an object in a thread that is attached.
        unsafe { Py_DecRef(*self.run.get_mut()) };
    }
}

/// Puts a function in place of `select` of a running loop's selector.
pub fn place(
    event_loop: &Bound<'_, PyAny>,
    observed: &EventLoops,
    clock: Clock,
    fork_mark: &'static ForkMark,
) -> PyResult<Outcome> {
    let py = event_loop.py();
    let attribute = |name| event_loop.getattr_opt(name);
    let (Some(selector), Some(run)) =
        (attribute(intern!(py, "_selector"))?, attribute(intern!(py, "_thread_id"))?)
    else {
        return Ok(Outcome::Impossible);
    };
    let class = selector.get_type();
    if run.is_none() || class.module()? != "selectors" {
        return Ok(Outcome::Impossible);
    }
    let original = class.getattr(intern!(py, "select"))?;
    let current = selector.getattr(intern!(py, "select"))?;
    // A child process inherits what its parent has put there.
    let is_ours =
        current.getattr_opt(intern!(py, "__self__"))?.is_some_and(|owner| owner.is_instance_of::<Select>());
    let is_original =
        current.getattr_opt(intern!(py, "__func__"))?.is_some_and(|function| function.is(&original));
    if !(is_ours || is_original) {
        return Ok(Outcome::Impossible);
    }
    let weak_selector = PyWeakrefReference::new(&selector)?;
    let weak_loop = PyWeakrefReference::new(event_loop)?;
    let Some(observed) = observed.add(Method::Iterations, clock.nanoseconds()) else {
        return Ok(Outcome::NoRoom);
    };
    let run_watch = RunWatch::new(event_loop, &observed, clock).inspect_err(|_| observed.deactivate())?;
    run_watch.begin(py);
    let select = Select {
        observed: Arc::clone(&observed),
        clock,
        fork_mark,
        original: original.unbind(),
        selector: weak_selector.clone().unbind(),
        event_loop: weak_loop.unbind(),
        run: AtomicPtr::new(run.into_ptr()),
        run_watch,
    };
    // If this fails, `Select` is dropped and ends what was begun.
    let function = function(&Bound::new(py, select)?)?;
    selector.setattr(intern!(py, "select"), &function)?;
    let function = function.as_ptr().addr();
    Ok(Outcome::Placed(Placed { observed, selector: weak_selector.unbind(), function }))
}

#[expect(unsafe_code, reason = "PyO3 makes no function without its wrapper.")]
fn function<'py>(select: &Bound<'py, Select>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the definition is static, and CPython only reads it; the function keeps its object alive.
    unsafe {
        let function = PyCFunction_New((&raw const SELECT.0).cast_mut(), select.as_ptr());
        Bound::from_owned_ptr_or_err(select.py(), function)
    }
}

impl Placed {
    /// Whether the function is still in place; also sees whether the loop runs.
    pub fn check(&self, event_loop: &Bound<'_, PyAny>, now: u64) -> PyResult<bool> {
        let py = event_loop.py();
        let selector = self.selector.bind(py).upgrade();
        let is_used = event_loop
            .getattr_opt(intern!(py, "_selector"))?
            .zip(selector)
            .is_some_and(|(used, selector)| used.is(&selector) && self.is_in_place(&selector));
        if !is_used {
            self.observed.deactivate();
        } else if event_loop.getattr(intern!(py, "_thread_id"))?.is_none() {
            self.observed.set_stopped(now);
        }
        Ok(is_used)
    }

    /// Removes the function, unless the program has put something in its place.
    pub fn remove(&self, py: Python<'_>, now: u64) -> PyResult<()> {
        let selector = self.selector.bind(py).upgrade().filter(|selector| self.is_in_place(selector));
        let Some(selector) = selector else {
            self.observed.deactivate();
            return Ok(());
        };
        let function = selector.getattr(intern!(py, "select"))?;
        match owner_of::<Select>(&function) {
            Some(select) if select.get().is_same_run(py) => self.observed.deactivate_running(now),
            _ => self.observed.deactivate(),
        }
        // Another collector, or the program, may have put its own there meanwhile.
        with_critical_section(&selector, || {
            let current = selector.getattr(intern!(py, "select"))?;
            if current.as_ptr().addr() != self.function {
                return Ok(());
            }
            selector.delattr(intern!(py, "select"))
        })
    }

    /// Has the function do nothing but call the original.
    pub fn deactivate(&self) {
        self.observed.deactivate();
    }

    fn is_in_place(&self, selector: &Bound<'_, PyAny>) -> bool {
        let current = selector.getattr(intern!(selector.py(), "select"));
        self.observed.is_active() && current.is_ok_and(|current| current.as_ptr().addr() == self.function)
    }
}
