//! How long the event loops of the program keep their callbacks waiting.
//!
//! A loop that selects is either in `select` or runs callbacks. Each of its iterations is seen, from the return of
//! `select` to the next call, and what delay they mean is computed. Of other loops a beat is seen: a callback that the
//! loop was asked to call at a certain time.
//!
//! Each loop has one writer at a time, the thread that runs it. It only adds; the sampler takes differences.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::lengths::{Evidence, Group, Lengths, Totals, percentile};
use self::state::State;
use super::pace::Pace;
use crate::clock::thread_id;
use crate::snapshot::{EventLoopFacts, LoopTimes};

pub(super) mod lengths;
mod state;

/// The most loops that select which are observed at a time. A program that has more makes one for every call.
const MAX_SELECTING: usize = 64;

/// The most loops that have a beat, which costs some 16 µs of CPU time.
const MAX_BEATING: usize = 8;

/// The mean time between two beats.
const BEAT: Duration = Duration::from_millis(100);

/// The same while the process does little.
const IDLE_BEAT: Duration = Duration::from_millis(500);

/// The loops that one collector observes.
#[derive(Debug, Default)]
pub struct EventLoops {
    observed: Mutex<Observed>,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Observed {
    loops: Vec<Interval>,
    /// How many loops there have been.
    count: u64,
}

impl Observed {
    fn has_room(&self, method: Method) -> bool {
        let max = match method {
            Method::Iterations => MAX_SELECTING,
            Method::Beats => MAX_BEATING,
        };
        self.loops.iter().filter(|other| other.event_loop.method == method).count() < max
    }
}

/// A loop, and what was known of it at the last flush.
#[derive(Debug)]
struct Interval {
    id: u64,
    event_loop: Arc<EventLoop>,
    lengths: Box<Totals>,
    time: u64,
}

/// A loop whose callbacks wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverdueLoop {
    /// A number that no other loop has.
    pub id: u64,
    /// Since when.
    pub since: Duration,
    /// The kernel's id of the thread that runs it, or 0 where that is not known.
    pub thread: u32,
}

/// How a loop is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By its iterations.
    Iterations,
    /// By beats.
    Beats,
}

/// An event loop, which the thread that runs it reports to. Times are nanoseconds on one monotonic clock.
#[derive(Debug)]
pub struct EventLoop {
    method: Method,
    found: u64,
    /// A [`State`].
    state: AtomicU64,
    /// Time spent in iterations that have ended.
    busy: AtomicU64,
    /// Time in which it did not run.
    stopped: AtomicU64,
    /// The longest iteration, or the longest delay of a beat, since the last flush.
    longest: AtomicU64,
    /// The lengths of iterations, or the delays of beats.
    lengths: Lengths,
    is_active: AtomicBool,
    /// The kernel's id of the thread that runs it, or 0.
    thread: AtomicU32,
    /// When that began which was not over as the loop was last seen to have stopped.
    broken_off: AtomicU64,
}

impl EventLoop {
    fn new(method: Method, now: u64) -> Self {
        // It is found by a callback that it runs.
        let state = match method {
            Method::Iterations => State::Runs(now),
            Method::Beats => State::Stopped(now),
        };
        Self {
            method,
            found: now,
            state: AtomicU64::new(state.bits()),
            busy: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            lengths: Lengths::new(),
            is_active: AtomicBool::new(true),
            thread: AtomicU32::new(thread_id()),
            broken_off: AtomicU64::new(u64::MAX),
        }
    }

    /// It calls `select`. If that is the first time since it was started anew, what came before was no iteration.
    pub fn begin_select(&self, now: u64, is_same_run: bool) {
        if !is_same_run {
            // Another run may be in another thread.
            self.thread.store(thread_id(), Relaxed);
        }
        match self.state() {
            State::Runs(since) if is_same_run => self.add(now.saturating_sub(since)),
            State::Runs(since) | State::Stopped(since) => {
                let stopped = now.saturating_sub(since);
                self.stopped.store(self.stopped.load(Relaxed) + stopped, Relaxed);
            }
            State::Selects | State::Awaits(_) => {}
        }
        self.set(State::Selects);
    }

    /// `select` returns.
    pub fn end_select(&self, now: u64) {
        self.set(State::Runs(now));
    }

