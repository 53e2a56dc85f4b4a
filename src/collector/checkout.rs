//! One thing that one thread at a time takes away and brings back, so that no lock is held while it is used.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Holds one thing that one thread at a time takes away and brings back.
pub struct Checkout<T> {
    held: Mutex<Held<T>>,
    brought_back: Condvar,
}

struct Held<T> {
    thing: Option<T>,
    waiting: usize,
}

impl<T> Checkout<T> {
    /// Holds it.
    pub fn new(thing: T) -> Self {
        Self { held: Mutex::new(Held { thing: Some(thing), waiting: 0 }), brought_back: Condvar::new() }
    }

    /// The thing, if it is there or is brought back in time.
    pub fn check_out(&self, within: Duration) -> Option<CheckedOut<'_, T>> {
        let mut held = self.lock();
        held.waiting += 1;
        (held, _) = self
            .brought_back
            .wait_timeout_while(held, within, |held| held.thing.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        held.waiting -= 1;
        let thing = held.thing.take()?;
        Some(CheckedOut { slot: self, thing: Some(thing) })
    }

    /// Brings back what was [kept](CheckedOut::keep).
    pub fn bring_back(&self, thing: T) {
        let mut held = self.lock();
        held.thing = Some(thing);
        // Waking nobody would be a system call all the same.
        if held.waiting > 0 {
            self.brought_back.notify_one();
        }
    }

    /// The thing, for good, if nobody has it or the lock; nothing is waited for.
    pub fn salvage(&self) -> Option<T> {
        self.held.try_lock().ok()?.thing.take()
    }

    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thing, until it is dropped and thereby brought back.
pub struct CheckedOut<'a, T> {
    slot: &'a Checkout<T>,
    thing: Option<T>,
}

impl<T> Deref for CheckedOut<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("present until it is dropped")
    }
}

impl<T> DerefMut for CheckedOut<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("present until it is dropped")
    }
}

impl<T> CheckedOut<'_, T> {
    /// The thing without the duty to bring it back.
    pub fn keep(mut self) -> T {
        self.thing.take().expect("present until it is dropped")
    }
}

impl<T> Drop for CheckedOut<'_, T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take() {
            self.slot.bring_back(thing);
        }
    }
}
