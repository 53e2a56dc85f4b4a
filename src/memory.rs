//! What our code does where memory has run out: it looks before it begins, and has a reserve for what it has begun.
//!
//! Rust ends the process if an allocation fails, and CPython if it cannot make the state of a thread. A program may
//! survive its `MemoryError`, so neither may happen. [`is_available`] is asked before a flush, before a thread starts
//! and before one of ours enters the interpreter; what cannot be afforded is left out. As another thread may take the
//! memory at any moment after that, the extension's allocator is a [`WithReserve`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::hint::black_box;
use std::mem::MaybeUninit;
#[cfg(unix)]
use std::num::NonZeroUsize;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// More than a flush allocates, or CPython for a thread that enters it. Less than what has glibc return memory to the
/// system when it is freed (64 kB): in a steady tick, neither call is a system call.
const NEEDED: Layout = Layout::new::<[u64; 48 * 1024 / size_of::<u64>()]>();

/// What a thread needs beside its stack before it runs our code, and then for its first steps.
#[cfg(unix)]
const BESIDE_STACK: usize = 256 * 1024;

/// Bytes in reserve. They cost address space; the kernel provides pages when they are used.
const RESERVE: usize = 256 * 1024;

/// Bytes that are handed out as one, and their alignment, which no allocation of ours exceeds.
const PIECE: usize = 64;

const PIECES: usize = u64::BITS as usize;

const PAGE: usize = PIECES * PIECE;

/// Whether memory was short when that was last asked.
static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// Whether memory is available for a flush, or for whatever needs no more than that.
///
/// It allocates from the system and frees at once. The memory is not touched, so only limits of the address space are
/// noticed (`ulimit -v`, `RLIMIT_AS`, `RLIMIT_DATA`): beyond a container's limit the kernel ends the process without
/// asking anyone.
#[must_use]
#[expect(unsafe_code, reason = "Only this way to allocate returns if it fails.")]
pub fn is_available() -> bool {
    // SAFETY: the layout is not empty.
    let room = unsafe { System.alloc(NEEDED) };
    // Otherwise the compiler may leave out both calls.
    let room = black_box(room);
    IS_SHORT.store(room.is_null(), SeqCst);
    if room.is_null() {
        return false;
    }
    // SAFETY: it was allocated above, with this layout.
    unsafe { System.dealloc(room, NEEDED) };
    true
}

/// Whether a thread with such a stack can begin: for what it needs beside the stack, the C library ends the process if
/// there is none.
///
/// The heaps of other threads may have memory that it cannot use, so this maps some and unmaps it at once.
#[cfg(unix)]
#[must_use]
#[expect(unsafe_code, reason = "Mapping memory is unsafe.")]
pub fn is_available_for_thread(stack: usize) -> bool {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    let Some(length) = NonZeroUsize::new(stack + BESIDE_STACK) else { return false };
    let (writable, private) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    // SAFETY: an anonymous mapping at an address that the kernel chooses overlaps no memory in use.
    let Ok(room) = (unsafe { mmap_anonymous(None, length, writable, private) }) else { return false };
    // SAFETY: it was mapped above and is not used.
    unsafe { munmap(room, length.get()) }.is_ok()
}

/// Whether a thread with such a stack can begin.
#[cfg(not(unix))]
#[must_use]
pub fn is_available_for_thread(_stack: usize) -> bool {
    is_available()
}

/// An allocator that takes from its reserve what another cannot provide.
///
/// While memory is short, the reserve comes first: the program, or CPython in a child process, may need the little that
/// is left.
pub struct WithReserve<A> {
    inner: A,
    reserve: Reserve,
}

impl<A> WithReserve<A> {
    /// Adds a reserve to an allocator.
    #[must_use]
    pub const fn new(inner: A) -> Self {
        Self { inner, reserve: Reserve::new() }
    }
}

impl<A: GlobalAlloc> WithReserve<A> {
    #[expect(unsafe_code, reason = "An allocator cannot be called without it.")]
    unsafe fn take(&self, layout: Layout, is_short: bool) -> *mut u8 {
        // SAFETY: as the caller promises.
        let usual = || unsafe { self.inner.alloc(layout) };
        let reserved = || self.reserve.alloc(layout);
        if is_short { or_else(reserved(), usual) } else { or_else(usual(), reserved) }
    }
}

