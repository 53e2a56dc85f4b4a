//! The invocations that a process serves in AWS Lambda, and what is done for them once.

use std::sync::atomic::AtomicBool;

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::collector::InvocationGuard;
use crate::emitter::Refusal;

/// The invocations that this process serves, and what is done for them once.
#[derive(Default)]
pub struct Invocations {
    /// Tells them apart by their contexts.
    pub guard: InvocationGuard<Context>,
    /// Whether metrics were started for them, or need not be.
    pub is_prepared: AtomicBool,
    /// Whether the hooks around a snapshot are registered.
    pub is_hooked: AtomicBool,
    /// The hooks could not be registered, so the first invocation is in a process that was restored without being
    /// noticed.
    pub is_restored_unnoticed: AtomicBool,
    /// Whether a warning was logged that nothing is sent.
    pub warned_unsent: AtomicBool,
    /// Whether a refused value was logged, in the order of [`Refusal::ALL`].
    pub warned_refused: [AtomicBool; Refusal::ALL.len()],
}

/// The context of an invocation, to recognise the invocation. It is not kept alive beyond it if that can be avoided.
pub enum Context {
    /// A weak reference to the context.
    Weak(Py<PyWeakrefReference>),
    /// The context itself, if it supports no weak references.
    Strong(Py<PyAny>),
}

impl Context {
    /// Refers to the context.
    pub fn of(context: &Bound<'_, PyAny>) -> Self {
        PyWeakrefReference::new(context).map_or_else(
            |_| Self::Strong(context.clone().unbind()),
            |reference| Self::Weak(reference.unbind()),
        )
    }

    /// Whether it is this one.
    pub fn is(&self, context: &Bound<'_, PyAny>) -> bool {
        match self {
            Self::Weak(reference) => {
                reference.bind(context.py()).upgrade().is_some_and(|known| known.is(context))
            }
            Self::Strong(known) => context.is(known),
        }
    }
}
