//! Memory and threads from `/proc/self`, in two system calls that cost the same at any size of the process.
//!
//! CPU and context switches come from [`super::rusage`], the interpreter's facts from the interpreter.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};

use crate::descriptor::Guarded;
use crate::snapshot::Process;

/// The directory entries `.` and `..`, which a link count includes.
const NOT_THREADS: u64 = 2;

/// `/proc/self` of the process that opened it.
#[derive(Debug)]
pub struct Linux {
    /// Kept open: opening costs ten times what reading does. After a fork it still shows the parent.
    statm: Guarded<File>,
    statm_path: PathBuf,
    tasks: PathBuf,
    page_size: u64,
}

impl Linux {
    /// Opens `proc/self` below `root`.
    ///
    /// # Errors
    ///
    /// If `statm` cannot be opened, as where `/proc` is not mounted or filtered.
    pub fn open(root: &Path) -> io::Result<Self> {
        let process = root.join("proc/self");
        let page_size = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| size.try_into().ok());
        let statm_path = process.join("statm");
        Ok(Self {
            statm: Guarded::new(File::open(&statm_path)?)?,
            statm_path,
            tasks: process.join("task"),
            page_size: page_size.ok_or(io::ErrorKind::Unsupported)?,
        })
    }

    /// Reads resident memory and the number of threads.
    #[must_use]
    pub fn read(&mut self) -> Process {
        let resident = self.resident().or_else(|| {
            self.reopen();
            self.resident()
        });
        Process { resident, threads: self.threads() }
    }

    /// Programs that turn into daemons close every descriptor.
    fn reopen(&mut self) {
        if let Ok(statm) = File::open(&self.statm_path).and_then(Guarded::new) {
            self.statm = statm;
        }
    }

    /// Field 2 of `statm`, in pages.
    fn resident(&self) -> Option<u64> {
        let mut buffer = [0; 256];
        let length = self.statm.read_at(&mut buffer, 0).ok()?;
        let pages: u64 = str::from_utf8(&buffer[..length]).ok()?.split(' ').nth(1)?.parse().ok()?;
        pages.checked_mul(self.page_size)
    }

    /// Each thread is a directory, so the link count tells their number without a walk.
    fn threads(&self) -> Option<u64> {
        let links = fs::metadata(&self.tasks).ok()?.nlink();
        links.checked_sub(NOT_THREADS).filter(|threads| *threads > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(statm: &str) -> (tempfile::TempDir, Linux) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self/task/7")).unwrap();
        fs::create_dir_all(root.path().join("proc/self/task/8")).unwrap();
        fs::write(root.path().join("proc/self/statm"), statm).unwrap();
        let linux = Linux::open(root.path()).unwrap();
        (root, linux)
    }

    #[test]
    fn resident_memory_is_the_second_field_in_pages() {
        let (_root, mut linux) = process("5000 300 200 1 0 90 0\n");
        assert_eq!(linux.read().resident, Some(300 * linux.page_size));
    }

    #[test]
    fn a_descriptor_that_has_become_another_file_is_opened_again() {
        let (root, mut linux) = process("1 300 1");
        fs::write(root.path().join("other"), "not ours").unwrap();
        linux.statm = Guarded::new(File::open(root.path().join("other")).unwrap()).unwrap();
        assert_eq!(linux.read().resident, Some(300 * linux.page_size));
    }

    #[test]
    fn a_statm_that_makes_no_sense_is_unknown() {
        for statm in ["", "5000", "5000 -3 1", "5000 many 1", "1 18446744073709551615 1", "\0\0\0 \0"] {
            let (_root, mut linux) = process(statm);
            assert_eq!(linux.read().resident, None, "{statm:?}");
        }
    }

    #[test]
    fn threads_are_the_directories_below_task() {
        let (root, mut linux) = process("1 1");
        let links = fs::metadata(root.path().join("proc/self/task")).unwrap().nlink();
        // Some file systems do not count subdirectories as links; there the number must be unknown.
        assert_eq!(linux.read().threads, (links > 2).then_some(links - 2));
        fs::remove_dir_all(root.path().join("proc/self/task")).unwrap();
        assert_eq!(linux.read().threads, None);
    }

    #[test]
    fn without_statm_it_does_not_open() {
        let root = tempfile::tempdir().unwrap();
        assert!(Linux::open(root.path()).is_err());
    }
}
