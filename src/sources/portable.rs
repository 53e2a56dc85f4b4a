//! The process through sysinfo: the source on macOS and Windows, the stand-in on a Linux without `/proc`, and
//! the oracle of the Linux source's tests. It knows CPU only as one sum, and no context switches.

use std::fmt;
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::snapshot::{Process, Usage};

/// This process as sysinfo sees it.
pub struct Portable {
    system: Option<System>,
    pid: Option<Pid>,
}

impl Portable {
    /// Finds this process; where sysinfo does not support the platform every fact is unknown.
    #[must_use]
    pub fn new() -> Self {
        Self { system: System::new().ok(), pid: sysinfo::get_current_pid().ok() }
    }

    /// Reads CPU time, resident memory and, on Linux, the number of threads.
    pub fn read(&mut self) -> (Option<Usage>, Process) {
        self.refreshed().unwrap_or_default()
    }

    fn refreshed(&mut self) -> Option<(Option<Usage>, Process)> {
        let (system, pid) = (self.system.as_mut()?, self.pid?);
        let wanted = ProcessRefreshKind::nothing().with_cpu().with_memory().with_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, wanted);
        let process = system.process(pid)?;
        let usage = Usage { cpu: Duration::from_millis(process.accumulated_cpu_time()), ..Usage::default() };
        // The main thread is the process itself and not among its tasks.
        let threads = process.tasks().map(|tasks| tasks.len() as u64 + 1);
        Some((Some(usage), Process { resident: Some(process.memory()), threads }))
    }
}

/// CPU time of another process, in milliseconds.
#[must_use]
pub fn cpu_of(pid: u32) -> Option<u64> {
    let (mut system, pid) = (System::new().ok()?, Pid::from_u32(pid));
    let wanted = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, wanted);
    Some(system.process(pid)?.accumulated_cpu_time())
}

impl Default for Portable {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portable").field("pid", &self.pid).finish_non_exhaustive()
    }
}
