//! Messages to the logger `runtime_metrics`. A log that fails is nobody's error but its own.

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::message::{Message, Severity};

/// Logs from a thread of the program, importing `logging` if there is something to worry about.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile, `KeyboardInterrupt` above all: it is not ours to keep.
pub fn from_program(py: Python<'_>, messages: &[Message]) -> PyResult<()> {
    let worth_importing = messages.iter().any(|message| message.severity >= Severity::Warning);
    if messages.is_empty() || !(worth_importing || loaded(py, "logging").is_some()) {
        return Ok(());
    }
    for message in messages {
        // An exception of a log handler would be raised in a program that called something else.
        unless_exception(py, log(py, message))?;
    }
    Ok(())
}

/// Passes on what is not a mere exception, such as `KeyboardInterrupt` and `SystemExit`.
pub fn unless_exception<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Logs from a native thread, if that leaves no trace in the program; gives back what it did not log.
///
/// `logging` asks `threading` for the current thread, which makes one up for a thread that is not Python's, and
/// which gevent and eventlet replace by theirs.
pub fn from_foreign_thread(py: Python<'_>, messages: Vec<Message>) -> Vec<Message> {
    let Some(threading) = loaded(py, "threading") else {
        return messages;
    };
    if loaded(py, "logging").is_none() || is_monkey_patched(py) {
        return messages;
    }
    let made_up = DummyThread::watch(&threading);
    // Signal handlers run on the main thread alone.
    drop(from_program(py, &messages));
    if let Ok(made_up) = made_up {
        made_up.forget();
    }
    Vec::new()
}

fn log(py: Python<'_>, message: &Message) -> PyResult<()> {
    let level = match message.severity {
        Severity::Debug => 10,
        Severity::Info => 20,
        Severity::Warning => 30,
    };
    let logging = py.import(intern!(py, "logging"))?;
    let logger = logging.call_method1(intern!(py, "getLogger"), ("runtime_metrics",))?;
    logger.call_method1(intern!(py, "log"), (level, "%s", &message.text)).map(drop)
}

/// A module that the program has imported.
pub fn loaded<'py>(py: Python<'py>, name: &str) -> Option<Bound<'py, PyAny>> {
    let modules = py.import(intern!(py, "sys")).ok()?.getattr(intern!(py, "modules")).ok()?;
    modules.cast::<PyDict>().ok()?.get_item(name).ok()?
}

fn is_monkey_patched(py: Python<'_>) -> bool {
    let asked = |module: &str, question: &str, of: &str| {
        let answer = loaded(py, module)?.call_method1(question, (of,)).ok()?;
        answer.is_truthy().ok()
    };
    asked("gevent.monkey", "is_module_patched", "threading").unwrap_or(false)
        || asked("eventlet.patcher", "is_monkey_patched", "thread").unwrap_or(false)
}

/// The entry that `threading` makes for a thread it does not know.
struct DummyThread<'py> {
    active: Bound<'py, PyDict>,
    ident: Bound<'py, PyAny>,
    was_there: bool,
}

impl<'py> DummyThread<'py> {
    fn watch(threading: &Bound<'py, PyAny>) -> PyResult<Self> {
        let active = threading.getattr("_active")?.cast_into::<PyDict>()?;
        let ident = threading.call_method0("get_ident")?;
        let was_there = active.contains(&ident)?;
        Ok(Self { active, ident, was_there })
    }

    fn forget(self) {
        if !self.was_there {
            // Absent where logging did not ask for the thread.
            drop(self.active.del_item(self.ident));
        }
    }
}
