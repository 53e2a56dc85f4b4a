//! An open socket to the receiver: how it is opened, and how payloads go through it.
//!
//! Nothing here waits except for a slow receiver at a Unix socket, and then no longer than the caller allows.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

#[cfg(unix)]
use super::address::UnixKind;
use super::packets::Payload;
#[cfg(unix)]
use super::socket_errors::is_wrong_type;
use super::socket_errors::{is_congestion, is_too_large};
#[cfg(unix)]
use crate::descriptor::FileId;
use crate::descriptor::Guarded;

/// Room for a few of the longest payloads; the default of macOS is half of one.
const MIN_SEND_BUFFER: usize = 32 * 1024;

/// A wait for a receiver checks this often whether it has become shorter.
#[cfg(unix)]
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// Whether one system call takes all payloads. If one of them fails, the kernel takes those before it, and does not
/// report the error.
pub const SENDS_ALL_AT_ONCE: bool = cfg!(target_os = "linux");

/// An address for each of as many datagrams as the kernel takes in one call: none, as the socket is connected.
#[cfg(target_os = "linux")]
static ADDRESSES: [Option<()>; 1024] = [None; 1024];

/// A connected socket.
#[derive(Debug)]
pub struct Connection {
    socket: Guarded<Socket>,
    protocol: Protocol,
    /// The file that led to a Unix socket.
    #[cfg(unix)]
    file: Option<FileId>,
}

/// What a connection goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// Datagrams over a Unix socket.
    #[cfg_attr(not(unix), expect(dead_code, reason = "There are no Unix sockets."))]
    UnixDatagram,
    /// Frames over a Unix socket: each payload after its length, four bytes, little-endian.
    UnixStream,
}

impl Connection {
    /// Connects a UDP socket.
    ///
    /// # Errors
    ///
    /// Those of `socket` and `connect`.
    pub fn udp(address: SocketAddr) -> io::Result<Self> {
        Self::datagram(Protocol::Udp, Domain::for_address(address), &address.into())
    }

    /// Connects to a Unix socket; if both types are possible, datagrams are tried first.
    ///
    /// # Errors
    ///
    /// Those of `socket` and `connect`. A stream whose receiver does not accept in time is `WouldBlock`.
    #[cfg(unix)]
    pub fn unix(path: &Path, kind: UnixKind) -> io::Result<Self> {
        // Where stat is not permitted, a receiver that is replaced goes unnoticed until it ends.
        let identify = || FileId::at(path).ok();
        let before = identify();
        let connection = Self::unix_at(path, kind, before)?;
        // If the file was replaced meanwhile, which of the two was connected to is unknown.
        let after = identify();
        if after == before { Ok(connection) } else { Self::unix_at(path, kind, after) }
    }

