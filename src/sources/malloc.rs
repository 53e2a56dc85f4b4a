//! What glibc's `malloc` has free: memory that the process has got from the system and does not use.
//!
//! Counting takes time in proportion to the number of free pieces, and meanwhile `malloc` waits: they are counted
//! rarely, and never again once that took longer than 5 ms.

use std::time::Duration;

use super::budget::{Budget, Terms, Tier};
use crate::clock::Clock;

static TERMS: Terms = Terms {
    read: "mallinfo2(), which tells fragmentation from a leak for runtime.python.mem.time_to_limit,",
    tiers: &[Tier { max_cost: Duration::from_millis(5), period: Duration::ZERO }],
    max_excesses: 0,
};

/// The statistics of `malloc`, and whether they may be looked at.
#[derive(Debug)]
pub struct Malloc(Budget);

impl Malloc {
    /// Looks at nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Budget::new(&TERMS))
    }

    /// Its free bytes at `now`; `None` where the C library does not count them, or if that takes too long.
    #[must_use]
    pub fn free(&self, now: Duration) -> Option<u64> {
        let clock = Clock::start();
        self.0.spend(|| now + clock.now(), free_bytes).flatten()
    }

    /// The read that is not made any more as it costs too much, and what the last one cost, once.
    #[must_use]
    pub fn take_given_up(&self) -> Option<(&'static str, Duration)> {
        self.0.take_given_up()
    }
}

/// By `mallinfo2`, which glibc has from 2.33 on. This library runs with older ones and with other C libraries as well,
/// so it is looked up.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "A function that is looked up has no type.")]
fn free_bytes() -> Option<u64> {
    use nix::libc;

    /// `struct mallinfo2`
    #[repr(C)]
    struct Information {
        _others: [usize; 8],
        free: usize,
        _releasable: usize,
    }

    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: the function of this name has no arguments and returns ten such numbers.
    let mallinfo2: unsafe extern "C" fn() -> Information = unsafe { std::mem::transmute(found) };
    // SAFETY: any thread may call it at any time.
    unsafe { mallinfo2() }.free.try_into().ok()
}

#[cfg(not(target_os = "linux"))]
fn free_bytes() -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_freed_between_pieces_in_use_is_free() {
        // Not those of the thread's cache, and not those that are mapped.
        let mut pieces: Vec<Option<Box<[u8; 4000]>>> = (0..4000).map(|_| Some(Box::new([1; 4000]))).collect();
        let before = free_bytes().expect("this C library counts them");
        for piece in pieces.iter_mut().step_by(2) {
            *piece = None;
        }
        let after = free_bytes().unwrap();
        assert!(after > before + 2000 * 3500, "{before} {after}");
    }
}
