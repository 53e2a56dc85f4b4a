//! Runs our code while no other thread runs Python code, where several can at once.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pyo3::ffi::PyObject;
use pyo3::prelude::*;

#[cfg(unix)]
use super::program::is_free_threaded;

/// What is called with each object until it returns 0.
type Visit = unsafe extern "C" fn(*mut PyObject, *mut c_void) -> c_int;

/// Stops all threads and visits the objects that collections know.
type VisitObjects = unsafe extern "C" fn(Visit, *mut c_void);

/// What is to be done, and what came of it.
struct Work<W, T> {
    due: Option<W>,
    done: Option<Result<T, Box<dyn Any + Send>>>,
}

/// Does what is to be done while no other thread runs Python code. It must be short, run no Python code, and wait for
/// nothing.
///
/// With a GIL that is so anyway. Without one, CPython 3.14 itself reads some of its objects without their locks, and a
/// function that visits objects is the only one that stops all threads. It is not looked up on Windows yet, where they
/// are not stopped.
#[expect(unsafe_code, reason = "Only the C API stops threads.")]
pub fn with_world_stopped<W: FnOnce() -> T, T>(_py: Python<'_>, work: W) -> T {
    let Some(visit_objects) = visit_objects() else { return work() };
    let mut work = Work { due: Some(work), done: None };
    // SAFETY: the thread is attached, and what is visited with lives until the function returns.
    unsafe { visit_objects(visit::<W, T>, (&raw mut work).cast()) };
    match (work.done, work.due) {
        (Some(Ok(result)), _) => result,
        (Some(Err(panic)), _) => resume_unwind(panic),
        (None, Some(due)) => due(),
        (None, None) => unreachable!("what is not due is done"),
    }
}

/// Does it with the first object.
#[expect(unsafe_code, reason = "CPython calls it.")]
unsafe extern "C" fn visit<W: FnOnce() -> T, T>(_object: *mut PyObject, work: *mut c_void) -> c_int {
    // SAFETY: it is what the function above passes on, and nothing else uses it meanwhile.
    let work = unsafe { &mut *work.cast::<Work<W, T>>() };
    if let Some(due) = work.due.take() {
        work.done = Some(catch_unwind(AssertUnwindSafe(due)));
    }
    0
}

/// `None` with a GIL.
#[cfg(unix)]
#[expect(unsafe_code, reason = "The function is not in the stable ABI.")]
fn visit_objects() -> Option<VisitObjects> {
    if !is_free_threaded() {
        return None;
    }
    // SAFETY: the name ends with a null byte.
    let function =
        unsafe { nix::libc::dlsym(nix::libc::RTLD_DEFAULT, c"PyUnstable_GC_VisitObjects".as_ptr()) };
    // SAFETY: it is null, or a function of this type.
    unsafe { std::mem::transmute::<*mut c_void, Option<VisitObjects>>(function) }
}

#[cfg(not(unix))]
fn visit_objects() -> Option<VisitObjects> {
    None
}
