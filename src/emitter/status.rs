//! The delivery status: whether sending works, where to, and what has been sent and lost.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use super::address::Destination;
use super::delivery::Totals;
use crate::catalogue::selection::Selection;

/// The delivery status.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where metrics go, and what chose that; `None` if they go to the log, or nowhere.
    pub destination: Option<Destination>,
    /// The address that a UDP destination was resolved to; `None` until something was sent.
    pub peer: Option<SocketAddr>,
    /// `udp`, `uds` for Unix datagrams, or `uds-stream`; `None` where there is no destination.
    pub transport: Option<&'static str>,
    /// Whether sending works.
    pub sending: Sending,
    /// The last error and its likely cause, even if sending works again.
    pub error: Option<String>,
    /// When sending began to work, or to fail, since 1970.
    pub since: Duration,
    /// What has been sent and lost.
    pub totals: Totals,
    /// What is not sent as ddtrace sends it.
    pub left_to_ddtrace: Selection,
    /// Each selected row by name: `sent`, or why it was not at the last flush.
    pub rows: Vec<(&'static str, Cow<'static, str>)>,
}

/// Whether sending works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// This process has sent nothing yet.
    Untried,
    /// As far as is known, nothing was lost of the last scheduled flush and the custom metrics before it.
    Working,
    /// Something was lost of them or, over a network, of those of the last minute.
    Failing,
}

impl Sending {
    /// Its word in `RuntimeMetrics.status()`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Working => "working",
            Self::Failing => "failing",
        }
    }
}
