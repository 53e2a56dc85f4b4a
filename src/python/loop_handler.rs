//! Our exception handler of an event loop, which counts exceptions that nobody asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::exception_hooks::{ExceptionHook, Installed};
use super::native_function::owner_of;
use crate::python::interned::intern;
use crate::snapshot::Uncaught;
use crate::sources::uncaught::UncaughtCounters;

/// Our exception handler of a loop. Held weakly: it refers to the program's handler, which may refer to the loop.
pub struct LoopHandler {
    function: Py<PyWeakrefReference>,
    is_counting: Arc<AtomicBool>,
}

impl LoopHandler {
    /// Installs it in a loop, in the loop's thread.
    pub fn install(event_loop: &Bound<'_, PyAny>, counters: &Arc<UncaughtCounters>) -> PyResult<Self> {
        let py = event_loop.py();
        let previous = event_loop.call_method0(intern!(py, "get_exception_handler"))?;
        let handler = Installed::new(Uncaught::NeverRetrieved, counters, previous)?;
        let function = PyWeakrefReference::new(handler.function.bind(py))?;
        event_loop.call_method1(intern!(py, "set_exception_handler"), (&handler.function,))?;
        counters.watch(Uncaught::NeverRetrieved, true);
        Ok(Self { function: function.unbind(), is_counting: Arc::clone(&handler.hook.get().is_counting) })
    }

    /// Restores the one before it, unless the program has set another meanwhile, which may call ours.
    pub fn remove(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        self.deactivate();
        let py = event_loop.py();
        let Some(function) = self.function.bind(py).upgrade() else { return Ok(()) };
        let Some(hook) = owner_of::<ExceptionHook>(&function) else { return Ok(()) };
        let previous = &hook.get().previous;
        // asyncio's loops have it here. Their methods are Python code, in which another thread may set a handler.
        let attribute = intern!(py, "_exception_handler");
        with_critical_section(event_loop, || {
            if event_loop.getattr_opt(attribute)?.is_some_and(|current| current.is(&function)) {
                return event_loop.setattr(attribute, previous);
            }
            // Other loops have it elsewhere; a subclass of asyncio's may wrap what it is given.
            let current = event_loop.call_method0(intern!(py, "get_exception_handler"))?;
            if current.is(&function) {
                event_loop.call_method1(intern!(py, "set_exception_handler"), (previous,))?;
            }
            Ok(())
        })
    }

    /// From now on it only hands on.
    pub fn deactivate(&self) {
        self.is_counting.store(false, SeqCst);
    }
}
