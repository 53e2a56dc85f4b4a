//! Whether the jobs of rq are reported. Its worker forks for each and ends the child by `os._exit()`, which runs
//! nothing of ours: where children send no last sample themselves, the worker logs it once.
//!
//! Only for rq: a child that ends so looks to its parent like one that becomes another program, which is common.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use once_cell::race::OnceRef;
use pyo3::prelude::*;

use super::program::{loaded, module_of_caller};
use crate::fork_mark::counters_shared_with_children;
use crate::message::Message;

/// More forks than last samples by so many, for so long, mean that some children send none: a child that still works
/// has not sent its own yet.
const MIN_MISSING: u32 = 3;
const MIN_TIME: Duration = Duration::from_secs(1);

/// Processes further down the tree share the last counter.
const GENERATIONS: usize = 8;

/// How many processes of each generation send a last sample.
static REPORTING: OnceRef<'static, [AtomicU32; GENERATIONS]> = OnceRef::new();

/// This process among them.
static GENERATION: AtomicUsize = AtomicUsize::new(0);
static IS_REPORTING: AtomicBool = AtomicBool::new(false);
static FORKS: AtomicU32 = AtomicU32::new(0);
/// When there were not yet too few last samples, in nanoseconds.
static SINCE: AtomicU64 = AtomicU64::new(0);
static IS_LOGGED: AtomicBool = AtomicBool::new(false);

/// Counts a fork; returns a message to be logged if earlier children have ended without a last sample.
pub fn before_fork(py: Python<'_>, now: u64) -> Option<Message> {
    loaded(py, "rq.worker")?;
    // A program that only enqueues jobs has imported it, too.
    if !module_of_caller(py)?.starts_with("rq.worker") {
        return None;
    }
    if REPORTING.get().is_none() {
        // If two threads fork at once, the second has nothing to do.
        let _ = REPORTING.set(counters_shared_with_children()?);
    }
    let children = REPORTING.get()?[generation(1)].load(SeqCst);
    let missing = FORKS.fetch_add(1, SeqCst).saturating_sub(children);
    if missing < MIN_MISSING {
        SINCE.store(now, SeqCst);
    }
    let time = Duration::from_nanos(now.saturating_sub(SINCE.load(SeqCst)));
    (time >= MIN_TIME && !IS_LOGGED.swap(true, SeqCst)).then(|| {
        Message::warning(
            "rq ends the process of each job by os._exit(): what it uses within its last interval is not reported, and \
             few jobs take longer than an interval. Call RuntimeMetrics.disable() where a job ends, or use \
             rq.SimpleWorker; docs/servers.md has a worker class that does the former",
        )
    })
}

/// This is a child: it has sent nothing and forked nothing.
pub fn become_child() {
    GENERATION.fetch_add(1, SeqCst);
    IS_REPORTING.store(false, SeqCst);
    FORKS.store(0, SeqCst);
}

/// This process sends a last sample, now or when it ends.
pub fn mark_reporting() {
    if let Some(counters) = REPORTING.get()
        && !IS_REPORTING.swap(true, SeqCst)
    {
        counters[generation(0)].fetch_add(1, SeqCst);
    }
}

/// The index of this generation, or of a later one.
fn generation(later: usize) -> usize {
    GENERATION.load(SeqCst).saturating_add(later).min(GENERATIONS - 1)
}
