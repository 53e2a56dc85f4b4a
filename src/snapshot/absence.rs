//! Why a fact is not known, where its source can tell that from other reasons.

use std::time::Duration;

/// Why a source that was read has no fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The program has not imported asyncio.
    NoAsyncio,
    /// This version of Python does not register tasks where they can be counted.
    NoTaskRegistry,
    /// gevent or eventlet has replaced threads by greenlets.
    Greenlets,
    /// There is no pool of threads.
    NoPool,
    /// The pools have more threads, or more event loops have pools, than are looked at.
    TooManyPooled,
    /// The process has no listening socket.
    NoListener,
    /// All listeners are counted in Gunicorn's backlog.
    InBacklog,
}

/// Why a read is not made that may cost the program too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The last one cost so much that the next one is due only then.
    Until(Duration),
    /// The last ones cost so much that none is made any more.
    GivenUp {
        /// What the last one cost.
        cost: Duration,
    },
}
