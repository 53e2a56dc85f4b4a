//! Threads straight from the C library, because ours may start while the program is using up its memory.
//!
//! A thread of the standard library first registers a destructor of its own. For that the C library allocates memory,
//! and ends the process if there is none ("failed to register TLS destructor"). The price is that a panic, which is a
//! bug of ours, is reported as one of an unnamed thread.

#![expect(unsafe_code, reason = "nix does not have these calls.")]

use std::ffi::{CStr, c_void};
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use nix::libc::{self, c_int, pthread_attr_t, pthread_t};

/// For a thread whose own stack is too small: the C library keeps there what libraries have in thread-local data.
const LARGE_STACK: usize = 2 * 1024 * 1024;

/// A thread that goes on by itself if this is dropped.
pub struct Handle(pthread_t);

// SAFETY: any thread may join, detach or compare it. With musl it is a pointer.
unsafe impl Send for Handle {}

/// What a thread starts with.
struct Start {
    name: &'static CStr,
    run: Box<dyn FnOnce() + Send>,
}

/// Starts a thread.
///
/// # Errors
///
/// If the system cannot start another thread, or not with such a stack.
pub fn spawn(name: &'static CStr, stack: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<Handle> {
    let mut attributes = MaybeUninit::<pthread_attr_t>::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: there is room for the attributes, and whoever uses them below does so while they are initialised.
    check(unsafe { libc::pthread_attr_init(attributes) })?;
    let start = Box::into_raw(Box::new(Start { name, run }));
    let mut thread = MaybeUninit::uninit();
    let mut create = |stack| {
        // SAFETY: as above.
        check(unsafe { libc::pthread_attr_setstacksize(attributes, stack) })?;
        // SAFETY: as above; if it succeeds, `run_from` takes what it is given, which nobody else uses from then on.
        check(unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes, run_from, start.cast()) })
    };
    let created = create(stack).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => create(LARGE_STACK),
        _ => Err(error),
    });
    // SAFETY: as above, and they are not used again.
    unsafe { libc::pthread_attr_destroy(attributes) };
    if let Err(error) = created {
        // SAFETY: it was allocated above, and there is no thread that has it.
        drop(unsafe { Box::from_raw(start) });
        return Err(error);
    }
    // SAFETY: it was written, as a thread was created.
    Ok(Handle(unsafe { thread.assume_init() }))
}

impl Handle {
    /// Waits for the end of the thread.
    pub fn join(self) {
        let thread = ManuallyDrop::new(self).0;
        // SAFETY: it is joined once, and is not detached.
        unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    }

    /// Whether the caller runs on this thread.
    #[must_use]
    pub fn is_current(&self) -> bool {
        // SAFETY: neither call has a requirement.
        unsafe { libc::pthread_equal(self.0, libc::pthread_self()) != 0 }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the thread was neither joined nor detached. A child process, where it is not, keeps the handle.
        unsafe { libc::pthread_detach(self.0) };
    }
}

extern "C" fn run_from(start: *mut c_void) -> *mut c_void {
    // SAFETY: it is from `spawn`, which gives it to this thread alone.
    let Start { name, run } = *unsafe { Box::from_raw(start.cast::<Start>()) };
    set_name(name);
    // The panic hook has printed it, and no caller here could receive it.
    drop(catch_unwind(AssertUnwindSafe(run)));
    ptr::null_mut()
}

/// Names the calling thread, for whoever looks at the process; a name that is too long is not set.
fn set_name(name: &CStr) {
    #[cfg(target_os = "macos")]
    // SAFETY: the name is a string that ends.
    unsafe {
        libc::pthread_setname_np(name.as_ptr());
    }
    #[cfg(not(target_os = "macos"))]
    // SAFETY: as above, and the thread is the caller's.
    unsafe {
        libc::pthread_setname_np(libc::pthread_self(), name.as_ptr());
    }
}

fn check(status: c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(status)) }
}
