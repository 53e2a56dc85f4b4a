//! Facts about the server that runs this process.

use std::time::Duration;

/// What Gunicorn does in this process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GunicornFacts {
    /// Records on Gunicorn's own logger since this process started or was forked, by [`Record`].
    pub records: [u64; 4],
    /// In a worker, its requests.
    pub requests: Option<Requests>,
    /// In a worker, the connections that it holds.
    pub connections: Option<u64>,
    /// In the master, its workers and its backlog.
    pub master: Option<MasterFacts>,
}

/// What a master knows about its workers.
#[derive(Clone, Debug, PartialEq)]
pub struct MasterFacts {
    /// The application's name, as the process title shows it.
    pub app: String,
    /// What its workers are doing; `None` if that is not known.
    pub workers: Option<WorkerCounts>,
    /// Whether it has workers; `None` in a replaced master, and after the final report.
    pub status: Option<ServerStatus>,
    /// Connections that wait to be accepted.
    pub backlog: Option<u64>,
}

/// Gunicorn's workers by what they are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Workers without a request.
    pub idle: u64,
    /// Workers with at least one request.
    pub working: u64,
}

/// Whether a server is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerStatus {
    /// It has workers.
    Ok,
    /// It has no workers.
    Critical,
}

/// A record on Gunicorn's logger that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Level CRITICAL.
    Critical,
    /// Level ERROR, without an exception.
    Error,
    /// Level WARNING.
    Warning,
    /// Level ERROR, with an exception.
    Exception,
}

impl Record {
    /// Classifies a record by its numeric `logging` level and whether it carries an exception; `None` below WARNING.
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

/// The requests of a worker since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// Requests that have ended; `None` where Gunicorn counts them itself.
    pub ended: Option<Ended>,
    /// How long each of them waited in front of the server, where a proxy reports it, since the last flush.
    pub queue_times: Observations,
    /// Requests in flight.
    pub active: u64,
    /// Time spent in requests: two at once count twice.
    pub busy: Duration,
    /// How many requests the worker can serve at once, if that is limited.
    pub capacity: Option<u64>,
}

/// Requests that have ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ended {
    /// Their number.
    pub count: u64,
    /// Their number by status, in the order in which the statuses first occurred.
    pub by_status: Vec<(u16, u64)>,
    /// How long each of them took, since the last flush.
    pub durations: Observations,
}

impl Ended {
    /// How many had this status; `None` if none had.
    #[must_use]
    pub fn with_status(&self, status: u16) -> Option<u64> {
        self.by_status.iter().find(|(known, _)| *known == status).map(|(_, count)| *count)
    }
}

/// Single values; where there are many, a reservoir sample of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observations {
    /// The values that were kept, in microseconds.
    pub kept: Vec<u64>,
    /// How many were observed.
    pub seen: u64,
}
