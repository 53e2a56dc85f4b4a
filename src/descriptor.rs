//! File descriptors that are never 0, 1 or 2, and that the program may close without our knowledge, as programs do
//! that turn into daemons. Their numbers may be reused by then: such a number must be neither used nor closed.

use std::fmt;
#[cfg(target_os = "linux")]
use std::fs::File;
use std::io;
use std::ops::Deref;

/// The numbers below are those of the standard streams. Where a program has closed those, the kernel gives their
/// numbers to what is opened next, and what is printed would be written there.
#[cfg(unix)]
const FIRST_NUMBER: i32 = 3;

/// Something with a descriptor. Dropped, it closes the descriptor only if the number still is ours.
pub struct Guarded<T: Descriptor> {
    held: Option<T>,
    /// `None` where `fstat` is not permitted.
    #[cfg(unix)]
    id: Option<FileId>,
}

/// What has a descriptor.
#[cfg(unix)]
pub trait Descriptor: std::os::fd::AsFd {}

/// What has a descriptor; on this platform nothing identifies its file.
#[cfg(not(unix))]
pub trait Descriptor {}

impl Descriptor for std::fs::File {}
#[cfg(unix)]
impl Descriptor for std::os::fd::OwnedFd {}
impl Descriptor for socket2::Socket {}

impl<T: Descriptor> Guarded<T> {
    /// Opens something under a number that is none of the standard streams'. Mostly `open` is called once.
    ///
    /// A socket is to be connected only afterwards: until then, what is printed meanwhile goes nowhere.
    ///
    /// # Errors
    ///
    /// Those of `open`.
    #[cfg(unix)]
    pub fn open(open: impl Fn() -> io::Result<T>) -> io::Result<Self> {
        // Held until a higher number is found. To duplicate the first would need fcntl, which some sandboxes refuse.
        let mut low = Vec::new();
        loop {
            let opened = Self::new(open()?);
            if !opened.is_standard_stream() {
                return Ok(opened);
            }
            low.push(opened);
        }
    }

    /// Opens something; on this platform its handle is no number.
    ///
    /// # Errors
    ///
    /// Those of `open`.
    #[cfg(not(unix))]
    pub fn open(open: impl Fn() -> io::Result<T>) -> io::Result<Self> {
        Ok(Self { held: Some(open()?) })
    }

    #[cfg(unix)]
    fn new(held: T) -> Self {
        let id = FileId::of(&held).ok();
        Self { held: Some(held), id }
    }

    #[cfg(unix)]
    fn is_standard_stream(&self) -> bool {
        use std::os::fd::AsRawFd;
        self.as_fd().as_raw_fd() < FIRST_NUMBER
    }

    /// Whether the descriptor still refers to what was opened.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        #[cfg(unix)]
        return match (FileId::of(&**self), self.id) {
            (Ok(now), Some(opened)) => now == opened,
            (Err(error), _) => error.raw_os_error() != Some(nix::libc::EBADF),
            // Where fstat is not permitted nothing speaks against it.
            (Ok(_), None) => true,
        };
        #[cfg(not(unix))]
        true
    }
}

/// The numbers of standard streams that the program has closed, taken while code that is not ours opens descriptors.
#[derive(Debug)]
pub struct ClosedStreams {
    #[cfg(target_os = "linux")]
    #[expect(dead_code, reason = "They are held, not used.")]
    taken: Vec<Guarded<File>>,
}

impl ClosedStreams {
    /// Takes the numbers until it is dropped. Writing to one still fails with `EBADF`, as it does to a closed one.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn take() -> Self {
        use std::fs::OpenOptions;
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;

        let mut taken = Vec::new();
        let open = || OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open("/");
        while let Ok(opened) = open()
            && opened.as_raw_fd() < FIRST_NUMBER
        {
            taken.push(Guarded::new(opened));
        }
        Self { taken }
    }

    /// Takes nothing: only Linux opens files that cannot be written to.
    #[cfg(not(target_os = "linux"))]
    #[must_use]
    pub fn take() -> Self {
        Self {}
    }
}

impl<T: Descriptor> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("present until it is dropped")
    }
}

impl<T: Descriptor> Drop for Guarded<T> {
    fn drop(&mut self) {
        if !self.is_ours() {
            std::mem::forget(self.held.take());
        }
    }
}

impl<T: Descriptor> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}

/// Identifies a file, to notice that another has taken its place.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: nix::libc::dev_t,
    inode: nix::libc::ino_t,
}

#[cfg(unix)]
impl FileId {
    /// The identity of an open file.
    ///
    /// # Errors
    ///
    /// Those of `fstat`.
    pub fn of(open: &impl std::os::fd::AsFd) -> io::Result<Self> {
        Ok(nix::sys::stat::fstat(open)?.into())
    }

    /// The identity of the file at a path.
    ///
    /// # Errors
    ///
    /// Those of `stat`.
    pub fn at(path: &std::path::Path) -> io::Result<Self> {
        Ok(nix::sys::stat::stat(path)?.into())
    }
}

#[cfg(unix)]
impl From<nix::sys::stat::FileStat> for FileId {
    fn from(status: nix::sys::stat::FileStat) -> Self {
        Self { device: status.st_dev, inode: status.st_ino }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};

    use super::*;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file
    }

    #[test]
    fn a_guarded_descriptor_is_closed() {
        let guarded = Guarded::new(file("ours"));
        let number = guarded.as_raw_fd();
        assert!(guarded.is_ours());
        drop(guarded);
        // Another test may have been given the number meanwhile, but not this file.
        let path = format!("/proc/self/fd/{number}");
        assert!(!std::fs::read_to_string(path).is_ok_and(|text| text == "ours"));
    }

    #[test]
    #[expect(unsafe_code, reason = "It plays a program that closes descriptors that it does not know.")]
    fn a_reused_descriptor_number_is_not_closed() {
        let guarded = Guarded::new(file("ours"));
        // The program opens a file of its own under the same number.
        // SAFETY: the former owner no longer uses the number.
        let _ = unsafe { nix::unistd::dup2_raw(file("theirs"), guarded.as_raw_fd()) }.unwrap().into_raw_fd();
        assert!(!guarded.is_ours());
        let number = guarded.as_raw_fd();
        drop(guarded);
        // SAFETY: the number belongs to the program, which is this test.
        let mut theirs = unsafe { File::from_raw_fd(number) };
        let mut text = String::new();
        std::io::Seek::rewind(&mut theirs).unwrap();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "theirs");
    }
}
