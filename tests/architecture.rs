//! The structure of `src/`: which folder may import which, no circle between files, one home for each outside crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each module of the crate and the ones it may import, which are listed before it: imports run in one direction.
const IMPORTS: [(&str, &[&str]); 17] = [
    ("clock", &[]),
    ("descriptor", &[]),
    ("fork_mark", &[]),
    ("memory", &[]),
    ("message", &[]),
    ("replaceable", &[]),
    ("stderr", &["descriptor", "message"]),
    ("tag", &[]),
    ("snapshot", &[]),
    ("interval", &["snapshot"]),
    ("catalogue", &["tag", "snapshot", "interval"]),
    ("sources", &["clock", "descriptor", "replaceable", "snapshot"]),
    ("emitter", &["clock", "descriptor", "message", "tag", "snapshot", "catalogue"]),
    ("settings", &["message", "snapshot", "catalogue", "emitter"]),
    ("identity", &["message", "tag", "catalogue", "settings"]),
    (
        "collector",
        &[
            "clock",
            "memory",
            "message",
            "replaceable",
            "snapshot",
            "interval",
            "catalogue",
            "sources",
            "emitter",
            "settings",
            "identity",
        ],
    ),
    (
        "python",
        &[
            "clock",
            "fork_mark",
            "memory",
            "message",
            "replaceable",
            "stderr",
            "snapshot",
            "catalogue",
            "sources",
            "emitter",
            "settings",
            "identity",
            "collector",
        ],
    ),
];

/// An outside crate, or a way to the clock, to threads or to the environment, and the only places that may use it.
const HOMES: [(&str, &[&str]); 18] = [
    ("pyo3::", &["python/", "lib.rs"]),
    ("sysinfo::", &["sources/portable.rs"]),
    ("cadence::", &["emitter/"]),
    ("socket2::", &["emitter/socket.rs", "descriptor.rs"]),
    (
        "nix::",
        &[
            "sources/",
            "emitter/",
            "clock.rs",
            "collector/pthread.rs",
            "collector/thread.rs",
            "fork_mark.rs",
            "descriptor.rs",
            "memory.rs",
            "stderr.rs",
            // A function of CPython that is not in the stable ABI.
            "python/stopped_world.rs",
            // To wait while other threads go on.
            "python/turn.rs",
        ],
    ),
    ("uuid::", &["python/process.rs"]),
    ("fastrand::", &["sources/"]),
    ("percent_encoding::", &["identity/names.rs", "identity/tags.rs"]),
    ("once_cell::", &["python/"]),
    ("std::thread", &["collector/thread.rs"]),
    ("Instant::", &["clock.rs"]),
    ("SystemTime::", &["clock.rs"]),
    ("std::env", &[]),
    ("std::alloc", &["memory.rs", "lib.rs"]),
    // What waits for another thread waits for ever in a forked child.
    ("pyo3::intern", &[]),
    ("OnceLock", &[]),
    ("LazyLock", &[]),
    ("sync::Once", &[]),
];

/// The modules between facts and samples, and those that decide who we are: no clock, I/O, lock or environment.
const PURE: [&str; 6] = ["snapshot/", "interval.rs", "catalogue/", "settings/", "identity/", "tag.rs"];

const IMPURE: [&str; 7] =
    ["std::io", "std::fs", "std::net", "std::sync::Mutex", "std::thread", "Instant::", "SystemTime::"];

/// Code by its path below `src/`, without comments and tests.
type Files = BTreeMap<String, String>;

