//! Messages to the logger `runtime_metrics`, and lines to standard output. What fails while logging is ignored.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::interrupt::ignore_exception;
use super::program::loaded;
use crate::message::{Message, Severity};

/// Logs from a thread of the program; imports `logging` if there is a warning.
pub fn from_program(py: Python<'_>, messages: &[Message]) -> PyResult<()> {
    let has_warning = messages.iter().any(|message| message.severity >= Severity::Warning);
    if messages.is_empty() || !(has_warning || loaded(py, "logging").is_some()) {
        return Ok(());
    }
    for message in messages {
        // The program called something else: an exception of its log handler does not concern that call.
        ignore_exception(py, log(py, message))?;
    }
    Ok(())
}

/// Logs from a native thread, if that leaves no trace in the program; returns what it did not log.
///
/// `logging` asks `threading` for the current thread. For a thread that Python did not start, `threading` makes an
/// entry, and gevent and eventlet replace that by one of theirs.
pub fn from_native_thread(py: Python<'_>, messages: Vec<Message>) -> Vec<Message> {
    let Some(threading) = loaded(py, "threading") else {
        return messages;
    };
    if loaded(py, "logging").is_none() || is_monkey_patched(py) {
        return messages;
    }
    let entry = DummyThread::expect(&threading);
    // Only the main thread runs signal handlers, so there is no interrupt to pass on.
    drop(from_program(py, &messages));
    if let Ok(entry) = entry {
        entry.remove();
    }
    Vec::new()
}

/// Writes lines to standard output, AWS Lambda's log, in one piece, so that they do not mix with other output.
pub fn write_lines(py: Python<'_>, lines: &str) -> PyResult<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let written = || {
        let stdout = py.import(intern!(py, "sys"))?.getattr(intern!(py, "stdout"))?;
        stdout.call_method1(intern!(py, "write"), (lines,))?;
        stdout.call_method0(intern!(py, "flush"))
    };
    ignore_exception(py, written()).map(drop)
}

fn log(py: Python<'_>, message: &Message) -> PyResult<()> {
    let level = match message.severity {
        Severity::Debug => 10,
        Severity::Info => 20,
        Severity::Warning => 30,
    };
    // PyString::new() would panic where there is no memory for it.
    let text = |text: &str| PyString::from_bytes(py, text.as_bytes());
    let logging = py.import(text("logging")?)?;
    let logger = logging.call_method1(text("getLogger")?, (text("runtime_metrics")?,))?;
    logger.call_method1(text("log")?, (level, text("%s")?, text(&message.text)?)).map(drop)
}

fn is_monkey_patched(py: Python<'_>) -> bool {
    let answers_yes = |module: &str, question: &str, about: &str| {
        let answer = loaded(py, module)?.call_method1(question, (about,)).ok()?;
        answer.is_truthy().ok()
    };
    answers_yes("gevent.monkey", "is_module_patched", "threading").unwrap_or(false)
        || answers_yes("eventlet.patcher", "is_monkey_patched", "thread").unwrap_or(false)
}

/// The entry that `threading` makes for the current thread, which Python did not start.
struct DummyThread<'py> {
    active: Bound<'py, PyDict>,
    ident: Bound<'py, PyAny>,
    existed: bool,
}

impl<'py> DummyThread<'py> {
    fn expect(threading: &Bound<'py, PyAny>) -> PyResult<Self> {
        let active = threading.getattr("_active")?.cast_into::<PyDict>()?;
        let ident = threading.call_method0("get_ident")?;
        let existed = active.contains(&ident)?;
        Ok(Self { active, ident, existed })
    }

    fn remove(self) {
        if !self.existed {
            // There is none if logging did not ask for the thread.
            drop(self.active.del_item(self.ident));
        }
    }
}
