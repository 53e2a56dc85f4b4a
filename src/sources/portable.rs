//! The process through sysinfo: the source on macOS and Windows, and the oracle of the Linux source's tests.
//!
//! It knows CPU time only as one sum, in milliseconds, and no context switches.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::snapshot::{ProcessFacts, ResourceUsage, Source, SourceSet};

/// This process as sysinfo sees it.
pub struct Portable {
    system: Option<System>,
    pid: Option<Pid>,
}

impl Portable {
    /// Finds this process; on a platform that sysinfo does not support every fact is unknown. sysinfo has no root to be
    /// given.
    #[must_use]
    pub fn open(_root: &Path) -> Self {
        Self { system: System::new().ok(), pid: sysinfo::get_current_pid().ok() }
    }

    /// Reads CPU time, resident memory and, on Linux, the number of threads.
    pub fn read(&mut self, needed: SourceSet) -> (Option<ResourceUsage>, ProcessFacts) {
        self.refresh(needed).unwrap_or_default()
    }

    fn refresh(&mut self, needed: SourceSet) -> Option<(Option<ResourceUsage>, ProcessFacts)> {
        let (system, pid) = (self.system.as_mut()?, self.pid?);
        let mut refresh = ProcessRefreshKind::nothing();
        if needed.contains(Source::ResourceUsage) {
            refresh = refresh.with_cpu();
        }
        if needed.contains(Source::Memory) {
            refresh = refresh.with_memory();
        }
        if needed.contains(Source::Threads) {
            refresh = refresh.with_tasks();
        }
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, refresh);
        let process = system.process(pid)?;
        let usage = needed.contains(Source::ResourceUsage).then(|| ResourceUsage {
            cpu: Duration::from_millis(process.accumulated_cpu_time()),
            user: None,
            system: None,
            voluntary_switches: None,
            involuntary_switches: None,
            major_faults: None,
        });
        // sysinfo counts the main thread as the process, not as one of its tasks.
        let tasks = needed.contains(Source::Threads).then(|| process.tasks()).flatten();
        let facts = ProcessFacts {
            resident: needed.contains(Source::Memory).then(|| process.memory()),
            threads: tasks.map(|tasks| tasks.len() as u64 + 1),
            ..ProcessFacts::default()
        };
        Some((usage, facts))
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

impl fmt::Debug for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portable").field("pid", &self.pid).finish_non_exhaustive()
    }
}
