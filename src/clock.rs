//! The one clock: monotonic time since it was started.

use std::time::{Duration, Instant};

/// Monotonic time since the collector began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since its start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The same in nanoseconds, enough for 584 years.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }
}
