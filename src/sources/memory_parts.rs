//! The parts of the process's memory, from `/proc/self/status`.

use std::path::Path;

use super::kernel_file;
use crate::snapshot::MemoryParts;

/// Reads them below `root`, which is `/` except in tests; what the kernel does not list is unknown.
#[must_use]
pub fn read(root: &Path) -> MemoryParts {
    let status = kernel_file::read(&root.join("proc/self/status")).unwrap_or_default();
    let mut parts = MemoryParts::default();
    for (name, value) in status.lines().filter_map(|line| line.split_once(':')) {
        let part = match name {
            "RssAnon" => &mut parts.anonymous,
            "VmHWM" => &mut parts.peak,
            "VmSwap" => &mut parts.swapped,
            "RssFile" => &mut parts.file,
            "RssShmem" => &mut parts.shared,
            "VmSize" => &mut parts.addresses,
            _ => continue,
        };
        *part = bytes(value);
    }
    parts
}

fn bytes(value: &str) -> Option<u64> {
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parts(status: &str) -> MemoryParts {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/status"), status).unwrap();
        read(root.path())
    }

    #[test]
    fn sizes_are_in_bytes() {
        let status = "Name:\tVmSwap: 7 kB\nVmPeak:\t  9 kB\nVmSize:\t  8 kB\nVmHWM:\t   20 kB\nRssAnon:\t     12 kB\n\
                      RssFile:\t      3 kB\nRssShmem:\t     1 kB\nVmSwap:\t 0 kB\n";
        let expected = MemoryParts {
            anonymous: Some(12 << 10),
            peak: Some(20 << 10),
            swapped: Some(0),
            file: Some(3 << 10),
            shared: Some(1 << 10),
            addresses: Some(8 << 10),
        };
        assert_eq!(parts(status), expected);
    }

    #[test]
    fn what_is_not_listed_or_malformed_is_unknown() {
        assert_eq!(
            parts("VmHWM:\t-3 kB\nRssAnon:\t12\nVmSwap:\t99999999999999999 kB\n"),
            MemoryParts::default()
        );
        assert_eq!(parts("Name:\tkthread\n"), MemoryParts::default());
        assert_eq!(read(Path::new("/nowhere")), MemoryParts::default());
    }
}
