//! The collector that runs in this process: how it runs and stops, and how it is replaced in a forked child and in a
//! process that was restored from a snapshot.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use super::interpreter::{CPython, Purpose};
use super::interrupt::catch_exception;
use super::plan::Plan;
use super::process::Process;
use super::program::module_of_caller;
use super::{orphans, pending, rq, turn};
use crate::clock::Clock;
use crate::collector::{Collector, Inheritance, RETRY_DELAY, Step};
use crate::identity::tracers::Tracers;
use crate::memory;
use crate::message::Message;
use crate::replaceable::Replaceable;
use crate::settings::Settings;

/// How long stopping takes at most.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// What runs in this process, replaced as a whole.
static RUNNING: Replaceable<Running> = Replaceable::empty();

/// What is not used any more, the latest first.
static ABANDONED: Replaceable<Abandoned> = Replaceable::empty();

/// What is kept for ever, and what was kept before it.
struct Abandoned {
    _running: ManuallyDrop<Arc<Running>>,
    _before: Option<Arc<Abandoned>>,
}

thread_local! {
    /// What ran when the forks began that this thread is making. It may be disabled or replaced before they end.
    ///
    /// Empty between forks, and never dropped: for what is dropped with a thread the C library allocates memory at its
    /// first use, and ends the process if there is none.
    static FORKING: RefCell<ManuallyDrop<Vec<Arc<Running>>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// A collector, and what its successor in a child process is made of.
pub struct Running {
    collector: Arc<Collector>,
    interpreter: Arc<CPython>,
    clock: Clock,
    plan: Arc<Plan>,
    /// The program started it itself. After an automatic start `enable()` may still give arguments.
    is_explicit: bool,
}

/// What runs in this process. A forked child that has not noticed the fork yet becomes an independent process first.
pub fn current(py: Python<'_>) -> Option<Arc<Running>> {
    if Process::known().is_some_and(|process| process.fork_mark.is_inherited()) {
        become_child(py);
    }
    RUNNING.load()
}

/// Whether what runs reads this interpreter.
fn is_current(interpreter: &CPython) -> bool {
    RUNNING.load().is_some_and(|running| ptr::eq(&raw const *running.interpreter, interpreter))
}

/// Whether something runs.
pub fn is_running() -> bool {
    RUNNING.load().is_some()
}

/// The message that nothing is collected, for this reason.
pub fn not_collected(reason: &dyn std::fmt::Display) -> Message {
    Message::warning(format!("runtime metrics are not collected: {reason}"))
}

/// Stops what runs, with a last flush, within `timeout`; returns the collector, which may have messages to be logged.
///
/// Everything has ended even if a signal handler of the program raised meanwhile.
pub fn stop(py: Python<'_>, timeout: Duration, interpreter_ends: bool) -> PyResult<Option<Arc<Collector>>> {
    current(py);
    let Some(running) = RUNNING.swap(None) else { return Ok(None) };
    rq::mark_reporting();
    // Where memory is short, nothing is flushed.
    let (answer, interrupted) = if memory::is_available() {
        match catch_exception(py, running.interpreter.answer(py, Purpose::Inspect)) {
            Ok(answer) => (answer.ok(), Ok(())),
            Err(error) => (None, Err(error)),
        }
    } else {
        (None, Ok(()))
    };
    // If this fails, a callback stays whose counts are never read.
    drop(running.interpreter.uninstall(py));
    if Process::known().is_some_and(Process::is_helper) {
        return interrupted.map(|()| None);
    }
    py.detach(|| running.collector.stop(answer, timeout, interpreter_ends));
    interrupted.map(|()| Some(Arc::clone(&running.collector)))
}

/// Makes a forked child that has not noticed the fork yet an independent process: with another runtime-id, and with
/// counters and a socket of its own. Its threads start later, unless the caller has a reason to start them now.
///
/// A child begins with the one thread that forked, so that no other uses the parent's collector meanwhile. The parent's
/// pipeline is dropped if no flush was under way at the fork, so that the child shares no descriptor with its parent.
pub fn become_child(py: Python<'_>) {
    let Some(process) = Process::known() else { return };
    if !process.become_child() {
        return;
    }
    rq::become_child();
    turn::become_child();
    FORKING.with_borrow_mut(|forking| std::mem::take(&mut **forking)).into_iter().for_each(abandon);
    let Some(inherited) = RUNNING.load() else {
        drop(orphans::remove(py));
        return;
    };
    let running = Arc::new(inherited.for_child(process));
    RUNNING.store(Some(Arc::clone(&running)));
    abandon(inherited);
    running.postpone(py, process);
}

/// What runs when this thread begins a fork. [`end_fork`] returns the same, even if it is disabled or replaced in
/// between.
pub fn begin_fork(py: Python<'_>) -> Option<Arc<Running>> {
    let running = current(py)?;
    FORKING.with_borrow_mut(|forking| forking.push(Arc::clone(&running)));
    Some(running)
}

/// What ran when this thread began the fork that has ended in the parent.
pub fn end_fork() -> Option<Arc<Running>> {
    FORKING.with_borrow_mut(|forking| {
        let running = forking.pop();
        if forking.is_empty() {
            forking.shrink_to_fit();
        }
        running
    })
}

/// Has the main thread resume the collector, or notice that it is in a forked child, as soon as it runs Python code;
/// false if that cannot be arranged.
///
/// May be called attached or detached, and within a garbage collection.
pub fn resume_soon() -> bool {
    pending::call_soon(resume_pending, 0)
}

/// Has the main thread make a pending call that counts how long it runs Python code; false if that cannot be arranged.
fn count_soon(call: usize) -> bool {
    pending::call_soon(count_pending, call)
}

/// Does not attach, as it is made thousands of times.
extern "C" fn count_pending(call: *mut c_void) -> c_int {
    shielded((), || {
        let running = RUNNING.load();
        let (Some(process), Some(running)) = (Process::known(), running) else { return };
        // Hooks of the program run Python code during a fork, before which no thread may start.
        if running.collector.is_forking() {
            count_soon(call.addr());
            return;
        }
        let step = process.postponement.step(call.addr(), || running.clock.now());
        if step == Step::Start || (step == Step::Again && !count_soon(call.addr())) {
            // It cannot attach while the interpreter is finalising; then there is nothing to do.
            let _ = Python::try_attach(|py| {
                if let Some(running) = current(py) {
                    running.resume();
                }
            });
        }
    });
    0
}

extern "C" fn resume_pending(_: *mut c_void) -> c_int {
    shielded((), || {
        // It cannot attach while the interpreter is finalising; then there is nothing to do.
        let _ = Python::try_attach(|py| {
            if pending::has_to_wait(py) && resume_soon() {
                return;
            }
            pending::end_wait();
            // A child that C code has forked is noticed late enough.
            let is_new = Process::known().is_some_and(|process| process.fork_mark.is_inherited());
            if let Some(running) = current(py)
                && (is_new || !running.must_wait())
            {
                running.ensure_running();
            }
        });
    });
    0
}

/// Runs our code so that a panic, which is a bug of ours, ends the collector and not the program. While memory is short
/// it is no bug: `PyO3` panics where Python has none for an object.
pub fn shielded<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        if memory::is_available()
            && let Some(running) = RUNNING.swap(None)
        {
            running.collector.begin_pause();
            abandon(running);
        }
        otherwise
    })
}

