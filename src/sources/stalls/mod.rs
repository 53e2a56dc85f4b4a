//! Stalls: an event loop, or a thread that wants to run Python code, has been waiting for a second or more, and why.
//!
//! They are seen from outside the interpreter: the sampler checks what the probe and the event loops have recorded,
//! every two seconds, and more often while something is overdue. What is overdue is an [`Episode`]; it becomes a
//! stall once it has lasted for a second, and is counted once, when it ends or at the next flush.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::evidence::{Evidence, Suspect};
use super::event_loops::EventLoops;
use super::gc::GcCounters;
use super::probe::{LongWait, Probe};
use crate::clock::thread_id;
use crate::snapshot::StallCause;

mod evidence;

/// What has been overdue for so long is a stall.
const STALL: Duration = LongWait::MIN;

/// What has been overdue for so long is observed, as it may become one.
const OVERDUE: Duration = Duration::from_millis(250);

/// The time between two checks while nothing is overdue: waking up costs more than all that is checked.
const PAUSE: Duration = Duration::from_secs(2);

/// The time between two checks while something is overdue.
const SHORT_PAUSE: Duration = Duration::from_millis(250);

/// If the thread that checks wakes up so much too late, it was not the program that took so long.
const TOO_LATE: Duration = Duration::from_millis(500);

/// The run delay of that thread is read every so many checks.
const CHECKS: u32 = 10;

/// A loop and the interpreter that became overdue within this time are one stall.
const TOGETHER: Duration = Duration::from_secs(3);

/// The stalls of one collector's lifetime.
#[derive(Debug)]
pub struct Stalls {
    root: PathBuf,
    probe: Arc<Probe>,
    event_loops: Arc<EventLoops>,
    gc: Arc<GcCounters>,
    is_needed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    episodes: Vec<Episode>,
    counts: StallCounts,
    /// What is overdue counts from then on: before, the whole process was stopped.
    resumed: Duration,
    /// The thread that checks, and what it had waited for a CPU at one of the last checks.
    own_delay: Option<(u32, Duration)>,
    /// What the main thread had waited for a CPU then.
    delay_of_main: Option<Duration>,
    /// For how long before this check that thread has waited for a CPU, if that made it late.
    starved: Duration,
    /// The kernel's id of that thread, or 0.
    observer: u32,
    /// The waits for the interpreter that have ended before a check has seen them, and what collections have taken
    /// meanwhile. The next check counts them.
    unseen: Vec<(Duration, Duration)>,
    /// What collections had taken in all when that was last read, in nanoseconds.
    paused: u64,
    checks: u32,
}

/// Stalls by [`StallCause`].
pub type StallCounts = [u64; StallCause::ALL.len()];

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// The interpreter, by our probe.
    Interpreter,
    /// An event loop, by its callbacks.
    EventLoop(u64),
}

/// Something that is overdue at a check.
#[derive(Clone, Copy, Debug)]
struct Overdue {
    subject: Subject,
    since: Duration,
    suspect: Suspect,
}

impl Overdue {
    fn is_same(&self, other: &Self) -> bool {
        self.subject == other.subject && self.since == other.since
    }
}

/// Something that has been overdue since an earlier check.
#[derive(Debug)]
struct Episode {
    overdue: Overdue,
    evidence: Evidence,
    stage: Stage,
}

/// How far an episode has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is not a stall yet.
    Begun,
    /// It is a stall that has not been counted.
    Stall,
    /// It was counted, or belongs to another stall.
    Counted,
}

