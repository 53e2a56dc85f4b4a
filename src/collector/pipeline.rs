//! From facts to the wire: one flush, and an inspection that changes nothing.
//!
//! The clock is the caller's: `now` is time on the collector's monotonic clock.

use std::time::Duration;

use super::interpreter::Answer;
use super::output::{Output, OutputHandover};
use crate::catalogue::metric::Sample;
use crate::catalogue::selection::samples;
use crate::emitter::Distribution;
use crate::emitter::LookUp;
use crate::emitter::Status;
use crate::identity::IdentityInputs;
use crate::identity::function::InvocationFacts;
use crate::interval::Interval;
use crate::message::Message;
use crate::snapshot::Snapshot;
use crate::sources::{InterpreterAnswer, Sources};

/// The sources, the last flush's snapshot, and the output.
#[derive(Debug)]
pub struct Pipeline {
    sources: Sources,
    output: Output,
    /// The facts at the beginning of the interval: those of the last flush, unless an invocation has begun since.
    earlier: Snapshot,
    /// Then, those of the last flush.
    flushed: Option<Snapshot>,
    messages: Vec<Message>,
    warned_gc_callback_removed: bool,
    warned_server_unreadable: bool,
}

impl Pipeline {
    /// Takes the baseline: nothing of the process's past is ever sent.
    #[must_use]
    pub fn new(mut sources: Sources, output: Output, now: Duration) -> Self {
        let earlier = sources.baseline(now, output.needs());
        Self {
            sources,
            output,
            earlier,
            flushed: None,
            messages: Vec::new(),
            warned_gc_callback_removed: false,
            warned_server_unreadable: false,
        }
    }

    /// Takes a new baseline for an invocation: what has gathered since the last one is not sent.
    pub fn begin_invocation(&mut self, now: impl FnOnce() -> Duration, invocation: InvocationFacts) {
        self.messages.extend(self.output.set_invocation(invocation));
        let baseline = self.sources.baseline(now(), self.output.needs());
        let before = std::mem::replace(&mut self.earlier, baseline);
        self.flushed.get_or_insert(before);
    }

    /// Takes the first of two readings where a source needs two; gives the time until the flush is due.
    #[must_use]
    pub fn prepare(&self, now: Duration) -> Option<Duration> {
        self.sources.prepare(now, self.output.needs())
    }

    /// Sends the interval up to `now`, in at most `within`; whether everything was sent.
    ///
    /// The interpreter is asked after everything that does not need it has been read, and may be waited for.
    pub fn flush(
        &mut self,
        now: Duration,
        within: Duration,
        ask_interpreter: impl FnOnce() -> Option<Answer>,
    ) -> bool {
        let mut answer = None;
        let drained = self.sources.drain(now, self.output.needs(), || {
            answer = ask_interpreter();
            answer.as_mut().map(take_facts)
        });
        let before = self.output.identity_inputs().tracers.worker;
        if let Some(answer) = answer {
            self.messages.extend(self.output.follow(&answer.environment, answer.tracers.as_ref()));
            if let Some(Err(error)) = &answer.gunicorn {
                self.warn_server_unreadable(error);
            }
        }
        if let Some((read, cost)) = drained.given_up {
            let milliseconds = 1000.0 * cost.as_secs_f64();
            self.warn(format!(
                "{read} took {milliseconds:.1} ms, which is too long: it is not called any more"
            ));
        }
        let mut later = drained.snapshot;
        let collections = later.collections;
        if drained.missed_collections {
            later.collections = None;
            self.warn_gc_callback_removed();
        }
        let everything_sent = self.output.send(before, &self.earlier, &later, now, within);
        if everything_sent {
            self.messages.extend(self.output.introduce());
        }
        later.collections = collections;
        self.earlier = later;
        self.flushed = None;
        everything_sent
    }

    /// The values that a flush would send now.
    pub fn inspect(&mut self, now: Duration, mut answer: Option<Answer>) -> Vec<Sample> {
        let tracers = answer.as_ref().and_then(|answer| answer.tracers.as_ref());
        let selection = self.output.selection_beside(tracers);
        let later = self.sources.read(now, self.output.needs(), answer.as_mut().map(take_facts));
        samples(selection, &Interval::new(&self.earlier, &later, self.output.interval()))
    }

    /// Sends a value of a custom metric, in at most `within`.
    pub fn send_custom(&mut self, distribution: &Distribution, now: Duration, within: Duration) {
        self.output.send_custom(distribution, now, within);
    }

    /// Closes the socket until something is sent.
    pub fn disconnect(&self) {
        self.output.disconnect();
    }

    /// Sends elsewhere or otherwise from now on; what has gathered is kept.
    pub fn redirect(&mut self, output: Output) {
        let before = std::mem::replace(&mut self.output, output);
        // An invocation under way goes on.
        if let Some(invocation) = before.into_invocation() {
            self.messages.extend(self.output.set_invocation(invocation));
        }
    }

    /// The look-up of the receiver's name that is due at `now`, if there is one.
    #[must_use]
    pub fn due_look_up(&self, now: Duration) -> Option<LookUp> {
        self.output.due_look_up(now)
    }

    /// The delivery status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.output.status(self.flushed.as_ref().unwrap_or(&self.earlier))
    }

    /// What a child process can take over.
    #[must_use]
    pub fn handover(&self) -> OutputHandover {
        self.output.handover()
    }

    /// Who sends.
    #[must_use]
    pub fn identity_inputs(&self) -> &IdentityInputs {
        self.output.identity_inputs()
    }

    /// The planned time between two flushes.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.output.interval()
    }

    /// The lines for the program's log since the last call.
    #[must_use]
    pub fn take_log_lines(&mut self) -> String {
        self.output.take_log_lines()
    }

    /// The messages for the operator since the last call.
    #[must_use]
    pub fn take_messages(&mut self) -> Vec<Message> {
        let mut messages = std::mem::take(&mut self.messages);
        messages.append(&mut self.output.take_messages());
        messages
    }

    /// Leaves a warning to be logged.
    pub fn warn(&mut self, text: String) {
        self.messages.push(Message::warning(text));
    }

    fn warn_gc_callback_removed(&mut self) {
        if !std::mem::replace(&mut self.warned_gc_callback_removed, true) {
            let text = "the program cleared gc.callbacks: our callback is installed again; metrics of collections and \
                        pauses are not sent for this interval";
            self.messages.push(Message::warning(text));
        }
    }

    fn warn_server_unreadable(&mut self, error: &str) {
        if !std::mem::replace(&mut self.warned_server_unreadable, true) {
            let text = format!("Gunicorn's workers and connections cannot be read: {error}");
            self.messages.push(Message::warning(text));
        }
    }
}

/// Takes the facts out of an answer; why Gunicorn's objects could not be read stays.
fn take_facts(answer: &mut Answer) -> InterpreterAnswer {
    let gunicorn = answer.gunicorn.take_if(|objects| objects.is_ok()).and_then(Result::ok);
    InterpreterAnswer { facts: answer.facts, gunicorn }
}
