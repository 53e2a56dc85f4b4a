//! Threads straight from the C library, for ours may begin while the program takes the last memory that there is.
//!
//! A thread of the standard library first registers a destructor of its own. For that the C library allocates memory,
//! and ends the process if there is none ("failed to register TLS destructor").

#![expect(unsafe_code, reason = "nix does not have these calls.")]

use std::ffi::{CStr, c_void};
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use nix::libc::{self, c_int, pthread_attr_t, pthread_t};

/// A thread that goes on by itself if this is dropped.
pub struct Handle(pthread_t);

/// What a thread begins with.
struct Beginning {
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
    let beginning = Box::into_raw(Box::new(Beginning { name, run }));
    let mut thread = MaybeUninit::uninit();
    // SAFETY: as above.
    let created = check(unsafe { libc::pthread_attr_setstacksize(attributes, stack) }).and_then(|()| {
        // SAFETY: as above; `begin` takes what it is given, which nobody else uses from then on.
        check(unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes, begin, beginning.cast()) })
    });
    // SAFETY: as above, and they are not used again.
    unsafe { libc::pthread_attr_destroy(attributes) };
    if let Err(error) = created {
        // SAFETY: it was allocated above, and there is no thread that has it.
        drop(unsafe { Box::from_raw(beginning) });
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
        // SAFETY: the thread was neither joined nor detached. In a child process, where it is not, the call fails.
        unsafe { libc::pthread_detach(self.0) };
    }
}

extern "C" fn begin(beginning: *mut c_void) -> *mut c_void {
    // SAFETY: it is from `spawn`, which gives it to this thread alone.
    let Beginning { name, run } = *unsafe { Box::from_raw(beginning.cast::<Beginning>()) };
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
