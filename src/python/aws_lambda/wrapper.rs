//! The wrapper of a handler: each invocation sends its metrics when it ends.

#![expect(clippy::doc_markdown, reason = "The function's comment is its docstring in Python.")]

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::snapstart::become_restored;
use super::start::{enable_in_lambda, warn_unsent};
use crate::clock::since_epoch;
use crate::emitter::address::{Address, UnixKind};
use crate::identity::function::InvocationFacts;
use crate::python::interned::intern;
use crate::python::interpreter::Purpose;
use crate::python::invocations::Context;
use crate::python::log;
use crate::python::process::Process;
use crate::python::running::{Running, current, shielded};

/// The attribute of a wrapper that holds what it wraps.
const WRAPPED: &str = "__wrapped__";

/// Wrap the handler of a function in AWS Lambda: each invocation sends its metrics when it ends.
///
/// If a handler is wrapped several times, an invocation still sends once. The result, exceptions and their stack are
/// those of the handler. Outside AWS Lambda the handler is just called.
///
/// Args:
///     handler: A function of an event and a context, or another callable with these parameters.
///
/// Returns:
///     The wrapper, to be called in place of the handler; it has the handler's name and attributes, and __wrapped__.
///
/// Raises:
///     TypeError: The handler is not callable.
#[pyfunction]
pub fn instrument(handler: Bound<'_, PyAny>) -> PyResult<Instrumented> {
    let py = handler.py();
    if !handler.is_callable() {
        let shown = handler.repr().map_or_else(|_| "?".to_owned(), |repr| repr.to_string());
        return Err(PyTypeError::new_err(format!("handler={shown}: expected something that can be called")));
    }
    shielded(Ok(()), || enable_in_lambda(py))?;
    Ok(Instrumented { handler: handler.unbind() })
}

// A handler whose invocations send their metrics. It is native, so that no frame of ours is in the stack of an
// exception. Otherwise it passes for the handler: it has no docstring and no attributes of its own, and the name of its
// type is that of functions. (ddtrace, to notice timeouts, wraps the code of handlers whose type has that name.)
#[pyclass(frozen, weakref, name = "function", module = "runtime_metrics.aws_lambda")]
pub struct Instrumented {
    handler: Py<PyAny>,
}

#[pymethods]
impl Instrumented {
    #[pyo3(signature = (*arguments, **keywords))]
    fn __call__(
        &self,
        py: Python<'_>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let context = context(arguments, keywords);
        let invocation = shielded(Ok(None), || begin(py, context.as_ref()))?;
        let result = self.handler.call(py, arguments, keywords);
        let Some(invocation) = invocation else { return result };
        let ended = shielded(Ok(()), || invocation.send(py));
        result.and_then(|result| ended.map(|()| result))
    }

    // As an attribute of a class it is bound like the handler.
    fn __get__(
        slf: Bound<'_, Self>,
        instance: &Bound<'_, PyAny>,
        owner: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let handler = slf.get().handler.bind(py);
        let Some(bind) = handler.get_type().getattr_opt(intern!(py, "__get__"))? else {
            return Ok(slf.into_any().unbind());
        };
        let bound = bind.call1((handler, instance, owner))?;
        if bound.is(handler) {
            return Ok(slf.into_any().unbind());
        }
        if bound.getattr_opt(intern!(py, "__func__"))?.is_some_and(|function| function.is(handler)) {
            // A method that calls the wrapper.
            let method = py.import(intern!(py, "types"))?.getattr(intern!(py, "MethodType"))?;
            return method.call1((slf, instance)).map(Bound::unbind);
        }
        Ok(Bound::new(py, Self { handler: bound.unbind() })?.into_any().unbind())
    }

