//! What the workers of a Gunicorn master do, as the master sees it.
//!
//! Each worker notes how many requests it serves. Where there is no such note, a worker that used CPU time within a tenth
//! of a second works.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::scoreboard::{Scoreboard, Slot};
use crate::snapshot::{self, Running, Server, Workers};
use crate::tag::clean;

/// Workers of one master that can note what they do; more of them are seen by their CPU time.
pub const PLACES: usize = 1024;

/// Time between the two readings of CPU time.
pub const WINDOW: Duration = Duration::from_millis(100);

/// A first reading that is older than this stands for nothing any more.
const STALE: Duration = Duration::from_secs(1);

/// A master and what is known of its workers.
#[derive(Debug)]
pub struct Master {
    root: PathBuf,
    board: Option<Scoreboard>,
    by_cpu: AtomicBool,
    state: Mutex<State>,
}

/// CPU time by pid.
type Ticks = Vec<(u32, u64)>;

#[derive(Debug, Default)]
struct State {
    app: String,
    /// Workers as of the last reading.
    pids: Vec<u32>,
    /// When CPU times were read, and what they were.
    first: Option<(Duration, Ticks)>,
    /// It has had a worker.
    has_begun: bool,
    told_critical: bool,
    is_over: bool,
}

impl Master {
    /// A master with so many places for its workers; `root` is `/` but for tests.
    #[must_use]
    pub fn new(root: &Path, places: usize) -> Self {
        let by_cpu = AtomicBool::new(false);
        Self { root: root.to_owned(), board: Scoreboard::new(places), by_cpu, state: Mutex::default() }
    }

    /// Names the application, and says whether its workers are seen by their CPU time alone.
    pub fn describe(&self, app: &str, by_cpu: bool) {
        self.lock().app = clean(&format!("app:{app}"));
        self.by_cpu.store(by_cpu, SeqCst);
    }

    /// A place for a worker to note its requests in; `None` if there is none left.
    #[must_use]
    pub fn place(&self, pid: u32) -> Option<Slot> {
        self.board.as_ref()?.take(pid)
    }

    /// A worker has ended.
    pub fn release(&self, pid: u32) {
        if let Some(board) = &self.board {
            board.release(pid);
        }
    }

    /// Reads CPU times if they will be needed, and says whether it did: what the workers do can be told one
    /// [`WINDOW`] later.
    pub fn prepare(&self, now: Duration) -> bool {
        let mut state = self.lock();
        let is_ready = state.first.as_ref().is_some_and(|(then, _)| now.saturating_sub(*then) < STALE);
        // Those that have come since the last reading have a place, if there was one.
        let noted = self.noted();
        let mut pids = self.seen_by_cpu(&state.pids, &noted);
        pids.extend(noted.iter().map(|(pid, _)| *pid).filter(|_| self.by_cpu.load(SeqCst)));
        if is_ready || pids.is_empty() {
            return false;
        }
        let ticks = pids.into_iter().filter_map(|pid| Some((pid, cpu_ticks(&self.root, pid)?))).collect();
        state.first = Some((now, ticks));
        true
    }

    /// What there is to say of the workers that Gunicorn has by now. Nothing that it told is told again at its end.
    #[must_use]
    pub fn tell(&self, server: &Server, now: Duration) -> snapshot::Master {
        let mut state = self.lock();
        state.pids.clone_from(&server.workers);
        state.has_begun |= !server.workers.is_empty();
        let first = state.first.take().filter(|(then, _)| now.saturating_sub(*then) < STALE);
        let told = self.look(&state, server, first.map(|(_, ticks)| ticks));
        state.told_critical = told.running == Some(Running::Critical);
        told
    }

    /// The same, leaving everything as it is. By CPU time nothing can be told then.
    #[must_use]
    pub fn peek(&self, server: &Server) -> snapshot::Master {
        self.look(&self.lock(), server, None)
    }

    /// The master is about to exit: what is told from now on is its last word.
    pub fn end(&self) {
        let mut state = self.lock();
        state.has_begun = true;
        state.is_over = true;
    }

