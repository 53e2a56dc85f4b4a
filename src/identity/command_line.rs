//! The program that a Python command line starts.

use std::path::Path;

/// The program that a Python command line starts.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// What names it.
    pub kind: Kind,
    /// The path of its file, the module's name, or the code.
    pub text: &'a str,
    /// Its arguments.
    pub arguments: &'a [String],
}

/// What names a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file that Python runs, or an executable that contains Python and the program.
    File,
    /// What follows `-m`.
    Module,
    /// What follows `-c`.
    Code,
}

/// A process that multiprocessing, or a library that has copied it (billiard, loky, multiprocess), has started by a
/// command line of its own. The program that it belongs to is that of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spawned {
    /// It runs a part of the program.
    Worker,
    /// It serves the others and runs no part of the program: a fork server, whose children do, or a tracker.
    Helper,
}

impl<'a> Program<'a> {
    /// The program of an interpreter's command line; `None` for standard input and the prompt.
    #[must_use]
    pub fn of(command: &'a [String]) -> Option<Self> {
        let mut words = command.iter().enumerate().skip(1).map(|(at, word)| (at, word.as_str()));
        let program = |kind, at: usize, text| Some(Self { kind, text, arguments: &command[at + 1..] });
        while let Some((at, word)) = words.next() {
            let Some(options) = word.strip_prefix('-') else {
                return program(Kind::File, at, word);
            };
            if options.starts_with('-') {
                // Of the long options only this one has its value in the next argument.
                if options == "-check-hash-based-pycs" {
                    words.next();
                }
                continue;
            }
            // Short options may be written together; the first that takes a value ends them.
            match options.find(['c', 'm', 'W', 'X']).map(|at| options.split_at(at)) {
                None if options.is_empty() => return None,
                None => {}
                Some((_, rest)) => {
                    let (letter, value) = rest.split_at(1);
                    let value = if value.is_empty() { words.next() } else { Some((at, value)) };
                    match letter {
                        "c" => return value.and_then(|(at, code)| program(Kind::Code, at, code)),
                        "m" => return value.and_then(|(at, module)| program(Kind::Module, at, module)),
                        _ => {}
                    }
                }
            }
        }
        None
    }

    /// The program that an executable contains, whose command line holds nothing for the interpreter.
    #[must_use]
    pub fn frozen(executable: &'a str, command: &'a [String]) -> Self {
        Self { kind: Kind::File, text: executable, arguments: command.get(1..).unwrap_or_default() }
    }

    /// The module's name, or the file's without its suffix; `None` if it has none.
    #[must_use]
    pub fn name(self) -> Option<String> {
        match self.kind {
            Kind::File => file_name(self.text),
            Kind::Module => Some(self.text.to_owned()),
            Kind::Code => None,
        }
    }

    /// Whether it is a PEX file, unpacked: the file that it came from is `sys.argv[0]`, once it runs.
    #[must_use]
    pub fn is_unpacked_pex(self) -> bool {
        let mut folders = Path::new(self.text).iter();
        self.kind == Kind::File
            && (folders.any(|folder| folder == "unzipped_pexes")
                || (self.text.ends_with("/pex") && self.text.contains("/venvs/")))
    }
}

impl Spawned {
    /// What this command line starts, if it is that of such a process.
    #[must_use]
    pub fn of(command: &[String]) -> Option<Self> {
        let program = Program::of(command)?;
        let last = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
        match program.kind {
            Kind::File => None,
            Kind::Module => (last(program.text) == "popen_loky_posix").then_some(Self::Worker),
            Kind::Code => program.text.split(';').find_map(|statement| {
                let words: Vec<&str> = statement.split_whitespace().collect();
                let ["from", module, "import", function] = words[..] else { return None };
                match (last(module).as_str(), function) {
                    ("spawn", "spawn_main") | ("popen_loky_win32", "main") => Some(Self::Worker),
                    ("forkserver" | "resource_tracker" | "semaphore_tracker", "main") => Some(Self::Helper),
                    _ => None,
                }
            }),
        }
    }
}

