//! Whether sending works, and what there is to say when that changes: one message per change of state.

use std::io;
use std::time::Duration;

use super::address::{Address, Destination};
use super::delivery::Delivery;
use super::status::Sending;
use crate::message::{Message, Severity};

/// A queue that was full for this many flushes of the schedule in a row is a receiver too slow, not a burst.
const PATIENCE: u32 = 6;

/// A kernel tells a stranger at most once a second that nobody listens, and all who send from one address share that.
/// So a flush without an error proves little over a network; this long without one, it does.
const QUIET: Duration = Duration::from_mins(1);

/// Sending as it has gone so far.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: State,
    /// Whether this process has sent anything.
    is_tried: bool,
    /// When sending began to work, or not to.
    since: Duration,
    /// The last flush that lost something.
    failed: Duration,
    /// What was lost since sending worked.
    dropped: u64,
    full_queues: u32,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Untried,
    Working,
    Failing(Kind),
}

/// What kind of failure it is: a new kind is worth a line, the same one again is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unreachable,
    Denied,
    Name,
    TooLarge,
    Resources,
    SlowReceiver,
    Other,
}

impl Health {
    /// What a child process takes over: it says nothing that its parent has said, and has sent nothing.
    #[must_use]
    pub fn of_heir(&self) -> Self {
        Self { state: self.state, full_queues: self.full_queues, ..Self::default() }
    }

    /// Takes note of a flush at `now`; gives a message if the state has changed.
    pub fn note(&mut self, delivery: &Delivery, to: &Destination, now: Duration) -> Option<Message> {
        let was_tried = std::mem::replace(&mut self.is_tried, true);
        let Some(error) = &delivery.failure else {
            return self.succeeded(to, now, was_tried);
        };
        if !was_tried || !self.is_failing() {
            self.since = now;
        }
        let kind = Kind::of(error);
        let reason = kind.explain(error, &to.address);
        self.failed = now;
        self.dropped += delivery.dropped.packets;
        self.full_queues = if kind == Kind::SlowReceiver { self.full_queues + 1 } else { 0 };
        let message = match (self.state, self.full_queues) {
            (_, 2..PATIENCE) => None,
            (_, 1) => Some(Message::new(Severity::Debug, format!("sending to {to}: {reason}"))),
            (State::Failing(before), _) => (before != kind)
                .then(|| Message::new(Severity::Debug, format!("sending to {to} still fails: {reason}"))),
            _ => Some(Message::warning(format!("sending to {to} fails: {reason}; will keep trying"))),
        };
        if !(1..PATIENCE).contains(&self.full_queues) {
            self.state = State::Failing(kind);
        }
        self.error = Some(reason);
        message
    }

    /// Whether the last flush lost something.
    pub fn is_failing(&self) -> bool {
        matches!(self.state, State::Failing(_)) || self.full_queues > 0
    }

    /// Whether sending works, since when, and the last error.
    pub fn report(&self) -> (Sending, Duration, Option<&str>) {
        let sending = match (self.is_tried, self.is_failing()) {
            (false, _) => Sending::Untried,
            (true, true) => Sending::Failing,
            (true, false) => Sending::Working,
        };
        (sending, self.since, self.error.as_deref())
    }

    fn succeeded(&mut self, to: &Destination, now: Duration, was_tried: bool) -> Option<Message> {
        let had_full_queues = std::mem::take(&mut self.full_queues) > 0;
        if self.state == State::Failing(Kind::Unreachable)
            && to.address.hides_losses()
            && now.saturating_sub(self.failed) < QUIET
        {
            return None;
        }
        let (dropped, since) = (std::mem::take(&mut self.dropped), self.since);
        let before = std::mem::replace(&mut self.state, State::Working);
        if before != State::Working || had_full_queues || !was_tried {
            self.since = now;
        }
        match before {
            State::Untried => Some(Message::new(Severity::Debug, format!("sending to {to}"))),
            State::Working => None,
            State::Failing(_) => {
                let seconds = now.saturating_sub(since).as_secs();
                let least = if to.address.hides_losses() { "at least " } else { "" };
                let text = format!(
                    "sending to {to} works again after {seconds} s; {least}{dropped} packets were lost"
                );
                Some(Message::new(Severity::Info, text))
            }
        }
    }
}

