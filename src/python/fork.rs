//! What happens around a fork: no thread of ours is at work while it is made, the parent goes on as if nothing had
//! been, the child begins as a process of its own.
//!
//! Hooks are short, do not log, and do not wait for the network: a flush under way stops to. Where a fork runs no hooks
//! (one made by C code), the child is recognised by its image at the first chance it gives us.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use super::log::loaded;
use super::process::{Process, ThreadsAtFork};
use super::running::{self, Running};
use crate::collector::Collector;
use crate::fork_mark::is_main_thread;

/// How long a fork waits at most for a flush under way, and for our threads to end where they must; both take a few
/// microseconds unless the machine has no time for any thread. Whichever has not ended is left.
const PATIENCE: Duration = Duration::from_millis(500);

/// Registers the hooks, once per process.
pub fn register(py: Python<'_>) -> PyResult<()> {
    let hooks = PyDict::new(py);
    hooks.set_item("before", pyo3::wrap_pyfunction!(before, py)?)?;
    hooks.set_item("after_in_parent", pyo3::wrap_pyfunction!(after_in_parent, py)?)?;
    hooks.set_item("after_in_child", pyo3::wrap_pyfunction!(after_in_child, py)?)?;
    let os = py.import("os")?;
    if let Ok(register_at_fork) = os.getattr("register_at_fork") {
        register_at_fork.call((), Some(&hooks))?;
    }
    Ok(())
}

/// uWSGI forks in C and runs none of the hooks, unless it is told to; but it calls a hook of its own in the child.
pub fn chain_uwsgi(py: Python<'_>) -> PyResult<()> {
    let Some(uwsgi) = loaded(py, "uwsgi") else {
        return Ok(());
    };
    let theirs = uwsgi.getattr_opt("post_fork_hook")?.map(Bound::unbind);
    let chained = PyCFunction::new_closure(py, None, None, move |arguments, _keywords| {
        let py = arguments.py();
        quietly(|| become_child(py));
        theirs.as_ref().map_or_else(|| Ok(py.None()), |theirs| theirs.call0(py))
    })?;
    uwsgi.setattr("post_fork_hook", chained)
}

thread_local! {
    /// What ran when the forks began that this thread is about to make: it may be disabled, or be replaced, before they
    /// are over.
    static FORKING: RefCell<Vec<Arc<Running>>> = const { RefCell::new(Vec::new()) };
}

/// Takes the pipeline out of everybody's hands, and where the interpreter would warn of our threads ends them.
#[pyfunction]
fn before(py: Python<'_>) {
    quietly(|| {
        let (Some(running), Some(process)) = (running::current(py), Process::known()) else { return };
        finalise_multiprocessing_children(py);
        let collector = running.collector();
        FORKING.with_borrow_mut(|forking| forking.push(Arc::clone(&running)));
        // First, so that no fork that ends now on another thread starts what is about to end.
        collector.begin_fork();
        if process.threads_at_fork != ThreadsAtFork::NotCounted {
            end_threads(py, collector);
        }
        collector.hold_pipeline(PATIENCE);
        // It may have been asked just before.
        if collector.is_in_interpreter() {
            py.detach(|| collector.await_reader(PATIENCE));
        }
    });
}

/// A reader that waits for the interpreter gets it only if we let go; otherwise we had better keep it.
fn end_threads(py: Python<'_>, collector: &Collector) {
    collector.begin_pause();
    if collector.is_in_interpreter() {
        py.detach(|| collector.pause(PATIENCE));
    } else {
        collector.pause(PATIENCE);
    }
}

/// Goes on, with the schedule as it stands.
#[pyfunction]
fn after_in_parent(py: Python<'_>) {
    quietly(|| {
        let (Some(running), Some(process)) = (FORKING.with_borrow_mut(Vec::pop), Process::known()) else {
            return;
        };
        // Unless another thread is about to fork: then that one goes on for both.
        let goes_on = running.collector().end_fork();
        if !goes_on || process.threads_at_fork == ThreadsAtFork::NotCounted {
            return;
        }
        // A pending call runs later than the count, but on the main thread alone; a fork from another one is warned of
        // whatever we do.
        if process.threads_at_fork == ThreadsAtFork::CountedAfterHooks && is_main_thread() {
            FORKING_FRAME.store(current_frame(py), SeqCst);
            if resume_soon() {
                return;
            }
        }
        running.resume();
    });
}

