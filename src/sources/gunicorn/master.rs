//! What the workers of a Gunicorn master are doing, as the master sees it.
//!
//! Each worker stores its number of requests in flight in a shared scoreboard. A worker without a slot there is working
//! if it used CPU time within a tenth of a second.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cpu::{CpuReader, CpuTimes};
use super::objects::GunicornObjects;
use super::scoreboard::{Scoreboard, Slot};
use crate::snapshot::server::{MasterFacts, ServerStatus, WorkerCounts};

/// The most workers of one master that get a slot; the others are judged by their CPU time.
pub const MAX_WORKERS: usize = 1024;

/// A first reading of CPU times that is older than this is discarded.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A master and what is known about its workers.
#[derive(Debug)]
pub struct Master {
    cpu: CpuReader,
    scoreboard: Option<Scoreboard>,
    by_cpu: AtomicBool,
    state: Mutex<MasterState>,
}

#[derive(Clone, Debug, Default)]
struct MasterState {
    app: String,
    /// Workers as of the last drain.
    pids: Vec<u32>,
    /// The first reading of CPU times, and when it was taken.
    first: Option<(Duration, CpuTimes)>,
    has_had_workers: bool,
    reported_critical: bool,
    has_ended: bool,
}

impl Master {
    /// A master with so many slots for its workers; `root` is `/` except in tests.
    #[must_use]
    pub fn new(root: &Path, slots: usize) -> Self {
        let by_cpu = AtomicBool::new(false);
        let cpu = CpuReader::new(root);
        Self { cpu, scoreboard: Scoreboard::new(slots), by_cpu, state: Mutex::default() }
    }

    /// Sets the application's name, and whether all workers are judged by their CPU time alone.
    pub fn configure(&self, app: &str, by_cpu: bool) {
        app.clone_into(&mut self.lock().app);
        self.by_cpu.store(by_cpu, SeqCst);
    }

    /// A slot for a worker's requests in flight; `None` if none is free.
    #[must_use]
    pub fn slot(&self, pid: u32) -> Option<Slot> {
        self.scoreboard.as_ref()?.take(pid)
    }

    /// Frees the slot of a worker that has ended.
    pub fn release(&self, pid: u32) {
        if let Some(scoreboard) = &self.scoreboard {
            scoreboard.release(pid);
        }
    }

    /// Takes the first reading of CPU times if one is needed and there is none; whether it did.
    pub fn prepare(&self, now: Duration) -> bool {
        let state = self.state();
        if state.first.as_ref().is_some_and(|(then, _)| now.saturating_sub(*then) < MAX_AGE) {
            return false;
        }
        // Workers that have started since the last drain are on the scoreboard, if there was a slot left.
        let in_flight = self.in_flight();
        let mut pids = self.judged_by_cpu(&state.pids, &in_flight);
        pids.extend(in_flight.iter().map(|(pid, _)| *pid).filter(|_| self.by_cpu.load(SeqCst)));
        if pids.is_empty() {
            return false;
        }
        let times = self.cpu.read(&pids);
        self.lock().first = Some((now, times));
        true
    }

    /// The facts, with the workers that Gunicorn has now. What was reported once is not reported again at the end.
    #[must_use]
    pub fn drain(&self, objects: &GunicornObjects, now: Duration) -> MasterFacts {
        let mut state = self.lock();
        state.pids.clone_from(&objects.workers);
        state.has_had_workers |= !objects.workers.is_empty();
        let first = state.first.take().filter(|(then, _)| now.saturating_sub(*then) < MAX_AGE);
        drop(state);
        let facts = self.facts(&self.state(), objects, first.map(|(_, times)| times));
        self.lock().reported_critical = facts.status == Some(ServerStatus::Critical);
        facts
    }

    /// The facts; nothing counts as reported. Workers that are judged by CPU time are unknown.
    #[must_use]
    pub fn read(&self, objects: &GunicornObjects) -> MasterFacts {
        self.facts(&self.state(), objects, None)
    }

    /// The master is about to exit: what is reported from now on is final.
    pub fn end(&self) {
        let mut state = self.lock();
        state.has_had_workers = true;
        state.has_ended = true;
    }

