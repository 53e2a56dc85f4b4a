//! Each outside crate, and each way to the clock and to threads, has one home.

use std::fs;
use std::path::{Path, PathBuf};

/// A word of the code, and the only places it may stand in.
const HOMES: [(&str, &[&str]); 8] = [
    ("pyo3", &["python/", "lib.rs"]),
    ("sysinfo::", &["sources/portable.rs"]),
    ("cadence::", &["emitter/"]),
    ("socket2::", &["emitter/socket.rs", "descriptor.rs"]),
    ("nix::", &["sources/", "emitter/", "collector/sampler.rs", "fork_mark.rs", "descriptor.rs"]),
    ("thread::", &["collector/sampler.rs", "collector/reader.rs"]),
    ("Instant::", &["clock.rs"]),
    ("std::env", &[]),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn everything_stays_in_its_home() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files(&source);
    assert!(files.len() > 20);
    for (word, homes) in HOMES {
        let mut seen = 0;
        for file in &files {
            let path = file.strip_prefix(&source).unwrap().to_str().unwrap().replace('\\', "/");
            let text = fs::read_to_string(file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let uses: Vec<_> = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//") && line.contains(word))
                .collect();
            seen += uses.len();
            let at_home = homes.iter().any(|home| path.starts_with(home));
            assert!(at_home || uses.is_empty(), "{word} in {path}: {uses:?}");
        }
        assert_eq!(seen > 0, !homes.is_empty(), "{word} is used where it may be");
    }
}

#[test]
fn the_middle_is_pure() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in [
        "snapshot/mod.rs",
        "interval.rs",
        "catalogue/mod.rs",
        "identity/command_line.rs",
        "identity/mod.rs",
        "identity/names.rs",
        "identity/process_tags.rs",
        "identity/tags.rs",
        "identity/tracers.rs",
        "settings/aws_lambda.rs",
        "settings/mod.rs",
        "settings/parser.rs",
        "settings/variables.rs",
    ] {
        let text = fs::read_to_string(source.join(file)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in
            ["std::io", "std::fs", "std::net", "std::sync", "std::thread", "Instant", "Mutex", ".exists("]
        {
            assert!(!code.contains(word), "{word} in {file}");
        }
    }
}
