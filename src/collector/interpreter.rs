//! What the collector asks of the interpreter, and what that answers.

use std::sync::Arc;

use crate::identity::tracers::Tracers;
use crate::message::Message;
use crate::settings::variables::Environment;
use crate::snapshot::InterpreterFacts;
use crate::sources::gunicorn::objects::GunicornObjects;

/// The interpreter, which `src/python` implements. Reading and logging may wait without bound.
pub trait Interpreter: Send + Sync + 'static {
    /// Its answer now; `None` while it shuts down. Calls `entered` as soon as it has the interpreter.
    fn read(&self, entered: &dyn Fn()) -> Option<Answer>;

    /// Enters it, for which it may have to be waited, and leaves it soon. Calls `entered` as soon as it has the
    /// interpreter.
    fn enter(&self, entered: &dyn Fn());

    /// Logs what can be logged from a native thread; returns the rest.
    fn log(&self, messages: Vec<Message>) -> Vec<Message>;

    /// Writes warnings where that needs no interpreter and does not wait; returns the rest.
    fn write(&self, messages: Vec<Message>) -> Vec<Message> {
        messages
    }
}

/// What the interpreter answers: facts, and apart from them what identifies the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The interpreter's own facts.
    pub facts: InterpreterFacts,
    /// The state of Gunicorn's own objects, or why it could not be read; `None` without Gunicorn.
    pub gunicorn: Option<Result<GunicornObjects, String>>,
    /// The variables that identify the process.
    pub environment: Arc<Environment>,
    /// What tracers in this process say; `None` if one of them failed to answer.
    pub tracers: Option<Tracers>,
}
