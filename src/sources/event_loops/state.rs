//! What an event loop does, in one word that two threads can share.

/// What a loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not been running, or not been seen to run, since this time.
    Stopped(u64),
    /// It is in `select`.
    Selects,
    /// It has been running callbacks since this time.
    Runs(u64),
    /// A beat is due at this time.
    Awaits(u64),
}

impl State {
    /// The state in one word.
    pub fn bits(self) -> u64 {
        match self {
            Self::Stopped(since) => since << 2,
            Self::Selects => 1,
            Self::Runs(since) => since << 2 | 2,
            Self::Awaits(due) => due << 2 | 3,
        }
    }

    /// The state of these [`bits`](Self::bits).
    pub fn from_bits(bits: u64) -> Self {
        let time = bits >> 2;
        match bits & 3 {
            0 => Self::Stopped(time),
            1 => Self::Selects,
            2 => Self::Runs(time),
            _ => Self::Awaits(time),
        }
    }
}
