//! What waits for a thread: in the queues of `concurrent.futures.ThreadPoolExecutor`, and in front of anyio's limiter
//! of threads. Both are found in registries that their modules have for themselves.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::interrupt::ignore_exception;

/// The most threads of pools that are looked at.
const MAX_THREADS: usize = 512;

/// The most event loops whose limiters are looked at.
const MAX_LOOPS: usize = 64;

/// The most calls that wait for a thread of one pool; `None` without a pool of threads.
pub fn longest_queue(modules: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let py = modules.py();
    let of_executors = ignore_exception(py, executors(modules))?.flatten();
    let of_limiters = ignore_exception(py, limiters(modules))?.flatten();
    Ok(of_executors.max(of_limiters))
}

fn executors(modules: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let py = modules.py();
    let (module, registry) = (intern!(py, "concurrent.futures.thread"), intern!(py, "_threads_queues"));
    // A queue by each thread.
    let Some(queues) = registry_of(modules, module, registry, MAX_THREADS)? else { return Ok(None) };
    let (mut longest, mut seen) = (None, Vec::new());
    // A copy, as the program may change it.
    for queue in queues.values() {
        if !seen.contains(&queue.as_ptr()) {
            seen.push(queue.as_ptr());
            let length = queue.call_method0(intern!(py, "qsize")).and_then(|length| length.extract());
            longest = longest.max(ignore_exception(py, length)?);
        }
    }
    Ok(longest)
}

fn limiters(modules: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let py = modules.py();
    let Some(backend) = modules.get_item(intern!(py, "anyio._backends._asyncio"))? else { return Ok(None) };
    let Some(variable) = backend.getattr_opt(intern!(py, "_default_thread_limiter"))? else {
        return Ok(None);
    };
    let (module, registry) = (intern!(py, "anyio.lowlevel"), intern!(py, "_run_vars"));
    // The values of variables by each event loop.
    let Some(loops) = registry_of(modules, module, registry, MAX_LOOPS)? else { return Ok(None) };
    let mut longest = None;
    for values in loops.values() {
        if let Some(limiter) = values.cast::<PyDict>()?.get_item(&variable)? {
            let statistics = limiter.call_method0(intern!(py, "statistics"))?;
            longest = longest.max(Some(statistics.getattr(intern!(py, "tasks_waiting"))?.extract()?));
        }
    }
    Ok(longest)
}

/// The strong dictionary in a weak one of a module that the program has imported, unless it is too long.
fn registry_of<'py>(
    modules: &Bound<'py, PyDict>,
    module: &Bound<'py, PyString>,
    name: &Bound<'py, PyString>,
    max: usize,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(module) = modules.get_item(module)? else { return Ok(None) };
    let Some(registry) = module.getattr_opt(name)? else { return Ok(None) };
    let data = registry.getattr_opt(intern!(modules.py(), "data"))?;
    let data = data.map(Bound::cast_into::<PyDict>).transpose()?;
    Ok(data.filter(|data| data.len() <= max))
}
