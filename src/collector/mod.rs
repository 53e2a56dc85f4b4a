//! One running collector: what `enable()` starts and `disable()` stops.
//!
//! How it is concurrent:
//!
//! 1. Two native threads: the sampler keeps the schedule and never enters Python; the reader may wait for Python or
//!    DNS, and probes how long it waits.
//! 2. There is one pipeline, in a [`Checkout`]: a flush checks it out and returns it. No lock of ours is held while it
//!    reads sources or sends.
//! 3. The sampler's lock guards the schedule, the reader's lock the one outstanding request.
//! 4. A tick waits for the reader a tenth of its interval, one second at most.
//! 5. Threads of the program write relaxed atomics (collections, log records) or take one short lock (requests).
//! 6. `RUNNING` is one pointer, swapped by `enable()`, `disable()` and the child of a fork.
//! 7. Before a fork: count it (no thread starts), take the pipeline out, end the threads where CPython counts them,
//!    wait for the reader to leave Python.
//! 8. In the parent after it: put the pipeline back, resume.
//! 9. In the child: a page that the kernel wiped (or the pid) shows it; the parent's collector is leaked, its pipeline
//!    salvaged, and a new collector takes its baseline. Its threads start later.
//! 10. Lock order: a thread's handle before its schedule or its requests; `held` before `pipeline`; the state of
//!     stalls before what the probe and the event loops have recorded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use self::checkout::{CheckedOut, Checkout};
use self::output::Output;
use self::pipeline::Pipeline;
use self::reader::Reader;
use self::sampler::Sampler;
use crate::catalogue::metric::Sample;
use crate::clock::Clock;
use crate::emitter::Status;
use crate::identity::IdentityInputs;
use crate::memory;
use crate::message::Message;
use crate::settings::{Schedule, Settings};
use crate::sources::own_work::OwnWork;
use crate::sources::{Counters, Sources};

mod checkout;
mod fork;
mod interpreter;
mod invocation;
mod messages;
mod output;
mod pipeline;
mod postponement;
#[cfg(unix)]
mod pthread;
mod reader;
mod requests;
mod rows;
mod sampler;
mod thread;

pub use self::fork::{Inheritance, Refusal};
pub use self::interpreter::{Answer, Interpreter};
pub use self::invocation::{InvocationGuard, send_custom};
pub use self::output::{OutputHandover, introduction};
pub use self::postponement::{Postponement, RETRY_DELAY, Step};

/// A tick waits for the interpreter at most a tenth of its interval, and never longer than this.
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long `flush()` waits for another flush to end.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a flush may take to connect and send.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// How long other callers wait for the pipeline: a flush may wait for the interpreter, then for a slow stream.
const PIPELINE_TIMEOUT: Duration = Duration::from_secs(2);

/// A running collector.
pub struct Collector {
    clock: Clock,
    /// In a box, as it is moved at each use.
    pipeline: Checkout<Box<Pipeline>>,
    sampler: Sampler,
    reader: Reader,
    schedule: Schedule,
    root: PathBuf,
    held: Mutex<Held>,
    /// Flushes that were skipped because memory was short. The warning about them is logged once it is not.
    skipped: AtomicU32,
    own_work: Arc<OwnWork>,
    /// Why no thread runs, if the system has refused it.
    refusal: Mutex<Option<Refusal>>,
    /// While it is true no flush waits for a slow receiver.
    hurry: Arc<AtomicBool>,
}

/// What is held back while forks are made. Only forking threads lock it.
#[derive(Default)]
struct Held {
    pipeline: Option<Box<Pipeline>>,
    forks: usize,
    /// Whether the reader was halted and must be resumed.
    interrupted: bool,
}

/// The outcome of a flush.
#[derive(Debug, Default)]
pub struct Flushed {
    /// Whether everything was sent.
    pub everything_sent: bool,
    /// Lines to be written to the program's log.
    pub log: String,
}