    fn facts(&self, state: &MasterState, objects: &GunicornObjects, first: Option<CpuTimes>) -> MasterFacts {
        let mut facts =
            MasterFacts { app: state.app.clone(), workers: None, status: None, backlog: objects.backlog };
        // Before it has workers the application is still being loaded.
        if state.has_had_workers {
            // Workers that are left at the end have been killed or will be, which Gunicorn has not noticed.
            let workers = if state.has_ended { &[] } else { objects.workers.as_slice() };
            facts.workers = self.count(workers, first);
            facts.status = match workers {
                [_, ..] => Some(ServerStatus::Ok),
                [] if objects.is_replaced || (state.has_ended && state.reported_critical) => None,
                [] => Some(ServerStatus::Critical),
            };
        }
        facts
    }

    fn count(&self, pids: &[u32], first: Option<CpuTimes>) -> Option<WorkerCounts> {
        let in_flight = self.in_flight();
        let by_cpu = self.judged_by_cpu(pids, &in_flight);
        let working = if by_cpu.is_empty() {
            0
        } else {
            let first = first?;
            // A worker that has started since the first reading is not known to be working.
            let used_cpu = |(pid, now): &&(u32, u64)| of(&first, *pid).is_some_and(|before| before != *now);
            self.cpu.read(&by_cpu).iter().filter(used_cpu).count()
        };
        let in_requests =
            |pid: &&u32| !by_cpu.contains(pid) && of(&in_flight, **pid).is_some_and(|count| count > 0);
        let working = (working + pids.iter().filter(in_requests).count()) as u64;
        Some(WorkerCounts { idle: pids.len() as u64 - working, working })
    }

    /// Those of these workers that only their CPU time can judge.
    fn judged_by_cpu(&self, pids: &[u32], in_flight: &[(u32, u32)]) -> Vec<u32> {
        if self.by_cpu.load(SeqCst) {
            return pids.to_vec();
        }
        let is_full = self.scoreboard.as_ref().is_none_or(Scoreboard::is_full);
        // A worker without a slot has not started yet, unless no slot was left.
        pids.iter().copied().filter(|pid| is_full && of(in_flight, *pid).is_none()).collect()
    }

    /// Requests in flight by pid.
    fn in_flight(&self) -> Vec<(u32, u32)> {
        self.scoreboard.as_ref().map(Scoreboard::read).unwrap_or_default()
    }

