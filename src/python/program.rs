//! What the interpreter knows about the program it runs: its modules, how it was started, by which interpreter.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyString};

use super::interrupt::ignore_exception;
use crate::identity::{Entrypoint, Runtime};

/// Part of the command line of multiprocessing's fork server.
const FORK_SERVER: &str = "from multiprocessing.forkserver import main";

/// A module, if the program has imported it.
pub fn loaded<'py>(py: Python<'py>, name: &str) -> Option<Bound<'py, PyAny>> {
    let modules = py.import(intern!(py, "sys")).ok()?.getattr(intern!(py, "modules")).ok()?;
    modules.cast::<PyDict>().ok()?.get_item(name).ok()?
}

/// The interpreter that the process runs, and the command line that started it.
pub fn runtime(py: Python<'_>) -> PyResult<Runtime> {
    let sys = py.import(intern!(py, "sys"))?;
    let name: String = sys.getattr("implementation")?.getattr("name")?.extract()?;
    let version: String = sys.getattr("version")?.extract()?;
    let implementation = match name.as_str() {
        "cpython" => "CPython".to_owned(),
        "pypy" => "PyPy".to_owned(),
        _ => name,
    };
    Ok(Runtime {
        implementation,
        version: version.split_whitespace().next().unwrap_or_default().to_owned(),
        command: sys.getattr("orig_argv").and_then(|words| words.try_iter()).map(texts).unwrap_or_default(),
    })
}

/// `sys.hexversion`.
pub fn hexversion(py: Python<'_>) -> PyResult<u32> {
    py.import(intern!(py, "sys"))?.getattr("hexversion")?.extract()
}

/// Whether the process is multiprocessing's fork server, and not a child of it.
pub fn is_fork_server(py: Python<'_>, runtime: &Runtime) -> bool {
    // A child has a descriptor from its parent. If metrics start automatically, this is called before the server has
    // imported its module.
    let is_child = loaded(py, "multiprocessing.forkserver").is_some_and(|module| {
        let inherited =
            module.getattr("_forkserver").and_then(|server| server.getattr("_forkserver_alive_fd"));
        !inherited.is_ok_and(|fd| fd.is_none())
    });
    !is_child && runtime.command.iter().any(|word| word.contains(FORK_SERVER))
}

/// The name of the module whose Python code has called this code.
pub fn module_of_caller(py: Python<'_>) -> Option<String> {
    let frame = py.import(intern!(py, "sys")).ok()?.call_method0(intern!(py, "_getframe")).ok()?;
    let globals = frame.getattr(intern!(py, "f_globals")).ok()?;
    globals.get_item(intern!(py, "__name__")).ok()?.extract().ok()
}

/// How the program was started, as far as that is known.
pub fn entrypoint(py: Python<'_>) -> PyResult<Entrypoint> {
    let read = || {
        let realpath = py.import("os.path")?.getattr("realpath")?;
        let resolved = |path: &str| realpath.call1((path,))?.extract();
        let file: String = py.import(intern!(py, "sys"))?.getattr("argv")?.get_item(0)?.extract()?;
        // sys.argv[0] if the program is no file.
        let is_file = !matches!(file.as_str(), "" | "-" | "-c" | "-m");
        Ok(Entrypoint {
            working_directory: resolved(".")?,
            file: if is_file { resolved(&file)? } else { String::new() },
        })
    };
    Ok(ignore_exception(py, read())?.unwrap_or_default())
}

/// The strings among these objects; what is not UTF-8 in them is replaced.
fn texts(words: Bound<'_, PyIterator>) -> Vec<String> {
    let mut texts = Vec::new();
    // collect() would ask the iterator for its length, and PyO3 imports a module for that.
    for word in words {
        if let Ok(word) = word.and_then(|word| Ok(word.cast_into::<PyString>()?)) {
            texts.push(word.to_string_lossy().into_owned());
        }
    }
    texts
}