    fn look(&self, state: &State, server: &Server, first: Option<Ticks>) -> snapshot::Master {
        let mut told = snapshot::Master { app: state.app.clone(), workers: None, running: None };
        // Before there are workers the application is being loaded.
        if state.has_begun {
            // Who is left at the end has been killed or will be, and Gunicorn has not noticed it.
            let workers = if state.is_over { &[] } else { server.workers.as_slice() };
            told.workers = self.workers(workers, first);
            told.running = match workers {
                [_, ..] => Some(Running::Ok),
                [] if server.is_replaced || (state.is_over && state.told_critical) => None,
                [] => Some(Running::Critical),
            };
        }
        told
    }

    fn workers(&self, pids: &[u32], first: Option<Ticks>) -> Option<Workers> {
        let noted = self.noted();
        let by_cpu = self.seen_by_cpu(pids, &noted);
        // One that has begun since the first reading has not been seen to work.
        let used_cpu = |first: &Ticks, pid| {
            let before = of(first, pid);
            before.is_some() && cpu_ticks(&self.root, pid).is_some_and(|now| Some(now) != before)
        };
        let working = match (by_cpu.is_empty(), first) {
            (true, _) => 0,
            (false, Some(first)) => by_cpu.iter().filter(|pid| used_cpu(&first, **pid)).count(),
            (false, None) => return None,
        };
        let in_requests =
            |pid: &&u32| !by_cpu.contains(pid) && of(&noted, **pid).is_some_and(|count| count > 0);
        let working = (working + pids.iter().filter(in_requests).count()) as u64;
        Some(Workers { idle: pids.len() as u64 - working, working })
    }

    /// Those of these workers of which only the CPU time tells what they do.
    fn seen_by_cpu(&self, pids: &[u32], noted: &[(u32, u32)]) -> Vec<u32> {
        if self.by_cpu.load(SeqCst) {
            return pids.to_vec();
        }
        let is_full = self.board.as_ref().is_none_or(Scoreboard::is_full);
        // A worker without a place has not begun yet, unless there was none left.
        pids.iter().copied().filter(|pid| is_full && of(noted, *pid).is_none()).collect()
    }

