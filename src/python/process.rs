//! What is set up once per process: the runtime-id, the interpreter's name, the hooks at fork and exit.
//!
//! No lock: a child process has its parent's memory, but none of the threads that would unlock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use arc_swap::ArcSwapOption;
use once_cell::race::OnceBox;
use once_cell::sync::OnceCell;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyString};
use uuid::Uuid;

use super::aws_lambda::Invocations;
use super::fork;
use super::log::{loaded, unless_exception};
use super::running::{self, Running};
use super::server::Questions;
use crate::fork_mark::ForkMark;
use crate::identity::{Entrypoint, Runtime};
use crate::message::Message;
use crate::settings::Warning;
use crate::settings::variables::{Environment, VARIABLES, Variable};
use crate::sources::gunicorn::Gunicorn;

/// What multiprocessing's fork server is started with.
const FORK_SERVER: &str = "from multiprocessing.forkserver import main";

/// This process. Initialisation may race but never blocks: a thread that waits for another with the GIL in its hand
/// waits for ever.
static PROCESS: OnceBox<Process> = OnceBox::new();

/// What is set up once per process.
pub struct Process {
    /// The interpreter it runs.
    pub runtime: Runtime,
    /// Its mark, which a child does not inherit.
    pub image: ForkMark,
    /// Whether the interpreter minds our threads when a fork is made.
    pub threads_at_fork: ThreadsAtFork,
    /// What multiprocessing calls in its children, once it has been registered.
    pub multiprocessing_hook: OnceCell<Py<PyAny>>,
    /// The invocations that it serves, in AWS Lambda.
    pub invocations: Invocations,
    /// Its part in Gunicorn.
    pub gunicorn: Arc<Gunicorn>,
    /// What asks Gunicorn's own objects.
    pub questions: Questions,
    /// What ran in the process that this one was forked from, which knows its own; never dropped.
    parents: ArcSwapOption<Running>,
    /// Its upper and its lower half. Only a process that has just begun changes it.
    runtime_id: [AtomicU64; 2],
    closed: AtomicBool,
    /// It is multiprocessing's fork server, which does nothing but fork: its children report, it does not.
    only_forks: AtomicBool,
    /// Whether a wrong variable has been told of, in the order of [`VARIABLES`]. A child repeats nothing.
    warned: [AtomicBool; VARIABLES.len()],
}

/// How the interpreter counts the process's threads when it makes a fork, to warn of one that has any.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ThreadsAtFork {
    /// It does not: up to 3.11.
    NotCounted,
    /// Before the parent's hooks: 3.12.
    CountedBeforeHooks,
    /// After them: from 3.13 on (gh-137109), or where that is mended, before.
    CountedAfterHooks,
}

impl ThreadsAtFork {
    fn of(hexversion: u32) -> Self {
        match hexversion {
            ..0x030c_0000 => Self::NotCounted,
            0x030c_0000..0x030d_0000 => Self::CountedBeforeHooks,
            0x030d_0000.. => Self::CountedAfterHooks,
        }
    }
}

impl Process {
    /// This process, set up at the first call.
    pub fn this(py: Python<'_>) -> PyResult<&'static Self> {
        PROCESS.get_or_try_init(|| {
            let runtime = runtime(py)?;
            let process = Self {
                only_forks: AtomicBool::new(is_fork_server(py, &runtime)),
                runtime,
                image: ForkMark::mark(),
                threads_at_fork: ThreadsAtFork::of(hexversion(py)?),
                multiprocessing_hook: OnceCell::new(),
                invocations: Invocations::default(),
                gunicorn: Arc::default(),
                questions: Questions::default(),
                parents: ArcSwapOption::const_empty(),
                runtime_id: [const { AtomicU64::new(0) }; 2],
                closed: AtomicBool::new(false),
                warned: [const { AtomicBool::new(false) }; VARIABLES.len()],
            };
            process.draw_runtime_id();
            let at_exit = pyo3::wrap_pyfunction!(running::at_exit, py)?;
            py.import("atexit")?.call_method1("register", (at_exit,))?;
            fork::register(py)?;
            fork::chain_uwsgi(py)?;
            Ok(Box::new(process))
        })
    }

    /// This process, if it has been set up.
    pub fn known() -> Option<&'static Self> {
        PROCESS.get()
    }

    /// 32 hex digits.
    pub fn runtime_id(&self) -> String {
        let [upper, lower] = self.runtime_id.each_ref().map(|half| half.load(SeqCst));
        format!("{upper:016x}{lower:016x}")
    }

    /// Makes this process one of its own, if it is a child still in its parent's image; says whether it was.
    pub fn renew(&self) -> bool {
        let is_child = self.image.rearm();
        if is_child {
            self.only_forks.store(false, SeqCst);
            self.gunicorn.leave();
            self.questions.forget();
            self.draw_runtime_id();
        }
        is_child
    }