impl Stalls {
    /// No stall so far. Threads are read below `root`.
    #[must_use]
    pub fn new(root: &Path, probe: &Arc<Probe>, event_loops: &Arc<EventLoops>, gc: &Arc<GcCounters>) -> Self {
        Self {
            root: root.to_owned(),
            probe: Arc::clone(probe),
            event_loops: Arc::clone(event_loops),
            gc: Arc::clone(gc),
            is_needed: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Sets whether stalls are counted.
    pub fn need(&self, is_needed: bool) {
        self.is_needed.store(is_needed, SeqCst);
    }

    /// Checks what is overdue, always on the same thread; `late` is how late that woke up. Where `may_allocate` is
    /// false nothing is observed. Returns the time until the next check; `None` if stalls are not counted.
    #[must_use]
    pub fn check(
        &self,
        now: Duration,
        late: Duration,
        may_allocate: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        if !self.is_needed.load(SeqCst) {
            return None;
        }
        let mut state = self.lock();
        // Mostly there is nothing to observe, and then this costs next to nothing.
        let is_quiet = state.unseen.is_empty()
            && state.episodes.is_empty()
            && !self.may_be_overdue(now)
            && !state.is_delay_due(late);
        if is_quiet {
            self.take_pause(&mut state);
        } else if may_allocate() {
            state.observer = thread_id();
            let waited = state.notice_stop(now, late, &self.root);
            self.observe(&mut state, now);
            state.count_unseen(waited);
            state.promote(now);
        }
        state.checks = state.checks.wrapping_add(1);
        Some(if state.episodes.is_empty() { PAUSE } else { SHORT_PAUSE })
    }

    /// The stalls so far, with those that go on and were not counted yet.
    #[must_use]
    pub fn read(&self, now: Duration) -> StallCounts {
        let state = self.lock();
        let mut counts = state.counts;
        for episode in state.episodes.iter().filter(|episode| episode.stage == Stage::Stall) {
            counts[self.cause(episode, now) as usize] += 1;
        }
        counts
    }

    /// The same, and counts those that go on. The interpreter was asked before, so that a loop which does not run has
    /// been noticed.
    #[must_use]
    pub fn drain(&self, now: Duration) -> StallCounts {
        let mut state = self.lock();
        if !self.is_needed.load(SeqCst) {
            return state.counts;
        }
        state.starved = Duration::ZERO;
        self.observe(&mut state, now);
        let State { episodes, counts, .. } = &mut *state;
        for episode in episodes.iter_mut().filter(|episode| episode.stage == Stage::Stall) {
            counts[self.cause(episode, now) as usize] += 1;
            episode.stage = Stage::Counted;
        }
        *counts
    }

    fn may_be_overdue(&self, now: Duration) -> bool {
        let is_late = |since: Duration| now.saturating_sub(since) >= OVERDUE;
        self.probe.has_long_waits()
            || self.probe.waiting_since().is_some_and(is_late)
            || self.event_loops.overdue(now).iter().any(|overdue| is_late(overdue.since))
    }

    /// How long collections have taken since the last call.
    fn take_pause(&self, state: &mut State) -> Duration {
        let paused: u64 = self.gc.read().pause.iter().sum();
        Duration::from_nanos(paused.saturating_sub(std::mem::replace(&mut state.paused, paused)))
    }

    /// Ends and begins episodes, and observes those that go on.
    fn observe(&self, state: &mut State, now: Duration) {
        let (waiting_since, ended) = self.probe.take_waits();
        let pause = self.take_pause(state);
        state.end_waits(&ended, pause);
        let interpreter = waiting_since.map(|since| Overdue {
            subject: Subject::Interpreter,
            since,
            suspect: Suspect::Busiest { prober: self.probe.thread(), observer: state.observer },
        });
        let loops = self.event_loops.overdue(now).into_iter().map(|late| Overdue {
            subject: Subject::EventLoop(late.id),
            since: late.since,
            suspect: Suspect::Thread(late.thread),
        });
        let overdue: Vec<Overdue> = interpreter.into_iter().chain(loops).collect();
        let (resumed, starved) = (state.resumed, state.starved);
        let State { episodes, counts, .. } = state;
        episodes.retain(|episode| {
            let goes_on = overdue.iter().any(|overdue| overdue.is_same(&episode.overdue));
            let is_stall = episode.stage == Stage::Stall
                && match episode.overdue.subject {
                    Subject::Interpreter => true,
                    // One that did not run has not kept anything waiting.
                    Subject::EventLoop(id) => !self.event_loops.has_broken_off(id, episode.overdue.since),
                };
            if !goes_on && is_stall {
                counts[self.cause(episode, now) as usize] += 1;
            }
            goes_on
        });
        let is_collecting = self.gc.is_collecting();
        let is_blocked = waiting_since.is_some_and(|since| now.saturating_sub(since) >= OVERDUE / 2);
        for episode in episodes.iter_mut() {
            episode.evidence.observe(&self.root, is_collecting, is_blocked);
        }
        for overdue in overdue {
            let is_new = !episodes.iter().any(|episode| overdue.is_same(&episode.overdue));
            if is_new && now.saturating_sub(overdue.since.max(resumed)) >= OVERDUE {
                let evidence = Evidence::begin(&self.root, overdue.suspect, now, starved);
                episodes.push(Episode { overdue, evidence, stage: Stage::Begun });
            }
        }
    }

    /// Why a stall has come about: the first that fits, so that the environment is blamed before the program.
    fn cause(&self, episode: &Episode, now: Duration) -> StallCause {
        let otherwise = match episode.overdue.subject {
            Subject::EventLoop(_) if !episode.evidence.is_blocked() => StallCause::Python,
            _ => StallCause::GilNative,
        };
        episode.evidence.cause(&self.root, now).unwrap_or(otherwise)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the run delay of the thread that checks has to be read.
    fn is_delay_due(&self, late: Duration) -> bool {
        late >= TOO_LATE || self.checks.is_multiple_of(CHECKS)
    }

    /// Forgets how long things have taken where the thread that checks was late itself without having waited for a CPU:
    /// all of the process was stopped, by a signal, a debugger or the host. Returns how long that thread has waited for
    /// a CPU since one of the last checks, or the main thread if that was longer.
    fn notice_stop(&mut self, now: Duration, late: Duration, root: &Path) -> Option<Duration> {
        self.starved = Duration::ZERO;
        let delay = evidence::own_delay(root);
        let waited = delay.map(|delay| match self.own_delay {
            Some((thread, before)) if thread == self.observer => delay.saturating_sub(before),
            // It has begun since.
            _ => delay,
        });
        if late >= TOO_LATE {
            if waited.is_some_and(|waited| waited >= late / 2) {
                self.starved = late;
            } else {
                self.resumed = now;
                self.episodes.retain(|episode| episode.stage != Stage::Begun);
            }
        }
        self.own_delay = delay.map(|delay| (self.observer, delay));
        let of_main = evidence::delay_of_main(root);
        let waited_by_main =
            of_main.zip(self.delay_of_main).map(|(delay, before)| delay.saturating_sub(before));
        self.delay_of_main = of_main;
        waited.max(waited_by_main)
    }

    /// Counts what no check has seen; the thread that checks, or the main thread, has waited for a CPU for so long.
    fn count_unseen(&mut self, waited: Option<Duration>) {
        for (length, pause) in std::mem::take(&mut self.unseen) {
            let cause = if waited.is_some_and(|waited| waited >= length / 2) {
                StallCause::CpuStarved
            } else if pause >= length / 2 {
                StallCause::Gc
            } else {
                StallCause::GilNative
            };
            self.counts[cause as usize] += 1;
        }
    }

    /// Makes stalls of waits for the interpreter that have ended since, if they were long; collections have taken so
    /// long meanwhile.
    fn end_waits(&mut self, waits: &[LongWait], pause: Duration) {
        for LongWait { since, until } in waits {
            let length = until.saturating_sub((*since).max(self.resumed));
            if length < STALL {
                continue;
            }
            let is_it = |episode: &Episode| {
                episode.overdue.subject == Subject::Interpreter && episode.overdue.since == *since
            };
            if self.episodes.iter().any(is_it) {
                self.promote_interpreter(*since);
            } else {
                self.unseen.push((length, pause));
            }
        }
    }

    /// Makes stalls of episodes that have lasted for long enough, and were seen more than once: what has gone on while
    /// the process was stopped ends as soon as it goes on.
    fn promote(&mut self, now: Duration) {
        let resumed = self.resumed;
        let is_long = |episode: &Episode| {
            let length = now.saturating_sub(episode.overdue.since.max(resumed));
            length >= STALL && episode.evidence.is_observed()
        };
        let is_of_interpreter = |episode: &Episode| episode.overdue.subject == Subject::Interpreter;
        let waits = self.episodes.iter().filter(|episode| is_of_interpreter(episode) && is_long(episode));
        for since in waits.map(|episode| episode.overdue.since).collect::<Vec<_>>() {
            self.promote_interpreter(since);
        }
        let loops = self.episodes.iter_mut().filter(|episode| !is_of_interpreter(episode));
        for episode in loops.filter(|episode| episode.stage == Stage::Begun && is_long(episode)) {
            episode.stage = Stage::Stall;
        }
    }

    /// Makes a stall of the wait for the interpreter that began then, and one stall of it and of the loops that became
    /// overdue about then.
    fn promote_interpreter(&mut self, since: Duration) {
        let (mut waits, mut loops): (Vec<_>, Vec<_>) =
            self.episodes.iter_mut().partition(|episode| episode.overdue.subject == Subject::Interpreter);
        loops.retain(|event_loop| event_loop.overdue.since.abs_diff(since) <= TOGETHER);
        let is_counted = loops.iter().any(|event_loop| event_loop.stage != Stage::Begun);
        let begun = |episode: &&mut Episode| episode.stage == Stage::Begun;
        let is_it = |episode: &&mut Episode| episode.overdue.since == since;
        for episode in waits.iter_mut().map(|it| &mut **it).filter(begun).filter(is_it) {
            episode.stage = if is_counted { Stage::Counted } else { Stage::Stall };
        }
        loops.into_iter().filter(begun).for_each(|event_loop| event_loop.stage = Stage::Counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::event_loops::{EventLoop, Method};

    const MS: u64 = 1_000_000;
    const NONE: StallCounts = [0; StallCause::ALL.len()];

    /// A process whose threads are files.
    struct Process {
        root: tempfile::TempDir,
        probe: Arc<Probe>,
        event_loops: Arc<EventLoops>,
        gc: Arc<GcCounters>,
        stalls: Stalls,
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn one(cause: StallCause) -> StallCounts {
        let mut counts = NONE;
        counts[cause as usize] = 1;
        counts
    }

    impl Process {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let (probe, event_loops, gc) = Default::default();
            let stalls = Stalls::new(root.path(), &probe, &event_loops, &gc);
            stalls.need(true);
            Self { root, probe, event_loops, gc, stalls }
        }

        /// Sets what the main thread, and the one that looks, have used and waited for, in milliseconds.
        fn set(&self, state: &str, cpu: u64, delay: u64) {
            let write = |path: String, text: String| {
                let path = self.root.path().join("proc").join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            let task = format!("self/task/{}", std::process::id());
            let schedstat = format!("{} {} 1\n", cpu * MS, delay * MS);
            write(format!("{task}/schedstat"), schedstat.clone());
            write("thread-self/schedstat".to_owned(), schedstat);
            write(format!("{task}/stat"), format!("1 (a) R (b) {state} 0"));
        }

        fn check(&self, milliseconds: u64) -> Duration {
            self.stalls.check(at(milliseconds), Duration::ZERO, || true).unwrap()
        }

        /// Checks every 250 ms.
        fn check_from(&self, from: u64, to: u64) {
            (from..=to).step_by(250).for_each(|milliseconds| {
                self.check(milliseconds);
            });
        }

        fn add_loop(&self) -> Arc<EventLoop> {
            let event_loop = self.event_loops.add(Method::Iterations, 0).unwrap();
            event_loop.begin_select(0, true);
            event_loop
        }
    }

    #[test]
    fn a_wait_of_a_second_is_counted_once() {
        let process = Process::new();
        assert_eq!(process.check(0), PAUSE);
        process.probe.begin(None, at(100));
        assert_eq!(process.check(300), PAUSE);
        assert_eq!(process.check(400), SHORT_PAUSE);
        process.check(1050);
        assert_eq!(process.stalls.drain(at(1050)), NONE);
        process.check(1100);
        assert_eq!(process.stalls.read(at(1100)), one(StallCause::GilNative));
        assert_eq!(process.stalls.drain(at(1100)), one(StallCause::GilNative));
        process.check(9000);
        assert_eq!(process.stalls.drain(at(9000)), one(StallCause::GilNative));
        process.probe.end(Some(at(9100)));
        process.check(9250);
        assert_eq!(process.stalls.drain(at(9250)), one(StallCause::GilNative));
    }

    #[test]
    fn one_that_ends_before_the_flush_is_counted_as_well() {
        let process = Process::new();
        process.probe.begin(None, at(0));
        process.check_from(250, 1500);
        process.probe.end(Some(at(1600)));
        process.check(1750);
        process.probe.begin(None, at(2000));
        process.check_from(2250, 2750);
        process.probe.end(Some(at(2900)));
        process.check(3000);
        assert_eq!(process.stalls.drain(at(9000)), one(StallCause::GilNative));
    }

    #[test]
    fn a_wait_that_no_check_has_seen_counts() {
        for (pause, cause) in [(0, StallCause::GilNative), (700 * MS, StallCause::Gc)] {
            let process = Process::new();
            process.check(0);
            process.probe.begin(None, at(100));
            process.gc.start(0);
            process.gc.stop(pause, 2);
            process.probe.end(Some(at(1200)));
            process.check(2000);
            process.check(4000);
            assert_eq!(process.stalls.drain(at(4000)), one(cause));
        }
    }

    #[test]
    fn a_wait_that_no_check_has_seen_is_for_a_cpu_if_the_thread_that_checks_has_waited_for_one() {
        let process = Process::new();
        process.set("S", 10, 0);
        process.check(0);
        process.probe.begin(None, at(100));
        process.probe.end(Some(at(1200)));
        process.set("S", 11, 900);
        process.check(1300);
        assert_eq!(process.stalls.drain(at(2000)), one(StallCause::CpuStarved));
    }

    #[test]
    fn a_wait_that_ends_just_before_a_flush_counts_once() {
        let process = Process::new();
        process.probe.begin(None, at(0));
        process.check_from(250, 1500);
        process.probe.end(Some(at(1600)));
        assert_eq!(process.stalls.drain(at(1650)), one(StallCause::GilNative));
        process.check(1750);
        assert_eq!(process.stalls.drain(at(1800)), one(StallCause::GilNative));
    }

    #[test]
    fn a_wait_that_was_seen_and_ends_before_the_next_check_counts() {
        let process = Process::new();
        process.probe.begin(None, at(0));
        process.check_from(250, 750);
        process.probe.end(Some(at(1200)));
        process.check(1250);
        assert_eq!(process.stalls.drain(at(1250)), one(StallCause::GilNative));
    }

    #[test]
    fn a_stall_counts_once_although_the_process_is_stopped_meanwhile() {
        let process = Process::new();
        process.set("S", 10, 0);
        process.check(0);
        process.probe.begin(None, at(100));
        process.check_from(500, 2000);
        assert_eq!(process.stalls.drain(at(2000)), one(StallCause::GilNative));
        process.stalls.check(at(5000), at(2750), || true).unwrap();
        process.check_from(5250, 7000);
        assert_eq!(process.stalls.drain(at(7000)), one(StallCause::GilNative));
    }

    #[test]
    fn what_ends_as_soon_as_a_stopped_process_goes_on_is_no_stall() {
        let process = Process::new();
        let event_loop = process.add_loop();
        process.check(0);
        event_loop.end_select(900 * MS);
        process.stalls.check(at(2450), at(450), || true).unwrap();
        event_loop.begin_select(2460 * MS, true);
        process.check(2700);
        assert_eq!(process.stalls.drain(at(2700)), NONE);
    }

    #[test]
    fn a_loop_that_hangs_for_ever_hides_no_later_stall() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.check_from(250, 1500);
        assert_eq!(process.stalls.drain(at(1500)), one(StallCause::Python));
        process.probe.begin(None, at(60_000));
        process.check_from(60_250, 61_500);
        let mut counts = one(StallCause::Python);
        counts[StallCause::GilNative as usize] = 1;
        assert_eq!(process.stalls.drain(at(61_500)), counts);
    }

    #[test]
    fn a_collection_is_the_cause_if_it_runs_for_half_of_the_time() {
        for (from, cause) in [(600, StallCause::Gc), (1350, StallCause::GilNative)] {
            let process = Process::new();
            process.probe.begin(None, at(0));
            process.check_from(250, from);
            process.gc.start(0);
            process.check_from(from + 50, 1500);
            assert_eq!(process.stalls.drain(at(1500)), one(cause));
        }
    }

    #[test]
    fn a_thread_in_the_state_d_is_the_cause() {
        for (state, cause) in [("D", StallCause::IoDState), ("S", StallCause::GilNative)] {
            let process = Process::new();
            process.set(state, 10, 0);
            process.probe.begin(None, at(0));
            process.check_from(250, 1500);
            assert_eq!(process.stalls.drain(at(1500)), one(cause));
        }
    }

    #[test]
    fn waiting_for_a_cpu_is_blamed_before_anything_else() {
        for (delay, cause) in [(700, StallCause::CpuStarved), (500, StallCause::Gc)] {
            let process = Process::new();
            process.set("D", 10, 0);
            process.probe.begin(None, at(0));
            process.gc.start(0);
            process.check(250);
            process.set("S", 300, delay);
            process.check_from(500, 1500);
            assert_eq!(process.stalls.drain(at(1500)), one(cause), "{delay}");
        }
    }

    #[test]
    fn a_loop_that_has_stopped_keeps_nothing_waiting() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.check_from(250, 1000);
        event_loop.set_stopped(1100 * MS);
        process.check_from(1250, 3000);
        assert_eq!(process.stalls.drain(at(3000)), NONE);
    }

    #[test]
    fn an_iteration_counts_also_if_the_loop_stops_after_it() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.check_from(250, 1250);
        event_loop.begin_select(1300 * MS, true);
        event_loop.end_select(1400 * MS);
        event_loop.set_stopped(1450 * MS);
        process.check(1500);
        assert_eq!(process.stalls.drain(at(1500)), one(StallCause::Python));
    }

    #[test]
    fn an_iteration_counts_when_it_ends() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.check_from(250, 1250);
        event_loop.begin_select(1400 * MS, true);
        process.check(1500);
        assert_eq!(process.stalls.drain(at(1500)), one(StallCause::Python));
    }

    #[test]
    fn native_code_in_a_loop_is_the_cause_if_the_interpreter_was_waited_for_half_of_the_time() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.check(500);
        process.probe.begin(None, at(600));
        process.check_from(750, 1500);
        process.probe.end(Some(at(1550)));
        event_loop.begin_select(1550 * MS, true);
        process.check(1600);
        assert_eq!(process.stalls.drain(at(1600)), one(StallCause::GilNative));
    }

    #[test]
    fn a_loop_and_the_interpreter_together_are_one_stall() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.probe.begin(None, at(100));
        process.check_from(250, 2000);
        process.probe.end(Some(at(2100)));
        process.check_from(2250, 2500);
        // The same iteration keeps the interpreter waiting again.
        process.probe.begin(None, at(2600));
        process.check_from(2750, 5000);
        assert_eq!(process.stalls.drain(at(5000)), one(StallCause::GilNative));
    }