    #[cfg(unix)]
    fn unix_at(path: &Path, kind: UnixKind, file: Option<FileId>) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let connection = match kind {
            UnixKind::Datagram => Self::datagram(Protocol::UnixDatagram, Domain::UNIX, &address),
            UnixKind::Stream => Self::stream(&address),
            UnixKind::Either => match Self::datagram(Protocol::UnixDatagram, Domain::UNIX, &address) {
                Err(error) if is_wrong_type(&error) => Self::stream(&address),
                result => result,
            },
        };
        connection.map(|mut connection| {
            connection.file = file;
            connection
        })
    }

    fn datagram(protocol: Protocol, domain: Domain, address: &SockAddr) -> io::Result<Self> {
        let socket = unconnected(domain, Type::DGRAM)?;
        socket.connect(address)?;
        // If either is refused, the default is enough for all but the longest payloads.
        if socket.send_buffer_size().is_ok_and(|size| size < MIN_SEND_BUFFER) {
            drop(socket.set_send_buffer_size(MIN_SEND_BUFFER));
        }
        Ok(Self::connected(socket, protocol))
    }

    /// Does not wait for the receiver to accept: if its queue is full, the connection fails at once.
    #[cfg(unix)]
    fn stream(address: &SockAddr) -> io::Result<Self> {
        let socket = unconnected(Domain::UNIX, Type::STREAM)?;
        socket.connect(address)?;
        Ok(Self::connected(socket, Protocol::UnixStream))
    }

    fn connected(socket: Guarded<Socket>, protocol: Protocol) -> Self {
        Self {
            socket,
            protocol,
            #[cfg(unix)]
            file: None,
        }
    }

    /// What it goes over.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address that a UDP socket is connected to.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()?.as_socket()
    }

    /// Whether the descriptor is still ours: the program may have closed it and reused its number.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.socket.is_ours()
    }

    /// Whether the file at the path is still the one that was connected to. A receiver whose file was replaced may
    /// still run, and packets to it would be lost without an error.
    #[cfg(unix)]
    #[must_use]
    pub fn was_reached_by(&self, path: &Path) -> bool {
        match FileId::at(path) {
            Ok(file) => self.file.is_none_or(|connected| connected == file),
            // Access to the folder may have been withdrawn; the connection still works.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Whether the kernel has learnt that a datagram was refused; it reports that once, here or at the next send.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        let is_refusal = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        self.protocol == Protocol::Udp
            && self.socket.take_error().is_ok_and(|error| error.is_some_and(is_refusal))
    }

    /// Makes long payloads fail.
    #[cfg(all(test, target_os = "linux"))]
    pub fn shrink_send_buffer(&self) {
        self.socket.set_send_buffer_size(0).unwrap();
    }

    /// Whether it can still be used after this error of [`send`](Self::send).
    #[must_use]
    pub fn survives(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{ConnectionRefused, Interrupted, PermissionDenied};
        match error.kind() {
            Interrupted => true,
            // An earlier datagram was refused, or a firewall refuses all.
            ConnectionRefused | PermissionDenied => self.protocol == Protocol::Udp,
            _ => is_congestion(error) || (is_too_large(error) && self.protocol != Protocol::UnixStream),
        }
    }

    /// Whether this error of [`send`](Self::send) shows that the address of a UDP socket does not accept datagrams.
    #[must_use]
    pub fn is_refused(&self, error: &io::Error) -> bool {
        use io::ErrorKind as E;
        self.protocol == Protocol::Udp
            && matches!(
                error.kind(),
                E::ConnectionRefused | E::HostUnreachable | E::NetworkUnreachable | E::PermissionDenied
            )
    }

    /// Sends payloads from the first on; gives how many the kernel took, at least one. Over a Unix socket it may wait
    /// for `time_left`.
    ///
    /// # Errors
    ///
    /// Why the first payload could not be sent. `TimedOut` if a part of it was sent on a stream.
    pub fn send(&self, payloads: &[Payload<'_>], time_left: impl Fn() -> Duration) -> io::Result<usize> {
        match self.protocol {
            Protocol::Udp => self.send_datagrams(payloads),
            Protocol::UnixDatagram => self.send_unix_datagrams(payloads, time_left),
            Protocol::UnixStream => self.send_frame(payloads[0].bytes(), time_left).map(|()| 1),
        }
    }

    /// Sends payloads over UDP, but the first of them alone, and asks whether it was refused: on this machine the
    /// kernel knows at once.
    ///
    /// # Errors
    ///
    /// Why the first payload was not accepted.
    pub fn try_out(&self, payloads: &[Payload<'_>]) -> io::Result<usize> {
        let (first, rest) = payloads.split_at(1);
        let count = self.send_datagrams(first)?;
        if let Ok(Some(error)) = self.socket.take_error() {
            return Err(error);
        }
        // As if all had been given to the kernel at once: an error of the rest is not reported.
        let more = if rest.is_empty() { 0 } else { self.send_datagrams(rest).unwrap_or(0) };
        Ok(count + more)
    }

    /// A queue that is full, which holds ten datagrams on most systems, is waited for.
    fn send_unix_datagrams(
        &self,
        payloads: &[Payload<'_>],
        time_left: impl Fn() -> Duration,
    ) -> io::Result<usize> {
        loop {
            match self.send_datagrams(payloads) {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && self.waits_until_writable(&time_left) => {
                }
                result => return result,
            }
        }
    }

    /// One system call for all, however many there are.
    #[cfg(target_os = "linux")]
    fn send_datagrams(&self, payloads: &[Payload<'_>]) -> io::Result<usize> {
        use std::os::fd::AsRawFd;

        use nix::errno::Errno;
        use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};

        let mut headers = MultiHeaders::<()>::preallocate(payloads.len(), None);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmmsg(self.socket.as_raw_fd(), &mut headers, payloads, &ADDRESSES[..], [], flags) {
            Ok(sent) => Ok(sent.count()),
            Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => self.send_each(payloads, flags.bits()),
            Err(error) => Err(error.into()),
        }
    }

    /// The same with a system call for each, as some sandboxes do not permit the other. If a firewall refused, it will
    /// refuse again.
    #[cfg(target_os = "linux")]
    fn send_each(&self, payloads: &[Payload<'_>], flags: i32) -> io::Result<usize> {
        let mut sent = 0;
        for payload in payloads {
            match self.socket.send_with_flags(payload.bytes(), flags) {
                Ok(_) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    #[cfg(not(target_os = "linux"))]
    fn send_datagrams(&self, payloads: &[Payload<'_>]) -> io::Result<usize> {
        self.socket.send_with_flags(payloads[0].bytes(), NO_SIGNAL).map(|_| 1)
    }

    fn send_frame(&self, payload: &[u8], time_left: impl Fn() -> Duration) -> io::Result<()> {
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
                    if error.kind() == io::ErrorKind::WouldBlock && self.waits_until_writable(&time_left) => {
                }
                Err(error) if is_congestion(&error) && has_begun => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[cfg(unix)]
    fn waits_until_writable(&self, time_left: impl Fn() -> Duration) -> bool {
        use std::os::fd::AsFd;

        use nix::errno::Errno;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

        loop {
            let left = time_left();
            if left.is_zero() {
                return false;
            }
            let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
            let within = PollTimeout::try_from(left.min(POLL_TIMEOUT)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut socket, within) {
                Ok(0) | Err(Errno::EINTR) => {}
                writable => return writable.is_ok(),
            }
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unused_self, reason = "Only a Unix socket is waited for.")]
    fn waits_until_writable(&self, _time_left: impl Fn() -> Duration) -> bool {
        false
    }
}

/// A socket that never waits.
fn unconnected(domain: Domain, kind: Type) -> io::Result<Guarded<Socket>> {
    Guarded::open(|| {
        // From the start, where the kernel can: some sandboxes do not permit fcntl.
        #[cfg(target_os = "linux")]
        return Socket::new(domain, kind.nonblocking(), None);
        #[cfg(not(target_os = "linux"))]
        {
            let socket = Socket::new(domain, kind, None)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        }
    })
}

/// A broken stream must not kill a program that has restored the default action of SIGPIPE.
#[cfg(all(unix, not(target_vendor = "apple")))]
const NO_SIGNAL: i32 = nix::libc::MSG_NOSIGNAL;
/// Apple's systems know it as an option of the socket, which socket2 sets. Windows has no signals.
#[cfg(any(not(unix), target_vendor = "apple"))]
const NO_SIGNAL: i32 = 0;
