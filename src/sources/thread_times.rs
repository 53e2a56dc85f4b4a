//! What each thread has used of the CPUs, and how long it had to wait for one, from `/proc/self/task/*/schedstat`.
//!
//! A thread that has run costs some 6 µs, so many threads are not looked at.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::kernel_file;
use super::thread_files::has_ended;
use crate::clock;
use crate::snapshot::ThreadTimes;

/// The threads of a process, as they were read last.
#[derive(Debug, Default)]
pub struct Threads {
    last: Vec<ThreadTimes>,
}

impl Threads {
    /// Reads them below `root`, which is `/` except in tests; `None` if there are too many threads, or if the kernel
    /// keeps no such statistics.
    #[must_use]
    pub fn read(&mut self, root: &Path) -> Option<Vec<ThreadTimes>> {
        let tasks = root.join("proc/self/task");
        // The link count includes `.` and `..`.
        if fs::metadata(&tasks).ok()?.nlink() > ThreadTimes::MAX + 2 {
            return None;
        }
        let mut times = Vec::with_capacity(self.last.len() + 2);
        for entry in fs::read_dir(&tasks).ok()? {
            let entry = entry.ok()?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(unchanged) = self.unchanged(id) {
                times.push(unchanged);
                continue;
            }
            match kernel_file::read(&entry.path().join("schedstat")) {
                Ok(text) => times.push(parse(id, &text)?),
                Err(error) if has_ended(&error) => {}
                // Left out, a thread would count as a new one the next time.
                Err(_) => return None,
            }
        }
        times.sort_unstable_by_key(|thread| thread.id);
        self.last.clone_from(&times);
        // The reader itself has used some: the kernel writes zeros where it keeps no statistics.
        times.iter().any(|thread| !thread.cpu.is_zero()).then_some(times)
    }

    /// What was read of a thread, if that has not run since: then it has not waited either, as the kernel counts a wait
    /// when it ends, or when the thread is moved to another CPU. Its clock costs a tenth of the file.
    fn unchanged(&self, id: u32) -> Option<ThreadTimes> {
        let at = self.last.binary_search_by_key(&id, |thread| thread.id).ok()?;
        let thread = self.last[at];
        (clock::cpu_of_thread_by_id(id)? == thread.cpu).then_some(thread)
    }
}

/// What one thread has used and waited for; `None` if there is no such thread, or if the kernel keeps no such
/// statistics.
#[must_use]
pub fn read(root: &Path, id: u32) -> Option<ThreadTimes> {
    parse(id, &kernel_file::read(&root.join(format!("proc/self/task/{id}/schedstat"))).ok()?)
}

/// Time on a CPU, time in a run queue, and how often it ran; the times are in nanoseconds.
fn parse(id: u32, text: &str) -> Option<ThreadTimes> {
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse().map(Duration::from_nanos).ok());
    Some(ThreadTimes { id, cpu: fields.next()??, delay: fields.next()?? })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn read(root: &Path) -> Option<Vec<ThreadTimes>> {
        Threads::default().read(root)
    }

    fn threads(schedstats: &[(&str, &str)]) -> Option<Vec<ThreadTimes>> {
        let root = tempfile::tempdir().unwrap();
        let tasks = root.path().join("proc/self/task");
        fs::create_dir_all(&tasks).unwrap();
        for (id, text) in schedstats {
            fs::create_dir(tasks.join(id)).unwrap();
            fs::write(tasks.join(id).join("schedstat"), text).unwrap();
        }
        read(root.path())
    }

    #[test]
    fn threads_come_in_order_with_their_times() {
        let expected = [(9, 70, 5), (10, 3_000_000_000, 2)].map(|(id, cpu, delay)| ThreadTimes {
            id,
            cpu: Duration::from_nanos(cpu),
            delay: Duration::from_nanos(delay),
        });
        let schedstats = [("10", "3000000000 2 1\n"), ("9", "70 5 4\n")];
        assert_eq!(threads(&schedstats), Some(expected.to_vec()));
    }

    #[test]
    fn a_kernel_without_statistics_is_unknown() {
        assert_eq!(threads(&[("9", "")]), None);
        assert_eq!(threads(&[("9", "70 5 4\n"), ("10", "70 x 4\n")]), None);
        assert_eq!(threads(&[("9", "0 0 0\n"), ("10", "0 0 0\n")]), None);
        assert_eq!(threads(&[]), None);
        assert_eq!(read(Path::new("/nowhere")), None);
    }

    #[test]
    fn a_thread_that_has_ended_meanwhile_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let tasks = root.path().join("proc/self/task");
        fs::create_dir_all(tasks.join("9")).unwrap();
        fs::create_dir_all(tasks.join("10")).unwrap();
        fs::write(tasks.join("9/schedstat"), "70 5 4\n").unwrap();
        assert_eq!(read(root.path()).map(|threads| threads.len()), Some(1));
    }

    #[test]
    fn a_thread_that_cannot_be_read_makes_all_unknown() {
        let root = tempfile::tempdir().unwrap();
        let tasks = root.path().join("proc/self/task");
        fs::create_dir_all(tasks.join("9")).unwrap();
        fs::create_dir_all(tasks.join("10/schedstat")).unwrap();
        fs::write(tasks.join("9/schedstat"), "70 5 4\n").unwrap();
        assert_eq!(read(root.path()), None);
    }

    #[test]
    fn too_many_threads_are_not_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let tasks = root.path().join("proc/self/task");
        for id in 1..=257 {
            fs::create_dir_all(tasks.join(id.to_string())).unwrap();
            fs::write(tasks.join(id.to_string()).join("schedstat"), "70 5 4\n").unwrap();
        }
        // Some file systems do not count subdirectories as links.
        let is_counted = fs::metadata(&tasks).unwrap().nlink() == 259;
        assert_eq!(read(root.path()).is_none(), is_counted);
        fs::remove_dir_all(tasks.join("257")).unwrap();
        assert_eq!(read(root.path()).map(|threads| threads.len()), Some(256));
    }

    #[test]
    fn the_kernel_counts_the_threads_of_this_process() {
        let own = nix::unistd::gettid().as_raw().unsigned_abs();
        let mut threads = Threads::default();
        let mut cpu = || {
            let threads = threads.read(Path::new("/")).expect("Linux keeps the statistics");
            threads.iter().find(|thread| thread.id == own).expect("this thread").cpu
        };
        let before = cpu();
        while cpu() < before + Duration::from_millis(20) {}
    }

    #[test]
    fn a_thread_that_has_not_run_is_not_read_again() {
        let (ids, received) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            ids.send(nix::unistd::gettid().as_raw().unsigned_abs()).unwrap();
            assert!(ended.recv().is_err());
        });
        let id = received.recv().unwrap();
        let file = format!("/proc/self/task/{id}/schedstat");
        let in_file = || parse(id, &fs::read_to_string(&file).unwrap()).unwrap();
        let mut threads = Threads::default();
        // It may not sleep yet.
        while threads.unchanged(id).is_none() {
            let _ = threads.read(Path::new("/"));
        }
        let unchanged = threads.unchanged(id);
        assert_eq!(unchanged, Some(in_file()));
        let own = nix::unistd::gettid().as_raw().unsigned_abs();
        assert_eq!(threads.unchanged(own), None, "this thread runs");
        drop(end);
        sleeper.join().unwrap();
        assert_eq!(threads.unchanged(id), None, "it has ended");
    }
}
