//! What we tell the receiver of our own sending: `datadog.dogstatsd.client.*`, if it is asked for.

use std::ops::Range;

use super::delivery::{Delivery, Totals};

/// A row of the telemetry: a count since the report before.
#[derive(Debug)]
pub struct Counter {
    /// Its full name.
    pub name: &'static str,
    /// What it counts.
    pub description: &'static str,
    /// Its share in the totals.
    pub read: fn(&Totals) -> u64,
}

/// How many rows there are.
const ROWS: usize = 7;

/// What each row tells.
pub type Report = [u64; ROWS];

/// Every row, in the order in which they are sent, at the end of a flush.
pub static COUNTERS: [Counter; ROWS] = [
    Counter {
        name: "datadog.dogstatsd.client.metrics",
        description: "Samples written, these counts not included.",
        read: |totals| totals.metrics,
    },
    Counter {
        name: "datadog.dogstatsd.client.packets_sent",
        description: "Packets the kernel took.",
        read: |totals| totals.sent.packets,
    },
    Counter {
        name: "datadog.dogstatsd.client.bytes_sent",
        description: "Bytes in the packets the kernel took.",
        read: |totals| totals.sent.bytes,
    },
    Counter {
        name: "datadog.dogstatsd.client.packets_dropped",
        description: "Packets lost, for whatever reason.",
        read: |totals| totals.dropped.packets,
    },
    Counter {
        name: "datadog.dogstatsd.client.bytes_dropped",
        description: "Bytes in the packets lost.",
        read: |totals| totals.dropped.bytes,
    },
    Counter {
        name: "datadog.dogstatsd.client.packets_dropped_writer",
        description: "Packets lost at the socket: all of them, as there is no queue.",
        read: |totals| totals.dropped.packets,
    },
    Counter {
        name: "datadog.dogstatsd.client.bytes_dropped_writer",
        description: "Bytes in the packets lost at the socket.",
        read: |totals| totals.dropped.bytes,
    },
];

/// What the receiver has been told. A report may arrive in part, so that each row stands for itself.
#[derive(Debug, Default)]
pub struct Telemetry {
    told: Report,
    /// What the last report told, which may turn out to have been lost.
    last: Report,
}

impl Telemetry {
    /// What has come to the totals since the receiver was last told.
    #[must_use]
    pub fn untold(&self, totals: &Totals) -> Report {
        std::array::from_fn(|row| (COUNTERS[row].read)(totals).saturating_sub(self.told[row]))
    }

    /// Takes note of how the flush went that ended in this report. What was lost is told again by the next.
    pub fn note(&mut self, report: &Report, delivery: &Delivery) {
        let is_in = |lost: &[Range<usize>], row| lost.iter().any(|lines| lines.contains(&(ROWS - 1 - row)));
        for (row, told) in report.iter().enumerate() {
            if is_in(&delivery.lost_lines_of_last, row) {
                self.told[row] -= self.last[row];
            }
            self.last[row] = if is_in(&delivery.lost_lines, row) { 0 } else { *told };
            self.told[row] += self.last[row];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::delivery::Amount;
    use super::*;

    fn counted(count: u64) -> Totals {
        let amount = Amount { packets: count, bytes: count };
        Totals { metrics: count, sent: amount, dropped: amount }
    }

    /// What two rows tell, the first and the last, where each counts one more before each report, and each report goes
    /// as `deliveries` say.
    fn told(deliveries: &[Delivery]) -> Vec<(u64, u64)> {
        let mut telemetry = Telemetry::default();
        let tell = |(delivery, count): (&Delivery, u64)| {
            let report = telemetry.untold(&counted(count));
            telemetry.note(&report, delivery);
            (report[0], report[ROWS - 1])
        };
        deliveries.iter().zip(1..).map(tell).collect()
    }

    fn lost(lines: Range<usize>) -> Delivery {
        Delivery { lost_lines: std::iter::once(lines).collect(), ..Delivery::default() }
    }

    #[test]
    fn a_report_tells_what_came_since_the_one_before() {
        let arrived = Delivery::default;
        assert_eq!(told(&[arrived(), arrived(), arrived()]), [(1, 1); 3]);
    }

    #[test]
    fn what_a_lost_report_told_is_told_again() {
        let arrived = Delivery::default;
        let all = || lost(0..20);
        assert_eq!(told(&[all(), all(), arrived(), arrived()]), [(1, 1), (2, 2), (3, 3), (1, 1)]);
    }

    #[test]
    fn what_arrived_of_a_report_is_not_told_again() {
        let arrived = Delivery::default;
        assert_eq!(told(&[lost(0..3), arrived(), lost(3..20), arrived()]), [(1, 1), (1, 2), (1, 1), (2, 1)]);
    }

    #[test]
    fn bad_news_may_come_a_flush_later() {
        let arrived = Delivery::default;
        let was_refused = || Delivery { lost_lines_of_last: lost(0..20).lost_lines, ..Delivery::default() };
        // The first report was lost, as the second flush learns; the third tells it again.
        assert_eq!(told(&[arrived(), was_refused(), arrived(), arrived()]), [(1, 1), (1, 1), (2, 2), (1, 1)]);
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