/// The file's name without the suffix of a Python file or archive, or of a program of Windows; for a `__main__.py`,
/// that of its folder.
pub(super) fn file_name(path: &str) -> Option<String> {
    let path = Path::new(path);
    let name = path.file_name()?.to_str()?;
    let suffixes = [".py", ".pyw", ".pyc", ".pyz", ".pex", ".shiv", ".exe"];
    match suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name) {
        "__main__" => Some(path.parent()?.file_name()?.to_str()?.to_owned()),
        stem => Some(stem.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &[&str]) -> Vec<String> {
        command.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_program_has_the_arguments_that_follow_it() {
        for command in [
            &["python", "app.py", "-x", "y"][..],
            &["python", "-X", "dev", "-m", "app", "-x", "y"],
            &["python", "-Bmapp", "-x", "y"],
            &["python", "-c", "import app", "-x", "y"],
        ] {
            let command = words(command);
            assert_eq!(Program::of(&command).unwrap().arguments, ["-x", "y"], "{command:?}");
        }
        assert!(Program::of(&words(&["python", "-m"])).is_none());
        assert!(Program::frozen("/opt/convert", &[]).arguments.is_empty());
    }

    #[test]
    fn a_file_is_named_without_its_suffix() {
        for (file, name) in [
            ("app.py", "app"),
            ("bin/celery", "celery"),
            ("Scripts/celery.exe", "celery"),
            ("shop/__main__.py", "shop"),
            ("convert.exe/__main__.py", "convert.exe"),
        ] {
            assert_eq!(file_name(file).as_deref(), Some(name), "{file}");
        }
    }

    #[test]
    fn spawned_processes_are_known_by_the_shape_of_their_command_lines() {
        let code = |code: &str| Spawned::of(&words(&["python", "-B", "-c", code, "--multiprocessing-fork"]));
        for package in ["multiprocessing", "billiard", "multiprocess", "vendored.multiprocessing"] {
            let worker =
                format!("from {package}.spawn import spawn_main; spawn_main(tracker_fd=4, pipe_handle=6)");
            assert_eq!(code(&worker), Some(Spawned::Worker), "{package}");
            let server = format!("from {package}.forkserver import main; main(3, 5, ['__main__'], **{{}})");
            assert_eq!(code(&server), Some(Spawned::Helper), "{package}");
            let tracker = format!("from {package}.resource_tracker import main;main(5)");
            assert_eq!(code(&tracker), Some(Spawned::Helper), "{package}");
        }
        // As later releases of CPython write it.
        let server = "import sys; from multiprocessing.forkserver import main; main(3, 5, [])";
        assert_eq!(code(server), Some(Spawned::Helper));
        for module in ["joblib.externals.loky.backend.popen_loky_posix", "loky.backend.popen_loky_posix"] {
            let command = words(&["python", "-m", module, "--process-name", "LokyProcess-1", "--pipe", "17"]);
            assert_eq!(Spawned::of(&command), Some(Spawned::Worker), "{module}");
        }
        for code_of_others in ["import app", "from app.spawn import main; main()", "print('forkserver')"] {
            assert_eq!(code(code_of_others), None, "{code_of_others}");
        }
        assert_eq!(Spawned::of(&words(&["python", "spawn.py"])), None);
    }

    #[test]
    fn an_unpacked_pex_is_known_by_its_folder() {
        for (path, is_pex) in [
            ("/root/.cache/pex/unzipped_pexes/4/b80f5142c088", true),
            ("/root/.cache/pex/unzipped_pexes/4/b80f5142c088/__main__.py", true),
            ("/root/.cache/pex/venvs/4/f23f32f6a4a4/5f1d2eed6c45/pex", true),
            ("/srv/shop.pex", false),
            ("/srv/pex", false),
        ] {
            let command = words(&["python", path]);
            assert_eq!(Program::of(&command).unwrap().is_unpacked_pex(), is_pex, "{path}");
        }
    }
}
