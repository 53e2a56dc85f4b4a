//! asyncio's registry of tasks, up to CPython 3.13: sets of weak references. How many it has, and which loops a few of
//! them belong to.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use once_cell::race::OnceBox;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyWeakrefMethods, PyWeakrefReference};

use crate::python::interned::intern;
use crate::python::interrupt::ignore_exception;
use crate::python::program::hexversion;

/// From this version on, tasks are no longer in the registry.
pub const WITHOUT_REGISTRY: u32 = 0x030e_0000;

/// asyncio's registry, once asyncio is imported; `None` in a version without one. Its sets are never replaced. Looking
/// up an attribute that a version does not have raises an exception, which costs more than everything else here.
static REGISTRY: OnceBox<Option<Registry>> = OnceBox::new();

/// asyncio's own sets.
struct Registry {
    /// References to tasks. A `WeakSet` would count those whose removal is postponed.
    tasks: Py<PyAny>,
    /// Tasks that have not waited for anything yet, where there are some.
    eager: Option<Py<PyAny>>,
}

/// How many tasks are looked at each time to find loops. A loop has a task, and there are seldom several with many.
const MAX_TASKS: usize = 128;

/// How many tasks before them are left out at most.
const MAX_LEFT_OUT: usize = 8192;

/// How many tasks before them were left out last time: each time others are looked at.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// How many tasks are alive; `None` if that is not known.
pub fn count(modules: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let py = modules.py();
    let Some(Registry { tasks, eager }) = registry(modules)? else { return Ok(None) };
    let eager = eager.as_ref().map_or(Ok(0), |eager| eager.bind(py).len())?;
    Ok(u64::try_from(tasks.bind(py).len()? + eager).ok())
}

/// Whether there may be loops that [`some_loops`] finds.
pub fn are_there(modules: &Bound<'_, PyDict>) -> PyResult<bool> {
    let Some(Registry { tasks, .. }) = registry(modules)? else { return Ok(false) };
    Ok(!tasks.bind(modules.py()).is_empty()?)
}

/// The loops of some tasks, each once.
pub fn some_loops<'py>(modules: &Bound<'py, PyDict>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let py = modules.py();
    let mut loops: Vec<Bound<'py, PyAny>> = Vec::new();
    let Some(Registry { tasks, .. }) = registry(modules)? else { return Ok(loops) };
    let tasks = tasks.bind(py);
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

fn registry<'py>(modules: &Bound<'py, PyDict>) -> PyResult<Option<&'py Registry>> {
    let py = modules.py();
    if let Some(registry) = REGISTRY.get() {
        return Ok(registry.as_ref());
    }
    let Some(module) = modules.get_item(intern!(py, "asyncio.tasks"))? else { return Ok(None) };
    // As long as it is, the sets may be replaced by those of the native module.
    if is_being_imported(&module)? {
        return Ok(None);
    }
    let found = find(&module)?;
    Ok(REGISTRY.get_or_init(|| Box::new(found)).as_ref())
}

fn is_being_imported(module: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = module.py();
    let Some(spec) = module.getattr_opt(intern!(py, "__spec__"))? else { return Ok(false) };
    let is_initializing = spec.getattr_opt(intern!(py, "_initializing"))?;
    is_initializing.map_or(Ok(false), |is_initializing| is_initializing.is_truthy())
}

fn find(module: &Bound<'_, PyAny>) -> PyResult<Option<Registry>> {
    let py = module.py();
    if hexversion(py)? >= WITHOUT_REGISTRY {
        return Ok(None);
    }
    let (tasks, eager) = match module.getattr_opt(intern!(py, "_scheduled_tasks"))? {
        Some(tasks) => (Some(tasks), module.getattr_opt(intern!(py, "_eager_tasks"))?),
        None => (module.getattr_opt(intern!(py, "_all_tasks"))?, None),
    };
    let tasks = tasks.map(|tasks| tasks.getattr_opt(intern!(py, "data"))).transpose()?.flatten();
    Ok(tasks.map(|tasks| Registry { tasks: tasks.unbind(), eager: eager.map(Bound::unbind) }))
}
