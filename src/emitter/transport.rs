//! The sink of a collector: takes lines, packs them, and on flush sends everything or counts what was lost.
//!
//! It never waits for a name: addresses of a named host are what the reader's last look-up found.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cadence::{MetricSink, SinkStats};

use super::address::{Address, Destination, UnixKind};
use super::delivery::{Amount, Delivery, Totals};
use super::health::Health;
use super::origin::OriginFields;
use super::packets::{LONGEST, Packets};
use super::resolver::{LookUp, Resolver};
use super::socket::{Connection, Protocol, Remedy, SENDS_ALL_AT_ONCE};
use super::status::Status;
use super::telemetry::{Report, Telemetry};
use crate::clock::Clock;
use crate::message::Message;

/// A UDP payload that fits one Ethernet frame.
const UDP_TARGET: usize = 1432;

/// A sink that can be shared: cadence owns one handle, the pipeline another.
#[derive(Clone, Debug)]
pub struct Transport(Arc<Mutex<State>>);

/// What one process leaves to the next of its knowledge of the way to the receiver.
#[derive(Clone, Debug)]
pub struct Handover {
    health: Health,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug)]
struct State {
    resolver: Resolver,
    clock: Clock,
    /// A flush has given up by then, or as soon as somebody is in a hurry.
    deadline: Duration,
    hurry: Arc<AtomicBool>,
    connection: Option<Connection>,
    /// What the last connection went over.
    protocol: Option<Protocol>,
    packets: Packets,
    /// A line of this flush was too long for any payload.
    refused: bool,
    ending: OriginFields,
    health: Health,
    totals: Totals,
    last_sent: Sent,
    last_delivery: Delivery,
    /// The flush under way is a program's own.
    is_custom: bool,
    /// What the program's own have brought to light since the last of the schedule.
    unnoted: Delivery,
    messages: Vec<Message>,
    now: Duration,
}

/// The payload that was sent last, of which bad news may come later.
#[derive(Debug, Default)]
struct Sent {
    amount: Amount,
    /// Where its lines stand in their flush, counted from the last.
    lines: Range<usize>,
}

