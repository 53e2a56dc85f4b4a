//! Tells a forked child from its parent, even if the fork was made by C code that runs none of Python's fork hooks.

#[cfg(target_os = "linux")]
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A mark on the process that its children do not inherit.
#[derive(Debug)]
pub struct ForkMark {
    /// A page that the kernel wipes in a child, so that one load is enough.
    page: Option<&'static AtomicU32>,
    /// Compared where a system call costs little, and everywhere without such a page.
    pid: AtomicU32,
}

impl ForkMark {
    /// Marks this process.
    #[must_use]
    pub fn mark() -> Self {
        let mark = Self { page: page_wiped_on_fork(), pid: AtomicU32::new(0) };
        mark.rearm();
        mark
    }

    /// Whether this process is a child of the one that set the mark.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        match self.page {
            Some(page) => page.load(SeqCst) == 0,
            None => self.pid.load(SeqCst) != std::process::id(),
        }
    }

    /// Marks this process; whether that was necessary, as the mark was inherited.
    ///
    /// It is called after a fork, where a system call costs little, and compares the pid in any case: an emulator may
    /// promise to wipe the page and not do it (qemu-user 7.2). In a namespace of its own a child may have the pid that
    /// its parent has in another.
    pub fn rearm(&self) -> bool {
        let pid = std::process::id();
        let is_wiped = self.page.is_some_and(|page| page.swap(1, SeqCst) == 0);
        let is_other = self.pid.swap(pid, SeqCst) != pid;
        is_wiped || is_other
    }
}

/// Whether this is the main thread of the process. In a forked child that is the thread that forked.
#[cfg(target_os = "linux")]
#[must_use]
pub fn is_main_thread() -> bool {
    nix::unistd::gettid() == nix::unistd::getpid()
}

/// Whether this is the main thread of the process.
#[cfg(target_vendor = "apple")]
#[expect(unsafe_code, reason = "nix does not have this call.")]
#[must_use]
pub fn is_main_thread() -> bool {
    // SAFETY: it has no precondition.
    unsafe { nix::libc::pthread_main_np() == 1 }
}

/// Not known on this platform.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
#[must_use]
pub fn is_main_thread() -> bool {
    false
}

/// A page of zeros that the kernel fills with zeros again in every child (Linux 4.14 and later).
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "Mapping memory is unsafe.")]
fn page_wiped_on_fork() -> Option<&'static AtomicU32> {
    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

    let length = NonZeroUsize::new(size_of::<AtomicU32>())?;
    let (readable, private) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    // SAFETY: an anonymous mapping at an address that the kernel chooses overlaps no memory in use.
    let page = unsafe { mmap_anonymous(None, length, readable, private) }.ok()?;
    // SAFETY: the mapping is ours and at least one page long; it holds nothing but zeros yet.
    unsafe { madvise(page, length.get(), MmapAdvise::MADV_WIPEONFORK) }.ok()?;
    // SAFETY: the page is aligned, zeroed, never unmapped, and accessed only through this atomic.
    Some(unsafe { page.cast::<AtomicU32>().as_ref() })
}

/// Counters at zero that this process shares with the children that it forks from now on, and they with theirs.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "Mapping memory is unsafe.")]
#[must_use]
pub fn counters_shared_with_children<const N: usize>() -> Option<&'static [AtomicU32; N]> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

    let length = NonZeroUsize::new(size_of::<[AtomicU32; N]>())?;
    let (readable, shared) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
    // SAFETY: an anonymous mapping at an address that the kernel chooses overlaps no memory in use.
    let page = unsafe { mmap_anonymous(None, length, readable, shared) }.ok()?;
    // SAFETY: the page is aligned, zeroed, never unmapped, long enough, and accessed only through these atomics.
    Some(unsafe { page.cast::<[AtomicU32; N]>().as_ref() })
}

/// Not implemented for this platform.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn counters_shared_with_children<const N: usize>() -> Option<&'static [AtomicU32; N]> {
    None
}

#[cfg(not(target_os = "linux"))]
fn page_wiped_on_fork() -> Option<&'static AtomicU32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_set_the_mark_has_not_inherited_it() {
        let mark = ForkMark::mark();
        assert!(!mark.is_inherited());
        assert!(!mark.rearm());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_wipes_a_page_on_fork() {
        assert!(ForkMark::mark().page.is_some());
    }

    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    #[test]
    fn a_thread_that_was_started_is_not_the_main_one() {
        assert!(!std::thread::spawn(is_main_thread).join().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_page_that_was_not_wiped_does_not_hide_a_fork() {
        let mark = ForkMark::mark();
        // As a child has it whose page was copied.
        mark.pid.store(std::process::id() + 1, SeqCst);
        assert!(mark.rearm());
        assert!(!mark.rearm());
    }

    #[test]
    fn without_such_a_page_the_pid_is_compared() {
        let mark = ForkMark { page: None, pid: AtomicU32::new(0) };
        assert!(mark.is_inherited());
        assert!(mark.rearm());
        assert!(!mark.is_inherited());
    }
}
