//! Where samples go: who sends them, which of them, how they leave.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::rows::Rows;
use crate::catalogue::metric::{Sample, Value};
use crate::catalogue::selection::Selection;
use crate::clock::{self, Clock};
use crate::emitter::address::Destination;
use crate::emitter::origin::Origin;
use crate::emitter::{Distribution, Emitter, Handover, LogLines, LookUp, Status, Transport};
use crate::identity::IdentityInputs;
use crate::identity::function::InvocationFacts;
use crate::identity::tracers::{RuntimeWorker, Tracers};
use crate::interval::Interval;
use crate::message::{Message, Severity};
use crate::settings::variables::Environment;
use crate::settings::{Schedule, Settings, Sink};
use crate::snapshot::{Snapshot, SourceSet};

/// Everything about sending that settings and identity decide.
#[derive(Debug)]
pub struct Output {
    emitter: Emitter,
    /// What lines say about their origin, and the root below which it is found; `None` once the emitter has it.
    origin: Option<(Origin, PathBuf)>,
    inputs: IdentityInputs,
    /// How many user tags are dropped. A warning is logged only when this grows.
    dropped_tags: usize,
    /// What is sent, apart from what ddtrace sends.
    selection: Selection,
    needs: SourceSet,
    interval: Duration,
    sink: Sink,
    log: LogLines,
    /// Empty between two flushes; its memory is kept.
    samples: Vec<Sample>,
    rows: Rows,
    /// What was last logged about ddtrace's runtime metrics.
    logged_worker: RuntimeWorker,
    /// Whether it was set that they run beside ours.
    keeps_ddtraces: bool,
    /// Whether it was logged what is sent where.
    is_introduced: bool,
}

/// What a child process takes over of its parent's output.
#[derive(Clone, Debug)]
pub struct OutputHandover {
    transport: Handover,
    logged_worker: RuntimeWorker,
    is_introduced: bool,
}

impl Output {
    /// An output that opens its socket, and looks for its container below `root`, at the first flush. While `hurry` is
    /// true no flush waits for a slow receiver.
    #[must_use]
    pub fn new(
        root: &Path,
        clock: Clock,
        hurry: &Arc<AtomicBool>,
        settings: &Settings,
        inputs: IdentityInputs,
    ) -> Self {
        let transport = Transport::new(settings.destination.clone(), clock, Arc::clone(hurry));
        let identity = inputs.identity();
        let mut emitter = Emitter::new(transport, identity.tags, settings.wire_type);
        if settings.client_telemetry {
            emitter = emitter.with_client_telemetry();
        }
        // That ddtrace sends them is logged at the first flush: by then the program has set up its log.
        let logged_worker = match inputs.tracers.worker {
            RuntimeWorker::Sends(_) => RuntimeWorker::Off,
            worker => worker,
        };
        Self {
            emitter,
            origin: Some((settings.origin.clone(), root.to_owned())),
            inputs,
            dropped_tags: identity.dropped_tags,
            selection: settings.selection,
            needs: settings.needs(),
            // However long an invocation takes, the process is not frozen meanwhile.
            interval: match settings.schedule {
                Schedule::Periodic => settings.interval,
                Schedule::PerInvocation => Duration::MAX,
            },
            sink: settings.sink,
            log: LogLines::default(),
            samples: Vec::new(),
            rows: Rows::default(),
            logged_worker,
            keeps_ddtraces: settings.keeps_ddtraces,
            is_introduced: false,
        }
    }

    /// Takes over what a parent process knew about the way to the receiver, and what it has logged.
    pub fn inherit(&mut self, handover: &OutputHandover) {
        self.emitter.transport().take_over(&handover.transport);
        self.logged_worker = handover.logged_worker;
        self.is_introduced = handover.is_introduced;
    }

    /// What a child process can take over.
    #[must_use]
    pub fn handover(&self) -> OutputHandover {
        OutputHandover {
            transport: self.emitter.transport().handover(),
            // Where this process has not logged it yet, it will: not every child of it has to.
            logged_worker: match self.logged_worker {
                RuntimeWorker::Off => self.inputs.tracers.worker,
                logged => logged,
            },
            is_introduced: self.is_introduced,
        }
    }

    /// The sources that the selected rows need, including rows that ddtrace currently sends.
    #[must_use]
    pub fn needs(&self) -> SourceSet {
        self.needs
    }

    /// The planned time between two flushes.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Who sends.
    #[must_use]
    pub fn identity_inputs(&self) -> &IdentityInputs {
        &self.inputs
    }

