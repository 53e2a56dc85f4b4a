//! Numbers that processes note where the one that forked them sees them: one store, no lock, no system call.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

/// Memory that a process shares with the children it forks. It is never given back: a child may write to it at any time.
pub struct Scoreboard {
    places: &'static [Cell],
    /// How many places have ever been taken; the others need not be looked at.
    used: &'static AtomicU32,
}

/// A cache line, so that no process's stores disturb another's.
#[repr(C, align(64))]
struct Cell {
    /// Whose it is; 0 if nobody's.
    pid: AtomicU32,
    number: AtomicU32,
}

/// Where one process notes its number.
#[derive(Clone)]
pub struct Slot(&'static Cell);

impl Slot {
    /// Notes it, or the largest that there is room for.
    pub fn note(&self, number: u64) {
        self.0.number.store(u32::try_from(number).unwrap_or(u32::MAX), Relaxed);
    }
}

impl Scoreboard {
    /// So many places, all of them free; `None` where memory cannot be shared so.
    #[must_use]
    pub fn new(places: usize) -> Option<Self> {
        // One more, for the count of those that are used.
        let [first, places @ ..] = shared(places + 1)? else { return None };
        Some(Self { places, used: &first.number })
    }

    /// A slot for this process, where it has noted 0; `None` if there is none left.
    #[must_use]
    pub fn take(&self, pid: u32) -> Option<Slot> {
        // A pid that comes back is another process by now.
        self.release(pid);
        let is_free = |cell: &Cell| cell.pid.compare_exchange(0, pid, SeqCst, SeqCst).is_ok();
        let (index, cell) = self.places.iter().enumerate().find(|(_, cell)| is_free(cell))?;
        self.used.fetch_max(u32::try_from(index + 1).unwrap_or(u32::MAX), SeqCst);
        Some(Slot(cell))
    }

    /// Frees the slot of a process that has ended.
    pub fn release(&self, pid: u32) {
        for cell in self.used().iter().filter(|cell| cell.pid.load(SeqCst) == pid) {
            // First, so that whoever takes the slot is never seen with what another has noted.
            cell.number.store(0, SeqCst);
            cell.pid.store(0, SeqCst);
        }
    }

    /// What processes have noted, by pid.
    #[must_use]
    pub fn read(&self) -> Vec<(u32, u32)> {
        let taken = self.used().iter().map(|cell| (cell.pid.load(SeqCst), cell.number.load(Relaxed)));
        taken.filter(|(pid, _)| *pid != 0).collect()
    }

    /// Whether no slot is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used().len() == self.places.len() && self.places.iter().all(|cell| cell.pid.load(SeqCst) != 0)
    }

    fn used(&self) -> &[Cell] {
        let used = usize::try_from(self.used.load(SeqCst)).unwrap_or(usize::MAX);
        &self.places[..used.min(self.places.len())]
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

/// Zeros that this process shares with the children it will fork.
#[cfg(unix)]
#[allow(unsafe_code, reason = "mapping memory is")]
fn shared(cells: usize) -> Option<&'static [Cell]> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

    let length = std::num::NonZeroUsize::new(cells * size_of::<Cell>())?;
    let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping wherever the kernel likes touches no memory that anybody has.
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
    fn a_place_is_free_again_when_its_process_has_ended() {
        let board = Scoreboard::new(1).unwrap();
        board.take(10).unwrap().note(3);
        assert_eq!((board.read(), board.is_full()), (vec![(10, 3)], true));
        assert!(board.take(11).is_none());
        board.release(10);
        assert!(!board.is_full());
        assert!(board.take(11).is_some());
        assert_eq!(board.read(), [(11, 0)]);
    }

    #[test]
    fn a_pid_that_comes_back_begins_at_nothing() {
        let board = Scoreboard::new(2).unwrap();
        board.take(10).unwrap().note(1);
        assert!(board.take(10).is_some());
        assert_eq!(board.read(), [(10, 0)]);
    }

    #[test]
    fn what_does_not_fit_is_as_large_as_can_be() {
        let board = Scoreboard::new(1).unwrap();
        board.take(10).unwrap().note(u64::MAX);
        assert_eq!(board.read(), [(10, u32::MAX)]);
    }
}
