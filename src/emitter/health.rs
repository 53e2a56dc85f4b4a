//! Whether sending works, and the message to log when that changes: one for each change of state.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::address::{Address, Destination, Host};
use super::delivery::Delivery;
use super::socket_errors::{is_congestion, is_too_large};
use super::status::Sending;
use crate::message::{Message, Severity};

/// A queue that was full for this many scheduled flushes in a row means a slow receiver, not a burst.
const MIN_SLOW_FLUSHES: u32 = 6;

/// A kernel sends "port unreachable" at most once a second to one source address, and all who send from it share that.
/// Over a network, one flush without an error therefore proves little; a minute of them does.
const RECOVERY_TIMEOUT: Duration = Duration::from_mins(1);

/// How sending has gone so far.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: State,
    /// Whether this process has sent anything.
    is_tried: bool,
    /// When sending began to work, or to fail.
    since: Duration,
    /// The last flush that lost something.
    failed_at: Duration,
    /// Packets lost since sending last worked.
    dropped: u64,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Known(Verdict),
    /// The receiver's queue was full for this many flushes in a row, too few to tell a slow receiver from a burst. The
    /// verdict is the one from before.
    Congested(u32, Verdict),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Verdict {
    #[default]
    Untried,
    Working,
    Failing(Cause),
}

/// Why sending fails. A new cause is logged, the same one again is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Unreachable,
    Denied,
    Name,
    TooLarge,
    Resources,
    SlowReceiver,
    Other,
}

impl Default for State {
    fn default() -> Self {
        Self::Known(Verdict::Untried)
    }
}

impl State {
    fn verdict(self) -> Verdict {
        match self {
            Self::Known(verdict) | Self::Congested(_, verdict) => verdict,
        }
    }

    /// The state after a flush that failed.
    fn after(self, cause: Cause) -> Self {
        let (full_before, verdict) = match self {
            // What failed because of a slow receiver fails for the same cause until a flush succeeds.
            Self::Known(Verdict::Failing(Cause::SlowReceiver)) => (MIN_SLOW_FLUSHES, self.verdict()),
            Self::Known(verdict) => (0, verdict),
            Self::Congested(flushes, verdict) => (flushes, verdict),
        };
        if cause == Cause::SlowReceiver && full_before + 1 < MIN_SLOW_FLUSHES {
            Self::Congested(full_before + 1, verdict)
        } else {
            Self::Known(Verdict::Failing(cause))
        }
    }
}

impl Health {
    /// What a child process takes over: it has sent nothing, and does not log again what its parent has logged.
    #[must_use]
    pub fn for_child(&self) -> Self {
        Self { state: self.state, ..Self::default() }
    }

    /// Records a flush at `now` to a destination with these addresses; gives a message if the state has changed.
    pub fn record(
        &mut self,
        delivery: &Delivery,
        to: &Destination,
        addresses: &[SocketAddr],
        now: Duration,
    ) -> Option<Message> {
        let was_tried = std::mem::replace(&mut self.is_tried, true);
        match &delivery.failure {
            None => self.record_success(to, now, was_tried),
            Some(error) => {
                if !was_tried || !self.is_failing() {
                    self.since = now;
                }
                self.failed_at = now;
                self.dropped += delivery.dropped.packets;
                self.record_failure(error, to, addresses)
            }
        }
    }

