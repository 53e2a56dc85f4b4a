//! What becomes of the payloads of a flush.

use std::io;
use std::ops::{Add, AddAssign, Range};

/// Payloads and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Payloads.
    pub packets: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl Amount {
    /// One payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self { packets: 1, bytes: payload.len() as u64 }
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What has been written, sent and lost since the collector began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Samples written into payloads.
    pub metrics: u64,
    /// What the kernel took.
    pub sent: Amount,
    /// What was lost, including what the kernel had taken before the loss was known.
    pub dropped: Amount,
}

/// What happened to the payloads of one flush.
#[derive(Debug, Default)]
pub struct Delivery {
    /// What the kernel took.
    pub sent: Amount,
    /// What was lost, including earlier payloads of which only this flush learnt.
    pub dropped: Amount,
    /// The first reason for a loss; `None` if nothing was lost.
    pub failure: Option<io::Error>,
    /// Which lines are lost, counted from the last.
    pub lost_lines: Vec<Range<usize>>,
    /// Which lines of the flush before are lost after all.
    pub lost_lines_of_last: Vec<Range<usize>>,
}

impl Totals {
    /// Adds what became of a flush.
    pub fn add_delivery(&mut self, delivery: &Delivery) {
        self.sent += delivery.sent;
        self.dropped += delivery.dropped;
    }
}
