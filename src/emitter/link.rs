//! The link to the receiver: opened at the first send, and again whenever it leads to a receiver that has gone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::address::{Address, Destination, UnixKind};
use super::packets::{MAX_PAYLOAD, MAX_UDP_PAYLOAD, Payload};
use super::resolver::Resolver;
use super::socket::{Connection, Protocol};

/// A connection to the receiver, and what is needed to open another.
#[derive(Debug)]
pub struct Link {
    resolver: Resolver,
    connection: Option<Connection>,
    /// What the last connection went over.
    protocol: Option<Protocol>,
    /// What was sent last is known to have been refused.
    was_refused: bool,
}

impl Link {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(destination: Destination) -> Self {
        Self { resolver: Resolver::new(destination), connection: None, protocol: None, was_refused: false }
    }

    /// Where it leads.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        self.resolver.destination()
    }

    /// The addresses of a UDP receiver, as far as they are known.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.resolver.candidates().all()
    }

    /// What knows the addresses of the receiver.
    pub fn resolver(&mut self) -> &mut Resolver {
        &mut self.resolver
    }

    /// Follows a receiver that has moved, or a default socket that has appeared or gone.
    pub fn refresh(&mut self, is_failing: bool) {
        if self.resolver.refresh(is_failing) {
            (self.connection, self.protocol) = (None, None);
        }
    }

    /// Closes a connection that is not ours any more, or leads to a receiver that has been replaced.
    pub fn check(&mut self) {
        self.connection = self.connection.take().filter(Connection::is_ours);
        #[cfg(unix)]
        if let Address::Unix(path, _) = &self.resolver.destination().address {
            self.connection = self.connection.take().filter(|connection| connection.was_reached_by(path));
        }
    }

    /// Closes the connection; the next send opens another.
    pub fn close(&mut self) {
        self.connection = None;
    }

    /// Whether a connection is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Sends payloads from the first on; gives how many the kernel accepted, at least one. What waits for its receiver
    /// may wait for `time_left`.
    ///
    /// A UDP address that refuses them is given up for another of the same name, if there is one.
    ///
    /// # Errors
    ///
    /// Why the first payload could not be sent.
    pub fn send(
        &mut self,
        payloads: &[Payload<'_>],
        now: Duration,
        time_left: impl Fn() -> Duration,
    ) -> io::Result<usize> {
        loop {
            let open = self.connection.take();
            let is_in_doubt = open.is_none() || std::mem::take(&mut self.was_refused);
            let is_trial = is_in_doubt && self.resolver.candidates().has_other(now);
            let connection = match open {
                Some(connection) => connection,
                None => self.connect()?,
            };
            self.protocol = Some(connection.protocol());
            let result =
                if is_trial { connection.try_out(payloads) } else { connection.send(payloads, &time_left) };
            let error = result.as_ref().err();
            if error.is_some_and(|error| connection.is_refused(error))
                && self.resolver.candidates_mut().refuse(now)
            {
                if is_trial {
                    continue;
                }
            } else if error.is_none_or(|error| connection.survives(error)) {
                self.connection = Some(connection);
            }
            return result;
        }
    }

    /// A flush lost nothing: the address that is sent to is kept.
    pub fn keep_address(&mut self) {
        self.resolver.candidates_mut().keep();
    }

    /// Whether what was sent last over UDP is known to have been refused; each refusal is reported once. The address is
    /// given up for another of the same name, if there is one.
    pub fn was_refused(&mut self, now: Duration) -> bool {
        self.was_refused = self.connection.as_ref().is_some_and(Connection::was_refused);
        if self.was_refused && self.resolver.candidates_mut().refuse(now) {
            self.connection = None;
        }
        self.was_refused
    }

    /// Whether it leads to a UDP port.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        matches!(self.destination().address, Address::Udp(..))
    }

    /// The length up to which lines share a payload.
    #[must_use]
    pub fn target(&self) -> usize {
        if self.is_udp() { MAX_UDP_PAYLOAD } else { MAX_PAYLOAD }
    }

    /// `udp`, `uds` or `uds-stream`: what it goes over, or would if nothing has been sent yet.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match (self.protocol, &self.destination().address) {
            (Some(Protocol::Udp), _) | (None, Address::Udp(..)) => "udp",
            (Some(Protocol::UnixStream), _) | (None, Address::Unix(_, UnixKind::Stream)) => "uds-stream",
            (Some(Protocol::UnixDatagram), _) | (None, Address::Unix(..)) => "uds",
        }
    }

    /// The address of a UDP receiver, once something was sent to it.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection.as_ref()?.peer()
    }

    fn connect(&mut self) -> io::Result<Connection> {
        match &self.resolver.destination().address {
            Address::Udp(host, _) if self.resolver.candidates().all().is_empty() => {
                Err(io::Error::other(format!("the name {host} has not been resolved")))
            }
            Address::Udp(..) => self.resolver.candidates_mut().connect(Connection::udp),
            #[cfg(unix)]
            Address::Unix(path, kind) => Connection::unix(path, *kind),
            #[cfg(not(unix))]
            Address::Unix(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Makes long payloads fail.
    #[cfg(all(test, target_os = "linux"))]
    pub fn shrink_send_buffer(&self) {
        self.connection.as_ref().unwrap().shrink_send_buffer();
    }
}
