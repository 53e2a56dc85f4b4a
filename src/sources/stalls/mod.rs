//! Stalls: an event loop, or a thread that wants to run Python code, has been waiting for a second or more, and why.
//!
//! They are seen from outside the interpreter, by the sampler, which looks at what the probe and the event loops have
//! noted: once a second or less, and more often while something is overdue. What is overdue is an [`Episode`]; it
//! becomes a stall once it has lasted for a second, and is counted once, when it ends or at the next flush.

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

/// The time between two looks while something is overdue.
const SHORT_PAUSE: Duration = Duration::from_millis(250);

/// The time between two looks while nothing is overdue and the process does little: waking up costs it more than all
/// that is looked at.
const IDLE_PAUSE: Duration = Duration::from_secs(2);

/// If the thread that looks wakes up so much too late, it was not the program that took so long.
const TOO_LATE: Duration = Duration::from_millis(500);

/// The run delay of the thread that looks is read at each so many looks.
const LOOKS: u32 = 10;

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
    /// What the thread that looks had waited for a CPU, at one of the last looks.
    own_delay: Option<Duration>,
    /// For how long before this look that thread has waited for a CPU, if that made it late.
    starved: Duration,
    /// The kernel's id of that thread, or 0.
    observer: u32,
    /// What collections had taken in all at the last look, in nanoseconds.
    paused: u64,
    looks: u32,
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

/// Something that is overdue at a look.
#[derive(Clone, Copy, Debug)]
struct Overdue {
    subject: Subject,
    since: Duration,
    suspect: Suspect,
}

/// Something that has been overdue since a look.
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
    /// Whether the loop runs at all is being asked for: one that has stopped is not overdue.
    InQuestion,
    /// It is a stall that has not been counted.
    Stall,
    /// It was counted, or belongs to another stall.
    Counted,
}

/// What the caller of [`Stalls::look`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// When to look again.
    pub pause: Duration,
    /// Whether to ask the interpreter, which notices loops that do not run.
    pub ask: bool,
}

impl Stalls {
    /// The time between two looks while nothing is overdue and the process is busy.
    const PAUSE: Duration = Duration::from_secs(1);

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

