//! The sink of a collector: takes lines, packs them, and on flush sends everything or counts what was lost.
//!
//! It never waits for a name: addresses of a named host are what the reader's last look-up found.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cadence::{MetricSink, SinkStats};

use super::address::{Address, ChosenBy, Destination, Host};
use super::health::{Amount, Delivery, Health};
use super::origin::Ending;
use super::packets::{LONGEST, Packets};
use super::socket::Connection;
use crate::message::Message;

/// A UDP payload that fits one Ethernet frame.
const UDP_TARGET: usize = 1432;

/// An Agent that moves is followed this soon.
const LOOK_UP_EVERY: Duration = Duration::from_mins(10);

/// And this soon while sending fails.
const LOOK_UP_AFTER_FAILURE: Duration = Duration::from_mins(1);

/// A sink that can be shared: cadence owns one handle, the pipeline another.
#[derive(Clone, Debug)]
pub struct Transport(Arc<Mutex<State>>);

/// What one process leaves to the next of its knowledge of the way to the receiver.
#[derive(Clone, Debug)]
pub struct Legacy {
    health: Health,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug)]
struct State {
    destination: Destination,
    host: Option<Arc<NamedHost>>,
    looked_up: Option<Duration>,
    addresses: Vec<SocketAddr>,
    connection: Option<Connection>,
    packets: Packets,
    ending: Ending,
    health: Health,
    sent: Amount,
    dropped: Amount,
    messages: Vec<Message>,
    now: Duration,
}

