//! How long the process has been running, from field 22 of `/proc/self/stat`.

use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::kernel_file;
use crate::clock;

/// The field after the command's name that holds the start, counted from zero.
const START: usize = 19;

/// When a process started, which is read once.
#[derive(Debug, Default)]
pub struct Uptime {
    /// Since boot.
    started: Option<Duration>,
}

impl Uptime {
    /// Time since this process started, or was forked, exact to 10 ms; below `root`, which is `/` except in tests. Time
    /// in which the machine was suspended is included.
    #[must_use]
    pub fn read(&mut self, root: &Path) -> Option<Duration> {
        self.started = self.started.or_else(|| started(root));
        clock::since_boot()?.checked_sub(self.started?)
    }
}

/// When it started, since boot.
fn started(root: &Path) -> Option<Duration> {
    let stat = kernel_file::read(&root.join("proc/self/stat")).ok()?;
    // The name is in parentheses, and may contain some.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(START)?.parse().ok()?;
    let ticks_per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    Some(Duration::from_millis(ticks.checked_mul(1000)?.checked_div(ticks_per_second)?))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        assert_eq!(Uptime::default().read(root.path()), None);
        assert_eq!(Uptime::default().read(Path::new("/nowhere")), None);
    }

    #[test]
    fn this_process_has_started_a_moment_ago() {
        let mut uptime = Uptime::default();
        let first = uptime.read(Path::new("/")).unwrap();
        assert!(first < Duration::from_mins(10));
        // It is not looked for again.
        while uptime.read(Path::new("/nowhere")).unwrap() == first {}
    }
}
