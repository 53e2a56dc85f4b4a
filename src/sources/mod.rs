//! Where facts come from: one file per origin, each a plain reader that decides nothing.

use std::path::Path;

use crate::snapshot::{Process, Usage};

#[cfg(target_os = "linux")]
pub mod container;
pub mod gc;
pub mod gunicorn;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod portable;
#[cfg(unix)]
pub mod rusage;

/// The operating system's facts about this process, from the best origins it offers.
#[derive(Debug)]
pub struct OperatingSystem {
    process: ProcessSource,
}

#[derive(Debug)]
enum ProcessSource {
    #[cfg(target_os = "linux")]
    Linux(linux::Linux),
    Portable(Box<portable::Portable>),
}

impl OperatingSystem {
    /// Opens the sources of this process; `root` is `/` but for tests.
    ///
    /// Where `/proc` cannot be read the portable source stands in. The sources are those of the process that
    /// opened them: after a fork the child opens its own.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        Self { process: ProcessSource::open(root) }
    }

    /// Reads everything there is; each fact that cannot be read is `None`.
    pub fn read(&mut self) -> (Option<Usage>, Process) {
        match &mut self.process {
            #[cfg(target_os = "linux")]
            ProcessSource::Linux(linux) => (rusage::read(), linux.read()),
            ProcessSource::Portable(portable) => {
                let (usage, process) = portable.read();
                #[cfg(unix)]
                let usage = rusage::read().or(usage);
                (usage, process)
            }
        }
    }
}

impl ProcessSource {
    #[cfg(target_os = "linux")]
    fn open(root: &Path) -> Self {
        linux::Linux::open(root).map_or_else(|_| Self::portable(), Self::Linux)
    }

    #[cfg(not(target_os = "linux"))]
    fn open(_root: &Path) -> Self {
        Self::portable()
    }

    fn portable() -> Self {
        Self::Portable(Box::default())
    }
}
