//! What is set up once per process: the runtime-id, the interpreter's name, the hook at exit.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use once_cell::race::OnceBox;
use pyo3::intern;
use pyo3::prelude::*;
use uuid::Uuid;

use crate::config::Warning;
use crate::identity::Runtime;
use crate::message::Message;
use crate::variables::Environment;

/// This process. Initialisation may race but never blocks, since a thread that waits for another with the GIL in its
/// hand waits for ever.
static PROCESS: OnceBox<Process> = OnceBox::new();

/// What is set up once per process.
pub struct Process {
    /// 32 hex digits.
    pub runtime_id: String,
    /// The interpreter it runs.
    pub runtime: Runtime,
    closed: AtomicBool,
    warned: Mutex<HashSet<&'static str>>,
}

impl Process {
    /// This process, set up at the first call.
    pub fn this(py: Python<'_>) -> PyResult<&'static Self> {
        PROCESS.get_or_try_init(|| {
            let at_exit = pyo3::wrap_pyfunction!(super::running::at_exit, py)?;
            py.import("atexit")?.call_method1("register", (at_exit,))?;
            Ok(Box::new(Self {
                runtime_id: Uuid::new_v4().simple().to_string(),
                runtime: runtime(py)?,
                closed: AtomicBool::new(false),
                warned: Mutex::default(),
            }))
        })
    }

    /// The interpreter is on its way out: nothing shall start any more.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Whether the interpreter is on its way out.
    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// The warnings as messages, each variable's only once in a process.
    pub fn messages(&self, warnings: Vec<Warning>) -> Vec<Message> {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let new = warnings
            .into_iter()
            .filter(|warning| warned.insert(warning.variable));
        new.map(|warning| Message::warning(warning.text)).collect()
    }
}

/// The environment as Python sees it: the C library's may be changed by another thread while it is read.
pub fn environment(py: Python<'_>) -> PyResult<Environment> {
    let environ = py.import(intern!(py, "os"))?.getattr(intern!(py, "environ"))?;
    let get = environ.getattr(intern!(py, "get"))?;
    Ok(Environment::collect(|name| {
        let value = get.call1((name,)).ok()?;
        // Bytes that are not UTF-8 are surrogates there.
        Some(
            value
                .cast::<pyo3::types::PyString>()
                .ok()?
                .to_string_lossy()
                .into_owned(),
        )
    }))
}

fn runtime(py: Python<'_>) -> PyResult<Runtime> {
    let sys = py.import(intern!(py, "sys"))?;
    let name: String = sys.getattr("implementation")?.getattr("name")?.extract()?;
    let version: String = sys.getattr("version")?.extract()?;
    let implementation = match name.as_str() {
        "cpython" => "CPython".to_owned(),
        "pypy" => "PyPy".to_owned(),
        _ => name,
    };
    Ok(Runtime {
        implementation,
        version: version.split_whitespace().next().unwrap_or_default().to_owned(),
        command: sys
            .getattr("orig_argv")
            .and_then(|argv| argv.extract())
            .unwrap_or_default(),
    })
}
