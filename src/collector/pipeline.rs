//! From facts to the wire: one flush, and a look that leaves everything as it is.
//!
//! The clock is the caller's: `now` is time on the collector's monotonic clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::catalogue::metric::{Sample, Value};
use crate::catalogue::selection::{Selection, samples};
use crate::emitter::origin::Origin;
use crate::emitter::{Distribution, Emitter, Handover, LogLines, LookUp, Status};
use crate::identity::IdentityInputs;
use crate::identity::function::Invoked;
use crate::identity::tracers::RuntimeWorker;
use crate::interval::Interval;
use crate::message::{Message, Severity};
use crate::settings::Sink;
use crate::snapshot::{Collections, Interpreter, Server, Snapshot};
use crate::sources::OperatingSystem;
use crate::sources::gc::GcCounters;
use crate::sources::gunicorn::Gunicorn;

/// Sources, the last flush's snapshot, and the emitter.
#[derive(Debug)]
pub struct Pipeline {
    operating_system: OperatingSystem,
    gc: Arc<GcCounters>,
    gunicorn: Arc<Gunicorn>,
    earlier: Snapshot,
    output: Output,
    messages: Vec<Message>,
    warned_gc_callback_removed: bool,
    told_of_silence: bool,
}

/// Where samples go, how many, and how often.
#[derive(Debug)]
pub struct Output {
    /// Writes and sends them.
    pub emitter: Emitter,
    /// What lines are to say of their origin, and the root that it is looked for under; `None` from the first flush on.
    pub origin: Option<(Origin, PathBuf)>,
    /// Who sends.
    pub subject: IdentityInputs,
    /// How many of its tags do not fit, by what has been said.
    pub dropped_tags: usize,
    /// What is sent, but for what ddtrace sends.
    pub selection: Selection,
    /// Time between two flushes, as planned.
    pub interval: Duration,
    /// How they leave.
    pub route: Sink,
}

impl Pipeline {
    /// Opens the sources and takes the baseline: nothing of the process's past is ever sent.
    #[must_use]
    pub fn new(
        root: &Path,
        gc: Arc<GcCounters>,
        gunicorn: Arc<Gunicorn>,
        output: Output,
        now: Duration,
    ) -> Self {
        let mut pipeline = Self {
            operating_system: OperatingSystem::open(root),
            gc,
            gunicorn,
            earlier: Snapshot::default(),
            output,
            messages: Vec::new(),
            warned_gc_callback_removed: false,
            told_of_silence: false,
        };
        let collections = pipeline.gc.drain();
        pipeline.earlier = pipeline.snapshot(now, Some(collections), None);
        pipeline.earlier.gunicorn = pipeline.gunicorn.drain(None, now);
        pipeline
    }

    /// Begins anew at `now`, for an invocation: what has gathered since the last is nobody's.
    pub fn begin(&mut self, now: impl FnOnce() -> Duration, invoked: Invoked) {
        self.messages.extend(self.output.tell_of_invocation(invoked));
        let collections = self.gc.drain();
        self.earlier = self.snapshot(now(), Some(collections), None);
        self.earlier.gunicorn = self.gunicorn.read(None);
    }

    /// Sends a value of a metric of the program's own, in at most `within`, or adds it to `log`.
    pub fn distribute(
        &mut self,
        distribution: &Distribution,
        now: Duration,
        within: Duration,
        log: &mut LogLines,
    ) {
        self.output.distribute(distribution, now, within, log);
    }

    /// Closes the socket until something is sent.
    pub fn disconnect(&self) {
        self.output.emitter.transport().disconnect();
    }