impl Transport {
    /// A sink that opens its socket at the first flush; every line gets the `ending`. While `hurry` is true no flush
    /// waits for a slow receiver.
    #[must_use]
    pub fn new(destination: Destination, ending: OriginFields, clock: Clock, hurry: Arc<AtomicBool>) -> Self {
        let target = max_shared_payload(&destination.address);
        let state = State {
            resolver: Resolver::new(destination),
            clock,
            deadline: Duration::ZERO,
            hurry,
            connection: None,
            protocol: None,
            packets: Packets::new(target),
            refused: false,
            ending,
            health: Health::default(),
            totals: Totals::default(),
            last_sent: Sent::default(),
            last_delivery: Delivery::default(),
            is_custom: false,
            unnoted: Delivery::default(),
            messages: Vec::new(),
            now: Duration::ZERO,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Gets ready for a flush at `now` that may take so long: finds a socket that has appeared, takes over what a
    /// look-up found.
    pub fn prepare(&self, now: Duration, within: Duration) {
        self.state().prepare(now, within);
    }

    /// Gets ready for a flush of a value of the program's own. A program may make thousands a second: what becomes of it is
    /// counted, and said with that of the next flush that is none.
    pub fn prepare_for_custom(&self, now: Duration, within: Duration) {
        let mut state = self.state();
        state.prepare(now, within);
        state.is_custom = true;
    }

    /// How it stands with sending, and what has been sent and lost.
    #[must_use]
    pub fn status(&self) -> Status {
        self.state().status()
    }

    /// `udp`, `uds` or `uds-stream`: what it goes over, or would if nothing has been sent yet.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.state().name()
    }

    /// Tells telemetry how the last flush went, in which it made this report.
    pub fn tell(&self, telemetry: &mut Telemetry, report: &Report) {
        telemetry.note(report, &self.state().last_delivery);
    }

    /// The look-up of the receiver's name to be made, if it is time for one.
    #[must_use]
    pub fn due_look_up(&self, now: Duration) -> Option<LookUp> {
        let mut state = self.state();
        let is_failing = state.health.is_failing();
        state.resolver.due_look_up(now, is_failing)
    }

    /// What a child process can use: it says nothing that its parent has said, and needs no look-up to begin with.
    #[must_use]
    pub fn handover(&self) -> Handover {
        let state = self.state();
        Handover { health: state.health.for_child(), addresses: state.resolver.addresses().to_vec() }
    }

    /// Closes the socket; the next flush opens another.
    pub fn disconnect(&self) {
        self.state().connection = None;
    }

    /// Takes over what the parent process knew.
    pub fn inherit(&self, handover: &Handover) {
        let mut state = self.state();
        state.health = handover.health.clone();
        state.resolver.take_over(&handover.addresses);
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
        state.totals.dropped += Amount::of(line.as_bytes());
        state.refused = true;
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn flush(&self) -> io::Result<()> {
        self.state().flush()
    }

    fn stats(&self) -> SinkStats {
        let Totals { sent, dropped, .. } = self.state().totals;
        SinkStats {
            bytes_sent: sent.bytes,
            packets_sent: sent.packets,
            bytes_dropped: dropped.bytes,
            packets_dropped: dropped.packets,
        }
    }
}

impl State {
    fn prepare(&mut self, now: Duration, within: Duration) {
        self.is_custom = false;
        self.now = now;
        self.deadline = self.clock.now() + within;
        if self.resolver.refresh(self.health.is_failing()) {
            self.connection = None;
            self.protocol = None;
            self.packets.set_target(max_shared_payload(&self.resolver.destination().address));
        }
    }

    fn status(&self) -> Status {
        let (sending, since, error) = self.health.report();
        Status {
            destination: Some(self.resolver.destination().clone()),
            peer: self.connection.as_ref().and_then(Connection::peer),
            transport: Some(self.name()),
            sending,
            error: error.map(str::to_owned),
            since,
            totals: self.totals,
        }
    }

    fn name(&self) -> &'static str {
        match (self.protocol, &self.resolver.destination().address) {
            (Some(Protocol::Udp), _) | (None, Address::Udp(..)) => "udp",
            (Some(Protocol::UnixStream), _) | (None, Address::Unix(_, UnixKind::Stream)) => "uds-stream",
            (Some(Protocol::UnixDatagram), _) | (None, Address::Unix(..)) => "uds",
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check_connection();
        let mut delivery = self.deliver();
        self.packets.clear();
        self.totals.add_delivery(&delivery);
        let result = delivery.failure.as_ref().map_or(Ok(()), |failure| Err(failure.kind().into()));
        if self.is_custom {
            if delivery.sent != Amount::default() {
                // None of them is in a report.
                self.last_sent.lines = 0..0;
            }
            self.unnoted.hear_of(delivery);
        } else {
            delivery.hear_of(std::mem::take(&mut self.unnoted));
            self.messages.extend(self.health.record(&delivery, self.resolver.destination(), self.now));
            self.last_delivery = delivery;
        }
        result
    }

    /// Lets go of a connection that is not ours any more, or leads to a receiver that has been replaced.
    fn check_connection(&mut self) {
        self.connection = self.connection.take().filter(Connection::is_ours);
        #[cfg(unix)]
        if let Address::Unix(path, _) = &self.resolver.destination().address {
            self.connection = self.connection.take().filter(|connection| connection.was_reached_by(path));
        }
    }

    /// Sends every payload; a second time where the failure was an earlier payload's, or the peer was replaced.
    fn deliver(&mut self) -> Delivery {
        let mut delivery = Delivery::default();
        if std::mem::take(&mut self.refused) {
            delivery.failure = Some(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let payloads = self.packets.payloads();
        let mut left = payloads.as_slice();
        let number = payloads.len();
        let (mut cut_short, mut tried_again) = (false, false);
        let time_left = || {
            let is_hurried = self.hurry.load(SeqCst);
            if is_hurried { Duration::ZERO } else { self.deadline.saturating_sub(self.clock.now()) }
        };
        while let Some((first, others)) = left.split_first() {
            let is_old = self.connection.is_some();
            let connection = match self.connection.take() {
                Some(connection) => Ok(connection),
                None => connect(&self.resolver.destination().address, self.resolver.addresses()),
            };
            let result = connection.and_then(|connection| {
                self.protocol = Some(connection.protocol());
                let taken = connection.send(left, time_left);
                if taken.as_ref().err().is_none_or(|error| connection.survives(error)) {
                    self.connection = Some(connection);
                }
                taken
            });
            match result {
                Ok(taken) => {
                    if cut_short {
                        delivery.earlier_was_refused(&self.last_sent);
                    }
                    let (sent, rest) = left.split_at(taken);
                    for payload in sent {
                        delivery.sent += Amount::of(payload);
                    }
                    if let Some(last) = sent.last() {
                        self.last_sent = Sent {
                            amount: Amount::of(last),
                            lines: self.packets.lines_of(number - rest.len() - 1..number - rest.len()),
                        };
                    }
                    // An immediate success shows that the reason was an earlier payload's.
                    cut_short = SENDS_ALL_AT_ONCE && self.is_udp() && !rest.is_empty();
                    (left, tried_again) = (rest, false);
                }
                Err(error) if Remedy::of(&error) == Remedy::Repeat => {}
                Err(error) if is_old && !tried_again && Remedy::of(&error) == Remedy::Retry => {
                    // A refused UDP datagram is reported at the next send, which itself did not happen.
                    if self.is_udp() {
                        delivery.earlier_was_refused(&self.last_sent);
                    }
                    (cut_short, tried_again) = (false, true);
                }
                Err(error) if Remedy::of(&error) == Remedy::Skip => {
                    let lines = self.packets.lines_of(number - left.len()..number - others.len());
                    delivery.lose(&[first], lines, error);
                    (left, cut_short, tried_again) = (others, false, false);
                }
                Err(error) => {
                    delivery.lose(left, self.packets.lines_of(number - left.len()..number), error);
                    break;
                }
            }
        }
        delivery
    }

    fn is_udp(&self) -> bool {
        matches!(self.resolver.destination().address, Address::Udp(..))
    }
}

impl Delivery {
    fn lose(&mut self, payloads: &[&[u8]], lines: Range<usize>, why: io::Error) {
        for payload in payloads {
            self.dropped += Amount::of(payload);
        }
        self.lost_lines.push(lines);
        self.failure.get_or_insert(why);
    }

    /// A payload is lost that the kernel had taken.
    fn earlier_was_refused(&mut self, payload: &Sent) {
        let is_of_last = self.sent == Amount::default();
        let lost = if is_of_last { &mut self.lost_lines_of_last } else { &mut self.lost_lines };
        lost.push(payload.lines.clone());
        self.dropped += payload.amount;
        self.failure.get_or_insert(io::ErrorKind::ConnectionRefused.into());
    }

    /// Takes over what a flush of the program's own has lost, itself or of the last of the schedule.
    fn hear_of(&mut self, own: Self) {
        self.dropped += own.dropped;
        self.failure = self.failure.take().or(own.failure);
        for lines in own.lost_lines_of_last {
            if !lines.is_empty() && !self.lost_lines_of_last.contains(&lines) {
                self.lost_lines_of_last.push(lines);
            }
        }
    }
}

/// Up to this length lines share a payload.
fn max_shared_payload(address: &Address) -> usize {
    match address {
        Address::Udp(..) => UDP_TARGET,
        Address::Unix(..) => LONGEST,
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::address::ChosenBy;
    use super::*;

    #[test]
    fn a_payload_too_large_for_its_path_is_lost_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dsd.socket");
        let _receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let text = format!("unix://{}", path.display());
        let destination =
            Destination { address: text.parse().unwrap(), chosen_by: ChosenBy::Setting("a test") };
        let transport = Transport::new(destination, OriginFields::default(), Clock::start(), Arc::default());
        transport.flush().unwrap();
        transport.emit("first").unwrap();
        transport.flush().unwrap();
        transport.state().connection.as_ref().unwrap().shrink_send_buffer();
        for line in ["a".repeat(8000), "b".repeat(1000)] {
            transport.emit(&line).unwrap();
        }
        assert!(transport.flush().is_err());
        let Totals { sent, dropped, .. } = transport.status().totals;
        assert_eq!((sent.packets, dropped), (2, Amount { packets: 1, bytes: 8001 }));
        assert!(transport.take_messages()[1].text.contains("larger than this path allows"));
    }
}
