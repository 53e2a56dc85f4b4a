//! One running collector: what `enable()` starts and `disable()` stops.
//!
//! A pipeline, the sampler that beats it and the reader that may wait. Whoever uses the pipeline checks it out,
//! so no lock is held over a system call.

use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use once_cell::sync::OnceCell;

use crate::catalogue::Sample;
use crate::config::Settings;
use crate::emitter::Emitter;
use crate::emitter::transport::Transport;
use crate::message::Message;
use crate::pipeline::{Answer, Output, Pipeline};
use crate::reader::{Interpreter, Reader};
use crate::sampler::{Clock, Sampler};
use crate::sources::gc::GcCounters;

/// A tick waits for the interpreter at most a tenth of its interval, and never longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long `flush()` waits for a tick under way.
const BUSY: Duration = Duration::from_millis(100);

/// A tick may wait for the interpreter and then for a slow stream; a look at the values waits longer than that.
const ONE_TICK: Duration = Duration::from_secs(2);

/// A running collector.
pub struct Collector {
    clock: Clock,
    pipeline: Slot<Pipeline>,
    threads: OnceCell<Threads>,
    unsaid: Mutex<Vec<Message>>,
}

struct Threads {
    sampler: Sampler,
    reader: Reader,
}

impl Collector {
    /// Opens the sources and takes the baseline; `clock` is the one `gc` counts with.
    #[must_use]
    pub fn new(clock: Clock, gc: Arc<GcCounters>, settings: &Settings, tags: String) -> Self {
        let pipeline = Pipeline::new(Path::new("/"), gc, output(settings, tags), clock.now());
        Self {
            clock,
            pipeline: Slot::new(pipeline),
            threads: OnceCell::new(),
            unsaid: Mutex::default(),
        }
    }

    /// Starts the two threads; the first tick is one interval away.
    ///
    /// # Errors
    ///
    /// If the system has no thread left; neither is running then.
    pub fn start(self: &Arc<Self>, interval: Duration, interpreter: Arc<dyn Interpreter>) -> io::Result<()> {
        let threads = self.threads.get_or_try_init(|| {
            let reader = Reader::start(interpreter)?;
            let collector = Arc::downgrade(self);
            let beat = move || {
                if let Some(collector) = collector.upgrade() {
                    collector.tick();
                }
            };
            match Sampler::start(self.clock, interval, beat) {
                Ok(sampler) => Ok(Threads { sampler, reader }),
                Err(error) => {
                    reader.begin_stop();
                    Err(error)
                }
            }
        })?;
        if let Some(pipeline) = self.pipeline.check_out(ONE_TICK) {
            pipeline
                .due_look_up(self.clock.now())
                .into_iter()
                .for_each(|host| threads.reader.look_up(host));
        }
        Ok(())
    }

    /// Sends a sample now, in the calling thread. The interpreter's facts are the caller's to bring.
    ///
    /// False if something did not leave, or another flush is under way and does not end in 100 ms. The caller must
    /// be detached from the interpreter, which a tick under way may be waiting for.
    pub fn flush(&self, answer: Option<Answer>) -> bool {
        self.flush_within(BUSY, answer)
    }

    /// The values a flush would send now. The caller must be detached from the interpreter.
    pub fn look(&self, answer: Option<Answer>) -> Vec<Sample> {
        let pipeline = self.pipeline.check_out(ONE_TICK);
        pipeline
            .map(|mut pipeline| pipeline.look(self.clock.now(), answer))
            .unwrap_or_default()
    }

    /// Takes over other settings and tags; counters and baselines stay. The caller must be detached.
    pub fn reconfigure(&self, settings: &Settings, tags: String) {
        let (Some(threads), Some(mut pipeline)) = (self.threads.get(), self.pipeline.check_out(ONE_TICK))
        else {
            return;
        };
        let now = self.clock.now();
        pipeline.redirect(output(settings, tags));
        pipeline
            .due_look_up(now)
            .into_iter()
            .for_each(|host| threads.reader.look_up(host));
        threads.sampler.reschedule(settings.interval, now);
    }

    /// Stops both threads and sends a last sample, all within `budget`. The caller must be detached.
    pub fn stop(&self, answer: Option<Answer>, budget: Duration) {
        let deadline = self.clock.now() + budget;
        let left = || deadline.saturating_sub(self.clock.now());
        if let Some(threads) = self.threads.get() {
            // The reader first, so that a tick that waits for it goes on without an answer.
            threads.reader.begin_stop();
            threads.sampler.stop(left());
        }
        self.flush_within(left(), answer);
        if let Some(threads) = self.threads.get() {
            threads.reader.join(left());
        }
    }

    /// Messages that a thread of the program has to log.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Message> {
        let mut messages = self
            .threads
            .get()
            .map(|threads| threads.reader.take_unsaid())
            .unwrap_or_default();
        messages.append(&mut self.unsaid());
        messages
    }

    fn tick(&self) {
        let (Some(threads), Some(mut pipeline)) = (self.threads.get(), self.pipeline.check_out(ONE_TICK))
        else {
            return;
        };
        threads.reader.ask();
        let patience = (pipeline.interval() / 10).min(LONGEST_WAIT);
        pipeline.flush(self.clock.now(), || threads.reader.answer(patience));
        pipeline
            .due_look_up(self.clock.now())
            .into_iter()
            .for_each(|host| threads.reader.look_up(host));
        threads.reader.say(pipeline.take_messages());
    }

    fn flush_within(&self, busy: Duration, answer: Option<Answer>) -> bool {
        let Some(mut pipeline) = self.pipeline.check_out(busy) else {
            return false;
        };
        let everything_left = pipeline.flush(self.clock.now(), || answer);
        self.unsaid().append(&mut pipeline.take_messages());
        everything_left
    }

    fn unsaid(&self) -> MutexGuard<'_, Vec<Message>> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn output(settings: &Settings, tags: String) -> Output {
    let transport = Transport::new(settings.destination.clone());
    let emitter = Emitter::new(transport.clone(), tags, settings.wire_type);
    Output {
        emitter,
        transport,
        level: settings.level,
        interval: settings.interval,
    }
}

/// Holds one thing that one thread at a time takes away and brings back.
struct Slot<T> {
    held: Mutex<Held<T>>,
    brought_back: Condvar,
}

struct Held<T> {
    thing: Option<T>,
    waiting: usize,
}

impl<T> Slot<T> {
    fn new(thing: T) -> Self {
        Self {
            held: Mutex::new(Held {
                thing: Some(thing),
                waiting: 0,
            }),
            brought_back: Condvar::new(),
        }
    }

    /// The thing, if it is there or is brought back in time.
    fn check_out(&self, within: Duration) -> Option<CheckedOut<'_, T>> {
        let mut held = self.lock();
        held.waiting += 1;
        (held, _) = self
            .brought_back
            .wait_timeout_while(held, within, |held| held.thing.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        held.waiting -= 1;
        let thing = held.thing.take()?;
        Some(CheckedOut {
            slot: self,
            thing: Some(thing),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thing, until it is dropped and thereby brought back.
struct CheckedOut<'a, T> {
    slot: &'a Slot<T>,
    thing: Option<T>,
}

impl<T> Deref for CheckedOut<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("present until it is dropped")
    }
}

impl<T> DerefMut for CheckedOut<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("present until it is dropped")
    }
}

impl<T> Drop for CheckedOut<'_, T> {
    fn drop(&mut self) {
        let mut held = self.slot.lock();
        held.thing = self.thing.take();
        // Waking nobody would be a system call all the same.
        if held.waiting > 0 {
            self.slot.brought_back.notify_one();
        }
    }
}
