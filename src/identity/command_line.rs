//! The program that a Python command line starts.

use std::path::Path;

/// The program that a Python command line starts.
#[derive(Clone, Copy)]
pub enum Program<'a> {
    /// A file.
    Script(&'a str),
    /// What follows `-m`.
    Module(&'a str),
}

impl<'a> Program<'a> {
    /// The script or `-m` module; `None` for `-c`, standard input and the prompt.
    #[must_use]
    pub fn of(command: &'a [String]) -> Option<Self> {
        let mut arguments = command.iter().skip(1).map(String::as_str);
        while let Some(argument) = arguments.next() {
            let Some(options) = argument.strip_prefix('-') else {
                return Some(Self::Script(argument));
            };
            if options.starts_with('-') {
                // Of the long options only this one has its value in the next argument.
                if options == "-check-hash-based-pycs" {
                    arguments.next();
                }
                continue;
            }
            // Short options may be written together; the first that takes a value ends them.
            match options.find(['c', 'm', 'W', 'X']).map(|at| options.split_at(at)) {
                None if options.is_empty() => return None,
                None => {}
                Some((_, rest)) => match (&rest[..1], &rest[1..]) {
                    ("c", _) => return None,
                    ("m", "") => return arguments.next().map(Self::Module),
                    ("m", module) => return Some(Self::Module(module)),
                    (_, "") => {
                        arguments.next();
                    }
                    _ => {}
                },
            }
        }
        None
    }

    /// The module's name, or the script's without its suffix; `None` if the path has none.
    #[must_use]
    pub fn name(self) -> Option<String> {
        match self {
            Self::Script(path) => script_name(path),
            Self::Module(name) => Some(name.to_owned()),
        }
    }
}

/// The file's name without the suffix of a Python file; for a `__main__.py`, that of its folder.
fn script_name(script: &str) -> Option<String> {
    let path = Path::new(script);
    let name = path.file_name()?.to_str()?;
    let stem = [".py", ".pyw", ".pyc", ".pyz"].iter().find_map(|suffix| name.strip_suffix(suffix));
    match stem.unwrap_or(name) {
        "__main__" => Some(path.parent()?.file_name()?.to_str()?.to_owned()),
        stem => Some(stem.to_owned()),
    }
}
