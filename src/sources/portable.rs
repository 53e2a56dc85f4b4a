//! Processes through sysinfo: the source on macOS and Windows, and the oracle of the Linux source's tests.
//!
//! It knows CPU time only as one sum, in milliseconds, no context switches, and threads on Linux alone.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

use crate::snapshot::{ProcessFacts, ResourceUsage, Source, SourceSet};

/// This process as sysinfo sees it.
#[derive(Debug)]
pub struct Portable {
    processes: Processes,
    pid: Option<Pid>,
}

/// Any processes as sysinfo sees them. Kept open: opening costs more than reading does.
pub struct Processes(Option<System>);

impl Portable {
    /// Finds this process; on a platform that sysinfo does not support every fact is unknown. sysinfo has no root to be
    /// given.
    #[must_use]
    pub fn open(_root: &Path) -> Self {
        Self { processes: Processes::open(), pid: sysinfo::get_current_pid().ok() }
    }

    /// Reads CPU time, resident memory and, on Linux, the number of threads.
    pub fn read(&mut self, needed: SourceSet) -> (Option<ResourceUsage>, ProcessFacts) {
        self.refresh(needed).unwrap_or_default()
    }

    fn refresh(&mut self, needed: SourceSet) -> Option<(Option<ResourceUsage>, ProcessFacts)> {
        let mut refresh = nothing();
        if needed.contains(Source::ResourceUsage) {
            refresh = refresh.with_cpu();
        }
        if needed.contains(Source::Memory) {
            refresh = refresh.with_memory();
        }
        if needed.contains(Source::Threads) {
            refresh = refresh.with_tasks();
        }
        // It would list all processes of the machine to refresh nothing.
        if refresh == nothing() {
            return None;
        }
        let process = self.processes.read(self.pid?, refresh)?;
        let usage = needed.contains(Source::ResourceUsage).then(|| ResourceUsage {
            cpu: Duration::from_millis(process.accumulated_cpu_time()),
            user: None,
            system: None,
            voluntary_switches: None,
            involuntary_switches: None,
            major_faults: None,
            minor_faults: None,
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

impl Processes {
    /// Reads nothing yet.
    #[must_use]
    pub fn open() -> Self {
        Self(System::new().ok())
    }

    /// The CPU time of each of these processes that exists, in milliseconds.
    pub fn cpu_times(&mut self, pids: &[u32]) -> Vec<(u32, u64)> {
        let Some(system) = &mut self.0 else { return Vec::new() };
        let all: Vec<_> = pids.iter().copied().map(Pid::from_u32).collect();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&all), true, nothing().with_cpu());
        let time = |pid| Some((pid, system.process(Pid::from_u32(pid))?.accumulated_cpu_time()));
        pids.iter().copied().filter_map(time).collect()
    }

    /// The command lines of the processes that this one descends from, the nearest first, as far as they are known.
    pub fn commands_of_ancestors(mut self) -> impl Iterator<Item = Vec<String>> {
        let wanted = nothing().with_cmd(UpdateKind::OnlyIfNotSet);
        let mut pid = sysinfo::get_current_pid().ok();
        std::iter::from_fn(move || {
            let child = self.read(pid?, wanted)?;
            let (parent, born) = (child.parent()?, child.start_time());
            let parent = self.read(parent, wanted)?;
            // Windows gives the pid of a parent that has ended to another process.
            if parent.start_time() > born {
                return None;
            }
            pid = Some(parent.pid());
            let words = parent.cmd().iter().map(|word| word.to_string_lossy().into_owned());
            Some(words.collect::<Vec<_>>()).filter(|words| !words.is_empty())
        })
    }

    fn read(&mut self, pid: Pid, wanted: ProcessRefreshKind) -> Option<&Process> {
        let system = self.0.as_mut()?;
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, wanted);
        system.process(pid)
    }
}

/// By default sysinfo lists the threads, which on Linux takes longer than all the rest.
fn nothing() -> ProcessRefreshKind {
    ProcessRefreshKind::nothing().without_tasks()
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn memory_and_cpu_time_are_known_everywhere() {
        let needed = [Source::ResourceUsage, Source::Memory].into_iter().collect();
        let (usage, facts) = Portable::open(Path::new("/")).read(needed);
        assert!(facts.resident.unwrap() > 100_000);
        assert!(usage.is_some());
        assert_eq!(facts.threads, None, "they are not needed");
    }

    #[test]
    fn threads_are_listed_only_if_they_are_needed() {
        let mut portable = Portable::open(Path::new("/"));
        let listed = |portable: &mut Portable, needed: Source| {
            portable.read([needed].into_iter().collect());
            let system = portable.processes.0.as_ref().unwrap();
            system.process(portable.pid.unwrap()).and_then(|process| process.tasks()).is_some()
        };
        assert!(!listed(&mut portable, Source::Memory));
        assert_eq!(listed(&mut portable, Source::Threads), cfg!(target_os = "linux"));
    }

    #[test]
    fn the_cpu_times_of_processes_are_read_again_and_again() {
        let (mut processes, own) = (Processes::open(), std::process::id());
        let mut read = || match processes.cpu_times(&[own, u32::MAX - 1])[..] {
            [(pid, time)] if pid == own => time,
            ref times => panic!("{times:?}"),
        };
        let (first, deadline) = (read(), Instant::now() + Duration::from_mins(1));
        while read() == first {
            assert!(Instant::now() < deadline, "this process uses CPU time all the while");
        }
    }

    const CHILD: &str = "sources::portable::tests::shows_its_ancestors_to_the_test_that_started_it";

    #[test]
    #[ignore = "the next test runs it, as its child"]
    fn shows_its_ancestors_to_the_test_that_started_it() {
        println!("ancestors=<{:?}>", Processes::open().commands_of_ancestors().collect::<Vec<_>>());
    }

    #[test]
    fn a_child_process_knows_the_command_line_of_its_parent() {
        let own: Vec<_> = std::env::args().collect();
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", "--ignored", "--nocapture", CHILD]).output().unwrap();
        let shown = String::from_utf8_lossy(&child.stdout);
        let nearest = format!("{own:?}");
        assert!(shown.contains(&format!("ancestors=<[{nearest}")), "{nearest}\n{shown}");
    }
}
