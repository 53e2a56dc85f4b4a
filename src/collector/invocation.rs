//! A collector in AWS Lambda: each invocation sends its own metrics, and no thread of ours runs between them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::interpreter::Answer;
use super::output::Output;
use super::{Collector, FLUSH_TIMEOUT};
use crate::clock::Clock;
use crate::emitter::Distribution;
use crate::identity::IdentityInputs;
use crate::identity::function::{InvocationFacts, Start};
use crate::replaceable::Replaceable;
use crate::settings::{Schedule, Settings};

/// How long an invocation waits for a flush of another thread to end.
const INVOCATION_TIMEOUT: Duration = Duration::from_millis(10);

/// How long a function, whose time is paid for, may be held up by a slow stream.
const INVOCATION_SEND_TIMEOUT: Duration = Duration::from_millis(20);

impl Collector {
    /// Begins an invocation, which sends its metrics at its [end](Self::end_invocation). False while another flush is
    /// under way: then the invocation sends nothing, and `invoked` is not called.
    pub fn begin_invocation(&self, invoked: impl FnOnce() -> InvocationFacts) -> bool {
        let Some(mut pipeline) = self.pipeline.check_out(INVOCATION_TIMEOUT) else {
            return false;
        };
        pipeline.begin_invocation(|| self.clock.now(), invoked());
        true
    }

    /// Sends what the invocation has used, in the calling thread, which is that of the invocation; returns lines for
    /// the program's log.
    pub fn end_invocation(&self, ask_interpreter: impl FnOnce() -> Option<Answer>) -> String {
        let Some(mut pipeline) = self.check_out_to_flush(INVOCATION_TIMEOUT) else {
            return String::new();
        };
        pipeline.flush(self.clock.now(), INVOCATION_SEND_TIMEOUT, ask_interpreter);
        self.reader.keep_for_program(pipeline.take_messages());
        pipeline.take_log_lines()
    }

    /// Sends a value of a custom metric now, in the calling thread; returns lines for the program's log. The caller
    /// must be detached from the interpreter, which a tick under way may be waiting for.
    pub fn send_custom(&self, distribution: &Distribution) -> String {
        let timeout = if self.serves_invocations() { INVOCATION_TIMEOUT } else { FLUSH_TIMEOUT };
        let Some(mut pipeline) = self.pipeline.check_out(timeout) else {
            return String::new();
        };
        pipeline.send_custom(distribution, self.clock.now(), INVOCATION_SEND_TIMEOUT);
        self.reader.keep_for_program(pipeline.take_messages());
        pipeline.take_log_lines()
    }

    /// Ends both threads and closes the socket before AWS Lambda takes a snapshot of the process, to restore it
    /// elsewhere.
    pub fn prepare_for_snapshot(&self, within: Duration) {
        self.pause(within);
        if let Some(pipeline) = self.pipeline.check_out(within) {
            pipeline.disconnect();
        }
    }

    /// Whether each invocation sends its own metrics.
    #[must_use]
    pub fn serves_invocations(&self) -> bool {
        self.schedule == Schedule::PerInvocation
    }
}

/// Sends a value of a custom metric where no collector runs, through a socket of its own; returns lines for the
/// program's log. A host's name is not looked up.
#[must_use]
pub fn send_custom(settings: &Settings, inputs: IdentityInputs, distribution: &Distribution) -> String {
    let clock = Clock::start();
    let mut output = Output::new(Path::new("/"), clock, &Arc::default(), settings, inputs);
    // The program may do so thousands of times a second.
    output.send_custom(distribution, clock.now(), Duration::ZERO);
    output.take_log_lines()
}

/// Tells the invocations of a process apart, which come one after the other, by their request ids and contexts. Several
/// wrappers may see one begin; only the first is to serve it. No lock: a child process would have no thread to unlock
/// it.
#[derive(Debug)]
pub struct InvocationGuard<C> {
    /// When the execution environment was set up, in milliseconds since 1970; 0 while that is not known.
    set_up: AtomicU64,
    has_served: AtomicBool,
    is_under_way: AtomicBool,
    /// The last invocation that had a request id. The same id with another context is a retry.
    last: Replaceable<(String, C)>,
}

