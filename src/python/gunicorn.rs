//! What the hooks of `runtime_metrics.gunicorn` tell the core: who is master and who is worker, and each request.

#![allow(clippy::doc_markdown, reason = "the classes' comments are their docstrings in Python")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::log::unless_exception;
use super::process::Process;
use super::{fork, running};
use crate::clock::Clock;
use crate::snapshot::{Record, Server};
use crate::sources::requests::{Outcome, RequestCounters, waited};
use crate::sources::workers::Master;

/// What asks Gunicorn's own objects.
#[derive(Default)]
pub struct Questions(ArcSwapOption<Py<PyAny>>);

impl Questions {
    /// What they say now; `None` if there is nobody to ask.
    ///
    /// # Errors
    ///
    /// What a signal handler of the program has raised meanwhile.
    pub fn ask(&self, py: Python<'_>) -> PyResult<Option<Server>> {
        let Some(question) = self.0.load_full() else { return Ok(None) };
        unless_exception(py, question.call0(py).and_then(|answer| server(&answer.bind(py).cast()?.clone())))
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

fn server(answer: &Bound<'_, PyDict>) -> PyResult<Server> {
    let py = answer.py();
    let number = |key| answer.get_item(key)?.map_or(Ok(None), |value| value.extract::<Option<u64>>());
    let workers = answer.get_item(intern!(py, "workers"))?.map_or(Ok(Vec::new()), |pids| pids.extract())?;
    Ok(Server {
        workers,
        is_succeeded: answer
            .get_item(intern!(py, "succeeded"))?
            .map_or(Ok(false), |value| value.is_truthy())?,
        backlog: number(intern!(py, "backlog"))?,
        connections: number(intern!(py, "connections"))?,
    })
}

/// Make this process Gunicorn's master, before it forks its workers.
///
/// Args:
///     question: Called at each flush, in any thread: what Gunicorn's own objects say. None, or a dict with any of
///         these keys: workers, a list of pids; succeeded, whether another master takes its place; backlog.
#[pyfunction]
pub fn lead_gunicorn(py: Python<'_>, question: Py<PyAny>) -> PyResult<Part> {
    let process = Process::this(py)?;
    process.questions.set(question);
    Ok(Part { process, master: process.gunicorn.lead() })
}

/// The part that this process plays in Gunicorn, and the requests it serves.
///
/// A master has it before it forks its workers, which inherit it.
#[pyclass(frozen, name = "Gunicorn", module = "runtime_metrics._core")]
pub struct Part {
    process: &'static Process,
    master: Arc<Master>,
}

#[pymethods]
impl Part {
    /// Name the application, and say whether only CPU time can tell what workers do.
    fn describe(&self, py: Python<'_>, app: &str, by_cpu: bool) {
        let is_set = running::current(py).is_some_and(|running| running.settings().workers_by_cpu);
        self.master.describe(app, by_cpu || is_set);
    }

    /// Make this process a worker, in the child that the master has just forked.
    ///
    /// Args:
    ///     question: As for the master, with the key connections.
    ///     counts: Whether requests are counted; otherwise Gunicorn does it.
    ///     capacity: How many requests it can serve at once, if that is limited.
    #[pyo3(signature = (question, counts, capacity=None))]
    fn work(&self, py: Python<'_>, question: Py<PyAny>, counts: bool, capacity: Option<u64>) -> Requests {
        // A fork in C has not told yet.
        fork::mend(py);
        let clock = Clock::start();
        let place = self.master.place(std::process::id());
        let counters = Arc::new(RequestCounters::new(place, counts, capacity));
        self.process.gunicorn.work(Arc::clone(&counters), clock);
        self.process.questions.set(question);
        Requests { counters, clock }
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
        let record = match level {
            50.. => Record::Critical,
            40.. if exception => Record::Exception,
            40.. => Record::Error,
            30.. => Record::Warning,
            _ => return,
        };
        self.process.gunicorn.record(record);
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
        let began = self.clock.now();
        self.counters.begin(began);
        Request {
            counters: Arc::clone(&self.counters),
            clock: self.clock,
            began,
            state: Mutex::new(State::Open),
        }
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
    counters: Arc<RequestCounters>,
    clock: Clock,
    began: Duration,
    state: Mutex<State>,
}

enum State {
    Open,
    /// It has ended; with which status is not known yet.
    Failed(Outcome),
    Ended,
}

#[pymethods]
impl Request {
    /// End it and count it. Of several calls the first counts.
    ///
    /// Args:
    ///     status: The HTTP status of its answer; None if there was none.
    ///     queued_since: The header X-Request-Start, if there is one.
    #[pyo3(signature = (status, queued_since=None))]
    fn end(&self, status: Option<u16>, queued_since: Option<&str>) {
        let now = self.clock.now();
        match self.turn(State::Ended) {
            State::Open => {
                self.counters.end(now);
                self.counters.count(self.outcome(now, status, queued_since));
            }
            State::Failed(outcome) => self.counters.count(Outcome { status, ..outcome }),
            State::Ended => {}
        }
    }

    /// End it without an answer. If the server answers in its place, end() says how; otherwise it counts as 500.
    ///
    /// Args:
    ///     queued_since: The header X-Request-Start, if there is one.
    #[pyo3(signature = (queued_since=None))]
    fn fail(&self, queued_since: Option<&str>) {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Open) {
            *state = State::Failed(self.outcome(now, None, queued_since));
            self.counters.end(now);
        }
    }

    /// End it without counting it.
    fn leave(&self) {
        if matches!(self.turn(State::Ended), State::Open) {
            self.counters.end(self.clock.now());
        }
    }
}

impl Request {
    fn outcome(&self, now: Duration, status: Option<u16>, queued_since: Option<&str>) -> Outcome {
        let duration = now.saturating_sub(self.began);
        let queued = queued_since.and_then(|header| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            waited(header, now.saturating_sub(duration))
        });
        Outcome { duration, status, queued }
    }

    fn turn(&self, next: State) -> State {
        std::mem::replace(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), next)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if matches!(*self.state.get_mut().unwrap_or_else(PoisonError::into_inner), State::Failed(_)) {
            self.end(Some(500), None);
        }
        self.leave();
    }
}
