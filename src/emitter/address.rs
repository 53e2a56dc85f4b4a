//! Where metrics go: the forms of an address, and what chose it.
//!
//! Names are not resolved here: that may take seconds, and is the resolver's part.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The forms of an address, for messages and documents.
pub const ACCEPTED: &str = if cfg!(unix) {
    "udp://host[:port], unix:///path, unixgram:///path, unixstream:///path, host[:port] or /path"
} else {
    "udp://host[:port] or host[:port]"
};

/// The port of an Agent if none is given.
pub const DEFAULT_PORT: u16 = 8125;

/// The socket that an Agent on the same host offers by default.
pub const DEFAULT_SOCKET: &str = "/var/run/datadog/dsd.socket";

/// The longest path of a Unix socket, in bytes: it must fit into `sun_path` with its final NUL.
const MAX_PATH_LENGTH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
#[cfg(unix)]
const _: () = {
    use nix::libc::sockaddr_un;
    assert!(MAX_PATH_LENGTH < size_of::<sockaddr_un>() - std::mem::offset_of!(sockaddr_un, sun_path));
};

/// The longest name of a host, in bytes: it must fit into a DNS message.
const MAX_HOST_LENGTH: usize = 253;

/// Where metrics go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host, by name or number, and a port.
    Udp(Host, u16),
    /// A Unix socket.
    Unix(PathBuf, UnixKind),
}

/// A host, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IP address.
    Number(IpAddr),
    /// This machine; needs no look-up.
    Localhost,
    /// A name to be looked up.
    Name(String),
}

/// The type of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnixKind {
    /// Datagrams, or a stream if the socket turns out to be one.
    Either,
    /// A datagram socket.
    Datagram,
    /// A stream socket.
    Stream,
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidAddress {
    /// It is none of the [`ACCEPTED`] forms.
    Form,
    /// The port is none.
    Port,
    /// An IPv6 address whose end could be a port.
    Brackets,
    /// The path is relative.
    RelativePath,
    /// The path does not fit into a socket's address.
    PathLength,
    /// It is a Unix socket's, and this system has none.
    NoUnixSockets,
}

impl InvalidAddress {
    /// What is accepted in its place.
    #[must_use]
    pub fn accepted(self) -> &'static str {
        match self {
            Self::Form => ACCEPTED,
            Self::Port => "a port from 1 to 65535",
            Self::Brackets => "an IPv6 address in brackets, such as udp://[::1]:8125",
            Self::RelativePath => "a path that begins with /, such as unix:///path",
            Self::PathLength if MAX_PATH_LENGTH == 107 => "a path of at most 107 bytes",
            Self::PathLength => "a path of at most 103 bytes",
            Self::NoUnixSockets => "udp://host[:port] or host[:port], as this system has no Unix sockets",
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// Ignores white space around it: a value from a file or a secret often ends in a line feed.
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.starts_with('/') { unix(text, UnixKind::Either) } else { udp(text) };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "udp" => udp(rest.strip_suffix('/').unwrap_or(rest)),
            "unix" => unix(rest, UnixKind::Either),
            "unixgram" => unix(rest, UnixKind::Datagram),
            "unixstream" => unix(rest, UnixKind::Stream),
            _ => Err(InvalidAddress::Form),
        }
    }
}

fn unix(path: &str, kind: UnixKind) -> Result<Address, InvalidAddress> {
    if cfg!(not(unix)) {
        return Err(InvalidAddress::NoUnixSockets);
    }
    if path.len() <= 1 || path.contains('\0') {
        return Err(InvalidAddress::Form);
    }
    if !path.starts_with('/') {
        return Err(InvalidAddress::RelativePath);
    }
    if path.len() > MAX_PATH_LENGTH {
        return Err(InvalidAddress::PathLength);
    }
    Ok(Address::Unix(path.into(), kind))
}

fn udp(text: &str) -> Result<Address, InvalidAddress> {
    // A colon within the brackets of an IPv6 literal does not begin a port.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    // An IPv6 literal without brackets could end in a port or not.
    if host.contains(':') && !host.starts_with('[') {
        let is_number = |text: &str| text.parse::<Ipv6Addr>().is_ok();
        let could_be_number = is_number(text) || is_number(host);
        return Err(if could_be_number { InvalidAddress::Brackets } else { InvalidAddress::Form });
    }
    let host = host.parse()?;
    let port = match port {
        "" => DEFAULT_PORT,
        // A path after the host.
        _ if port.contains('/') => return Err(InvalidAddress::Form),
        _ => parse_port(port).ok_or(InvalidAddress::Port)?,
    };
    Ok(Address::Udp(host, port))
}

