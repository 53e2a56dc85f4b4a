//! The running collector, and the functions of `RuntimeMetrics` that start, use and stop it.

#![allow(clippy::doc_markdown, reason = "the functions' comments are their docstrings in Python")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pyo3::exceptions::{PyDeprecationWarning, PyException};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::interpreter::{CPython, Purpose};
use super::process::{self, Process};
use super::{arguments, aws_lambda, fork, log};
use crate::catalogue::metric::{Member, Value};
use crate::clock::Clock;
use crate::collector::{self, Collector, Inheritance, OutputHandover};
use crate::emitter::Distribution;
use crate::emitter::address::DEFAULT_SOCKET;
use crate::emitter::max_tag_bytes;
use crate::identity::function::Function;
use crate::identity::tracers::Tracers;
use crate::identity::{Entrypoint, IdentityInputs};
use crate::message::{Message, Severity};
use crate::settings::ServiceArguments;
use crate::settings::variables::{Environment, Variable};
use crate::settings::{Arguments, InvalidArgument, Settings, Surroundings, Warning, extension_path};
use crate::sources::Counters;

/// `disable()` ends within this.
const BUDGET: Duration = Duration::from_secs(1);

/// The interpreter's exit is not held up longer than this.
const EXIT_BUDGET: Duration = Duration::from_millis(100);

/// What is running, swapped as one.
static RUNNING: ArcSwapOption<Running> = ArcSwapOption::const_empty();

/// A collector, and what its successor in a child process is made of.
pub struct Running {
    collector: Arc<Collector>,
    interpreter: Arc<CPython>,
    clock: Clock,
    plan: Arc<Plan>,
    /// Started by the program itself; an automatic start may still be given arguments.
    explicitly: bool,
    /// What ran in the process that this one was forked from.
    parents: Option<Arc<Running>>,
}

/// What a collector was started with.
struct Plan {
    settings: Settings,
    arguments: Arguments,
    environment: Environment,
    /// If process tags are asked for.
    entrypoint: Option<Entrypoint>,
}

/// Start to collect this process's runtime metrics and to send them at every interval.
///
/// What is not given comes from the environment (DD_DOGSTATSD_URL, DD_SERVICE, ...), else from the defaults. The
/// first metrics leave one interval from now, the last at the interpreter's exit. In AWS Lambda nothing leaves but at
/// the end of each invocation of a handler that runtime_metrics.aws_lambda has wrapped.
///
/// Called again without arguments it does nothing. Called with arguments after an automatic start it applies
/// them; after an explicit one it ignores them with a warning.
///
/// Args:
///     tracer: Ignored, with a DeprecationWarning; ddtrace once had it.
///     dogstatsd_url: Where to send: udp://host[:port], unix:///path, unixgram:///path, unixstream:///path,
///         host[:port] or /path.
///     flush_interval: Seconds between two flushes, from 0.01 to 86400; 10 by default.
///     service: The tag service.
///     env: The tag env.
///     version: The tag version.
///     tags: Further tags: a mapping, or "key:value" strings.
///     level: How much to send: "default".
///     wire_type: "distribution", or "gauge" to have the last of an interval's values win.
///
/// Raises:
///     TypeError: An argument has the wrong type.
///     ValueError: An argument has the wrong value. In both cases nothing has been started.
#[pyfunction]
#[pyo3(signature = (
    tracer=None, dogstatsd_url=None, flush_interval=None, *,
    service=None, env=None, version=None, tags=None, level=None, wire_type=None,
))]
#[allow(clippy::too_many_arguments, reason = "they are the function's signature in Python")]
pub fn enable(
    py: Python<'_>,
    tracer: Option<&Bound<'_, PyAny>>,
    dogstatsd_url: Option<&Bound<'_, PyAny>>,
    flush_interval: Option<&Bound<'_, PyAny>>,
    service: Option<&Bound<'_, PyAny>>,
    env: Option<&Bound<'_, PyAny>>,
    version: Option<&Bound<'_, PyAny>>,
    tags: Option<&Bound<'_, PyAny>>,
    level: Option<&Bound<'_, PyAny>>,
    wire_type: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    if tracer.is_some() {
        let text = c"RuntimeMetrics.enable(): the argument 'tracer' is deprecated and has no effect";
        PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), text, 1)?;
    }
    let arguments = Arguments {
        dogstatsd_url: arguments::text("dogstatsd_url", dogstatsd_url)?,
        flush_interval: arguments::number("flush_interval", flush_interval)?,
        level: arguments::text("level", level)?,
        wire_type: arguments::text("wire_type", wire_type)?,
        service_arguments: ServiceArguments {
            service: arguments::text("service", service)?,
            env: arguments::text("env", env)?,
            version: arguments::text("version", version)?,
            tags: arguments::tags(tags)?,
        },
    };
    shielded(Ok(()), || start(py, &arguments, true))
}

