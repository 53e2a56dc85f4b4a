//! Without a GIL, one thread of the program at a time installs or removes what is ours.
//!
//! They would wait for the locks of Python's objects otherwise. CPython hands such a lock to a thread that has waited
//! for 1 ms, before that thread goes on; if the process is forked in between, nobody unlocks it in the child.

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use pyo3::prelude::*;

use super::program::is_free_threaded;

/// The address of something in the thread whose turn it is; 0 if it is nobody's.
static OWNER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static HERE: u8 = const { 0 };
}

/// This thread's turn, until it is dropped.
pub struct Turn {
    is_taken: bool,
}

impl Turn {
    /// Waits for it, detached from the interpreter. With a GIL it is always the turn of the thread that has that.
    pub fn wait(py: Python<'_>) -> Self {
        if !is_free_threaded() {
            return Self { is_taken: false };
        }
        let here = HERE.with(|here| ptr::from_ref(here).addr());
        loop {
            match OWNER.compare_exchange(0, here, SeqCst, SeqCst) {
                Ok(_) => return Self { is_taken: true },
                // What is called during its turn may need another.
                Err(owner) if owner == here => return Self { is_taken: false },
                Err(_) => py.detach(pause),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_taken {
            OWNER.store(0, SeqCst);
        }
    }
}

/// In a child process it is nobody's turn.
pub fn become_child() {
    OWNER.store(0, SeqCst);
}

fn pause() {
    #[cfg(unix)]
    let _ = nix::sched::sched_yield();
    #[cfg(not(unix))]
    std::hint::spin_loop();
}
