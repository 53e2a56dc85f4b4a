//! What a handler is wrapped in: each of its invocations sends its metrics when it ends.

#![allow(clippy::doc_markdown, reason = "the functions' comments are their docstrings in Python")]

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyWeakrefMethods, PyWeakrefReference};
use pyo3::{IntoPyObjectExt, intern};

use super::snapstart::renew;
use super::{enable_in_lambda, wall, warn_unsent, write};
use crate::emitter::address::{Address, UnixKind};
use crate::identity::function::InvocationFacts;
use crate::python::interpreter::Purpose;
use crate::python::log;
use crate::python::process::Process;
use crate::python::running::{Running, current, shielded};

/// Where a wrapper keeps what it wraps.
const WRAPPED: &str = "__wrapped__";

/// Wrap the handler of a function in AWS Lambda: each invocation sends its metrics when it ends.
///
/// However often a handler is wrapped, an invocation sends them once. Result, exception and stack are the handler's
/// own. Outside AWS Lambda the handler is only called.
///
/// Args:
///     handler: A function of an event and a context, or anything else that can be called so.
///
/// Returns:
///     What is to be called in its place; it has the handler's name, attributes and __wrapped__.
///
/// Raises:
///     TypeError: The handler cannot be called.
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

// A handler whose invocations send their metrics. Native, so that no frame of ours is in the stack of an exception, and
// otherwise the handler itself, whatever is asked of it: it has no docstring, no attributes and, as far as anybody looks at
// names, no type of its own. (ddtrace wraps the code of a handler, to notice timeouts, if the type is called so.)
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

    // In a class it is bound as the handler is.
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
            // Called, it finds us.
            let method = py.import(intern!(py, "types"))?.getattr(intern!(py, "MethodType"))?;
            return method.call1((slf, instance)).map(Bound::unbind);
        }
        Ok(Bound::new(py, Self { handler: bound.unbind() })?.into_any().unbind())
    }

    // Whoever copies or stores it has its name, as with a function.
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

    // What is wrapped is the handler, whatever functools.wraps() says: in the handler itself it would be a circle.
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

    // Who asks whether it is a function, or a coroutine's, is told what the handler is.
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

/// A handler is given the event and the context, after what it is bound to.
fn context<'py>(
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> Option<Bound<'py, PyAny>> {
    let named =
        keywords.and_then(|keywords| keywords.get_item(intern!(keywords.py(), "context")).ok()).flatten();
    let last = arguments.len().checked_sub(1).filter(|last| *last > 0);
    named.or_else(|| last.and_then(|last| arguments.get_item(last).ok())).filter(|context| !context.is_none())
}

/// The context of an invocation, to know it again: what belongs to an invocation ends with it.
pub enum Context {
    /// By a weak reference.
    Weak(Py<PyWeakrefReference>),
    /// Itself, as it takes none.
    Strong(Py<PyAny>),
}

impl Context {
    fn of(context: &Bound<'_, PyAny>) -> Self {
        PyWeakrefReference::new(context).map_or_else(
            |_| Self::Strong(context.clone().unbind()),
            |reference| Self::Weak(reference.unbind()),
        )
    }

    fn is(&self, context: &Bound<'_, PyAny>) -> bool {
        match self {
            Self::Weak(reference) => {
                reference.bind(context.py()).upgrade().is_some_and(|last| last.is(context))
            }
            Self::Strong(last) => context.is(last),
        }
    }
}

/// An invocation under way, and what collects in it.
struct Invocation {
    running: Arc<Running>,
    process: &'static Process,
}

/// Takes the baselines, last of all; `None` if the call is within an invocation that is served already, or each is no
/// occasion.
fn begin(py: Python<'_>, context: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Invocation>> {
    let Some(process) = Process::known() else { return Ok(None) };
    let of = &process.invocations;
    if of.is_restored_unseen.swap(false, SeqCst) {
        renew(py, process)?;
    }
    let running = match current(py) {
        Some(running) if running.collector().serves_invocations() => running,
        _ => return Ok(None),
    };
    // Whatever it raises, SystemExit as well, the handler need not ask for.
    let said = |name: &Bound<'_, PyString>| {
        let value = context?.getattr_opt(name).ok()??;
        (!value.is_none()).then(|| Some(value.str().ok()?.to_string_lossy().into_owned())).flatten()
    };
    let (id, arn) = (said(intern!(py, "aws_request_id")), said(intern!(py, "invoked_function_arn")));
    let (version, memory) = (said(intern!(py, "function_version")), said(intern!(py, "memory_limit_in_mb")));
    let key = id.zip(context.map(Context::of));
    if !of.guard.begin(key, |last| context.is_some_and(|context| last.is(context))) {
        return Ok(None);
    }
    let invoked = || InvocationFacts { start: of.guard.start(wall()), arn, version, memory };
    if !running.collector().begin_invocation(invoked) {
        of.guard.end();
        return Ok(None);
    }
    Ok(Some(Invocation { running, process }))
}

impl Invocation {
    fn send(self, py: Python<'_>) -> PyResult<()> {
        // Whatever comes of it, it is over.
        self.process.invocations.guard.end();
        let collector = self.running.collector();
        let answer = || self.running.interpreter().answer(py, Purpose::Flush);
        let lines = if may_be_waited_for(&self.running.settings().destination.address) {
            let answer = answer()?;
            py.detach(|| collector.end_invocation(|| Some(answer)))
        } else {
            // Who lets go of the interpreter waits for it, while a thread of the program computes.
            let mut interrupted = Ok(());
            let lines = collector.end_invocation(|| answer().map_err(|error| interrupted = Err(error)).ok());
            interrupted?;
            lines
        };
        write(py, &lines)?;
        // The handler itself may have given an address.
        if let Some(running) = current(py) {
            warn_unsent(py, self.process, &running)?;
        }
        log::from_program(py, &self.running.collector().take_messages())
    }
}

/// A stream is, while its reader is slow; a datagram that is not taken at once is lost.
fn may_be_waited_for(address: &Address) -> bool {
    matches!(address, Address::Unix(_, UnixKind::Either | UnixKind::Stream))
}
