//! CPU time of a master's workers: from `/proc` on Linux, from sysinfo elsewhere.

#[cfg(target_os = "linux")]
use std::fs::File;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::path::PathBuf;
#[cfg(not(target_os = "linux"))]
use std::sync::{Mutex, PoisonError};

#[cfg(target_os = "linux")]
use crate::descriptor::Guarded;
#[cfg(not(target_os = "linux"))]
use crate::sources::portable::Processes;

/// CPU time by pid, in user and kernel mode together: in clock ticks on Linux, in milliseconds elsewhere.
pub type CpuTimes = Vec<(u32, u64)>;

/// Reads the CPU time of processes.
#[derive(Debug)]
pub struct CpuReader {
    #[cfg(target_os = "linux")]
    root: PathBuf,
    /// `None` until it is needed.
    #[cfg(not(target_os = "linux"))]
    processes: Mutex<Option<Processes>>,
}

#[cfg(target_os = "linux")]
impl CpuReader {
    /// Reads below this root, which is `/` except in tests.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The CPU time of each of these processes that exists.
    #[must_use]
    pub fn read(&self, pids: &[u32]) -> CpuTimes {
        pids.iter().filter_map(|pid| Some((*pid, self.ticks(*pid)?))).collect()
    }

    fn ticks(&self, pid: u32) -> Option<u64> {
        let path = self.root.join(format!("proc/{pid}/stat"));
        let file = Guarded::open(|| File::open(&path)).ok()?;
        let stat = std::io::read_to_string(&*file).ok()?;
        // The name of the program, in parentheses, may have anything in it. utime and stime are fields 14 and 15.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(user + system)
    }
}

#[cfg(not(target_os = "linux"))]
impl CpuReader {
    /// Opens nothing yet; sysinfo has no root to be given.
    #[must_use]
    pub fn new(_root: &Path) -> Self {
        Self { processes: Mutex::default() }
    }

    /// The CPU time of each of these processes that exists.
    #[must_use]
    pub fn read(&self, pids: &[u32]) -> CpuTimes {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.get_or_insert_with(Processes::open).cpu_times(pids)
    }
}