    /// Sends the interval up to `now`, in at most `within`, or adds it to `log`, if there is somebody to write it; says
    /// whether everything has left.
    ///
    /// `facts` of the interpreter are asked for after everything that does not need it has been read, and may be waited for.
    pub fn flush(
        &mut self,
        now: Duration,
        within: Duration,
        log: Option<&mut LogLines>,
        facts: impl FnOnce() -> Option<Interpreter>,
    ) -> bool {
        // First, so that no collection that the rest provokes is counted in it.
        let collections = self.gc.drain();
        let mut later = self.snapshot(now, Some(collections.clone()), None);
        later.interpreter = facts();
        let before = self.output.subject.tracers.worker;
        if let Some(facts) = &later.interpreter {
            self.messages.extend(self.output.follow(facts));
        }
        later.gunicorn = self.gunicorn.drain(server(later.interpreter.as_ref()), now);
        if let Some(Err(error)) = later.interpreter.as_ref().and_then(|facts| facts.gunicorn.as_ref()) {
            self.tell_of_silence(error);
        }
        if self.gc.take_unseen() {
            later.collections = None;
            self.warn_gc_callback_removed();
        }
        let interval = Interval::new(&self.earlier, &later, self.output.interval);
        // What ddtrace sent as it was stopped stands for this interval.
        let selection =
            self.output.selection().without(self.output.subject.tracers.worker.ended_with(before));
        let everything_left = self.output.send(selection, &interval, now, within, log);
        later.collections = Some(collections);
        self.earlier = later;
        everything_left
    }

    /// The values a flush would send now.
    pub fn look(&mut self, now: Duration, facts: Option<Interpreter>) -> Vec<Sample> {
        let collections = (!self.gc.is_unseen()).then(|| self.gc.read());
        let worker = facts.as_ref().and_then(|facts| facts.tracers.as_ref()).map(|tracers| tracers.worker);
        let selection = worker
            .map_or_else(|| self.output.selection(), |worker| self.output.selection.without(worker.sends()));
        let mut later = self.snapshot(now, collections, facts);
        later.gunicorn = self.gunicorn.read(server(later.interpreter.as_ref()));
        samples(selection, &Interval::new(&self.earlier, &later, self.output.interval))
    }

    /// The look-up of the receiver's name to be made now, if it is time for one.
    #[must_use]
    pub fn due_look_up(&self, now: Duration) -> Option<LookUp> {
        self.output.emitter.transport().due_look_up(now)
    }

    /// How it stands with sending.
    #[must_use]
    pub fn status(&self) -> Status {
        self.output.status()
    }

    /// What a child process can use of the way to the receiver.
    #[must_use]
    pub fn handover(&self) -> Handover {
        self.output.emitter.transport().handover()
    }

    /// Who sends.
    #[must_use]
    pub fn subject(&self) -> &IdentityInputs {
        &self.output.subject
    }

    /// Time between two flushes, as planned.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.output.interval
    }

    /// Sends elsewhere or otherwise from now on; what has gathered is kept.
    pub fn redirect(&mut self, output: Output) {
        let before = std::mem::replace(&mut self.output, output);
        // It goes on, if there is one.
        if let Some(invoked) = before.subject.function.and_then(|function| function.invoked) {
            self.messages.extend(self.output.tell_of_invocation(invoked));
        }
    }

    /// What there is to say since the last call.
    #[must_use]
    pub fn take_messages(&mut self) -> Vec<Message> {
        let mut messages = std::mem::take(&mut self.messages);
        messages.append(&mut self.output.emitter.transport().take_messages());
        messages
    }

    fn warn_gc_callback_removed(&mut self) {
        if !std::mem::replace(&mut self.warned_gc_callback_removed, true) {
            let text = "the program has cleared gc.callbacks: our entry is back, the metrics of collections and pauses \
                        are left out for the interval";
            self.messages.push(Message::warning(text));
        }
    }

    fn tell_of_silence(&mut self, error: &str) {
        if !std::mem::replace(&mut self.told_of_silence, true) {
            let text = format!("Gunicorn does not tell of its workers and connections: {error}");
            self.messages.push(Message::warning(text));
        }
    }

    fn snapshot(
        &mut self,
        at: Duration,
        collections: Option<Collections>,
        interpreter: Option<Interpreter>,
    ) -> Snapshot {
        let (usage, process) = self.operating_system.read();
        Snapshot { at, usage, process, collections, interpreter, ..Snapshot::default() }
    }
}

fn server(facts: Option<&Interpreter>) -> Option<&Server> {
    facts?.server()
}

