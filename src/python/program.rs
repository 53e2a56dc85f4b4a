//! What the interpreter knows about the program it runs: its modules, how it was started, by which interpreter.

use std::ffi::CStr;
use std::path::Path;

use once_cell::race::OnceBool;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyString};

use super::interrupt::ignore_exception;
use crate::identity::command_line::{Program, Spawned};
use crate::identity::{Entrypoint, Runtime};
use crate::python::interned::intern;
use crate::sources::ancestors::command_of_ancestor;

/// `sys.argv[0]` if the program is no file.
const NO_FILES: [&str; 4] = ["", "-", "-c", "-m"];

/// A module, if the program has imported it.
pub fn loaded<'py>(py: Python<'py>, name: &str) -> Option<Bound<'py, PyAny>> {
    let modules = py.import(intern!(py, "sys")).ok()?.getattr(intern!(py, "modules")).ok()?;
    // PyString::new() would panic where there is no memory for it.
    modules.cast::<PyDict>().ok()?.get_item(PyString::from_bytes(py, name.as_bytes()).ok()?).ok()?
}

/// The interpreter that the process runs, and the command line of the program that it belongs to.
pub fn runtime(py: Python<'_>) -> PyResult<Runtime> {
    let sys = py.import(intern!(py, "sys"))?;
    let name: String = sys.getattr("implementation")?.getattr("name")?.extract()?;
    let version: String = sys.getattr("version")?.extract()?;
    let implementation = match name.as_str() {
        "cpython" => "CPython".to_owned(),
        "pypy" => "PyPy".to_owned(),
        _ => name,
    };
    let is_frozen = sys.getattr_opt("frozen")?.is_some_and(|frozen| frozen.is_truthy().unwrap_or(false));
    Ok(Runtime {
        implementation,
        version: version.split_whitespace().next().unwrap_or_default().to_owned(),
        command: program_command(py),
        frozen: if is_frozen { sys.getattr("executable")?.extract().ok() } else { None },
    })
}

/// The command line of the program that the process belongs to. A process that multiprocessing has spawned has one of
/// its own, which says nothing about the program; its parent's does.
fn program_command(py: Python<'_>) -> Vec<String> {
    if let Some(uwsgi) = loaded(py, "uwsgi") {
        return uwsgi_command(&uwsgi);
    }
    let own = words(py, "orig_argv");
    let is_spawned = |command: &[String]| Spawned::of(command).is_some();
    let command = if is_spawned(&own) {
        command_of_ancestor(Path::new("/"), is_spawned).unwrap_or_default()
    } else {
        own.clone()
    };
    let program = Program::of(&command);
    // A parent may have given itself another title. Before it runs a part of the program, but after the start of the
    // interpreter, a spawned process gets its parent's sys.argv; a PEX file puts itself there.
    let is_unnamed = is_spawned(&own) && program.is_none_or(|program| program.name().is_none());
    if is_unnamed || program.is_some_and(Program::is_unpacked_pex) {
        let arguments = words(py, "argv");
        let is_file = arguments.first().is_some_and(|file| !NO_FILES.contains(&file.as_str()));
        return if is_file { [vec![String::new()], arguments].concat() } else { Vec::new() };
    }
    command
}

/// uWSGI's options, from its command line and its configuration, as a command line. `sys.orig_argv` is empty there.
fn uwsgi_command(uwsgi: &Bound<'_, PyAny>) -> Vec<String> {
    let mut command = vec![String::new(), "uwsgi".to_owned()];
    let options = uwsgi.getattr("opt").ok();
    for (name, value) in options.iter().filter_map(|options| options.cast::<PyDict>().ok()).flatten() {
        // An option that was given several times has a list of values.
        let values = value.extract::<Vec<Vec<u8>>>().or_else(|_| Ok::<_, PyErr>(vec![value.extract()?]));
        for value in values.unwrap_or_default() {
            command.push(format!("--{name}={}", String::from_utf8_lossy(&value)));
        }
    }
    command
}

/// `sys.hexversion`.
pub fn hexversion(py: Python<'_>) -> PyResult<u32> {
    py.import(intern!(py, "sys"))?.getattr("hexversion")?.extract()
}

/// Whether this build of CPython can do without a GIL.
#[expect(unsafe_code, reason = "The program may have replaced sys.version.")]
pub fn is_free_threaded() -> bool {
    static IS_FREE_THREADED: OnceBool = OnceBool::new();
    IS_FREE_THREADED.get_or_init(|| {
        // SAFETY: it returns a static string.
        let version = unsafe { CStr::from_ptr(pyo3::ffi::Py_GetVersion()) };
        version.to_string_lossy().contains("free-threading build")
    })
}

/// Whether gevent or eventlet has replaced threads by greenlets.
pub fn is_monkey_patched(modules: &Bound<'_, PyDict>) -> PyResult<bool> {
    let py = modules.py();
    let is_patched =
        |module: &Bound<'_, PyString>, function: &Bound<'_, PyString>, what: &Bound<'_, PyString>| {
            let Some(module) = modules.get_item(module)? else { return Ok(false) };
            module.getattr_opt(function)?.map_or(Ok(false), |function| function.call1((what,))?.is_truthy())
        };
    Ok(is_patched(intern!(py, "gevent.monkey"), intern!(py, "is_module_patched"), intern!(py, "threading"))?
        || is_patched(
            intern!(py, "eventlet.patcher"),
            intern!(py, "is_monkey_patched"),
            intern!(py, "thread"),
        )?)
}

/// Whether the process is a helper of multiprocessing or its like, and not a child of a fork server.
pub fn is_helper(py: Python<'_>) -> bool {
    let command = words(py, "orig_argv");
    // A child has a descriptor from its parent. If metrics start automatically, this is called before the server has
    // imported its module.
    let is_child = || {
        ["multiprocessing", "multiprocess", "billiard"].iter().any(|package| {
            loaded(py, &format!("{package}.forkserver")).is_some_and(|module| {
                let inherited =
                    module.getattr("_forkserver").and_then(|server| server.getattr("_forkserver_alive_fd"));
                !inherited.is_ok_and(|fd| fd.is_none())
            })
        })
    };
    Spawned::of(&command) == Some(Spawned::Helper) && !is_child()
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
        let is_file = !NO_FILES.contains(&file.as_str());
        Ok(Entrypoint {
            working_directory: resolved(".")?,
            file: if is_file { resolved(&file)? } else { String::new() },
        })
    };
    Ok(ignore_exception(py, read())?.unwrap_or_default())
}

/// A list of strings in `sys`; empty if the program has replaced it by something else.
fn words(py: Python<'_>, name: &str) -> Vec<String> {
    let sys = py.import(intern!(py, "sys"));
    sys.and_then(|sys| sys.getattr(name)?.try_iter()).map(texts).unwrap_or_default()
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
