//! The addresses of a host, and which of them is sent to: another one after a refusal.
//!
//! A name may stand for several addresses, as `localhost` does, and the receiver may listen on one of them alone. No
//! address is tried twice in a row while another has not been tried; once all are refused, the one that was used before
//! stays in use, and the others are tried again after a while.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long the others are left alone once all were refused.
const PAUSE: Duration = Duration::from_mins(1);

/// The addresses of a host, in the order to be tried.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    addresses: Vec<SocketAddr>,
    /// The index of the one that is sent to.
    current: usize,
    /// How many were refused, one after the other, since sending last worked.
    refused: usize,
    /// When the last of them all was refused.
    all_refused_at: Duration,
}

impl Candidates {
    /// Begins with the first.
    #[must_use]
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, ..Self::default() }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Connects to the one that is sent to or, where that fails, to the first after it that can be connected to.
    ///
    /// # Errors
    ///
    /// The last address's; `NotFound` without any.
    pub fn connect<T>(&mut self, connect: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for index in (self.current..self.addresses.len()).chain(0..self.current) {
            result = connect(self.addresses[index]);
            if result.is_ok() {
                self.current = index;
                break;
            }
        }
        result
    }

    /// Whether another address would be tried if the current one were refused now.
    #[must_use]
    pub fn has_other(&self, now: Duration) -> bool {
        let is_pausing =
            self.refused >= self.addresses.len() && now.saturating_sub(self.all_refused_at) < PAUSE;
        self.addresses.len() > 1 && !is_pausing
    }

    /// The current one was refused: goes on to the next, unless there is none to be tried. Returns whether it has.
    ///
    /// After the last, it goes back to the one that was used before.
    pub fn refuse(&mut self, now: Duration) -> bool {
        if !self.has_other(now) {
            return false;
        }
        let count = self.addresses.len();
        self.refused = self.refused % count + 1;
        self.current = (self.current + 1) % count;
        if self.refused == count {
            self.all_refused_at = now;
        }
        true
    }

    /// A flush lost nothing: the current one is kept.
    pub fn keep(&mut self) {
        self.refused = 0;
    }

    /// Takes over other addresses. Returns whether the current one is not among them; else it is kept.
    pub fn replace(&mut self, addresses: &[SocketAddr]) -> bool {
        let current = self.addresses.get(self.current);
        let kept = current.and_then(|current| addresses.iter().position(|address| address == current));
        *self = Self::new(addresses.to_vec());
        self.current = kept.unwrap_or_default();
        kept.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);

    fn three() -> Candidates {
        Candidates::new((1..4).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect())
    }

    fn current(candidates: &mut Candidates) -> u16 {
        candidates.connect(Ok).unwrap().port()
    }

    #[test]
    fn each_refusal_leads_to_the_next_until_all_were_refused() {
        let mut candidates = three();
        let tried: Vec<_> = (0..5).map(|_| (candidates.refuse(FIRST), current(&mut candidates))).collect();
        assert_eq!(tried, [(true, 2), (true, 3), (true, 1), (false, 1), (false, 1)]);
        // After a minute all are tried once more.
        let later = FIRST + PAUSE;
        let tried: Vec<_> = (0..4).map(|_| (candidates.refuse(later), current(&mut candidates))).collect();
        assert_eq!(tried, [(true, 2), (true, 3), (true, 1), (false, 1)]);
    }

    #[test]
    fn the_one_that_works_is_kept_and_is_the_first_of_the_next_round() {
        let mut candidates = three();
        assert!(candidates.refuse(FIRST));
        candidates.keep();
        let tried: Vec<_> = (0..4).map(|_| (candidates.refuse(FIRST), current(&mut candidates))).collect();
        assert_eq!(tried, [(true, 3), (true, 1), (true, 2), (false, 2)]);
    }

    #[test]
    fn one_that_cannot_be_connected_to_is_left_out() {
        let mut candidates = three();
        let last = |address: SocketAddr| {
            if address.port() == 3 { Ok(()) } else { Err(io::ErrorKind::NetworkUnreachable.into()) }
        };
        assert!(candidates.connect(last).is_ok());
        assert_eq!(current(&mut candidates), 3);
        let none = |_| Err::<(), _>(io::ErrorKind::AddrNotAvailable.into());
        assert_eq!(candidates.connect(none).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(Candidates::default().connect(Ok).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn one_address_alone_has_no_other() {
        let mut candidates = Candidates::new(vec![SocketAddr::from(([127, 0, 0, 1], 1))]);
        assert!(!candidates.has_other(FIRST) && !candidates.refuse(FIRST));
    }

    #[test]
    fn of_other_addresses_the_current_one_is_kept() {
        let mut candidates = three();
        assert!(candidates.refuse(FIRST));
        let mut others = candidates.all().to_vec();
        others.rotate_left(2);
        assert!(!candidates.replace(&others));
        assert_eq!(current(&mut candidates), 2);
        others.retain(|address| address.port() != 2);
        assert!(candidates.replace(&others));
        assert_eq!(current(&mut candidates), 3);
    }
}
