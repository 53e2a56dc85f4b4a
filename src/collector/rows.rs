//! What becomes of each row at a flush: when those are due that are sent only now and then, and which had a value.

use std::borrow::Cow;
use std::time::Duration;

use crate::catalogue::CATALOGUE;
use crate::catalogue::absence::Flush;
use crate::catalogue::metric::{Metric, Sample};
use crate::catalogue::selection::{Outcome, Selection, append_samples};
use crate::interval::{Interval, Length};
use crate::snapshot::{Snapshot, SourceSet};

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
    last: Option<Last>,
}

/// What became of the rows, and the length of the interval, as it was and as it was planned.
#[derive(Debug)]
struct Last {
    selection: Selection,
    outcome: Outcome,
    length: Length,
    planned: Duration,
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
        let outcome = append_samples(samples, selection, &interval);
        self.last = Some(Last { selection, outcome, length: interval.length(), planned: interval.planned() });
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

    /// Each selected row by name: `sent`, or why it is not. `left_out` are those that ddtrace sends; these sources were
    /// `read` at the last flush, and gave this snapshot.
    #[must_use]
    pub fn states(
        &self,
        selection: Selection,
        left_out: Selection,
        read: SourceSet,
        snapshot: &Snapshot,
    ) -> Vec<(&'static str, Cow<'static, str>)> {
        let rows = CATALOGUE.iter().enumerate().filter(|(row, _)| selection.contains(*row));
        let state = |row, metric: &Metric| {
            let Some(Last { selection, outcome, length, planned }) = &self.last else {
                return "nothing has been flushed yet".into();
            };
            // When ddtrace is stopped, it sends them once more.
            if !selection.contains(row) {
                return "ddtrace has sent it for the last interval".into();
            }
            let is_quiet = outcome.quiet.contains(row);
            if outcome.sent.contains(row) || (is_quiet && metric.reading.kind() != "alarm") {
                "sent".into()
            } else if is_quiet {
                "nothing to report: sent only when there is, and once an hour".into()
            } else {
                Flush { snapshot, read, length: *length, planned: *planned }.reason(metric)
            }
        };
        rows.map(|(row, metric)| {
            let state = if left_out.contains(row) { "ddtrace sends it".into() } else { state(row, metric) };
            (metric.name, state)
        })
        .collect()
    }
}