/// Becomes a process of its own.
#[pyfunction]
fn after_in_child(py: Python<'_>) {
    quietly(|| become_child(py));
}

/// Becomes a process of its own, if that has not happened yet.
pub fn become_child(py: Python<'_>) {
    if let Some(process) = Process::known()
        && process.renew()
    {
        // What it holds is never dropped: a thread that does not exist here may hold its locks.
        FORKING.take().into_iter().for_each(std::mem::forget);
        Running::inherit(py, process);
    }
}

/// Has the main thread resume, or recognise that it is in a forked child, as soon as it runs Python code; whether it will.
///
/// May be called with or without the interpreter, and from within a garbage collection.
#[allow(unsafe_code, reason = "pending calls exist in the C API alone")]
pub fn resume_soon() -> bool {
    // SAFETY: the call may be added from any thread in any state, and the function lives as long as the process.
    unsafe { pyo3::ffi::Py_AddPendingCall(Some(pending), std::ptr::null_mut()) == 0 }
}

/// A pending call cannot be taken back, and may survive a fork or what it was meant for: it does what is to be done
/// at that time, if anything.
extern "C" fn pending(_: *mut c_void) -> c_int {
    quietly(|| {
        let _ = Python::try_attach(|py| {
            let forking = FORKING_FRAME.load(SeqCst);
            if forking != 0 && forking != current_frame(py) && is_calling(py, forking) && resume_soon() {
                // Within a hook of somebody else: the fork has not returned.
                return;
            }
            FORKING_FRAME.store(0, SeqCst);
            if let Some(running) = running::current(py) {
                running.resume();
            }
        });
    });
    0
}

/// The frame in which the fork was called whose end is awaited, as a number to compare; 0 if there is none.
static FORKING_FRAME: AtomicUsize = AtomicUsize::new(0);

/// Whether this frame waits for the one that runs: after a fork that failed it may be gone.
fn is_calling(py: Python<'_>, frame: usize) -> bool {
    let mut next = py.import("sys").and_then(|sys| sys.call_method0("_getframe")).ok();
    while let Some(this) = next {
        if this.as_ptr() as usize == frame {
            return true;
        }
        next = this.getattr("f_back").ok().filter(|back| !back.is_none());
    }
    false
}

/// The Python frame that runs on this thread.
#[allow(unsafe_code, reason = "frames exist in the C API alone")]
fn current_frame(_py: Python<'_>) -> usize {
    // SAFETY: the interpreter is ours here; the frame is compared and never looked into.
    unsafe { pyo3::ffi::PyEval_GetFrame() as usize }
}

/// multiprocessing's children run no exit handler that they inherited, on any version. What works is a finaliser that
/// is made in the child, once before its registry is cleared and once after.
pub fn finalise_multiprocessing_children(py: Python<'_>) {
    let register = || -> PyResult<()> {
        let Some(util) = loaded(py, "multiprocessing.util") else { return Ok(()) };
        let Some(process) = Process::known() else { return Ok(()) };
        if process.multiprocessing_hook.get().is_none() {
            let hook = pyo3::wrap_pyfunction!(in_multiprocessing_child, py)?;
            util.call_method1("register_after_fork", (&hook, &hook))?;
            // The registry holds its key weakly.
            drop(process.multiprocessing_hook.set(hook.unbind().into_any()));
            let parent =
                loaded(py, "multiprocessing.process").map(|process| process.call_method0("parent_process"));
            if parent.transpose()?.is_some_and(|parent| !parent.is_none()) {
                finalise(py)?;
            }
        }
        Ok(())
    };
    // Without it such a child loses its last interval.
    drop(register());
}

#[pyfunction]
fn in_multiprocessing_child(py: Python<'_>, _itself: &Bound<'_, PyAny>) {
    drop(finalise(py));
}

fn finalise(py: Python<'_>) -> PyResult<()> {
    let Some(util) = loaded(py, "multiprocessing.util") else { return Ok(()) };
    let last = PyDict::new(py);
    last.set_item("exitpriority", -100)?;
    let at_exit = pyo3::wrap_pyfunction!(running::at_exit, py)?;
    let arguments = PyTuple::new(py, [py.None().into_bound(py), at_exit.into_any()])?;
    util.getattr("Finalize")?.call(arguments, Some(&last)).map(drop)
}

/// A hook that panics would be printed, and a pending call would end the program.
fn quietly(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        running::forget();
    }
}
