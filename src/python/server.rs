//! Classes for `runtime_metrics.gunicorn`: the master, a worker's requests, and each request.

#![expect(clippy::doc_markdown, reason = "The comments on Python's items are their docstrings.")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::hooks;
use super::process::Process;
use super::running::{self, shielded};
use crate::clock::{Clock, since_epoch};
use crate::snapshot::server::Record;
use crate::sources::gunicorn::master::Master;
use crate::sources::gunicorn::requests::{self, Outcome, RequestCounters, queue_time};

/// A bug of ours raises an exception, which the hooks of `runtime_metrics.gunicorn` log.
fn guarded<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    shielded(Err(PyRuntimeError::new_err("a bug in runtime_metrics")), work)
}

/// Make this process Gunicorn's master, before it forks its workers.
///
/// Args:
///     read_state: Called at each flush, in any thread, to read the state of Gunicorn's own objects. Returns a dict
///         with any of these keys: workers, a list of pids; replaced, whether another master serves in its place;
///         backlog, how many connections wait to be accepted.
#[pyfunction]
pub fn become_gunicorn_master(py: Python<'_>, read_state: Py<PyAny>) -> PyResult<GunicornMaster> {
    guarded(|| {
        let process = hooks::install(py)?;
        process.gunicorn_state.set(read_state);
        Ok(GunicornMaster { process, master: process.gunicorn.become_master(Path::new("/")) })
    })
}

/// Gunicorn's master. The workers that it forks inherit this object.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct GunicornMaster {
    process: &'static Process,
    master: Arc<Master>,
}

#[pymethods]
impl GunicornMaster {
    /// Set the application's name, and whether workers count as working by their CPU time alone.
    fn configure(&self, py: Python<'_>, app: &str, by_cpu: bool) -> PyResult<()> {
        guarded(|| {
            let by_setting = running::current(py).is_some_and(|running| running.settings().workers_by_cpu);
            self.master.configure(app, by_cpu || by_setting);
            Ok(())
        })
    }

    /// Make this process a worker, in the child that the master has just forked.
    ///
    /// Args:
    ///     read_state: As for the master, with the key connections: how many the worker holds.
    ///     counts: Whether requests are counted here; otherwise Gunicorn counts them itself.
    ///     capacity: How many requests the worker can serve at once, if that is limited.
    #[pyo3(signature = (read_state, counts, capacity=None))]
    fn become_worker(
        &self,
        py: Python<'_>,
        read_state: Py<PyAny>,
        counts: bool,
        capacity: Option<u64>,
    ) -> PyResult<Requests> {
        guarded(|| {
            // A fork by C code has not been noticed yet.
            running::become_child(py);
            if let Some(running) = running::current(py) {
                running.ensure_running();
            }
            let (clock, pid) = (Clock::start(), std::process::id());
            let slot = self.master.slot(pid);
            let counters = Arc::new(RequestCounters::new(slot, counts, capacity, pid.into()));
            self.process.gunicorn.become_worker(Arc::clone(&counters), clock);
            self.process.gunicorn_state.set(read_state);
            Ok(Requests { counters, clock })
        })
    }

    /// Mark a worker as ended, in the master.
    fn release(&self, pid: u32) {
        self.master.release(pid);
    }

    /// Mark the master as about to exit, in the master.
    fn mark_ended(&self) {
        self.master.end();
    }

    /// Count a record on Gunicorn's logger.
    ///
    /// Args:
    ///     level: Its numeric level.
    ///     exception: Whether it carries an exception.
    fn count_record(&self, level: u32, exception: bool) {
        if let Some(record) = Record::of(level, exception) {
            self.process.gunicorn.record(record);
        }
    }
}

/// The requests of a worker.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct Requests {
    counters: Arc<RequestCounters>,
    clock: Clock,
}

#[pymethods]
impl Requests {
    /// Begin a request. It ends by a method of the returned object, at the latest when that is deleted.
    fn begin(&self) -> Request {
        let request = requests::Request::begin(Arc::clone(&self.counters), self.clock.now());
        Request { request, clock: self.clock }
    }

    /// Count a request that the server refused before it began.
    #[pyo3(signature = (status))]
    fn refuse(&self, status: Option<u16>) {
        self.counters.count(Outcome { duration: Duration::ZERO, status, queued: None });
    }
}

/// A request that is being served.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct Request {
    request: requests::Request,
    clock: Clock,
}

#[pymethods]
impl Request {
    /// Mark it as answered: what the worker does with it afterwards is not part of its duration.
    fn answer(&self) {
        self.request.answer(self.clock.now());
    }

    /// End it and count it; of several calls, only the first does.
    ///
    /// Args:
    ///     status: The HTTP status of its response; None if there was none.
    ///     queued_since: The header X-Request-Start, if there is one.
    #[pyo3(signature = (status, queued_since=None))]
    fn end(&self, status: Option<u16>, queued_since: Option<&Bound<'_, PyAny>>) {
        let now = self.clock.now();
        self.request.end(now, status, self.queued(now, queued_since));
    }

    /// End it without a response. If the server then responds itself, call end(); otherwise it counts as a 500.
    ///
    /// Args:
    ///     queued_since: The header X-Request-Start, if there is one.
    #[pyo3(signature = (queued_since=None))]
    fn fail(&self, queued_since: Option<&Bound<'_, PyAny>>) {
        let now = self.clock.now();
        self.request.fail(now, self.queued(now, queued_since));
    }

    /// End it without counting it.
    fn leave(&self) {
        self.request.leave(self.clock.now());
    }
}

impl Request {
    /// How long it waited in front of the server. The program may pass anything as the header.
    fn queued(&self, now: Duration, since: Option<&Bound<'_, PyAny>>) -> Option<Duration> {
        let header: String = since?.extract().ok()?;
        queue_time(&header, since_epoch().saturating_sub(self.request.age(now)))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.leave();
    }
}
