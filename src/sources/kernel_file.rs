//! Reading a file that the kernel generates when it is read, in `/proc` or `/sys`: whole, in three system calls. The
//! standard library's way takes ten for such a file, whose size it cannot know.
//!
//! Only for files that the kernel writes as one record: one with many, such as `maps`, may give less than there is room
//! for before its end.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// More than most of them have.
const LENGTH: usize = 4096;

/// The text of the file; what is no UTF-8, as in the name of a process, is replaced.
///
/// # Errors
///
/// Those of opening and reading it.
pub fn read(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut bytes, mut length) = (vec![0; LENGTH], 0);
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // The kernel gives the whole record, so this was the end.
        if length < bytes.len() {
            break;
        }
        bytes.resize(2 * length, 0);
    }
    bytes.truncate(length);
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, LENGTH - 1, LENGTH, LENGTH + 1, 5 * LENGTH] {
            let text = "abcdefg".repeat(length)[..length].to_owned();
            fs::write(&path, &text).unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
    }

    #[test]
    fn one_strange_byte_hides_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"Name:\t\xff\nVmSwap:\t1 kB\n").unwrap();
        assert_eq!(read(&path).unwrap(), "Name:\t\u{fffd}\nVmSwap:\t1 kB\n");
    }

    #[test]
    fn what_cannot_be_opened_or_read_is_an_error() {
        assert_eq!(read(Path::new("/nowhere")).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(read(Path::new("/proc/self")).is_err());
    }

    #[test]
    fn a_file_of_the_kernel_ends_where_it_gives_less_than_there_is_room_for() {
        for path in ["/proc/self/status", "/proc/self/stat", "/proc/self/cgroup"] {
            let lines = |text: String| text.lines().count();
            let expected = lines(fs::read_to_string(path).unwrap());
            assert_eq!(lines(read(Path::new(path)).unwrap()), expected, "{path}");
        }
    }
}
