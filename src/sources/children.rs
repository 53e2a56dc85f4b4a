//! The child processes of this one, from `/proc/self/task/*/children`: each thread has those that it has started.
//!
//! A thread costs some 10 µs, so many threads are not looked at.

use std::fs;
use std::path::Path;

use super::thread_files;

/// Counts them below `root`, which is `/` except in tests: those that run, and those that have ended and were not
/// waited for. `None` if there are too many threads, or if the kernel does not list children.
#[must_use]
pub fn count(root: &Path) -> Option<u64> {
    let mut count = None;
    // It has a record for each child.
    thread_files::read_each(
        root,
        "children",
        |path| fs::read_to_string(path),
        |_, children| {
            *count.get_or_insert(0) += children.split_ascii_whitespace().count() as u64;
        },
    )?;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(threads: &[(&str, Option<&str>)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (id, children) in threads {
            let thread = root.path().join("proc/self/task").join(id);
            fs::create_dir_all(&thread).unwrap();
            if let Some(children) = children {
                fs::write(thread.join("children"), children).unwrap();
            }
        }
        count(root.path())
    }

    #[test]
    fn the_children_of_all_threads_count() {
        assert_eq!(counted(&[("9", Some("10 11 ")), ("12", Some("")), ("13", Some("14 "))]), Some(3));
        assert_eq!(counted(&[("9", Some(""))]), Some(0));
        assert_eq!(counted(&[("9", Some("10 ")), ("12", None)]), Some(1), "a thread has ended");
    }

    #[test]
    fn a_kernel_that_does_not_list_them_is_unknown() {
        assert_eq!(counted(&[("9", None)]), None);
        assert_eq!(count(Path::new("/nowhere")), None);
    }

    #[test]
    fn too_many_threads_are_not_looked_at() {
        let names: Vec<_> = (1..=257).map(|id| id.to_string()).collect();
        let threads: Vec<_> = names.iter().map(|name| (name.as_str(), Some("7 "))).collect();
        assert_eq!(counted(&threads), None);
        assert_eq!(counted(&threads[..256]), Some(256));
    }

    #[test]
    fn a_child_counts_until_it_was_waited_for() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let during = count(Path::new("/"));
        child.wait().unwrap();
        // Other tests may start some at the same time.
        assert!(during.is_none_or(|count| count >= 1));
    }
}
