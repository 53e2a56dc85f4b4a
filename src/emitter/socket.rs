//! An open socket to the receiver: how it is opened, and how payloads go through it.
//!
//! No call here waits, but a stream whose receiver is slow: at most as long as its caller allows.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

#[cfg(unix)]
use nix::sys::stat::{FileStat, fstat, stat};
use socket2::{Domain, SockAddr, Socket, Type};

#[cfg(unix)]
use super::address::UnixKind;

/// A send buffer holds at least a few of the largest payloads; macOS begins with half of one.
const SEND_BUFFER: usize = 32 * 1024;

/// A connected socket.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    kind: Kind,
    #[cfg(unix)]
    inode: u64,
    /// The file that led to a Unix socket.
    #[cfg(unix)]
    file: Option<FileId>,
}

/// What a connection goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP.
    Udp,
    /// Datagrams over a Unix socket.
    UnixDatagram,
    /// Each payload follows its length, four bytes, little-endian.
    UnixStream,
}

/// What becomes of a connection after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It can be used on.
    Kept,
    /// It is of no more use.
    Closed,
    /// Its descriptor is not ours any more, and not ours to close.
    Forgotten,
}

/// Tells a file from one that takes its place.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: nix::libc::dev_t,
    inode: nix::libc::ino_t,
}

