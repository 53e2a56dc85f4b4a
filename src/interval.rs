//! Two snapshots in order: the one place where a difference is taken.

use std::time::Duration;

use crate::snapshot::Snapshot;

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
}

impl<'a> Interval<'a> {
    /// The interval between two snapshots; `planned` is its length according to the schedule.
    #[must_use]
    pub fn new(earlier: &'a Snapshot, later: &'a Snapshot, planned: Duration) -> Self {
        Self { earlier, later, planned }
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
        let elapsed = self.elapsed();
        if elapsed.is_zero() || elapsed > self.planned.saturating_mul(MAX_INTERVALS) {
            return None;
        }
        Some(100.0 * self.time(spent)?.as_secs_f64() / elapsed.as_secs_f64())
    }

    /// The same for CPU time, which the kernel accounts for in steps.
    ///
    /// `None` also if the interval is too short for them.
    pub fn cpu_percent(&self, spent: impl Fn(&Snapshot) -> Option<Duration>) -> Option<f64> {
        if self.elapsed() < MIN_CPU_INTERVAL { None } else { self.percent(spent) }
    }

    fn elapsed(&self) -> Duration {
        self.later.at.saturating_sub(self.earlier.at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::ResourceUsage;

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
