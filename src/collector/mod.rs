//! One running collector: what `enable()` starts and `disable()` stops.
//!
//! A pipeline, the sampler that beats it and the reader that may wait. Whoever uses the pipeline checks it out,
//! so no lock is held over a system call.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use self::checkout::{CheckedOut, Checkout};
use self::pipeline::{Output, Pipeline};
use self::reader::{Interpreter, Reader};
use self::sampler::Sampler;
use crate::catalogue::metric::Sample;
use crate::clock::Clock;
use crate::emitter::{Distribution, Emitter, Handover, LogLines, Status, Transport};
use crate::identity::IdentityInputs;
use crate::identity::function::Invoked;
use crate::message::Message;
use crate::settings::{Schedule, Settings};
use crate::snapshot;
use crate::sources::gc::GcCounters;
use crate::sources::gunicorn::Gunicorn;
use crate::sources::gunicorn::master::WINDOW;

pub mod checkout;
pub mod pipeline;
pub mod reader;
pub mod sampler;

/// A tick waits for the interpreter at most a tenth of its interval, and never longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long `flush()` waits for a tick under way.
const BUSY: Duration = Duration::from_millis(100);

/// How long a flush may take to connect and send.
const SENDING: Duration = Duration::from_millis(100);

/// How long an invocation may wait for a flush that another thread has under way.
const SOON: Duration = Duration::from_millis(10);

/// How long a function, whose time is paid for, may be held up by a slow stream.
const SENDING_IN_A_FUNCTION: Duration = Duration::from_millis(20);

/// A tick may wait for the interpreter and then for a slow stream; a look at the values waits longer than that.
const ONE_TICK: Duration = Duration::from_secs(2);

/// A running collector.
pub struct Collector {
    clock: Clock,
    gunicorn: Arc<Gunicorn>,
    /// In a box, as it is moved at each use.
    pipeline: Checkout<Box<Pipeline>>,
    sampler: Sampler,
    reader: Reader,
    schedule: Schedule,
    held: Mutex<Held>,
    /// While it is true no flush waits for a slow receiver.
    hurry: Arc<AtomicBool>,
    unsaid: Mutex<Vec<Message>>,
}

/// What has come of a flush.
#[derive(Debug)]
pub struct Flushed {
    /// Whether nothing has stayed behind.
    pub everything_left: bool,
    /// What is to be written to the log.
    pub log: String,
}

/// What counts while the program runs.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Garbage collections.
    pub gc: Arc<GcCounters>,
    /// This process's part in Gunicorn.
    pub gunicorn: Arc<Gunicorn>,
}

/// What is kept back while forks are made. Only those who fork lock it.
#[derive(Default)]
struct Held {
    pipeline: Option<Box<Pipeline>>,
    forks: usize,
    /// The reader has been told to halt.
    interrupted: bool,
}

impl Collector {
    /// Opens the sources and takes the baseline; `clock` is the one `counters` count with. Nothing runs yet.
    ///
    /// `handover` is what a parent process knew of the way to the receiver.
    #[must_use]
    pub fn new(
        clock: Clock,
        counters: Counters,
        settings: &Settings,
        subject: IdentityInputs,
        interpreter: Arc<dyn Interpreter>,
        handover: Option<&Handover>,
    ) -> Arc<Self> {
        let Counters { gc, gunicorn } = counters;
        let hurry = Arc::new(AtomicBool::new(false));
        let output = output(clock, &hurry, settings, subject);
        if let Some(handover) = handover {
            output.emitter.transport().take_over(handover);
        }
        let pipeline = Pipeline::new(Path::new("/"), gc, Arc::clone(&gunicorn), output, clock.now());
        Arc::new_cyclic(|collector: &Weak<Self>| {
            let collector = Weak::clone(collector);
            let beat = move || collector.upgrade().and_then(|collector| collector.tick());
            Self {
                clock,
                gunicorn,
                pipeline: Checkout::new(Box::new(pipeline)),
                sampler: Sampler::new(clock, settings.interval, beat),
                reader: Reader::new(interpreter),
                schedule: settings.schedule,
                held: Mutex::default(),
                hurry: Arc::clone(&hurry),
                unsaid: Mutex::default(),
            }
        })
    }

