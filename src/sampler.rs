//! The thread with the schedule. It never touches the interpreter, so that nothing the program does with it can
//! delay what the operating system knows.
//!
//! What is done at each beat is the caller's closure; here are only the sleep and the clock.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Reading, formatting and sending need little.
const STACK: usize = 256 * 1024;

/// Monotonic time since the collector began.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since its start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The same in nanoseconds, enough for 584 years.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A running sampler.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    schedule: Mutex<Schedule>,
    changed: Condvar,
}

#[derive(Debug)]
struct Schedule {
    next: Duration,
    interval: Duration,
    stopping: bool,
    ended: bool,
}

impl Sampler {
    /// Starts the thread: `beat` is called every `interval`, first one interval after `now`.
    ///
    /// # Errors
    ///
    /// If the system has no thread left.
    pub fn start(
        clock: Clock,
        interval: Duration,
        mut beat: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        let schedule = Schedule {
            next: clock.now() + interval,
            interval,
            stopping: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            schedule: Mutex::new(schedule),
            changed: Condvar::new(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            spawn("rtm-sampler", STACK, move || {
                let _ended = Ended(&shared);
                while shared.wait(clock) {
                    beat();
                }
            })?
        };
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Beats at another interval, the next time one such interval from `now`.
    pub fn reschedule(&self, interval: Duration, now: Duration) {
        let mut schedule = self.shared.lock();
        schedule.interval = interval;
        schedule.next = now + interval;
        drop(schedule);
        self.shared.changed.notify_all();
    }

    /// Asks the thread to end and waits for it, at most so long; says whether it has ended.
    pub fn stop(&self, within: Duration) -> bool {
        let mut schedule = self.shared.lock();
        schedule.stopping = true;
        self.shared.changed.notify_all();
        (schedule, _) = self
            .shared
            .changed
            .wait_timeout_while(schedule, within, |schedule| !schedule.ended)
            .unwrap_or_else(PoisonError::into_inner);
        let ended = schedule.ended;
        drop(schedule);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|_| ended) {
            // It has nothing more to do, and its panics have been told of.
            drop(thread.join());
        }
        ended
    }
}

impl Shared {
    /// Sleeps until the next beat; false when it is time to stop. Beats that were missed are not made up for.
    fn wait(&self, clock: Clock) -> bool {
        let mut schedule = self.lock();
        loop {
            if schedule.stopping {
                return false;
            }
            let now = clock.now();
            let left = schedule.next.saturating_sub(now);
            if left.is_zero() {
                schedule.next = (schedule.next + schedule.interval).max(now);
                return true;
            }
            (schedule, _) = self
                .changed
                .wait_timeout(schedule, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whoever joins, however the thread ends.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

/// Starts a thread that receives no signal: the program's own threads must go on being interrupted by theirs.
///
/// # Errors
///
/// If the system has no thread left.
pub fn spawn(name: &str, stack: usize, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let spawn = || {
        thread::Builder::new()
            .name(name.to_owned())
            .stack_size(stack)
            .spawn(run)
    };
    #[cfg(unix)]
    {
        use nix::sys::signal::{SigSet, SigmaskHow};
        // A thread inherits the mask of the one that starts it.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let thread = spawn();
        before.thread_set_mask()?;
        thread
    }
    #[cfg(not(unix))]
    spawn()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn it_beats_until_it_is_stopped() {
        let (beats, received) = mpsc::channel();
        let sampler = Sampler::start(Clock::start(), Duration::from_millis(10), move || {
            beats.send(()).unwrap();
        });
        let sampler = sampler.unwrap();
        for _ in 0..3 {
            received.recv_timeout(LONG).unwrap();
        }
        assert!(sampler.stop(LONG));
        assert!(received.try_iter().count() < 100);
        assert_eq!(received.recv(), Err(mpsc::RecvError), "the thread is gone");
    }

    #[test]
    fn stopping_does_not_wait_for_the_next_beat() {
        let sampler = Sampler::start(Clock::start(), 100 * LONG, || panic!("no beat was due")).unwrap();
        assert!(sampler.stop(LONG));
    }

    #[test]
    fn a_new_schedule_holds_at_once() {
        let (beats, received) = mpsc::channel();
        let clock = Clock::start();
        let sampler = Sampler::start(clock, 100 * LONG, move || beats.send(()).unwrap()).unwrap();
        sampler.reschedule(Duration::from_millis(10), clock.now());
        received.recv_timeout(LONG).unwrap();
        assert!(sampler.stop(LONG));
    }

    #[test]
    fn a_thread_that_does_not_end_is_not_waited_for_longer_than_asked() {
        let (release, held) = mpsc::channel::<()>();
        let (beats, received) = mpsc::channel();
        let sampler = Sampler::start(Clock::start(), Duration::from_millis(10), move || {
            beats.send(()).unwrap();
            assert!(held.recv().is_err(), "held until the test lets go");
        });
        let sampler = sampler.unwrap();
        received.recv_timeout(LONG).unwrap();
        assert!(!sampler.stop(Duration::from_millis(1)));
        drop(release);
    }

    #[cfg(unix)]
    #[test]
    fn a_thread_receives_no_signal() {
        use nix::sys::signal::SigSet;
        let before = SigSet::thread_get_mask().unwrap();
        let (masks, received) = mpsc::channel();
        spawn("masked", STACK, move || {
            masks.send(SigSet::thread_get_mask().unwrap()).unwrap();
        })
        .unwrap();
        let mask = received.recv_timeout(LONG).unwrap();
        assert!(mask.contains(nix::sys::signal::SIGTERM) && mask.contains(nix::sys::signal::SIGINT));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
