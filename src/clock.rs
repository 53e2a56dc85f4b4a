//! The clocks: monotonic time since a start, and wall-clock time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(unix)]
use nix::time::{ClockId, clock_gettime};

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since its start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The time since its start in nanoseconds, enough for 584 years.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Time since the machine was started, including that in which it was suspended.
#[cfg(target_os = "linux")]
#[must_use]
pub fn since_boot() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(Duration::from)
}

/// CPU time that the calling thread has used.
#[cfg(unix)]
#[must_use]
pub fn cpu_of_thread() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from)
}

/// CPU time that a thread of this process has used, by its kernel id; `None` if there is no such thread.
#[cfg(target_os = "linux")]
#[must_use]
pub fn cpu_of_thread_by_id(id: u32) -> Option<Duration> {
    // The id of such a clock: CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED of the kernel, and above them the complement
    // of the thread's id.
    let clock = !i32::try_from(id).ok()? << 3 | 6;
    clock_gettime(ClockId::from_raw(clock)).ok().map(Duration::from)
}

/// The kernel's id of the calling thread.
#[cfg(target_os = "linux")]
#[must_use]
pub fn thread_id() -> u32 {
    nix::unistd::gettid().as_raw().unsigned_abs()
}

/// No thread's id: unknown on this platform.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn thread_id() -> u32 {
    0
}

/// CPU time that all threads of the process have used.
#[cfg(unix)]
#[must_use]
pub fn cpu_of_process() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok().map(Duration::from)
}

/// Unknown on this platform.
#[cfg(not(unix))]
#[must_use]
pub fn cpu_of_thread() -> Option<Duration> {
    None
}

/// Unknown on this platform.
#[cfg(not(unix))]
#[must_use]
pub fn cpu_of_process() -> Option<Duration> {
    None
}

/// Wall-clock time since 1970.
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