#[expect(unsafe_code, reason = "An allocator cannot be written without it.")]
// SAFETY: each block is from one of the two allocators, whose promises are those required here, and is returned to the
// one that it is from: a block is the reserve's if its address is.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WithReserve<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.take(layout, IS_SHORT.load(SeqCst)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        if !block.is_null() {
            return block;
        }
        let block = self.reserve.alloc(layout);
        if !block.is_null() {
            // SAFETY: the block is that long, and nobody else has it.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.reserve.offset(block) {
            Some(offset) => self.reserve.dealloc(offset, layout),
            // SAFETY: as the caller promises; it is not from the reserve.
            None => unsafe { self.inner.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let offset = self.reserve.offset(block);
        if offset.is_none() {
            // SAFETY: as the caller promises; it is not from the reserve.
            let moved = unsafe { self.inner.realloc(block, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        // SAFETY: the caller promises that the size is not zero.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both blocks are at least that long, and the new one is nobody else's.
            unsafe { moved.copy_from_nonoverlapping(block, size.min(layout.size())) };
            // SAFETY: as the caller promises; from now on nobody uses it.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

/// The block, or another if there is none.
fn or_else(block: *mut u8, other: impl FnOnce() -> *mut u8) -> *mut u8 {
    if block.is_null() { other() } else { block }
}

/// A little memory in pages of 64 pieces. A block has adjacent pieces of one page, or adjacent whole pages.
///
/// It has no lock, which a child process could inherit locked.
#[repr(C, align(4096))]
struct Reserve {
    bytes: UnsafeCell<MaybeUninit<[u8; RESERVE]>>,
    /// Which pieces of each page are in use, as bits.
    used: [AtomicU64; RESERVE / PAGE],
}

/// A block's pieces of a page, as bits, for a block of at most one page.
struct Pieces(u64);

#[expect(unsafe_code, reason = "Memory that several threads write has no safe type.")]
// SAFETY: blocks do not overlap, and only the thread that was given one uses its bytes.
unsafe impl Sync for Reserve {}

impl Reserve {
    const fn new() -> Self {
        Self {
            bytes: UnsafeCell::new(MaybeUninit::uninit()),
            used: [const { AtomicU64::new(0) }; RESERVE / PAGE],
        }
    }

    fn alloc(&self, layout: Layout) -> *mut u8 {
        let offset = match layout.size() {
            _ if layout.align() > PIECE => None,
            ..=PAGE => self.take_pieces(layout.size().div_ceil(PIECE)),
            size => self.take_pages(size.div_ceil(PAGE)),
        };
        offset.map_or(ptr::null_mut(), |offset| self.bytes.get().cast::<u8>().wrapping_add(offset))
    }

    /// Where this block begins, if it is from here.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let offset = block.addr().wrapping_sub(self.bytes.get().addr());
        (offset < RESERVE).then_some(offset)
    }

    fn dealloc(&self, offset: usize, layout: Layout) {
        let page = offset / PAGE;
        if layout.size() <= PAGE {
            let Pieces(pieces) = Pieces::at(offset % PAGE / PIECE, layout.size().div_ceil(PIECE));
            self.used[page].fetch_and(!pieces, SeqCst);
        } else {
            self.return_pages(page, layout.size().div_ceil(PAGE));
        }
    }

    fn take_pieces(&self, count: usize) -> Option<usize> {
        for (page, used) in self.used.iter().enumerate() {
            for first in 0..=PIECES - count {
                let Pieces(pieces) = Pieces::at(first, count);
                // Another thread may have taken some since they were looked at; then these are not free.
                let take = |used| (used & pieces == 0).then_some(used | pieces);
                if used.try_update(SeqCst, SeqCst, take).is_ok() {
                    return Some(page * PAGE + first * PIECE);
                }
            }
        }
        None
    }

    fn take_pages(&self, count: usize) -> Option<usize> {
        let last = self.used.len().checked_sub(count)?;
        for first in 0..=last {
            let pages = &self.used[first..first + count];
            let is_taken = |page: &AtomicU64| page.compare_exchange(0, u64::MAX, SeqCst, SeqCst).is_err();
            match pages.iter().position(is_taken) {
                Some(taken) => self.return_pages(first, taken),
                None => return Some(first * PAGE),
            }
        }
        None
    }

    fn return_pages(&self, first: usize, count: usize) {
        for page in &self.used[first..first + count] {
            page.store(0, SeqCst);
        }
    }
}

impl Pieces {
    fn at(first: usize, count: usize) -> Self {
        // A block is not empty.
        Self((u64::MAX >> (PIECES - count)) << first)
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "An allocator cannot be called without it.")]
mod tests {
    use std::thread;

    use super::*;

    /// The system's allocator, until memory runs out.
    #[derive(Default)]
    struct Limited {
        exhausted: AtomicBool,
    }

    // SAFETY: it does what the system's does, or returns nothing.
    unsafe impl GlobalAlloc for Limited {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: as the caller promises.
            if self.exhausted.load(SeqCst) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: as the caller promises.
            unsafe { System.dealloc(block, layout) }
        }
    }

    const SMALL: Layout = Layout::new::<[u64; 3]>();

    /// A block filled with a byte.
    fn filled(allocator: &WithReserve<Limited>, layout: Layout, byte: u8) -> *mut u8 {
        // SAFETY: no layout here is empty.
        let block = unsafe { allocator.alloc(layout) };
        assert!(!block.is_null());
        // SAFETY: the block is that long.
        unsafe { block.write_bytes(byte, layout.size()) };
        block
    }

    fn holds(block: *mut u8, length: usize, byte: u8) -> bool {
        // SAFETY: the block is that long, and was written.
        unsafe { std::slice::from_raw_parts(block, length) }.iter().all(|found| *found == byte)
    }

    fn is_free(reserve: &Reserve) -> bool {
        reserve.used.iter().all(|page| page.load(SeqCst) == 0)
    }

    #[test]
    fn memory_is_available_for_what_there_is() {
        assert!(is_available());
        assert!(is_available_for_thread(256 * 1024));
        #[cfg(all(unix, target_pointer_width = "64"))]
        assert!(!is_available_for_thread(1 << 60));
    }

    #[test]
    fn what_the_system_cannot_provide_comes_from_the_reserve_and_goes_back_there() {
        let allocator = WithReserve::new(Limited::default());
        let before = filled(&allocator, SMALL, 1);
        assert!(allocator.reserve.offset(before).is_none());
        allocator.inner.exhausted.store(true, SeqCst);
        let first = filled(&allocator, SMALL, 2);
        let second = filled(&allocator, SMALL, 3);
        assert_eq!(
            (allocator.reserve.offset(first), allocator.reserve.offset(second)),
            (Some(0), Some(PIECE))
        );
        assert!(holds(first, SMALL.size(), 2) && holds(second, SMALL.size(), 3));
        // SAFETY: each block was allocated above with this layout, and is freed once.
        unsafe {
            allocator.dealloc(before, SMALL);
            allocator.dealloc(first, SMALL);
            allocator.dealloc(second, SMALL);
        }
        assert_eq!(allocator.reserve.offset(filled(&allocator, SMALL, 4)), Some(0));
    }

    #[test]
    fn while_memory_is_short_the_reserve_comes_first() {
        let allocator = WithReserve::new(Limited::default());
        let whole = Layout::from_size_align(RESERVE, 16).unwrap();
        // SAFETY: no layout here is empty.
        let offset = |layout, is_short| allocator.reserve.offset(unsafe { allocator.take(layout, is_short) });
        assert_eq!([offset(SMALL, false), offset(SMALL, true)], [None, Some(0)]);
        assert_eq!([offset(whole, true), offset(SMALL, true)], [None, Some(PIECE)]);
    }

    #[test]
    fn a_block_that_grows_keeps_its_contents_wherever_it_is() {
        let allocator = WithReserve::new(Limited::default());
        let block = filled(&allocator, SMALL, 5);
        allocator.inner.exhausted.store(true, SeqCst);
        // SAFETY: the block is moved from one size to the next, and freed with the last.
        unsafe {
            let block = allocator.realloc(block, SMALL, 1000);
            assert_eq!(allocator.reserve.offset(block), Some(0));
            let block = allocator.realloc(block, Layout::from_size_align(1000, 8).unwrap(), 2000);
            assert!(allocator.reserve.offset(block).is_some() && holds(block, SMALL.size(), 5));
            allocator.inner.exhausted.store(false, SeqCst);
            let block = allocator.realloc(block, Layout::from_size_align(2000, 8).unwrap(), 3000);
            assert!(allocator.reserve.offset(block).is_none() && holds(block, SMALL.size(), 5));
            allocator.dealloc(block, Layout::from_size_align(3000, 8).unwrap());
        }
        assert!(is_free(&allocator.reserve));
    }

    #[test]
    fn zeroed_memory_is_zeroed_even_if_it_was_used() {
        let allocator = WithReserve::new(Limited::default());
        allocator.inner.exhausted.store(true, SeqCst);
        let block = filled(&allocator, SMALL, 6);
        // SAFETY: it was allocated with this layout; the layout is not empty.
        let zeroed = unsafe {
            allocator.dealloc(block, SMALL);
            allocator.alloc_zeroed(SMALL)
        };
        assert_eq!(zeroed, block);
        assert!(holds(zeroed, SMALL.size(), 0));
    }

    #[test]
    fn a_block_that_stays_does_not_keep_others_from_being_used_again() {
        let reserve = Reserve::new();
        let page = Layout::from_size_align(PAGE, 8).unwrap();
        let blocks = [SMALL, page, SMALL, SMALL].map(|layout| reserve.offset(reserve.alloc(layout)).unwrap());
        assert_eq!(blocks, [0, PAGE, PIECE, 2 * PIECE]);
        reserve.dealloc(PIECE, SMALL);
        reserve.dealloc(PAGE, page);
        assert_eq!(reserve.offset(reserve.alloc(page)), Some(PAGE));
        assert_eq!(reserve.offset(reserve.alloc(SMALL)), Some(PIECE));
    }

    #[test]
    fn a_block_of_several_pages_has_them_for_itself() {
        let reserve = Reserve::new();
        let long = Layout::from_size_align(2 * PAGE + 1, 16).unwrap();
        assert_eq!(reserve.offset(reserve.alloc(SMALL)), Some(0));
        assert_eq!(reserve.offset(reserve.alloc(long)), Some(PAGE));
        assert_eq!(reserve.offset(reserve.alloc(long)), Some(4 * PAGE));
        reserve.dealloc(PAGE, long);
        assert_eq!(reserve.offset(reserve.alloc(long)), Some(PAGE));
    }

    #[test]
    fn it_provides_no_more_than_it_has() {
        let reserve = Reserve::new();
        let whole = Layout::from_size_align(RESERVE, 16).unwrap();
        assert!(reserve.alloc(Layout::from_size_align(RESERVE + 1, 1).unwrap()).is_null());
        assert!(reserve.alloc(Layout::from_size_align(128, 128).unwrap()).is_null());
        assert_eq!(reserve.offset(reserve.alloc(whole)), Some(0));
        assert!(reserve.alloc(SMALL).is_null());
        reserve.dealloc(0, whole);
        assert!(!reserve.alloc(SMALL).is_null());
    }

    #[test]
    fn threads_never_get_the_same_memory() {
        let allocator = WithReserve::new(Limited::default());
        allocator.inner.exhausted.store(true, SeqCst);
        thread::scope(|scope| {
            for byte in 1..=4 {
                let allocator = &allocator;
                scope.spawn(move || {
                    for round in 1..2000 {
                        let layout = Layout::from_size_align(1 + 7 * (round % 1400), 8).unwrap();
                        let blocks = [(); 3].map(|()| filled(allocator, layout, byte));
                        thread::yield_now();
                        for block in blocks {
                            assert!(holds(block, layout.size(), byte));
                            // SAFETY: it was allocated with this layout, and is freed once.
                            unsafe { allocator.dealloc(block, layout) };
                        }
                    }
                });
            }
        });
        assert!(is_free(&allocator.reserve));
    }
}
