//! An open socket to the receiver: how it is opened, and how payloads go through it.
//!
//! No call here waits: datagram sockets do not block, a stream at most [`PATIENCE`] for a peer that is slow.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::Duration;

#[cfg(unix)]
use nix::sys::stat::fstat;
use socket2::{Domain, SockAddr, Socket, Type};

#[cfg(unix)]
use super::address::UnixKind;

/// How long connecting to, and writing to, a stream may wait.
const PATIENCE: Duration = Duration::from_millis(50);

/// A send buffer holds at least a few of the largest payloads; macOS begins with half of one.
const SEND_BUFFER: usize = 32 * 1024;

/// A connected socket.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    kind: Kind,
    #[cfg(unix)]
    inode: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Udp,
    UnixDatagram,
    /// Each payload follows its length, four bytes, little-endian.
    UnixStream,
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
    /// Those of `socket` and `connect`.
    #[cfg(unix)]
    pub fn unix(path: &std::path::Path, kind: UnixKind) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        match kind {
            UnixKind::Datagram => Self::datagram(Kind::UnixDatagram, Domain::UNIX, &address),
            UnixKind::Stream => Self::stream(&address),
            UnixKind::Either => match Self::datagram(Kind::UnixDatagram, Domain::UNIX, &address) {
                Err(error) if is_wrong_kind(&error) => Self::stream(&address),
                result => result,
            },
        }
    }

    fn datagram(kind: Kind, domain: Domain, address: &SockAddr) -> io::Result<Self> {
        let socket = Socket::new(domain, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        if socket.send_buffer_size()? < SEND_BUFFER {
            socket.set_send_buffer_size(SEND_BUFFER)?;
        }
        Self::connected(socket, kind)
    }

    #[cfg(unix)]
    fn stream(address: &SockAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Bounds connect as well, which waits while the peer's backlog is full.
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(address)?;
        Self::connected(socket, Kind::UnixStream)
    }

    #[cfg(unix)]
    fn connected(socket: Socket, kind: Kind) -> io::Result<Self> {
        let inode = fstat(&socket)?.st_ino;
        Ok(Self { socket, kind, inode })
    }

    #[cfg(not(unix))]
    fn connected(socket: Socket, kind: Kind) -> io::Result<Self> {
        Ok(Self { socket, kind })
    }

    /// The connection, if it is still ours. Programs that turn into daemons close every descriptor, and the number may
    /// belong to a socket of the program by now: then it is forgotten, neither written to nor closed.
    #[must_use]
    pub fn if_ours(self) -> Option<Self> {
        #[cfg(unix)]
        if fstat(&self.socket).ok().map(|status| status.st_ino) != Some(self.inode) {
            std::mem::forget(self);
            return None;
        }
        Some(self)
    }

    /// Whether the socket can be used on after this error. A stream cannot: what follows a part of a frame would
    /// be misread.
    #[must_use]
    pub fn survives(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => true,
            io::ErrorKind::ConnectionRefused => self.kind == Kind::Udp,
            _ => is_congestion(error) && self.kind != Kind::UnixStream,
        }
    }

    /// Sends payloads from the first on; gives how many the kernel took, at least one.
    ///
    /// # Errors
    ///
    /// Why the first payload could not be sent. On a stream a part of it may have been.
    pub fn send(&self, payloads: &[&[u8]]) -> io::Result<usize> {
        match self.kind {
            Kind::Udp | Kind::UnixDatagram => self.send_datagrams(payloads),
            Kind::UnixStream => self.send_frame(payloads[0]).map(|()| 1),
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

    fn send_frame(&self, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?.to_le_bytes();
        let frame = [IoSlice::new(&length), IoSlice::new(payload)];
        let sent = self.socket.send_vectored_with_flags(&frame, NO_SIGNAL)?;
        if sent == length.len() + payload.len() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
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

/// A full queue, here or at the receiver: nothing is wrong with the socket.
fn is_congestion(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::libc::ENOBUFS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}
