//! The edge to AWS Lambda: what a handler is wrapped in, a program's own metrics, and what happens around a stored image.

#![allow(clippy::doc_markdown, reason = "the functions' comments are their docstrings in Python")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyString, PyTuple, PyType};

use super::interpreter::Look;
use super::log::{self, unless_exception};
use super::process::{self, Process};
use super::running::{self, Running, current, shielded};
use crate::config::Arguments;
use crate::distribution::{Distribution, Refusal};
use crate::invocation::{Invoked, Start};
use crate::message::Message;
use crate::variables::LAMBDA_FUNCTION_NAME;

/// How long our threads, where there are any, may take to end before the process is stored.
const PATIENCE: Duration = Duration::from_millis(500);

/// The invocations that this process serves, one after the other. No lock: a child process would have no thread to unlock it.
#[derive(Default)]
pub struct Invocations {
    /// Whether somebody has had metrics started for them.
    is_prepared: AtomicBool,
    /// Whether hooks around a stored image have been asked for.
    is_hooked: AtomicBool,
    /// There are none, so that the first invocation finds a process that was restored.
    is_restored_unseen: AtomicBool,
    /// When the environment was set up, in milliseconds since 1970.
    set_up: AtomicU64,
    has_served: AtomicBool,
    is_under_way: AtomicBool,
    /// The last that had an id. The same id with another context is another try of what has failed.
    last: ArcSwapOption<(String, Py<PyAny>)>,
    /// What has been said of refused values, in the order of [`Refusal::ALL`].
    told: [AtomicBool; Refusal::ALL.len()],
}

impl Invocations {
    /// Whether this is an invocation that nobody serves or has served, who is around this call or was before it.
    fn begin(&self, context: Option<&Bound<'_, PyAny>>, id: Option<String>) -> bool {
        if self.is_under_way.swap(true, SeqCst) {
            return false;
        }
        if let (Some(context), Some(id)) = (context, id) {
            let last = self.last.load();
            if last.as_ref().is_some_and(|last| last.0 == id && context.is(&last.1)) {
                self.end();
                return false;
            }
            self.last.store(Some(Arc::new((id, context.clone().unbind()))));
        }
        true
    }

    fn end(&self) {
        self.is_under_way.store(false, SeqCst);
    }

    fn start(&self, now: Duration) -> Start {
        let is_first = !self.has_served.swap(true, SeqCst);
        Start::after(is_first.then(|| now.saturating_sub(Duration::from_millis(self.set_up.load(SeqCst)))))
    }

    fn set_up(&self, now: Duration) {
        self.set_up.store(now.as_millis().try_into().unwrap_or(u64::MAX), SeqCst);
        self.has_served.store(false, SeqCst);
    }
}

/// The time of the wall, since 1970.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

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
    if !of.begin(context, id) {
        return Ok(None);
    }
    let invoked = || Invoked { start: of.start(wall()), arn, version, memory };
    if !running.collector().begin_invocation(invoked) {
        of.end();
        return Ok(None);
    }
    Ok(Some(Invocation { running, of }))
}

impl Invocation<'_> {
    fn send(self, py: Python<'_>) -> PyResult<()> {
        // Whatever comes of it, it is over.
        self.of.end();
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

/// Writes lines to the log at once, so that what others print does not cut them.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
pub fn write(py: Python<'_>, lines: &str) -> PyResult<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let written = || {
        let stdout = py.import(intern!(py, "sys"))?.getattr(intern!(py, "stdout"))?;
        stdout.call_method1(intern!(py, "write"), (lines,))?;
        stdout.call_method0(intern!(py, "flush"))
    };
    unless_exception(py, written()).map(drop)
}

/// Send one value of a distribution now, through the socket of the runtime metrics.
///
/// In AWS Lambda with neither the Datadog Lambda Extension nor an address it goes to the log if DD_FLUSH_TO_LOG is
/// true, else nowhere. Nothing is raised on account of a wrong value; the first of each kind is a warning.
///
/// Args:
///     metric_name: The name of the metric.
///     value: The value.
///     timestamp: When it was so: seconds since 1970 or a datetime, at most 4 hours ago. Now by default.
///     tags: Its tags: "key:value" strings.
#[pyfunction]
#[pyo3(signature = (metric_name, value, timestamp=None, tags=None))]
pub fn lambda_metric(
    py: Python<'_>,
    metric_name: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
    timestamp: Option<&Bound<'_, PyAny>>,
    tags: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    shielded(Ok(()), || {
        enable_in_lambda(py)?;
        let process = Process::this(py)?;
        let now = wall();
        let distribution = match taken(py, (metric_name, value, timestamp, tags), now)? {
            Ok(distribution) => distribution,
            Err(refusal) => return tell(py, process, metric_name, refusal),
        };
        let Some(running) = current(py) else {
            return write(py, &running::distribute(py, process, &distribution, now.as_secs())?);
        };
        let lines = py.detach(|| running.collector().distribute(&distribution, now.as_secs()));
        write(py, &lines)?;
        log::from_program(py, &running.collector().take_messages())
    })
}

