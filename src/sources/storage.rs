//! What the process has read from storage and written to it, from `/proc/self/io`.

use std::path::Path;

use super::kernel_file;
use crate::snapshot::Storage;

/// Reads it below `root`, which is `/` except in tests; `None` where the kernel does not count it or hides it.
#[must_use]
pub fn read(root: &Path) -> Option<Storage> {
    let text = kernel_file::read(&root.join("proc/self/io")).ok()?;
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value?.trim().parse().ok()
    };
    Some(Storage { read: value("read_bytes")?, written: value("write_bytes")? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn storage(io: &str) -> Option<Storage> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/io"), io).unwrap();
        read(root.path())
    }

    #[test]
    fn what_goes_to_the_page_cache_alone_does_not_count() {
        let io = "rchar: 900\nwchar: 800\nsyscr: 7\nsyscw: 6\nread_bytes: 4096\nwrite_bytes: 8192\n\
                  cancelled_write_bytes: 1\n";
        assert_eq!(storage(io), Some(Storage { read: 4096, written: 8192 }));
    }

    #[test]
    fn what_is_not_listed_or_malformed_is_unknown() {
        assert_eq!(storage("rchar: 900\nwchar: 800\n"), None);
        assert_eq!(storage("read_bytes: 1\nwrite_bytes: -2\n"), None);
        assert_eq!(read(Path::new("/nowhere")), None);
    }
}