    /// Starts to tick, first one interval after the baseline; or goes on after a [`pause`](Self::pause). Where each
    /// invocation is an schedule of its own, nothing ticks.
    ///
    /// # Errors
    ///
    /// If the system has no thread left.
    pub fn run(&self) -> io::Result<()> {
        if self.schedule == Schedule::PerInvocation {
            return Ok(());
        }
        let started = self.sampler.run();
        self.reader.resume();
        if let Some(mut pipeline) = self.pipeline.check_out(Duration::ZERO) {
            self.look_up_if_due(&mut pipeline);
        }
        started
    }

    /// Asks both threads to end until [`run`](Self::run).
    pub fn begin_pause(&self) {
        // The reader first, so that a tick that waits for it goes on without an answer.
        self.reader.begin_halt();
        self.sampler.begin_halt();
    }

    /// Ends both threads until [`run`](Self::run), at most so long; says whether they have ended.
    ///
    /// The schedule stands, and so does everything that has gathered.
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

    /// Announces a fork: until it is [over](Self::end_fork) no thread starts.
    pub fn begin_fork(&self) {
        self.held().forks += 1;
    }

    /// Keeps the pipeline from everybody until the fork is over, waiting at most so long for a flush under way, which
    /// waits for nobody any more. The fork finds the pipeline whole.
    pub fn hold_pipeline(&self, within: Duration) {
        let mut held = self.held();
        // Another fork that is under way has it, and may need what the caller of this holds to bring it back.
        if held.pipeline.is_some() {
            return;
        }
        let mut pipeline = self.pipeline.check_out(Duration::ZERO);
        if pipeline.is_none() {
            // The flush may be waiting for the interpreter, and the interpreter for us; or for a slow receiver.
            held.interrupted = true;
            self.reader.begin_halt();
            self.hurry.store(true, SeqCst);
            pipeline = self.pipeline.check_out(within);
            self.hurry.store(false, SeqCst);
        }
        held.pipeline = pipeline.map(CheckedOut::keep);
    }

    /// Waits for the reader to leave the interpreter: what it calls there, a log handler of the program or a tracer, may
    /// hold a lock that a child would never get. The caller must be detached.
    pub fn await_reader(&self, within: Duration) {
        self.held().interrupted = true;
        self.reader.halt(within);
    }

    /// Ends what [`begin_fork`](Self::begin_fork) began; says whether no other fork is under way.
    pub fn end_fork(&self) -> bool {
        let mut held = self.held();
        held.forks = held.forks.saturating_sub(1);
        if held.forks > 0 {
            return false;
        }
        if let Some(pipeline) = held.pipeline.take() {
            self.pipeline.bring_back(pipeline);
        }
        if std::mem::take(&mut held.interrupted) {
            self.reader.resume();
        }
        true
    }

    /// Whether a fork is under way.
    fn is_forking(&self) -> bool {
        self.held.try_lock().map_or(true, |held| held.forks > 0)
    }

    /// Lets it tick again if a thread could not be started, or has ended.
    pub fn ensure_running(&self) {
        if !self.is_forking() {
            self.resume();
        }
    }

    /// Goes on after a fork. Without a thread left in the system it only flushes on demand, and then tries again.
    pub fn resume(&self) {
        if let Err(error) = self.run() {
            let text = format!("runtime metrics are sent on demand only: {error}");
            let mut unsaid = self.unsaid();
            if !unsaid.iter().any(|message| message.text == text) {
                unsaid.push(Message::warning(text));
            }
        }
    }

    /// In a child process, the pipeline of the parent's collector, if nobody was using it when the fork was made.
    /// Nothing is waited for.
    #[must_use]
    pub fn salvage(&self) -> Option<Box<Pipeline>> {
        let held = self.held.try_lock().ok().and_then(|mut held| held.pipeline.take());
        held.or_else(|| self.pipeline.salvage())
    }

