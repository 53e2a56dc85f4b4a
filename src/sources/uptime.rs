//! How long the process has been running, from field 22 of `/proc/self/stat`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::clock;

/// The field after the command's name that holds the start, counted from zero.
const START: usize = 19;

/// Time since the process started, or was forked, exact to 10 ms; below `root`, which is `/` except in tests. Time in
/// which the machine was suspended is included.
#[must_use]
pub fn read(root: &Path) -> Option<Duration> {
    clock::since_boot()?.checked_sub(started(root)?)
}

/// When it started, since boot.
fn started(root: &Path) -> Option<Duration> {
    let stat = fs::read_to_string(root.join("proc/self/stat")).ok()?;
    // The name is in parentheses, and may contain some.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(START)?.parse().ok()?;
    let ticks_per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    Some(Duration::from_millis(ticks.checked_mul(1000)?.checked_div(ticks_per_second)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_field_22_whatever_the_name_contains() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let fields = (3..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["python", "a) (b", ") ) 9 8 7"] {
            fs::write(root.path().join("proc/self/stat"), format!("12 ({name}) {fields}\n")).unwrap();
            let ticks_per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap().unsigned_abs();
            assert_eq!(
                started(root.path()),
                Some(Duration::from_millis(22 * 1000 / ticks_per_second)),
                "{name}"
            );
        }
        fs::write(root.path().join("proc/self/stat"), "12 (python) S 1\n").unwrap();
        assert_eq!(read(root.path()), None);
        assert_eq!(read(Path::new("/nowhere")), None);
    }

    #[test]
    fn this_process_has_started_a_moment_ago() {
        assert!(read(Path::new("/")).unwrap() < Duration::from_mins(10));
    }
}