/// Start as a launcher does: a later explicit start may still give arguments.
#[pyfunction]
pub fn enable_automatically(py: Python<'_>) -> PyResult<()> {
    shielded(Ok(()), || start(py, &Arguments::default(), false))
}

/// Send a last sample and stop; both threads have ended when it returns, after 1 s at the latest.
///
/// Does nothing if nothing is running.
#[pyfunction]
pub fn disable(py: Python<'_>) -> PyResult<()> {
    shielded(Ok(()), || {
        let collector = stop(py, BUDGET, false)?;
        collector.map_or(Ok(()), |collector| log::from_program(py, &collector.take_messages()))
    })
}

/// Sample and send now, in the calling thread, and begin a new interval.
///
/// Returns:
///     Whether everything has left: False if metrics are disabled, if another flush is under way and does not
///     end within 100 ms, or if something could not be sent.
#[pyfunction]
pub fn flush(py: Python<'_>) -> PyResult<bool> {
    shielded(Ok(false), || {
        let Some(running) = current(py) else { return Ok(false) };
        running.ensure_running();
        let answer = running.interpreter.answer(py, Purpose::Flush)?;
        let flushed = py.detach(|| running.collector.flush(Some(answer)));
        aws_lambda::write(py, &flushed.log)?;
        log::from_program(py, &running.collector.take_messages())?;
        Ok(flushed.everything_sent)
    })
}

/// Read the current values without sending them or beginning a new interval.
///
/// Returns:
///     Value by full name, as a flush would send it now: changes and aggregates hold what has gathered since the
///     last flush. What is not known is left out, and what has no single number; empty if metrics are disabled.
#[pyfunction]
pub fn snapshot(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let samples = shielded(Ok(Vec::new()), || {
        let Some(running) = current(py) else { return Ok(Vec::new()) };
        let answer = running.interpreter.answer(py, Purpose::Inspect)?;
        Ok::<_, PyErr>(py.detach(|| running.collector.inspect(Some(&answer))))
    })?;
    let values = PyDict::new(py);
    for sample in samples {
        match (&sample.member, &sample.value) {
            (Member::Tagged(_), _) | (_, Value::Observed(_)) => {}
            (_, Value::Whole(whole)) => values.set_item(sample.name(), whole)?,
            (_, Value::Real(real)) => values.set_item(sample.name(), real)?,
        }
    }
    Ok(values)
}

/// Tell whether metrics are collected.
#[pyfunction]
pub fn enabled() -> bool {
    RUNNING.load().is_some()
}

/// The last sample, at the interpreter's exit: nothing enters the interpreter afterwards.
#[pyfunction]
pub fn at_exit(py: Python<'_>) {
    shielded((), || {
        if let Ok(process) = Process::this(py) {
            process.close();
        }
        // What there is to say is dropped: the program's log may be closed already.
        drop(stop(py, EXIT_BUDGET, true));
    });
}

