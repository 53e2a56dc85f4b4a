//! Open file descriptors, and how many there may be.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

/// How many descriptors are open, below `root`, which is `/` except in tests; `None` where they are hidden.
///
/// From Linux 6.2 on the directory's size is their number; before, they are listed, which takes 0.35 ms for a thousand.
#[must_use]
pub fn count(root: &Path) -> Option<u64> {
    let directory = root.join("proc/self/fd");
    match fs::metadata(&directory).ok()?.len() {
        0 => {
            let listed = fs::read_dir(&directory).ok()?.filter_map(Result::ok).count();
            // One of them is the one that lists.
            (listed as u64).checked_sub(1)
        }
        count => Some(count),
    }
}

/// The soft limit on the number of descriptors; `None` without one.
#[must_use]
pub fn max() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft != nix::libc::RLIM_INFINITY).then_some(soft)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn descriptors_that_are_opened_are_counted() {
        // Other tests open and close some meanwhile, but not so many.
        let before = count(Path::new("/")).unwrap();
        let opened: Vec<_> = (0..200).map(|_| File::open("/proc/self/stat").unwrap()).collect();
        let after = count(Path::new("/")).unwrap();
        assert!((150..250).contains(&(after - before)), "{before} {after}");
        drop(opened);
        assert_eq!(count(Path::new("/nowhere")), None);
    }

    #[test]
    fn the_limit_is_the_soft_one() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(max(), Some(soft));
    }
}
