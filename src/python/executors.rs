//! What waits for a thread: in the queues of `concurrent.futures.ThreadPoolExecutor`, which are found in the registry
//! that its module has for the interpreter's exit.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The most threads of pools that are looked at.
const MAX_THREADS: usize = 512;

/// The length of the longest queue; `None` without a pool of threads.
pub fn longest_queue(modules: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let py = modules.py();
    let Some(module) = modules.get_item(intern!(py, "concurrent.futures.thread"))? else { return Ok(None) };
    let Some(registry) = module.getattr_opt(intern!(py, "_threads_queues"))? else { return Ok(None) };
    // Of a weak dictionary, the strong one: a queue by each thread.
    let Some(queues) = registry.getattr_opt(intern!(py, "data"))? else { return Ok(None) };
    let queues = queues.cast::<PyDict>()?;
    if queues.len() > MAX_THREADS {
        return Ok(None);
    }
    let (mut longest, mut seen) = (None, Vec::new());
    // A copy, as the program may change it.
    for queue in queues.values() {
        if !seen.contains(&queue.as_ptr()) {
            seen.push(queue.as_ptr());
            longest = longest.max(Some(queue.call_method0(intern!(py, "qsize"))?.extract()?));
        }
    }
    Ok(longest)
}
