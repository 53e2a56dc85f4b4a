//! Native threads: how they start, and how they are joined before a fork.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

#[cfg(unix)]
use super::pthread::{self, Handle};
use crate::memory;

/// How often to check whether the kernel has released a thread that has ended; mostly the first check is the last.
const MAX_CHECKS: usize = 10_000;

/// A thread of ours.
pub struct Thread {
    handle: Handle,
    /// Its kernel id, once it runs.
    id: Arc<AtomicU64>,
}

impl Thread {
    /// Waits for the end of a thread that has nothing more to do.
    ///
    /// The kernel counts it for some microseconds after it can be joined, and CPython asks the kernel whether a process
    /// that forks has threads.
    pub fn join(self) {
        self.handle.join();
        let id = self.id.load(SeqCst);
        for _ in 0..MAX_CHECKS {
            if !is_counted(id) {
                break;
            }
            thread::yield_now();
        }
    }

    /// Whether the caller runs on this thread.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.handle.is_current()
    }
}

/// Starts a thread that receives no signal except those of its own faults: signals must keep interrupting the program's
/// own threads.
///
/// # Errors
///
/// If the system cannot start another thread, or if memory is short.
pub fn spawn(name: &'static CStr, stack: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<Thread> {
    // The C library needs some for the thread's start.
    if !(memory::is_available() && memory::is_available_for_thread(stack)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let id = Arc::new(AtomicU64::new(0));
    let own_id = Arc::clone(&id);
    let run = Box::new(move || {
        own_id.store(kernel_id(), SeqCst);
        run();
    });
    #[cfg(unix)]
    let handle = without_signals(|| pthread::spawn(name, stack, run))?;
    #[cfg(not(unix))]
    let handle = Handle::spawn(name, stack, run)?;
    Ok(Thread { handle, id })
}

/// Starts a thread with all signals blocked but those of faults: it inherits the mask of the one that starts it.
#[cfg(unix)]
fn without_signals(spawn: impl FnOnce() -> io::Result<Handle>) -> io::Result<Handle> {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal};
    let mut blocked = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
        blocked.remove(fault);
    }
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let handle = spawn();
    before.thread_set_mask()?;
    handle
}

/// A thread of the standard library.
#[cfg(not(unix))]
struct Handle(thread::JoinHandle<()>);

#[cfg(not(unix))]
impl Handle {
    fn spawn(name: &CStr, stack: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<Self> {
        let name = name.to_string_lossy().into_owned();
        thread::Builder::new().name(name).stack_size(stack).spawn(run).map(Self)
    }

    fn join(self) {
        // Its panics were printed.
        drop(self.0.join());
    }

    fn is_current(&self) -> bool {
        self.0.thread().id() == thread::current().id()
    }
}

#[cfg(target_os = "linux")]
fn kernel_id() -> u64 {
    nix::unistd::gettid().as_raw().unsigned_abs().into()
}

/// Whether the kernel still counts the thread of this id as one of the process.
#[cfg(target_os = "linux")]
fn is_counted(id: u64) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{id}")).exists()
}

#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "nix does not have this call.")]
fn kernel_id() -> u64 {
    let mut id = 0;
    // SAFETY: thread 0 is the caller; the number is written to a variable that outlives the call.
    unsafe { nix::libc::pthread_threadid_np(0, &raw mut id) };
    id
}

/// Whether the kernel still counts the thread of this id as one of the process.
#[cfg(target_os = "macos")]
#[expect(unsafe_code, reason = "nix does not have this call.")]
fn is_counted(id: u64) -> bool {
    use nix::libc::{c_int, proc_pidinfo, proc_threadinfo};

    /// `PROC_PIDTHREADID64INFO` of `sys/proc_info.h`: a thread by its id, from the list that CPython counts.
    const BY_ID: c_int = 15;
    let mut info = std::mem::MaybeUninit::<proc_threadinfo>::uninit();
    let Ok(size) = c_int::try_from(size_of::<proc_threadinfo>()) else { return false };
    let pid = nix::unistd::getpid().as_raw();
    // SAFETY: the kernel writes no more than the size that it is given.
    unsafe { proc_pidinfo(pid, BY_ID, id, info.as_mut_ptr().cast(), size) > 0 }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn kernel_id() -> u64 {
    0
}

/// Nothing forks on Windows; elsewhere it is not known.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn is_counted(_id: u64) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const STACK: usize = 256 * 1024;

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn a_thread_that_was_joined_is_gone() {
        assert!(is_counted(kernel_id()));
        for _ in 0..200 {
            let thread = spawn(c"ended", STACK, Box::new(|| ())).unwrap();
            let id = Arc::clone(&thread.id);
            thread.join();
            let id = id.load(SeqCst);
            assert!(id > 0 && !is_counted(id));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_thread_receives_no_signal() {
        use std::sync::mpsc;
        use std::time::Duration;

        use nix::sys::signal::SigSet;
        let before = SigSet::thread_get_mask().unwrap();
        let (masks, received) = mpsc::channel();
        let run = move || masks.send(SigSet::thread_get_mask().unwrap()).unwrap();
        spawn(c"masked", STACK, Box::new(run)).unwrap();
        let mask = received.recv_timeout(Duration::from_mins(1)).unwrap();
        assert!(mask.contains(nix::sys::signal::SIGTERM) && mask.contains(nix::sys::signal::SIGINT));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
