//! What the errors of a socket mean, and what to do about them.

use std::io;

/// What to do about the payloads left after an error of [`Connection::send`](super::socket::Connection::send).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Send them again: a signal came.
    Repeat,
    /// Send them again, once: the error was an earlier payload's, or the receiver was replaced, or the descriptor is
    /// not ours any more.
    Retry,
    /// Leave out the first: it is too large.
    Skip,
    /// Leave out all.
    GiveUp,
}

impl Remedy {
    /// What to do about this error.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, Interrupted, NotConnected};
        match error.kind() {
            Interrupted => Self::Repeat,
            ConnectionRefused | ConnectionReset | BrokenPipe | NotConnected => Self::Retry,
            _ if is_not_ours(error) => Self::Retry,
            _ if is_too_large(error) => Self::Skip,
            _ => Self::GiveUp,
        }
    }
}

/// Errors that have no kind in the standard library.
#[cfg(unix)]
mod codes {
    pub(super) use nix::libc::{EMSGSIZE, ENOBUFS};
}

/// The same of Windows: `WSAEMSGSIZE` and `WSAENOBUFS`.
#[cfg(not(unix))]
mod codes {
    pub(super) const EMSGSIZE: i32 = 10040;
    pub(super) const ENOBUFS: i32 = 10055;
}

/// The descriptor has been closed, or its number reused.
#[cfg(unix)]
fn is_not_ours(error: &io::Error) -> bool {
    use nix::libc::{EBADF, EDESTADDRREQ, ENOTSOCK};
    matches!(error.raw_os_error(), Some(EBADF | EDESTADDRREQ | ENOTSOCK))
}

#[cfg(not(unix))]
fn is_not_ours(_error: &io::Error) -> bool {
    false
}

/// The path holds a socket of the other type.
#[cfg(unix)]
#[must_use]
pub fn is_wrong_type(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EPROTOTYPE)
}

/// The payload is larger than the path or the socket allows.
#[must_use]
pub fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(codes::EMSGSIZE)
}

/// The queue here or at the receiver is full; nothing is wrong with the socket.
#[must_use]
pub fn is_congestion(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(codes::ENOBUFS)
}
