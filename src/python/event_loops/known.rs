//! The loops that are known. They are held weakly.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::beat::Beat;
use super::select::Placed;
use crate::python::interrupt::ignore_exception;
use crate::python::loop_handler::LoopHandler;
use crate::sources::event_loops::{EventLoops, Method};

/// The loops that are known, and the collector's that counts for them.
pub struct Watch {
    pub observed: Arc<EventLoops>,
    /// No Python code runs while it is locked.
    pub known: Mutex<Vec<Arc<Known>>>,
}

/// A loop that is known.
pub struct Known {
    pub event_loop: Py<PyWeakrefReference>,
    pub address: usize,
    pub probe: Probe,
    pub handler: Option<Arc<LoopHandler>>,
}

/// What observes a loop.
pub enum Probe {
    /// It was asked to call us.
    Requested,
    /// A function in place of its selector's `select`.
    Select(Placed),
    /// Calls at certain times.
    Beat(Py<Beat>),
    /// There are too many that are observed like this.
    NoRoom(Method),
    /// It cannot be observed.
    Nothing,
}

impl Known {
    fn is(&self, event_loop: &Bound<'_, PyAny>) -> bool {
        self.address == address(event_loop) && self.event_loop.bind(event_loop.py()).upgrade().is_some()
    }

    /// Restores its handler of exceptions.
    pub fn remove_handler(&self, py: Python<'_>) -> PyResult<()> {
        let Some(handler) = &self.handler else { return Ok(()) };
        let Some(event_loop) = self.event_loop.bind(py).upgrade() else { return Ok(()) };
        ignore_exception(py, handler.remove(&event_loop)).map(drop)
    }

    /// Whether nothing observes it yet: it was asked to call us, or there was no room.
    pub fn is_waiting(&self) -> bool {
        matches!(self.probe, Probe::Requested | Probe::NoRoom(_))
    }

    /// Has what observes it do nothing any more.
    pub fn deactivate(&self) {
        if let Some(handler) = &self.handler {
            handler.deactivate();
        }
        match &self.probe {
            Probe::Select(placed) => placed.deactivate(),
            Probe::Beat(beat) => beat.get().deactivate(),
            Probe::Requested | Probe::NoRoom(_) | Probe::Nothing => {}
        }
    }
}

impl Watch {
    pub fn known(&self) -> MutexGuard<'_, Vec<Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, event_loop: &Bound<'_, PyAny>) -> Option<Arc<Known>> {
        self.known().iter().find(|known| known.is(event_loop)).cloned()
    }

    /// Replaces what was known of a loop.
    pub fn know(
        &self,
        event_loop: &Bound<'_, PyAny>,
        probe: Probe,
        handler: Option<Arc<LoopHandler>>,
    ) -> PyResult<Arc<Known>> {
        let reference = PyWeakrefReference::new(event_loop)?.unbind();
        let known = Arc::new(Known { event_loop: reference, address: address(event_loop), probe, handler });
        let before = self.find(event_loop);
        let mut all = self.known();
        all.retain(|other| !before.as_ref().is_some_and(|before| Arc::ptr_eq(before, other)));
        all.push(Arc::clone(&known));
        Ok(known)
    }

    /// Forgets it; whether it was still known.
    pub fn forget(&self, known: &Arc<Known>) -> bool {
        let mut all = self.known();
        let before = all.len();
        all.retain(|other| !Arc::ptr_eq(known, other));
        all.len() < before
    }
}

/// Where an object is, to compare it with.
fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr().addr()
}
