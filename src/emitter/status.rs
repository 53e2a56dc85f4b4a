//! How it stands with sending, for whoever asks.

use std::net::SocketAddr;
use std::time::Duration;

use super::address::Destination;
use super::delivery::Totals;

/// How it stands with sending.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where metrics go, and what chose that; `None` if they go to the log, or nowhere.
    pub destination: Option<Destination>,
    /// What a UDP destination has turned out to be; `None` until something was sent.
    pub peer: Option<SocketAddr>,
    /// `udp`, `uds` for Unix datagrams, or `uds-stream`; `None` where there is no destination.
    pub transport: Option<&'static str>,
    /// Whether sending works.
    pub sending: Sending,
    /// The last error and its likely cause, also where sending works again.
    pub error: Option<String>,
    /// When sending began to be as it is, on the collector's clock.
    pub since: Duration,
    /// What has been sent and lost.
    pub totals: Totals,
}

/// Whether sending works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// This process has sent nothing yet.
    Untried,
    /// The last flush left whole, as far as that can be known, and so did the program's own values before it.
    Working,
    /// The last flush did not leave whole, or a value of the program's own before it, or over a network one not long ago.
    Failing,
}

impl Sending {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Working => "working",
            Self::Failing => "failing",
        }
    }
}
