//! What Gunicorn does in this process, as far as its hooks have reported: a master, a worker, or neither.
//!
//! A child that such a process forks is neither, until one of our hooks makes it one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use self::master::{MAX_WORKERS, Master};
use self::objects::GunicornObjects;
use self::requests::RequestCounters;
use crate::clock::Clock;
use crate::replaceable::Replaceable;
use crate::snapshot::server::{GunicornFacts, MasterFacts, Record, Requests};

mod cpu;
pub mod master;
pub mod objects;
pub mod requests;
pub mod scoreboard;

/// The time between the two readings of the workers' CPU time.
const CPU_WINDOW: Duration = Duration::from_millis(100);

/// Counters of Gunicorn in this process, and its role there.
#[derive(Debug, Default)]
pub struct Gunicorn {
    records: [AtomicU64; 4],
    master: Replaceable<Master>,
    worker: Replaceable<Worker>,
}

/// A worker's requests, and the clock that times them.
#[derive(Debug)]
struct Worker {
    requests: Arc<RequestCounters>,
    clock: Clock,
}

impl Gunicorn {
    /// Counts a record on Gunicorn's logger.
    pub fn record(&self, record: Record) {
        self.records[record as usize].fetch_add(1, Relaxed);
    }

    /// Makes this process a master, before it forks its workers; `root` is `/` except in tests.
    pub fn become_master(&self, root: &Path) -> Arc<Master> {
        let master = Arc::new(Master::new(root, MAX_WORKERS));
        self.master.store(Some(Arc::clone(&master)));
        master
    }

    /// Makes this process a worker, which times its requests by this clock.
    pub fn become_worker(&self, requests: Arc<RequestCounters>, clock: Clock) {
        self.worker.store(Some(Arc::new(Worker { requests, clock })));
    }

    /// In a child process: makes it neither, whatever its parent was.
    pub fn leave(&self) {
        // Never dropped: a thread that does not exist here may hold their locks.
        std::mem::forget(self.master.swap(None));
        if let Some(worker) = self.worker.swap(None) {
            worker.requests.leave();
            std::mem::forget(worker);
        }
    }

    /// Whether this process is a master or a worker.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.master.load().is_some() || self.worker.load().is_some()
    }

    /// In a master that needs them, reads its workers' CPU times; gives the time until the second reading is due.
    #[must_use]
    pub fn prepare(&self, now: Duration) -> Option<Duration> {
        self.master.load().as_ref()?.prepare(now).then_some(CPU_WINDOW)
    }

    /// The facts at `now`; single values start again. `objects` is the state of Gunicorn's own objects, if it is known.
    #[must_use]
    pub fn drain(&self, objects: Option<&GunicornObjects>, now: Duration) -> GunicornFacts {
        self.facts(objects, |master, objects| master.drain(objects, now), RequestCounters::drain)
    }

    /// The facts so far; nothing starts again.
    #[must_use]
    pub fn read(&self, objects: Option<&GunicornObjects>) -> GunicornFacts {
        self.facts(objects, Master::read, RequestCounters::read)
    }

    fn facts(
        &self,
        objects: Option<&GunicornObjects>,
        of_master: impl Fn(&Master, &GunicornObjects) -> MasterFacts,
        of_requests: impl Fn(&RequestCounters, Duration) -> Requests,
    ) -> GunicornFacts {
        let (master, worker) = (self.master.load(), self.worker.load());
        GunicornFacts {
            records: self.records.each_ref().map(|count| count.load(Relaxed)),
            requests: worker.as_ref().map(|worker| of_requests(&worker.requests, worker.clock.now())),
            connections: objects.and_then(|objects| objects.connections),
            master: master.as_ref().zip(objects).map(|(master, objects)| of_master(master, objects)),
        }
    }
}
