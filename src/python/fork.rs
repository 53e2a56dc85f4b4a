//! What happens around a fork: no thread of ours exists while it is made, the parent goes on as if nothing had been,
//! the child begins as a process of its own.
//!
//! Hooks are short, do not log, and never wait for the network. Where a fork runs no hooks (one made by C code), the
//! child is recognised by its image at the first chance it gives us.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use super::log::loaded;
use super::process::Process;
use super::running::{self, Running};
use crate::pipeline::Pipeline;
use crate::process_image::is_main_thread;

/// How long a fork waits at most for our threads to end, and for a flush of the program's own; it takes a few
/// microseconds unless the machine has no time for any thread. Whichever has not ended is left.
const PATIENCE: Duration = Duration::from_millis(500);

thread_local! {
    /// The pipeline of the collector that was running, while this thread forks: nobody else can be using it then.
    static WITHDRAWN: RefCell<Option<Pipeline>> = const { RefCell::new(None) };
}

/// How many threads are between the hooks of a fork.
static FORKS: AtomicUsize = AtomicUsize::new(0);

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
        quietly(|| mend(py));
        theirs.as_ref().map_or_else(|| Ok(py.None()), |theirs| theirs.call0(py))
    })?;
    uwsgi.setattr("post_fork_hook", chained)
}

/// Ends our threads: a lock that one of them holds would never be released in the child, and CPython warns of a fork
/// in a process with threads.
#[pyfunction]
fn before(py: Python<'_>) {
    quietly(|| {
        let Some(running) = running::current(py) else {
            return;
        };
        finalise_multiprocessing_children(py);
        FORKS.fetch_add(1, SeqCst);
        let collector = running.collector();
        collector.begin_pause();
        // A reader that waits for the interpreter gets it only if we let go; otherwise we had better keep it.
        if collector.is_in_interpreter() {
            py.detach(|| collector.pause(PATIENCE));
        } else {
            collector.pause(PATIENCE);
        }
        WITHDRAWN.set(collector.withdraw(PATIENCE));
    });
}

/// Goes on, with the schedule as it stands.
#[pyfunction]
fn after_in_parent(py: Python<'_>) {
    quietly(|| {
        let pipeline = WITHDRAWN.take();
        let forks_elsewhere =
            FORKS.fetch_update(SeqCst, SeqCst, |forks| forks.checked_sub(1)).unwrap_or(1) > 1;
        let Some(running) = running::current(py) else { return };
        if let Some(pipeline) = pipeline {
            running.collector().put_back(pipeline);
        }
        // Another thread is about to fork, and goes on for both.
        if forks_elsewhere {
            return;
        }
        // CPython 3.13 counts the threads after this hook (gh-137109). A pending call runs later, but on the main
        // thread alone; a fork from another one is warned of whatever we do.
        let counts_late = Process::known().is_some_and(|process| process.counts_threads_after_hooks);
        if counts_late && is_main_thread() {
            FORKING_FRAME.store(current_frame(), SeqCst);
            if go_on_soon() {
                return;
            }
        }
        running.go_on();
    });
}

/// Becomes a process of its own.
#[pyfunction]
fn after_in_child(py: Python<'_>) {
    quietly(|| mend(py));
}

/// Becomes a process of its own, if that has not happened yet.
pub fn mend(py: Python<'_>) {
    if let Some(process) = Process::known()
        && process.renew()
    {
        FORKS.store(0, SeqCst);
        Running::inherit(py, process, WITHDRAWN.take());
    }
}

/// Has the main thread go on, or mend what a fork has left, as soon as it runs Python code. Says whether it will.
///
/// May be called with or without the interpreter, and from within a garbage collection.
#[allow(unsafe_code, reason = "pending calls exist in the C API alone")]
pub fn go_on_soon() -> bool {
    // SAFETY: the call may be added from any thread in any state, and the function lives as long as the process.
    unsafe { pyo3::ffi::Py_AddPendingCall(Some(pending), std::ptr::null_mut()) == 0 }
}

/// A pending call cannot be taken back, and may survive a fork or what it was meant for: it does what is to be done
/// at that time, if anything.
extern "C" fn pending(_: *mut c_void) -> c_int {
    quietly(|| {
        let _ = Python::try_attach(|py| {
            let forking = FORKING_FRAME.load(SeqCst);
            if forking != 0 && forking != current_frame() && is_calling(py, forking) && go_on_soon() {
                // Within a hook of somebody else: the fork has not returned.
                return;
            }
            FORKING_FRAME.store(0, SeqCst);
            if let Some(running) = running::current(py) {
                running.go_on();
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
fn current_frame() -> usize {
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
