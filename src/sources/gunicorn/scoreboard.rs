//! A scoreboard in shared memory: each worker stores a number where its master reads it. One store, no lock, no system
//! call.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

/// Memory shared with the children that this process forks. It is never unmapped: a child may write to it at any time.
pub struct Scoreboard {
    cells: &'static [Cell],
    /// How many cells have ever been taken; the others need not be scanned.
    used: &'static AtomicU32,
}

/// One cache line, so that processes do not contend for it.
#[repr(C, align(64))]
struct Cell {
    /// The owner; 0 while the cell is free.
    pid: AtomicU32,
    number: AtomicU32,
}

/// The cell of one process.
#[derive(Clone)]
pub struct Slot(&'static Cell);

impl Slot {
    /// Stores the number; one that is too large is stored as the maximum.
    pub fn store(&self, number: u64) {
        self.0.number.store(u32::try_from(number).unwrap_or(u32::MAX), Relaxed);
    }
}

impl Scoreboard {
    /// A scoreboard of so many free slots; `None` where memory cannot be shared like this.
    #[must_use]
    pub fn new(slots: usize) -> Option<Self> {
        // One more, for the count of those that are used.
        let [first, cells @ ..] = shared(slots + 1)? else { return None };
        Some(Self { cells, used: &first.number })
    }

    /// A slot for this process, which holds 0; `None` if none is free.
    #[must_use]
    pub fn take(&self, pid: u32) -> Option<Slot> {
        // The pid may have belonged to another process before.
        self.release(pid);
        let is_free = |cell: &Cell| cell.pid.compare_exchange(0, pid, SeqCst, SeqCst).is_ok();
        let (index, cell) = self.cells.iter().enumerate().find(|(_, cell)| is_free(cell))?;
        self.used.fetch_max(u32::try_from(index + 1).unwrap_or(u32::MAX), SeqCst);
        Some(Slot(cell))
    }

    /// Frees the slot of a process that has ended.
    pub fn release(&self, pid: u32) {
        for cell in self.used().iter().filter(|cell| cell.pid.load(SeqCst) == pid) {
            // The number first, so that the next owner never shows the number of this one.
            cell.number.store(0, SeqCst);
            cell.pid.store(0, SeqCst);
        }
    }

    /// The numbers by pid.
    #[must_use]
    pub fn read(&self) -> Vec<(u32, u32)> {
        let taken = self.used().iter().map(|cell| (cell.pid.load(SeqCst), cell.number.load(Relaxed)));
        taken.filter(|(pid, _)| *pid != 0).collect()
    }

    /// Whether no slot is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used().len() == self.cells.len() && self.cells.iter().all(|cell| cell.pid.load(SeqCst) != 0)
    }

    fn used(&self) -> &[Cell] {
        let used = usize::try_from(self.used.load(SeqCst)).unwrap_or(usize::MAX);
        &self.cells[..used.min(self.cells.len())]
    }
}

impl fmt::Debug for Scoreboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoreboard").field("taken", &self.read()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.0.number.load(Relaxed)).finish()
    }
}

/// Zeroed memory, shared with the children that this process forks.
#[cfg(unix)]
#[expect(unsafe_code, reason = "Mapping memory is unsafe.")]
fn shared(cells: usize) -> Option<&'static [Cell]> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

    let length = std::num::NonZeroUsize::new(cells * size_of::<Cell>())?;
    let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps no memory in use.
    let start = unsafe { mmap_anonymous(None, length, writable, MapFlags::MAP_SHARED) }.ok()?;
    // SAFETY: the mapping is zeroed, aligned to a page, long enough, never unmapped, and accessed through atomics alone.
    Some(unsafe { std::slice::from_raw_parts(start.cast::<Cell>().as_ptr(), cells) })
}

#[cfg(not(unix))]
fn shared(_cells: usize) -> Option<&'static [Cell]> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_its_process_has_ended() {
        let board = Scoreboard::new(1).unwrap();
        board.take(10).unwrap().store(3);
        assert_eq!((board.read(), board.is_full()), (vec![(10, 3)], true));
        assert!(board.take(11).is_none());
        board.release(10);
        assert!(!board.is_full());
        assert!(board.take(11).is_some());
        assert_eq!(board.read(), [(11, 0)]);
    }

    #[test]
    fn a_reused_pid_starts_at_zero() {
        let board = Scoreboard::new(2).unwrap();
        board.take(10).unwrap().store(1);
        assert!(board.take(10).is_some());
        assert_eq!(board.read(), [(10, 0)]);
    }

    #[test]
    fn a_number_that_does_not_fit_is_stored_as_the_maximum() {
        let board = Scoreboard::new(1).unwrap();
        board.take(10).unwrap().store(u64::MAX);
        assert_eq!(board.read(), [(10, u32::MAX)]);
    }
}
