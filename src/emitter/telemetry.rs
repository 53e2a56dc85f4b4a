//! What we tell the receiver of our own sending: `datadog.dogstatsd.client.*`, if it is asked for.

use std::ops::{Add, Sub};

use super::health::{Amount, Delivery};

/// What has been written, sent and lost since the collector began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Samples written into payloads.
    pub metrics: u64,
    /// What the kernel took.
    pub sent: Amount,
    /// What is lost, also where that was learnt after the kernel had taken it.
    pub dropped: Amount,
}

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

/// Every row, in the order in which they are sent.
pub static COUNTERS: [Counter; 7] = [
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

/// What the receiver has been told.
#[derive(Debug, Default)]
pub struct Telemetry {
    told: Totals,
    /// What the last report told, which may turn out to have been lost.
    last: Totals,
}

impl Telemetry {
    /// What has come to the totals since the receiver was last told.
    #[must_use]
    pub fn untold(&self, totals: Totals) -> Totals {
        totals - self.told
    }

    /// Takes note of how the flush went that ended in this report. What was lost is told again by the next.
    pub fn note(&mut self, report: Totals, delivery: &Delivery) {
        if delivery.is_end_of_last_lost {
            self.told = self.told - self.last;
        }
        self.last = if delivery.is_end_lost { Totals::default() } else { report };
        self.told = self.told + self.last;
    }
}

impl Totals {
    /// Adds what became of a flush.
    pub fn add_delivery(&mut self, delivery: &Delivery) {
        self.sent = self.sent + delivery.sent;
        self.dropped = self.dropped + delivery.dropped;
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            metrics: self.metrics + other.metrics,
            sent: self.sent + other.sent,
            dropped: self.dropped + other.dropped,
        }
    }
}

impl Sub for Totals {
    type Output = Self;

    /// Of totals an earlier one.
    fn sub(self, earlier: Self) -> Self {
        Self {
            metrics: self.metrics.saturating_sub(earlier.metrics),
            sent: self.sent - earlier.sent,
            dropped: self.dropped - earlier.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(metrics: u64) -> Totals {
        Totals { metrics, ..Totals::default() }
    }

    /// The metrics that arrive: one more is written before each report, and each goes as `delivered` says.
    fn told(deliveries: &[Delivery]) -> Vec<u64> {
        let mut telemetry = Telemetry::default();
        let tell = |(delivery, metrics): (&Delivery, u64)| {
            let report = telemetry.untold(written(metrics));
            telemetry.note(report, delivery);
            report.metrics
        };
        deliveries.iter().zip(1..).map(tell).collect()
    }

    #[test]
    fn a_report_tells_what_came_since_the_one_before() {
        let arrived = Delivery::default;
        assert_eq!(told(&[arrived(), arrived(), arrived()]), [1, 1, 1]);
    }

    #[test]
    fn what_a_lost_report_told_is_told_again() {
        let arrived = Delivery::default;
        let lost = || Delivery { is_end_lost: true, ..Delivery::default() };
        assert_eq!(told(&[lost(), lost(), arrived(), arrived()]), [1, 2, 3, 1]);
    }

    #[test]
    fn bad_news_may_come_a_flush_later() {
        let arrived = Delivery::default;
        let was_refused = || Delivery { is_end_of_last_lost: true, ..Delivery::default() };
        // The first report was lost, as the second flush learns; the third tells it again.
        assert_eq!(told(&[arrived(), was_refused(), arrived(), arrived()]), [1, 1, 2, 1]);
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