/// Never drops it, as a thread that will never release them may hold its locks: in a child, what ran in its parent;
/// after a panic, what ran then.
fn abandon(running: Arc<Running>) {
    let abandoned = Abandoned { _running: ManuallyDrop::new(running), _before: ABANDONED.load() };
    ABANDONED.store(Some(Arc::new(abandoned)));
}

impl Running {
    /// What would run with this plan; nothing does yet.
    pub fn new(py: Python<'_>, process: &'static Process, plan: Plan, is_explicit: bool) -> PyResult<Self> {
        let clock = Clock::start();
        let interpreter =
            Arc::new(CPython::new(py, process, clock, &plan.settings, resume_soon, is_current)?);
        let tracers = interpreter.tracers(py, Purpose::Inspect)?.unwrap_or_default();
        let inputs = plan.identity_inputs(process, tracers);
        let collector = plan.collector(process, inputs, clock, &interpreter, None);
        Ok(Self { collector, interpreter, clock, plan: Arc::new(plan), is_explicit })
    }

    /// What replaces this in a child process. Nothing runs yet.
    fn for_child(&self, process: &Process) -> Self {
        let mut inputs = self.plan.identity_inputs(process, Tracers::default());
        let inheritance = self.collector.inheritance();
        let handover = inheritance.map(|Inheritance { handover, identity_inputs }| {
            inputs.tracers = identity_inputs.tracers.without_ids();
            inputs.environment = identity_inputs.environment;
            // The fork may have been made within an invocation.
            inputs.function = identity_inputs.function;
            handover
        });
        // A finaliser may have forked within a collection, which then does not end here.
        self.interpreter.gc_counters().discard_start();
        self.interpreter.blocks().renew();
        self.with(self.plan.collector(process, inputs, self.clock, &self.interpreter, handover.as_ref()))
    }

    /// Lets it be what runs in this process, unless something does already; whether it is.
    pub fn register(self: &Arc<Self>) -> bool {
        RUNNING.replace(None, Arc::clone(self))
    }

