//! Calls that the main thread makes as soon as it runs Python code, but not before a fork of its own has returned.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use pyo3::prelude::*;
use pyo3::types::PyString;

/// The frame that called the fork which has not returned yet, as a number to compare; 0 if there is none.
static FORKING_FRAME: AtomicUsize = AtomicUsize::new(0);

/// Has the main thread call a function that never unwinds, as soon as it runs Python code; false if too many calls
/// are pending.
///
/// May be called attached or detached, and within a garbage collection. A pending call cannot be withdrawn, and a child
/// process inherits it: the function must decide itself whether there is still something to do. It is given `argument`.
#[expect(unsafe_code, reason = "Only the C API has pending calls.")]
pub fn call_soon(call: extern "C" fn(*mut c_void) -> c_int, argument: usize) -> bool {
    // SAFETY: a call may be added from any thread in any state, and the function lives as long as the process.
    unsafe { pyo3::ffi::Py_AddPendingCall(Some(call), std::ptr::without_provenance_mut(argument)) == 0 }
}

/// From now on pending calls have to wait until the fork has returned to the current frame, which called it.
pub fn wait_for_fork(py: Python<'_>) {
    FORKING_FRAME.store(current_frame(py), SeqCst);
}

/// Pending calls do not have to wait.
pub fn end_wait() {
    FORKING_FRAME.store(0, SeqCst);
}

/// Whether the pending call that is being made has to wait, as it is made within another fork hook.
pub fn has_to_wait(py: Python<'_>) -> bool {
    let forking = FORKING_FRAME.load(SeqCst);
    forking != 0 && forking != current_frame(py) && is_calling(py, forking)
}

/// Whether this frame called the current one, directly or not. After a fork that failed it may not exist any more.
fn is_calling(py: Python<'_>, frame: usize) -> bool {
    // PyString::new() would panic where there is no memory for it.
    let name = |name: &[u8]| PyString::from_bytes(py, name);
    let current = || py.import(name(b"sys")?)?.call_method0(name(b"_getframe")?);
    let mut next = current().ok();
    while let Some(this) = next {
        if this.as_ptr() as usize == frame {
            return true;
        }
        next = name(b"f_back").and_then(|name| this.getattr(name)).ok().filter(|back| !back.is_none());
    }
    false
}

/// The frame of the Python code that this thread runs.
#[expect(unsafe_code, reason = "Only the C API has the current frame.")]
fn current_frame(_py: Python<'_>) -> usize {
    // SAFETY: the thread is attached; the frame is compared and never dereferenced.
    unsafe { pyo3::ffi::PyEval_GetFrame() as usize }
}