    /// Looks for what is overdue, on the thread that does so each time. That woke up so much `late`; `is_asked` is
    /// whether the interpreter has not answered yet. Where `may_allocate` is false nothing is observed. `None` if
    /// stalls are not counted.
    #[must_use]
    pub fn look(
        &self,
        now: Duration,
        late: Duration,
        is_asked: bool,
        may_allocate: impl FnOnce() -> bool,
    ) -> Option<Next> {
        if !self.is_needed.load(SeqCst) {
            return None;
        }
        let mut state = self.lock();
        let long_waits = self.probe.take_long_waits();
        let paused = self.gc.read().pause.iter().sum();
        let pause = paused - std::mem::replace(&mut state.paused, paused);
        // Mostly there is nothing to observe, and then this costs next to nothing.
        let is_quiet = state.episodes.is_empty()
            && long_waits.is_empty()
            && !self.may_be_overdue(now)
            && !state.is_delay_due(late);
        if !is_quiet && may_allocate() {
            state.observer = thread_id();
            state.notice_stop(now, late, &self.root);
            state.count_ended(&long_waits, Duration::from_nanos(pause));
            self.observe(&mut state, now);
        }
        let ask = state.advance(now, is_asked);
        state.looks = state.looks.wrapping_add(1);
        let pause = match (state.episodes.is_empty(), self.probe.was_idle()) {
            (false, _) => SHORT_PAUSE,
            (true, false) => Self::PAUSE,
            (true, true) => IDLE_PAUSE,
        };
        Some(Next { pause, ask })
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

    /// The same, and counts those that go on.
    #[must_use]
    pub fn drain(&self, now: Duration) -> StallCounts {
        let mut state = self.lock();
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
        self.probe.waiting_since().is_some_and(is_late)
            || self.event_loops.overdue(now).iter().any(|overdue| is_late(overdue.since))
    }

    /// Ends and begins episodes, and observes those that go on.
    fn observe(&self, state: &mut State, now: Duration) {
        let resumed = state.resumed;
        let interpreter = self.probe.waiting_since().map(|since| Overdue {
            subject: Subject::Interpreter,
            since,
            suspect: Suspect::Busiest { prober: self.probe.thread(), observer: state.observer },
        });
        let loops = self.event_loops.overdue(now).into_iter().map(|late| Overdue {
            subject: Subject::EventLoop(late.id),
            since: late.since,
            suspect: Suspect::Thread(late.thread),
        });
        let is_late = |overdue: &Overdue| now.saturating_sub(overdue.since.max(resumed)) >= OVERDUE;
        let overdue: Vec<Overdue> = interpreter.into_iter().chain(loops).filter(is_late).collect();
        let State { episodes, counts, starved, .. } = state;
        let is_same =
            |one: &Overdue, other: &Overdue| one.subject == other.subject && one.since == other.since;
        episodes.retain(|episode| {
            let goes_on = overdue.iter().any(|overdue| is_same(overdue, &episode.overdue));
            let is_stall = match (episode.stage, episode.overdue.subject) {
                (Stage::Stall, _) => true,
                // It has gone on meanwhile.
                (Stage::InQuestion, Subject::EventLoop(id)) => self.event_loops.goes_on(id),
                _ => false,
            };
            if !goes_on && is_stall {
                counts[self.cause(episode, now) as usize] += 1;
            }
            goes_on
        });
        let is_collecting = self.gc.is_collecting();
        for episode in episodes.iter_mut() {
            episode.evidence.observe(&self.root, is_collecting);
        }
        for overdue in overdue {
            if !episodes.iter().any(|episode| is_same(&overdue, &episode.overdue)) {
                let evidence = Evidence::begin(&self.root, overdue.suspect, now, *starved);
                episodes.push(Episode { overdue, evidence, stage: Stage::Begun });
            }
        }
    }

    /// Why a stall has come about: the first that fits, so that the environment is blamed before the program.
    fn cause(&self, episode: &Episode, now: Duration) -> StallCause {
        let otherwise = match episode.overdue.subject {
            Subject::Interpreter => StallCause::GilNative,
            Subject::EventLoop(_) => StallCause::Python,
        };
        episode.evidence.cause(&self.root, now).unwrap_or(otherwise)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the run delay of the thread that looks has to be read.
    fn is_delay_due(&self, late: Duration) -> bool {
        late >= TOO_LATE || self.looks.is_multiple_of(LOOKS)
    }

    /// Forgets how long things have taken where the thread that looks was late itself without having waited for a CPU:
    /// all of the process was stopped, by a signal, a debugger or the host.
    fn notice_stop(&mut self, now: Duration, late: Duration, root: &Path) {
        self.starved = Duration::ZERO;
        let is_late = late >= TOO_LATE;
        if self.is_delay_due(late) {
            let delay = evidence::own_delay(root);
            let waited = delay.zip(self.own_delay).map(|(delay, before)| delay.saturating_sub(before));
            if is_late && waited.is_some_and(|waited| waited >= late / 2) {
                self.starved = late;
            } else if is_late {
                self.resumed = now;
                self.episodes.retain(|episode| matches!(episode.stage, Stage::Stall | Stage::Counted));
            }
            self.own_delay = delay;
        }
    }

    /// Counts waits for the interpreter that have ended before they were seen. Collections have taken so long
    /// meanwhile.
    fn count_ended(&mut self, waits: &[LongWait], pause: Duration) {
        for LongWait { since, until } in waits {
            let length = until.saturating_sub((*since).max(self.resumed));
            let is_seen = |episode: &Episode| {
                episode.overdue.subject == Subject::Interpreter && episode.overdue.since == *since
            };
            if length >= STALL && !self.episodes.iter().any(is_seen) {
                let cause = if pause >= length / 2 { StallCause::Gc } else { StallCause::GilNative };
                self.counts[cause as usize] += 1;
            }
        }
    }

    /// Makes stalls of episodes that have lasted for long enough; whether the interpreter has to be asked.
    fn advance(&mut self, now: Duration, is_asked: bool) -> bool {
        let is_of_interpreter = |episode: &Episode| episode.overdue.subject == Subject::Interpreter;
        let is_blocked = self.episodes.iter().any(is_of_interpreter);
        // A loop that is overdue as well belongs to the stall of the interpreter, or the other way round.
        let is_counted_already = self
            .episodes
            .iter()
            .any(|other| !is_of_interpreter(other) && matches!(other.stage, Stage::Stall | Stage::Counted));
        let mut ask = false;
        let mut interpreter_stalls = false;
        for episode in &mut self.episodes {
            if now.saturating_sub(episode.overdue.since.max(self.resumed)) < STALL {
                continue;
            }
            episode.stage = match (episode.overdue.subject, episode.stage) {
                (Subject::Interpreter, Stage::Begun) if is_counted_already => Stage::Counted,
                (Subject::Interpreter, Stage::Begun) => Stage::Stall,
                (Subject::EventLoop(_), Stage::Begun) if !is_blocked => {
                    ask = true;
                    Stage::InQuestion
                }
                // What was asked is answered, and the loop was not found to have stopped.
                (Subject::EventLoop(_), Stage::InQuestion) if !is_asked && !is_blocked => Stage::Stall,
                (_, stage) => stage,
            };
            interpreter_stalls |= is_of_interpreter(episode) && episode.stage != Stage::Begun;
        }
        if interpreter_stalls {
            let not_counted = |episode: &&mut Episode| {
                !is_of_interpreter(episode) && matches!(episode.stage, Stage::Begun | Stage::InQuestion)
            };
            self.episodes.iter_mut().filter(not_counted).for_each(|episode| episode.stage = Stage::Counted);
        }
        ask
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

        fn look(&self, milliseconds: u64) -> Next {
            self.stalls.look(at(milliseconds), Duration::ZERO, false, || true).unwrap()
        }

        /// Looks every 250 ms.
        fn look_from(&self, from: u64, to: u64) {
            (from..=to).step_by(250).for_each(|milliseconds| {
                self.look(milliseconds);
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
        assert_eq!(process.look(0), Next { pause: Stalls::PAUSE, ask: false });
        process.probe.begin(None, at(100));
        assert_eq!(process.look(300).pause, Stalls::PAUSE);
        assert_eq!(process.look(400), Next { pause: SHORT_PAUSE, ask: false });
        process.look(1050);
        assert_eq!(process.stalls.drain(at(1050)), NONE);
        process.look(1100);
        assert_eq!(process.stalls.read(at(1100)), one(StallCause::GilNative));
        assert_eq!(process.stalls.drain(at(1100)), one(StallCause::GilNative));
        process.look(9000);
        assert_eq!(process.stalls.drain(at(9000)), one(StallCause::GilNative));
        process.probe.end(Some(at(9100)));
        process.look(9250);
        assert_eq!(process.stalls.drain(at(9250)), one(StallCause::GilNative));
    }

    #[test]
    fn one_that_ends_before_the_flush_is_counted_as_well() {
        let process = Process::new();
        process.probe.begin(None, at(0));
        process.look_from(250, 1500);
        process.probe.end(Some(at(1600)));
        process.look(1750);
        process.probe.begin(None, at(2000));
        process.look_from(2250, 2750);
        process.probe.end(Some(at(2900)));
        process.look(3000);
        assert_eq!(process.stalls.drain(at(9000)), one(StallCause::GilNative));
    }

    #[test]
    fn a_wait_that_no_look_has_seen_counts() {
        for (pause, cause) in [(0, StallCause::GilNative), (700 * MS, StallCause::Gc)] {
            let process = Process::new();
            process.look(0);
            process.probe.begin(None, at(100));
            process.gc.start(0);
            process.gc.stop(pause, 2);
            process.probe.end(Some(at(1200)));
            process.look(2000);
            process.look(4000);
            assert_eq!(process.stalls.drain(at(4000)), one(cause));
        }
    }

    #[test]
    fn a_collection_is_the_cause_if_it_runs_for_half_of_the_time() {
        for (from, cause) in [(600, StallCause::Gc), (1350, StallCause::GilNative)] {
            let process = Process::new();
            process.probe.begin(None, at(0));
            process.look_from(250, from);
            process.gc.start(0);
            process.look_from(from + 50, 1500);
            assert_eq!(process.stalls.drain(at(1500)), one(cause));
        }
    }

    #[test]
    fn a_thread_in_the_state_d_is_the_cause() {
        for (state, cause) in [("D", StallCause::IoDState), ("S", StallCause::GilNative)] {
            let process = Process::new();
            process.set(state, 10, 0);
            process.probe.begin(None, at(0));
            process.look_from(250, 1500);
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
            process.look(250);
            process.set("S", 300, delay);
            process.look_from(500, 1500);
            assert_eq!(process.stalls.drain(at(1500)), one(cause), "{delay}");
        }
    }

    #[test]
    fn a_loop_is_asked_for_before_it_counts() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.look_from(250, 750);
        assert!(process.look(1000).ask);
        assert_eq!(process.stalls.drain(at(1000)), NONE);
        // It has not been answered.
        process.stalls.look(at(1250), Duration::ZERO, true, || true).unwrap();
        assert_eq!(process.stalls.drain(at(1250)), NONE);
        assert!(!process.look(1500).ask);
        assert_eq!(process.stalls.drain(at(1500)), one(StallCause::Python));
    }

    #[test]
    fn a_loop_that_has_stopped_keeps_nothing_waiting() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.look_from(250, 1000);
        event_loop.set_stopped(1100 * MS);
        process.look_from(1250, 3000);
        assert_eq!(process.stalls.drain(at(3000)), NONE);
    }

    #[test]
    fn a_loop_that_goes_on_before_it_was_asked_for_counts() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.look_from(250, 1000);
        event_loop.begin_select(1100 * MS, true);
        process.look(1250);
        assert_eq!(process.stalls.drain(at(1250)), one(StallCause::Python));
    }

    #[test]
    fn a_loop_and_the_interpreter_together_are_one_stall() {
        let process = Process::new();
        let event_loop = process.add_loop();
        event_loop.end_select(0);
        process.probe.begin(None, at(100));
        process.look_from(250, 2000);
        process.probe.end(Some(at(2100)));
        process.look_from(2250, 4000);
        // The same iteration keeps the interpreter waiting again.
        process.probe.begin(None, at(4000));
        process.look_from(4250, 6000);
        assert_eq!(process.stalls.drain(at(6000)), one(StallCause::GilNative));
    }

    #[test]
    fn two_loops_are_two_stalls() {
        let process = Process::new();
        let loops = [process.add_loop(), process.add_loop()];
        for event_loop in &loops {
            event_loop.end_select(0);
        }
        process.look_from(250, 1500);
        let mut counts = NONE;
        counts[StallCause::Python as usize] = 2;
        assert_eq!(process.stalls.drain(at(1500)), counts);
    }

    #[test]
    fn a_process_that_was_stopped_has_not_stalled() {
        for (delay, expected) in [(0, NONE), (4000, one(StallCause::CpuStarved))] {
            let process = Process::new();
            process.set("S", 10, 0);
            process.look(0);
            process.probe.begin(None, at(500));
            process.look(1000);
            process.set("S", 11, delay);
            process.stalls.look(at(6000), at(4750), false, || true).unwrap();
            process.probe.end(Some(at(6100)));
            process.look(6250);
            assert_eq!(process.stalls.drain(at(6250)), expected, "{delay}");
        }
    }

    #[test]
    fn nothing_is_looked_at_that_nobody_needs() {
        let process = Process::new();
        process.stalls.need(false);
        process.probe.begin(None, at(0));
        assert_eq!(process.stalls.look(at(5000), Duration::ZERO, false, || true), None);
        assert_eq!(process.stalls.drain(at(5000)), NONE);
    }
}
