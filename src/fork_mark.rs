//! Tells a process from the one it was forked from, also where the fork was made behind Python's back.

#[cfg(target_os = "linux")]
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A mark on the process that its children do not inherit.
#[derive(Debug)]
pub struct ForkMark {
    /// A page that the kernel wipes in a child: one load tells.
    page: Option<&'static AtomicU32>,
    /// Elsewhere the pid tells, at the price of a system call.
    pid: AtomicU32,
}

impl ForkMark {
    /// Marks this process.
    #[must_use]
    pub fn mark() -> Self {
        let image = Self { page: wiped_on_fork(), pid: AtomicU32::new(0) };
        image.rearm();
        image
    }

    /// Whether this is a child of the process that was marked last.
    pub fn is_inherited(&self) -> bool {
        match self.page {
            Some(page) => page.load(SeqCst) == 0,
            None => self.pid.load(SeqCst) != std::process::id(),
        }
    }

    /// Marks this process in its own right; says whether it was not marked yet.
    pub fn rearm(&self) -> bool {
        match self.page {
            Some(page) => page.swap(1, SeqCst) == 0,
            None => self.pid.swap(std::process::id(), SeqCst) != std::process::id(),
        }
    }
}

/// Whether this is the thread that the process began with, or the one that forked it.
#[cfg(target_os = "linux")]
#[must_use]
pub fn is_main_thread() -> bool {
    nix::unistd::gettid() == nix::unistd::getpid()
}

/// Unknown here.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn is_main_thread() -> bool {
    false
}

/// A page of zeros that is zeros again in every child (Linux 4.14 and later).
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "mapping memory is")]
fn wiped_on_fork() -> Option<&'static AtomicU32> {
    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

    let length = NonZeroUsize::new(size_of::<AtomicU32>())?;
    let (readable, private) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    // SAFETY: a new mapping wherever the kernel likes touches no memory that anybody has.
    let page = unsafe { mmap_anonymous(None, length, readable, private) }.ok()?;
    // SAFETY: the mapping is ours and is a page at least; nothing but zeros is in it yet.
    unsafe { madvise(page, length.get(), MmapAdvise::MADV_WIPEONFORK) }.ok()?;
    // SAFETY: the page is aligned, zeroed, never unmapped, and accessed through this atomic alone.
    Some(unsafe { page.cast::<AtomicU32>().as_ref() })
}

#[cfg(not(target_os = "linux"))]
fn wiped_on_fork() -> Option<&'static AtomicU32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_its_own_image() {
        let image = ForkMark::mark();
        assert!(!image.is_inherited());
        assert!(!image.rearm());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_offers_the_page() {
        assert!(ForkMark::mark().page.is_some());
    }

    #[test]
    fn without_the_page_the_pid_tells() {
        let image = ForkMark { page: None, pid: AtomicU32::new(0) };
        assert!(image.is_inherited());
        assert!(image.rearm());
        assert!(!image.is_inherited());
    }
}