    /// The rows to send, given what these tracers send themselves; `None` means the tracers of the last answer.
    #[must_use]
    pub fn selection_beside(&self, tracers: Option<&Tracers>) -> Selection {
        self.selection.without(tracers.unwrap_or(&self.inputs.tracers).worker.sends())
    }

    /// Takes over what environment and tracers say now; returns messages to be logged.
    pub fn follow(&mut self, environment: &Arc<Environment>, tracers: Option<&Tracers>) -> Vec<Message> {
        let has_changed = self.inputs.follow(environment, tracers);
        let dropped_tags = if has_changed { self.join_tags() } else { None };
        let worker_change = tracers.and_then(|tracers| self.worker_change(tracers.worker));
        dropped_tags.into_iter().chain(worker_change).collect()
    }

    /// Takes over the tags of an invocation. One may have more than another: dropped tags are logged only once.
    pub fn set_invocation(&mut self, invocation: InvocationFacts) -> Option<Message> {
        let function = self.inputs.function.as_mut()?;
        if function.invocation.as_ref() == Some(&invocation) {
            return None;
        }
        function.invocation = Some(invocation);
        let logged = self.dropped_tags;
        let warning = self.join_tags();
        self.dropped_tags = self.dropped_tags.max(logged);
        warning.filter(|_| logged == 0)
    }

    /// The invocation under way, if there is one.
    #[must_use]
    pub fn into_invocation(self) -> Option<InvocationFacts> {
        self.inputs.function.and_then(|function| function.invocation)
    }

    /// Sends an interval, in at most `within`; whether everything was sent.
    ///
    /// `before` is the state of ddtrace's worker at the last flush. If we stopped the worker since, its last report
    /// covers this interval, and those rows are skipped once.
    pub fn send(
        &mut self,
        before: RuntimeWorker,
        earlier: &Snapshot,
        later: &Snapshot,
        now: Duration,
        within: Duration,
    ) -> bool {
        let worker = self.inputs.tracers.worker;
        let selection = self.selection_beside(None).without(worker.ended_with(before));
        let interval = Interval::new(earlier, later, self.interval);
        // A panic may have left some behind.
        self.samples.clear();
        self.rows.append(&mut self.samples, selection, interval, now);
        let everything_sent = match self.sink {
            Sink::Socket => {
                self.find_origin();
                self.emitter.send(self.samples.drain(..), now, within)
            }
            Sink::Log => {
                let at = clock::since_epoch().as_secs();
                for sample in self.samples.drain(..) {
                    self.log.push(&sample.name(), &sample.value, at, self.emitter.tags(&sample));
                }
                true
            }
            Sink::None(_) => false,
        };
        if everything_sent {
            self.rows.mark_sent(now);
        }
        everything_sent
    }

    /// What is sent where, how often and as whom; once, when it has been sent for the first time.
    pub fn introduce(&mut self) -> Option<Message> {
        if std::mem::replace(&mut self.is_introduced, true) || self.sink != Sink::Socket {
            return None;
        }
        let destination = self.emitter.transport().status().destination?;
        let rest = introduction(&destination, self.interval, &self.inputs);
        Some(Message::new(Severity::Info, format!("runtime metrics are sent {rest}")))
    }

    /// Sends a value of a custom metric, in at most `within`.
    pub fn send_custom(&mut self, distribution: &Distribution, now: Duration, within: Duration) {
        match self.sink {
            Sink::Socket => {
                let tags = self.inputs.custom_metric_tags(&distribution.tags);
                self.find_origin();
                // The Agent discards a distribution that has a timestamp.
                let takes_timestamps = self.inputs.sends_to_extension();
                let distribution =
                    if takes_timestamps { Cow::Borrowed(distribution) } else { distribution.undated() };
                self.emitter.distribute(&distribution, &tags, now, within);
            }
            Sink::Log => {
                let tags = self.inputs.custom_metric_tags(&distribution.tags);
                let at = distribution.timestamp.unwrap_or_else(|| clock::since_epoch().as_secs());
                self.log.push(&distribution.name, &Value::Real(distribution.value), at, tags.iter());
            }
            Sink::None(_) => {}
        }
    }

    /// Closes the socket until something is sent.
    pub fn disconnect(&self) {
        self.emitter.transport().disconnect();
    }

    /// The look-up of the receiver's name that is due at `now`, if there is one.
    #[must_use]
    pub fn due_look_up(&self, now: Duration) -> Option<LookUp> {
        self.emitter.transport().due_look_up(now)
    }

