//! Two snapshots in order: the one place where a difference is taken.

use std::time::Duration;

use crate::snapshot::{LoopTimes, Snapshot, ThreadTimes};

/// After more than this many planned intervals the process must have been suspended or frozen.
const MAX_INTERVALS: u32 = 3;

/// The kernel adds the CPU time of a thread that runs meanwhile at its ticks, of which there are 100 to 1000 a second.
/// So every CPU but the reader's may be credited with a tick too many: 10 ms at most, mostly 4. Over 1 ms four threads
/// on two CPUs showed up to 480 %; from 50 ms on that is an error of a fifth at most, mostly less than a tenth.
const MIN_CPU_INTERVAL: Duration = Duration::from_millis(50);

/// The time between two snapshots of one process.
#[derive(Clone, Copy, Debug)]
pub struct Interval<'a> {
    earlier: &'a Snapshot,
    later: &'a Snapshot,
    planned: Duration,
    shows_quiet_alarms: bool,
    shows_description: bool,
}

impl<'a> Interval<'a> {
    /// The interval between two snapshots; `planned` is its length according to the schedule.
    #[must_use]
    pub fn new(earlier: &'a Snapshot, later: &'a Snapshot, planned: Duration) -> Self {
        Self { earlier, later, planned, shows_quiet_alarms: false, shows_description: false }
    }

    /// The same interval, in whose samples an alarm is also where there is nothing to report.
    #[must_use]
    pub fn showing_quiet_alarms(self) -> Self {
        Self { shows_quiet_alarms: true, ..self }
    }

    /// Whether an alarm is also sent where there is nothing to report.
    #[must_use]
    pub fn shows_quiet_alarms(&self) -> bool {
        self.shows_quiet_alarms
    }

    /// The same interval, in whose samples is also what describes the process.
    #[must_use]
    pub fn showing_description(self) -> Self {
        Self { shows_description: true, ..self }
    }

    /// Whether what describes the process is sent.
    #[must_use]
    pub fn shows_description(&self) -> bool {
        self.shows_description
    }

    /// Its length according to the schedule.
    #[must_use]
    pub fn planned(&self) -> Duration {
        self.planned
    }