    // It is copied and pickled by its name, like a function.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(name) = self.handler.bind(py).getattr_opt(intern!(py, "__qualname__"))? {
            return Ok(name);
        }
        let instrument = py.import(intern!(py, "runtime_metrics._core"))?.getattr("instrument")?;
        (instrument, (&self.handler,)).into_bound_py_any(py)
    }

    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        self.handler.bind(py).getattr(name)
    }

    // functools.wraps() sets __wrapped__, which stays the handler: set on the handler it would be a circle.
    fn __setattr__(&self, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if name == WRAPPED {
            return Ok(());
        }
        self.handler.bind(name.py()).setattr(name, value)
    }

    fn __delattr__(&self, name: &Bound<'_, PyString>) -> PyResult<()> {
        if name == WRAPPED {
            return Ok(());
        }
        self.handler.bind(name.py()).delattr(name)
    }

    // inspect.isfunction() and the like give the answer for the handler.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.handler.bind(py).getattr(intern!(py, "__class__"))
    }

    #[getter]
    fn __wrapped__(&self, py: Python<'_>) -> Py<PyAny> {
        self.handler.clone_ref(py)
    }

    #[getter]
    fn __doc__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.handler.bind(py).getattr(intern!(py, "__doc__"))
    }

    #[getter]
    fn __module__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.handler.bind(py).getattr(intern!(py, "__module__"))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<instrumented {}>", self.handler.bind(py).repr()?))
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        visit.call(&self.handler)
    }
}

/// The context of the call. A handler is called with event and context; a bound one, with something before them.
fn context<'py>(
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> Option<Bound<'py, PyAny>> {
    let named =
        keywords.and_then(|keywords| keywords.get_item(intern!(keywords.py(), "context")).ok()).flatten();
    let last = arguments.len().checked_sub(1).filter(|last| *last > 0);
    named.or_else(|| last.and_then(|last| arguments.get_item(last).ok())).filter(|context| !context.is_none())
}

/// An invocation under way, and what collects in it.
struct Invocation {
    running: Arc<Running>,
    process: &'static Process,
}

/// Begins an invocation, and last of all takes the baselines. `None` if the call is within an invocation that is served
/// already, or if invocations do not send their own metrics.
fn begin(py: Python<'_>, context: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Invocation>> {
    let Some(process) = Process::known() else { return Ok(None) };
    let invocations = &process.invocations;
    if invocations.is_restored_unnoticed.swap(false, SeqCst) {
        become_restored(py, process)?;
    }
    let running = match current(py) {
        Some(running) if running.collector().serves_invocations() => running,
        _ => return Ok(None),
    };
    // Whatever the context raises is ignored, even SystemExit: it is not the handler that reads it.
    let text = |name: &Bound<'_, PyString>| {
        let value = context?.getattr_opt(name).ok()??;
        (!value.is_none()).then(|| Some(value.str().ok()?.to_string_lossy().into_owned())).flatten()
    };
    let (id, arn) = (text(intern!(py, "aws_request_id")), text(intern!(py, "invoked_function_arn")));
    let (version, memory) = (text(intern!(py, "function_version")), text(intern!(py, "memory_limit_in_mb")));
    let key = id.zip(context.map(Context::of));
    if !invocations.guard.begin(key, |last| context.is_some_and(|context| last.is(context))) {
        return Ok(None);
    }
    let invoked = || InvocationFacts { start: invocations.guard.start(since_epoch()), arn, version, memory };
    if !running.collector().begin_invocation(invoked) {
        invocations.guard.end();
        return Ok(None);
    }
    Ok(Some(Invocation { running, process }))
}

impl Invocation {
    fn send(self, py: Python<'_>) -> PyResult<()> {
        // Also if sending fails.
        self.process.invocations.guard.end();
        let collector = self.running.collector();
        let answer = || self.running.interpreter().answer(py, Purpose::Flush);
        let lines = if may_wait(&self.running.settings().destination.address) {
            let answer = answer()?;
            py.detach(|| collector.end_invocation(|| Some(answer)))
        } else {
            // To attach again could take a while, if another thread of the program computes.
            let mut interrupted = Ok(());
            let lines = collector.end_invocation(|| answer().map_err(|error| interrupted = Err(error)).ok());
            interrupted?;
            lines
        };
        log::write_lines(py, &lines)?;
        // The handler may have called enable() with an address.
        if let Some(running) = current(py) {
            warn_unsent(py, self.process, &running)?;
        }
        log::from_program(py, &self.running.collector().take_messages())
    }
}

/// Whether sending to this address may wait: a stream does while its receiver is slow; a datagram is lost instead.
fn may_wait(address: &Address) -> bool {
    matches!(address, Address::Unix(_, UnixKind::Either | UnixKind::Stream))
}
