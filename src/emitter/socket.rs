//! An open socket to the receiver: how it is opened, and how payloads go through it.
//!
//! No call here waits, but a stream whose receiver is slow: at most as long as its caller allows.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

#[cfg(unix)]
use super::address::UnixKind;
#[cfg(unix)]
use crate::descriptor::FileId;
use crate::descriptor::Guarded;

/// A send buffer holds at least a few of the largest payloads; macOS begins with half of one.
const SEND_BUFFER: usize = 32 * 1024;

/// How long a wait goes on before it is asked again for how long it may.
#[cfg(unix)]
const A_MOMENT: Duration = Duration::from_millis(10);

/// Whether all payloads go into one call, of which the kernel then takes those before the first that fails, and keeps
/// the reason to itself.
pub const ALL_AT_ONCE: bool = cfg!(target_os = "linux");

/// A connected socket.
#[derive(Debug)]
pub struct Connection {
    socket: Guarded<Socket>,
    kind: Kind,
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
        connection.map(|mut connection| {
            connection.file = Some(file);
            connection
        })
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

    fn connected(socket: Socket, kind: Kind) -> io::Result<Self> {
        Ok(Self {
            socket: Guarded::new(socket)?,
            kind,
            #[cfg(unix)]
            file: None,
        })
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

    /// Whether it is still ours: the program may have closed its descriptor, and use the number for something else.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.socket.is_ours()
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
        if is_kept { Fate::Kept } else { Fate::Closed }
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
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && self.waits_until_writable(&left) => {}
                Err(error) if is_congestion(&error) && has_begun => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn waits_until_writable(&self, left: impl Fn() -> Duration) -> bool {
        use std::os::fd::AsFd;

        use nix::errno::Errno;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        loop {
            let left = left();
            if left.is_zero() {
                return false;
            }
            let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
            // Briefly, as somebody may have shortened the time meanwhile.
            let within = PollTimeout::try_from(left.min(A_MOMENT)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut socket, within) {
                Ok(0) | Err(Errno::EINTR) => {}
                writable => return writable.is_ok(),
            }
        }
    }

    #[cfg(not(unix))]
    fn waits_until_writable(&self, _left: impl Fn() -> Duration) -> bool {
        false
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

/// A full queue, here or at the receiver: nothing is wrong with the socket.
fn is_congestion(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::libc::ENOBUFS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}
