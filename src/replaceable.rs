//! A shared value that threads read and replace without a lock, which a child process could inherit locked, and without
//! thread-local data: for what is dropped with a thread the C library allocates memory at its first use there, and ends
//! the process if there is none.

use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};

/// A shared value, or none.
#[derive(Debug)]
pub struct Replaceable<T> {
    /// It owns what this points to, as an [`Arc`] does.
    value: AtomicPtr<T>,
    /// Threads that may be looking at it and do not own it yet.
    readers: AtomicUsize,
    owned: PhantomData<Arc<T>>,
}

impl<T> Default for Replaceable<T> {
    fn default() -> Self {
        Self::empty()
    }
}

#[expect(unsafe_code, reason = "An Arc and the pointer to its contents are converted into each other.")]
impl<T> Replaceable<T> {
    /// No value.
    #[must_use]
    pub const fn empty() -> Self {
        Self { value: AtomicPtr::new(ptr::null_mut()), readers: AtomicUsize::new(0), owned: PhantomData }
    }

    /// The value now.
    pub fn load(&self) -> Option<Arc<T>> {
        self.readers.fetch_add(1, SeqCst);
        let value = self.value.load(SeqCst);
        let value = (!value.is_null()).then(|| {
            // SAFETY: it is from an `Arc`. Whoever replaces it meanwhile sees this reader and does not let go of it.
            unsafe {
                Arc::increment_strong_count(value);
                Arc::from_raw(value)
            }
        });
        self.readers.fetch_sub(1, SeqCst);
        value
    }

    /// Replaces the value; returns what it was.
    pub fn swap(&self, new: Option<Arc<T>>) -> Option<Arc<T>> {
        self.release(self.value.swap(pointer(new), SeqCst))
    }

    /// Replaces the value.
    pub fn store(&self, new: Option<Arc<T>>) {
        drop(self.swap(new));
    }

    /// Replaces the value if it is still this one; whether it was.
    pub fn replace(&self, current: Option<&Arc<T>>, new: Arc<T>) -> bool {
        let current = current.map_or(ptr::null(), Arc::as_ptr);
        let new = pointer(Some(new));
        let replaced = self.value.compare_exchange(current.cast_mut(), new, SeqCst, SeqCst);
        match replaced {
            Ok(old) => drop(self.release(old)),
            // SAFETY: it is from an `Arc`, and is still owned here.
            Err(_) => drop(unsafe { Arc::from_raw(new) }),
        }
        replaced.is_ok()
    }

    /// What was the value, and is owned by the caller from now on.
    fn release(&self, old: *mut T) -> Option<Arc<T>> {
        if old.is_null() {
            return None;
        }
        // SAFETY: it is from an `Arc`, which was owned here.
        let old = unsafe { Arc::from_raw(old) };
        // Whoever reads now may not own it yet. That takes a few instructions: hardly ever is a value kept for good.
        if self.readers.load(SeqCst) > 0 {
            std::mem::forget(Arc::clone(&old));
        }
        Some(old)
    }
}

impl<T> Drop for Replaceable<T> {
    fn drop(&mut self) {
        self.store(None);
    }
}

fn pointer<T>(value: Option<Arc<T>>) -> *mut T {
    value.map_or(ptr::null_mut(), |value| Arc::into_raw(value).cast_mut())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_value_lives_until_it_is_replaced_and_nobody_uses_it() {
        let (first, second) = (Arc::new(1), Arc::new(2));
        let shared = Replaceable::empty();
        assert_eq!(shared.load(), None);
        assert_eq!(shared.swap(Some(Arc::clone(&first))), None);
        let read = shared.load();
        assert_eq!((&read, Arc::strong_count(&first)), (&Some(Arc::clone(&first)), 3));
        assert_eq!(shared.swap(Some(Arc::clone(&second))), Some(Arc::clone(&first)));
        drop(read);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
        drop(shared);
        assert_eq!(Arc::strong_count(&second), 1);
    }

    #[test]
    fn it_is_replaced_only_if_it_is_still_the_same() {
        let (first, second) = (Arc::new(1), Arc::new(2));
        let shared = Replaceable::default();
        assert!(!shared.replace(Some(&first), Arc::clone(&second)));
        assert!(shared.replace(None, Arc::clone(&first)));
        assert!(!shared.replace(None, Arc::clone(&second)));
        assert!(shared.replace(Some(&first), Arc::clone(&second)));
        assert_eq!(shared.load(), Some(Arc::clone(&second)));
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
    }

    #[test]
    fn what_another_thread_is_reading_is_kept() {
        let first = Arc::new(1);
        let shared = Replaceable::empty();
        shared.store(Some(Arc::clone(&first)));
        shared.readers.fetch_add(1, SeqCst);
        shared.store(None);
        assert_eq!(Arc::strong_count(&first), 2);
    }

    #[test]
    fn threads_read_whole_values_while_others_replace_them() {
        let shared = Replaceable::empty();
        thread::scope(|scope| {
            for number in 0..4_u64 {
                let shared = &shared;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let seen = shared.load();
                        assert!(
                            seen.is_none_or(|seen: Arc<[u64; 4]>| seen.iter().all(|one| *one == seen[0]))
                        );
                        if round % 4 == number {
                            shared.store(Some(Arc::new([round; 4])));
                        }
                    }
                });
            }
        });
        assert!(shared.load().is_some());
    }
}
