//! The thread that may wait: for the interpreter, which C code can hold for minutes, or for a name server.
//!
//! The sampler leaves requests and takes answers; it waits for one only as long as it says, and there is never
//! more than one request to the interpreter outstanding.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::collector::sampler::{self, Thread};
use crate::emitter::LookUp;
use crate::message::Message;
use crate::snapshot;

/// Python code may run on it, in a user's log handler: 400 calls deep through C need more than 256 kB.
const STACK: usize = 2 * 1024 * 1024;

/// More messages than this are not kept; the oldest go.
const MOST_MESSAGES: usize = 16;

/// The interpreter, as the edge implements it. Both calls may wait without bound.
pub trait Interpreter: Send + Sync + 'static {
    /// Its facts now; `None` while it shuts down. Calls `entered` as soon as it need not wait for the interpreter any more.
    fn read(&self, entered: &dyn Fn()) -> Option<snapshot::Interpreter>;

    /// Logs what can be logged from a thread that is not Python's; gives back what cannot.
    fn log(&self, messages: Vec<Message>) -> Vec<Message>;
}

/// What the reader is asked to do, and its thread, which starts when there is something to do.
pub struct Reader {
    shared: Arc<Shared>,
    thread: Mutex<Option<Thread>>,
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
    answer: Option<snapshot::Interpreter>,
    look_up: Option<LookUp>,
    messages: Vec<Message>,
    unlogged: Vec<Message>,
    halting: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    #[default]
    NotRunning,
    /// Waiting for something to do.
    Parked,
    /// Waiting for the interpreter.
    Entering,
    /// In the interpreter, for as long as what it calls there takes: a tracer, a log handler of the program.
    Calling,
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
    pub fn answer(&self, within: Duration) -> Option<snapshot::Interpreter> {
        let waiting = |state: &mut State| state.answer.is_none() && !state.halting;
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), within, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.answer.take()
    }

    /// Has a host's name looked up.
    pub fn look_up(&self, look_up: LookUp) {
        self.request(|state| state.look_up = Some(look_up));
    }

    /// Has messages logged, now or, where that cannot be, by the program's next call.
    pub fn say(&self, messages: Vec<Message>) {
        if !messages.is_empty() {
            self.request(|state| keep(&mut state.messages, messages));
        }
    }

    /// What the thread could not log, or has not logged before it was halted.
    #[must_use]
    pub fn take_unlogged(&self) -> Vec<Message> {
        let mut state = self.shared.lock();
        let mut unsaid = std::mem::take(&mut state.unlogged);
        if state.halting {
            unsaid.append(&mut state.messages);
        }
        unsaid
    }

    /// Ends every wait for an answer and asks the thread to end.
    pub fn begin_halt(&self) {
        let was_halting = std::mem::replace(&mut self.shared.lock().halting, true);
        if !was_halting {
            self.shared.changed.notify_all();
        }
    }

    /// Whether the thread cannot end while the caller keeps the interpreter to itself.
    #[must_use]
    pub fn is_in_interpreter(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Entering | Phase::Calling)
    }

    /// Waits as long as the thread waits for the interpreter. Whoever is about to end the interpreter needs it as well,
    /// so this takes no longer than the end itself; a thread that attached later would crash. Be detached.
    pub fn await_interpreter(&self) {
        let entering = |state: &mut State| state.phase == Phase::Entering;
        drop(self.shared.changed.wait_while(self.shared.lock(), entering));
    }

    /// Asks the thread to end and waits for it, at most so long; says whether it is gone. A look-up in progress is
    /// not waited for: it ends by itself and touches nothing more. The thread starts again at the next request.
    pub fn halt(&self, within: Duration) -> bool {
        self.begin_halt();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_some_and(Thread::is_current) {
            return false;
        }
        let busy =
            |state: &mut State| matches!(state.phase, Phase::Parked | Phase::Entering | Phase::Calling);
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(self.shared.lock(), within, busy);
        let ended = waited.unwrap_or_else(PoisonError::into_inner).0.phase == Phase::NotRunning;
        if let Some(thread) = thread.take_if(|_| ended) {
            thread.join();
        }
        ended
    }

    /// Requests are taken again after a halt.
    pub fn resume(&self) {
        let mut state = self.shared.lock();
        state.halting = false;
        let has_work = state.asked || state.look_up.is_some() || !state.messages.is_empty();
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
        while let Some(errand) = self.next() {
            let unless_it_returns = Ended(self);
            self.run_errand(errand);
            std::mem::forget(unless_it_returns);
            self.lock().phase = Phase::Parked;
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    fn run_errand(&self, errand: Errand) {
        match errand {
            Errand::Read => {
                let answer = self.interpreter.read(&|| self.enter());
                let mut state = self.lock();
                state.asked = false;
                state.answer = answer;
            }
            Errand::LookUp(look_up) => look_up.run(),
            Errand::Log(messages) => {
                let left = self.interpreter.log(messages);
                let mut state = self.lock();
                keep(&mut state.unlogged, left);
            }
        }
    }

    fn enter(&self) {
        self.lock().phase = Phase::Calling;
        self.changed.notify_all();
    }

    /// The next thing to do; `None` when the thread is to end, and counts as ended: the next request needs another.
    fn next(&self) -> Option<Errand> {
        let mut state = self.lock();
        loop {
            if state.halting {
                state.phase = Phase::NotRunning;
                return None;
            }
            if state.asked {
                state.phase = Phase::Entering;
                return Some(Errand::Read);
            }
            if !state.messages.is_empty() {
                state.phase = Phase::Calling;
                return Some(Errand::Log(std::mem::take(&mut state.messages)));
            }
            if let Some(look_up) = state.look_up.take() {
                state.phase = Phase::LookingUp;
                return Some(Errand::LookUp(look_up));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds messages and lets the oldest go, so that they stay few.
fn keep(kept: &mut Vec<Message>, messages: Vec<Message>) {
    kept.extend(messages);
    let excess = kept.len().saturating_sub(MOST_MESSAGES);
    kept.drain(..excess);
}

/// Tells whoever joins that the thread ends in the midst of an errand: it has panicked, or the interpreter has ended
/// it.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().phase = Phase::NotRunning;
        self.0.changed.notify_all();
    }
}

enum Errand {
    Read,
    LookUp(LookUp),
    Log(Vec<Message>),
}