impl Connection {
    /// Connects a UDP socket to the first address that can be connected to.
    ///
    /// # Errors
    ///
    /// The last address's; `NotFound` without any.
    pub fn udp(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for address in addresses {
            result = Self::datagram(Kind::Udp, Domain::for_address(*address), &(*address).into());
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Connects to a Unix socket; one that may be of either kind is tried as datagrams first.
    ///
    /// # Errors
    ///
    /// Those of `stat`, `socket` and `connect`. A stream whose receiver does not accept in time is `WouldBlock`.
    #[cfg(unix)]
    pub fn unix(path: &Path, kind: UnixKind) -> io::Result<Self> {
        let before = FileId::at(path)?;
        let connection = Self::unix_at(path, kind, before)?;
        // Put in the file's place meanwhile: which of the two was connected to is unknown.
        let after = FileId::at(path)?;
        if after == before { Ok(connection) } else { Self::unix_at(path, kind, after) }
    }

    #[cfg(unix)]
    fn unix_at(path: &Path, kind: UnixKind, file: FileId) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let connection = match kind {
            UnixKind::Datagram => Self::datagram(Kind::UnixDatagram, Domain::UNIX, &address),
            UnixKind::Stream => Self::stream(&address),
            UnixKind::Either => match Self::datagram(Kind::UnixDatagram, Domain::UNIX, &address) {
                Err(error) if is_wrong_kind(&error) => Self::stream(&address),
                result => result,
            },
        };
        connection.map(|connection| Self { file: Some(file), ..connection })
    }

    fn datagram(kind: Kind, domain: Domain, address: &SockAddr) -> io::Result<Self> {
        let socket = Socket::new(domain, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        if socket.send_buffer_size()? < SEND_BUFFER {
            // What the system grants is enough for all but the longest payloads.
            drop(socket.set_send_buffer_size(SEND_BUFFER));
        }
        Self::connected(socket, kind)
    }

    /// A stream that nobody accepts while its queue is full is refused at once.
    #[cfg(unix)]
    fn stream(address: &SockAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        Self::connected(socket, Kind::UnixStream)
    }

    #[cfg(unix)]
    fn connected(socket: Socket, kind: Kind) -> io::Result<Self> {
        let inode = fstat(&socket)?.st_ino;
        Ok(Self { socket, kind, inode, file: None })
    }

    #[cfg(not(unix))]
    fn connected(socket: Socket, kind: Kind) -> io::Result<Self> {
        Ok(Self { socket, kind })
    }

    /// What it goes over.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address that a UDP socket is connected to.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()?.as_socket()
    }

    /// The connection, if it is still ours. Programs that turn into daemons close every descriptor, and the number may
    /// belong to a socket of the program by now: then it is forgotten, neither written to nor closed.
    #[must_use]
    pub fn if_ours(self) -> Option<Self> {
        #[cfg(unix)]
        if fstat(&self.socket).ok().map(|status| status.st_ino) != Some(self.inode) {
            self.forget();
            return None;
        }
        Some(self)
    }

    /// Whether the file at the path is still the one that led here. A receiver whose socket was replaced may live on,
    /// and would be sent to in vain without an error.
    #[cfg(unix)]
    #[must_use]
    pub fn was_reached_by(&self, path: &Path) -> bool {
        match FileId::at(path) {
            Ok(file) => self.file == Some(file),
            // A folder that may not be looked into any more does not end what is connected.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Plays a path that takes no long payload.
    #[cfg(test)]
    pub fn shrink_send_buffer(&self) {
        self.socket.set_send_buffer_size(0).unwrap();
    }

    /// Lets the descriptor be.
    pub fn forget(self) {
        std::mem::forget(self);
    }

    /// What becomes of it after this error of [`send`](Self::send).
    #[must_use]
    pub fn fate(&self, error: &io::Error) -> Fate {
        use io::ErrorKind::{ConnectionRefused, Interrupted, PermissionDenied};
        let is_kept = match error.kind() {
            Interrupted => true,
            // It was an earlier datagram's, or a firewall's.
            ConnectionRefused | PermissionDenied => self.kind == Kind::Udp,
            _ => is_congestion(error) || (is_too_large(error) && self.kind != Kind::UnixStream),
        };
        match (is_kept, is_foreign(error)) {
            (true, _) => Fate::Kept,
            (_, true) => Fate::Forgotten,
            _ => Fate::Closed,
        }
    }

    /// Sends payloads from the first on; gives how many the kernel took, at least one. `left` is the time for which a
    /// stream may wait.
    ///
    /// # Errors
    ///
    /// Why the first payload could not be sent. On a stream `TimedOut` says that a part of it was.
    pub fn send(&self, payloads: &[&[u8]], left: impl Fn() -> Duration) -> io::Result<usize> {
        match self.kind {
            Kind::Udp | Kind::UnixDatagram => self.send_datagrams(payloads),
            Kind::UnixStream => self.send_frame(payloads[0], left).map(|()| 1),
        }
    }

    /// All in one system call: a tick costs the same however long its tags are.
    #[cfg(target_os = "linux")]
    fn send_datagrams(&self, payloads: &[&[u8]]) -> io::Result<usize> {
        use std::os::fd::AsRawFd;

        use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};

        let slices: Vec<[IoSlice; 1]> = payloads.iter().map(|payload| [IoSlice::new(payload)]).collect();
        let mut headers = MultiHeaders::<()>::preallocate(payloads.len(), None);
        let connected = vec![None; payloads.len()];
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut headers,
            &slices,
            connected,
            [],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        )?;
        Ok(sent.count())
    }

    #[cfg(not(target_os = "linux"))]
    fn send_datagrams(&self, payloads: &[&[u8]]) -> io::Result<usize> {
        self.socket.send(payloads[0]).map(|_| 1)
    }

    fn send_frame(&self, payload: &[u8], left: impl Fn() -> Duration) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_le_bytes();
        let mut frame = [IoSlice::new(&length), IoSlice::new(payload)];
        let mut unsent = frame.as_mut_slice();
        let mut has_begun = false;
        while !unsent.is_empty() {
            match self.socket.send_vectored_with_flags(unsent, NO_SIGNAL) {
                Ok(sent) => {
                    has_begun = true;
                    IoSlice::advance_slices(&mut unsent, sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_congestion(&error) => {
                    if !self.waits_until_writable(left()) {
                        return Err(if has_begun { io::ErrorKind::TimedOut.into() } else { error });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn waits_until_writable(&self, within: Duration) -> bool {
        use std::os::fd::AsFd;

        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        // Rounded down, so that a wait that is over is not begun again for ever.
        let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
        poll(&mut socket, within).is_ok_and(|writable| writable > 0)
    }

    #[cfg(not(unix))]
    fn waits_until_writable(&self, _within: Duration) -> bool {
        false
    }
}

#[cfg(unix)]
impl FileId {
    fn at(path: &Path) -> io::Result<Self> {
        let FileStat { st_dev, st_ino, .. } = stat(path)?;
        Ok(Self { device: st_dev, inode: st_ino })
    }
}

/// A program that restored the default action of SIGPIPE must not die of our broken stream.
#[cfg(target_os = "linux")]
const NO_SIGNAL: i32 = nix::libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const NO_SIGNAL: i32 = 0;

/// The path holds a socket of the other kind.
#[cfg(unix)]
fn is_wrong_kind(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EPROTOTYPE)
}

/// A payload above what the path or the socket allows.
#[cfg(unix)]
fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EMSGSIZE)
}

/// Another system says it otherwise; there every error closes.
#[cfg(not(unix))]
fn is_too_large(_error: &io::Error) -> bool {
    false
}

/// The program has closed the descriptor, and may use its number for something else.
#[cfg(unix)]
fn is_foreign(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EBADF | nix::libc::ENOTSOCK))
}

#[cfg(not(unix))]
fn is_foreign(_error: &io::Error) -> bool {
    false
}

/// A full queue, here or at the receiver: nothing is wrong with the socket.
fn is_congestion(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::libc::ENOBUFS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}
