//! Memory and threads from `/proc/self`, in two system calls that cost the same at any size of the process; and what is
//! read by path, where a row beyond the default level needs it.
//!
//! CPU and context switches come from [`super::rusage`], the interpreter's facts from the interpreter.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::stat;
use nix::unistd::{SysconfVar, sysconf};

use super::cgroup::Cgroups;
use super::thread_times::Threads;
use super::uptime::Uptime;
use super::{children, descriptors, mapped_allocator, memory_parts, rusage, storage, thread_states};
use crate::descriptor::{ClosedStreams, Guarded};
use crate::snapshot::{CgroupFacts, MemoryParts, ProcessFacts, Source, SourceSet};

/// The sources of files that are opened for each reading.
const READ_BY_PATH: [Source; 13] = [
    Source::MemoryParts,
    Source::LimitApproach,
    Source::Descriptors,
    Source::Children,
    Source::Storage,
    Source::Uptime,
    Source::ThreadTimes,
    Source::ThreadStates,
    Source::Growth,
    Source::Cgroup,
    Source::CgroupTasks,
    Source::Pressure,
    Source::Description,
];

/// The sources that are read of control groups.
const OF_CGROUPS: [Source; 3] = [Source::Cgroup, Source::CgroupTasks, Source::Pressure];

/// The sources that need the parts of the process's memory.
const NEED_MEMORY_PARTS: [Source; 3] = [Source::MemoryParts, Source::LimitApproach, Source::Growth];

/// The sources that need the number of open descriptors.
const NEED_DESCRIPTORS: [Source; 2] = [Source::Descriptors, Source::AcceptQueue];

/// The entries `.` and `..` of a directory, which its link count includes.
const LINKS_BESIDE_ENTRIES: u64 = 2;

/// `/proc/self` of the process that opened it.
#[derive(Debug)]
pub struct Linux {
    /// Kept open: opening costs ten times what reading does. After a fork it still shows the parent.
    statm: Option<Guarded<File>>,
    statm_path: PathBuf,
    tasks: PathBuf,
    root: PathBuf,
    page_size: Option<u64>,
    uptime: Uptime,
    thread_times: Threads,
    cgroups: Cgroups,
}