    /// The snapshot at its end.
    #[must_use]
    pub fn end(&self) -> &'a Snapshot {
        self.later
    }

    /// How much a counter grew; a counter that went backwards grew by 0.
    ///
    /// `None` if either end does not know the counter.
    pub fn growth(&self, counter: impl Fn(&Snapshot) -> Option<u64>) -> Option<u64> {
        Some(counter(self.later)?.saturating_sub(counter(self.earlier)?))
    }

    /// The growth of a counter that started at zero: where the earlier end does not know it, it was 0 then.
    pub fn growth_from_zero(&self, counter: impl Fn(&Snapshot) -> Option<u64>) -> Option<u64> {
        Some(counter(self.later)?.saturating_sub(counter(self.earlier).unwrap_or(0)))
    }

    /// How much a cumulative time grew; one that went backwards grew by 0.
    ///
    /// `None` if either end does not know the time.
    pub fn time(&self, spent: impl Fn(&Snapshot) -> Option<Duration>) -> Option<Duration> {
        Some(spent(self.later)?.saturating_sub(spent(self.earlier)?))
    }

    /// The growth of a cumulative time as a percentage of the interval; above 100 on several cores.
    ///
    /// `None` if no time has passed, or so much that the process must have been frozen.
    pub fn percent(&self, spent: impl Fn(&Snapshot) -> Option<Duration>) -> Option<f64> {
        self.percent_of(self.time(spent)?)
    }

    /// The same for CPU time, which the kernel accounts for in steps.
    ///
    /// `None` also if the interval is too short for them.
    pub fn cpu_percent(&self, spent: impl Fn(&Snapshot) -> Option<Duration>) -> Option<f64> {
        self.cpu_percent_of(self.time(spent)?)
    }

    /// The same for CPU time that was used in the interval.
    #[must_use]
    pub fn cpu_percent_of(&self, used: Duration) -> Option<f64> {
        if self.elapsed() < MIN_CPU_INTERVAL { None } else { self.percent_of(used) }
    }

    /// What each thread at its end has used since its beginning; one that started in it, since then.
    ///
    /// `None` if either end does not know the threads.
    #[must_use]
    pub fn threads(&self) -> Option<impl Iterator<Item = ThreadTimes>> {
        let times = |snapshot: &'a Snapshot| snapshot.process.thread_times.as_ref();
        let (earlier, later) = (times(self.earlier)?, times(self.later)?);
        Some(later.iter().map(|thread| {
            let before = earlier.binary_search_by_key(&thread.id, |earlier| earlier.id);
            let since = before.ok().and_then(|at| {
                let cpu = thread.cpu.checked_sub(earlier[at].cpu)?;
                Some(ThreadTimes { id: thread.id, cpu, delay: thread.delay.checked_sub(earlier[at].delay)? })
            });
            // Otherwise it is new, or the id was given to another thread.
            since.unwrap_or(*thread)
        }))
    }

    /// What each event loop at its end has done since its beginning; one that was found in it, since then.
    pub fn event_loops(&self) -> impl Iterator<Item = LoopTimes> {
        let earlier = &self.earlier.event_loops.times;
        self.later.event_loops.times.iter().map(|later| {
            let Ok(at) = earlier.binary_search_by_key(&later.id, |earlier| earlier.id) else { return *later };
            LoopTimes {
                id: later.id,
                busy: later.busy.saturating_sub(earlier[at].busy),
                known: later.known.saturating_sub(earlier[at].known),
            }
        })
    }

    /// How often something occurred per second, on average.
    ///
    /// `None` if no time has passed, or if either end does not know the counter.
    pub fn rate(&self, counter: impl Fn(&Snapshot) -> Option<u64>) -> Option<f64> {
        let elapsed = self.elapsed();
        let growth = self.growth(counter)?;
        #[expect(clippy::cast_precision_loss, reason = "A rate needs no more precision.")]
        (!elapsed.is_zero()).then(|| growth as f64 / elapsed.as_secs_f64())
    }

    /// A time that was spent in the interval as a percentage of it.
    ///
    /// `None` as for [`percent`](Self::percent).
    #[must_use]
    pub fn percent_of(&self, time: Duration) -> Option<f64> {
        let elapsed = self.elapsed();
        if elapsed.is_zero() || elapsed > self.planned.saturating_mul(MAX_INTERVALS) {
            return None;
        }
        Some(100.0 * time.as_secs_f64() / elapsed.as_secs_f64())
    }

    /// Whether its length allows a percentage of time, and of CPU time.
    #[must_use]
    pub fn length(&self) -> Length {
        let elapsed = self.elapsed();
        if elapsed > self.planned.saturating_mul(MAX_INTERVALS) {
            Length::TooLong
        } else if elapsed < MIN_CPU_INTERVAL {
            Length::TooShort
        } else {
            Length::Regular
        }
    }

    fn elapsed(&self) -> Duration {
        self.later.at.saturating_sub(self.earlier.at)
    }
}

