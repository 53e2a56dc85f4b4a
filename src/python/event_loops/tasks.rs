//! asyncio's registry of tasks, up to CPython 3.13: sets of weak references. How many it has, and which loops a few of
//! them belong to.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyWeakrefMethods, PyWeakrefReference};

use crate::python::interrupt::ignore_exception;
use crate::python::program::hexversion;

/// From this version on, tasks are no longer in the registry.
const WITHOUT_REGISTRY: u32 = 0x030e_0000;

/// Whether this version has it.
static HAS_REGISTRY: PyOnceLock<bool> = PyOnceLock::new();

/// How many tasks are looked at each time to find loops. A loop has a task, and there are seldom several with many.
const MAX_TASKS: usize = 128;

/// How many tasks before them are left out at most.
const MAX_LEFT_OUT: usize = 8192;

/// How many tasks before them were left out last time: each time others are looked at.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// How many tasks are alive; `None` if that is not known.
pub fn count(modules: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let Some((tasks, eager)) = registry(modules)? else { return Ok(None) };
    let eager = eager.map_or(Ok(0), |eager| eager.len())?;
    Ok(u64::try_from(tasks.len()? + eager).ok())
}

/// The loops of some tasks, each once.
pub fn some_loops<'py>(modules: &Bound<'py, PyDict>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let py = modules.py();
    let mut loops: Vec<Bound<'py, PyAny>> = Vec::new();
    let Some((tasks, _)) = registry(modules)? else { return Ok(loops) };
    let last = LEFT_OUT.load(Relaxed);
    let left_out = if last < tasks.len()?.min(MAX_LEFT_OUT) { last } else { 0 };
    LEFT_OUT.store(left_out + MAX_TASKS, Relaxed);
    for reference in tasks.try_iter()?.skip(left_out).take(MAX_TASKS) {
        // If a task is added meanwhile, this is the end.
        let Ok(reference) = reference else { break };
        let task = reference.cast::<PyWeakrefReference>().ok().and_then(PyWeakrefMethods::upgrade);
        let Some(task) = task else { continue };
        if let Some(event_loop) = ignore_exception(py, task.call_method0(intern!(py, "get_loop")))?
            && !loops.iter().any(|known| known.is(&event_loop))
        {
            loops.push(event_loop);
        }
    }
    Ok(loops)
}

/// The set of references to tasks, and that of tasks that have not waited for anything yet, where there is one.
type Registry<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

fn registry<'py>(modules: &Bound<'py, PyDict>) -> PyResult<Option<Registry<'py>>> {
    let py = modules.py();
    let Some(module) = modules.get_item(intern!(py, "asyncio.tasks"))? else { return Ok(None) };
    let has_registry = || hexversion(py).is_ok_and(|version| version < WITHOUT_REGISTRY);
    if !HAS_REGISTRY.get_or_init(py, has_registry) {
        return Ok(None);
    }
    let (tasks, eager) = match module.getattr_opt(intern!(py, "_scheduled_tasks"))? {
        Some(tasks) => (Some(tasks), module.getattr_opt(intern!(py, "_eager_tasks"))?),
        None => (module.getattr_opt(intern!(py, "_all_tasks"))?, None),
    };
    // A WeakSet would count those whose removal is postponed.
    let references = tasks.map(|tasks| tasks.getattr_opt(intern!(py, "data"))).transpose()?.flatten();
    Ok(references.map(|references| (references, eager)))
}