    /// Sends a sample now, in the calling thread. The interpreter's facts are the caller's to bring; `at` is in seconds
    /// since 1970.
    ///
    /// Not everything has left if another flush is under way and does not end in 100 ms. The caller must be detached from
    /// the interpreter, which a tick under way may be waiting for.
    pub fn flush(&self, at: u64, facts: Option<snapshot::Interpreter>) -> Flushed {
        let now = self.clock.now();
        let mut log = LogLines::at(at);
        let everything_left = self.flush_by(now + BUSY, now + BUSY + SENDING, Some(&mut log), facts);
        Flushed { everything_left, log: log.into_text() }
    }

    /// Begins an invocation: what it sends at its [end](Self::end_invocation) is its own. False if the pipeline is in
    /// somebody else's hands: then it sends nothing, and nobody asks how it was invoked.
    pub fn begin_invocation(&self, invoked: impl FnOnce() -> Invoked) -> bool {
        let Some(mut pipeline) = self.pipeline.check_out(SOON) else {
            return false;
        };
        pipeline.begin(|| self.clock.now(), invoked());
        true
    }

    /// Sends what the invocation has used, in the calling thread, which is that of the invocation; gives what is to be
    /// written to the log. `at` is in seconds since 1970.
    pub fn end_invocation(&self, at: u64, facts: impl FnOnce() -> Option<snapshot::Interpreter>) -> String {
        let Some(mut pipeline) = self.pipeline.check_out(SOON) else {
            return String::new();
        };
        let mut log = LogLines::at(at);
        pipeline.flush(self.clock.now(), SENDING_IN_A_FUNCTION, Some(&mut log), facts);
        self.unsaid().append(&mut pipeline.take_messages());
        log.into_text()
    }

    /// Sends a value of a metric of the program's own now, in the calling thread; gives what is to be written to the log.
    /// The caller must be detached from the interpreter, which a tick under way may be waiting for.
    pub fn distribute(&self, distribution: &Distribution, at: u64) -> String {
        let patience = if self.serves_invocations() { SOON } else { BUSY };
        let Some(mut pipeline) = self.pipeline.check_out(patience) else {
            return String::new();
        };
        let mut log = LogLines::at(at);
        pipeline.distribute(distribution, self.clock.now(), SENDING_IN_A_FUNCTION, &mut log);
        self.unsaid().append(&mut pipeline.take_messages());
        log.into_text()
    }

    /// Ends both threads and closes the socket, for an image of the process that is restored elsewhere.
    pub fn prepare_to_be_stored(&self, within: Duration) {
        self.pause(within);
        if let Some(pipeline) = self.pipeline.check_out(within) {
            pipeline.disconnect();
        }
    }

    /// Whether each invocation is an schedule of its own.
    #[must_use]
    pub fn serves_invocations(&self) -> bool {
        self.schedule == Schedule::PerInvocation
    }

    /// The values a flush would send now. The caller must be detached from the interpreter.
    pub fn look(&self, facts: Option<snapshot::Interpreter>) -> Vec<Sample> {
        let pipeline = self.pipeline.check_out(ONE_TICK);
        pipeline.map(|mut pipeline| pipeline.look(self.clock.now(), facts)).unwrap_or_default()
    }

    /// How it stands with sending; `None` while a flush takes longer than it should. The caller must be detached.
    pub fn status(&self) -> Option<Status> {
        self.pipeline.check_out(ONE_TICK).map(|pipeline| pipeline.status())
    }

    /// Takes over other settings and another subject; counters and baselines stay. The caller must be detached.
    pub fn reconfigure(&self, settings: &Settings, subject: IdentityInputs) {
        let Some(mut pipeline) = self.pipeline.check_out(ONE_TICK) else {
            return;
        };
        pipeline.redirect(output(self.clock, &self.hurry, settings, subject));
        self.look_up_if_due(&mut pipeline);
        self.sampler.reschedule(settings.interval);
    }