    /// It is to call back at this time.
    pub fn await_beat(&self, due: u64) {
        self.thread.store(thread_id(), Relaxed);
        self.set(State::Awaits(due));
    }

    /// It calls back. If it has stopped meanwhile, that says nothing about how long it takes.
    pub fn beat(&self, now: u64) {
        if let State::Awaits(due) = self.state() {
            self.add(now.saturating_sub(due));
        }
        self.set(State::Stopped(now));
    }

    /// It does not run, now or for some time: it does not keep anything waiting.
    pub fn set_stopped(&self, now: u64) {
        match self.state() {
            State::Runs(since) => {
                self.broken_off.store(since, Relaxed);
                self.set(State::Stopped(since));
            }
            State::Awaits(due) => {
                self.broken_off.store(due, Relaxed);
                self.set(State::Stopped(now));
            }
            State::Selects | State::Stopped(_) => {}
        }
    }

    /// Nothing is reported any more.
    pub fn deactivate(&self) {
        self.is_active.store(false, Relaxed);
    }

    /// The same while it runs: its iteration counts as far as it has come.
    pub fn deactivate_running(&self, now: u64) {
        if let State::Runs(since) = self.state()
            && self.is_active()
        {
            self.add(now.saturating_sub(since));
            self.set(State::Stopped(now));
        }
        self.deactivate();
    }

    /// Whether it still reports.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.is_active.load(Relaxed)
    }

    fn add(&self, length: u64) {
        self.busy.store(self.busy.load(Relaxed) + length, Relaxed);
        self.lengths.add(length);
        if length > self.longest.load(Relaxed) {
            self.longest.fetch_max(length, Relaxed);
        }
    }

    fn state(&self) -> State {
        State::from_bits(self.state.load(Relaxed))
    }

    fn set(&self, state: State) {
        self.state.store(state.bits(), Relaxed);
    }

    /// The time up to `now` about which everything is known: without an iteration that goes on, and without that in
    /// which it did not run.
    fn time(&self, now: u64, state: State) -> u64 {
        let until = match state {
            State::Runs(since) | State::Stopped(since) if self.method == Method::Iterations => since,
            _ => now,
        };
        until.saturating_sub(self.found + self.stopped.load(Relaxed))
    }

    /// For how long an iteration has been going on, or a beat has been overdue.
    fn going_on(&self, now: u64, state: State) -> Option<u64> {
        match state {
            State::Runs(since) if self.is_active() => Some(now.saturating_sub(since)),
            State::Awaits(due) if now > due && self.is_active() => Some(now - due),
            _ => None,
        }
    }
}

impl EventLoops {
    /// Begins to observe a loop that runs a callback at `now`; `None` if there are too many.
    #[must_use]
    pub fn add(&self, method: Method, now: u64) -> Option<Arc<EventLoop>> {
        let mut observed = self.lock();
        if !observed.has_room(method) {
            return None;
        }
        observed.count += 1;
        let event_loop = Arc::new(EventLoop::new(method, now));
        let interval = Interval {
            id: observed.count,
            event_loop: Arc::clone(&event_loop),
            lengths: Box::new(Totals::new()),
            time: 0,
        };
        observed.loops.push(interval);
        Some(event_loop)
    }

    /// Whether another loop can be observed.
    #[must_use]
    pub fn has_room(&self, method: Method) -> bool {
        self.lock().has_room(method)
    }

    /// The time until the next beat of a loop.
    #[must_use]
    pub fn choose_pause(&self, now: Duration) -> Duration {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.choose(now, BEAT, IDLE_BEAT)
    }

    /// The loops whose callbacks wait at `now`: for the end of an iteration, or for a beat.
    #[must_use]
    pub fn overdue(&self, now: Duration) -> Vec<OverdueLoop> {
        let now = nanoseconds(now);
        let observed = self.lock();
        let overdue = observed.loops.iter().filter_map(|Interval { id, event_loop, .. }| {
            let since = now - event_loop.going_on(now, event_loop.state())?;
            let thread = event_loop.thread.load(Relaxed);
            Some(OverdueLoop { id: *id, since: Duration::from_nanos(since), thread })
        });
        overdue.collect()
    }

