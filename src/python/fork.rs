//! What our hooks do around a fork: no thread of ours is at work while it is made; afterwards the parent continues as
//! if nothing had happened, and the child becomes an independent process.
//!
//! They are short, do not log, and do not wait for the network: a flush under way stops waiting for it. A child that
//! was forked by C code, which runs no hooks, is noticed by its fork mark when it first calls us.

use std::time::Duration;

use pyo3::prelude::*;

use super::process::{Process, ThreadsAtFork};
use super::running::{self, shielded};
use super::{exit, pending, rq};
use crate::collector::Collector;
use crate::fork_mark::is_main_thread;
use crate::memory;

/// How long a fork waits at most for a flush under way, and for our threads to end where they have to. Both take a few
/// microseconds unless the machine is overloaded; what has not ended by then is left as it is.
const FORK_TIMEOUT: Duration = Duration::from_millis(500);

/// Takes the pipeline, so that no flush is under way at the fork, and ends our threads if the interpreter would warn
/// about them.
#[pyfunction]
pub fn before(py: Python<'_>) {
    shielded((), || {
        let Some(process) = Process::known() else { return };
        if running::current(py).is_some() && memory::is_available() {
            // It runs Python code, which may fork: before this fork is announced.
            exit::register_with_pools(py);
        }
        let Some(running) = running::begin_fork(py) else { return };
        let collector = running.collector();
        if let Some(message) = rq::before_fork(py, running.clock().nanoseconds()) {
            collector.log_later(message);
        }
        // First, so that no fork that ends now on another thread starts what is about to end.
        collector.begin_fork();
        if process.threads_at_fork != ThreadsAtFork::NotCounted {
            end_threads(py, collector);
        }
        collector.hold_pipeline(FORK_TIMEOUT);
        // The reader may have been asked just before.
        if collector.is_in_interpreter() {
            py.detach(|| collector.await_reader(FORK_TIMEOUT));
        }
    });
}

/// A reader that waits for the interpreter can end only if we detach. Otherwise staying attached is quicker.
fn end_threads(py: Python<'_>, collector: &Collector) {
    collector.begin_pause();
    if collector.is_in_interpreter() {
        py.detach(|| collector.pause(FORK_TIMEOUT));
    } else {
        collector.pause(FORK_TIMEOUT);
    }
}

/// Resumes, with the schedule as it was.
#[pyfunction]
pub fn after_in_parent(py: Python<'_>) {
    shielded((), || {
        let (Some(running), Some(process)) = (running::end_fork(), Process::known()) else { return };
        // If another thread is about to fork, its fork resumes for both.
        let is_last = running.collector().end_fork();
        // Threads that are not counted go on. Those that the system refused are tried again.
        let go_on =
            process.threads_at_fork == ThreadsAtFork::NotCounted && !process.postponement.is_pending();
        if !is_last || go_on || running.must_wait() {
            return;
        }
        // A pending call comes after the threads are counted, but only on the main thread. If another thread forks, the
        // interpreter warns in any case.
        if process.threads_at_fork == ThreadsAtFork::CountedAfterHooks && is_main_thread() {
            pending::wait_for_fork(py);
            if running::resume_soon() {
                return;
            }
        }
        running.resume();
    });
}

/// Makes the child an independent process, which has no thread of ours yet.
#[pyfunction]
pub fn after_in_child(py: Python<'_>) {
    shielded((), || running::become_child(py));
}
