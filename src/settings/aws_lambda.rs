//! What differs in AWS Lambda: when samples are taken, and where they go.

use super::parser::Parser;
use super::variables::{
    Environment, FLUSH_TO_LOG, LAMBDA_EXTENSION, LAMBDA_FUNCTION_NAME, LAMBDA_INITIALIZATION_TYPE,
    LAMBDA_THREAD,
};
use crate::emitter::address::{Address, ChosenBy, DEFAULT_PORT, Destination, Host};

/// When samples are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// At every interval, by threads of ours.
    #[default]
    Periodic,
    /// At the end of each invocation, by the thread that serves it. We start no thread.
    PerInvocation,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sink {
    /// A socket.
    #[default]
    Socket,
    /// The function's log.
    Log,
    /// Nowhere.
    None(UnsentReason),
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsentReason {
    /// There is no extension, no address is set, and the log is not to be used.
    NoReceiver,
    /// The receiver's host is a name. Waiting for a name server would use time that is paid for.
    HostName,
}

impl UnsentReason {
    /// A warning for the log.
    #[must_use]
    pub fn message(self, destination: &Destination) -> String {
        match self {
            Self::NoReceiver => {
                "metrics are not sent: this function has neither the Datadog Lambda Extension nor the address of \
                 another receiver; add the extension's layer, or set DD_FLUSH_TO_LOG=true to write metrics to the log"
                    .to_owned()
            }
            Self::HostName => format!(
                "metrics are not sent to {destination}: in AWS Lambda the names of hosts are not resolved; use an IP \
                 address"
            ),
        }
    }
}

/// What is special about a function in AWS Lambda.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwsLambda {
    /// Whether lines are sent to the Datadog Lambda Extension.
    pub sends_to_extension: bool,
    /// Whether AWS Lambda restores the process from a snapshot (`SnapStart`).
    pub uses_snapstart: bool,
}

impl AwsLambda {
    /// `None` outside AWS Lambda.
    pub(super) fn new(environment: &Environment, address: &Address, has_extension: bool) -> Option<Self> {
        is_function(environment).then(|| Self {
            // Whatever chose the address: the extension listens on this port of this machine.
            sends_to_extension: has_extension
                && matches!(address, Address::Udp(host, DEFAULT_PORT) if host.is_this_machine()),
            uses_snapstart: environment.get(LAMBDA_INITIALIZATION_TYPE) == Some("snap-start"),
        })
    }
}

/// Where to look for the Datadog Lambda Extension; `None` outside AWS Lambda.
#[must_use]
pub fn extension_path(environment: &Environment) -> Option<&str> {
    is_function(environment)
        .then(|| environment.get(LAMBDA_EXTENSION).unwrap_or(LAMBDA_EXTENSION.row().default))
}

fn is_function(environment: &Environment) -> bool {
    environment.get(LAMBDA_FUNCTION_NAME).is_some()
}

/// A function is frozen between its invocations. A thread of ours would resume at the next one, and use time that is
/// paid for.
pub(super) fn schedule(parser: &mut Parser<'_>) -> Schedule {
    let is_server = parser.environment.get(LAMBDA_INITIALIZATION_TYPE) == Some("lambda-managed-instances");
    let keeps_thread = parser.parse_flag(LAMBDA_THREAD).unwrap_or(false);
    if is_function(parser.environment) && !is_server && !keeps_thread {
        Schedule::PerInvocation
    } else {
        Schedule::Periodic
    }
}

/// Without an address a function sends to the extension, else to its log if that is asked for.
pub(super) fn route(
    parser: &mut Parser<'_>,
    schedule: Schedule,
    destination: Destination,
    has_extension: bool,
) -> (Destination, Sink) {
    if !is_function(parser.environment) {
        return (destination, Sink::Socket);
    }
    let flushes_to_log = parser.parse_flag(FLUSH_TO_LOG).unwrap_or(false);
    if schedule == Schedule::Periodic {
        return (destination, Sink::Socket);
    }
    match (&destination.chosen_by, &destination.address) {
        (ChosenBy::Default(_), _) if has_extension => (Destination::of_extension(), Sink::Socket),
        (ChosenBy::Default(_), _) if flushes_to_log => (destination, Sink::Log),
        (ChosenBy::Default(_), _) => (destination, Sink::None(UnsentReason::NoReceiver)),
        (_, Address::Udp(Host::Name(_), _)) => (destination, Sink::None(UnsentReason::HostName)),
        _ => (destination, Sink::Socket),
    }
}
