//! The command lines of the processes that this one descends from: from `/proc` on Linux, from sysinfo elsewhere.

#[cfg(target_os = "linux")]
use std::fs::File;
#[cfg(target_os = "linux")]
use std::io::Read;
use std::path::Path;

/// How far back to look.
const MAX_GENERATIONS: usize = 16;

/// The most that is read of a command line.
#[cfg(target_os = "linux")]
const MAX_LENGTH: u64 = 65536;

/// The command line of the nearest ancestor that is not to be skipped; `root` is `/` except in tests.
pub fn command_of_ancestor(root: &Path, is_skipped: impl Fn(&[String]) -> bool) -> Option<Vec<String>> {
    commands(root).take(MAX_GENERATIONS).find(|command| !is_skipped(command))
}

/// The nearest first.
#[cfg(target_os = "linux")]
fn commands(root: &Path) -> impl Iterator<Item = Vec<String>> {
    let mut folder = root.join("proc/self");
    std::iter::from_fn(move || {
        folder = root.join("proc").join(parent(&read(&folder.join("stat"))?)?);
        let command = read(&folder.join("cmdline"))?;
        Some(command.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
    })
}

#[cfg(not(target_os = "linux"))]
fn commands(_root: &Path) -> impl Iterator<Item = Vec<String>> {
    super::portable::Processes::open().commands_of_ancestors()
}

/// The parent in a process's `stat`. The name before it may contain anything.
#[cfg(target_os = "linux")]
fn parent(stat: &str) -> Option<&str> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)
}

#[cfg(target_os = "linux")]
fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_LENGTH).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    /// A tree in which `self` descends from 3, that from 2, and that from 1.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (process, name, parent, command) in [
            ("self", "python", 3, &["python", "-c", "worker"][..]),
            ("3", "a) (b", 2, &["python", "-c", "server"]),
            ("2", "python", 1, &["python", "app.py", ""]),
            ("1", "init", 0, &["init"]),
        ] {
            let folder = root.path().join("proc").join(process);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("stat"), format!("7 ({name}) S {parent} 7 7 0 -1 0")).unwrap();
            fs::write(folder.join("cmdline"), command.join("\0") + "\0").unwrap();
        }
        root
    }

    #[test]
    fn the_nearest_ancestor_that_is_not_skipped_is_found() {
        let root = tree();
        let skipping = |words: &[&str]| {
            let is_skipped =
                |command: &[String]| words.iter().any(|word| command.contains(&(*word).to_owned()));
            command_of_ancestor(root.path(), is_skipped).unwrap_or_default().join(" ")
        };
        assert_eq!(skipping(&[]), "python -c server");
        assert_eq!(skipping(&["server"]), "python app.py");
        assert_eq!(skipping(&["python"]), "init");
        assert_eq!(skipping(&["python", "init"]), "", "there is no process 0");
    }

    #[test]
    fn where_nothing_can_be_read_there_is_no_ancestor() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(command_of_ancestor(root.path(), |_| false), None);
    }

    #[test]
    fn this_process_has_the_ancestors_that_sysinfo_knows() {
        let theirs = super::super::portable::Processes::open().commands_of_ancestors();
        let program = |command: Vec<String>| command.into_iter().next();
        let ours: Vec<_> = commands(Path::new("/")).map(program).collect();
        assert!(ours[0].as_ref().is_some_and(|program| !program.is_empty()));
        assert_eq!(ours, theirs.map(program).collect::<Vec<_>>());
    }
}