    /// The delivery status, where the last flush gave this snapshot.
    #[must_use]
    pub fn status(&self, snapshot: &Snapshot) -> Status {
        let status = self.emitter.status();
        let left_to_ddtrace = self.left_to(self.inputs.tracers.worker.sends());
        let rows = self.rows.states(self.selection, left_to_ddtrace, self.needs, snapshot);
        let status = Status { left_to_ddtrace, rows, ..status };
        match self.sink {
            Sink::Socket => status,
            Sink::Log | Sink::None(_) => Status { destination: None, transport: None, ..status },
        }
    }

    /// The lines for the program's log since the last call.
    #[must_use]
    pub fn take_log_lines(&mut self) -> String {
        self.log.take()
    }

    /// What there is to log about deliveries since the last call.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Message> {
        self.emitter.transport().take_messages()
    }

    /// Not before the first flush: a server may drop privileges or change its cgroup after its start.
    fn find_origin(&mut self) {
        let Some((origin, root)) = self.origin.take() else { return };
        let mut container = Ok(None);
        let fields = origin.fields(|| {
            container = find_container(&root);
            container.as_mut().ok().and_then(Option::take)
        });
        self.emitter.set_suffix(fields);
        if container.is_err() {
            // At the next flush again.
            self.origin = Some((origin, root));
        }
    }

    fn join_tags(&mut self) -> Option<Message> {
        let identity = self.inputs.identity();
        let warning = if identity.dropped_tags > self.dropped_tags { identity.warning() } else { None };
        self.dropped_tags = identity.dropped_tags;
        self.emitter.set_tags(identity.tags);
        warning
    }

    /// The rows that would be sent if ddtrace did not send these.
    fn left_to(&self, ddtraces: Selection) -> Selection {
        self.selection.without(self.selection.without(ddtraces))
    }

    /// That these rows are left to ddtrace. If those are most of ours, the user may well expect them from us: one
    /// variable, `DD_RUNTIME_METRICS_ENABLED`, starts ddtrace's runtime metrics and ours.
    fn left_message(&self, ddtraces: Selection) -> Message {
        let left = self.left_to(ddtraces).len();
        let ours = self.selection.without(Selection::named("gunicorn.*")).len();
        let text = format!("ddtrace sends runtime metrics itself: {left} of {ours} names are left to it");
        if self.keeps_ddtraces || left * 2 <= ours {
            return Message::new(Severity::Info, text);
        }
        Message::warning(format!(
            "{text}, and not sent here; DD_RUNTIME_METRICS_FORCE=true disables ddtrace's in favour of these, \
             DD_RUNTIME_METRICS_FORCE=false keeps ddtrace's without this warning"
        ))
    }

    /// What has changed about ddtrace's runtime metrics since that was last logged.
    fn worker_change(&mut self, worker: RuntimeWorker) -> Option<Message> {
        let text = match (std::mem::replace(&mut self.logged_worker, worker), worker) {
            (before, now) if before == now => return None,
            (RuntimeWorker::Stopped(..), RuntimeWorker::Off) => return None,
            (_, RuntimeWorker::Sends(rows)) => return Some(self.left_message(rows)),
            (_, RuntimeWorker::Off) => {
                "ddtrace no longer sends runtime metrics: all names are sent here".to_owned()
            }
            (_, RuntimeWorker::Stopped(..)) => {
                "ddtrace's runtime metrics were disabled (DD_RUNTIME_METRICS_FORCE): all names are sent here"
                    .to_owned()
            }
        };
        Some(Message::new(Severity::Info, text))
    }
}

/// Where runtime metrics go, how often, and who sends them.
#[must_use]
pub fn introduction(to: &Destination, interval: Duration, inputs: &IdentityInputs) -> String {
    let often = if interval == Duration::MAX {
        "at each invocation".to_owned()
    } else {
        format!("every {} s", interval.as_secs_f64())
    };
    let tags = inputs.identity().tags;
    let is_named = |tag: &&str| {
        let key = tag.split(':').next().unwrap_or_default();
        matches!(key, "service" | "env" | "version" | "runtime-id")
    };
    let names: Vec<_> = tags.iter().filter(is_named).collect();
    format!("{often} to {to} as {}", names.join(","))
}

#[cfg(target_os = "linux")]
fn find_container(root: &Path) -> io::Result<Option<String>> {
    crate::sources::container::local_data(root)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "On Linux it may fail.")]
fn find_container(_root: &Path) -> io::Result<Option<String>> {
    Ok(None)
}
