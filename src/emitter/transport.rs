//! A sink that sends its lines to a receiver: it packs them, and a flush sends everything or counts what was lost.
//!
//! A flush never waits for a name server: a named host's addresses are those that the last look-up found.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use cadence::{MetricSink, SinkStats};

use super::address::Destination;
use super::candidates::Candidates;
use super::delivery::{Amount, Attempt, Delivery, LastSent, Totals};
use super::health::Health;
use super::link::Link;
use super::packets::{Counts, Packets};
use super::resolver::LookUp;
use super::status::Status;
use crate::catalogue::selection::Selection;
use crate::clock::{Clock, since_epoch};
use crate::message::Message;

/// A receiver that has stopped reading costs at most a hundredth of the time, however often the program flushes.
const WAITING_SHARE: u32 = 100;

/// A shorter wait is not worth its system calls.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// A sink that sends its lines to a receiver.
///
/// A flush begins with [`begin`](Self::begin), goes on with lines, and ends with a flush: of the schedule or, for a
/// custom metric, [`flush_custom`](Self::flush_custom).
#[derive(Debug)]
pub struct Transport(RefCell<Outbox>);

/// What a child process takes over from its parent's transport.
#[derive(Clone, Debug)]
pub struct Handover {
    health: Health,
    candidates: Candidates,
}

#[derive(Debug)]
struct Outbox {
    link: Link,
    packets: Packets,
    /// A line of this flush was too long for any payload.
    has_refused: bool,
    time_limit: TimeLimit,
    /// When the flush began.
    now: Duration,
    last_sent: LastSent,
    /// What became of custom metrics since the last scheduled flush.
    custom: Delivery,
    /// What was lost of reports, as the last scheduled flush and the custom ones before it learnt.
    lost_counts: Counts,
    totals: Totals,
    health: Health,
    /// When its state began, since 1970.
    since: Duration,
    messages: Vec<Message>,
}

/// How long a flush may wait for a slow receiver: as long as its caller allows, and over all flushes no more than one
/// part in [`WAITING_SHARE`] of the time.
#[derive(Debug)]
struct TimeLimit {
    clock: Clock,
    /// When the flush began.
    begun: Duration,
    within: Duration,
    /// How long earlier flushes have waited beyond that share.
    overdrawn: Duration,
    /// `None` before the first wait: most flushes never wait, and need not know the time.
    deadline: Cell<Option<Duration>>,
    /// While it is true, no flush waits.
    hurry: Arc<AtomicBool>,
}

impl Transport {
    /// A sink that opens its socket at the first flush. While `hurry` is true, no flush waits for a slow receiver.
    #[must_use]
    pub fn new(destination: Destination, clock: Clock, hurry: Arc<AtomicBool>) -> Self {
        let link = Link::new(destination);
        Self(RefCell::new(Outbox {
            packets: Packets::new(link.target()),
            link,
            has_refused: false,
            time_limit: TimeLimit::new(clock, hurry),
            now: Duration::ZERO,
            last_sent: LastSent::default(),
            custom: Delivery::default(),
            lost_counts: Counts::default(),
            totals: Totals::default(),
            health: Health::default(),
            since: since_epoch(),
            messages: Vec::new(),
        }))
    }

    /// Begins a flush at `now`, which may wait at most so long for a slow receiver.
    pub fn begin(&self, now: Duration, within: Duration) {
        self.outbox().begin(now, within);
    }

    /// Adds a line that reports a count of our own sending.
    ///
    /// # Errors
    ///
    /// If the line is longer than any Agent reads.
    pub fn emit_count(&self, line: &str, counter: usize, count: u64) -> io::Result<()> {
        self.emit(line)?;
        self.outbox().packets.add_count(counter, count);
        Ok(())
    }

    /// Ends a flush of a custom metric. A program may make thousands a second: what is lost is counted now, and logged
    /// with the next scheduled flush.
    ///
    /// # Errors
    ///
    /// Why something was lost.
    pub fn flush_custom(&self) -> io::Result<()> {
        self.outbox().flush_custom()
    }

    /// What was lost of the counts reported, as the last scheduled flush and the custom ones before it learnt.
    #[must_use]
    pub fn lost_counts(&self) -> Counts {
        self.outbox().lost_counts
    }

    /// Whether sending works, and what has been sent and lost.
    #[must_use]
    pub fn status(&self) -> Status {
        let outbox = self.outbox();
        let (sending, _, error) = outbox.health.report();
        Status {
            destination: Some(outbox.link.destination().clone()),
            peer: outbox.link.peer(),
            transport: Some(outbox.link.protocol()),
            sending,
            error: error.map(str::to_owned),
            since: outbox.since,
            totals: outbox.totals,
            left_to_ddtrace: Selection::default(),
            rows: Vec::new(),
        }
    }