/// A port from 1 to 65535, in digits alone.
#[must_use]
pub fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

impl FromStr for Host {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return literal
                .parse::<Ipv6Addr>()
                .map(|n| Self::Number(n.into()))
                .map_err(|_| InvalidAddress::Form);
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::Number(number));
        }
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self::Localhost);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let valid = !text.is_empty() && text.len() <= MAX_HOST_LENGTH && text.bytes().all(allowed);
        if valid { Ok(Self::Name(text.to_owned())) } else { Err(InvalidAddress::Form) }
    }
}

impl Host {
    /// The addresses that need no look-up, in the order to be tried; `None` for a name.
    #[must_use]
    pub fn known(&self, port: u16) -> Option<Vec<SocketAddr>> {
        let numbers: &[IpAddr] = match self {
            Self::Number(number) => &[*number],
            Self::Localhost => &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            Self::Name(_) => return None,
        };
        Some(numbers.iter().map(|number| SocketAddr::new(*number, port)).collect())
    }
}

impl Address {
    /// Whether a refusal may stay unknown: another machine decides whether to report it.
    #[must_use]
    pub fn hides_losses(&self) -> bool {
        matches!(self, Self::Udp(host, _) if !host.is_this_machine())
    }
}

impl Host {
    /// Whether packets to it stay on this machine, or in this container.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        match self {
            Self::Number(number) => number.is_loopback(),
            Self::Localhost => true,
            Self::Name(_) => false,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(IpAddr::V6(number)) => write!(f, "[{number}]"),
            Self::Number(number) => number.fmt(f),
            Self::Localhost => f.write_str("localhost"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(host, port) => write!(f, "udp://{host}:{port}"),
            Self::Unix(path, UnixKind::Either) => write!(f, "unix://{}", path.display()),
            Self::Unix(path, UnixKind::Datagram) => write!(f, "unixgram://{}", path.display()),
            Self::Unix(path, UnixKind::Stream) => write!(f, "unixstream://{}", path.display()),
        }
    }
}

/// An address, and what chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where metrics go.
    pub address: Address,
    /// What chose the address.
    pub chosen_by: ChosenBy,
}

/// What chose an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// An argument or variable of this name.
    Setting(&'static str),
    /// Nothing: it is the default. While sending fails, the socket at this path is looked for again.
    Default(PathBuf),
}

impl Destination {
    /// The socket of an Agent on this host if it exists, else UDP to this host.
    #[must_use]
    pub fn by_default(socket: &Path) -> Self {
        Self::default_at(socket, socket.exists())
    }

    /// The same, where it is known whether the socket exists.
    #[must_use]
    pub fn default_at(socket: &Path, exists: bool) -> Self {
        let address = if exists {
            Address::Unix(socket.to_owned(), UnixKind::Either)
        } else {
            Address::Udp(Host::Localhost, DEFAULT_PORT)
        };
        Self { address, chosen_by: ChosenBy::Default(socket.to_owned()) }
    }

    /// Where the Datadog Lambda Extension receives metrics. By number, as `localhost` stands for two addresses.
    #[must_use]
    pub fn of_extension() -> Self {
        let address = Address::Udp(Host::Number(Ipv4Addr::LOCALHOST.into()), DEFAULT_PORT);
        Self { address, chosen_by: ChosenBy::Setting("the Datadog Lambda Extension") }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chosen_by {
            ChosenBy::Setting(name) => write!(f, "{} (from {name})", self.address),
            ChosenBy::Default(_) => write!(f, "{} (by default)", self.address),
        }
    }
}