    /// Keeps what ran in the parent process: a thread that does not exist here may hold its locks for ever.
    pub fn keep(&self, parents: Arc<Running>) {
        self.parents.store(Some(parents));
    }

    /// Gives this run of the process an id of its own, from the operating system's random numbers.
    pub fn draw_runtime_id(&self) {
        let (upper, lower) = Uuid::new_v4().as_u64_pair();
        self.runtime_id[0].store(upper, SeqCst);
        self.runtime_id[1].store(lower, SeqCst);
    }

    /// Whether this process only forks others, and has nothing to report itself.
    pub fn only_forks(&self) -> bool {
        self.only_forks.load(SeqCst)
    }

    /// The interpreter is on its way out: nothing shall start any more.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Whether the interpreter is on its way out.
    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// The warnings as messages, each variable's only once in a process and its children.
    pub fn messages(&self, warnings: Vec<Warning>) -> Vec<Message> {
        let is_new = |warning: &Warning| !self.warned[warning.variable.index()].swap(true, SeqCst);
        warnings.into_iter().filter(is_new).map(|warning| Message::warning(warning.text)).collect()
    }
}

/// These variables of the environment as the module `os` sees it: the C library's may be changed by another thread while
/// it is read.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
pub fn environment(
    os: &Bound<'_, PyAny>,
    variables: impl IntoIterator<Item = Variable>,
) -> PyResult<Environment> {
    let py = os.py();
    let Some(environ) = unless_exception(py, os.getattr(intern!(py, "environ")))? else {
        return Ok(Environment::default());
    };
    // What it holds on Unix, as bytes: a twentieth of the time that its own method takes.
    let held = environ.getattr_opt(intern!(py, "_data")).ok().flatten();
    if let Some(Ok(held)) = held.filter(|_| cfg!(unix)).map(Bound::cast_into::<PyDict>) {
        return Ok(Environment::read(variables, |name| {
            let value = held.get_item(PyBytes::new(py, name.as_bytes())).ok()??;
            Some(String::from_utf8_lossy(value.cast::<PyBytes>().ok()?.as_bytes()).into_owned())
        }));
    }
    let mut interrupted = Ok(());
    let environment = Environment::read(variables, |name| {
        let value = unless_exception(py, environ.call_method1(intern!(py, "get"), (name,)));
        let value = value.unwrap_or_else(|error| {
            interrupted = Err(error);
            None
        });
        Some(value?.cast::<PyString>().ok()?.to_string_lossy().into_owned())
    });
    interrupted.map(|()| environment)
}

/// How the program was started, as far as it can be told.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
pub fn entrypoint(py: Python<'_>) -> PyResult<Entrypoint> {
    let told = || {
        let realpath = py.import("os.path")?.getattr("realpath")?;
        let resolved = |path: &str| realpath.call1((path,))?.extract();
        let file: String = py.import(intern!(py, "sys"))?.getattr("argv")?.get_item(0)?.extract()?;
        // What sys.argv begins with where there is no file.
        let is_file = !matches!(file.as_str(), "" | "-" | "-c" | "-m");
        Ok(Entrypoint {
            working_directory: resolved(".")?,
            file: if is_file { resolved(&file)? } else { String::new() },
        })
    };
    Ok(unless_exception(py, told())?.unwrap_or_default())
}

/// Whether this is multiprocessing's fork server, and not a child of it, which has a descriptor from its parent.
fn is_fork_server(py: Python<'_>, runtime: &Runtime) -> bool {
    // A process that starts by itself is asked before the server has imported what it serves with.
    let is_child = loaded(py, "multiprocessing.forkserver").is_some_and(|module| {
        let inherited =
            module.getattr("_forkserver").and_then(|server| server.getattr("_forkserver_alive_fd"));
        !inherited.is_ok_and(|fd| fd.is_none())
    });
    !is_child && runtime.command.iter().any(|word| word.contains(FORK_SERVER))
}

fn hexversion(py: Python<'_>) -> PyResult<u32> {
    py.import("sys")?.getattr("hexversion")?.extract()
}

fn runtime(py: Python<'_>) -> PyResult<Runtime> {
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

/// Texts, of which bytes that are not UTF-8 are replaced.
fn texts(words: Bound<'_, PyIterator>) -> Vec<String> {
    let mut texts = Vec::new();
    // Collected, it would be asked how many there are, for which a module is imported.
    for word in words {
        if let Ok(word) = word.and_then(|word| Ok(word.cast_into::<PyString>()?)) {
            texts.push(word.to_string_lossy().into_owned());
        }
    }
    texts
}
