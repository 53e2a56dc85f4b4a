//! Files that `/proc/self/task` has of each thread.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::snapshot::ThreadTimes;

/// Gives the id of each thread below `root`, which is `/` except in tests, and what it has in the file of this name.
///
/// `None` if there are too many threads, or if the file of one cannot be read. A thread that ends is left out.
pub fn read_each(
    root: &Path,
    name: &str,
    read: fn(&Path) -> io::Result<String>,
    mut take: impl FnMut(u32, &str),
) -> Option<()> {
    let tasks = root.join("proc/self/task");
    // The link count includes `.` and `..`.
    if fs::metadata(&tasks).ok()?.nlink() > ThreadTimes::MAX + 2 {
        return None;
    }
    // Some file systems do not count subdirectories as links.
    let mut entries: u64 = 0;
    for task in fs::read_dir(&tasks).ok()? {
        entries += 1;
        if entries > ThreadTimes::MAX {
            return None;
        }
        let task = task.ok()?;
        let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match read(&task.path().join(name)) {
            Ok(text) => take(id, &text),
            Err(error) if has_ended(&error) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

/// Whether a thread's file is missing because the thread has ended.
pub fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}
