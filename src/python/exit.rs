//! The last flush, at the exit of the interpreter and of the processes of pools.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::log;
use super::process::Process;
use super::program::loaded;
use super::rq;
use super::running::{self, shielded};
use crate::collector::Collector;

/// How long the interpreter's exit is held up at most.
const EXIT_TIMEOUT: Duration = Duration::from_millis(100);

/// Sends a last time; nothing of ours enters the interpreter afterwards.
#[pyfunction]
pub fn at_exit(py: Python<'_>) {
    shielded((), || {
        if let Some(collector) = end(py) {
            log::at_exit(py, &collector.take_messages());
        }
    });
}

/// The same for the processes of pools, of which there may be many: their parent logs for them. Celery says how the
/// process ends.
#[pyfunction]
#[pyo3(signature = (**_details))]
fn at_child_exit(py: Python<'_>, _details: Option<&Bound<'_, PyDict>>) {
    shielded((), || drop(end(py)));
}

fn end(py: Python<'_>) -> Option<Arc<Collector>> {
    if let Some(process) = Process::known() {
        process.begin_exit();
    }
    running::stop(py, EXIT_TIMEOUT, true).ok().flatten()
}

/// What ends processes without the interpreter's exit and calls functions first, by the module that takes them.
static POOLS: [Pool; 3] = [
    Pool::new("multiprocessing.util", register_with_multiprocessing),
    // A copy of multiprocessing, with registries of its own.
    Pool::new("multiprocess.util", register_with_multiprocessing),
    Pool::new("celery.signals", register_with_celery),
];

struct Pool {
    module: &'static str,
    register: fn(&Bound<'_, PyAny>) -> PyResult<()>,
    /// The address of the module that has our function: a program may unload it and import it anew.
    registered: AtomicUsize,
}

impl Pool {
    const fn new(module: &'static str, register: fn(&Bound<'_, PyAny>) -> PyResult<()>) -> Self {
        Self { module, register, registered: AtomicUsize::new(0) }
    }
}

/// Has the processes of pools flush when they end, as far as the program has imported what makes them.
pub fn register_with_pools(py: Python<'_>) {
    for pool in &POOLS {
        let Some(module) = loaded(py, pool.module) else { continue };
        let address = module.as_ptr() as usize;
        // If it fails, such a process does not send its last interval.
        if pool.registered.load(SeqCst) != address && (pool.register)(&module).is_ok() {
            pool.registered.store(address, SeqCst);
        }
    }
}

/// multiprocessing's children run no exit handler that they inherited, on any version. A finaliser does run, provided
/// that it was made in the child, after multiprocessing has cleared its registry of them: by a function that
/// multiprocessing calls then, or at once if it has done so already.
fn register_with_multiprocessing(util: &Bound<'_, PyAny>) -> PyResult<()> {
    let parent = util.getattr("process")?.call_method0("parent_process")?;
    let hook = pyo3::wrap_pyfunction!(in_multiprocessing_child, util.py())?;
    // The function gets the first of the two, to which multiprocessing refers weakly.
    util.call_method1("register_after_fork", (util, hook))?;
    if parent.is_none() { Ok(()) } else { make_finaliser(util) }
}

#[pyfunction]
fn in_multiprocessing_child(util: &Bound<'_, PyAny>) {
    rq::mark_reporting();
    drop(make_finaliser(util));
}

fn make_finaliser(util: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = util.py();
    let priority = PyDict::new(py);
    // After the program's own finalisers.
    priority.set_item("exitpriority", -100)?;
    let at_exit = pyo3::wrap_pyfunction!(at_child_exit, py)?;
    let arguments = PyTuple::new(py, [py.None().into_bound(py), at_exit.into_any()])?;
    util.getattr("Finalize")?.call(arguments, Some(&priority)).map(drop)
}

/// The processes of Celery's prefork pool run neither exit handlers nor finalisers, but send this signal first.
fn register_with_celery(signals: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = signals.py();
    let options = PyDict::new(py);
    options.set_item("weak", false)?;
    let at_exit = pyo3::wrap_pyfunction!(at_child_exit, py)?;
    signals.getattr("worker_process_shutdown")?.call_method("connect", (at_exit,), Some(&options)).map(drop)
}
