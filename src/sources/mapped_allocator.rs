//! The library that replaces the C library's allocator, from `/proc/self/maps`.
//!
//! Only `LD_PRELOAD` or linking brings one, so that it is there from the start: it is looked for once, as the file of a
//! large process takes milliseconds. A child process knows what its parent found.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The word of each, which is in the name of its file too.
const ALLOCATORS: [&str; 3] = ["jemalloc", "tcmalloc", "mimalloc"];

/// Nothing has looked for it yet.
const UNKNOWN: usize = usize::MAX;

/// The allocator that was found, by its place in the list; beyond it, none was.
static FOUND: AtomicUsize = AtomicUsize::new(UNKNOWN);

/// The allocator that this process has mapped.
pub fn read(root: &Path) -> Option<&'static str> {
    let mut found = FOUND.load(Relaxed);
    if found == UNKNOWN {
        let maps = fs::read(root.join("proc/self/maps")).unwrap_or_default();
        found = find(&String::from_utf8_lossy(&maps));
        FOUND.store(found, Relaxed);
    }
    ALLOCATORS.get(found).copied()
}

fn find(maps: &str) -> usize {
    let is_mapped = |allocator: &str| {
        let file = format!("/lib{allocator}");
        maps.lines().any(|line| line.contains(&file))
    };
    ALLOCATORS.iter().position(|allocator| is_mapped(allocator)).unwrap_or(ALLOCATORS.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_known_by_the_name_of_its_file() {
        let with = |file: &str| {
            let maps = format!(
                "55d0-55d1 r-xp 00000000 fd:01 7 /usr/bin/python3\n7f00-7f01 r-xp 0 fd:01 8 {file}\n"
            );
            ALLOCATORS.get(find(&maps)).copied()
        };
        assert_eq!(with("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"), Some("jemalloc"));
        assert_eq!(with("/usr/lib/libtcmalloc_minimal.so.4"), Some("tcmalloc"));
        assert_eq!(with("/opt/lib/libmimalloc.so.2.1"), Some("mimalloc"));
        assert_eq!(with("/usr/lib/libc.so.6"), None);
        assert_eq!(with("/home/jemalloc/app.so"), None);
    }
}
