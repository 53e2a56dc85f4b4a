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

/// The schedule, and the thread that keeps it while it runs.
pub struct Sampler {
    shared: Arc<Shared>,
    beat: Arc<dyn Fn() + Send + Sync>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    clock: Clock,
    schedule: Mutex<Schedule>,
    changed: Condvar,
}

struct Schedule {
    next: Duration,
    interval: Duration,
    halting: bool,
    running: bool,
}

impl Sampler {
    /// A sampler that does not run yet: `beat` will be called every `interval`, first one interval from now.
    pub fn new(clock: Clock, interval: Duration, beat: impl Fn() + Send + Sync + 'static) -> Self {
        let schedule = Schedule { next: clock.now() + interval, interval, halting: false, running: false };
        let shared = Shared { clock, schedule: Mutex::new(schedule), changed: Condvar::new() };
        Self { shared: Arc::new(shared), beat: Arc::new(beat), thread: Mutex::default() }
    }

    /// Starts the thread. After a [`halt`](Self::halt) it goes on where the schedule stands.
    ///
    /// # Errors
    ///
    /// If the system has no thread left.
    pub fn run(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let mut schedule = self.shared.lock();
        schedule.halting = false;
        if schedule.running {
            return Ok(());
        }
        let (shared, beat) = (Arc::clone(&self.shared), Arc::clone(&self.beat));
        let run = move || {
            let _ended = Ended(&shared);
            while shared.wait() {
                beat();
            }
        };
        *thread = Some(spawn("rtm-sampler", STACK, Box::new(run))?);
        schedule.running = true;
        Ok(())
    }

    /// Beats at another interval, the next time one such interval from now.
    pub fn reschedule(&self, interval: Duration) {
        let mut schedule = self.shared.lock();
        schedule.interval = interval;
        schedule.next = self.shared.clock.now() + interval;
        drop(schedule);
        self.shared.changed.notify_all();
    }

    /// Asks the thread to end.
    pub fn begin_halt(&self) {
        self.shared.lock().halting = true;
        self.shared.changed.notify_all();
    }

    /// Asks the thread to end and waits for it, at most so long; says whether it has ended. The schedule stands.
    pub fn halt(&self, within: Duration) -> bool {
        self.begin_halt();
        let (schedule, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), within, |schedule| schedule.running)
            .unwrap_or_else(PoisonError::into_inner);
        let ended = !schedule.running;
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
    /// Sleeps until the next beat; false when it is time to end. Beats that were missed are not made up for.
    fn wait(&self) -> bool {
        let mut schedule = self.lock();
        loop {
            if schedule.halting {
                return false;
            }
            let now = self.clock.now();
            let left = schedule.next.saturating_sub(now);
            if left.is_zero() {
                schedule.next = (schedule.next + schedule.interval).max(now);
                return true;
            }
            (schedule, _) = self.changed.wait_timeout(schedule, left).unwrap_or_else(PoisonError::into_inner);
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
        self.0.lock().running = false;
        self.0.changed.notify_all();
    }
}

/// Starts a thread that receives no signal: the program's own threads must go on being interrupted by theirs.
///
/// # Errors
///
/// If the system has no thread left.
pub fn spawn(name: &str, stack: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    let spawn = || thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(run);
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

    fn beating(interval: Duration) -> (Sampler, mpsc::Receiver<()>) {
        let (beats, received) = mpsc::channel();
        let sampler = Sampler::new(Clock::start(), interval, move || beats.send(()).unwrap());
        sampler.run().unwrap();
        (sampler, received)
    }

    #[test]
    fn it_beats_until_it_is_halted() {
        let (sampler, received) = beating(Duration::from_millis(10));
        for _ in 0..3 {
            received.recv_timeout(LONG).unwrap();
        }
        assert!(sampler.halt(LONG));
        received.try_iter().for_each(drop);
        assert_eq!(received.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
    }

    #[test]
    fn halting_does_not_wait_for_the_next_beat() {
        let sampler = Sampler::new(Clock::start(), 100 * LONG, || panic!("no beat was due"));
        sampler.run().unwrap();
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn it_goes_on_where_the_schedule_stands() {
        let (sampler, received) = beating(Duration::from_millis(200));
        let start = Instant::now();
        // Halted again and again, it would never beat if that put off the next beat.
        while received.try_recv().is_err() {
            assert!(sampler.halt(LONG));
            sampler.run().unwrap();
        }
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn a_new_schedule_holds_at_once() {
        let (sampler, received) = beating(100 * LONG);
        sampler.reschedule(Duration::from_millis(10));
        received.recv_timeout(LONG).unwrap();
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn a_thread_that_does_not_end_is_not_waited_for_longer_than_asked() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (beats, received) = mpsc::channel();
        let sampler = Sampler::new(Clock::start(), Duration::from_millis(10), move || {
            beats.send(()).unwrap();
            assert!(held.lock().unwrap().recv().is_err(), "held until the test lets go");
        });
        sampler.run().unwrap();
        received.recv_timeout(LONG).unwrap();
        assert!(!sampler.halt(Duration::from_millis(1)));
        // Asked to run before it has ended, it goes on.
        sampler.run().unwrap();
        drop(release);
        received.recv_timeout(LONG).unwrap();
        assert!(sampler.halt(LONG));
    }

    #[cfg(unix)]
    #[test]
    fn a_thread_receives_no_signal() {
        use nix::sys::signal::SigSet;
        let before = SigSet::thread_get_mask().unwrap();
        let (masks, received) = mpsc::channel();
        let run = move || masks.send(SigSet::thread_get_mask().unwrap()).unwrap();
        spawn("masked", STACK, Box::new(run)).unwrap();
        let mask = received.recv_timeout(LONG).unwrap();
        assert!(mask.contains(nix::sys::signal::SIGTERM) && mask.contains(nix::sys::signal::SIGINT));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
