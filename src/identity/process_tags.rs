//! ddtrace's process tags: how the program was started.

use std::path::Path;

use super::command_line::{Kind, Program};
use super::tags::keyed;

/// The longest value, in characters.
const MAX_VALUE_LENGTH: usize = 100;

/// How the program was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entrypoint {
    /// The working directory.
    pub working_directory: String,
    /// The absolute path of the script or of the module's file; empty if there is none.
    pub file: String,
}

/// The tags in ddtrace's order. Without a script or module, only those of the working directory and the service are
/// known.
pub(super) fn process_tags(
    entrypoint: &Entrypoint,
    program: Option<Program<'_>>,
    service_is_given: bool,
    inferred_service: Option<&str>,
) -> Vec<String> {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = program.and_then(|program| match program.kind {
        Kind::File => Some(Path::new(program.text).file_stem()?.to_string_lossy().into_owned()),
        Kind::Module => Some(program.text.to_owned()),
        Kind::Code => None,
    });
    let kind = program.and_then(|program| match program.kind {
        Kind::File => Some("script"),
        Kind::Module => Some("module"),
        Kind::Code => None,
    });
    let (user, auto) = if service_is_given { (Some("true"), None) } else { (None, inferred_service) };
    let values = [
        ("entrypoint.basedir", Path::new(&entrypoint.file).parent().and_then(last)),
        ("entrypoint.name", name),
        ("entrypoint.type", kind.map(str::to_owned)),
        ("entrypoint.workdir", last(Path::new(&entrypoint.working_directory))),
        ("svc.auto", auto.map(str::to_owned)),
        ("svc.user", user.map(str::to_owned)),
    ];
    let values = values.map(|(key, text)| (key, text.and_then(|text| clean_value(&text))));
    keyed(values.each_ref().map(|(key, value)| (*key, value.as_deref())))
}

/// A value as ddtrace writes it; `None` if it carries no information. Letters beyond ASCII keep their case: Datadog
/// lowers it, and the table for that is larger than this file.
fn clean_value(text: &str) -> Option<String> {
    if matches!(text, "/" | "\\" | "bin") {
        return None;
    }
    let text: String = text.chars().take(MAX_VALUE_LENGTH).collect();
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let mut value = String::new();
    for c in text.to_ascii_lowercase().chars().map(|c| if allowed(c) { c } else { '_' }) {
        if c != '_' || !value.ends_with('_') {
            value.push(c);
        }
    }
    let value = value.trim_matches('_');
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags_of(command: &[&str], entrypoint: &Entrypoint, service_is_given: bool) -> String {
        let command: Vec<String> = command.iter().map(ToString::to_string).collect();
        let program = Program::of(&command);
        let inferred = program.and_then(Program::name);
        process_tags(entrypoint, program, service_is_given, inferred.as_deref()).join(",")
    }

    fn entrypoint(file: &str, working_directory: &str) -> Entrypoint {
        Entrypoint { file: file.into(), working_directory: working_directory.into() }
    }

    #[test]
    fn process_tags_say_how_the_program_was_started() {
        let app = entrypoint("/opt/shop/app.py", "/srv");
        let script =
            "entrypoint.basedir:shop,entrypoint.name:app,entrypoint.type:script,entrypoint.workdir:srv";
        assert_eq!(tags_of(&["python", "app.py"], &app, false), format!("{script},svc.auto:app"));
        assert_eq!(tags_of(&["python", "app.py"], &app, true), format!("{script},svc.user:true"));
        let module = "entrypoint.basedir:shop,entrypoint.name:shop.web,entrypoint.type:module,\
                      entrypoint.workdir:srv,svc.auto:shop.web";
        assert_eq!(tags_of(&["python", "-m", "shop.web"], &app, false), module);
        assert_eq!(
            tags_of(&["python", "/usr/bin/gunicorn"], &entrypoint("/usr/bin/gunicorn", "/"), false),
            "entrypoint.name:gunicorn,entrypoint.type:script,svc.auto:gunicorn"
        );
        assert_eq!(tags_of(&["python"], &entrypoint("", "/srv"), false), "entrypoint.workdir:srv");
    }

    #[test]
    fn a_value_is_written_as_ddtrace_writes_it() {
        let long = "A".repeat(101);
        let cut = "a".repeat(100);
        for (text, expected) in [
            ("My App", Some("my_app")),
            ("__main__", Some("main")),
            ("a, |b", Some("a_b")),
            ("a:b/c.d-e", Some("a_b/c.d-e")),
            ("É", Some("É")),
            (&long, Some(cut.as_str())),
            ("bin", None),
            ("/", None),
            ("\\", None),
            ("", None),
            ("|", None),
        ] {
            assert_eq!(clean_value(text).as_deref(), expected, "{text:?}");
        }
    }
}