/// Sends a value of a metric of the program's own where nothing runs; gives what is to be written to the log.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile.
pub fn distribute(py: Python<'_>, process: &Process, distribution: &Distribution) -> PyResult<String> {
    let (plan, warnings) = Plan::new(py, &Arguments::default())?;
    if plan.settings.disabled {
        return Ok(String::new());
    }
    let mut messages = process.messages(warnings);
    messages.extend(aws_lambda::unsent_message(process, &plan.settings));
    log::from_program(py, &messages)?;
    let subject = plan.subject(process, Tracers::default());
    Ok(collector::send_custom(&plan.settings, subject, distribution))
}

/// What runs in this process: a child that has not been recognised as one is first.
pub fn current(py: Python<'_>) -> Option<Arc<Running>> {
    if Process::known().is_some_and(|process| process.image.is_inherited()) {
        fork::become_child(py);
    }
    RUNNING.load_full()
}

/// Nothing runs any more, and nothing is waited for or cleaned up.
pub fn forget() {
    if let Some(running) = RUNNING.swap(None) {
        running.collector.begin_pause();
        std::mem::forget(running);
    }
}

/// Starts what is not running.
///
/// # Errors
///
/// A wrong argument, or what a signal handler of the program has raised meanwhile.
pub fn start(py: Python<'_>, arguments: &Arguments, explicitly: bool) -> PyResult<()> {
    let process = match Process::this(py) {
        Ok(process) => process,
        Err(error) => return give_up(py, error),
    };
    let running = current(py);
    let (plan, warnings) = Plan::new(py, arguments)?;
    if plan.settings.disabled {
        let text = "runtime metrics are not collected: DD_DOGSTATSD_DISABLE is set";
        return log::from_program(py, &[Message::new(Severity::Info, text.to_owned())]);
    }
    let mut messages = process.messages(warnings);
    if process.is_closed() {
        return Ok(());
    }
    if let Some(running) = running {
        running.ensure_running();
        messages.extend(running.apply(py, process, arguments, plan)?);
    } else {
        let running = match Running::new(py, process, plan, explicitly) {
            Ok(running) => Arc::new(running),
            Err(error) => return give_up(py, error),
        };
        // Of two threads that start at once the second finds its work done.
        let before = RUNNING.compare_and_swap(&None::<Arc<Running>>, Some(Arc::clone(&running)));
        if before.is_none() {
            messages.extend(running.plan.subject(process, Tracers::default()).identity().warning());
            messages.extend(running.start(py));
            if let Some(function) = running.plan.settings.aws_lambda {
                aws_lambda::prepare(py, process, function.is_stored);
            }
        }
    }
    log::from_program(py, &messages)
}

/// The settings that arguments and environment make, and what is found around the process.
pub fn settings(
    arguments: &Arguments,
    environment: &Environment,
) -> Result<(Settings, Vec<Warning>), InvalidArgument> {
    let default_socket = Path::new(DEFAULT_SOCKET);
    let surroundings = Surroundings {
        default_socket,
        has_default_socket: default_socket.exists(),
        has_extension: extension_path(environment).is_some_and(|path| Path::new(path).exists()),
    };
    Settings::new(arguments, environment, surroundings)
}

/// Ends what is running, with a last sample.
///
/// # Errors
///
/// What a signal handler of the program has raised meanwhile; everything has ended all the same.
fn stop(py: Python<'_>, budget: Duration, ends: bool) -> PyResult<Option<Arc<Collector>>> {
    current(py);
    let Some(running) = RUNNING.swap(None) else { return Ok(None) };
    let (answer, interrupted) = match running.interpreter.answer(py, Purpose::Inspect) {
        Ok(answer) => (Some(answer), Ok(())),
        Err(error) => (None, Err(error)),
    };
    // Without it a callback stays behind that counts for nobody.
    drop(running.interpreter.uninstall(py));
    if Process::known().is_some_and(Process::only_forks) {
        return interrupted.map(|()| None);
    }
    py.detach(|| running.collector.stop(answer, budget, ends));
    interrupted.map(|()| Some(Arc::clone(&running.collector)))
}

