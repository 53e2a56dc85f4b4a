//! File descriptors that the program may close without our knowledge, as programs do that turn into daemons. Their numbers
//! may be reused by then: such a number must be neither used nor closed.

use std::fmt;
use std::io;
use std::ops::Deref;

/// Something with a descriptor. Dropped, it closes the descriptor only if the number still is ours.
pub struct Guarded<T: Descriptor> {
    held: Option<T>,
    #[cfg(unix)]
    id: FileId,
}

/// What has a descriptor.
#[cfg(unix)]
pub trait Descriptor: std::os::fd::AsFd {}

/// What has a descriptor; on this platform nothing identifies its file.
#[cfg(not(unix))]
pub trait Descriptor {}

impl Descriptor for std::fs::File {}
impl Descriptor for socket2::Socket {}

impl<T: Descriptor> Guarded<T> {
    /// Guards what has just been opened.
    ///
    /// # Errors
    ///
    /// Those of `fstat`.
    #[cfg(unix)]
    pub fn new(held: T) -> io::Result<Self> {
        let id = FileId::of(&held)?;
        Ok(Self { held: Some(held), id })
    }

    /// Guards nothing on this platform.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(unix))]
    pub fn new(held: T) -> io::Result<Self> {
        Ok(Self { held: Some(held) })
    }

    /// Whether the descriptor still refers to what was opened.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        #[cfg(unix)]
        return FileId::of(&**self).ok() == Some(self.id);
        #[cfg(not(unix))]
        true
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
        let guarded = Guarded::new(file("ours")).unwrap();
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
        let guarded = Guarded::new(file("ours")).unwrap();
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