impl Kind {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as E;
        match error.kind() {
            E::WouldBlock | E::TimedOut => Self::SlowReceiver,
            E::ConnectionRefused
            | E::ConnectionReset
            | E::BrokenPipe
            | E::NotConnected
            | E::NotFound
            | E::NetworkUnreachable
            | E::HostUnreachable
            | E::NetworkDown
            | E::AddrNotAvailable => Self::Unreachable,
            E::PermissionDenied => Self::Denied,
            E::OutOfMemory => Self::Resources,
            E::FileTooLarge => Self::TooLarge,
            _ if error.raw_os_error().is_none() => Self::Name,
            #[cfg(unix)]
            _ => Self::of_errno(error),
            #[cfg(not(unix))]
            _ => Self::Other,
        }
    }

    /// Errors that the standard library gives no kind.
    #[cfg(unix)]
    fn of_errno(error: &io::Error) -> Self {
        use nix::errno::Errno;
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOBUFS) => Self::SlowReceiver,
            Some(Errno::EMSGSIZE) => Self::TooLarge,
            Some(Errno::EMFILE | Errno::ENFILE) => Self::Resources,
            Some(Errno::EDESTADDRREQ | Errno::ENOTCONN) => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// The system's words and the likely cause.
    fn explain(self, error: &io::Error, to: &Address) -> String {
        let cause = match (self, to) {
            (Self::Unreachable, Address::Udp(host, _)) if host.is_this_machine() => {
                "is an Agent listening there, in this container or on this host?"
            }
            (Self::Unreachable, Address::Udp(..)) => {
                "is an Agent listening there, with DD_DOGSTATSD_NON_LOCAL_TRAFFIC=true?"
            }
            (Self::Unreachable, Address::Unix(..)) => {
                "is the Agent running, and is its directory mounted here?"
            }
            (Self::Denied, Address::Udp(..)) => "does a firewall refuse it?",
            (Self::Denied, Address::Unix(..)) => {
                return format!("{error} (may {} write to it?)", this_user());
            }
            (Self::Name, _) => "is the name right?",
            (Self::TooLarge, _) => "the payload is larger than this path allows",
            (Self::Resources, _) => "the program has run out of descriptors or memory",
            (Self::SlowReceiver, _) => "the receiver does not keep up",
            (Self::Other, _) => return error.to_string(),
        };
        format!("{error} ({cause})")
    }
}

#[cfg(unix)]
fn this_user() -> String {
    format!("user {}", nix::unistd::geteuid())
}