    /// What has been sent and lost.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.outbox().totals
    }

    /// `udp`, `uds` or `uds-stream`: what it goes over, or would if nothing has been sent yet.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        self.outbox().link.protocol()
    }

    /// The look-up of the receiver's name to be made, if it is time for one.
    #[must_use]
    pub fn due_look_up(&self, now: Duration) -> Option<LookUp> {
        self.outbox().link.resolver().due_look_up(now)
    }

    /// What a child process can use: it logs nothing that its parent has logged, and can send before a look-up.
    #[must_use]
    pub fn handover(&self) -> Handover {
        let mut outbox = self.outbox();
        let candidates = outbox.link.resolver().candidates().clone();
        Handover { health: outbox.health.for_child(), candidates }
    }

    /// Takes over what the parent process knew.
    pub fn take_over(&self, handover: &Handover) {
        let mut outbox = self.outbox();
        outbox.health = handover.health.clone();
        outbox.link.resolver().take_over(&handover.candidates);
    }

    /// Closes the socket; the next flush opens another.
    pub fn disconnect(&self) {
        self.outbox().link.close();
    }

    /// The messages to be logged since the last call.
    #[must_use]
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut self.outbox().messages)
    }

    fn outbox(&self) -> RefMut<'_, Outbox> {
        self.0.borrow_mut()
    }
}

impl MetricSink for Transport {
    fn emit(&self, line: &str) -> io::Result<usize> {
        let mut outbox = self.outbox();
        if outbox.packets.push(line) {
            return Ok(line.len());
        }
        outbox.totals.dropped += Amount::of(line.as_bytes());
        outbox.has_refused = true;
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn flush(&self) -> io::Result<()> {
        self.outbox().flush()
    }

    fn stats(&self) -> SinkStats {
        let Totals { sent, dropped, .. } = self.totals();
        SinkStats {
            bytes_sent: sent.bytes,
            packets_sent: sent.packets,
            bytes_dropped: dropped.bytes,
            packets_dropped: dropped.packets,
        }
    }
}

impl Outbox {
    fn begin(&mut self, now: Duration, within: Duration) {
        self.now = now;
        self.time_limit.begin(now, within);
        self.link.refresh(self.health.is_failing());
        self.packets.set_target(self.link.target());
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut delivery = self.deliver();
        let result = delivery.result();
        delivery.add(std::mem::take(&mut self.custom));
        self.lost_counts = delivery.lost_counts;
        let (before, ..) = self.health.report();
        self.messages.extend(self.health.record(
            &delivery,
            self.link.destination(),
            self.link.addresses(),
            self.now,
        ));
        if self.health.report().0 != before {
            self.since = since_epoch();
        }
        result
    }

    fn flush_custom(&mut self) -> io::Result<()> {
        let delivery = self.deliver();
        let result = delivery.result();
        self.custom.add(delivery);
        result
    }

    /// Sends every payload, or counts it as lost.
    fn deliver(&mut self) -> Delivery {
        self.link.check();
        let was_open = self.link.is_open();
        let is_in_doubt = !was_open || self.health.is_failing();
        let payloads = self.packets.payloads();
        let mut attempt = Attempt::new(&payloads, &mut self.last_sent, self.link.is_udp());
        while let Some(left) = attempt.left() {
            let was_open = self.link.is_open();
            match self.link.send(left, self.now, || self.time_limit.left()) {
                Ok(count) => attempt.took(count),
                Err(error) => attempt.failed(error, was_open),
            }
        }
        // On this machine a refusal is known at once. To ask takes a system call, which no flush makes that follows one
        // that was accepted: there, the next send reports the refusal.
        if is_in_doubt && self.link.was_refused(self.now) {
            attempt.refused();
        }
        let mut delivery = attempt.into_delivery();
        self.time_limit.end();
        // What was sent over a new connection may have been refused without our knowing yet.
        if was_open && delivery.failure.is_none() && delivery.sent.packets > 0 {
            self.link.keep_address();
        }
        if std::mem::take(&mut self.has_refused) {
            delivery.failure = Some(io::ErrorKind::FileTooLarge.into());
        }
        self.packets.clear();
        self.totals.add(&delivery);
        delivery
    }
}

impl TimeLimit {
    fn new(clock: Clock, hurry: Arc<AtomicBool>) -> Self {
        Self {
            clock,
            begun: Duration::ZERO,
            within: Duration::ZERO,
            overdrawn: Duration::ZERO,
            deadline: Cell::default(),
            hurry,
        }
    }

    fn begin(&mut self, now: Duration, within: Duration) {
        let share = now.saturating_sub(self.begun) / WAITING_SHARE;
        self.overdrawn = self.overdrawn.saturating_sub(share);
        self.begun = now;
        self.within = within.saturating_sub(self.overdrawn);
    }

    fn left(&self) -> Duration {
        if self.hurry.load(SeqCst) {
            return Duration::ZERO;
        }
        let now = self.clock.now();
        let deadline = self.deadline.get().unwrap_or(now + self.within);
        self.deadline.set(Some(deadline));
        let left = deadline.saturating_sub(now);
        if left < MIN_WAIT { Duration::ZERO } else { left }
    }

    fn end(&mut self) {
        if let Some(deadline) = self.deadline.take() {
            self.overdrawn += self.within.saturating_sub(deadline.saturating_sub(self.clock.now()));
        }
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
        let transport = Transport::new(destination, Clock::start(), Arc::default());
        transport.flush().unwrap();
        transport.emit("first").unwrap();
        transport.flush().unwrap();
        transport.outbox().link.shrink_send_buffer();
        for line in ["a".repeat(8000), "b".repeat(1000)] {
            transport.emit(&line).unwrap();
        }
        assert!(transport.flush().is_err());
        let Totals { sent, dropped, .. } = transport.status().totals;
        assert_eq!((sent.packets, dropped), (2, Amount { packets: 1, bytes: 8001 }));
        assert!(transport.take_messages()[0].text.contains("larger than this path allows"));
    }
}
