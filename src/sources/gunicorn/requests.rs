//! The requests of a Gunicorn worker, counted as they begin and end by what `src/python/gunicorn.rs` hooks in.
//!
//! Counters are sums. Durations are kept one by one, up to a limit and then a uniform choice of them, so that their
//! memory and their lines stay bounded however busy the worker is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;

use super::scoreboard::Slot;
use crate::snapshot::{Ended, Observations, Requests};

/// More durations than this are not kept of one interval.
pub const MOST_KEPT: usize = 4096;

/// A request that is said to have waited longer than this has not: the header says something else.
const LONGEST_QUEUE: Duration = Duration::from_hours(24);

/// What HTTP knows as a status. Anything else ends no name.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=999;

/// Counters of one worker's lifetime. Times are of one monotonic clock.
#[derive(Debug)]
pub struct RequestCounters {
    /// Whether ended requests are counted; if not, Gunicorn does it, but for the time they had waited.
    counts: bool,
    capacity: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where the master sees how many are active; `None` once this is another process than the worker.
    place: Option<Slot>,
    active: u64,
    busy: Duration,
    /// When `busy` was last brought up to date.
    since: Duration,
    ended: Ended,
    queue_times: Observations,
    random: Rng,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How long it took.
    pub duration: Duration,
    /// The status of its answer; `None` if there was none.
    pub status: Option<u16>,
    /// How long it had waited in front of the server, if that is known.
    pub queued: Option<Duration>,
}

impl RequestCounters {
    /// Counters at zero, on a clock that begins with them. `place` shows the master how many requests are active,
    /// `capacity` is how many the worker can serve at once; `seed` begins what chooses among many durations.
    #[must_use]
    pub fn new(place: Option<Slot>, counts: bool, capacity: Option<u64>, seed: u64) -> Self {
        let state = State {
            place,
            active: 0,
            busy: Duration::ZERO,
            since: Duration::ZERO,
            ended: Ended::default(),
            queue_times: Observations::default(),
            random: Rng::with_seed(seed),
        };
        Self { counts, capacity, state: Mutex::new(state) }
    }

    /// A request begins.
    pub fn begin(&self, now: Duration) {
        let mut state = self.lock();
        state.pass(now);
        state.active += 1;
        state.show();
    }

    /// It is not being served any more.
    pub fn end(&self, now: Duration) {
        let mut state = self.lock();
        state.pass(now);
        state.active = state.active.saturating_sub(1);
        state.show();
    }

    /// Counts one that has ended, or that the server has refused before it began.
    pub fn count(&self, outcome: Outcome) {
        let mut state = self.lock();
        if self.counts {
            state.count(outcome);
        }
        if let Some(queued) = outcome.queued.filter(|queued| *queued <= LONGEST_QUEUE) {
            state.wait(queued);
        }
    }

    /// What has been counted up to now, leaving everything as it is.
    #[must_use]
    pub fn read(&self, now: Duration) -> Requests {
        self.told(&mut self.lock(), now, |ended| ended.clone(), |queue_times| queue_times.clone())
    }

    /// What has been counted up to now, and forgets the single values.
    #[must_use]
    pub fn drain(&self, now: Duration) -> Requests {
        let forgetting = |ended: &mut Ended| Ended {
            count: ended.count,
            by_status: ended.by_status.clone(),
            durations: std::mem::take(&mut ended.durations),
        };
        self.told(&mut self.lock(), now, forgetting, std::mem::take)
    }

    /// In a child of the worker: what its parent does is not its to show. Nothing is waited for.
    pub fn leave(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.place = None;
        }
    }

    fn told(
        &self,
        state: &mut State,
        now: Duration,
        take: impl FnOnce(&mut Ended) -> Ended,
        take_waits: impl FnOnce(&mut Observations) -> Observations,
    ) -> Requests {
        state.pass(now);
        Requests {
            ended: self.counts.then(|| take(&mut state.ended)),
            queue_times: take_waits(&mut state.queue_times),
            active: state.active,
            busy: state.busy,
            capacity: self.capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being served, from its beginning on. Gone without an end it counts as none, unless it has failed.
#[derive(Debug)]
pub struct Request {
    counters: Arc<RequestCounters>,
    began: Duration,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    Open,
    /// It has been answered after so long, and the worker is not through with it.
    Answered(Duration),
    /// It has ended; with which status is not known yet.
    Failed(Outcome),
    Ended,
}

impl Request {
    /// A request begins.
    #[must_use]
    pub fn begin(counters: Arc<RequestCounters>, now: Duration) -> Self {
        counters.begin(now);
        Self { counters, began: now, stage: Mutex::new(Stage::Open) }
    }

    /// How long it has taken up to now.
    #[must_use]
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.began)
    }

    /// It has been answered: what the worker still does with it is no part of its duration.
    pub fn answer(&self, now: Duration) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::Open) {
            *stage = Stage::Answered(self.age(now));
        }
    }

    /// It ends and counts. Of several calls the first counts.
    pub fn end(&self, now: Duration, status: Option<u16>, queued: Option<Duration>) {
        let stage = self.turn(Stage::Ended);
        match stage {
            Stage::Open | Stage::Answered(_) => {
                self.counters.end(now);
                self.counters.count(Outcome { duration: self.duration(&stage, now), status, queued });
            }
            Stage::Failed(outcome) => self.counters.count(Outcome { status, ..outcome }),
            Stage::Ended => {}
        }
    }

    /// It ends without an answer. If the server answers in its place, [`end`](Self::end) says how; otherwise it counts
    /// as 500.
    pub fn fail(&self, now: Duration, queued: Option<Duration>) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::Open | Stage::Answered(_)) {
            let duration = self.duration(&stage, now);
            *stage = Stage::Failed(Outcome { duration, status: Some(500), queued });
            self.counters.end(now);
        }
    }

    /// It ends and does not count; one that has failed does.
    pub fn leave(&self, now: Duration) {
        match self.turn(Stage::Ended) {
            Stage::Open | Stage::Answered(_) => self.counters.end(now),
            Stage::Failed(outcome) => self.counters.count(outcome),
            Stage::Ended => {}
        }
    }

    fn duration(&self, stage: &Stage, now: Duration) -> Duration {
        match stage {
            Stage::Answered(duration) => *duration,
            _ => self.age(now),
        }
    }

    fn turn(&self, next: Stage) -> Stage {
        std::mem::replace(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner), next)
    }
}