impl Plan {
    fn new(py: Python<'_>, arguments: &Arguments) -> PyResult<(Self, Vec<Warning>)> {
        let environment = process::environment(py.import(intern!(py, "os"))?.as_any(), Variable::all())?;
        let (settings, warnings) = settings(arguments, &environment)?;
        let entrypoint = settings.process_tags.then(|| process::entrypoint(py)).transpose()?;
        Ok((Self { settings, arguments: arguments.clone(), environment, entrypoint }, warnings))
    }

    /// Who sends, by what tracers say at this moment.
    fn subject(&self, process: &Process, tracers: Tracers) -> IdentityInputs {
        IdentityInputs {
            arguments: self.arguments.service_arguments.clone(),
            runtime: process.runtime.clone(),
            runtime_id: self.settings.runtime_id.then(|| process.runtime_id()),
            entrypoint: self.entrypoint.clone(),
            max_tag_bytes: Some(max_tag_bytes(self.settings.origin.max_length())),
            environment: self.environment.identity(),
            tracers,
            function: self.settings.aws_lambda.map(Function::new),
        }
    }
}

impl Running {
    fn new(py: Python<'_>, process: &Process, plan: Plan, explicitly: bool) -> PyResult<Self> {
        let clock = Clock::start();
        let interpreter =
            Arc::new(CPython::new(py, clock, plan.settings.force, plan.settings.selection.needs())?);
        let tracers = interpreter.tracers(py, Purpose::Inspect)?.unwrap_or_default();
        let subject = plan.subject(process, tracers);
        let collector = collector_of(&plan, subject, clock, &interpreter, None);
        Ok(Self { collector, interpreter, clock, plan: Arc::new(plan), explicitly, parents: None })
    }

    /// In a child process, puts a collector of its own in the place of its parent's.
    ///
    /// The parent's is never dropped: a thread that does not exist here may hold its locks. Its pipeline is, if nobody
    /// was using it when the fork was made: the child shares no descriptor with its parent.
    pub fn inherit(py: Python<'_>, process: &Process) {
        let Some(parents) = RUNNING.load_full() else { return };
        let inheritance = parents.collector.inheritance();
        let mut subject = parents.plan.subject(process, Tracers::default());
        let handover = inheritance.map(|Inheritance { handover, identity_inputs }| {
            subject.tracers = identity_inputs.tracers.without_ids();
            subject.environment = identity_inputs.environment;
            // It may be within an invocation.
            subject.function = identity_inputs.function;
            handover
        });
        // A finaliser may have forked within a collection.
        parents.interpreter.gc_counters().discard_start();
        let heir = Self {
            collector: collector_of(
                &parents.plan,
                subject,
                parents.clock,
                &parents.interpreter,
                handover.as_ref(),
            ),
            interpreter: Arc::clone(&parents.interpreter),
            clock: parents.clock,
            plan: Arc::clone(&parents.plan),
            explicitly: parents.explicitly,
            parents: Some(Arc::clone(&parents)),
        };
        process.keep(parents);
        RUNNING.store(Some(Arc::new(heir)));
        if let Some(heir) = current(py) {
            heir.resume();
        }
    }

    /// Where the process is restored from an image, puts a collector of its own in the place of that which was stored.
    ///
    /// # Errors
    ///
    /// What a signal handler of the program has raised meanwhile.
    pub fn restore(py: Python<'_>, process: &Process) -> PyResult<()> {
        let Some(stored) = RUNNING.load_full() else { return Ok(()) };
        // The extension may be another than where the image was made.
        let (plan, warnings) = Plan::new(py, &stored.plan.arguments)?;
        let mut messages = process.messages(warnings);
        let tracers = stored.interpreter.tracers(py, Purpose::Inspect)?.unwrap_or_default();
        let subject = plan.subject(process, tracers);
        let restored = Arc::new(Self {
            collector: collector_of(&plan, subject, stored.clock, &stored.interpreter, None),
            interpreter: Arc::clone(&stored.interpreter),
            clock: stored.clock,
            plan: Arc::new(plan),
            explicitly: stored.explicitly,
            parents: stored.parents.clone(),
        });
        RUNNING.store(Some(Arc::clone(&restored)));
        messages.extend(restored.start(py));
        log::from_program(py, &messages)
    }