    /// Whether the loop of this id had stopped before what was overdue since then was over.
    #[must_use]
    pub fn has_broken_off(&self, id: u64, since: Duration) -> bool {
        let observed = self.lock();
        let found = observed.loops.iter().find(|interval| interval.id == id);
        found.is_some_and(|interval| interval.event_loop.broken_off.load(Relaxed) == nanoseconds(since))
    }

    /// What was observed since the last flush.
    #[must_use]
    pub fn read(&self, now: Duration) -> EventLoopFacts {
        let mut reading = Reading::default();
        self.lock().loops.iter_mut().for_each(|interval| reading.add(interval, nanoseconds(now), false));
        // Not while it is locked: threads of the program wait for that.
        reading.facts()
    }

    /// The same, and begins a new interval.
    #[must_use]
    pub fn drain(&self, now: Duration) -> EventLoopFacts {
        let mut reading = Reading::default();
        self.lock().loops.retain_mut(|interval| {
            // That may change while it is read.
            let is_active = interval.event_loop.is_active();
            reading.add(interval, nanoseconds(now), true);
            is_active
        });
        reading.facts()
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What was read of all loops.
#[derive(Debug, Default)]
struct Reading {
    evidence: Vec<Evidence>,
    /// The time that the evidence is about.
    observed: u64,
    longest: Option<u64>,
    iterations: Option<u64>,
    slow: u64,
    times: Vec<LoopTimes>,
}

impl Reading {
    /// Reads a loop, and begins a new interval of it if that is wanted. Everything is read once, as the loop runs on.
    fn add(&mut self, interval: &mut Interval, now: u64, is_drained: bool) {
        let Interval { id, event_loop, lengths, time } = interval;
        let state = event_loop.state();
        let until = event_loop.time(now, state);
        let spent = until.saturating_sub(*time);
        let (groups, longest): (Vec<_>, _) = if is_drained {
            *time = until;
            (event_loop.lengths.take_since(lengths).collect(), event_loop.longest.swap(0, Relaxed))
        } else {
            (event_loop.lengths.since(lengths).collect(), event_loop.longest.load(Relaxed))
        };
        let count = groups.iter().map(|group| group.count).sum::<u64>();
        let going_on = event_loop.going_on(now, state);
        if event_loop.method == Method::Iterations {
            self.observed += spent;
            *self.iterations.get_or_insert(0) += count;
            let is_slow =
                |group: &&Group| Duration::from_nanos(group.sum / group.count) > EventLoopFacts::SLOW;
            self.slow += groups.iter().filter(is_slow).map(|group| group.count).sum::<u64>();
            self.evidence.extend(groups.into_iter().map(Evidence::Iterations));
            let busy = event_loop.busy.load(Relaxed) + going_on.unwrap_or(0);
            let [busy, known] = [busy, until + going_on.unwrap_or(0)].map(Duration::from_nanos);
            self.times.push(LoopTimes { id: *id, busy, known });
        } else if count > 0 {
            self.observed += spent;
            #[expect(clippy::cast_precision_loss, reason = "A percentile needs no more precision.")]
            let weight = spent as f64 / count as f64;
            self.evidence.extend(groups.into_iter().map(|group| Evidence::Delays { group, weight }));
        }
        let has_run = count > 0 || (event_loop.method == Method::Iterations && spent > 0);
        self.longest = self.longest.max(has_run.then_some(longest)).max(going_on);
    }

    fn facts(self) -> EventLoopFacts {
        let Self { evidence, observed, longest, iterations, slow, times } = self;
        EventLoopFacts {
            delay_p95: (observed > 0).then(|| Duration::from_nanos(percentile(&evidence, observed))),
            longest_delay: longest.map(Duration::from_nanos),
            iterations,
            slow_iterations: iterations.map(|_| slow),
            times,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: u64 = 1_000_000;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_nanos(milliseconds * MS)
    }

    fn added(loops: &EventLoops, method: Method, now: u64) -> Arc<EventLoop> {
        loops.add(method, now * MS).unwrap()
    }

    /// It waits in `select` from one time to another, in milliseconds.
    fn select(event_loop: &EventLoop, from: u64, to: u64) {
        event_loop.begin_select(from * MS, true);
        event_loop.end_select(to * MS);
    }

    fn delays(facts: &EventLoopFacts) -> (Option<Duration>, Option<Duration>) {
        (facts.delay_p95, facts.longest_delay)
    }

    fn times(facts: &EventLoopFacts) -> Vec<(Duration, Duration)> {
        facts.times.iter().map(|times| (times.busy, times.known)).collect()
    }

    #[test]
    fn iterations_are_counted_and_those_that_take_long_apart() {
        let loops = EventLoops::default();
        assert_eq!(loops.drain(SECOND).iterations, None);
        let event_loop = added(&loops, Method::Iterations, 0);
        for (from, to) in [(10, 20), (30, 40), (170, 180), (580, 590)] {
            select(&event_loop, from, to);
        }
        let facts = loops.drain(at(600));
        assert_eq!((facts.iterations, facts.slow_iterations), (Some(4), Some(2)));
        let facts = loops.drain(at(900));
        assert_eq!((facts.iterations, facts.slow_iterations), (Some(0), Some(0)), "it goes on");
    }

    #[test]
    fn a_state_is_stored_in_one_word() {
        for state in [State::Stopped(7), State::Selects, State::Runs(0), State::Awaits(1 << 60)] {
            assert_eq!(State::from_bits(state.bits()), state);
        }
    }

    #[test]
    fn a_loop_delays_by_its_iterations_and_is_busy_with_them() {
        let loops = EventLoops::default();
        let event_loop = added(&loops, Method::Iterations, 0);
        select(&event_loop, 0, 400);
        select(&event_loop, 500, 900);
        event_loop.begin_select(900 * MS, true);
        let facts = loops.read(at(1000));
        assert_eq!(delays(&facts), (Some(at(50)), Some(at(100))));
        assert_eq!(times(&facts), [(at(100), at(1000))]);
        assert_eq!(loops.drain(at(1000)), facts);
        // Nothing but select, which has not returned.
        assert_eq!(delays(&loops.drain(at(2000))), (Some(Duration::ZERO), Some(Duration::ZERO)));
    }

    #[test]
    fn an_iteration_that_goes_on_is_as_long_as_it_has_taken() {
        let loops = EventLoops::default();
        let event_loop = added(&loops, Method::Iterations, 0);
        select(&event_loop, 0, 900);
        let facts = loops.drain(at(1000));
        assert_eq!((delays(&facts).1, times(&facts)), (Some(at(100)), vec![(at(100), at(1000))]));
        let facts = loops.drain(at(2000));
        assert_eq!((delays(&facts), times(&facts)), ((None, Some(at(1100))), vec![(at(1100), at(2000))]));
        event_loop.begin_select(2100 * MS, true);
        // Of 2100 ms that are known now and were not before, 1200 are one iteration.
        let facts = loops.drain(at(3000));
        assert_eq!((delays(&facts).1, times(&facts)), (Some(at(1200)), vec![(at(1200), at(3000))]));
        assert!(delays(&facts).0.is_some_and(|p95| p95.abs_diff(at(1095)) < at(1)), "{facts:?}");
    }

    #[test]
    fn what_lies_between_two_runs_of_a_loop_is_no_iteration() {
        for is_seen in [false, true] {
            let loops = EventLoops::default();
            let event_loop = added(&loops, Method::Iterations, 0);
            select(&event_loop, 10, 20);
            if is_seen {
                event_loop.set_stopped(500 * MS);
                let facts = loops.drain(at(600));
                assert_eq!(
                    (delays(&facts), times(&facts)),
                    ((Some(at(9)), Some(at(10))), vec![(at(10), at(20))])
                );
                assert_eq!(delays(&loops.drain(at(700))), (None, None));
            }
            event_loop.begin_select(800 * MS, is_seen);
            event_loop.end_select(1000 * MS);
            event_loop.begin_select(1001 * MS, true);
            let facts = loops.drain(at(1101));
            assert_eq!(times(&facts), [(at(11), at(321))], "{is_seen}");
            let longest = if is_seen { 1 } else { 10 };
            assert_eq!(delays(&facts), (Some(Duration::ZERO), Some(at(longest))));
        }
    }

    #[test]
    fn a_beat_delays_as_much_as_it_comes_late() {
        let loops = EventLoops::default();
        let event_loop = added(&loops, Method::Beats, 0);
        assert_eq!(delays(&loops.drain(SECOND)), (None, None));
        for beat in 0..20 {
            event_loop.await_beat((1000 + beat * 40) * MS);
            event_loop.beat((1000 + beat * 40 + beat) * MS);
        }
        // Early, by the clock of the loop.
        event_loop.await_beat(1900 * MS);
        event_loop.beat(1899 * MS);
        let facts = loops.drain(2 * SECOND);
        assert_eq!(facts.longest_delay, Some(at(19)));
        assert!(facts.delay_p95.is_some_and(|p95| p95.abs_diff(at(18)) <= at(18) / 16), "{facts:?}");
        assert_eq!(facts.times, []);
    }

    #[test]
    fn a_beat_that_is_overdue_delays_as_long_as_it_has_not_come_unless_the_loop_does_not_run() {
        let loops = EventLoops::default();
        let event_loop = added(&loops, Method::Beats, 0);
        event_loop.await_beat(100 * MS);
        assert_eq!(delays(&loops.drain(at(50))), (None, None));
        assert_eq!(delays(&loops.drain(at(1100))), (None, Some(SECOND)));
        event_loop.set_stopped(1200 * MS);
        assert_eq!(delays(&loops.drain(2 * SECOND)), (None, None));
        event_loop.beat(3000 * MS);
        event_loop.await_beat(3100 * MS);
        event_loop.set_stopped(3050 * MS);
        event_loop.beat(4000 * MS);
        assert_eq!(delays(&loops.drain(5 * SECOND)), (None, None));
    }

    #[test]
    fn loops_are_pooled_by_the_time_that_they_were_observed() {
        let loops = EventLoops::default();
        let busy = added(&loops, Method::Iterations, 0);
        select(&busy, 0, 0);
        busy.begin_select(1000 * MS, true);
        assert!(loops.read(SECOND).delay_p95 > Some(at(900)));
        let calm = [(); 3].map(|()| added(&loops, Method::Iterations, 0));
        for event_loop in &calm {
            event_loop.begin_select(0, true);
        }
        // A quarter of the callbacks are those of the busy loop.
        let facts = loops.read(SECOND);
        assert!(facts.delay_p95.is_some_and(|p95| p95.abs_diff(at(800)) < at(1)), "{facts:?}");
        let beating = added(&loops, Method::Beats, 0);
        beating.await_beat(0);
        beating.beat(0);
        let facts = loops.read(SECOND);
        assert!(facts.delay_p95.is_some_and(|p95| p95.abs_diff(at(750)) < at(1)), "{facts:?}");
    }

    #[test]
    fn a_loop_that_reports_no_more_is_in_one_more_interval_and_then_makes_room() {
        let loops = EventLoops::default();
        let added = [(); MAX_BEATING].map(|()| added(&loops, Method::Beats, 0));
        assert!(loops.add(Method::Beats, 0).is_none());
        let event_loop = loops.add(Method::Iterations, 0).unwrap();
        event_loop.begin_select(70 * MS, true);
        event_loop.end_select(80 * MS);
        event_loop.deactivate();
        for event_loop in &added {
            event_loop.deactivate();
        }
        assert_eq!(loops.drain(SECOND).longest_delay, Some(at(70)));
        assert_eq!(loops.drain(2 * SECOND), EventLoopFacts::default());
        assert!(loops.has_room(Method::Beats) && loops.add(Method::Beats, 0).is_some());
    }

    #[test]
    fn an_iteration_in_which_its_loop_is_left_counts_as_far_as_it_has_come() {
        let loops = EventLoops::default();
        let event_loop = added(&loops, Method::Iterations, 0);
        select(&event_loop, 0, 900);
        event_loop.deactivate_running(1000 * MS);
        event_loop.deactivate_running(1500 * MS);
        let facts = loops.drain(SECOND);
        assert_eq!((delays(&facts), times(&facts)), ((Some(at(50)), Some(at(100))), vec![(at(100), SECOND)]));
        assert_eq!(loops.drain(2 * SECOND), EventLoopFacts::default());
    }
}
