//! Connections that wait to be accepted, at the listening sockets of the process: TCP by `TCP_INFO`, Unix sockets by
//! the kernel's `unix_diag`.
//!
//! They are the program's, known by their numbers alone, which it may close and reuse at any moment: what is read of a
//! number says itself whether a listener is behind it.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::descriptor::Guarded;
use crate::snapshot::Absence;

/// Only lower numbers are looked at. A system call for each of so many takes 1 ms.
const MAX_NUMBER: RawFd = 4096;

/// The most listeners that are looked at.
const MAX_LISTENERS: usize = 256;

/// The time between two searches for listeners. For as long after the first reading, which may be before the program
/// listens, they are searched for at each one that finds another number of descriptors open.
const PERIOD: Duration = Duration::from_mins(1);

/// The state of a listening socket of either family, `TCP_LISTEN`.
const LISTENS: u8 = 10;

/// The listeners of the process, as far as they are known.
#[derive(Debug, Default)]
pub struct AcceptQueues {
    listeners: Vec<Listener>,
    /// Whether one of those that were found could not be read since.
    is_incomplete: bool,
    /// When they were read for the first time.
    first: Option<Duration>,
    last: Search,
}

/// A search for listeners.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    at: Duration,
    /// How many descriptors were open.
    open: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    number: RawFd,
    family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Tcp,
    Unix,
}

impl AcceptQueues {
    /// The most connections that wait at one listener, of those over TCP only if asked for. `open` is the number of
    /// descriptors that are open, where that is known.
    ///
    /// # Errors
    ///
    /// Why that is not known; `None` if a listener could not be read.
    pub fn read(&mut self, now: Duration, with_tcp: bool, open: Option<u64>) -> Result<u64, Option<Absence>> {
        if self.is_search_due(now, open) {
            self.find(open);
            self.last = Search { at: now, open };
        }
        let (mut diagnosis, mut largest) = (None, None);
        let found = self.listeners.len();
        self.listeners.retain(|listener| {
            let depth = match listener.family {
                Family::Tcp if !with_tcp => return true,
                Family::Tcp => waiting_over_tcp(listener.number),
                Family::Unix => diagnosis
                    .get_or_insert_with(Diagnosis::open)
                    .as_ref()
                    .and_then(|diagnosis| diagnosis.waiting(listener.number)),
            };
            largest = largest.max(depth);
            // What is no listener any more, or cannot be read, is left alone until the next search.
            depth.is_some()
        });
        self.is_incomplete |= self.listeners.len() < found;
        let is_none_left = self.listeners.is_empty();
        // Otherwise those are left that were not asked for.
        let absence = if is_none_left { Absence::NoListener } else { Absence::InBacklog };
        largest.ok_or((!is_none_left || !self.is_incomplete).then_some(absence))
    }

    fn is_search_due(&mut self, now: Duration, open: Option<u64>) -> bool {
        let Some(first) = self.first else {
            self.first = Some(now);
            return true;
        };
        let since = |then| now.saturating_sub(then);
        let is_new = since(first) < PERIOD;
        // A socket that was open before may listen by now.
        let may_be_another = self.listeners.is_empty() || open.is_none() || open != self.last.open;
        since(self.last.at) >= PERIOD || (is_new && may_be_another)
    }

    fn find(&mut self, open: Option<u64>) {
        self.listeners.clear();
        self.is_incomplete = false;
        // Most of them have low numbers, so that the search is over when it has seen as many.
        let mut seen = 0;
        for number in 0..MAX_NUMBER {
            match listener(number) {
                Ok(family) => self.listeners.extend(family.map(|family| Listener { number, family })),
                Err(Closed) => continue,
            }
            seen += 1;
            if Some(seen) == open || self.listeners.len() == MAX_LISTENERS {
                break;
            }
        }
    }
}

/// No descriptor has the number.
struct Closed;

