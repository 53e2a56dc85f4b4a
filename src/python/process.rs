//! What is known once per process: the interpreter, the runtime-id, the part in a server. Nothing is installed here.
//!
//! There is no lock: a child process has its parent's memory, but none of the threads that would unlock it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use once_cell::race::OnceBox;
use pyo3::prelude::*;
use uuid::Uuid;

use super::gunicorn_state::StateReader;
use super::invocations::Invocations;
use super::{environment, log, program};
use crate::collector::Postponement;
use crate::fork_mark::ForkMark;
use crate::identity::Runtime;
use crate::message::{MAX_SHOWN, Message};
use crate::settings::Warning;
use crate::settings::variables::{self, PREFIX, VARIABLES, is_unknown};
use crate::sources::gunicorn::Gunicorn;

/// This process. Two threads may both initialise it, but neither waits: a thread that holds the GIL and waits for one
/// that needs it would wait for ever.
static PROCESS: OnceBox<Process> = OnceBox::new();

/// What is known once per process.
pub struct Process {
    /// The interpreter that it runs.
    pub runtime: Runtime,
    /// The mark that a child process does not inherit.
    pub fork_mark: ForkMark,
    /// Whether the interpreter counts our threads when the process forks.
    pub threads_at_fork: ThreadsAtFork,
    /// When our threads start, if that is yet to be.
    pub postponement: Postponement,
    /// The invocations that it serves in AWS Lambda.
    pub invocations: Invocations,
    /// What Gunicorn does in this process.
    pub gunicorn: Arc<Gunicorn>,
    /// What reads Gunicorn's own objects.
    pub gunicorn_state: StateReader,
    /// The upper and the lower half. Only a process that has just begun changes it.
    runtime_id: [AtomicU64; 2],
    is_exiting: AtomicBool,
    is_helper: AtomicBool,
    /// Whether a warning about a wrong variable was logged, in the order of [`VARIABLES`]. Children do not repeat it.
    warned: [AtomicBool; VARIABLES.len()],
    /// Whether variables that nothing reads were looked for.
    warned_unknown: AtomicBool,
}

/// The most variables that nothing reads that are logged.
const MAX_UNKNOWN: usize = 10;

/// When the interpreter counts the threads of a process that forks, to warn if there are several.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ThreadsAtFork {
    /// Never: up to CPython 3.11.
    NotCounted,
    /// Before the hooks in the parent: 3.12.
    CountedBeforeHooks,
    /// After them: from 3.13 on. Releases with the fix of gh-137109 count before.
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
    /// This process; `install` is called before the first call returns it, by each thread if several call at once.
    pub fn get_or_init(py: Python<'_>, install: impl FnOnce() -> PyResult<()>) -> PyResult<&'static Self> {
        PROCESS.get_or_try_init(|| {
            let process = Self::new(py)?;
            install()?;
            Ok(Box::new(process))
        })
    }

    /// This process, once it is initialised.
    pub fn known() -> Option<&'static Self> {
        PROCESS.get()
    }

    fn new(py: Python<'_>) -> PyResult<Self> {
        let runtime = program::runtime(py)?;
        let process = Self {
            is_helper: AtomicBool::new(program::is_helper(py)),
            runtime,
            fork_mark: ForkMark::mark(),
            threads_at_fork: ThreadsAtFork::of(program::hexversion(py)?),
            postponement: Postponement::default(),
            invocations: Invocations::default(),
            gunicorn: Arc::default(),
            gunicorn_state: StateReader::default(),
            runtime_id: [const { AtomicU64::new(0) }; 2],
            is_exiting: AtomicBool::new(false),
            warned: [const { AtomicBool::new(false) }; VARIABLES.len()],
            warned_unknown: AtomicBool::new(false),
        };
        process.renew_runtime_id();
        Ok(process)
    }

    /// In a forked child that is still marked as its parent, makes the state the child's own; whether it was necessary.
    pub fn become_child(&self) -> bool {
        let is_child = self.fork_mark.rearm();
        if is_child {
            self.is_helper.store(false, SeqCst);
            self.gunicorn.leave();
            self.gunicorn_state.forget();
            self.renew_runtime_id();
        }
        is_child
    }

    /// The id of this run of the process: 32 hex digits.
    pub fn runtime_id(&self) -> String {
        let [upper, lower] = self.runtime_id.each_ref().map(|half| half.load(SeqCst));
        format!("{upper:016x}{lower:016x}")
    }

    /// Gives this run of the process a new id, from the operating system's random numbers.
    pub fn renew_runtime_id(&self) {
        let (upper, lower) = Uuid::new_v4().as_u64_pair();
        self.runtime_id[0].store(upper, SeqCst);
        self.runtime_id[1].store(lower, SeqCst);
    }

    /// Whether this is a helper of multiprocessing or its like: a fork server, whose children report, or a tracker.
    pub fn is_helper(&self) -> bool {
        self.is_helper.load(SeqCst)
    }

    /// The interpreter is about to exit: from now on nothing starts.
    pub fn begin_exit(&self) {
        self.is_exiting.store(true, SeqCst);
    }

    /// Whether the interpreter is about to exit.
    pub fn is_exiting(&self) -> bool {
        self.is_exiting.load(SeqCst)
    }

    /// A warning for each variable that begins as ours do and that nothing reads; once in a process and its children. A
    /// process that was spawned repeats it, as its parent may never enable metrics.
    pub fn unknown_variables(&self, py: Python<'_>) -> PyResult<Vec<Message>> {
        if self.warned_unknown.swap(true, SeqCst) {
            return Ok(Vec::new());
        }
        let unknown = environment::names(py, PREFIX)?.into_iter().filter(|name| is_unknown(name));
        let warning = |name: String| {
            let nearest = log::nearest(py, &name, variables::names().collect());
            let hint =
                nearest.map(|nearest| format!("; did you mean {PREFIX}{nearest}?")).unwrap_or_default();
            let shown: String = name.chars().take(MAX_SHOWN).collect();
            Message::warning(format!("{PREFIX}{shown} is no variable of runtime-metrics{hint}"))
        };
        Ok(unknown.take(MAX_UNKNOWN).map(warning).collect())
    }

    /// The warnings as messages, each variable's only once in a process and its children.
    pub fn messages(&self, warnings: Vec<Warning>) -> Vec<Message> {
        let is_new = |warning: &Warning| !self.warned[warning.variable.index()].swap(true, SeqCst);
        warnings.into_iter().filter(is_new).map(|warning| Message::warning(warning.text)).collect()
    }
}
