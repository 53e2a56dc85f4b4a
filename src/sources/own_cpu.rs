//! CPU time of our own threads, which they measure themselves while a selected row needs it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// What our threads have used in one collector's lifetime.
#[derive(Debug, Default)]
pub struct OwnCpu {
    is_needed: AtomicBool,
    nanoseconds: AtomicU64,
}

impl OwnCpu {
    /// Does some work of one of our threads, and counts the CPU time that it takes.
    pub fn measure<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = if self.is_needed.load(Relaxed) { clock::cpu_of_thread() } else { None };
        let result = work();
        if let (Some(before), Some(now)) = (before, before.and_then(|_| clock::cpu_of_thread())) {
            let used = now.saturating_sub(before).as_nanos();
            self.nanoseconds.fetch_add(u64::try_from(used).unwrap_or(u64::MAX), Relaxed);
        }
        result
    }

    /// The CPU time so far, without the work that is going on; from the first call on it is counted.
    ///
    /// `None` where the system has no such clock.
    pub fn read(&self) -> Option<Duration> {
        self.is_needed.store(true, Relaxed);
        clock::cpu_of_thread().map(|_| Duration::from_nanos(self.nanoseconds.load(Relaxed)))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn work() {
        let start = clock::cpu_of_thread().unwrap();
        while clock::cpu_of_thread().unwrap() < start + Duration::from_millis(5) {}
    }

    #[test]
    fn work_is_counted_once_somebody_reads() {
        let own_cpu = OwnCpu::default();
        own_cpu.measure(work);
        assert_eq!(own_cpu.read(), Some(Duration::ZERO));
        own_cpu.measure(work);
        let once = own_cpu.read().unwrap();
        assert!(once >= Duration::from_millis(5));
        own_cpu.measure(work);
        assert!(own_cpu.read().unwrap() >= once + Duration::from_millis(5));
    }
}
