//! Which addresses lead to the receiver: those of a named host, and those of the default socket once it appears.
//!
//! A look-up may take many seconds. It is handed out to a thread that may wait; what it finds is taken over before a
//! flush.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::address::{Address, ChosenBy, Destination, Host};
use super::candidates::Candidates;
use crate::descriptor::ClosedStreams;

/// How often a host's name is looked up. UDP does not report that a host has gone, so this is also the time after which
/// a receiver is followed that has moved. A name that has never been resolved is looked up after a second, two, four,
/// up to this: when a program starts, the network may not be up yet.
const LOOK_UP_INTERVAL: Duration = Duration::from_mins(1);

/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 8;

/// The destination, and the addresses that are known of it.
#[derive(Debug)]
pub struct Resolver {
    destination: Destination,
    /// `None` if the destination needs no look-up.
    host: Option<Arc<NamedHost>>,
    /// The addresses of a UDP destination; none while its name has not been resolved.
    candidates: Candidates,
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
        let candidates = Candidates::new(addresses);
        Self { destination, host, candidates, looked_up_at: None, failed_look_ups: 0 }
    }

    /// Where metrics go.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The addresses of a UDP destination; none while its name has not been resolved.
    #[must_use]
    pub fn candidates(&self) -> &Candidates {
        &self.candidates
    }

    /// The same, to go on to another.
    pub fn candidates_mut(&mut self) -> &mut Candidates {
        &mut self.candidates
    }

    /// Takes over what the last look-up found and, while sending fails, notices that the default socket has appeared
    /// or gone. Returns whether another connection is needed.
    pub fn refresh(&mut self, is_failing: bool) -> bool {
        let has_moved = is_failing && self.find_default_socket();
        has_moved | self.take_found()
    }

    /// The look-up to be made, if it is time for one.
    #[must_use]
    pub fn due_look_up(&mut self, now: Duration) -> Option<LookUp> {
        let host = self.host.as_ref()?;
        let is_unknown = self.candidates.all().is_empty();
        let interval = if is_unknown {
            let doubled = Duration::from_secs(1 << self.failed_look_ups.saturating_sub(1).min(6));
            LOOK_UP_INTERVAL.min(doubled)
        } else {
            LOOK_UP_INTERVAL
        };
        let is_recent = self.looked_up_at.is_some_and(|at| now.saturating_sub(at) < interval);
        if is_recent || host.is_being_looked_up.swap(true, SeqCst) {
            return None;
        }
        self.looked_up_at = Some(now);
        self.failed_look_ups += u32::from(is_unknown);
        Some(LookUp(Arc::clone(host)))
    }

    /// Begins with the addresses that a parent process found, and with the one that it sent to.
    pub fn take_over(&mut self, candidates: &Candidates) {
        if self.host.is_some() || self.candidates.all() == candidates.all() {
            self.candidates.clone_from(candidates);
            // What was refused, and when, is the parent's; its clock may be another.
            self.candidates.keep();
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
        if found.is_empty() || *found == self.candidates.all() {
            return false;
        }
        self.failed_look_ups = 0;
        self.candidates.replace(&found)
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
            found.truncate(MAX_ADDRESSES);
            *self.0.found() = found;
        }
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        self.0.is_being_looked_up.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_has_got_other_addresses_is_followed_though_sending_works() {
        let destination =
            Destination { address: "udp://agent:1".parse().unwrap(), chosen_by: ChosenBy::Setting("a test") };
        let mut resolver = Resolver::new(destination);
        let address = |last| SocketAddr::from(([10, 0, 0, last], 1));
        let mut finds = |second, found: &[SocketAddr]| {
            let look_up = resolver.due_look_up(Duration::from_secs(second)).expect("it is due");
            *look_up.0.found() = found.to_vec();
            let is_moved = resolver.refresh(false);
            (is_moved, resolver.candidates.connect(Ok).unwrap())
        };
        assert_eq!(finds(0, &[address(1)]), (true, address(1)));
        // A name server may list them in another order each time.
        assert_eq!(finds(60, &[address(2), address(1)]), (false, address(1)));
        assert_eq!(finds(120, &[address(2)]), (true, address(2)));
    }
}