impl State {
    fn pass(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.since);
        self.busy += elapsed.saturating_mul(u32::try_from(self.active).unwrap_or(u32::MAX));
        self.since = self.since.max(now);
    }

    fn show(&self) {
        if let Some(place) = &self.place {
            place.note(self.active);
        }
    }

    fn count(&mut self, outcome: Outcome) {
        self.ended.count += 1;
        if let Some(status) = outcome.status.filter(|status| STATUSES.contains(status)) {
            let by_status = &mut self.ended.by_status;
            match by_status.iter_mut().find(|(known, _)| *known == status) {
                Some((_, count)) => *count += 1,
                None => by_status.push((status, 1)),
            }
        }
        choose(&mut self.ended.durations, outcome.duration, &mut self.random);
    }

    fn wait(&mut self, queued: Duration) {
        choose(&mut self.queue_times, queued, &mut self.random);
    }
}

/// How long a request had waited that began at such a time since the epoch, by what a proxy says in `X-Request-Start`:
/// `t=` and seconds, or milliseconds, or microseconds. `None` for what makes no sense.
#[must_use]
pub fn waited(header: &str, began: Duration) -> Option<Duration> {
    let number: f64 = header.trim().trim_start_matches("t=").parse().ok()?;
    let seconds = match number {
        1e9..1e11 => number,
        1e12..1e14 => number / 1e3,
        1e15..1e17 => number / 1e6,
        _ => return None,
    };
    began.checked_sub(Duration::try_from_secs_f64(seconds).ok()?)
}

