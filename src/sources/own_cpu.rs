//! CPU time of our own threads, which they count themselves while a selected row needs it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// What our threads have used in one collector's lifetime.
#[derive(Debug, Default)]
pub struct OwnCpu {
    is_needed: AtomicBool,
    nanoseconds: AtomicU64,
}

/// How much of a thread's CPU time has been counted; `None` while counting is off.
#[derive(Debug)]
pub struct Counted(Option<Duration>);

impl Default for Counted {
    fn default() -> Self {
        Self(Some(Duration::ZERO))
    }
}

impl OwnCpu {
    /// Counts what the calling thread has used since the last call; each thread has a [`Counted`] of its own.
    pub fn count(&self, counted: &mut Counted) {
        let now = if self.is_needed.load(Relaxed) { clock::cpu_of_thread() } else { None };
        if let Some((before, now)) = counted.0.zip(now) {
            let used = now.saturating_sub(before);
            self.nanoseconds.fetch_add(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
        counted.0 = now;
    }

    /// The CPU time that was counted so far; counting starts with the first call.
    ///
    /// `None` where the system has no such clock.
    pub fn read(&self) -> Option<Duration> {
        self.is_needed.store(true, Relaxed);
        clock::cpu_of_thread().map(|_| Duration::from_nanos(self.nanoseconds.load(Relaxed)))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::thread;

    use super::*;

    const WORK: Duration = Duration::from_millis(5);

    fn work() {
        let start = clock::cpu_of_thread().unwrap();
        while clock::cpu_of_thread().unwrap() < start + WORK {}
    }

    /// Runs it in a thread of its own, whose clock begins at zero.
    fn in_a_thread(run: impl FnOnce(&mut Counted) + Send) {
        thread::scope(|scope| drop(scope.spawn(|| run(&mut Counted::default()))));
    }

    #[test]
    fn a_thread_counts_from_its_start_on_what_others_do_not() {
        let own_cpu = OwnCpu::default();
        assert_eq!(own_cpu.read(), Some(Duration::ZERO));
        for threads in 1..=2 {
            in_a_thread(|counted| {
                work();
                own_cpu.count(counted);
            });
            assert!(own_cpu.read().unwrap() >= threads * WORK);
        }
        in_a_thread(|counted| {
            own_cpu.count(counted);
            let before = own_cpu.read().unwrap();
            work();
            own_cpu.count(counted);
            let after = own_cpu.read().unwrap();
            assert!(after >= before + WORK);
            assert!(after < before + clock::cpu_of_thread().unwrap(), "it is counted once");
        });
    }

    #[test]
    fn what_is_used_before_somebody_reads_is_not_counted() {
        let own_cpu = OwnCpu::default();
        in_a_thread(|counted| {
            work();
            own_cpu.count(counted);
            assert_eq!(own_cpu.read(), Some(Duration::ZERO));
            work();
            own_cpu.count(counted);
            assert_eq!(own_cpu.read(), Some(Duration::ZERO));
            work();
            own_cpu.count(counted);
            assert!(own_cpu.read().unwrap() >= WORK);
        });
    }
}
