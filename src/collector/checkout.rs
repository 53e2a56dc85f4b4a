//! One value that one thread at a time checks out and returns, so that no lock is held while it is used.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Holds one value that one thread at a time checks out and returns.
pub struct Checkout<T> {
    contents: Mutex<Contents<T>>,
    returned: Condvar,
}

struct Contents<T> {
    value: Option<T>,
    waiting: usize,
}

impl<T> Checkout<T> {
    /// Holds the value.
    pub fn new(value: T) -> Self {
        Self { contents: Mutex::new(Contents { value: Some(value), waiting: 0 }), returned: Condvar::new() }
    }

    /// The value, if it is there or is returned within that time.
    pub fn check_out(&self, within: Duration) -> Option<CheckedOut<'_, T>> {
        let mut contents = self.lock();
        if contents.value.is_none() {
            contents.waiting += 1;
            (contents, _) = self
                .returned
                .wait_timeout_while(contents, within, |contents| contents.value.is_none())
                .unwrap_or_else(PoisonError::into_inner);
            contents.waiting -= 1;
        }
        let value = contents.value.take()?;
        Some(CheckedOut { checkout: self, value: Some(value) })
    }

    /// Returns what was [kept](CheckedOut::keep).
    pub fn put_back(&self, value: T) {
        let mut contents = self.lock();
        contents.value = Some(value);
        let is_awaited = contents.waiting > 0;
        drop(contents);
        // Notifying is a system call even if no thread waits.
        if is_awaited {
            self.returned.notify_one();
        }
    }

    /// Takes the value permanently if it is not checked out and the lock is free; never waits.
    pub fn salvage(&self) -> Option<T> {
        self.contents.try_lock().ok()?.value.take()
    }

    fn lock(&self) -> MutexGuard<'_, Contents<T>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value, until it is dropped and thereby returned.
pub struct CheckedOut<'a, T> {
    checkout: &'a Checkout<T>,
    value: Option<T>,
}

impl<T> Deref for CheckedOut<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("present until it is dropped")
    }
}

impl<T> DerefMut for CheckedOut<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("present until it is dropped")
    }
}

impl<T> CheckedOut<'_, T> {
    /// The value, which the caller returns with [`Checkout::put_back`].
    pub fn keep(mut self) -> T {
        self.value.take().expect("present until it is dropped")
    }
}

impl<T> Drop for CheckedOut<'_, T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.checkout.put_back(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn only_one_has_the_value_at_a_time() {
        let checkout = Checkout::new(1);
        let mut value = checkout.check_out(Duration::ZERO).unwrap();
        *value += 1;
        assert!(checkout.check_out(Duration::ZERO).is_none());
        assert!(checkout.salvage().is_none());
        drop(value);
        assert_eq!(*checkout.check_out(Duration::ZERO).unwrap(), 2);
    }

    #[test]
    fn a_waiting_thread_gets_the_value_when_it_is_returned() {
        let checkout = Checkout::new(1);
        let value = checkout.check_out(Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| checkout.check_out(LONG).map(|value| *value));
            while checkout.lock().waiting == 0 {
                thread::yield_now();
            }
            drop(value);
            assert_eq!(waiting.join().unwrap(), Some(1));
        });
    }

    #[test]
    fn a_kept_value_is_away_until_it_is_put_back() {
        let checkout = Checkout::new(1);
        let value = checkout.check_out(Duration::ZERO).unwrap().keep();
        assert!(checkout.check_out(Duration::ZERO).is_none());
        checkout.put_back(value);
        assert_eq!(checkout.salvage(), Some(1));
        assert_eq!(checkout.salvage(), None);
    }
}
