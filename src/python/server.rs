//! What the hooks of `runtime_metrics.gunicorn` tell the core: who is master and who is worker, and each request.

#![allow(clippy::doc_markdown, reason = "the classes' comments are their docstrings in Python")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::fork;
use super::process::Process;
use super::running::{self, shielded};
use crate::clock::Clock;
use crate::snapshot::server::Record;
use crate::sources::gunicorn::master::Master;
use crate::sources::gunicorn::objects::GunicornObjects;
use crate::sources::gunicorn::requests::{self, Outcome, RequestCounters, queue_time};

/// What asks Gunicorn's own objects.
#[derive(Default)]
pub struct Questions(ArcSwapOption<Py<PyAny>>);

impl Questions {
    /// What they say now, or how they have failed to; `None` if there is nobody to ask.
    ///
    /// # Errors
    ///
    /// What a signal handler of the program has raised meanwhile.
    pub fn ask(&self, py: Python<'_>) -> PyResult<Option<Result<GunicornObjects, String>>> {
        let Some(question) = self.0.load_full() else { return Ok(None) };
        match question.call0(py).and_then(|answer| objects(answer.bind(py).cast::<PyDict>()?)) {
            Ok(objects) => Ok(Some(Ok(objects))),
            Err(error) if error.is_instance_of::<PyException>(py) => Ok(Some(Err(error.to_string()))),
            Err(error) => Err(error),
        }
    }

    /// Asks this from now on.
    fn set(&self, question: Py<PyAny>) {
        self.0.store(Some(Arc::new(question)));
    }

    /// In a child process: what knew its parent knows nothing of it.
    pub fn forget(&self) {
        std::mem::forget(self.0.swap(None));
    }
}

fn objects(answer: &Bound<'_, PyDict>) -> PyResult<GunicornObjects> {
    let py = answer.py();
    let number = |key| answer.get_item(key)?.map_or(Ok(None), |value| value.extract::<Option<u64>>());
    let workers = answer.get_item(intern!(py, "workers"))?.map_or(Ok(Vec::new()), |pids| pids.extract())?;
    let is_replaced = answer.get_item(intern!(py, "replaced"))?;
    Ok(GunicornObjects {
        workers,
        is_replaced: is_replaced.map_or(Ok(false), |value| value.is_truthy())?,
        backlog: number(intern!(py, "backlog"))?,
        connections: number(intern!(py, "connections"))?,
    })
}

/// A defect of ours is an exception that the hooks keep to themselves.
fn guarded<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    shielded(Err(PyRuntimeError::new_err("a defect of runtime_metrics")), work)
}

/// Make this process Gunicorn's master, before it forks its workers.
///
/// Args:
///     question: Called at each flush, in any thread: what Gunicorn's own objects say. A dict with any of
///         these keys: workers, a list of pids; replaced, whether another master serves in its place; backlog.
#[pyfunction]
pub fn lead_gunicorn(py: Python<'_>, question: Py<PyAny>) -> PyResult<GunicornMaster> {
    guarded(|| {
        let process = Process::this(py)?;
        process.questions.set(question);
        Ok(GunicornMaster { process, master: process.gunicorn.become_master(Path::new("/")) })
    })
}

/// Gunicorn's master, which the workers it forks inherit.
#[pyclass(frozen, module = "runtime_metrics._core")]
pub struct GunicornMaster {
    process: &'static Process,
    master: Arc<Master>,
}

#[pymethods]
impl GunicornMaster {
    /// Name the application, and say whether only CPU time can tell what workers do.
    fn describe(&self, py: Python<'_>, app: &str, by_cpu: bool) -> PyResult<()> {
        guarded(|| {
            let is_set = running::current(py).is_some_and(|running| running.settings().workers_by_cpu);
            self.master.configure(app, by_cpu || is_set);
            Ok(())
        })
    }

    /// Make this process a worker, in the child that the master has just forked.
    ///
    /// Args:
    ///     question: As for the master, with the key connections.
    ///     counts: Whether requests are counted; otherwise Gunicorn does it.
    ///     capacity: How many requests it can serve at once, if that is limited.
    #[pyo3(signature = (question, counts, capacity=None))]
    fn work(
        &self,
        py: Python<'_>,
        question: Py<PyAny>,
        counts: bool,
        capacity: Option<u64>,
    ) -> PyResult<Requests> {
        guarded(|| {
            // A fork in C has not told yet.
            fork::become_child(py);
            let (clock, pid) = (Clock::start(), std::process::id());
            let slot = self.master.slot(pid);
            let counters = Arc::new(RequestCounters::new(slot, counts, capacity, pid.into()));
            self.process.gunicorn.become_worker(Arc::clone(&counters), clock);
            self.process.questions.set(question);
            Ok(Requests { counters, clock })
        })
    }

    /// Note in the master that a worker has ended.
    fn release(&self, pid: u32) {
        self.master.release(pid);
    }

    /// Note in the master that it is about to exit.
    fn end(&self) {
        self.master.end();
    }

    /// Count a record on Gunicorn's logger.
    ///
    /// Args:
    ///     level: Its level, as the module logging counts.
    ///     exception: Whether it tells of one.
    fn record(&self, level: u32, exception: bool) {
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
    /// Begin a request; it ends when what is returned is told so, or is gone.
    fn begin(&self) -> Request {
        let request = requests::Request::begin(Arc::clone(&self.counters), self.clock.now());
        Request { request, clock: self.clock }
    }

    /// Count a request that the server has refused before it began.
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
    /// Note that it has been answered: what the worker still does with it is no part of its duration.
    fn answer(&self) {
        self.request.answer(self.clock.now());
    }

    /// End it and count it. Of several calls the first counts.
    ///
    /// Args:
    ///     status: The HTTP status of its answer; None if there was none.
    ///     queued_since: The header X-Request-Start, if there is one.
    #[pyo3(signature = (status, queued_since=None))]
    fn end(&self, status: Option<u16>, queued_since: Option<&Bound<'_, PyAny>>) {
        let now = self.clock.now();
        self.request.end(now, status, self.queued(now, queued_since));
    }

    /// End it without an answer. If the server answers in its place, end() says how; otherwise it counts as 500.
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
    /// How long it had waited in front of the server. The program may have put anything in the place of the header.
    fn queued(&self, now: Duration, since: Option<&Bound<'_, PyAny>>) -> Option<Duration> {
        let header: String = since?.extract().ok()?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        queue_time(&header, wall.saturating_sub(self.request.age(now)))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.leave();
    }
}
