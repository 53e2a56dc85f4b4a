//! Messages to the logger `runtime_metrics`, and lines to standard output.
//!
//! A warning that `logging` does not take, or not now, goes to standard error: the program may never import `logging`,
//! one of its handlers may fail, a lock of its handlers may be one that only its own threads can wait for, or memory
//! may be short.

use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use once_cell::race::OnceBox;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::interrupt::ignore_exception;
use crate::memory;
use crate::message::{Message, Severity};
use crate::python::interned::intern;
use crate::stderr::StandardError;

static LOG: OnceBox<Log> = OnceBox::new();

/// Where messages go.
struct Log {
    /// The module `runtime_metrics.messages`. A program may remove it from `sys.modules`.
    functions: Py<PyModule>,
    stderr: StandardError,
    /// Whether messages go to standard error as well.
    is_verbose: AtomicBool,
}

/// Finds where messages go, and sends panics there. Until then there are none.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    let log = || {
        let stderr = py.import(intern!(py, "sys"))?.getattr_opt(intern!(py, "__stderr__"))?;
        Ok::<_, PyErr>(Box::new(Log {
            functions: py.import("runtime_metrics.messages")?.unbind(),
            stderr: StandardError::at_start(stderr.is_some_and(|stderr| !stderr.is_none())),
            is_verbose: AtomicBool::new(false),
        }))
    };
    LOG.get_or_try_init(log)?;
    panic::set_hook(Box::new(show_panic));
    Ok(())
}

/// A panic, which is a bug of ours, is one line without a backtrace: to make one takes a lock and much memory. Where
/// memory is short it is no bug.
fn show_panic(panic: &PanicHookInfo<'_>) {
    if memory::is_available() {
        drop(without_interpreter(vec![Message::warning(panic.to_string())]));
    }
}

/// Whether messages from INFO on go to standard error as well.
pub fn set_verbose(is_verbose: bool) {
    if let Some(log) = LOG.get() {
        log.is_verbose.store(is_verbose, SeqCst);
    }
}

/// Logs from a thread of the program.
pub fn from_program(py: Python<'_>, messages: &[Message]) -> PyResult<()> {
    let Some(log) = LOG.get() else { return Ok(()) };
    for message in messages {
        // The program called something else: an exception of its log handler does not concern that call.
        let logged =
            memory::is_available() && ignore_exception(py, log.log(py, message, false))?.unwrap_or(false);
        log.show(message, logged);
    }
    Ok(())
}

/// Logs from a native thread, and leaves no trace in the program; returns what reached no one.
pub fn from_native_thread(py: Python<'_>, mut messages: Vec<Message>) -> Vec<Message> {
    let Some(log) = LOG.get() else { return messages };
    messages.retain(|message| {
        // Only the main thread runs signal handlers, so there is no interrupt to pass on.
        let logged = log.log(py, message, true).unwrap_or(false);
        !(log.show(message, logged) || logged)
    });
    messages
}

/// Writes warnings to standard error as the interpreter exits: by then the program may have closed its log.
pub fn at_exit(py: Python<'_>, messages: &[Message]) {
    let Some(log) = LOG.get() else { return };
    for message in messages {
        let silenced = || {
            let silenced = log.functions.bind(py).call_method1("is_silenced", (level(message.severity),));
            silenced.and_then(|silenced| silenced.extract())
        };
        log.show(message, memory::is_available() && silenced().unwrap_or(false));
    }
}

/// Writes warnings to standard error, without the interpreter; returns what could not be written.
pub fn without_interpreter(mut messages: Vec<Message>) -> Vec<Message> {
    let Some(log) = LOG.get() else { return messages };
    messages.retain(|message| !log.show(message, false));
    messages
}

/// The one of these names that this one is probably meant to be.
pub fn nearest(py: Python<'_>, name: &str, names: Vec<&str>) -> Option<String> {
    LOG.get()?.functions.bind(py).call_method1("nearest", (name, names)).ok()?.extract().ok()?
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

impl Log {
    /// Logs a message; whether that was possible, or is not wanted.
    fn log(&self, py: Python<'_>, message: &Message, is_native: bool) -> PyResult<bool> {
        let how = PyDict::new(py);
        how.set_item("native", is_native)?;
        how.set_item("verbose", self.is_verbose.load(SeqCst))?;
        let arguments = (level(message.severity), message.named());
        self.functions.bind(py).getattr("log")?.call(arguments, Some(&how))?.extract()
    }

    /// Writes a message to standard error if that is asked for, or if it is a warning that was not logged; whether it
    /// was written.
    fn show(&self, message: &Message, is_logged: bool) -> bool {
        let is_asked_for = message.severity >= Severity::Info && self.is_verbose.load(SeqCst);
        let is_lost = message.severity >= Severity::Warning && !is_logged;
        (is_asked_for || is_lost) && self.stderr.write(message)
    }
}

/// Its level in `logging`.
fn level(severity: Severity) -> u8 {
    match severity {
        Severity::Debug => 10,
        Severity::Info => 20,
        Severity::Warning => 30,
    }
}