    /// Whether the last flush lost something.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        matches!(self.state, State::Known(Verdict::Failing(_)) | State::Congested(..))
    }

    /// Whether sending works, since when, and the last error.
    #[must_use]
    pub fn report(&self) -> (Sending, Duration, Option<&str>) {
        let sending = match (self.is_tried, self.is_failing()) {
            (false, _) => Sending::Untried,
            (true, true) => Sending::Failing,
            (true, false) => Sending::Working,
        };
        (sending, self.since, self.error.as_deref())
    }

    fn record_failure(
        &mut self,
        error: &io::Error,
        to: &Destination,
        addresses: &[SocketAddr],
    ) -> Option<Message> {
        let cause = Cause::of(error);
        let reason = cause.explain(error, &to.address, addresses);
        let before = self.state.verdict();
        self.state = self.state.after(cause);
        let message = match (self.state, before) {
            (State::Congested(1, _), _) => {
                Some(Message::new(Severity::Debug, format!("sending to {to}: {reason}")))
            }
            (State::Congested(..), _) => None,
            (State::Known(_), Verdict::Failing(known)) if known == cause => None,
            (State::Known(_), Verdict::Failing(_)) => {
                Some(Message::new(Severity::Debug, format!("sending to {to} still fails: {reason}")))
            }
            (State::Known(_), Verdict::Untried | Verdict::Working) => {
                Some(Message::warning(format!("sending to {to} fails: {reason}; will keep trying")))
            }
        };
        self.error = Some(reason);
        message
    }

    fn record_success(&mut self, to: &Destination, now: Duration, was_tried: bool) -> Option<Message> {
        let was_failing = self.is_failing();
        let verdict = self.state.verdict();
        if verdict == Verdict::Failing(Cause::Unreachable)
            && to.address.hides_losses()
            && now.saturating_sub(self.failed_at) < RECOVERY_TIMEOUT
        {
            self.state = State::Known(verdict);
            return None;
        }
        self.state = State::Known(Verdict::Working);
        let (dropped, since) = (std::mem::take(&mut self.dropped), self.since);
        if was_failing || verdict == Verdict::Untried || !was_tried {
            self.since = now;
        }
        match verdict {
            Verdict::Untried | Verdict::Working => None,
            Verdict::Failing(_) => {
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

impl Cause {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as E;
        match error.kind() {
            E::TimedOut => Self::SlowReceiver,
            _ if is_congestion(error) => Self::SlowReceiver,
            _ if is_too_large(error) => Self::TooLarge,
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

    /// Errors that have no kind in the standard library.
    #[cfg(unix)]
    fn of_errno(error: &io::Error) -> Self {
        use nix::errno::Errno;
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSYS) => Self::Denied,
            Some(Errno::EMFILE | Errno::ENFILE) => Self::Resources,
            Some(Errno::EDESTADDRREQ | Errno::ENOTCONN) => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// The system's message and what is probably wrong.
    fn explain(self, error: &io::Error, to: &Address, addresses: &[SocketAddr]) -> String {
        let hint = match (self, to) {
            (Self::Unreachable, Address::Udp(host, _)) if host.is_this_machine() => {
                "is an Agent listening there, in this container or on this host?"
            }
            (Self::Unreachable, Address::Udp(..)) => {
                "is an Agent listening there, with DD_DOGSTATSD_NON_LOCAL_TRAFFIC=true?"
            }
            (Self::Unreachable, Address::Unix(..)) => {
                "is the Agent running, and is its directory mounted here?"
            }
            (Self::Denied, _) if is_of_sandbox(error, to) => "does a sandbox of this process forbid it?",
            (Self::Denied, Address::Udp(..)) => "does a firewall or a sandbox refuse it?",
            (Self::Denied, Address::Unix(..)) => {
                return format!("{error} (may {} write to it?)", this_user());
            }
            (Self::Name, _) => "is the name right?",
            (Self::TooLarge, _) => "the payload is larger than this path allows",
            (Self::Resources, _) => "the program has run out of descriptors or memory",
            (Self::SlowReceiver, _) => "the receiver does not keep up",
            (Self::Other, _) => return error.to_string(),
        };
        format!("{error} ({hint}{})", meaning(to, addresses))
    }
}

/// What a host's name stands for, such as `; localhost is 127.0.0.1 and ::1`.
fn meaning(to: &Address, addresses: &[SocketAddr]) -> String {
    match to {
        Address::Udp(host @ (Host::Localhost | Host::Name(_)), _) if !addresses.is_empty() => {
            let numbers: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            format!("; {host} is {}", numbers.join(" and "))
        }
        _ => String::new(),
    }
}

/// Whether only a sandbox gives this error. EPERM may be a firewall's too; a Unix socket's permissions give EACCES.
#[cfg(unix)]
fn is_of_sandbox(error: &io::Error, to: &Address) -> bool {
    use nix::libc::{ENOSYS, EPERM};
    match error.raw_os_error() {
        Some(ENOSYS) => true,
        Some(EPERM) => matches!(to, Address::Unix(..)),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_of_sandbox(_error: &io::Error, _to: &Address) -> bool {
    false
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

    /// The severities of what is logged over a series of flushes, one a second.
    fn logged(flushes: impl IntoIterator<Item = Delivery>) -> Vec<Severity> {
        let (mut health, to) = (Health::default(), Destination::by_default(Path::new("/nowhere")));
        let messages = flushes
            .into_iter()
            .zip(0..)
            .filter_map(|(flush, second)| health.record(&flush, &to, &[], Duration::from_secs(second)));
        messages.map(|message| message.severity).collect()
    }

    #[test]
    fn each_change_of_state_is_one_message() {
        use Severity::{Debug, Info, Warning};
        use io::ErrorKind::{ConnectionRefused as Refused, PermissionDenied as Denied};
        let ok = Delivery::default;
        assert_eq!(logged([ok(), ok()]), []);
        assert_eq!(logged([failed(Refused), failed(Refused), failed(Refused)]), [Warning]);
        assert_eq!(logged([failed(Refused), failed(Denied), failed(Denied)]), [Warning, Debug]);
        assert_eq!(logged([ok(), failed(Refused), ok(), ok()]), [Warning, Info]);
    }

    #[test]
    fn over_a_network_sending_works_again_after_a_minute_without_a_refusal() {
        use Severity::{Info, Warning};
        let to = Destination {
            address: "udp://10.0.0.7".parse().unwrap(),
            chosen_by: ChosenBy::Setting("a test"),
        };
        let (mut health, refused) = (Health::default(), failed(io::ErrorKind::ConnectionRefused));
        let mut record =
            |delivery: &Delivery, second| health.record(delivery, &to, &[], Duration::from_secs(second));
        assert_eq!(record(&refused, 10).unwrap().severity, Warning);
        // The kernel reports few refusals.
        for second in [20, 30, 40] {
            assert_eq!(record(&Delivery::default(), second), None);
        }
        assert_eq!(record(&refused, 50), None);
        assert_eq!(record(&Delivery::default(), 109), None);
        let info = record(&Delivery::default(), 110).unwrap();
        assert_eq!(info.severity, Info);
        assert!(info.text.ends_with("after 100 s; at least 4 packets were lost"), "{}", info.text);
        assert_eq!(health.report().0, Sending::Working);
    }

    #[test]
    fn a_full_buffer_and_a_long_payload_are_known_by_their_numbers() {
        let [full, long] = if cfg!(target_os = "linux") {
            [105, 90]
        } else if cfg!(windows) {
            [10055, 10040]
        } else {
            [55, 40]
        };
        assert_eq!(Cause::of(&io::Error::from_raw_os_error(full)), Cause::SlowReceiver);
        assert_eq!(Cause::of(&io::Error::from_raw_os_error(long)), Cause::TooLarge);
    }

    #[test]
    fn the_report_follows_the_last_flush() {
        let (mut health, to) = (Health::default(), Destination::by_default(Path::new("/nowhere")));
        let full = failed(io::ErrorKind::WouldBlock);
        assert_eq!(health.report(), (Sending::Untried, Duration::ZERO, None));
        let mut record = |delivery: &Delivery, second| {
            health.record(delivery, &to, &[], Duration::from_secs(second));
            let (sending, since, _) = health.report();
            (sending, since.as_secs())
        };
        assert_eq!(record(&full, 1), (Sending::Failing, 1));
        assert_eq!(record(&full, 2), (Sending::Failing, 1));
        assert_eq!(record(&Delivery::default(), 3), (Sending::Working, 3));
        assert_eq!(record(&Delivery::default(), 4), (Sending::Working, 3));
        assert_eq!(record(&full, 5), (Sending::Failing, 5));
        assert_eq!(record(&failed(io::ErrorKind::PermissionDenied), 6), (Sending::Failing, 5));
        // A child has sent nothing, and does not log what its parent has logged.
        let mut child = health.for_child();
        assert_eq!(child.report(), (Sending::Untried, Duration::ZERO, None));
        assert_eq!(
            child.record(&failed(io::ErrorKind::PermissionDenied), &to, &[], Duration::from_secs(7)),
            None
        );
        assert_eq!(child.report().1, Duration::from_secs(7));
    }

    #[test]
    fn a_full_queue_is_a_warning_only_when_it_stays_full() {
        use Severity::{Debug, Warning};
        let full = || failed(io::ErrorKind::WouldBlock);
        assert_eq!(logged((0..5).map(|_| full())), [Debug]);
        assert_eq!(logged((0..9).map(|_| full())), [Debug, Warning]);
        let with_a_pause = [full(), full(), full(), Delivery::default(), full(), full(), full()];
        assert_eq!(logged(with_a_pause), [Debug, Debug]);
    }

    #[test]
    fn messages_name_the_receiver_the_cause_and_the_loss() {
        let (mut health, to) = (Health::default(), Destination::by_default(Path::new("/nowhere")));
        let refused = failed(io::ErrorKind::ConnectionRefused);
        let addresses = Host::Localhost.known(8125).unwrap();
        let warning = health.record(&refused, &to, &addresses, Duration::from_secs(3)).unwrap().text;
        assert!(
            warning.starts_with("sending to udp://localhost:8125 (by default) fails: connection refused")
        );
        assert!(warning.ends_with("host?; localhost is 127.0.0.1 and ::1); will keep trying"), "{warning}");
        assert_eq!(health.record(&refused, &to, &addresses, Duration::from_secs(4)), None);
        let info = health.record(&Delivery::default(), &to, &addresses, Duration::from_secs(9)).unwrap().text;
        assert!(info.ends_with("works again after 6 s; 4 packets were lost"), "{info}");
    }
}