/// Keeps the value, or lets chance decide whether it takes the place of another: of all that were seen each is kept
/// with the same probability.
fn choose(observed: &mut Observations, value: Duration, random: &mut Rng) {
    let value = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    observed.seen += 1;
    if observed.kept.len() < MOST_KEPT {
        observed.kept.push(value);
    } else if let Ok(place) = usize::try_from(random.u64(..observed.seen))
        && let Some(kept) = observed.kept.get_mut(place)
    {
        *kept = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn counters() -> RequestCounters {
        RequestCounters::new(None, true, None, 7)
    }

    fn answered(status: u16, duration: Duration) -> Outcome {
        Outcome { duration, status: Some(status), queued: None }
    }

    #[test]
    fn requests_are_counted_by_status_when_they_end() {
        let counters = counters();
        for status in [200, 404, 200] {
            counters.count(answered(status, SECOND));
        }
        counters.count(Outcome { duration: SECOND, status: None, queued: None });
        let ended = counters.read(SECOND).ended.unwrap();
        assert_eq!(ended.count, 4);
        assert_eq!(ended.by_status, [(200, 2), (404, 1)]);
    }

    #[test]
    fn draining_forgets_single_values_and_keeps_sums() {
        let counters = counters();
        counters.count(answered(200, Duration::from_micros(1_250)));
        assert_eq!(counters.read(SECOND).ended.unwrap().durations.kept, [1_250]);
        assert_eq!(counters.drain(SECOND).ended.unwrap().durations.kept, [1_250]);
        let ended = counters.drain(SECOND).ended.unwrap();
        assert_eq!((ended.count, ended.durations), (1, Observations::default()));
    }

    #[test]
    fn time_in_two_requests_at_once_counts_twice() {
        let counters = counters();
        counters.begin(SECOND);
        counters.begin(2 * SECOND);
        assert_eq!(counters.read(3 * SECOND).busy, 3 * SECOND);
        counters.end(4 * SECOND);
        counters.end(5 * SECOND);
        let requests = counters.read(9 * SECOND);
        assert_eq!((requests.busy, requests.active), (6 * SECOND, 0));
        assert_eq!(requests.ended.unwrap().count, 0);
    }

    #[test]
    fn where_gunicorn_counts_what_is_active_and_what_has_waited_is_known() {
        let counters = RequestCounters::new(None, false, Some(4), 7);
        counters.count(Outcome { queued: Some(SECOND), ..answered(200, SECOND) });
        counters.begin(SECOND);
        let requests = counters.drain(SECOND);
        assert_eq!((requests.ended, requests.active, requests.capacity), (None, 1, Some(4)));
        assert_eq!(requests.queue_times.kept, [1_000_000]);
    }

    #[test]
    fn a_request_ends_once() {
        let counters = Arc::new(counters());
        let request = Request::begin(Arc::clone(&counters), SECOND);
        assert_eq!(counters.read(SECOND).active, 1);
        request.end(3 * SECOND, Some(204), None);
        request.fail(4 * SECOND, None);
        request.end(5 * SECOND, Some(500), None);
        request.leave(6 * SECOND);
        let Requests { ended, active, .. } = counters.read(6 * SECOND);
        let ended = ended.unwrap();
        assert_eq!((active, ended.by_status, ended.durations.kept), (0, vec![(204, 1)], vec![2_000_000]));
    }

    #[test]
    fn a_request_lasts_until_it_is_answered_and_its_worker_serves_it_until_it_ends() {
        let counters = Arc::new(counters());
        for fails in [false, true] {
            let request = Request::begin(Arc::clone(&counters), SECOND);
            request.answer(3 * SECOND);
            assert_eq!(counters.read(4 * SECOND).active, 1);
            if fails {
                request.fail(5 * SECOND, None);
            }
            request.end(6 * SECOND, Some(200), None);
            assert_eq!(counters.read(6 * SECOND).active, 0);
        }
        assert_eq!(counters.read(SECOND).ended.unwrap().durations.kept, [2_000_000, 2_000_000]);
    }

    #[test]
    fn a_request_that_failed_has_the_status_that_the_server_answers_with_or_500() {
        let counters = Arc::new(counters());
        for answer in [Some(400), None] {
            let request = Request::begin(Arc::clone(&counters), SECOND);
            request.fail(2 * SECOND, None);
            assert_eq!(counters.read(SECOND).active, 0);
            if answer.is_some() {
                request.end(9 * SECOND, answer, None);
            }
            request.leave(9 * SECOND);
        }
        let ended = counters.read(SECOND).ended.unwrap();
        assert_eq!(ended.by_status, [(400, 1), (500, 1)]);
        assert_eq!(ended.durations.kept, [1_000_000, 1_000_000]);
    }

    #[test]
    fn what_is_no_status_counts_as_a_request_only() {
        let counters = counters();
        for status in [99, 100, 999, 1000] {
            counters.count(answered(status, SECOND));
        }
        let ended = counters.read(SECOND).ended.unwrap();
        assert_eq!((ended.count, ended.by_status), (4, vec![(100, 1), (999, 1)]));
    }

    #[test]
    fn a_wait_of_more_than_a_day_is_none() {
        let counters = counters();
        for queued in [SECOND, Duration::from_hours(24) + SECOND] {
            counters.count(Outcome { duration: SECOND, status: None, queued: Some(queued) });
        }
        assert_eq!(counters.read(SECOND).queue_times.kept, [1_000_000]);
    }

    #[test]
    fn of_many_values_an_even_choice_is_kept() {
        let counters = counters();
        let many = 10 * MOST_KEPT as u64;
        for value in 0..many {
            counters.count(answered(200, Duration::from_micros(value)));
        }
        let Observations { mut kept, seen } = counters.drain(SECOND).ended.unwrap().durations;
        assert_eq!((kept.len(), seen), (MOST_KEPT, many));
        kept.sort_unstable();
        kept.dedup();
        assert_eq!(kept.len(), MOST_KEPT);
        // Each tenth of what was seen has a tenth of what was kept, within five standard deviations.
        for tenth in 0..10 {
            let bounds = tenth * MOST_KEPT as u64..(tenth + 1) * MOST_KEPT as u64;
            let share = kept.iter().filter(|value| bounds.contains(value)).count();
            assert!((313..=506).contains(&share), "{share} of tenth {tenth}");
        }
    }

    #[test]
    fn a_proxy_may_count_in_seconds_or_their_fractions() {
        let began = Duration::from_millis(1_700_000_000_250);
        for header in
            ["t=1700000000.000", "1700000000.0", "t=1700000000000", "1700000000000000", " t=1700000000 "]
        {
            assert_eq!(waited(header, began), Some(Duration::from_millis(250)), "{header}");
        }
        for header in ["", "t=", "soon", "t=1700000001", "-1700000000", "0", "nan", "inf", "1e300", "17"] {
            assert_eq!(waited(header, began), None, "{header}");
        }
    }
}
