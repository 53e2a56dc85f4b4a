//! What Gunicorn does with this process, as far as its hooks have told: a master, a worker, or neither.
//!
//! A child that such a process forks is neither, until it is told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use self::master::{Master, PLACES};
use self::requests::RequestCounters;
use crate::clock::Clock;
use crate::snapshot::{self, Record, Server};

pub mod master;
pub mod requests;
pub mod scoreboard;

/// This process's part in Gunicorn.
#[derive(Debug, Default)]
pub struct Gunicorn {
    records: [AtomicU64; 4],
    master: ArcSwapOption<Master>,
    worker: ArcSwapOption<Worker>,
}

/// A worker's requests, and the clock they are timed by.
#[derive(Debug)]
struct Worker {
    requests: Arc<RequestCounters>,
    clock: Clock,
}

impl Gunicorn {
    /// A record on Gunicorn's logger.
    pub fn record(&self, record: Record) {
        self.records[record as usize].fetch_add(1, Relaxed);
    }

    /// This process is the master of workers that are yet to be forked; `root` is `/` but for tests.
    pub fn lead(&self, root: &Path) -> Arc<Master> {
        let master = Arc::new(Master::new(root, PLACES));
        self.master.store(Some(Arc::clone(&master)));
        master
    }

    /// The master that this process is.
    #[must_use]
    pub fn master(&self) -> Option<Arc<Master>> {
        self.master.load_full()
    }

    /// This process is a worker, which times its requests by this clock.
    pub fn work(&self, requests: Arc<RequestCounters>, clock: Clock) {
        self.worker.store(Some(Arc::new(Worker { requests, clock })));
    }

    /// In a child process: what its parent was it is not.
    pub fn leave(&self) {
        // Never dropped: a thread that does not exist here may hold its locks.
        std::mem::forget(self.master.swap(None));
        if let Some(worker) = self.worker.swap(None) {
            worker.requests.leave();
            std::mem::forget(worker);
        }
    }

    /// What it does now, and begins a new window for single values. `server` is what its own objects say.
    #[must_use]
    pub fn drain(&self, server: Option<&Server>, now: Duration) -> snapshot::Gunicorn {
        snapshot::Gunicorn {
            records: self.records(),
            requests: self.worker.load_full().map(|worker| worker.requests.drain(worker.clock.now())),
            master: self.master.load_full().zip(server).map(|(master, server)| master.tell(server, now)),
        }
    }

    /// The same, leaving everything as it is.
    #[must_use]
    pub fn read(&self, server: Option<&Server>) -> snapshot::Gunicorn {
        snapshot::Gunicorn {
            records: self.records(),
            requests: self.worker.load_full().map(|worker| worker.requests.read(worker.clock.now())),
            master: self.master.load_full().zip(server).map(|(master, server)| master.peek(server)),
        }
    }

    fn records(&self) -> [u64; 4] {
        self.records.each_ref().map(|count| count.load(Relaxed))
    }
}
