//! What the threads of the process do, from `/proc/self/task/*/stat`.
//!
//! A thread costs some 10 µs, so many threads are not looked at.

use std::path::Path;

use nix::unistd::gettid;

use super::{kernel_file, thread_files};
use crate::snapshot::ThreadStates;

/// How the names of our own threads begin.
const OWN_NAMES: &str = "(rtm-";

/// Counts them below `root`, which is `/` except in tests, without our own, and without the thread that calls this,
/// which always runs. `None` if there are too many threads.
#[must_use]
pub fn read(root: &Path) -> Option<ThreadStates> {
    let (own, mut states) = (gettid().as_raw().unsigned_abs(), ThreadStates::default());
    thread_files::read_each(root, "stat", kernel_file::read, |id, stat| {
        // The name before it may have any character.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        match state {
            _ if id == own || stat.contains(OWN_NAMES) => {}
            Some('R') => states.running += 1,
            Some('S') => states.sleeping += 1,
            Some('D') => states.disk += 1,
            _ => {}
        }
    })?;
    Some(states)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn threads_are_counted_by_their_state_without_the_one_that_counts() {
        let root = tempfile::tempdir().unwrap();
        let own = gettid().to_string();
        let stats = [
            (own.as_str(), "7 (python) R 1"),
            ("2", "2 (a) D b) R 1 2"),
            ("3", "3 (c) S 1"),
            ("4", "4 (c) S 1"),
            ("5", "5 (D) D 1"),
            ("6", "6 (S) T 1"),
            ("8", "8 (rtm-reader) R 1"),
        ];
        for (id, stat) in stats {
            let thread = root.path().join("proc/self/task").join(id);
            fs::create_dir_all(&thread).unwrap();
            fs::write(thread.join("stat"), stat).unwrap();
        }
        assert_eq!(read(root.path()), Some(ThreadStates { running: 1, sleeping: 2, disk: 1 }));
        fs::remove_file(root.path().join("proc/self/task/5/stat")).unwrap();
        assert_eq!(read(root.path()).map(|states| states.disk), Some(0), "it has ended");
        fs::create_dir(root.path().join("proc/self/task/5/stat")).unwrap();
        assert_eq!(read(root.path()), None, "it cannot be read");
        assert_eq!(read(Path::new("/nowhere")), None);
    }

    #[test]
    fn too_many_threads_are_not_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let tasks = root.path().join("proc/self/task");
        // None of them is the one that counts.
        let ids = || (10_000_000..).map(|id: u32| id.to_string());
        for id in ids().take(257) {
            fs::create_dir_all(tasks.join(&id)).unwrap();
            fs::write(tasks.join(&id).join("stat"), "7 (a) S 1").unwrap();
        }
        assert_eq!(read(root.path()), None);
        fs::remove_dir_all(tasks.join(ids().next().unwrap())).unwrap();
        assert_eq!(read(root.path()).map(|states| states.sleeping), Some(256));
    }
}
