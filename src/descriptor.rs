//! Descriptors that a program may close behind our back, as programs do that turn into daemons. The number may belong to
//! somebody else by then: it must be neither used nor closed.

use std::fmt;
use std::io;
use std::ops::Deref;

/// Something with a descriptor, which is closed in the end only if it is still ours.
pub struct Guarded<T: Descriptor> {
    held: Option<T>,
    #[cfg(unix)]
    id: FileId,
}

/// What has a descriptor.
#[cfg(unix)]
pub trait Descriptor: std::os::fd::AsFd {}

/// What has a descriptor: elsewhere nothing tells whose it is.
#[cfg(not(unix))]
pub trait Descriptor {}

impl Descriptor for std::fs::File {}
impl Descriptor for socket2::Socket {}

impl<T: Descriptor> Guarded<T> {
    /// Guards what has just been opened.
    ///
    /// # Errors
    ///
    /// If it cannot be told from others.
    #[cfg(unix)]
    pub fn new(held: T) -> io::Result<Self> {
        let id = FileId::of(&held)?;
        Ok(Self { held: Some(held), id })
    }

    /// Guards nothing here.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(unix))]
    pub fn new(held: T) -> io::Result<Self> {
        Ok(Self { held: Some(held) })
    }

    /// Whether the descriptor is still ours.
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

/// Tells a file from one that takes its place.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: nix::libc::dev_t,
    inode: nix::libc::ino_t,
}

#[cfg(unix)]
impl FileId {
    /// Of what is open.
    ///
    /// # Errors
    ///
    /// Those of `fstat`.
    pub fn of(open: &impl std::os::fd::AsFd) -> io::Result<Self> {
        Ok(nix::sys::stat::fstat(open)?.into())
    }

    /// Of what is at the path.
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
    fn what_is_ours_is_closed() {
        let guarded = Guarded::new(file("ours")).unwrap();
        let number = guarded.as_raw_fd();
        assert!(guarded.is_ours());
        drop(guarded);
        // Another test may have got the number meanwhile, but never this file.
        let path = format!("/proc/self/fd/{number}");
        assert!(!std::fs::read_to_string(path).is_ok_and(|text| text == "ours"));
    }

    #[test]
    #[allow(unsafe_code, reason = "plays a program that closes descriptors it does not know")]
    fn what_is_somebody_elses_by_now_is_left_to_them() {
        let guarded = Guarded::new(file("ours")).unwrap();
        // The program puts its own file where ours was.
        // SAFETY: the number is not used by its former owner any more.
        let _ = unsafe { nix::unistd::dup2_raw(file("theirs"), guarded.as_raw_fd()) }.unwrap().into_raw_fd();
        assert!(!guarded.is_ours());
        let number = guarded.as_raw_fd();
        drop(guarded);
        // SAFETY: the number is the program's, which is this test.
        let mut theirs = unsafe { File::from_raw_fd(number) };
        let mut text = String::new();
        std::io::Seek::rewind(&mut theirs).unwrap();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "theirs");
    }
}