impl Output {
    fn status(&self) -> Status {
        let status = self.emitter.status();
        match self.route {
            Sink::Socket => status,
            Sink::Log | Sink::Nowhere => Status { destination: None, transport: None, ..status },
        }
    }

    /// What is ours to send.
    fn selection(&self) -> Selection {
        self.selection.without(self.subject.tracers.worker.sends())
    }

    /// Takes over what environment and tracers say by now. If the interpreter does not answer, what it said last holds.
    fn follow(&mut self, facts: &Interpreter) -> Vec<Message> {
        let before = self.subject.tracers.worker;
        if !self.subject.follow(&facts.environment, facts.tracers.as_ref()) {
            return Vec::new();
        }
        let warning = self.join_tags();
        warning.into_iter().chain(self.tell_of_worker(before)).collect()
    }

    /// One invocation has more tags than another; what has been said of those that are left out is not said again.
    fn tell_of_invocation(&mut self, invoked: Invoked) -> Option<Message> {
        let function =
            self.subject.function.as_mut().filter(|function| function.invoked.as_ref() != Some(&invoked))?;
        function.invoked = Some(invoked);
        let said = self.dropped_tags;
        let warning = self.join_tags();
        self.dropped_tags = self.dropped_tags.max(said);
        warning.filter(|_| said == 0)
    }

    fn join_tags(&mut self) -> Option<Message> {
        let identity = self.subject.identity();
        let warning = if identity.dropped_tags > self.dropped_tags { identity.warning() } else { None };
        self.dropped_tags = identity.dropped_tags;
        self.emitter.set_tags(identity.tags);
        warning
    }

    /// Sends a value of a metric of the program's own, in at most `within`, or adds it to `log`.
    pub fn distribute(
        &mut self,
        distribution: &Distribution,
        now: Duration,
        within: Duration,
        log: &mut LogLines,
    ) {
        if self.route == Sink::Nowhere {
            return;
        }
        let tags = self.subject.tags_beside(&distribution.tags);
        if self.route == Sink::Log {
            log.push(&distribution.name, &Value::Real(distribution.value), distribution.timestamp, &tags);
            return;
        }
        self.find_origin();
        self.emitter.distribute(distribution, &tags, now, within);
    }

    fn tell_of_worker(&self, before: RuntimeWorker) -> Option<Message> {
        let text = match (before, self.subject.tracers.worker) {
            (before, now) if before == now => return None,
            (RuntimeWorker::Sent(_) | RuntimeWorker::Stopped(..), RuntimeWorker::Off) => return None,
            (_, RuntimeWorker::Sent(rows) | RuntimeWorker::Sends(rows)) => {
                format!("ddtrace sends runtime metrics: {} of the names are left to it", rows.len())
            }
            (_, RuntimeWorker::Off) => "ddtrace sends no runtime metrics any more: all names are ours".to_owned(),
            (_, RuntimeWorker::Stopped(..)) => {
                "ddtrace's runtime metrics were disabled, as DD_RUNTIME_METRICS_FORCE says: all names are ours".to_owned()
            }
        };
        Some(Message::new(Severity::Info, text))
    }

    fn send(
        &mut self,
        selection: Selection,
        interval: &Interval<'_>,
        now: Duration,
        within: Duration,
        log: Option<&mut LogLines>,
    ) -> bool {
        match self.route {
            Sink::Socket => {}
            Sink::Log => {
                let Some(log) = log else { return false };
                for sample in samples(selection, interval) {
                    log.push(&sample.name(), &sample.value, None, &self.emitter.tags(&sample));
                }
                return true;
            }
            Sink::Nowhere => return false,
        }
        self.find_origin();
        self.emitter.send(samples(selection, interval), now, within)
    }

    /// At the first flush and not before: a server may drop its privileges or be put into another cgroup after its start.
    fn find_origin(&mut self) {
        if let Some((origin, root)) = self.origin.take() {
            self.emitter.set_suffix(origin.fields(|| container(&root)));
        }
    }
}

#[cfg(target_os = "linux")]
fn container(root: &Path) -> Option<String> {
    crate::sources::container::local_data(root)
}

#[cfg(not(target_os = "linux"))]
fn container(_root: &Path) -> Option<String> {
    None
}
