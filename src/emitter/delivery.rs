//! What becomes of the payloads of a flush.

use std::io;
use std::ops::AddAssign;

use super::packets::{Counts, Payload};
use super::socket::SENDS_ALL_AT_ONCE;
use super::socket_errors::Remedy;

/// Payloads and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Payloads.
    pub packets: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// What has been written, sent and lost since the collector began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Samples written into payloads.
    pub metrics: u64,
    /// What the kernel accepted, without what was then refused.
    pub sent: Amount,
    /// What was lost, including what the kernel had taken before the loss was known.
    pub dropped: Amount,
}

/// What happened to the payloads of a flush.
#[derive(Debug, Default)]
pub struct Delivery {
    /// What the kernel accepted.
    pub sent: Amount,
    /// What of that, or of what it accepted before, is now known to have been refused.
    pub refused: Amount,
    /// What was lost, including a payload of an earlier flush if its loss became known only now.
    pub dropped: Amount,
    /// What the lost payloads reported.
    pub lost_counts: Counts,
    /// The first reason for a loss; `None` if nothing was lost.
    pub failure: Option<io::Error>,
}

/// The payload that the kernel accepted last. Its loss may become known at the next send.
#[derive(Debug, Default)]
pub struct LastSent {
    amount: Amount,
    counts: Counts,
}

/// An attempt to deliver payloads in order. After each send it decides which are sent next.
#[derive(Debug)]
pub struct Attempt<'a> {
    left: &'a [Payload<'a>],
    stage: Stage,
    delivery: Delivery,
    last_sent: &'a mut LastSent,
    /// The kernel takes a datagram that will be refused, and reports the refusal at the next send, which then does not
    /// happen.
    is_udp: bool,
}

/// What the send before has left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing.
    Ordinary,
    /// The kernel took fewer datagrams than it was given, and has not reported why.
    CutShort,
    /// The first of the payloads left failed, and is being sent again.
    Retrying,
}

impl Amount {
    /// One payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self { packets: 1, bytes: payload.len() as u64 }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl Totals {
    /// Adds what became of a flush.
    pub fn add(&mut self, delivery: &Delivery) {
        self.sent += delivery.sent;
        // A host may report more refusals than there were payloads: it is unknown of which length they were.
        self.sent.packets = self.sent.packets.saturating_sub(delivery.refused.packets);
        self.sent.bytes = self.sent.bytes.saturating_sub(delivery.refused.bytes);
        self.dropped += delivery.dropped;
    }
}

impl Delivery {
    /// Whether everything was sent.
    ///
    /// # Errors
    ///
    /// Of the kind of the first reason for a loss.
    pub fn result(&self) -> io::Result<()> {
        self.failure.as_ref().map_or(Ok(()), |failure| Err(failure.kind().into()))
    }

    /// Adds another; where both failed, the reason stays.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.refused += other.refused;
        self.dropped += other.dropped;
        add(&mut self.lost_counts, &other.lost_counts);
        self.failure = self.failure.take().or(other.failure);
    }

    fn lose(&mut self, amount: Amount, counts: &Counts) {
        self.dropped += amount;
        add(&mut self.lost_counts, counts);
    }
}

fn add(counts: &mut Counts, others: &Counts) {
    for (count, other) in counts.iter_mut().zip(others) {
        *count += other;
    }
}

impl<'a> Attempt<'a> {
    /// Nothing has been sent yet.
    #[must_use]
    pub fn new(payloads: &'a [Payload<'a>], last_sent: &'a mut LastSent, is_udp: bool) -> Self {
        Self { left: payloads, stage: Stage::Ordinary, delivery: Delivery::default(), last_sent, is_udp }
    }

    /// The payloads to be sent next; `None` when all have been sent or given up.
    #[must_use]
    pub fn left(&self) -> Option<&'a [Payload<'a>]> {
        (!self.left.is_empty()).then_some(self.left)
    }

    /// The kernel took the first `count` payloads.
    pub fn took(&mut self, count: usize) {
        if self.stage == Stage::CutShort {
            // They could be sent at once, so it was an earlier payload that failed.
            self.lose_last_sent();
        }
        let (sent, rest) = self.left.split_at(count);
        for payload in sent {
            self.delivery.sent += Amount::of(payload.bytes());
        }
        if let Some(last) = sent.last() {
            *self.last_sent = LastSent { amount: Amount::of(last.bytes()), counts: *last.counts() };
        }
        let is_cut_short = SENDS_ALL_AT_ONCE && self.is_udp && !rest.is_empty();
        self.stage = if is_cut_short { Stage::CutShort } else { Stage::Ordinary };
        self.left = rest;
    }

    /// The first payload could not be sent, over a connection that `was_open` before.
    pub fn failed(&mut self, error: io::Error, was_open: bool) {
        match Remedy::of(&error) {
            Remedy::Repeat => {}
            Remedy::Retry if was_open && self.stage != Stage::Retrying => self.retry(),
            Remedy::Skip => self.skip(error),
            Remedy::Retry | Remedy::GiveUp => self.give_up(error),
        }
    }

    /// The payload that the kernel accepted last was refused at once.
    pub fn refused(&mut self) {
        self.lose_last_sent();
    }

    /// What has become of the payloads.
    #[must_use]
    pub fn into_delivery(self) -> Delivery {
        self.delivery
    }

    fn retry(&mut self) {
        if self.is_udp {
            self.lose_last_sent();
        }
        self.stage = Stage::Retrying;
    }

    fn skip(&mut self, reason: io::Error) {
        self.lose(1, reason);
        self.stage = Stage::Ordinary;
    }

    fn give_up(&mut self, reason: io::Error) {
        self.lose(self.left.len(), reason);
    }

    fn lose(&mut self, count: usize, reason: io::Error) {
        let (lost, rest) = self.left.split_at(count);
        for payload in lost {
            self.delivery.lose(Amount::of(payload.bytes()), payload.counts());
        }
        self.delivery.failure.get_or_insert(reason);
        self.left = rest;
    }

    /// The kernel took it, and it was refused.
    fn lose_last_sent(&mut self) {
        // Another refusal may follow before anything is sent; what the payload reported is lost only once.
        let counts = std::mem::take(&mut self.last_sent.counts);
        self.delivery.refused += self.last_sent.amount;
        self.delivery.lose(self.last_sent.amount, &counts);
        self.delivery.failure.get_or_insert(io::ErrorKind::ConnectionRefused.into());
    }
}
