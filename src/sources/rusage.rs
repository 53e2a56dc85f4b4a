//! CPU time and context switches from `getrusage`: the whole process in one call, exact to the microsecond.
//!
//! `/proc/self/status` would count the context switches of the main thread only, `/proc/self/stat` CPU time in steps of
//! 10 ms.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::snapshot::ResourceUsage;

/// What the process has used since it started; `None` if the system call is not permitted.
#[must_use]
pub fn read() -> Option<ResourceUsage> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let (user, system) = (duration(usage.user_time()), duration(usage.system_time()));
    Some(ResourceUsage {
        cpu: user + system,
        user: Some(user),
        system: Some(system),
        voluntary_switches: usage.voluntary_context_switches().try_into().ok(),
        involuntary_switches: usage.involuntary_context_switches().try_into().ok(),
        major_faults: usage.major_page_faults().try_into().ok(),
        minor_faults: usage.minor_page_faults().try_into().ok(),
    })
}

/// CPU time of the child processes that were waited for, and of theirs that they have waited for.
#[must_use]
pub fn cpu_of_children() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
    Some(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}
