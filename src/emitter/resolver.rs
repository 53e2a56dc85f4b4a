//! Hosts whose names must be looked up.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};

use super::address::Host;

/// A host whose name must be looked up, which may take many seconds.
#[derive(Debug)]
pub struct Resolver {
    name: String,
    port: u16,
    found: Mutex<Vec<SocketAddr>>,
}

impl Resolver {
    /// A host that nothing is known of yet.
    #[must_use]
    pub fn new(host: &Host, port: u16) -> Self {
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

    /// What the last look-up found.
    #[must_use]
    pub fn found(&self) -> Vec<SocketAddr> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