    /// Stops both threads and sends a last sample, unless each invocation sends its own; all within `budget`. The caller must be detached.
    ///
    /// If the interpreter `ends`, a thread that is waiting for it is waited for all the same.
    pub fn stop(&self, facts: Option<snapshot::Interpreter>, budget: Duration, ends: bool) {
        let deadline = self.clock.now() + budget;
        let left = || deadline.saturating_sub(self.clock.now());
        self.sampler.close();
        self.begin_pause();
        self.sampler.halt(left());
        // Before the reader has ended, which may take as long as somebody keeps the interpreter.
        if self.schedule == Schedule::Periodic {
            self.flush_by(deadline, deadline, None, facts);
        }
        if ends {
            self.reader.await_interpreter();
        }
        self.reader.halt(left());
    }

    /// Messages that a thread of the program has to log.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Message> {
        let mut messages = self.reader.take_unlogged();
        messages.append(&mut self.unsaid());
        messages
    }

    /// Sends a sample, or says how soon to come again for it.
    fn tick(&self) -> Option<Duration> {
        let mut pipeline = self.pipeline.check_out(ONE_TICK)?;
        // With the pipeline in hand, so that no fork is made meanwhile.
        if self.gunicorn.master().is_some_and(|master| master.prepare(self.clock.now())) {
            return Some(WINDOW);
        }
        self.reader.ask();
        let patience = (pipeline.interval() / 10).min(LONGEST_WAIT);
        pipeline.flush(self.clock.now(), SENDING, None, || self.reader.answer(patience));
        self.look_up_if_due(&mut pipeline);
        self.reader.say(pipeline.take_messages());
        None
    }

    /// Flushes if the pipeline is free by then, and has sent everything, or given up, by the other time.
    fn flush_by(
        &self,
        free: Duration,
        sent: Duration,
        log: Option<&mut LogLines>,
        facts: Option<snapshot::Interpreter>,
    ) -> bool {
        let Some(mut pipeline) = self.pipeline.check_out(free.saturating_sub(self.clock.now())) else {
            return false;
        };
        let now = self.clock.now();
        let everything_left = pipeline.flush(now, sent.saturating_sub(now).min(SENDING), log, || facts);
        self.look_up_if_due(&mut pipeline);
        self.unsaid().append(&mut pipeline.take_messages());
        everything_left
    }

    fn look_up_if_due(&self, pipeline: &mut Pipeline) {
        if self.schedule == Schedule::PerInvocation {
            return;
        }
        if let Some(look_up) = pipeline.due_look_up(self.clock.now()) {
            self.reader.look_up(look_up);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsaid(&self) -> MutexGuard<'_, Vec<Message>> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a value of a metric of the program's own where no collector runs, through a socket of its own; gives what is to be
/// written to the log. A host's name is not looked up.
#[must_use]
pub fn distribute(
    settings: &Settings,
    subject: IdentityInputs,
    distribution: &Distribution,
    at: u64,
) -> String {
    let clock = Clock::start();
    let mut output = output(clock, &Arc::default(), settings, subject);
    let mut log = LogLines::at(at);
    output.distribute(distribution, clock.now(), SENDING_IN_A_FUNCTION, &mut log);
    log.into_text()
}

fn output(clock: Clock, hurry: &Arc<AtomicBool>, settings: &Settings, subject: IdentityInputs) -> Output {
    let transport = Transport::new(settings.destination.clone(), clock, Arc::clone(hurry));
    let identity = subject.identity();
    let mut emitter = Emitter::new(transport, identity.tags, settings.wire_type);
    if settings.client_telemetry {
        emitter = emitter.with_client_telemetry();
    }
    Output {
        emitter,
        origin: Some((settings.origin.clone(), "/".into())),
        subject,
        dropped_tags: identity.dropped_tags,
        selection: settings.selection,
        // An invocation takes as long as it takes, and is not frozen meanwhile.
        interval: match settings.schedule {
            Schedule::Periodic => settings.interval,
            Schedule::PerInvocation => Duration::MAX,
        },
        route: settings.route,
    }
}
