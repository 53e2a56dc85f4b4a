//! Client telemetry: what the receiver is told about our own sending, if that is asked for.

use super::delivery::Totals;
use super::packets::{Counts, NUMBER_OF_COUNTERS};

/// A count of our own sending.
#[derive(Debug)]
pub struct ClientCounter {
    /// Its full name.
    pub name: &'static str,
    /// What it counts.
    pub description: &'static str,
    /// Reads it from the totals.
    pub read: fn(&Totals) -> u64,
}

/// Every counter, in the order in which they are sent, at the end of a flush.
pub static COUNTERS: [ClientCounter; NUMBER_OF_COUNTERS] = [
    ClientCounter {
        name: "datadog.dogstatsd.client.metrics",
        description: "Samples written, these counts not included.",
        read: |totals| totals.metrics,
    },
    ClientCounter {
        name: "datadog.dogstatsd.client.packets_sent",
        description: "Packets the kernel took.",
        read: |totals| totals.sent.packets,
    },
    ClientCounter {
        name: "datadog.dogstatsd.client.bytes_sent",
        description: "Bytes in the packets the kernel took.",
        read: |totals| totals.sent.bytes,
    },
    ClientCounter {
        name: "datadog.dogstatsd.client.packets_dropped",
        description: "Packets lost, for whatever reason.",
        read: |totals| totals.dropped.packets,
    },
    ClientCounter {
        name: "datadog.dogstatsd.client.bytes_dropped",
        description: "Bytes in the packets lost.",
        read: |totals| totals.dropped.bytes,
    },
    ClientCounter {
        name: "datadog.dogstatsd.client.packets_dropped_writer",
        description: "Packets lost at the socket: all of them, as there is no queue.",
        read: |totals| totals.dropped.packets,
    },
    ClientCounter {
        name: "datadog.dogstatsd.client.bytes_dropped_writer",
        description: "Bytes in the packets lost at the socket.",
        read: |totals| totals.dropped.bytes,
    },
];

/// What has been reported to the receiver. A report holds what has been counted since the one before; what is lost of
/// it is reported again.
#[derive(Debug, Default)]
pub struct Telemetry {
    reported: Counts,
}

impl Telemetry {
    /// What has been added to the totals and not been reported.
    #[must_use]
    pub fn unreported(&self, totals: &Totals) -> Counts {
        std::array::from_fn(|counter| (COUNTERS[counter].read)(totals).saturating_sub(self.reported[counter]))
    }

    /// Records a count as reported.
    pub fn record(&mut self, counter: usize, count: u64) {
        self.reported[counter] += count;
    }

    /// Takes back what was reported in payloads that are lost.
    pub fn retract(&mut self, lost: &Counts) {
        for (reported, lost) in self.reported.iter_mut().zip(lost) {
            *reported = reported.saturating_sub(*lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::delivery::Amount;
    use super::*;

    fn totals(count: u64) -> Totals {
        let amount = Amount { packets: count, bytes: count };
        Totals { metrics: count, sent: amount, dropped: amount }
    }

    /// Reports everything; gives the first count and the last.
    fn report(telemetry: &mut Telemetry, total: u64) -> [u64; 2] {
        let counts = telemetry.unreported(&totals(total));
        for (counter, count) in counts.into_iter().enumerate() {
            telemetry.record(counter, count);
        }
        [counts[0], counts[6]]
    }

    #[test]
    fn a_report_holds_what_came_since_the_one_before() {
        let mut telemetry = Telemetry::default();
        assert_eq!([1, 3, 4].map(|total| report(&mut telemetry, total)), [[1, 1], [2, 2], [1, 1]]);
    }

    #[test]
    fn what_was_lost_is_reported_again() {
        let mut telemetry = Telemetry::default();
        assert_eq!(report(&mut telemetry, 2), [2, 2]);
        telemetry.retract(&[2; 7]);
        assert_eq!(report(&mut telemetry, 3), [3, 3]);
        telemetry.retract(&[0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(report(&mut telemetry, 4), [1, 4], "a part of the report had arrived");
    }

    #[test]
    fn a_loss_may_become_known_a_report_later() {
        let mut telemetry = Telemetry::default();
        assert_eq!([1, 2].map(|total| report(&mut telemetry, total)), [[1, 1], [1, 1]]);
        telemetry.retract(&[1; 7]);
        assert_eq!([3, 4].map(|total| report(&mut telemetry, total)), [[2, 2], [1, 1]]);
    }

    #[test]
    fn names_are_unique_and_descriptions_sentences() {
        let mut names: Vec<_> = COUNTERS.iter().map(|counter| counter.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COUNTERS.len());
        assert!(COUNTERS.iter().all(|counter| counter.description.ends_with('.')));
    }
}
