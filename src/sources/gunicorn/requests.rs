//! The requests of a Gunicorn worker, counted as they start and end by the hooks that call `src/python/server.rs`.
//!
//! Counts are sums. Durations are kept one by one, as a reservoir sample where there are many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::scoreboard::Slot;
use crate::snapshot::server::{Ended, Observations, Requests};
use crate::sources::reservoir::Reservoir;

/// A longer time in a queue is not believed: the header must mean something else.
const MAX_QUEUE_TIME: Duration = Duration::from_hours(24);

/// The statuses of HTTP. Anything else gets no metric of its own.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=999;

/// Counters of one worker. Times are of one monotonic clock.
#[derive(Debug)]
pub struct RequestCounters {
    /// Whether ended requests are counted; if not, Gunicorn counts them, but not their queue times.
    counts: bool,
    capacity: Option<u64>,
    tally: Mutex<Tally>,
}

#[derive(Debug)]
struct Tally {
    /// Where the master sees how many are active; `None` in a child of the worker.
    slot: Option<Slot>,
    active: u64,
    busy: Duration,
    /// When `busy` was last brought up to date.
    updated: Duration,
    count: u64,
    by_status: Vec<(u16, u64)>,
    durations: Reservoir,
    queue_times: Reservoir,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How long it took.
    pub duration: Duration,
    /// The status of its response; `None` if there was none.
    pub status: Option<u16>,
    /// How long it waited in front of the server, if that is known.
    pub queued: Option<Duration>,
}

impl RequestCounters {
    /// Counters at zero, on a clock that starts with them. `slot` shows the master how many requests are active,
    /// `capacity` is how many the worker can serve at once; `seed` starts the random numbers of the reservoirs.
    #[must_use]
    pub fn new(slot: Option<Slot>, counts: bool, capacity: Option<u64>, seed: u64) -> Self {
        let tally = Tally {
            slot,
            active: 0,
            busy: Duration::ZERO,
            updated: Duration::ZERO,
            count: 0,
            by_status: Vec::new(),
            durations: Reservoir::new(seed),
            queue_times: Reservoir::new(!seed),
        };
        Self { counts, capacity, tally: Mutex::new(tally) }
    }

    /// A request starts.
    pub fn begin(&self, now: Duration) {
        let mut tally = self.lock();
        tally.advance(now);
        tally.active += 1;
        tally.publish();
    }

    /// A request is no longer being served.
    pub fn end(&self, now: Duration) {
        let mut tally = self.lock();
        tally.advance(now);
        tally.active = tally.active.saturating_sub(1);
        tally.publish();
    }

    /// Counts a request that has ended, or that the server refused before it started.
    pub fn count(&self, outcome: Outcome) {
        let mut tally = self.lock();
        if self.counts {
            tally.count(outcome);
        }
        if let Some(queued) = outcome.queued.filter(|queued| *queued <= MAX_QUEUE_TIME) {
            tally.queue_times.add(queued);
        }
    }

    /// The counts at `now`; single values stay.
    #[must_use]
    pub fn read(&self, now: Duration) -> Requests {
        self.facts(now, |reservoir| reservoir.read())
    }

    /// The counts at `now`; single values start again.
    #[must_use]
    pub fn drain(&self, now: Duration) -> Requests {
        self.facts(now, Reservoir::drain)
    }

    /// In a child of the worker: no longer shows the master how many are active. Nothing is waited for.
    pub fn leave(&self) {
        if let Ok(mut tally) = self.tally.try_lock() {
            tally.slot = None;
        }
    }