impl Transport {
    /// A sink that opens its socket at the first flush; every line gets the `ending`.
    #[must_use]
    pub fn new(destination: Destination, ending: Ending) -> Self {
        let mut state = State {
            destination: destination.clone(),
            host: None,
            looked_up: None,
            addresses: Vec::new(),
            connection: None,
            packets: Packets::new(UDP_TARGET),
            ending,
            health: Health::default(),
            sent: Amount::default(),
            dropped: Amount::default(),
            messages: Vec::new(),
            now: Duration::ZERO,
        };
        state.head_for(destination);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Gets ready for a flush at `now`: finds a socket that has appeared, takes over what a look-up found.
    pub fn prepare(&self, now: Duration) {
        let mut state = self.state();
        state.now = now;
        state.find_default_socket();
        state.take_look_up();
    }

    /// The host whose name should be looked up, if it is time to.
    #[must_use]
    pub fn due_look_up(&self, now: Duration) -> Option<Arc<NamedHost>> {
        self.state().due_look_up(now)
    }

    /// What a child process can use: it says nothing that its parent has said, and needs no look-up to begin with.
    #[must_use]
    pub fn legacy(&self) -> Legacy {
        let state = self.state();
        Legacy { health: state.health.clone(), addresses: state.addresses.clone() }
    }

    /// Takes over what the parent process knew.
    pub fn inherit(&self, legacy: &Legacy) {
        let mut state = self.state();
        state.health = legacy.health.clone();
        if state.host.is_some() {
            state.addresses.clone_from(&legacy.addresses);
        }
    }

    /// What there is to say since the last call.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut self.state().messages)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetricSink for Transport {
    fn emit(&self, line: &str) -> io::Result<usize> {
        let mut state = self.state();
        let State { packets, ending, .. } = &mut *state;
        if packets.push(line, ending.text()) {
            return Ok(line.len());
        }
        state.dropped.add(line.as_bytes());
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn flush(&self) -> io::Result<()> {
        self.state().flush()
    }

    fn stats(&self) -> SinkStats {
        let state = self.state();
        SinkStats {
            bytes_sent: state.sent.bytes,
            packets_sent: state.sent.packets,
            bytes_dropped: state.dropped.bytes,
            packets_dropped: state.dropped.packets,
        }
    }
}

impl State {
    fn head_for(&mut self, destination: Destination) {
        let (host, addresses, target) = match &destination.address {
            Address::Udp(host, port) => match host.known(*port) {
                Some(addresses) => (None, addresses, UDP_TARGET),
                None => (Some(Arc::new(NamedHost::new(host, *port))), Vec::new(), UDP_TARGET),
            },
            Address::Unix(..) => (None, Vec::new(), LONGEST),
        };
        self.host = host;
        self.addresses = addresses;
        self.packets.set_target(target);
        self.connection = None;
        self.destination = destination;
    }

    /// While nothing was configured and sending fails, an Agent's socket may have appeared or gone.
    fn find_default_socket(&mut self) {
        if !self.health.is_failing() {
            return;
        }
        let ChosenBy::Nobody(socket) = &self.destination.chosen_by else {
            return;
        };
        let found = Destination::by_default(socket);
        if found != self.destination {
            self.head_for(found);
        }
    }

    fn take_look_up(&mut self) {
        let Some(host) = &self.host else { return };
        let found = host.found();
        if !found.is_empty() && found != self.addresses {
            self.addresses = found;
            self.connection = None;
        }
    }

    fn due_look_up(&mut self, now: Duration) -> Option<Arc<NamedHost>> {
        let host = self.host.as_ref()?;
        let every = if self.health.is_failing() { LOOK_UP_AFTER_FAILURE } else { LOOK_UP_EVERY };
        if self.looked_up.is_some_and(|at| now.saturating_sub(at) < every) {
            return None;
        }
        self.looked_up = Some(now);
        Some(Arc::clone(host))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection = self.connection.take().and_then(Connection::if_ours);
        let delivery = self.deliver();
        self.packets.clear();
        self.sent.packets += delivery.sent.packets;
        self.sent.bytes += delivery.sent.bytes;
        self.dropped.packets += delivery.dropped.packets;
        self.dropped.bytes += delivery.dropped.bytes;
        self.messages.extend(self.health.note(&delivery, &self.destination, self.now));
        delivery.failure.map_or(Ok(()), Err)
    }

    /// Sends every payload; a second time where the failure was an earlier payload's, or the peer was replaced.
    fn deliver(&mut self) -> Delivery {
        let mut delivery = Delivery::default();
        let payloads = self.packets.payloads();
        let mut left = payloads.as_slice();
        let (mut cut_short, mut tried_again) = (false, false);
        while !left.is_empty() {
            let is_old = self.connection.is_some();
            let connection = match self.connection.take() {
                Some(connection) => Ok(connection),
                None => connect(&self.destination.address, &self.addresses),
            };
            let result = connection.and_then(|connection| {
                let taken = connection.send(left);
                if taken.as_ref().err().is_none_or(|error| connection.survives(error)) {
                    self.connection = Some(connection);
                }
                taken
            });
            match result {
                Ok(taken) => {
                    let (sent, rest) = left.split_at(taken);
                    for payload in sent {
                        delivery.sent.add(payload);
                    }
                    if cut_short {
                        delivery.earlier_was_refused();
                    }
                    (left, cut_short, tried_again) = (rest, self.is_udp() && !rest.is_empty(), false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_old && !tried_again && is_about_the_peer(&error) => {
                    // A refused UDP datagram is reported at the next send, which itself did not happen.
                    if self.is_udp() {
                        delivery.earlier_was_refused();
                    }
                    tried_again = true;
                }
                Err(error) => {
                    delivery.lose(left, error);
                    break;
                }
            }
        }
        delivery
    }

    fn is_udp(&self) -> bool {
        matches!(self.destination.address, Address::Udp(..))
    }
}

impl Delivery {
    fn lose(&mut self, payloads: &[&[u8]], why: io::Error) {
        for payload in payloads {
            self.dropped.add(payload);
        }
        self.failure.get_or_insert(why);
    }

    /// One more payload is lost than was known when it was sent; its length is not known any more.
    fn earlier_was_refused(&mut self) {
        self.dropped.packets += 1;
        self.failure.get_or_insert(io::ErrorKind::ConnectionRefused.into());
    }
}

fn connect(address: &Address, addresses: &[SocketAddr]) -> io::Result<Connection> {
    match address {
        Address::Udp(host, _) if addresses.is_empty() => {
            Err(io::Error::other(format!("the name {host} has not been resolved")))
        }
        Address::Udp(..) => Connection::udp(addresses),
        #[cfg(unix)]
        Address::Unix(path, kind) => Connection::unix(path, *kind),
        #[cfg(not(unix))]
        Address::Unix(..) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The peer went away, or another has taken its place.
fn is_about_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | BrokenPipe | NotConnected)
}

/// A host whose name must be looked up, which may take many seconds.
#[derive(Debug)]
pub struct NamedHost {
    name: String,
    port: u16,
    found: Mutex<Vec<SocketAddr>>,
}

impl NamedHost {
    fn new(host: &Host, port: u16) -> Self {
        Self { name: host.to_string(), port, found: Mutex::default() }
    }

    /// Asks the system's resolver, and waits for it. A failure leaves what was found before.
    pub fn look_up(&self) {
        if let Ok(addresses) = (self.name.as_str(), self.port).to_socket_addrs() {
            let (mut first, second): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv4);
            first.extend(second);
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = first;
        }
    }

    fn found(&self) -> Vec<SocketAddr> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