#[cfg(not(unix))]
fn this_user() -> &'static str {
    "this user"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::address::ChosenBy;
    use super::super::delivery::Amount;
    use super::*;

    fn failed(kind: io::ErrorKind) -> Delivery {
        let dropped = Amount { packets: 2, bytes: 9 };
        Delivery { failure: Some(kind.into()), dropped, ..Delivery::default() }
    }

    /// The severities said over a series of flushes, one a second.
    fn said(flushes: impl IntoIterator<Item = Delivery>) -> Vec<Severity> {
        let (mut health, to) = (Health::default(), Destination::by_default(Path::new("/nowhere")));
        let notes = flushes
            .into_iter()
            .zip(0..)
            .filter_map(|(flush, second)| health.note(&flush, &to, Duration::from_secs(second)));
        notes.map(|message| message.severity).collect()
    }

    #[test]
    fn each_change_of_state_is_one_message() {
        use Severity::{Debug, Info, Warning};
        use io::ErrorKind::{ConnectionRefused as Refused, PermissionDenied as Denied};
        let ok = Delivery::default;
        assert_eq!(said([ok(), ok()]), [Debug]);
        assert_eq!(said([failed(Refused), failed(Refused), failed(Refused)]), [Warning]);
        assert_eq!(said([failed(Refused), failed(Denied), failed(Denied)]), [Warning, Debug]);
        assert_eq!(said([ok(), failed(Refused), ok(), ok()]), [Debug, Warning, Info]);
    }

    #[test]
    fn over_a_network_it_works_again_when_nothing_has_been_refused_for_a_minute() {
        use Severity::{Info, Warning};
        let to = Destination {
            address: "udp://10.0.0.7".parse().unwrap(),
            chosen_by: ChosenBy::Setting("a test"),
        };
        let (mut health, refused) = (Health::default(), failed(io::ErrorKind::ConnectionRefused));
        let mut note = |delivery: &Delivery, second| health.note(delivery, &to, Duration::from_secs(second));
        assert_eq!(note(&refused, 10).unwrap().severity, Warning);
        // Most refusals are not told.
        for second in [20, 30, 40] {
            assert_eq!(note(&Delivery::default(), second), None);
        }
        assert_eq!(note(&refused, 50), None);
        assert_eq!(note(&Delivery::default(), 109), None);
        let info = note(&Delivery::default(), 110).unwrap();
        assert_eq!(info.severity, Info);
        assert!(info.text.ends_with("after 100 s; at least 4 packets were lost"), "{}", info.text);
        assert_eq!(health.report().0, Sending::Working);
    }

    #[test]
    fn what_is_reported_is_how_the_last_flush_went() {
        let (mut health, to) = (Health::default(), Destination::by_default(Path::new("/nowhere")));
        let full = failed(io::ErrorKind::WouldBlock);
        assert_eq!(health.report(), (Sending::Untried, Duration::ZERO, None));
        let mut note = |delivery: &Delivery, second| {
            health.note(delivery, &to, Duration::from_secs(second));
            let (sending, since, _) = health.report();
            (sending, since.as_secs())
        };
        assert_eq!(note(&full, 1), (Sending::Failing, 1));
        assert_eq!(note(&full, 2), (Sending::Failing, 1));
        assert_eq!(note(&Delivery::default(), 3), (Sending::Working, 3));
        assert_eq!(note(&Delivery::default(), 4), (Sending::Working, 3));
        assert_eq!(note(&full, 5), (Sending::Failing, 5));
        assert_eq!(note(&failed(io::ErrorKind::PermissionDenied), 6), (Sending::Failing, 5));
        // A child has sent nothing, and says nothing that its parent has said.
        let mut child = health.of_heir();
        assert_eq!(child.report(), (Sending::Untried, Duration::ZERO, None));
        assert_eq!(child.note(&failed(io::ErrorKind::PermissionDenied), &to, Duration::from_secs(7)), None);
        assert_eq!(child.report().1, Duration::from_secs(7));
    }

    #[test]
    fn a_full_queue_is_worth_a_warning_only_when_it_stays_full() {
        use Severity::{Debug, Warning};
        let full = || failed(io::ErrorKind::WouldBlock);
        assert_eq!(said((0..5).map(|_| full())), [Debug]);
        assert_eq!(said((0..9).map(|_| full())), [Debug, Warning]);
        let with_a_pause = [full(), full(), full(), Delivery::default(), full(), full(), full()];
        assert_eq!(said(with_a_pause), [Debug, Debug, Debug]);
    }

    #[test]
    fn the_messages_tell_where_why_and_how_much() {
        let (mut health, to) = (Health::default(), Destination::by_default(Path::new("/nowhere")));
        let refused = failed(io::ErrorKind::ConnectionRefused);
        let warning = health.note(&refused, &to, Duration::from_secs(3)).unwrap().text;
        assert!(
            warning.starts_with("sending to udp://localhost:8125 (by default) fails: connection refused")
        );
        assert!(warning.ends_with("will keep trying"));
        assert_eq!(health.note(&refused, &to, Duration::from_secs(4)), None);
        let info = health.note(&Delivery::default(), &to, Duration::from_secs(9)).unwrap().text;
        assert!(info.ends_with("works again after 6 s; 4 packets were lost"), "{info}");
    }
}