    /// A copy, so that no lock is held while files are read: threads of the program may wait for it.
    fn state(&self) -> MasterState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, MasterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of one process. There are few of them.
fn of<T: Copy>(values: &[(u32, T)], pid: u32) -> Option<T> {
    values.iter().find(|(of, _)| *of == pid).map(|(_, value)| *value)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn objects(workers: &[u32]) -> GunicornObjects {
        GunicornObjects { workers: workers.to_vec(), ..GunicornObjects::default() }
    }

    fn master(slots: usize) -> (tempfile::TempDir, Master) {
        let root = tempfile::tempdir().unwrap();
        let master = Master::new(root.path(), slots);
        master.configure("shop", false);
        (root, master)
    }

    fn use_cpu(root: &tempfile::TempDir, pid: u32, user: u64, system: u64) {
        let folder = root.path().join(format!("proc/{pid}"));
        fs::create_dir_all(&folder).unwrap();
        let stat = format!("{pid} (a ) (b) S 1 2 3 0 -1 4194304 9 8 7 6 {user} {system} 5 4 20 0 1 0 99");
        fs::write(folder.join("stat"), stat).unwrap();
    }

    fn working(master: &Master, pids: &[u32]) -> Option<(u64, u64)> {
        master.drain(&objects(pids), NOW).workers.map(|workers| (workers.idle, workers.working))
    }

    #[test]
    fn a_worker_with_a_request_is_working() {
        let (_root, master) = master(4);
        let slots = [10, 11, 12].map(|pid| master.slot(pid).unwrap());
        slots[0].store(1);
        slots[2].store(300);
        assert_eq!(working(&master, &[10, 11, 12]), Some((1, 2)));
        slots[0].store(0);
        assert_eq!(working(&master, &[10, 11, 12]), Some((2, 1)));
    }

    #[test]
    fn a_worker_that_has_died_is_not_counted_and_its_slot_is_reused() {
        let (_root, master) = master(1);
        master.slot(10).unwrap().store(1);
        assert_eq!(working(&master, &[10]), Some((0, 1)));
        assert_eq!(working(&master, &[]), Some((0, 0)));
        master.release(10);
        let next = master.slot(11).unwrap();
        assert_eq!(working(&master, &[11]), Some((1, 0)));
        next.store(1);
        assert_eq!(working(&master, &[11]), Some((0, 1)));
    }

    #[test]
    fn a_worker_that_has_not_started_is_idle() {
        let (_root, master) = master(4);
        assert!(!master.prepare(NOW));
        assert_eq!(working(&master, &[10]), Some((1, 0)));
    }

    #[test]
    fn by_cpu_time_a_worker_is_working_that_used_some_within_the_window() {
        let (root, master) = master(4);
        master.configure("shop", true);
        master.slot(12).unwrap().store(1);
        for pid in [10, 11, 12] {
            use_cpu(&root, pid, 7, 0);
        }
        assert_eq!(working(&master, &[10, 11, 12]), None, "there was no first reading");
        assert!(master.prepare(NOW));
        assert!(!master.prepare(NOW), "there is a reading already");
        use_cpu(&root, 10, 8, 0);
        use_cpu(&root, 11, 7, 1);
        use_cpu(&root, 13, 7, 1);
        assert_eq!(working(&master, &[10, 11, 12, 13]), Some((2, 2)), "13 started after the first reading");
    }

    #[test]
    fn a_first_reading_expires() {
        let (root, master) = master(4);
        master.configure("shop", true);
        use_cpu(&root, 10, 7, 0);
        assert_eq!(working(&master, &[10]), None);
        assert!(master.prepare(NOW));
        assert_eq!(master.drain(&objects(&[10]), NOW + MAX_AGE).workers, None);
        assert!(master.prepare(NOW + MAX_AGE));
        assert!(master.prepare(NOW + 2 * MAX_AGE));
    }

    #[test]
    fn workers_without_a_slot_are_judged_by_their_cpu_time() {
        let (root, master) = master(4);
        let slots: Vec<_> = (10..14).map(|pid| master.slot(pid).unwrap()).collect();
        slots[1].store(1);
        assert!(master.slot(14).is_none());
        use_cpu(&root, 14, 7, 0);
        let pids: Vec<_> = (10..15).collect();
        assert_eq!(working(&master, &pids), None);
        assert!(master.prepare(NOW));
        use_cpu(&root, 14, 9, 0);
        assert_eq!(working(&master, &pids), Some((3, 2)));
    }

    #[test]
    fn it_is_up_while_it_has_workers_and_reports_its_end_once() {
        let (_root, master) = master(4);
        let status = |workers: &[u32]| master.drain(&objects(workers), NOW).status;
        assert_eq!(
            [status(&[10]), status(&[]), status(&[])],
            [Some(ServerStatus::Ok), Some(ServerStatus::Critical), Some(ServerStatus::Critical)]
        );
        master.end();
        assert_eq!(status(&[]), None);
    }

    #[test]
    fn at_its_end_it_is_down() {
        let (_root, master) = master(4);
        assert_eq!(master.drain(&objects(&[10]), NOW).status, Some(ServerStatus::Ok));
        master.end();
        assert_eq!(master.drain(&objects(&[]), NOW).status, Some(ServerStatus::Critical));
        assert_eq!(master.drain(&objects(&[]), NOW).status, None);
    }

    #[test]
    fn at_its_end_it_has_no_workers_even_if_some_are_left() {
        let (root, master) = master(4);
        master.configure("shop", true);
        use_cpu(&root, 10, 7, 0);
        master.end();
        let facts = master.drain(&objects(&[10]), NOW);
        assert_eq!(facts.status, Some(ServerStatus::Critical));
        assert_eq!(facts.workers, Some(WorkerCounts { idle: 0, working: 0 }));
    }

    #[test]
    fn a_replaced_master_reports_nothing_at_its_end() {
        let (_root, master) = master(4);
        master.end();
        let replaced = GunicornObjects { is_replaced: true, ..GunicornObjects::default() };
        assert_eq!(master.drain(&replaced, NOW).status, None);
    }

    #[test]
    fn while_the_application_is_being_loaded_nothing_is_known() {
        let (_root, master) = master(4);
        let facts = master.drain(&objects(&[]), NOW);
        assert_eq!((facts.workers, facts.status), (None, None));
        assert!(master.drain(&objects(&[10]), NOW).workers.is_some());
        assert_eq!(master.drain(&objects(&[]), NOW).status, Some(ServerStatus::Critical));
    }
}