    fn facts(&self, now: Duration, observations: impl Fn(&mut Reservoir) -> Observations) -> Requests {
        let mut tally = self.lock();
        tally.advance(now);
        Requests {
            ended: self.counts.then(|| Ended {
                count: tally.count,
                by_status: tally.by_status.clone(),
                durations: observations(&mut tally.durations),
            }),
            queue_times: observations(&mut tally.queue_times),
            active: tally.active,
            busy: tally.busy,
            capacity: self.capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight. Dropped before it has ended it does not count, unless it has failed.
#[derive(Debug)]
pub struct Request {
    counters: Arc<RequestCounters>,
    started: Duration,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    Open,
    /// It was answered after this time; the worker is still busy with it.
    Answered(Duration),
    /// It has failed; the status of its response is not known yet.
    Failed(Outcome),
    Ended,
}

impl Request {
    /// A request starts.
    #[must_use]
    pub fn begin(counters: Arc<RequestCounters>, now: Duration) -> Self {
        counters.begin(now);
        Self { counters, started: now, stage: Mutex::new(Stage::Open) }
    }

    /// The time since its start.
    #[must_use]
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started)
    }

    /// It has been answered: what the worker does with it from now on is not part of its duration.
    pub fn answer(&self, now: Duration) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::Open) {
            *stage = Stage::Answered(self.age(now));
        }
    }

    /// It ends and counts. Only the first call counts.
    pub fn end(&self, now: Duration, status: Option<u16>, queued: Option<Duration>) {
        let stage = self.replace_stage(Stage::Ended);
        match stage {
            Stage::Open | Stage::Answered(_) => {
                self.counters.end(now);
                self.counters.count(Outcome { duration: self.duration(&stage, now), status, queued });
            }
            Stage::Failed(outcome) => self.counters.count(Outcome { status, ..outcome }),
            Stage::Ended => {}
        }
    }

    /// It ends without a response. If the server responds in its place, [`end`](Self::end) gives the status; otherwise it
    /// counts as 500.
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
        match self.replace_stage(Stage::Ended) {
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

    fn replace_stage(&self, next: Stage) -> Stage {
        std::mem::replace(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner), next)
    }
}

impl Tally {
    fn advance(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated);
        self.busy += elapsed.saturating_mul(u32::try_from(self.active).unwrap_or(u32::MAX));
        self.updated = self.updated.max(now);
    }

    fn publish(&self) {
        if let Some(slot) = &self.slot {
            slot.store(self.active);
        }
    }

    fn count(&mut self, outcome: Outcome) {
        self.count += 1;
        if let Some(status) = outcome.status.filter(|status| STATUSES.contains(status)) {
            match self.by_status.iter_mut().find(|(known, _)| *known == status) {
                Some((_, count)) => *count += 1,
                None => self.by_status.push((status, 1)),
            }
        }
        self.durations.add(outcome.duration);
    }
}

/// How long a request waited that started at `started` since the epoch, by the header `X-Request-Start` of a proxy: `t=`
/// and seconds, or milliseconds, or microseconds. `None` for anything else.
#[must_use]
pub fn queue_time(header: &str, started: Duration) -> Option<Duration> {
    let number: f64 = header.trim().trim_start_matches("t=").parse().ok()?;
    let seconds = match number {
        1e9..1e11 => number,
        1e12..1e14 => number / 1e3,
        1e15..1e17 => number / 1e6,
        _ => return None,
    };
    started.checked_sub(Duration::try_from_secs_f64(seconds).ok()?)
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
    fn draining_restarts_single_values_and_keeps_sums() {
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
    fn where_gunicorn_counts_requests_active_ones_and_queue_times_are_still_known() {
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
    fn a_request_lasts_until_it_is_answered_and_is_active_until_it_ends() {
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
    fn a_failed_request_has_the_status_of_the_servers_response_or_500() {
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
    fn an_invalid_status_counts_as_a_request_only() {
        let counters = counters();
        for status in [99, 100, 999, 1000] {
            counters.count(answered(status, SECOND));
        }
        let ended = counters.read(SECOND).ended.unwrap();
        assert_eq!((ended.count, ended.by_status), (4, vec![(100, 1), (999, 1)]));
    }

    #[test]
    fn a_queue_time_of_more_than_a_day_is_ignored() {
        let counters = counters();
        for queued in [SECOND, Duration::from_hours(24) + SECOND] {
            counters.count(Outcome { duration: SECOND, status: None, queued: Some(queued) });
        }
        assert_eq!(counters.read(SECOND).queue_times.kept, [1_000_000]);
    }

    #[test]
    fn a_proxy_may_give_seconds_milliseconds_or_microseconds() {
        let started = Duration::from_millis(1_700_000_000_250);
        for header in
            ["t=1700000000.000", "1700000000.0", "t=1700000000000", "1700000000000000", " t=1700000000 "]
        {
            assert_eq!(queue_time(header, started), Some(Duration::from_millis(250)), "{header}");
        }
        for header in ["", "t=", "soon", "t=1700000001", "-1700000000", "0", "nan", "inf", "1e300", "17"] {
            assert_eq!(queue_time(header, started), None, "{header}");
        }
    }
}
