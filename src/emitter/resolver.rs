//! Which addresses lead to the receiver: those of a named host, and those of the default socket once it appears.
//!
//! A look-up may take many seconds. It is handed out to a thread that may wait; what it finds is taken over before a
//! flush.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::address::{Address, ChosenBy, Destination, Host};
use crate::descriptor::ClosedStreams;

/// How often a host's name is looked up, in case it has moved.
const LOOK_UP_INTERVAL: Duration = Duration::from_mins(10);

/// How often while sending fails. A name that has never been resolved is looked up after a second, two, four, up to
/// this: when a program starts, the network may not be up yet.
const FAILING_LOOK_UP_INTERVAL: Duration = Duration::from_mins(1);

/// The destination, and the addresses that are known of it.
#[derive(Debug)]
pub struct Resolver {
    destination: Destination,
    /// `None` if the destination needs no look-up.
    host: Option<Arc<NamedHost>>,
    addresses: Vec<SocketAddr>,
    looked_up_at: Option<Duration>,
    failed_look_ups: u32,
}

#[derive(Debug)]
struct NamedHost {
    name: String,
    port: u16,
    found: Mutex<Vec<SocketAddr>>,
    is_being_looked_up: AtomicBool,
}

/// A look-up that is due. No other is handed out until it is dropped.
#[derive(Debug)]
pub struct LookUp(Arc<NamedHost>);

impl Resolver {
    /// Looks nothing up yet.
    #[must_use]
    pub fn new(destination: Destination) -> Self {
        let (host, addresses) = match &destination.address {
            Address::Udp(host, port) => match host.known(*port) {
                Some(addresses) => (None, addresses),
                None => (Some(NamedHost::new(host, *port)), Vec::new()),
            },
            Address::Unix(..) => (None, Vec::new()),
        };
        let host = host.map(Arc::new);
        Self { destination, host, addresses, looked_up_at: None, failed_look_ups: 0 }
    }

    /// Where metrics go.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The addresses of a UDP destination, in the order to be tried; none while its name has not been resolved.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes over what the last look-up found and, while sending fails, notices that the default socket has appeared
    /// or gone. Returns whether another connection is needed.
    pub fn refresh(&mut self, is_failing: bool) -> bool {
        let has_moved = is_failing && self.find_default_socket();
        has_moved | self.take_found()
    }

    /// The look-up to be made, if it is time for one.
    #[must_use]
    pub fn due_look_up(&mut self, now: Duration, is_failing: bool) -> Option<LookUp> {
        let host = self.host.as_ref()?;
        let interval = if self.addresses.is_empty() {
            let doubled = Duration::from_secs(1 << self.failed_look_ups.saturating_sub(1).min(6));
            FAILING_LOOK_UP_INTERVAL.min(doubled)
        } else if is_failing {
            FAILING_LOOK_UP_INTERVAL
        } else {
            LOOK_UP_INTERVAL
        };
        let is_recent = self.looked_up_at.is_some_and(|at| now.saturating_sub(at) < interval);
        if is_recent || host.is_being_looked_up.swap(true, SeqCst) {
            return None;
        }
        self.looked_up_at = Some(now);
        self.failed_look_ups += u32::from(self.addresses.is_empty());
        Some(LookUp(Arc::clone(host)))
    }

    /// Begins with addresses that a parent process found, if there is a name to be looked up.
    pub fn take_over(&mut self, addresses: &[SocketAddr]) {
        if self.host.is_some() {
            addresses.clone_into(&mut self.addresses);
        }
    }

    fn find_default_socket(&mut self) -> bool {
        let ChosenBy::Default(socket) = &self.destination.chosen_by else {
            return false;
        };
        let found = Destination::by_default(socket);
        let has_moved = found != self.destination;
        if has_moved {
            *self = Self::new(found);
        }
        has_moved
    }

    fn take_found(&mut self) -> bool {
        let Some(host) = &self.host else { return false };
        let found = host.found();
        if found.is_empty() || *found == self.addresses {
            return false;
        }
        self.addresses.clone_from(&found);
        self.failed_look_ups = 0;
        true
    }
}

impl NamedHost {
    fn new(host: &Host, port: u16) -> Self {
        Self {
            name: host.to_string(),
            port,
            found: Mutex::default(),
            is_being_looked_up: AtomicBool::new(false),
        }
    }

    fn found(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookUp {
    /// Asks the system's resolver and waits for it. If it fails, what was found before holds.
    pub fn run(&self) {
        // The C library opens sockets of its own, to name servers.
        let _closed_streams = ClosedStreams::take();
        if let Ok(addresses) = (self.0.name.as_str(), self.0.port).to_socket_addrs() {
            let (mut found, v6): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv4);
            found.extend(v6);
            *self.0.found() = found;
        }
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        self.0.is_being_looked_up.store(false, SeqCst);
    }
}
