//! What a handler is wrapped in: each of its invocations sends its metrics when it ends.

#![allow(clippy::doc_markdown, reason = "the functions' comments are their docstrings in Python")]

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::image::renew;
use super::{Invocations, enable_in_lambda, wall, write};
use crate::invocation::Invoked;
use crate::python::interpreter::Look;
use crate::python::log::{self, unless_exception};
use crate::python::process::Process;
use crate::python::running::{Running, current, shielded};

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
        let context = arguments.get_item(1).ok().filter(|context| !context.is_none());
        let invocation = shielded(Ok(None), || begin(py, context.as_ref()))?;
        let result = self.handler.call(py, arguments, keywords);
        let Some(invocation) = invocation else { return result };
        let ended = shielded(Ok(()), || invocation.send(py));
        result.and_then(|result| ended.map(|()| result))
    }

    // A method of a class is a handler, too.
    fn __get__(
        slf: Bound<'_, Self>,
        instance: &Bound<'_, PyAny>,
        _owner: Option<&Bound<'_, PyType>>,
    ) -> PyResult<Py<PyAny>> {
        if instance.is_none() {
            return Ok(slf.into_any().unbind());
        }
        let method = slf.py().import("types")?.getattr("MethodType")?;
        method.call1((slf, instance)).map(Bound::unbind)
    }

    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        self.handler.bind(py).getattr(name)
    }

    fn __setattr__(&self, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.handler.bind(name.py()).setattr(name, value)
    }

    fn __delattr__(&self, name: &Bound<'_, PyString>) -> PyResult<()> {
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

/// An invocation under way, and what collects in it.
struct Invocation<'a> {
    running: Arc<Running>,
    of: &'a Invocations,
}

/// Takes the baselines, last of all; `None` if the call is within an invocation that is served already, or each is no
/// occasion.
fn begin<'a>(py: Python<'_>, context: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Invocation<'a>>> {
    let Some(process) = Process::known() else { return Ok(None) };
    let of = &process.invocations;
    if of.is_restored_unseen.swap(false, SeqCst) {
        renew(py, process)?;
    }
    let running = match current(py) {
        Some(running) if running.collector().serves_invocations() => running,
        _ => return Ok(None),
    };
    let said = |name: &Bound<'_, PyString>| -> PyResult<Option<String>> {
        let Some(context) = context else { return Ok(None) };
        let value = unless_exception(py, context.getattr_opt(name))?.flatten();
        Ok(value
            .filter(|value| !value.is_none())
            .and_then(|value| Some(value.str().ok()?.to_string_lossy().into_owned())))
    };
    let (id, arn) = (said(intern!(py, "aws_request_id"))?, said(intern!(py, "invoked_function_arn"))?);
    let (version, memory) =
        (said(intern!(py, "function_version"))?, said(intern!(py, "memory_limit_in_mb"))?);
    let key = id.zip(context.map(|context| context.clone().unbind()));
    if !of.guard.begin(key, |last| context.is_some_and(|context| context.is(last))) {
        return Ok(None);
    }
    let now = wall();
    let invoked = Invoked { start: of.guard.start(now), arn, version, memory };
    if !running.collector().begin_invocation(now.as_secs(), invoked) {
        of.guard.end();
        return Ok(None);
    }
    Ok(Some(Invocation { running, of }))
}

impl Invocation<'_> {
    fn send(self, py: Python<'_>) -> PyResult<()> {
        // Whatever comes of it, it is over.
        self.of.guard.end();
        let mut interrupted = Ok(());
        let lines = self.running.collector().end_invocation(wall().as_secs(), || {
            let facts = self.running.interpreter().facts(py, Look::ToSend);
            facts.map_err(|error| interrupted = Err(error)).ok()
        });
        interrupted?;
        write(py, &lines)?;
        log::from_program(py, &self.running.collector().take_messages())
    }
}
