//! Plain facts at one instant, one struct per source.
//!
//! Facts are cumulative where their source is: differences are taken in [`crate::interval`] alone.
//! `None` means "unknown here", never zero.

use std::time::Duration;

use crate::identity::tracers::Tracers;
use crate::settings::variables::Environment;

/// All facts at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// When, on the collector's monotonic clock.
    pub at: Duration,
    /// What the process has used of the machine since it began.
    pub usage: Option<Usage>,
    /// The process as the operating system sees it now.
    pub process: Process,
    /// The garbage collections seen by our callback; `None` if one may have gone unseen.
    pub collections: Option<Collections>,
    /// What only the interpreter knows; `None` if it did not answer in time.
    pub interpreter: Option<Interpreter>,
    /// What Gunicorn does with this process, if it runs it.
    pub gunicorn: Gunicorn,
}

/// What the process has used since it began: all its threads, also ended ones, not its children.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time in user and kernel together.
    pub cpu: Duration,
    /// CPU time in user mode.
    pub user: Option<Duration>,
    /// CPU time in the kernel.
    pub system: Option<Duration>,
    /// Times a thread gave up the CPU.
    pub voluntary_switches: Option<u64>,
    /// Times a thread was preempted.
    pub involuntary_switches: Option<u64>,
}

/// The process as the operating system sees it now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Resident set, in bytes.
    pub resident: Option<u64>,
    /// Operating-system threads.
    pub threads: Option<u64>,
}

/// Garbage collections since the callback was installed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collections {
    /// Collections that ended, by generation.
    pub count: [u64; 3],
    /// Total pause, in nanoseconds.
    pub pause: u64,
    /// The longest pause since the last flush, in nanoseconds: the one fact here that is a window's.
    pub longest_pause: u64,
}

/// What only the interpreter knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interpreter {
    /// `gc.get_count()`.
    pub gc_count: Option<[u64; 3]>,
    /// The variables that say who the process is.
    pub environment: Environment,
    /// What tracers in this process say; `None` if one of them has failed to.
    pub tracers: Option<Tracers>,
    /// What Gunicorn's own objects say, or how they have failed to; `None` if it does not run this process.
    pub gunicorn: Option<Result<Server, String>>,
}

impl Interpreter {
    /// What Gunicorn's own objects say, if they do.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        self.gunicorn.as_ref()?.as_ref().ok()
    }
}

/// What Gunicorn's own objects say at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// In the master, the pids of its workers.
    pub workers: Vec<u32>,
    /// In the master, whether another one serves in its place.
    pub is_replaced: bool,
    /// In the master, connections that wait to be accepted.
    pub backlog: Option<u64>,
    /// In a worker, connections that it holds.
    pub connections: Option<u64>,
}

/// What Gunicorn does with this process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gunicorn {
    /// Records on Gunicorn's own logger since this process began or was forked, by [`Record`].
    pub records: [u64; 4],
    /// In a worker, its requests.
    pub requests: Option<Requests>,
    /// In the master, what it can say.
    pub master: Option<Master>,
}

/// What a master can say of its workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Master {
    /// The tag that names the application, cleaned.
    pub app: String,
    /// What its workers do; `None` if that is not known.
    pub workers: Option<Workers>,
    /// Whether it runs; `None` if that is not its to say.
    pub running: Option<Running>,
}

/// Records on Gunicorn's logger that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Of the level CRITICAL.
    Critical,
    /// Of the level ERROR, without an exception.
    Error,
    /// Of the level WARNING.
    Warning,
    /// Of the level ERROR, with an exception.
    Exception,
}

impl Record {
    /// The record of a level, as the module `logging` counts, that tells of an exception or not; `None` below WARNING.
    #[must_use]
    pub fn of(level: u32, has_exception: bool) -> Option<Self> {
        match level {
            50.. => Some(Self::Critical),
            40.. if has_exception => Some(Self::Exception),
            40.. => Some(Self::Error),
            30.. => Some(Self::Warning),
            _ => None,
        }
    }
}

/// The requests of a worker since it began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// What is counted of those that have ended; `None` where Gunicorn counts them itself.
    pub ended: Option<Ended>,
    /// How long each of them had waited in front of the server, if a proxy said so, since the last flush.
    pub queue_times: Observations,
    /// Requests that are being served.
    pub active: u64,
    /// Time spent in requests: two at once count twice.
    pub busy: Duration,
    /// How many the worker can serve at once, if that is limited.
    pub capacity: Option<u64>,
}

/// Requests that have ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ended {
    /// Their number.
    pub count: u64,
    /// Their number by status; each status that there has been stays where it is.
    pub by_status: Vec<(u16, u64)>,
    /// How long each of them took, since the last flush.
    pub durations: Observations,
}

impl Ended {
    /// How many had this status; `None` if there has been none yet.
    #[must_use]
    pub fn with_status(&self, status: u16) -> Option<u64> {
        self.by_status.iter().find(|(known, _)| *known == status).map(|(_, count)| *count)
    }
}

/// Single values, of which a uniform choice is kept where they are many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observations {
    /// In microseconds.
    pub kept: Vec<u64>,
    /// How many there were.
    pub seen: u64,
}

/// What Gunicorn's workers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many serve no request.
    pub idle: u64,
    /// How many serve at least one.
    pub working: u64,
}

/// Whether a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It does.
    Ok,
    /// It has no worker.
    Critical,
}
