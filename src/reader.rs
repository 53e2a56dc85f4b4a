//! The thread that may wait: for the interpreter, which C code can hold for minutes, or for a name server.
//!
//! The sampler leaves requests and takes answers; it waits for one only as long as it says, and there is never
//! more than one request to the interpreter outstanding.

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

/// What the reader is asked to do, and its thread, which starts when there is something to do.
pub struct Reader {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    interpreter: Arc<dyn Interpreter>,
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
    halting: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    #[default]
    NotRunning,
    /// Waiting for something to do.
    Parked,
    /// Waiting for the interpreter, or in it.
    InInterpreter,
    /// Waiting for a name server, for as long as it takes.
    LookingUp,
}

impl Reader {
    /// A reader that has nothing to do yet.
    #[must_use]
    pub fn new(interpreter: Arc<dyn Interpreter>) -> Self {
        let shared = Shared { interpreter, state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Asks the interpreter for its facts; a request that is still outstanding serves this one too.
    pub fn ask(&self) {
        self.request(|state| {
            state.answer = None;
            state.asked = true;
        });
    }

    /// Waits for the answer to the last [`ask`](Self::ask), at most so long; halting ends the wait.
    #[must_use]
    pub fn answer(&self, within: Duration) -> Option<Answer> {
        let waiting = |state: &mut State| state.answer.is_none() && !state.halting;
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), within, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.answer.take()
    }

    /// Has a host's name looked up.
    pub fn look_up(&self, host: Arc<NamedHost>) {
        self.request(|state| state.host = Some(host));
    }

    /// Has messages logged, now or, where that cannot be, by the program's next call.
    pub fn say(&self, messages: Vec<Message>) {
        if !messages.is_empty() {
            self.request(|state| state.messages.extend(messages));
        }
    }

    /// What the thread could not log, or has not logged before it was halted.
    #[must_use]
    pub fn take_unsaid(&self) -> Vec<Message> {
        let mut state = self.shared.lock();
        let mut unsaid = std::mem::take(&mut state.unsayable);
        if state.halting {
            unsaid.append(&mut state.messages);
        }
        unsaid
    }

    /// Ends every wait for an answer and asks the thread to end.
    pub fn begin_halt(&self) {
        self.shared.lock().halting = true;
        self.shared.changed.notify_all();
    }

    /// Whether the thread cannot end while the caller keeps the interpreter to itself.
    #[must_use]
    pub fn is_in_interpreter(&self) -> bool {
        self.shared.lock().phase == Phase::InInterpreter
    }

    /// Asks the thread to end and waits for it, at most so long; says whether it is gone. A look-up in progress is
    /// not waited for: it ends by itself and touches nothing more. The thread starts again at the next request.
    pub fn halt(&self, within: Duration) -> bool {
        self.begin_halt();
        let waiting = |state: &mut State| matches!(state.phase, Phase::Parked | Phase::InInterpreter);
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), within, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let ended = state.phase == Phase::NotRunning;
        drop(state);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) =
            thread.take_if(|_| ended).filter(|thread| thread.thread().id() != thread::current().id())
        {
            // It has nothing more to do, and its panics have been told of.
            drop(thread.join());
        }
        ended
    }

    /// Requests are taken again after a halt.
    pub fn resume(&self) {
        let mut state = self.shared.lock();
        state.halting = false;
        let has_work = state.asked || state.host.is_some() || !state.messages.is_empty();
        drop(state);
        if has_work {
            self.request(|_| ());
        }
    }

    /// Leaves a request and sees to it that somebody is there to take it.
    fn request(&self, leave: impl FnOnce(&mut State)) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.lock();
        leave(&mut state);
        if state.phase == Phase::NotRunning && !state.halting {
            let shared = Arc::clone(&self.shared);
            // Without a thread the request stays unanswered, and the next one tries again.
            if let Ok(started) = sampler::spawn("rtm-reader", STACK, Box::new(move || shared.run())) {
                *thread = Some(started);
                state.phase = Phase::Parked;
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let _ended = Ended(self);
        while let Some(errand) = self.next() {
            match errand {
                Errand::Read => {
                    let answer = self.interpreter.read();
                    let mut state = self.lock();
                    state.asked = false;
                    state.answer = answer;
                }
                Errand::LookUp(host) => host.look_up(),
                Errand::Log(messages) => {
                    let left = self.interpreter.log(messages);
                    let mut state = self.lock();
                    state.unsayable.extend(left);
                    let excess = state.unsayable.len().saturating_sub(MOST_MESSAGES);
                    state.unsayable.drain(..excess);
                }
            }
            self.lock().phase = Phase::Parked;
            self.changed.notify_all();
        }
    }

    /// The next thing to do; `None` when it is time to end.
    fn next(&self) -> Option<Errand> {
        let mut state = self.lock();
        loop {
            if state.halting {
                return None;
            }
            if state.asked {
                state.phase = Phase::InInterpreter;
                return Some(Errand::Read);
            }
            if !state.messages.is_empty() {
                state.phase = Phase::InInterpreter;
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
        self.0.lock().phase = Phase::NotRunning;
        self.0.changed.notify_all();
    }
}

enum Errand {
    Read,
    LookUp(Arc<NamedHost>),
    Log(Vec<Message>),
}