/// The family of the listener with this number; `None` if it is none of those that can be read.
fn listener(number: RawFd) -> Result<Option<Family>, Closed> {
    let listens = match option::<c_int>(number, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) {
        Err(libc::EBADF) => return Err(Closed),
        listens => listens.is_ok_and(|listens| listens != 0),
    };
    if !listens {
        return Ok(None);
    }
    let is = |name, value| option::<c_int>(number, libc::SOL_SOCKET, name) == Ok(value);
    Ok(if is(libc::SO_DOMAIN, libc::AF_UNIX) {
        Some(Family::Unix)
    } else {
        is(libc::SO_PROTOCOL, libc::IPPROTO_TCP).then_some(Family::Tcp)
    })
}

/// The beginning of what the kernel reports about a TCP connection. Of a listener, `unacked` are those that wait.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    state: u8,
    _flags: [u8; 7],
    _sizes: [u32; 4],
    unacked: u32,
}

/// The connections that wait at the TCP listener with this number, if there is one.
fn waiting_over_tcp(number: RawFd) -> Option<u64> {
    let info = option::<TcpInfo>(number, libc::IPPROTO_TCP, libc::TCP_INFO).ok()?;
    (info.state == LISTENS).then(|| info.unacked.into())
}

/// An option of the socket with this number, or the error; it is one, too, if only a part of `T` is known, as under an
/// emulator of another processor. `T` must be plain numbers.
#[expect(unsafe_code, reason = "Only the C library's function takes a number that nobody owns.")]
fn option<T: Copy>(number: RawFd, level: c_int, name: c_int) -> Result<T, i32> {
    let mut value = MaybeUninit::<T>::zeroed();
    let Ok(size) = libc::socklen_t::try_from(size_of::<T>()) else { return Err(libc::EINVAL) };
    let mut length = size;
    // SAFETY: the kernel writes at most that many bytes; what it does not write is zero.
    let status = unsafe { libc::getsockopt(number, level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if status != 0 {
        return Err(nix::errno::Errno::last_raw());
    }
    // SAFETY: any bits are a valid value of a type of plain numbers, and all are initialised.
    if length == size { Ok(unsafe { value.assume_init() }) } else { Err(libc::ENOPROTOOPT) }
}

/// The inode of the socket with this number, if it is one.
#[expect(unsafe_code, reason = "Only the C library's function takes a number that nobody owns.")]
fn inode(number: RawFd) -> Option<u32> {
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: it writes no more than that, and of plain numbers any bits are valid.
    let status = unsafe {
        if libc::fstat(number, status.as_mut_ptr()) != 0 {
            return None;
        }
        status.assume_init()
    };
    if status.st_mode & libc::S_IFMT == libc::S_IFSOCK { status.st_ino.try_into().ok() } else { None }
}

/// A connection to the kernel's diagnosis of sockets, which anybody may ask.
struct Diagnosis(Guarded<OwnedFd>);

impl Diagnosis {
    /// `SOCK_DIAG_BY_FAMILY`
    const TYPE: u16 = 20;
    /// `UDIAG_SHOW_RQLEN`
    const SHOW_QUEUE: u32 = 0x10;
    /// `UNIX_DIAG_RQLEN`
    const QUEUE: u16 = 4;
    /// The length of a header of netlink, and of what the kernel reports about a Unix socket before its attributes.
    const HEADER: usize = 16;
    const MESSAGE: usize = 16;

    fn open() -> Option<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkSockDiag;
        let open = || socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(Into::into);
        Guarded::open(open).ok().map(Self)
    }

    /// The connections that wait at the Unix listener with this number, if there is one.
    fn waiting(&self, number: RawFd) -> Option<u64> {
        use std::os::fd::AsRawFd;

        let diagnosis = self.0.as_raw_fd();
        send(diagnosis, &Self::request(inode(number)?), MsgFlags::empty()).ok()?;
        // The kernel has answered by now.
        let mut answer = [0; 256];
        let length = recv(diagnosis, &mut answer, MsgFlags::empty()).ok()?;
        Self::queue(&answer[..length])
    }

    fn request(inode: u32) -> [u8; 40] {
        let mut request = [0; 40];
        let mut put = |at: usize, bytes: &[u8]| request[at..at + bytes.len()].copy_from_slice(bytes);
        // Length, type and NLM_F_REQUEST; the sequence number and the port stay zero.
        put(0, &40_u32.to_ne_bytes());
        put(4, &Self::TYPE.to_ne_bytes());
        put(6, &1_u16.to_ne_bytes());
        // AF_UNIX, any state, the inode, what to show, and no cookie.
        put(16, &[1]);
        put(20, &u32::MAX.to_ne_bytes());
        put(24, &inode.to_ne_bytes());
        put(28, &Self::SHOW_QUEUE.to_ne_bytes());
        put(32, &[0xff; 8]);
        request
    }

    /// The length of the queue in an answer about a listener.
    fn queue(answer: &[u8]) -> Option<u64> {
        let short = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
        if short(4)? != Self::TYPE || *answer.get(Self::HEADER + 2)? != LISTENS {
            return None;
        }
        let mut at = Self::HEADER + Self::MESSAGE;
        loop {
            let (length, attribute) = (usize::from(short(at)?), short(at + 2)?);
            if attribute == Self::QUEUE {
                return Some(u32::from_ne_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?).into());
            }
            // An attribute includes its head, and begins at a multiple of four.
            at += length.max(4).next_multiple_of(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn waiting(number: RawFd) -> Option<u64> {
        match listener(number).ok()?? {
            Family::Tcp => waiting_over_tcp(number),
            Family::Unix => Diagnosis::open()?.waiting(number),
        }
    }

    #[test]
    fn connections_over_tcp_wait_until_they_are_accepted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Not every machine has IPv6.
            let Ok(listening) = TcpListener::bind(address) else { continue };
            let number = listening.as_raw_fd();
            assert_eq!(waiting(number), Some(0));
            let clients =
                [(); 3].map(|()| TcpStream::connect(listening.local_addr().unwrap()).unwrap().into_raw_fd());
            assert_eq!(waiting(number), Some(3));
            let accepted = listening.accept().unwrap().0;
            assert_eq!(waiting(number), Some(2));
            assert_eq!([waiting(accepted.as_raw_fd()), waiting(clients[0])], [None, None]);
        }
    }

    #[test]
    fn connections_to_a_unix_socket_wait_until_they_are_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listening = UnixListener::bind(&path).unwrap();
        let number = listening.as_raw_fd();
        assert_eq!(waiting(number), Some(0));
        let clients = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        assert_eq!(waiting(number), Some(3));
        let accepted = listening.accept().unwrap().0;
        assert_eq!(waiting(number), Some(2));
        assert_eq!([waiting(accepted.as_raw_fd()), waiting(clients[0].as_raw_fd())], [None, None]);
    }

    #[test]
    fn what_is_no_listener_is_none() {
        assert!(listener(MAX_NUMBER - 1).is_err() && listener(-1).is_err());
        let (file, udp) = (File::open("/proc/self/stat").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        for number in [file.as_raw_fd(), udp.as_raw_fd()] {
            assert_eq!(listener(number).ok(), Some(None));
            assert_eq!((waiting_over_tcp(number), Diagnosis::open().unwrap().waiting(number)), (None, None));
        }
    }

    /// Other tests of this process may have listeners as well, but not with so many connections.
    #[test]
    fn the_largest_queue_counts_and_a_listener_is_known_until_it_is_closed_and_found_within_a_minute() {
        let mut queues = AcceptQueues { first: Some(Duration::ZERO), ..AcceptQueues::default() };
        let second = Duration::from_secs(1);
        let full = |listening: &TcpListener, connections| -> Vec<_> {
            let address = listening.local_addr().unwrap();
            (0..connections).map(|_| TcpStream::connect(address).unwrap()).collect()
        };
        let [first, second_largest] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let _clients = [full(&first, 40), full(&second_largest, 20)];
        assert_eq!(queues.read(61 * second, true, None), Ok(40));
        let later = TcpListener::bind("127.0.0.1:0").unwrap();
        let _more = full(&later, 60);
        // Another file has its number by then.
        drop(first);
        let _files = [(); 3].map(|()| File::open("/proc/self/stat").unwrap());
        assert_eq!(queues.read(119 * second, true, None), Ok(20));
        assert_eq!(queues.read(121 * second, true, None), Ok(60));
        assert!(queues.read(122 * second, false, None).ok() < Some(20), "without TCP");
    }

    #[test]
    fn a_program_that_listens_soon_after_its_start_does_not_have_to_wait_for_the_next_search() {
        let second = Duration::from_secs(1);
        let is_due = |last: u32, now: u32, open| {
            let last = Search { at: last * second, open: Some(7) };
            let listeners = vec![Listener { number: 3, family: Family::Tcp }];
            AcceptQueues { first: Some(second), last, listeners, ..AcceptQueues::default() }
                .is_search_due(now * second, open)
        };
        // Something was opened or closed, or that is not known.
        assert!(is_due(1, 2, Some(8)) && is_due(50, 60, Some(6)) && is_due(1, 2, None));
        assert!(!is_due(1, 2, Some(7)) && !is_due(1, 60, Some(7)));
        // Later only a minute counts.
        assert!(!is_due(50, 61, Some(8)) && !is_due(50, 61, None) && is_due(50, 110, Some(7)));
        assert!(AcceptQueues::default().is_search_due(second, Some(7)));
        let last = Search { at: second, open: Some(7) };
        let mut none_found = AcceptQueues { first: Some(second), last, ..AcceptQueues::default() };
        assert!(none_found.is_search_due(2 * second, Some(7)));
    }

    #[test]
    fn it_tells_why_nothing_is_known() {
        // It is not searched again, so that no listener of another test is found.
        let now = Duration::from_secs(90);
        let last = Search { at: now, open: None };
        let mut queues = AcceptQueues { first: Some(Duration::ZERO), last, ..AcceptQueues::default() };
        assert_eq!(queues.read(now, true, None), Err(Some(Absence::NoListener)));
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        queues.listeners = vec![Listener { number: listening.as_raw_fd(), family: Family::Tcp }];
        assert_eq!(queues.read(now, false, None), Err(Some(Absence::InBacklog)));
        // As where the kernel does not diagnose it.
        queues.listeners[0].family = Family::Unix;
        for _ in 0..2 {
            assert_eq!(queues.read(now, true, None), Err(None));
        }
    }

    #[test]
    fn where_descriptors_are_not_counted_all_numbers_are_looked_at() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut queues = AcceptQueues::default();
        queues.find(None);
        let expected = Listener { number: listening.as_raw_fd(), family: Family::Tcp };
        assert!(queues.listeners.contains(&expected));
    }

    #[test]
    fn what_is_known_in_part_is_unknown() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let (number, level) = (listening.as_raw_fd(), libc::SOL_SOCKET);
        assert_eq!(option::<c_int>(number, level, libc::SO_ACCEPTCONN), Ok(1));
        assert_eq!(option::<[c_int; 2]>(number, level, libc::SO_ACCEPTCONN), Err(libc::ENOPROTOOPT));
    }

    #[test]
    fn an_answer_that_is_malformed_or_an_error_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let listening = UnixListener::bind(folder.path().join("s")).unwrap();
        let diagnosis = Diagnosis::open().unwrap();
        let number = diagnosis.0.as_raw_fd();
        send(number, &Diagnosis::request(inode(listening.as_raw_fd()).unwrap()), MsgFlags::empty()).unwrap();
        let mut answer = [0; 256];
        let length = recv(number, &mut answer, MsgFlags::empty()).unwrap();
        assert_eq!(Diagnosis::queue(&answer[..length]), Some(0));
        for cut in 0..36 {
            assert_eq!(Diagnosis::queue(&answer[..cut]), None, "{cut}");
        }
        // NLMSG_ERROR
        answer[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(Diagnosis::queue(&answer[..length]), None);
    }
}