/// What the length of an interval allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Too short for a percentage of CPU time.
    TooShort,
    /// Every value.
    Regular,
    /// No percentage: the process must have been suspended or frozen.
    TooLong,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::{EventLoopFacts, ProcessFacts, ResourceUsage};

    const SECOND: Duration = Duration::from_secs(1);

    fn snapshot(at: Duration, cpu: Duration) -> Snapshot {
        let usage =
            ResourceUsage { cpu, voluntary_switches: Some(cpu.as_secs()), ..ResourceUsage::default() };
        Snapshot { at, usage: Some(usage), ..Snapshot::default() }
    }

    fn cpu(snapshot: &Snapshot) -> Option<Duration> {
        Some(snapshot.usage.as_ref()?.cpu)
    }

    fn switches(snapshot: &Snapshot) -> Option<u64> {
        snapshot.usage.as_ref()?.voluntary_switches
    }

    #[test]
    fn a_counter_that_goes_backwards_grew_by_nothing() {
        let (earlier, later) = (snapshot(SECOND, 9 * SECOND), snapshot(2 * SECOND, 4 * SECOND));
        let interval = Interval::new(&earlier, &later, SECOND);
        assert_eq!(interval.growth(switches), Some(0));
        assert_eq!(interval.time(cpu), Some(Duration::ZERO));
    }

    #[test]
    fn an_unknown_end_makes_the_change_unknown() {
        let (known, unknown) = (snapshot(SECOND, SECOND), Snapshot::default());
        assert_eq!(Interval::new(&unknown, &known, SECOND).growth(switches), None);
        assert_eq!(Interval::new(&known, &unknown, SECOND).time(cpu), None);
    }

    #[test]
    fn two_busy_cores_are_200_percent() {
        let (earlier, later) = (snapshot(SECOND, SECOND), snapshot(3 * SECOND, 5 * SECOND));
        assert_eq!(Interval::new(&earlier, &later, 2 * SECOND).percent(cpu), Some(200.0));
    }

    #[test]
    fn a_percentage_is_unknown_over_no_time_and_over_a_freeze() {
        let (start, late) = (snapshot(SECOND, SECOND), snapshot(32 * SECOND, 2 * SECOND));
        assert_eq!(Interval::new(&start, &start, 10 * SECOND).percent(cpu), None);
        assert_eq!(Interval::new(&start, &late, 10 * SECOND).percent(cpu), None);
        assert!(Interval::new(&start, &late, 11 * SECOND).percent(cpu).is_some());
    }

    #[test]
    fn over_less_than_fifty_milliseconds_the_percentage_of_cpu_time_alone_is_unknown() {
        let start = snapshot(SECOND, SECOND);
        let [short, long] = [49, 50].map(|milliseconds| {
            let elapsed = Duration::from_millis(milliseconds);
            snapshot(SECOND + elapsed, SECOND + elapsed)
        });
        assert_eq!(Interval::new(&start, &short, SECOND).cpu_percent(cpu), None);
        assert_eq!(Interval::new(&start, &short, SECOND).percent(cpu), Some(100.0));
        assert_eq!(Interval::new(&start, &long, SECOND).cpu_percent(cpu), Some(100.0));
    }

    #[test]
    fn a_thread_has_used_what_it_used_since_the_beginning_of_the_interval_or_since_its_own() {
        let thread = |id, cpu: u32, delay: u32| ThreadTimes { id, cpu: cpu * SECOND, delay: delay * SECOND };
        let with = |threads| Snapshot {
            process: ProcessFacts { thread_times: Some(threads), ..ProcessFacts::default() },
            ..Snapshot::default()
        };
        let earlier = with(vec![thread(1, 5, 1), thread(2, 9, 9), thread(4, 7, 0)]);
        // Another thread has the id 2 by now, 3 is new, and 4 has ended.
        let later = with(vec![thread(1, 6, 3), thread(2, 2, 10), thread(3, 4, 0)]);
        let interval = Interval::new(&earlier, &later, SECOND);
        let expected = [thread(1, 1, 2), thread(2, 2, 10), thread(3, 4, 0)];
        assert_eq!(interval.threads().map(Iterator::collect), Some(expected.to_vec()));
        assert!(Interval::new(&Snapshot::default(), &later, SECOND).threads().is_none());
        assert!(Interval::new(&earlier, &Snapshot::default(), SECOND).threads().is_none());
    }

    #[test]
    fn a_loop_has_done_what_it_did_since_the_beginning_of_the_interval_or_since_it_was_found() {
        let times = |id, busy: u32, known: u32| LoopTimes { id, busy: busy * SECOND, known: known * SECOND };
        let with = |times| Snapshot {
            event_loops: EventLoopFacts { times, ..EventLoopFacts::default() },
            ..Snapshot::default()
        };
        // 1 has ended, and what 4 seemed to do was no iteration.
        let earlier = with(vec![times(1, 9, 9), times(2, 3, 10), times(4, 5, 9)]);
        let later = with(vec![times(2, 4, 20), times(3, 2, 5), times(4, 1, 12)]);
        let growth: Vec<_> = Interval::new(&earlier, &later, SECOND).event_loops().collect();
        assert_eq!(growth, [times(2, 1, 10), times(3, 2, 5), times(4, 0, 3)]);
    }

    #[test]
    fn a_rate_is_per_second_and_unknown_over_no_time() {
        let (earlier, later) = (snapshot(SECOND, SECOND), snapshot(5 * SECOND, 9 * SECOND));
        assert_eq!(Interval::new(&earlier, &later, SECOND).rate(switches), Some(2.0));
        assert_eq!(Interval::new(&later, &later, SECOND).rate(switches), None);
    }

    proptest! {
        #[test]
        fn growth_over_consecutive_intervals_adds_up_to_last_minus_first(
            steps in prop::collection::vec(0_u64..1_000_000, 1..20)
        ) {
            let mut total = 0;
            let series: Vec<Snapshot> = steps.iter().map(|step| {
                total += step;
                snapshot(SECOND, Duration::from_secs(total))
            }).collect();
            let sum: u64 = series.windows(2)
                .map(|pair| Interval::new(&pair[0], &pair[1], SECOND).growth(switches).expect("both known"))
                .sum();
            let whole = Interval::new(&series[0], &series[series.len() - 1], SECOND);
            prop_assert_eq!(Some(sum), whole.growth(switches));
        }
    }
}