    /// In a process that was restored from a snapshot, replaces the collector that was stored in it; returns messages
    /// to be logged.
    pub fn restore(py: Python<'_>, process: &'static Process) -> PyResult<Vec<Message>> {
        let Some(stored) = RUNNING.load() else { return Ok(Vec::new()) };
        // The extension may be another than where the snapshot was taken.
        let (plan, warnings) = Plan::new(py, &stored.plan.arguments)?;
        let mut messages = process.messages(warnings);
        let tracers = stored.interpreter.tracers(py, Purpose::Inspect)?.unwrap_or_default();
        let inputs = plan.identity_inputs(process, tracers);
        stored.interpreter.reconfigure(py, &plan.settings);
        let collector = plan.collector(process, inputs, stored.clock, &stored.interpreter, None);
        let restored = Arc::new(Self { plan: Arc::new(plan), ..stored.with(collector) });
        RUNNING.store(Some(Arc::clone(&restored)));
        messages.extend(restored.start(py)?);
        Ok(messages)
    }

    /// The same with another collector.
    fn with(&self, collector: Arc<Collector>) -> Self {
        Self {
            collector,
            interpreter: Arc::clone(&self.interpreter),
            clock: self.clock,
            plan: Arc::clone(&self.plan),
            is_explicit: self.is_explicit,
        }
    }

    /// The interpreter that its collector reads.
    pub fn interpreter(&self) -> &CPython {
        &self.interpreter
    }

    /// The collector.
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    /// What it was started with.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The settings that it was started with.
    pub fn settings(&self) -> &Settings {
        &self.plan.settings
    }

    /// The collector's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Lets the collector tick, now or again.
    pub fn resume(&self) {
        let Some(process) = Process::known() else { return };
        if process.is_exiting() || process.is_helper() {
            return;
        }
        if self.collector.resume() {
            process.postponement.end();
        } else {
            count_soon(process.postponement.begin_after_refusal(self.clock.now() + RETRY_DELAY));
        }
    }

    /// Lets the collector tick again if it does not, unless a fork is under way.
    pub fn ensure_running(&self) {
        if !self.collector.is_forking() {
            self.resume();
        }
    }

    /// The same where the start of its threads was postponed; otherwise it costs nothing.
    pub fn end_postponement(&self) {
        if Process::known().is_some_and(|process| process.postponement.is_pending()) {
            self.ensure_running();
        }
    }

    /// Whether its threads must not start yet unless the program asks for it.
    pub fn must_wait(&self) -> bool {
        Process::known().is_some_and(|process| process.postponement.is_waiting(self.clock.now()))
    }

    /// In a child that has just been forked, starts its threads later: many a child executes another program soon, or
    /// enters a namespace first, which a process with several threads cannot.
    fn postpone(&self, py: Python<'_>, process: &Process) {
        let first_tick = self.clock.now() + self.plan.settings.interval;
        let module = module_of_caller(py);
        if let Some(call) = process.postponement.begin_after_fork(first_tick, module.as_deref())
            && !count_soon(call)
        {
            self.resume();
        }
    }

    /// Starts to count and to send; returns messages if not everything is possible.
    pub fn start(&self, py: Python<'_>) -> PyResult<Vec<Message>> {
        if let Err(error) = self.interpreter.install(py) {
            RUNNING.store(None);
            // If this fails, a callback stays whose counts are never read.
            drop(self.interpreter.uninstall(py));
            return catch_exception(py, Err(error)).map(|refused: PyResult<()>| {
                refused.err().map(|error| not_collected(&error)).into_iter().collect()
            });
        }
        self.resume();
        Ok(self.collector.take_messages())
    }

    /// Gives arguments to a collector that runs, unless the program started it itself; returns a message to be logged.
    pub fn apply(
        self: &Arc<Self>,
        py: Python<'_>,
        process: &'static Process,
        plan: Plan,
    ) -> PyResult<Option<Message>> {
        if plan.arguments.given().is_empty() {
            return Ok(None);
        }
        let tracers = self.interpreter.tracers(py, Purpose::Inspect)?.unwrap_or_default();
        if self.is_explicit {
            let ignored = self.plan.changed_by(&plan, process, &tracers)?.join(", ");
            let text = || format!("RuntimeMetrics is already enabled: enable() ignored {ignored}");
            return Ok((!ignored.is_empty()).then(|| Message::warning(text())));
        }
        let inputs = plan.identity_inputs(process, tracers);
        let warning = inputs.identity().warning();
        self.interpreter.reconfigure(py, &plan.settings);
        py.detach(|| self.collector.reconfigure(&plan.settings, inputs));
        let reconfigured =
            Self { plan: Arc::new(plan), is_explicit: true, ..self.with(Arc::clone(&self.collector)) };
        // If metrics were disabled meanwhile, they stay so.
        RUNNING.replace(Some(self), Arc::new(reconfigured));
        Ok(warning)
    }
}
