//! What is requested of the reader, and what it does.

use std::time::Duration;

use super::interpreter::Answer;
use super::messages::Messages;
use crate::emitter::LookUp;
use crate::message::Message;

/// What was requested and is not done, and what the thread does.
#[derive(Default)]
pub struct Outstanding {
    /// The interpreter has been asked and has not answered.
    pub asked: bool,
    pub answer: Option<Answer>,
    pub look_up: Option<LookUp>,
    pub messages: Messages,
    pub halting: bool,
    /// It stays halted.
    pub closed: bool,
    pub phase: Phase,
    /// How many wait for an answer, and how many for another phase. Mostly nobody does, and then a system call is saved
    /// at each change.
    pub answer_waiters: usize,
    pub phase_waiters: usize,
}

/// What the thread does.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Phase {
    #[default]
    NotRunning,
    /// Waiting for a request.
    Parked,
    /// Waiting for the interpreter.
    Entering,
    /// In the interpreter, as long as the code called there takes: a tracer, a log handler of the program.
    Calling,
    /// Waiting for a name server, for as long as it takes.
    LookingUp,
}

/// What the thread does next.
pub enum Task {
    Read,
    Probe { overslept: Duration },
    LookUp(LookUp),
    Log(Vec<Message>),
}
