//! The thread that may wait: for the interpreter, which C code can hold for minutes, or for a name server.
//!
//! The sampler leaves requests and takes answers; it waits for one only as long as it says, and there is never
//! more than one request to the interpreter outstanding.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::emitter::transport::NamedHost;
use crate::message::Message;
use crate::pipeline::Answer;
use crate::sampler;

/// Python code may run on it, in a user's log handler: 400 calls deep through C need more than 256 kB.
const STACK: usize = 2 * 1024 * 1024;

/// More messages than this are not kept; the oldest go.
const MOST_MESSAGES: usize = 16;

/// The interpreter, as the edge implements it. Both calls may wait without bound.
pub trait Interpreter: Send + Sync + 'static {
    /// Its facts now; `None` while it shuts down.
    fn read(&self) -> Option<Answer>;

    /// Logs what can be logged from a thread that is not Python's; gives back what cannot.
    fn log(&self, messages: Vec<Message>) -> Vec<Message>;
}

/// A running reader.
pub struct Reader {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The interpreter has been asked and has not answered.
    asked: bool,
    answer: Option<Answer>,
    host: Option<Arc<NamedHost>>,
    messages: Vec<Message>,
    unsayable: Vec<Message>,
    stopping: bool,
    phase: Phase,
}

#[derive(Default, PartialEq)]
enum Phase {
    #[default]
    Attentive,
    /// Waiting for a name server, for as long as it takes.
    LookingUp,
    Ended,
}

impl Reader {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system has no thread left.
    pub fn start(interpreter: Arc<dyn Interpreter>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            sampler::spawn("rtm-reader", STACK, move || {
                shared.run(&*interpreter);
            })?
        };
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Asks the interpreter for its facts; a request that is still outstanding serves this one too.
    pub fn ask(&self) {
        let mut state = self.shared.lock();
        state.answer = None;
        state.asked = true;
        self.shared.changed.notify_all();
    }

    /// Waits for the answer to the last [`ask`](Self::ask), at most so long; stopping ends the wait.
    #[must_use]
    pub fn answer(&self, within: Duration) -> Option<Answer> {
        let waiting = |state: &mut State| state.answer.is_none() && !state.stopping;
        let state = self.shared.lock();
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, within, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.answer.take()
    }

    /// Has a host's name looked up.
    pub fn look_up(&self, host: Arc<NamedHost>) {
        self.shared.lock().host = Some(host);
        self.shared.changed.notify_all();
    }

    /// Has messages logged, now or, where that cannot be, by the program's next call.
    pub fn say(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        self.shared.lock().messages.extend(messages);
        self.shared.changed.notify_all();
    }

    /// What the thread could not log, or has not logged before it was stopped.
    #[must_use]
    pub fn take_unsaid(&self) -> Vec<Message> {
        let mut state = self.shared.lock();
        let mut unsaid = std::mem::take(&mut state.unsayable);
        if state.stopping {
            unsaid.append(&mut state.messages);
        }
        unsaid
    }

    /// Ends every wait for an answer and asks the thread to end.
    pub fn begin_stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
    }

    /// Waits at most so long for the thread to end. A look-up in progress is not waited for: it ends by itself
    /// and touches nothing more. The caller must be detached from the interpreter.
    pub fn join(&self, within: Duration) {
        let waiting = |state: &mut State| state.phase == Phase::Attentive;
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, within, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let ended = state.phase == Phase::Ended;
        drop(state);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|thread| ended && thread.thread().id() != thread::current().id())
        {
            // It has nothing more to do, and its panics have been caught.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn run(&self, interpreter: &dyn Interpreter) {
        let _ended = Ended(self);
        while let Some(errand) = self.next() {
            match errand {
                Errand::Read => {
                    let answer = interpreter.read();
                    let mut state = self.lock();
                    state.asked = false;
                    state.answer = answer;
                }
                Errand::LookUp(host) => {
                    host.look_up();
                    self.lock().phase = Phase::Attentive;
                }
                Errand::Log(messages) => {
                    let left = interpreter.log(messages);
                    let mut state = self.lock();
                    state.unsayable.extend(left);
                    let excess = state.unsayable.len().saturating_sub(MOST_MESSAGES);
                    state.unsayable.drain(..excess);
                }
            }
            self.changed.notify_all();
        }
    }

    /// The next thing to do; `None` when it is time to stop.
    fn next(&self) -> Option<Errand> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if state.asked {
                return Some(Errand::Read);
            }
            if !state.messages.is_empty() {
                return Some(Errand::Log(std::mem::take(&mut state.messages)));
            }
            if let Some(host) = state.host.take() {
                state.phase = Phase::LookingUp;
                return Some(Errand::LookUp(host));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whoever joins, however the thread ends.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().phase = Phase::Ended;
        self.0.changed.notify_all();
    }
}

enum Errand {
    Read,
    LookUp(Arc<NamedHost>),
    Log(Vec<Message>),
}
