//! What the interpreter reports of itself and of the program, by which processes are compared.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::environment;
use super::program::{hexversion, is_free_threaded};
use crate::clock::Clock;
use crate::python::interned::intern;
use crate::replaceable::Replaceable;
use crate::snapshot::Description;
use crate::sources::description::{allocator, debug, gc_implementation, gil, is_gil_reenabled, jit};

/// How old a description becomes that is sent once a minute.
const MAX_AGE: Duration = Duration::from_secs(55);

/// Servers and task queues by a module that they import and no one else has a reason to; the first that is imported
/// runs the program. Gunicorn may run it by a worker of uvicorn's.
const SERVERS: [(&str, &str); 6] = [
    ("uwsgi", "uwsgi"),
    ("gunicorn.arbiter", "gunicorn"),
    ("celery.apps.worker", "celery"),
    ("granian.server", "granian"),
    ("hypercorn.run", "hypercorn"),
    ("uvicorn.server", "uvicorn"),
];

/// Libraries of event loops. asyncio comes last, as most of the others import it.
const EVENT_LOOPS: [&str; 7] = ["uvloop", "winloop", "rloop", "zuvloop", "trio", "gevent", "asyncio"];

/// The identifiers that `sys.monitoring` has for tools.
const MONITORING_TOOLS: std::ops::Range<u8> = 0..6;

/// Reads the description once a minute.
pub struct DescriptionReader {
    clock: Clock,
    /// `sys.modules`.
    modules: Py<PyDict>,
    hexversion: u32,
    is_free_threaded: bool,
    is_function: bool,
    /// `_tracemalloc.is_tracing`, where there is such a module.
    is_tracing: Option<Py<PyAny>>,
    /// When it was read last, and what it was then. No lock guards it, as a child process could inherit that locked.
    last: Replaceable<(Duration, Description)>,
}

impl DescriptionReader {
    /// A reader that has read nothing yet; `is_function` is true in AWS Lambda. Where the description is not needed, no
    /// module is imported for it.
    pub fn new(
        py: Python<'_>,
        clock: Clock,
        modules: Py<PyDict>,
        is_function: bool,
        is_needed: bool,
    ) -> PyResult<Self> {
        Ok(Self {
            clock,
            modules,
            hexversion: hexversion(py)?,
            is_free_threaded: is_free_threaded(),
            is_function,
            is_tracing: is_needed.then(|| is_tracing(py).map(Bound::unbind).ok()).flatten(),
            last: Replaceable::empty(),
        })
    }

    /// Whether a free-threaded build has its GIL again; `None` on other builds.
    pub fn is_gil_reenabled(&self, py: Python<'_>) -> Option<bool> {
        if !self.is_free_threaded {
            return None;
        }
        let is_asked_for = sys(py).ok()?.getattr("flags").ok()?.getattr("gil").ok()?.extract::<u8>();
        Some(is_gil_reenabled(is_gil_enabled(py)?, is_asked_for.is_ok_and(|gil| gil == 1)))
    }

    /// The description, no older than a minute.
    pub fn read(&self, py: Python<'_>) -> Option<Description> {
        let (now, last) = (self.clock.now(), self.last.load());
        if let Some(last) = &last
            && now < last.0 + MAX_AGE
        {
            return Some(last.1);
        }
        let mut description = self.describe(py).ok()?;
        if let Some(last) = last {
            // The variable is read as it was before the program could change it.
            description.allocator = last.1.allocator;
        }
        self.last.store(Some(Arc::new((now, description))));
        Some(description)
    }

    fn describe(&self, py: Python<'_>) -> PyResult<Description> {
        let gc = py.import(intern!(py, "gc"))?;
        let is_enabled: bool = gc.call_method0(intern!(py, "isenabled"))?.extract()?;
        let flags = sys(py)?.getattr("flags")?;
        let reads_environment = !flags.getattr("ignore_environment")?.is_truthy()?;
        let variable = |name| if reads_environment { environment::variable(py, name) } else { None };
        let servers = || SERVERS.iter().find(|(module, _)| self.is_imported(py, module));
        let event_loops = || EVENT_LOOPS.iter().find(|module| self.is_imported(py, module));
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
        Ok(Description {
            gil: gil(is_gil_enabled(py).unwrap_or(true), self.is_gil_reenabled(py)),
            jit: jit(is_jit_enabled(py), self.hexversion),
            gc_implementation: gc_implementation(self.is_free_threaded, self.hexversion),
            gc: if is_enabled { "enabled" } else { "disabled" },
            allocator: allocator(&variable("PYTHONMALLOC").unwrap_or_default(), self.is_free_threaded),
            event_loop: event_loops().copied().unwrap_or("none"),
            server: match servers() {
                _ if self.is_function => "lambda",
                Some((_, server)) => server,
                None => "other",
            },
            debug: debug([
                ("tracemalloc", self.is_tracing_memory(py)),
                ("settrace", sets_trace(py) || self.answers(py, "threading", "gettrace")),
                ("monitoring", is_monitored(py)),
                ("asyncio", is_set("PYTHONASYNCIODEBUG")),
                ("devmode", flags.getattr("dev_mode")?.is_truthy()?),
            ]),
        })
    }

    fn is_tracing_memory(&self, py: Python<'_>) -> bool {
        let answer = self.is_tracing.as_ref().and_then(|is_tracing| is_tracing.bind(py).call0().ok());
        answer.is_some_and(|answer| answer.is_truthy().unwrap_or(false))
    }

    fn module<'py>(&self, py: Python<'py>, name: &str) -> Option<Bound<'py, PyAny>> {
        let name = PyString::from_bytes(py, name.as_bytes()).ok()?;
        self.modules.bind(py).get_item(name).ok()?.filter(|module| !module.is_none())
    }

    fn is_imported(&self, py: Python<'_>, name: &str) -> bool {
        self.module(py, name).is_some()
    }

    /// Whether a function of a module that is imported returns something true.
    fn answers(&self, py: Python<'_>, module: &str, function: &str) -> bool {
        let answer = self.module(py, module).map(|module| module.call_method0(function));
        answer.is_some_and(|answer| answer.is_ok_and(|answer| answer.is_truthy().unwrap_or(false)))
    }
}

fn sys(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import(intern!(py, "sys"))
}

/// `None` up to 3.12, where it is always.
fn is_gil_enabled(py: Python<'_>) -> Option<bool> {
    sys(py).ok()?.call_method0("_is_gil_enabled").ok()?.extract().ok()
}

/// `None` up to 3.13.
fn is_jit_enabled(py: Python<'_>) -> Option<bool> {
    sys(py).ok()?.getattr("_jit").ok()?.call_method0("is_enabled").ok()?.extract().ok()
}

/// What the module `tracemalloc` asks, which need not be imported: `-X tracemalloc` starts it without.
fn is_tracing(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("_tracemalloc")?.getattr("is_tracing")
}

/// Whether this thread has a trace function, which is one of the program where it has called us.
fn sets_trace(py: Python<'_>) -> bool {
    sys(py).and_then(|sys| sys.call_method0("gettrace")).is_ok_and(|trace| !trace.is_none())
}

/// Whether a tool uses `sys.monitoring`, which there is from 3.12 on.
fn is_monitored(py: Python<'_>) -> bool {
    let Ok(monitoring) = sys(py).and_then(|sys| sys.getattr("monitoring")) else { return false };
    MONITORING_TOOLS
        .into_iter()
        .any(|tool| monitoring.call_method1("get_tool", (tool,)).is_ok_and(|name| !name.is_none()))
}