impl Collector {
    /// Opens the sources below `root`, which is `/` except in tests, and takes the baseline; `clock` is the one that
    /// `counters` count with. Nothing runs yet.
    ///
    /// `handover` is what a parent process knew about the way to the receiver, and what it has logged.
    #[must_use]
    pub fn new(
        root: &Path,
        clock: Clock,
        counters: Counters,
        settings: &Settings,
        inputs: IdentityInputs,
        interpreter: Arc<dyn Interpreter>,
        handover: Option<&OutputHandover>,
    ) -> Arc<Self> {
        let hurry = Arc::new(AtomicBool::new(false));
        let mut output = Output::new(root, clock, &hurry, settings, inputs);
        if let Some(handover) = handover {
            output.inherit(handover);
        }
        let own_work = Arc::clone(&counters.own_work);
        let reader = Reader::new(interpreter, clock, &counters);
        let of_threads = counters.clone();
        let sources = Sources::open(root, counters);
        let stalls = sources.stalls();
        let pipeline = Pipeline::new(sources, output, clock.now());
        Arc::new_cyclic(|collector: &Weak<Self>| {
            let collector = Weak::clone(collector);
            let tick = move || collector.upgrade()?.tick();
            let check = move |late| stalls.check(clock.now(), late, memory::is_available);
            Self {
                clock,
                pipeline: Checkout::new(Box::new(pipeline)),
                sampler: Sampler::new(clock, settings.interval, &of_threads, tick, check),
                reader,
                schedule: settings.schedule,
                root: root.to_owned(),
                held: Mutex::default(),
                skipped: AtomicU32::new(0),
                own_work,
                refusal: Mutex::default(),
                hurry: Arc::clone(&hurry),
            }
        })
    }

    /// Starts to tick, first one interval after the baseline, or resumes after a pause. In AWS Lambda, where each
    /// invocation sends its own metrics, nothing ticks.
    ///
    /// # Errors
    ///
    /// If the system cannot start another thread.
    pub fn run(&self) -> io::Result<()> {
        if self.schedule == Schedule::PerInvocation {
            return Ok(());
        }
        let started = self.sampler.run();
        self.reader.resume();
        self.reader.begin_probes();
        if let Some(mut pipeline) = self.pipeline.check_out(Duration::ZERO) {
            self.look_up_if_due(&mut pipeline);
        }
        started
    }

    /// Collects and sends now, in the calling thread. The caller brings the interpreter's answer, and must be detached
    /// from the interpreter, which a tick under way may be waiting for.
    ///
    /// Not everything is sent if another flush is under way and does not end within 100 ms, or if memory is short.
    pub fn flush(&self, answer: Option<Answer>) -> Flushed {
        let now = self.clock.now();
        self.flush_by(now + FLUSH_TIMEOUT, now + FLUSH_TIMEOUT + SEND_TIMEOUT, answer)
    }

    /// The values that a flush would send now; none while memory is short. The caller must be detached from the
    /// interpreter.
    pub fn inspect(&self, answer: Option<Answer>) -> Vec<Sample> {
        if !memory::is_available() {
            return Vec::new();
        }
        let pipeline = self.pipeline.check_out(PIPELINE_TIMEOUT);
        pipeline.map(|mut pipeline| pipeline.inspect(self.clock.now(), answer)).unwrap_or_default()
    }

    /// The delivery status; `None` while a flush takes longer than it should. The caller must be detached.
    pub fn status(&self) -> Option<Status> {
        self.pipeline.check_out(PIPELINE_TIMEOUT).map(|pipeline| pipeline.status())
    }

    /// Takes over other settings and another identity; counters and baselines stay. The caller must be detached.
    pub fn reconfigure(&self, settings: &Settings, inputs: IdentityInputs) {
        let Some(mut pipeline) = self.pipeline.check_out(PIPELINE_TIMEOUT) else {
            return;
        };
        pipeline.redirect(Output::new(&self.root, self.clock, &self.hurry, settings, inputs));
        self.look_up_if_due(&mut pipeline);
        self.sampler.reschedule(settings.interval);
    }

