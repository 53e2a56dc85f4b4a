//! What waits for a thread: in the queues of `concurrent.futures.ThreadPoolExecutor`, and in front of anyio's limiter
//! of threads. Both are found in registries that their modules have for themselves.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::interrupt::ignore_exception;
use crate::python::interned::intern;
use crate::snapshot::Absence;

/// The most threads of pools that are looked at.
const MAX_THREADS: usize = 512;

/// The most event loops whose limiters are looked at.
const MAX_LOOPS: usize = 64;

/// The most calls that wait for a thread of one pool, or why that is not known.
pub fn longest_queue(modules: &Bound<'_, PyDict>) -> PyResult<Longest> {
    let py = modules.py();
    let of_executors = ignore_exception(py, executors(modules))?.unwrap_or(NO_POOL);
    let of_limiters = ignore_exception(py, limiters(modules))?.unwrap_or(NO_POOL);
    Ok(match (of_executors, of_limiters) {
        (Ok(one), Ok(other)) => Ok(one.max(other)),
        (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(only),
        (Err(Absence::NoPool), Err(absence)) | (Err(absence), Err(_)) => Err(absence),
    })
}

/// The most that wait, or why that is not known.
type Longest = Result<u64, Absence>;

const NO_POOL: Longest = Err(Absence::NoPool);

fn executors(modules: &Bound<'_, PyDict>) -> PyResult<Longest> {
    let py = modules.py();
    let (module, registry) = (intern!(py, "concurrent.futures.thread"), intern!(py, "_threads_queues"));
    // A queue by each thread.
    let Some(queues) = registry_of(modules, module, registry)? else { return Ok(NO_POOL) };
    if queues.len() > MAX_THREADS {
        return Ok(Err(Absence::TooManyPooled));
    }
    let (mut longest, mut seen) = (None, Vec::new());
    // A copy, as the program may change it.
    for queue in queues.values() {
        if !seen.contains(&queue.as_ptr()) {
            seen.push(queue.as_ptr());
            let length = queue.call_method0(intern!(py, "qsize")).and_then(|length| length.extract());
            longest = longest.max(ignore_exception(py, length)?);
        }
    }
    Ok(longest.ok_or(Absence::NoPool))
}

fn limiters(modules: &Bound<'_, PyDict>) -> PyResult<Longest> {
    let py = modules.py();
    let Some(backend) = modules.get_item(intern!(py, "anyio._backends._asyncio"))? else {
        return Ok(NO_POOL);
    };
    let Some(variable) = backend.getattr_opt(intern!(py, "_default_thread_limiter"))? else {
        return Ok(NO_POOL);
    };
    let (module, registry) = (intern!(py, "anyio.lowlevel"), intern!(py, "_run_vars"));
    // The values of variables by each event loop.
    let Some(loops) = registry_of(modules, module, registry)? else { return Ok(NO_POOL) };
    if loops.len() > MAX_LOOPS {
        return Ok(Err(Absence::TooManyPooled));
    }
    let mut longest = None;
    for values in loops.values() {
        if let Some(limiter) = values.cast::<PyDict>()?.get_item(&variable)? {
            let statistics = limiter.call_method0(intern!(py, "statistics"))?;
            longest = longest.max(Some(statistics.getattr(intern!(py, "tasks_waiting"))?.extract()?));
        }
    }
    Ok(longest.ok_or(Absence::NoPool))
}

/// The strong dictionary in a weak one of a module that the program has imported.
fn registry_of<'py>(
    modules: &Bound<'py, PyDict>,
    module: &Bound<'py, PyString>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(module) = modules.get_item(module)? else { return Ok(None) };
    let Some(registry) = module.getattr_opt(name)? else { return Ok(None) };
    let data = registry.getattr_opt(intern!(modules.py(), "data"))?;
    Ok(data.map(Bound::cast_into::<PyDict>).transpose()?)
}