impl<C> Default for InvocationGuard<C> {
    fn default() -> Self {
        Self {
            set_up: AtomicU64::new(0),
            has_served: AtomicBool::new(false),
            is_under_way: AtomicBool::new(false),
            last: Replaceable::empty(),
        }
    }
}

impl<C> InvocationGuard<C> {
    /// Marks the execution environment as set up at `now`, in time since 1970, unless it is marked already.
    pub fn set_up(&self, now: Duration) {
        // An earlier mark stays.
        let _ = self.set_up.compare_exchange(0, milliseconds(now), SeqCst, SeqCst);
    }

    /// Marks the execution environment as new at `now`: the next invocation is its first.
    pub fn reset(&self, now: Duration) {
        self.set_up.store(milliseconds(now), SeqCst);
        self.has_served.store(false, SeqCst);
        self.last.store(None);
        self.end();
    }

    /// Whether the caller is to serve this invocation, as no wrapper around this call or before it does. If so the
    /// invocation is under way until its [end](Self::end).
    ///
    /// `key` is its request id and its context, if it has both; `is_same` whether another context is this one.
    pub fn begin(&self, key: Option<(String, C)>, is_same: impl FnOnce(&C) -> bool) -> bool {
        if self.is_under_way.swap(true, SeqCst) {
            return false;
        }
        if let Some(key) = key {
            if self.last.load().as_ref().is_some_and(|last| last.0 == key.0 && is_same(&last.1)) {
                self.end();
                return false;
            }
            self.last.store(Some(Arc::new(key)));
        }
        true
    }

    /// How the execution environment started for the invocation that begins now. To be called once for each.
    pub fn start(&self, now: Duration) -> Start {
        let is_first = !self.has_served.swap(true, SeqCst);
        Start::after(is_first.then(|| now.saturating_sub(Duration::from_millis(self.set_up.load(SeqCst)))))
    }

    /// Ends the invocation under way.
    pub fn end(&self) {
        self.is_under_way.store(false, SeqCst);
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(guard: &InvocationGuard<u8>, id: &str, context: u8) -> bool {
        guard.begin(Some((id.to_owned(), context)), |last| *last == context)
    }

    #[test]
    fn an_invocation_is_served_by_the_first_wrapper_only() {
        let guard = InvocationGuard::default();
        assert!(begins(&guard, "a", 1));
        assert!(!begins(&guard, "a", 1) && !begins(&guard, "b", 2) && !guard.begin(None, |_| false));
        guard.end();
        assert!(!begins(&guard, "a", 1), "it was served already");
        assert!(begins(&guard, "a", 2), "it is a retry");
        guard.end();
        assert!(guard.begin(None, |_| true), "without an id each call is an invocation");
        guard.end();
        assert!(!begins(&guard, "a", 2) && begins(&guard, "b", 2));
    }

    #[test]
    fn an_environment_is_set_up_once_and_serves_its_first_invocation_once() {
        let guard = InvocationGuard::<u8>::default();
        let at = Duration::from_secs;
        guard.set_up(at(100));
        guard.set_up(at(200));
        assert_eq!([guard.start(at(120)), guard.start(at(120))], [Start::Proactive, Start::Warm]);
        guard.reset(at(200));
        assert_eq!([guard.start(at(209)), guard.start(at(300))], [Start::Cold, Start::Warm]);
        assert_eq!(InvocationGuard::<u8>::default().start(Duration::ZERO), Start::Cold);
    }

    #[test]
    fn a_restored_environment_forgets_the_invocations_that_were_served() {
        let guard = InvocationGuard::default();
        assert!(begins(&guard, "a", 1));
        guard.reset(Duration::ZERO);
        assert!(begins(&guard, "a", 1));
    }
}