    /// What the interpreter knows.
    pub fn interpreter(&self) -> &CPython {
        &self.interpreter
    }

    /// What collects.
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    /// What it was started with.
    pub fn settings(&self) -> &Settings {
        &self.plan.settings
    }

    /// The clock of what collects.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Lets the collector tick, now or again.
    pub fn resume(&self) {
        if Self::may_run() {
            self.collector.resume();
        }
    }

    /// Lets it tick again if it does not, unless a fork is under way.
    fn ensure_running(&self) {
        if Self::may_run() {
            self.collector.ensure_running();
        }
    }

    fn may_run() -> bool {
        Process::known().is_some_and(|process| !process.is_closed() && !process.only_forks())
    }

    /// Begins to count and to send; a message if that is not possible.
    fn start(&self, py: Python<'_>) -> Option<Message> {
        fork::finalise_multiprocessing_children(py);
        let installed = self.interpreter.install(py).map_err(|error| error.to_string());
        if Process::known().is_some_and(Process::only_forks) {
            return None;
        }
        let started = installed.and_then(|()| self.collector.run().map_err(|error| error.to_string()));
        let error = started.err()?;
        drop(stop(py, BUDGET, false));
        Some(Message::warning(format!("runtime metrics are not collected: {error}")))
    }

    /// Gives arguments to a collector that is running, if it may still be given any.
    fn apply(
        self: &Arc<Self>,
        py: Python<'_>,
        process: &Process,
        arguments: &Arguments,
        plan: Plan,
    ) -> PyResult<Option<Message>> {
        let given = arguments.given();
        if given.is_empty() {
            return Ok(None);
        }
        if self.explicitly {
            let names = given.join(", ");
            let text = format!("RuntimeMetrics is enabled already; enable() ignored its arguments {names}");
            return Ok(Some(Message::warning(text)));
        }
        let tracers = self.interpreter.tracers(py, Purpose::Inspect)?.unwrap_or_default();
        let subject = plan.subject(process, tracers);
        let warning = subject.identity().warning();
        self.interpreter.reconfigure(plan.settings.force, plan.settings.selection.needs());
        py.detach(|| self.collector.reconfigure(&plan.settings, subject));
        let changed = Self {
            collector: Arc::clone(&self.collector),
            interpreter: Arc::clone(&self.interpreter),
            clock: self.clock,
            plan: Arc::new(plan),
            explicitly: true,
            parents: self.parents.clone(),
        };
        // If it was disabled meanwhile, that holds.
        RUNNING.compare_and_swap(self, Some(Arc::new(changed)));
        Ok(warning)
    }
}

fn collector_of(
    plan: &Plan,
    subject: IdentityInputs,
    clock: Clock,
    interpreter: &Arc<CPython>,
    handover: Option<&OutputHandover>,
) -> Arc<Collector> {
    let gunicorn = Process::known().map(|process| Arc::clone(&process.gunicorn)).unwrap_or_default();
    let counters = Counters { gc: interpreter.gc_counters(), gunicorn };
    Collector::new(
        Path::new("/"),
        clock,
        counters,
        &plan.settings,
        subject,
        Arc::clone(interpreter) as _,
        handover,
    )
}

/// Whatever keeps us from starting is no reason to disturb the program.
fn give_up(py: Python<'_>, error: PyErr) -> PyResult<()> {
    if !error.is_instance_of::<PyException>(py) {
        // What a signal handler of the program has raised.
        return Err(error);
    }
    log::from_program(py, &[Message::warning(format!("runtime metrics are not collected: {error}"))])
}

/// A defect of ours ends the collector, not the program.
pub fn shielded<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        forget();
        otherwise
    })
}