impl ChosenBy {
    /// The setting's name, or `default`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Setting(name) => name,
            Self::Default(_) => "default",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[cfg(not(unix))]
    fn without_unix_sockets_their_addresses_are_refused() {
        for text in ["unix:///d.sock", "unixgram:///d.sock", "unixstream:///d.sock", "/d.sock"] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress::NoUnixSockets), "{text}");
        }
    }

    #[test]
    fn every_accepted_form_is_parsed() {
        for (text, expected) in [
            ("udp://agent:9125", "udp://agent:9125"),
            ("udp://agent", "udp://agent:8125"),
            ("udp://agent:9125/", "udp://agent:9125"),
            ("udp://agent:", "udp://agent:8125"),
            (" udp://agent:9125\n", "udp://agent:9125"),
            ("UDP://agent", "udp://agent:8125"),
            ("agent", "udp://agent:8125"),
            ("agent.svc.cluster.local:1", "udp://agent.svc.cluster.local:1"),
            ("10.0.0.7:65535", "udp://10.0.0.7:65535"),
            ("udp://[::1]:8126", "udp://[::1]:8126"),
            ("udp://[::1]", "udp://[::1]:8125"),
            ("LocalHost", "udp://localhost:8125"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
    }

    #[test]
    #[cfg(unix)]
    fn every_accepted_form_of_a_unix_socket_is_parsed() {
        for (text, expected) in [
            ("\t/d.sock\n", "unix:///d.sock"),
            ("/var/run/d.sock", "unix:///var/run/d.sock"),
            ("unix:///d.sock", "unix:///d.sock"),
            ("unixgram:///d.sock", "unixgram:///d.sock"),
            ("unixstream:///d.sock", "unixstream:///d.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
        for text in ["unix://", "unix:///", "unix:///a\0b"] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress::Form), "{text:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_mistake_in_a_path_is_named() {
        let longest = "x".repeat(MAX_PATH_LENGTH - 1);
        assert!(format!("unix:///{longest}").parse::<Address>().is_ok());
        for (text, reason) in [
            ("unix://d.sock", InvalidAddress::RelativePath),
            (&format!("unix:///{longest}x"), InvalidAddress::PathLength),
            (&format!("/{longest}x"), InvalidAddress::PathLength),
        ] {
            assert_eq!(text.parse::<Address>(), Err(reason), "{text:?}");
        }
        assert!(InvalidAddress::PathLength.accepted().contains(&MAX_PATH_LENGTH.to_string()));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "ftp://x",
            "http://x:8125",
            "udp://",
            "udp://:8125",
            ":8125",
            "udp://a b",
            "udp://agent/path",
            "udp://agent:1//",
            "./d.sock",
            "d.sock/x",
            r"\\.\pipe\datadog",
            "[::1",
            "[::g]",
            "a:b:c",
            "udp://a:b:1",
            "agent\nb",
        ] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress::Form), "{text:?}");
        }
    }

    #[test]
    fn a_mistake_in_one_part_is_named() {
        for (text, reason) in [
            ("agent:0", InvalidAddress::Port),
            ("udp://agent:99999", InvalidAddress::Port),
            ("[::1]:65536", InvalidAddress::Port),
            ("agent:abc", InvalidAddress::Port),
            ("agent:+1", InvalidAddress::Port),
            ("fe80::1", InvalidAddress::Brackets),
            ("udp://::1:8125", InvalidAddress::Brackets),
        ] {
            assert_eq!(text.parse::<Address>(), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn localhost_and_numbers_need_no_look_up() {
        let known = |text: &str| text.parse::<Host>().unwrap().known(1);
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(known("localhost"), Some(vec![address("127.0.0.1:1"), address("[::1]:1")]));
        assert_eq!(known("10.1.2.3"), Some(vec![address("10.1.2.3:1")]));
        assert_eq!(known("[::2]"), Some(vec![address("[::2]:1")]));
        assert_eq!(known("agent"), None);
    }

    #[test]
    fn the_default_is_the_socket_if_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dsd.socket");
        assert_eq!(Destination::by_default(&socket).address.to_string(), "udp://localhost:8125");
        std::fs::write(&socket, "").unwrap();
        let expected = format!("unix://{} (by default)", socket.display());
        assert_eq!(Destination::by_default(&socket).to_string(), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_printed_back_as_the_same_address(text: String) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }

        #[test]
        fn what_looks_like_an_address_is_printed_back_as_the_same_address(
            text in "(udp://|unix://|unixgram://|unixstream://|)/?[a-z0-9.\\[\\]:_-]{0,20}(:[0-9]{1,6})?"
        ) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}
