//! From facts to the wire: one flush, and a look that leaves everything as it is.
//!
//! The clock is the caller's: `now` is time on the collector's monotonic clock.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalogue::{Level, Sample, samples};
use crate::emitter::Emitter;
use crate::emitter::transport::{Legacy, NamedHost, Transport};
use crate::interval::Interval;
use crate::message::Message;
use crate::snapshot::{Collections, Interpreter, Snapshot};
use crate::sources::OperatingSystem;
use crate::sources::gc::GcCounters;

/// What the interpreter answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Its facts.
    pub facts: Interpreter,
    /// The program had removed our garbage-collection callback: collections have gone unseen.
    pub callback_was_missing: bool,
}

/// Sources, the last flush's snapshot, and the emitter.
#[derive(Debug)]
pub struct Pipeline {
    operating_system: OperatingSystem,
    gc: Arc<GcCounters>,
    earlier: Snapshot,
    output: Output,
}

/// Where samples go, how many, and how often.
#[derive(Debug)]
pub struct Output {
    /// Writes them.
    pub emitter: Emitter,
    /// What the emitter writes to.
    pub transport: Transport,
    /// How much is sent.
    pub level: Level,
    /// Time between two flushes, as planned.
    pub interval: Duration,
}

impl Pipeline {
    /// Opens the sources and takes the baseline: nothing of the process's past is ever sent.
    #[must_use]
    pub fn new(root: &Path, gc: Arc<GcCounters>, output: Output, now: Duration) -> Self {
        let mut pipeline =
            Self { operating_system: OperatingSystem::open(root), gc, earlier: Snapshot::default(), output };
        let collections = pipeline.gc.drain();
        pipeline.earlier = pipeline.snapshot(now, Some(collections), None);
        pipeline
    }

    /// Sends the interval up to `now`; says whether everything has left.
    ///
    /// `answer` is called after everything that does not need the interpreter has been read, and may wait.
    pub fn flush(&mut self, now: Duration, answer: impl FnOnce() -> Option<Answer>) -> bool {
        // Before all else, so that no collection that a flush provokes is counted in it.
        let collections = self.gc.drain();
        let mut later = self.snapshot(now, Some(collections.clone()), None);
        if let Some(answer) = answer() {
            later.interpreter = Some(answer.facts);
            if answer.callback_was_missing {
                later.collections = None;
            }
        }
        self.output.transport.prepare(now);
        let interval = Interval::new(&self.earlier, &later, self.output.interval);
        let everything_left = self.output.emitter.emit(samples(self.output.level, &interval));
        later.collections = Some(collections);
        self.earlier = later;
        everything_left
    }

    /// The values a flush would send now.
    pub fn look(&mut self, now: Duration, answer: Option<Answer>) -> Vec<Sample> {
        let missing = answer.as_ref().is_some_and(|answer| answer.callback_was_missing);
        let collections = (!missing).then(|| self.gc.read());
        let later = self.snapshot(now, collections, answer.map(|answer| answer.facts));
        samples(self.output.level, &Interval::new(&self.earlier, &later, self.output.interval)).collect()
    }

    /// The host whose name should be looked up now, if there is one.
    #[must_use]
    pub fn due_look_up(&self, now: Duration) -> Option<Arc<NamedHost>> {
        self.output.transport.due_look_up(now)
    }

    /// What a child process can use of the way to the receiver.
    #[must_use]
    pub fn legacy(&self) -> Legacy {
        self.output.transport.legacy()
    }

    /// Time between two flushes, as planned.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.output.interval
    }

    /// Sends elsewhere or otherwise from now on; what has gathered is kept.
    pub fn redirect(&mut self, output: Output) {
        self.output = output;
    }

    /// What there is to say since the last call.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Message> {
        self.output.transport.take_messages()
    }

    fn snapshot(
        &mut self,
        at: Duration,
        collections: Option<Collections>,
        interpreter: Option<Interpreter>,
    ) -> Snapshot {
        let (usage, process) = self.operating_system.read();
        Snapshot { at, usage, process, collections, interpreter }
    }
}