    /// Stops both threads and sends a last time, unless each invocation sends its own metrics; all within `budget`. The
    /// caller must be detached.
    ///
    /// If the interpreter is about to end, a thread that is waiting for it is waited for beyond the budget.
    pub fn stop(&self, answer: Option<Answer>, budget: Duration, interpreter_ends: bool) {
        let deadline = self.clock.now() + budget;
        let left = || deadline.saturating_sub(self.clock.now());
        self.sampler.close();
        self.reader.close();
        self.begin_pause();
        self.sampler.halt(left());
        // Before the reader has ended, which may take as long as another thread holds the interpreter.
        if self.schedule == Schedule::Periodic {
            self.flush_by(deadline, deadline, answer);
            let skipped = self.skipped.swap(0, SeqCst);
            if skipped > 0 {
                let text = format!("{} skipped because memory was short, up to the last", flushes(skipped));
                self.reader.keep_for_program(vec![Message::warning(text)]);
            }
        }
        if interpreter_ends {
            self.reader.await_interpreter();
        }
        self.reader.halt(left());
    }

    /// Messages that a thread of the program has to log.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Message> {
        self.reader.take_unlogged()
    }

    /// Collects and sends. If a source needs a second reading first, returns the delay until then.
    fn tick(&self) -> Option<Duration> {
        let mut pipeline = self.check_out_to_flush(PIPELINE_TIMEOUT)?;
        // With the pipeline checked out, so that no fork is made meanwhile.
        if let Some(window) = pipeline.prepare(self.clock.now()) {
            return Some(window);
        }
        self.reader.ask();
        let answer_timeout = (pipeline.interval() / 10).min(MAX_ANSWER_TIMEOUT);
        let now = self.clock.now();
        pipeline.flush(now, SEND_TIMEOUT, || self.reader.answer(answer_timeout));
        self.look_up_if_due(&mut pipeline);
        self.reader.write_late(now);
        self.reader.log(pipeline.take_messages(), now);
        None
    }

    /// Flushes if the pipeline is free by `free`, and has sent everything, or given up, by `sent`.
    fn flush_by(&self, free: Duration, sent: Duration, answer: Option<Answer>) -> Flushed {
        let Some(mut pipeline) = self.check_out_to_flush(free.saturating_sub(self.clock.now())) else {
            return Flushed::default();
        };
        let now = self.clock.now();
        let everything_sent = pipeline.flush(now, sent.saturating_sub(now).min(SEND_TIMEOUT), || answer);
        self.look_up_if_due(&mut pipeline);
        self.reader.keep_for_program(pipeline.take_messages());
        Flushed { everything_sent, log: pipeline.take_log_lines() }
    }

    /// The pipeline, if it is free within that time and memory is available. A flush that is skipped loses nothing: the
    /// next one covers its interval.
    fn check_out_to_flush(&self, within: Duration) -> Option<CheckedOut<'_, Box<Pipeline>>> {
        let is_available = memory::is_available();
        if !is_available {
            self.skipped.fetch_add(1, SeqCst);
        }
        let Some(mut pipeline) = is_available.then(|| self.pipeline.check_out(within)).flatten() else {
            self.own_work.skip();
            return None;
        };
        match self.skipped.swap(0, SeqCst) {
            0 => {}
            skipped => {
                let text = "skipped because memory was short; the next one covers that time";
                pipeline.warn(format!("{} {text}", flushes(skipped)));
            }
        }
        Some(pipeline)
    }

    fn look_up_if_due(&self, pipeline: &mut Pipeline) {
        if self.schedule == Schedule::PerInvocation {
            return;
        }
        if let Some(look_up) = pipeline.due_look_up(self.clock.now()) {
            self.reader.look_up(look_up);
        }
    }
}

/// So many flushes, as the beginning of a sentence.
fn flushes(count: u32) -> String {
    if count == 1 { "1 flush was".to_owned() } else { format!("{count} flushes were") }
}