fn files() -> Files {
    let mut files = Files::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    collect(&source, &source, &mut files, &code);
    assert!(files.len() > 40, "src/ was not found");
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Files, take: &dyn Fn(&str) -> String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files, take);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.insert(name, take(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn code(text: &str) -> String {
    let text = text.split("\nmod tests {").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The paths that a file imports or names, each from the crate's root: `catalogue::metric::Level`.
fn imports(file: &str, code: &str) -> Vec<String> {
    let module = module(file);
    let mut imports = Vec::new();
    for (root, base) in [("crate::", ""), ("self::", module.as_str()), ("super::", parent(&module))] {
        for (at, _) in code.match_indices(root) {
            let before = &code[..at];
            // A longer word, `super::super::`, or a re-export, which is a face and not a need.
            let is_other = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if is_other || before.trim_end().ends_with("pub use") {
                continue;
            }
            let path = if before.trim_end().ends_with("use") {
                code[at + root.len()..].split(';').next().unwrap()
            } else {
                let rest = &code[at + root.len()..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':'));
                &rest[..end.unwrap_or(rest.len())]
            };
            let (mut path, mut base) = (path, base);
            while let Some(rest) = path.strip_prefix("super::") {
                (path, base) = (rest, parent(base));
            }
            for path in flat(path) {
                imports.push(if base.is_empty() { path } else { format!("{base}::{path}") });
            }
        }
    }
    imports
}

/// The module that a file is: `catalogue::metric`, `catalogue` for its `mod.rs`, nothing for `lib.rs`.
fn module(file: &str) -> String {
    let module = file.trim_end_matches(".rs").replace('/', "::");
    if module == "lib" { String::new() } else { module.trim_end_matches("::mod").to_owned() }
}

fn parent(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(parent, _)| parent)
}

/// The single paths of `a::{b, c::{d, e}}`.
fn flat(path: &str) -> Vec<String> {
    let path = path.trim();
    let Some((prefix, group)) = path.split_once('{') else {
        return vec![path.split(" as ").next().unwrap().trim().trim_end_matches("::self").to_owned()];
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let (mut items, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&group[start..]);
    let items = items.into_iter().filter(|item| !item.trim().is_empty());
    items.flat_map(flat).map(|item| format!("{prefix}{item}").trim_end_matches("::self").to_owned()).collect()
}

/// The file that a path leads to: the longest part of it that is a module.
fn target(files: &Files, path: &str) -> Option<String> {
    let mut path = path;
    loop {
        let name = path.replace("::", "/");
        for file in [format!("{name}.rs"), format!("{name}/mod.rs")] {
            if files.contains_key(&file) {
                return Some(file);
            }
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// Which files each file imports.
fn arrows(files: &Files) -> BTreeMap<&str, BTreeSet<String>> {
    let of = |file: &str, code: &str| -> BTreeSet<String> {
        let targets = imports(file, code).into_iter().filter_map(|path| target(files, &path));
        targets.filter(|target| target != file).collect()
    };
    files.iter().map(|(file, code)| (file.as_str(), of(file, code))).collect()
}

fn top(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Imports that the table does not allow.
fn forbidden_imports(files: &Files) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.into_iter().collect();
    let mut breaches = Vec::new();
    for (file, targets) in arrows(files) {
        let from = top(file);
        if from == "lib" {
            continue;
        }
        let Some(allowed) = allowed.get(from) else {
            breaches.push(format!("src/{file}: add the module {from} to IMPORTS in tests/architecture.rs"));
            continue;
        };
        for target in targets.iter().filter(|target| top(target) != from && !allowed.contains(&top(target))) {
            breaches.push(format!("src/{file} may not import src/{target}"));
        }
    }
    breaches
}

/// Files that import each other, directly or through others.
fn circles(files: &Files) -> Vec<String> {
    let arrows = arrows(files);
    let reachable = |from: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(file) = next.pop() {
            for target in &arrows[file.as_str()] {
                if seen.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> =
        arrows.keys().map(|file| (*file, reachable(file))).collect();
    let mut circles = Vec::new();
    for (file, targets) in &arrows {
        for target in targets.iter().filter(|target| reached[target.as_str()].contains(*file)) {
            circles.push(format!("src/{file} imports src/{target}, which leads back to it"));
        }
    }
    circles
}

/// Uses of an outside crate, a clock or a thread away from its home.
fn strays(files: &Files) -> Vec<String> {
    let mut strays = Vec::new();
    for (file, code) in files {
        for (word, homes) in HOMES {
            if code.contains(word) && !homes.iter().any(|home| file.starts_with(home)) {
                strays.push(format!("{word} is used in src/{file}; its home is {homes:?}"));
            }
        }
        if PURE.iter().any(|pure| file.starts_with(pure)) {
            strays.extend(
                IMPURE
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| format!("{word} is used in src/{file}")),
            );
        }
    }
    strays
}

#[test]
fn imports_run_in_one_direction() {
    assert_eq!(forbidden_imports(&files()), Vec::<String>::new());
    for (row, (module, allowed)) in IMPORTS.iter().enumerate() {
        let above = IMPORTS[..row].iter().map(|(module, _)| module);
        assert!(allowed.iter().all(|import| above.clone().any(|module| module == import)), "{module}");
    }
}

#[test]
fn no_file_imports_itself_through_others() {
    assert_eq!(circles(&files()), Vec::<String>::new());
}

#[test]
fn each_outside_crate_stays_at_home() {
    let files = files();
    assert_eq!(strays(&files), Vec::<String>::new());
    for (word, homes) in HOMES {
        assert_eq!(files.values().any(|code| code.contains(word)), !homes.is_empty(), "{word} is not used");
    }
}

/// The types of Python objects that are made when they are first used, while other threads wait.
fn types_made_late(files: &Files) -> Vec<String> {
    // What the module exports, and what is made beside it.
    let exported: BTreeSet<&str> = files["python/mod.rs"]
        .split("#[pymodule_export]")
        .skip(1)
        .flat_map(|export| export.split(';').next().unwrap().split(|c: char| !c.is_alphanumeric()))
        .collect();
    let mut late = Vec::new();
    for code in files.values() {
        for (at, _) in code.match_indices("#[pyclass") {
            let name = code[at..].split_once("struct ").unwrap().1;
            let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            let is_made = files["python/first_uses.rs"].contains(&format!("{name}::type_object"));
            // The last is made as a function of AWS Lambda is set up, before that has threads that fork.
            if !is_made && !exported.contains(name) && name != "Instrumented" {
                late.push(name.to_owned());
            }
        }
    }
    late
}

#[test]
fn each_python_type_is_made_when_the_module_is_imported() {
    assert_eq!(types_made_late(&files()), Vec::<String>::new());
}

/// Imports of a macro that gives up the GIL: `pyo3::{intern, prelude::*}`.
#[test]
fn no_name_is_interned_while_other_threads_wait() {
    for (file, code) in files() {
        for import in code.split("use pyo3::").skip(1) {
            let imported = flat(import.split(';').next().unwrap());
            assert!(!imported.iter().any(|path| path == "intern"), "src/{file} imports it from pyo3");
        }
    }
}

/// The checks find what they are for, in the real tree with one line added.
#[test]
fn a_breach_of_each_kind_is_found() {
    let with = |file: &str, line: &str| {
        let mut files = files();
        let code = files.get_mut(file).unwrap_or_else(|| panic!("src/{file} has moved"));
        code.push_str(line);
        files
    };
    let between_files = with("catalogue/metric.rs", "\nuse super::selection::Selection;\n");
    assert!(!circles(&between_files).is_empty() && forbidden_imports(&between_files).is_empty());
    let between_folders = with("snapshot/mod.rs", "\nuse crate::interval::Interval;\n");
    assert!(!circles(&between_folders).is_empty());
    let upward = with("emitter/mod.rs", "\nuse crate::{\n    clock::Clock,\n    collector::Collector,\n};\n");
    assert_eq!(forbidden_imports(&upward), ["src/emitter/mod.rs may not import src/collector/mod.rs"]);
    let by_path = with("sources/gc.rs", "\nfn f() { crate::catalogue::selection::samples() }\n");
    assert_eq!(forbidden_imports(&by_path), ["src/sources/gc.rs may not import src/catalogue/selection.rs"]);
    let away = with("collector/reader.rs", "\nuse sysinfo::System;\n");
    assert_eq!(strays(&away).len(), 1);
    assert_eq!(strays(&with("interval.rs", "\nuse std::fs;\n")).len(), 1);
    assert_eq!(strays(&with("python/log.rs", "\nuse std::sync::LazyLock;\n")).len(), 1);
    assert_eq!(types_made_late(&with("python/log.rs", "\n#[pyclass]\nstruct Late;\n")), ["Late"]);
}

#[test]
fn no_line_is_wider_than_120_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wide = Vec::new();
    for folder in ["src", "tests"] {
        let mut texts = Files::new();
        collect(root, &root.join(folder), &mut texts, &|text| text.to_owned());
        for (file, text) in &texts {
            let lines = text.lines().enumerate().filter(|(_, line)| line.chars().count() > 120);
            wide.extend(lines.map(|(number, _)| format!("{file}:{}", number + 1)));
        }
    }
    assert_eq!(wide, Vec::<String>::new());
}