impl Linux {
    /// Opens `proc/self` below `root`. Where it is not mounted, or filtered, what cannot be read is unknown.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        let process = root.join("proc/self");
        let page_size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let mut linux = Self {
            statm: None,
            statm_path: process.join("statm"),
            tasks: process.join("task"),
            root: root.to_owned(),
            page_size: page_size.and_then(|size| size.try_into().ok()),
            uptime: Uptime::default(),
            thread_times: Threads::default(),
            cgroups: Cgroups::default(),
        };
        linux.reopen();
        linux
    }

    /// Reads what is needed of the process at `now`.
    #[must_use]
    pub fn read(&mut self, now: Duration, needed: SourceSet) -> ProcessFacts {
        let is_needed = |source| needed.contains(source);
        // Before others are opened here.
        let needs_descriptors = needed.contains_any(&NEED_DESCRIPTORS);
        let descriptors = needs_descriptors.then(|| descriptors::count(&self.root)).flatten();
        let _closed_streams = needed.contains_any(&READ_BY_PATH).then(ClosedStreams::take);
        ProcessFacts {
            resident: is_needed(Source::Memory).then(|| self.resident()).flatten(),
            threads: is_needed(Source::Threads).then(|| self.threads()).flatten(),
            memory: if needed.contains_any(&NEED_MEMORY_PARTS) {
                memory_parts::read(&self.root)
            } else {
                MemoryParts::default()
            },
            descriptors,
            max_descriptors: is_needed(Source::Descriptors).then(descriptors::max).flatten(),
            children: is_needed(Source::Children).then(|| children::count(&self.root)).flatten(),
            children_cpu: is_needed(Source::EndedChildren).then(rusage::cpu_of_children).flatten(),
            storage: is_needed(Source::Storage).then(|| storage::read(&self.root)).flatten(),
            uptime: is_needed(Source::Uptime).then(|| self.uptime.read(&self.root)).flatten(),
            thread_times: is_needed(Source::ThreadTimes)
                .then(|| self.thread_times.read(&self.root))
                .flatten(),
            thread_states: is_needed(Source::ThreadStates).then(|| thread_states::read(&self.root)).flatten(),
            cgroup: if needed.contains_any(&OF_CGROUPS) {
                self.cgroups.read(now, &self.root, needed)
            } else {
                CgroupFacts::default()
            },
            allocator: is_needed(Source::Description).then(|| mapped_allocator::read(&self.root)).flatten(),
        }
    }

    /// A file that is not open is opened once a call: programs that turn into daemons close every descriptor, and
    /// others had none left before.
    fn resident(&mut self) -> Option<u64> {
        self.read_resident(|statm, buffer| statm.read_at(buffer, 0)).or_else(|| {
            self.reopen();
            // Some sandboxes do not permit pread.
            self.read_resident(|mut statm, buffer| statm.read(buffer))
        })
    }

    fn reopen(&mut self) {
        // The old one first: where its number has been closed the new one gets it, and is the same file.
        self.statm = None;
        self.statm = Guarded::open(|| File::open(&self.statm_path)).ok();
    }

    /// Field 2 of `statm`, in pages.
    fn read_resident(&self, read: impl FnOnce(&File, &mut [u8]) -> io::Result<usize>) -> Option<u64> {
        let mut buffer = [0; 256];
        let length = read(self.statm.as_ref()?, &mut buffer).ok()?;
        let pages: u64 = str::from_utf8(&buffer[..length]).ok()?.split(' ').nth(1)?.parse().ok()?;
        pages.checked_mul(self.page_size?)
    }

    /// Each thread is a directory, so the link count is their number without a walk.
    fn threads(&self) -> Option<u64> {
        let links = fs::metadata(&self.tasks).map(|tasks| tasks.nlink());
        // A sandbox that came after the start may permit stat, but not statx.
        #[allow(clippy::useless_conversion, reason = "On other processors its type is shorter.")]
        let links = links.or_else(|_| stat(&self.tasks).map(|tasks| tasks.st_nlink.into())).ok()?;
        links.checked_sub(LINKS_BESIDE_ENTRIES).filter(|threads| *threads > 0)
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
        let linux = Linux::open(root.path());
        (root, linux)
    }

    fn read(linux: &mut Linux) -> ProcessFacts {
        linux.read(Duration::ZERO, [Source::Memory, Source::Threads].into_iter().collect())
    }

    #[test]
    fn resident_memory_is_the_second_field_in_pages() {
        let (_root, mut linux) = process("5000 300 200 1 0 90 0\n");
        assert_eq!(read(&mut linux).resident, Some(300 * linux.page_size.unwrap()));
    }

    #[test]
    fn a_reused_descriptor_number_is_opened_again() {
        let (root, mut linux) = process("1 300 1");
        fs::write(root.path().join("other"), "not ours").unwrap();
        linux.statm = Some(Guarded::open(|| File::open(root.path().join("other"))).unwrap());
        assert_eq!(read(&mut linux).resident, Some(300 * linux.page_size.unwrap()));
    }

    #[test]
    fn a_malformed_statm_is_unknown() {
        for statm in ["", "5000", "5000 -3 1", "5000 many 1", "1 18446744073709551615 1", "\0\0\0 \0"] {
            let (_root, mut linux) = process(statm);
            assert_eq!(read(&mut linux).resident, None, "{statm:?}");
        }
    }

    #[test]
    fn threads_are_the_directories_below_task() {
        let (root, mut linux) = process("1 1");
        let links = fs::metadata(root.path().join("proc/self/task")).unwrap().nlink();
        // Some file systems do not count subdirectories as links; there the number must be unknown.
        assert_eq!(read(&mut linux).threads, (links > 2).then_some(links - 2));
        fs::remove_dir_all(root.path().join("proc/self/task")).unwrap();
        assert_eq!(read(&mut linux).threads, None);
    }

    #[test]
    fn a_filtered_statm_leaves_the_threads_and_may_appear_later() {
        let (root, mut linux) = process("1 300 1");
        let statm = root.path().join("proc/self/statm");
        fs::rename(&statm, root.path().join("hidden")).unwrap();
        linux.statm = None;
        let threads = read(&mut linux).threads;
        assert_eq!(read(&mut linux), ProcessFacts { threads, ..ProcessFacts::default() });
        fs::rename(root.path().join("hidden"), &statm).unwrap();
        assert_eq!(read(&mut linux).resident, Some(300 * linux.page_size.unwrap()));
    }

    #[test]
    fn without_proc_every_fact_is_unknown() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(&mut Linux::open(root.path())), ProcessFacts::default());
    }

    #[test]
    fn what_is_not_needed_is_not_read() {
        let (_root, mut linux) = process("1 300 1");
        assert_eq!(linux.read(Duration::ZERO, SourceSet::default()), ProcessFacts::default());
        assert!(linux.read(Duration::ZERO, [Source::Memory].into_iter().collect()).resident.is_some());
    }
}
