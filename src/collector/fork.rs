//! A collector around a fork: the pipeline is held back, threads pause where they must, and afterwards everything
//! resumes.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::checkout::CheckedOut;
use super::output::OutputHandover;
use super::{Collector, Held};
use crate::clock::since_epoch;
use crate::identity::IdentityInputs;
use crate::message::{Message, Severity};

/// What a child process takes over of its parent's collector.
pub struct Inheritance {
    /// What was known about the way to the receiver, and what was logged.
    pub handover: OutputHandover,
    /// Who sent.
    pub identity_inputs: IdentityInputs,
}

/// That the system has refused a thread.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Its error, and the likely cause.
    pub reason: String,
    /// Since when, in time since 1970.
    pub since: Duration,
}

impl Collector {
    /// Asks both threads to end until [`run`](Self::run).
    pub fn begin_pause(&self) {
        // The reader first, so that a tick that waits for it goes on without an answer.
        self.reader.begin_halt();
        self.sampler.begin_halt();
    }

    /// Ends both threads until [`run`](Self::run), in at most `within`; whether they have ended.
    ///
    /// The schedule and everything that has gathered stay.
    pub fn pause(&self, within: Duration) -> bool {
        let deadline = self.clock.now() + within;
        self.begin_pause();
        let sampler_ended = self.sampler.halt(within);
        self.reader.halt(deadline.saturating_sub(self.clock.now())) && sampler_ended
    }

    /// Whether a [`pause`](Self::pause) can only succeed detached from the interpreter.
    #[must_use]
    pub fn is_in_interpreter(&self) -> bool {
        self.reader.is_in_interpreter()
    }

    /// Has a message logged at the next tick. Nothing starts, so that it may be called just before a fork.
    pub fn log_later(&self, message: Message) {
        self.reader.log_later(message);
    }

    /// Announces a fork: no thread starts and no probe begins until its [end](Self::end_fork).
    pub fn begin_fork(&self) {
        self.held().forks += 1;
        self.reader.hold_probes(true);
    }

    /// Holds the pipeline until the end of the fork, so that the child finds it whole. Waits at most `within` for a
    /// flush under way, which no longer waits for anything itself.
    pub fn hold_pipeline(&self, within: Duration) {
        let mut held = self.held();
        // Another fork that is under way has it. Waiting for it could deadlock with what its thread needs.
        if held.pipeline.is_some() {
            return;
        }
        let mut pipeline = self.pipeline.check_out(Duration::ZERO);
        if pipeline.is_none() {
            // The flush may be waiting for a slow receiver, or for the interpreter, which the caller holds.
            held.interrupted = true;
            self.reader.begin_halt();
            self.hurry.store(true, SeqCst);
            pipeline = self.pipeline.check_out(within);
            self.hurry.store(false, SeqCst);
        }
        held.pipeline = pipeline.map(CheckedOut::keep);
    }

    /// Waits for the reader to leave the interpreter: what it calls there, a log handler of the program or a tracer,
    /// may hold a lock that would stay locked in the child. The caller must be detached.
    pub fn await_reader(&self, within: Duration) {
        self.held().interrupted = true;
        self.reader.halt(within);
    }

    /// Ends what [`begin_fork`](Self::begin_fork) began; whether no other fork is under way.
    pub fn end_fork(&self) -> bool {
        let mut held = self.held();
        held.forks = held.forks.saturating_sub(1);
        if held.forks > 0 {
            return false;
        }
        self.reader.hold_probes(false);
        if let Some(pipeline) = held.pipeline.take() {
            self.pipeline.put_back(pipeline);
        }
        if std::mem::take(&mut held.interrupted) {
            self.reader.resume();
        }
        true
    }

    /// Whether a fork is under way, or may be.
    #[must_use]
    pub fn is_forking(&self) -> bool {
        self.held.try_lock().map_or(true, |held| held.forks > 0)
    }

    /// Starts its threads if they do not run; false if the system refuses one. Until it does not, nothing is sent but
    /// on demand and by [`stop`](Self::stop).
    pub fn resume(&self) -> bool {
        let started = self.run();
        let mut refusal = self.lock_refusal();
        match &started {
            Err(error) if refusal.is_none() => {
                let reason =
                    format!("no thread can be started: {error} (is a limit on processes or memory reached?)");
                let text = format!("nothing is sent but by flush() and at exit: {reason}; will keep trying");
                *refusal = Some(Refusal { reason, since: since_epoch() });
                self.reader.keep_for_program(vec![Message::warning(text)]);
            }
            Ok(()) if refusal.take().is_some() => {
                // The program may never call us, but now there is a thread that can log.
                let mut messages = self.reader.take_unlogged();
                let text = "a thread could be started: metrics are sent at every interval again";
                messages.push(Message::new(Severity::Info, text.to_owned()));
                self.reader.log(messages, self.clock.now());
            }
            _ => {}
        }
        started.is_ok()
    }

    /// Why no thread of it runs, if the system has refused one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.lock_refusal().clone()
    }

    /// In a child process, what it takes over of its parent's collector, if no flush was under way at the fork. Nothing
    /// is waited for. The pipeline is dropped, and with it the descriptors that the child shares with its parent.
    #[must_use]
    pub fn inheritance(&self) -> Option<Inheritance> {
        let held = self.held.try_lock().ok().and_then(|mut held| held.pipeline.take());
        let pipeline = held.or_else(|| self.pipeline.salvage())?;
        let identity_inputs = pipeline.identity_inputs().clone();
        Some(Inheritance { handover: pipeline.handover(), identity_inputs })
    }

    fn lock_refusal(&self) -> MutexGuard<'_, Option<Refusal>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