type Given<'a, 'py> = (
    &'a Bound<'py, PyAny>,
    &'a Bound<'py, PyAny>,
    Option<&'a Bound<'py, PyAny>>,
    Option<&'a Bound<'py, PyAny>>,
);

/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
fn taken(
    py: Python<'_>,
    (name, value, timestamp, tags): Given<'_, '_>,
    now: Duration,
) -> PyResult<Result<Distribution, Refusal>> {
    let Ok(name) = name.cast::<PyString>() else { return Ok(Err(Refusal::Name)) };
    let Some(value) = unless_exception(py, number(value))? else { return Ok(Err(Refusal::Value)) };
    let seconds = match timestamp {
        None => None,
        Some(timestamp) => match unless_exception(py, seconds(timestamp))? {
            None => return Ok(Err(Refusal::Timestamp)),
            seconds => seconds,
        },
    };
    let Some(tags) = unless_exception(py, super::arguments::tags(tags))? else {
        return Ok(Err(Refusal::Tags));
    };
    Ok(Distribution::new(&name.to_string_lossy(), value, seconds, tags.unwrap_or_default(), now))
}

/// As `float()` takes it, which is more than a number.
fn number(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    value.py().get_type::<PyFloat>().call1((value,))?.extract()
}

/// A datetime knows its seconds itself.
fn seconds(timestamp: &Bound<'_, PyAny>) -> PyResult<f64> {
    match timestamp.getattr_opt(intern!(timestamp.py(), "timestamp"))? {
        Some(method) => method.call0()?.extract(),
        None => number(timestamp),
    }
}

/// Says once of each kind that a value is not sent.
fn tell(py: Python<'_>, process: &Process, name: &Bound<'_, PyAny>, refusal: Refusal) -> PyResult<()> {
    let kind = Refusal::ALL.iter().position(|kind| *kind == refusal);
    if kind.is_none_or(|kind| process.invocations.told[kind].swap(true, SeqCst)) {
        return Ok(());
    }
    let shown: String =
        name.str().map(|name| name.to_string_lossy().chars().take(200).collect()).unwrap_or_default();
    let text = format!("the metric {shown:?} is not sent: {refusal}; others like it are not told of");
    log::from_program(py, &[Message::warning(text)])
}

/// Has metrics started in a function, once; a later explicit start may still give arguments.
fn enable_in_lambda(py: Python<'_>) -> PyResult<()> {
    let process = match Process::this(py) {
        Ok(process) => process,
        Err(error) if error.is_instance_of::<PyException>(py) => return Ok(()),
        Err(error) => return Err(error),
    };
    if process.invocations.is_prepared.swap(true, SeqCst) {
        return Ok(());
    }
    let os = py.import(intern!(py, "os"))?;
    let environment = process::environment(os.as_any(), &[&LAMBDA_FUNCTION_NAME])?;
    if environment.get(&LAMBDA_FUNCTION_NAME).is_none() || running::enabled() {
        return Ok(());
    }
    running::start(py, &Arguments::default(), false)
}

/// Notes when the environment was set up and, if the process will be stored, asks to be told. Called where metrics are
/// enabled in a function.
pub fn prepare(py: Python<'_>, process: &Process, is_stored: bool) {
    let of = &process.invocations;
    of.is_prepared.store(true, SeqCst);
    if of.set_up.load(SeqCst) == 0 {
        of.set_up(wall());
    }
    if is_stored && !of.is_hooked.swap(true, SeqCst) {
        let register = || -> PyResult<()> {
            let hooks = py.import("snapshot_restore_py")?;
            hooks
                .call_method1("register_before_snapshot", (pyo3::wrap_pyfunction!(before_snapshot, py)?,))?;
            hooks.call_method1("register_after_restore", (pyo3::wrap_pyfunction!(after_restore, py)?,))?;
            Ok(())
        };
        // The image is made after this, so whatever is invoked has been restored from it.
        of.is_restored_unseen.store(register().is_err(), SeqCst);
    }
}

/// Leaves nothing behind in the image that another process could share.
#[pyfunction]
fn before_snapshot(py: Python<'_>) {
    shielded((), || {
        if let Some(running) = current(py) {
            py.detach(|| running.collector().prepare_to_be_stored(PATIENCE));
        }
    });
}

/// Begins as a process of its own. An error here would end the function.
#[pyfunction]
fn after_restore(py: Python<'_>) {
    shielded((), || {
        if let Some(process) = Process::known() {
            drop(renew(py, process));
        }
    });
}

fn renew(py: Python<'_>, process: &Process) -> PyResult<()> {
    process.draw_runtime_id();
    let of = &process.invocations;
    of.last.store(None);
    of.end();
    of.set_up(wall());
    Running::restore(py, process)
}