    /// Active requests by pid.
    fn noted(&self) -> Vec<(u32, u32)> {
        self.board.as_ref().map(Scoreboard::read).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a process. They are few.
fn of<T: Copy>(known: &[(u32, T)], pid: u32) -> Option<T> {
    known.iter().find(|(of, _)| *of == pid).map(|(_, value)| *value)
}

/// CPU time of another process in user and kernel together, in the clock ticks of `/proc/PID/stat`.
#[cfg(target_os = "linux")]
fn cpu_ticks(root: &Path, pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    // The name of the program, in parentheses, may have anything in it. utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(not(target_os = "linux"))]
fn cpu_ticks(_root: &Path, pid: u32) -> Option<u64> {
    crate::sources::portable::cpu_of(pid)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn server(workers: &[u32]) -> Server {
        Server { workers: workers.to_vec(), ..Server::default() }
    }

    fn master(places: usize) -> (tempfile::TempDir, Master) {
        let root = tempfile::tempdir().unwrap();
        let master = Master::new(root.path(), places);
        master.describe("shop", false);
        (root, master)
    }

    fn use_cpu(root: &tempfile::TempDir, pid: u32, user: u64, system: u64) {
        let folder = root.path().join(format!("proc/{pid}"));
        fs::create_dir_all(&folder).unwrap();
        let stat = format!("{pid} (a ) (b) S 1 2 3 0 -1 4194304 9 8 7 6 {user} {system} 5 4 20 0 1 0 99");
        fs::write(folder.join("stat"), stat).unwrap();
    }

    fn working(master: &Master, pids: &[u32]) -> Option<(u64, u64)> {
        master.tell(&server(pids), NOW).workers.map(|workers| (workers.idle, workers.working))
    }

    #[test]
    fn a_worker_with_a_request_works() {
        let (_root, master) = master(4);
        let places = [10, 11, 12].map(|pid| master.place(pid).unwrap());
        places[0].note(1);
        places[2].note(300);
        assert_eq!(working(&master, &[10, 11, 12]), Some((1, 2)));
        places[0].note(0);
        assert_eq!(working(&master, &[10, 11, 12]), Some((2, 1)));
    }

    #[test]
    fn a_worker_that_has_died_is_not_counted_and_its_place_is_taken_again() {
        let (_root, master) = master(1);
        master.place(10).unwrap().note(1);
        assert_eq!(working(&master, &[10]), Some((0, 1)));
        assert_eq!(working(&master, &[]), Some((0, 0)));
        master.release(10);
        let heir = master.place(11).unwrap();
        assert_eq!(working(&master, &[11]), Some((1, 0)));
        heir.note(1);
        assert_eq!(working(&master, &[11]), Some((0, 1)));
    }

    #[test]
    fn a_worker_that_has_not_begun_is_idle() {
        let (_root, master) = master(4);
        assert!(!master.prepare(NOW));
        assert_eq!(working(&master, &[10]), Some((1, 0)));
    }

    #[test]
    fn by_cpu_a_worker_works_that_used_some_within_the_window() {
        let (root, master) = master(4);
        master.describe("shop", true);
        master.place(12).unwrap().note(1);
        for pid in [10, 11, 12] {
            use_cpu(&root, pid, 7, 0);
        }
        assert_eq!(working(&master, &[10, 11, 12]), None, "there was no first reading");
        assert!(master.prepare(NOW));
        assert!(!master.prepare(NOW), "it is there");
        use_cpu(&root, 10, 8, 0);
        use_cpu(&root, 11, 7, 1);
        use_cpu(&root, 13, 7, 1);
        assert_eq!(working(&master, &[10, 11, 12, 13]), Some((2, 2)), "13 has come since");
    }

    #[test]
    fn a_first_reading_grows_stale() {
        let (root, master) = master(4);
        master.describe("shop", true);
        use_cpu(&root, 10, 7, 0);
        assert_eq!(working(&master, &[10]), None);
        assert!(master.prepare(NOW));
        assert_eq!(master.tell(&server(&[10]), NOW + STALE).workers, None);
        assert!(master.prepare(NOW + STALE));
        assert!(master.prepare(NOW + 2 * STALE));
    }

    #[test]
    fn more_workers_than_places_are_seen_by_their_cpu_time() {
        let (root, master) = master(4);
        let places: Vec<_> = (10..14).map(|pid| master.place(pid).unwrap()).collect();
        places[1].note(1);
        assert!(master.place(14).is_none());
        use_cpu(&root, 14, 7, 0);
        let pids: Vec<_> = (10..15).collect();
        assert_eq!(working(&master, &pids), None);
        assert!(master.prepare(NOW));
        use_cpu(&root, 14, 9, 0);
        assert_eq!(working(&master, &pids), Some((3, 2)));
    }

    #[test]
    fn it_runs_while_it_has_workers_and_says_its_last_word_once() {
        let (_root, master) = master(4);
        let told = |workers: &[u32]| master.tell(&server(workers), NOW).running;
        assert_eq!(
            [told(&[10]), told(&[]), told(&[])],
            [Some(Running::Ok), Some(Running::Critical), Some(Running::Critical)]
        );
        master.end();
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn at_its_end_it_does_not_run() {
        let (_root, master) = master(4);
        assert_eq!(master.tell(&server(&[10]), NOW).running, Some(Running::Ok));
        master.end();
        assert_eq!(master.tell(&server(&[]), NOW).running, Some(Running::Critical));
        assert_eq!(master.tell(&server(&[]), NOW).running, None);
    }

    #[test]
    fn at_its_end_it_has_no_workers_whoever_is_left() {
        let (root, master) = master(4);
        master.describe("shop", true);
        use_cpu(&root, 10, 7, 0);
        master.end();
        let told = master.tell(&server(&[10]), NOW);
        assert_eq!(told.running, Some(Running::Critical));
        assert_eq!(told.workers, Some(Workers { idle: 0, working: 0 }));
    }

    #[test]
    fn a_master_that_another_replaces_ends_in_silence() {
        let (_root, master) = master(4);
        master.end();
        let replaced = Server { is_replaced: true, ..Server::default() };
        assert_eq!(master.tell(&replaced, NOW).running, None);
    }

    #[test]
    fn while_an_application_is_loaded_there_is_nothing_to_say() {
        let (_root, master) = master(4);
        let told = master.tell(&server(&[]), NOW);
        assert_eq!((told.workers, told.running), (None, None));
        assert!(master.tell(&server(&[10]), NOW).workers.is_some());
        assert_eq!(master.tell(&server(&[]), NOW).running, Some(Running::Critical));
    }

    #[test]
    fn the_application_is_a_clean_tag() {
        let (_root, master) = master(4);
        master.describe("my shop|#x\n", false);
        assert_eq!(master.tell(&server(&[]), NOW).app, "app:my_shop__x_");
    }
}
