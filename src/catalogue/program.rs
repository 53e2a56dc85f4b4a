//! The rows of the standard level about the program itself: what goes wrong in it.

use super::metric::{Level, Metric, Reading, TaggedAlarm, Unit, Wire};
use crate::interval::Interval;
use crate::snapshot::{Source, Uncaught};

/// The metrics of the program.
pub const ROWS: &[Metric] = &[Metric {
    name: "runtime.python.exceptions.uncaught",
    unit: Unit::Exception,
    level: Level::Standard,
    by_name: false,
    wire: Wire::Chosen,
    needs: &[Source::UncaughtExceptions],
    reading: Reading::TaggedAlarm(TaggedAlarm {
        key: "source",
        values: &[
            ("main", |interval| uncaught(interval, Uncaught::Main)),
            ("thread", |interval| uncaught(interval, Uncaught::Thread)),
            ("unraisable", |interval| uncaught(interval, Uncaught::Unraisable)),
        ],
    }),
    source: "sys.excepthook, threading.excepthook and sys.unraisablehook, in which ours call those before them",
    description: "Exceptions that nothing handled, without SystemExit and KeyboardInterrupt. source:main ends the \
                  program, source:thread a thread of threading, while the rest goes on without it. source:unraisable \
                  was printed where none can be raised, as in a finaliser (__del__).",
    absent: "where a hook that the program sets afterwards does not call the one before it; while the hook is None",
    opentelemetry: None,
}];

fn uncaught(interval: &Interval, place: Uncaught) -> Option<u64> {
    interval.growth_from_zero(|s| s.uncaught[place as usize])
}
