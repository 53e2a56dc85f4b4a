//! What becomes of each row at a flush: when those are due that are sent only now and then, and which had a value.

use std::time::Duration;

use crate::catalogue::CATALOGUE;
use crate::catalogue::metric::{Reading, Sample};
use crate::catalogue::selection::{Outcome, Selection, append_samples};
use crate::interval::Interval;

/// How often an alarm is sent that has nothing to report, so that it is known to be watched.
const QUIET_ALARM_INTERVAL: Duration = Duration::from_hours(1);

/// How often what describes the process is sent. A tick comes a little early or late.
const DESCRIPTION_INTERVAL: Duration = Duration::from_millis(59_500);

/// What became of the rows at the last flush.
#[derive(Debug, Default)]
pub struct Rows {
    quiet_alarms_due: Duration,
    description_due: Duration,
    /// `None` before the first flush.
    outcome: Option<Outcome>,
}

impl Rows {
    /// Appends the samples of an interval that ends at `now`.
    pub fn append(
        &mut self,
        samples: &mut Vec<Sample>,
        selection: Selection,
        mut interval: Interval<'_>,
        now: Duration,
    ) {
        if now >= self.quiet_alarms_due {
            interval = interval.showing_quiet_alarms();
        }
        if now >= self.description_due {
            interval = interval.showing_description();
        }
        self.outcome = Some(append_samples(samples, selection, &interval));
    }

    /// What was appended at `now` has been sent.
    pub fn mark_sent(&mut self, now: Duration) {
        for (due, every) in [
            (&mut self.quiet_alarms_due, QUIET_ALARM_INTERVAL),
            (&mut self.description_due, DESCRIPTION_INTERVAL),
        ] {
            if now >= *due {
                *due = now + every;
            }
        }
    }

    /// Each selected row by name: `sent`, or why it is not. `left_out` are those that ddtrace sends.
    #[must_use]
    pub fn states(&self, selection: Selection, left_out: Selection) -> Vec<(&'static str, &'static str)> {
        let rows = CATALOGUE.iter().enumerate().filter(|(row, _)| selection.contains(*row));
        let state = |row, reading: &Reading, absent| match self.outcome {
            _ if left_out.contains(row) => "ddtrace sends it",
            None => "nothing has been flushed yet",
            Some(outcome) if outcome.sent.contains(row) => "sent",
            Some(outcome) if !outcome.quiet.contains(row) => absent,
            Some(_) if reading.kind() == "alarm" => {
                "nothing to report: sent only when there is, and once an hour"
            }
            Some(_) => "sent",
        };
        rows.map(|(row, metric)| (metric.name, state(row, &metric.reading, metric.absent))).collect()
    }
}