    #[test]
    fn a_wait_that_ends_within_a_stall_of_its_loop_is_no_other() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.check_from(500, 1750);
        process.probe.begin(None, at(1800));
        process.check_from(2000, 2750);
        process.probe.end(Some(at(2990)));
        event_loop.begin_select(2990 * MS, true);
        process.check(3000);
        assert_eq!(process.stalls.drain(at(3000)).iter().sum::<u64>(), 1);
    }

    #[test]
    fn two_loops_are_two_stalls() {
        let process = Process::new();
        let loops = [process.add_loop(), process.add_loop()];
        for event_loop in &loops {
            event_loop.end_select(0);
        }
        process.check_from(250, 1500);
        let mut counts = NONE;
        counts[StallCause::Python as usize] = 2;
        assert_eq!(process.stalls.drain(at(1500)), counts);
    }

    #[test]
    fn a_process_that_was_stopped_has_not_stalled() {
        for (delay, expected) in [(0, NONE), (4000, one(StallCause::CpuStarved))] {
            let process = Process::new();
            process.set("S", 10, 0);
            process.check(0);
            process.probe.begin(None, at(500));
            process.check(1000);
            process.set("S", 11, delay);
            process.stalls.check(at(6000), at(4750), || true).unwrap();
            process.probe.end(Some(at(6100)));
            process.check(6250);
            assert_eq!(process.stalls.drain(at(6250)), expected, "{delay}");
        }
    }

    #[test]
    fn a_thread_that_checks_in_place_of_another_has_waited_for_all_that_it_has() {
        let process = Process::new();
        process.set("S", 10, 5000);
        process.check(0);
        process.probe.begin(None, at(500));
        process.check(1000);
        process.set("S", 11, 9000);
        let own = process.root.path().join("proc/thread-self/schedstat");
        std::fs::write(own, format!("0 {} 1\n", 4000 * MS)).unwrap();
        let late = || process.stalls.check(at(6000), at(4750), || true);
        std::thread::scope(|scope| scope.spawn(late).join().unwrap()).unwrap();
        process.probe.end(Some(at(6100)));
        process.check(6250);
        assert_eq!(process.stalls.drain(at(6250)), one(StallCause::CpuStarved));
    }

    #[test]
    fn nothing_is_looked_at_that_nobody_needs() {
        let process = Process::new();
        process.stalls.need(false);
        process.probe.begin(None, at(0));
        assert_eq!(process.stalls.check(at(5000), Duration::ZERO, || true), None);
        assert_eq!(process.stalls.drain(at(5000)), NONE);
    }
}
