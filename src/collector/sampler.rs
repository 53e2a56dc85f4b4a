//! The thread with the schedule. It never enters the interpreter, so that nothing the program does there can delay what
//! the operating system knows.
//!
//! A tick is the caller's closure; here is only the sleep.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::thread::{self, Thread};
use crate::clock::Clock;
use crate::sources::Counters;
use crate::sources::own_cpu::{Counted, OwnCpu};
use crate::sources::own_work::OwnWork;

/// Reading, formatting and sending need little.
const STACK: usize = 256 * 1024;

/// The schedule, and the thread that keeps it.
pub struct Sampler {
    shared: Arc<Shared>,
    tick: Arc<dyn Fn() -> Option<Duration> + Send + Sync>,
    check: Arc<dyn Fn(Duration) -> Option<Duration> + Send + Sync>,
    own_cpu: Arc<OwnCpu>,
    thread: Mutex<Option<Thread>>,
}

struct Shared {
    clock: Clock,
    own_work: Arc<OwnWork>,
    schedule: Mutex<Timetable>,
    changed: Condvar,
}

struct Timetable {
    next: Duration,
    /// A tick in between, which the last one has asked for.
    again: Option<Duration>,
    /// The next check, if there is one.
    check: Option<Duration>,
    /// How late the thread woke up for the last tick, which the next check has to know.
    late: Duration,
    interval: Duration,
    halting: bool,
    running: bool,
    closed: bool,
}

/// What the thread does next.
#[derive(Clone, Copy, PartialEq)]
enum Due {
    Tick,
    Check {
        /// The thread, or the tick before, woke up so much too late.
        late: Duration,
    },
}

impl Sampler {
    /// A sampler that does not run yet: `tick` will be called every `interval`, first one interval from now, and once
    /// more after the time that a call returns. `check` is called at the start, after each tick and after the time that
    /// it returns itself, with how late the thread woke up. The thread counts its CPU time, and how late ticks begin.
    pub fn new(
        clock: Clock,
        interval: Duration,
        counters: &Counters,
        tick: impl Fn() -> Option<Duration> + Send + Sync + 'static,
        check: impl Fn(Duration) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        let schedule = Timetable {
            next: clock.now() + interval,
            again: None,
            check: None,
            late: Duration::ZERO,
            interval,
            halting: false,
            running: false,
            closed: false,
        };
        let own_work = Arc::clone(&counters.own_work);
        let shared = Shared { clock, own_work, schedule: Mutex::new(schedule), changed: Condvar::new() };
        Self {
            shared: Arc::new(shared),
            tick: Arc::new(tick),
            check: Arc::new(check),
            own_cpu: Arc::clone(&counters.own_cpu),
            thread: Mutex::default(),
        }
    }

    /// Starts the thread. After a [`halt`](Self::halt) it continues the schedule; once [closed](Self::close) it never
    /// starts again.
    ///
    /// # Errors
    ///
    /// If the system cannot start another thread.
    pub fn run(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let mut schedule = self.shared.lock();
        if schedule.closed {
            return Ok(());
        }
        schedule.halting = false;
        if schedule.running {
            return Ok(());
        }
        let (shared, tick, check) =
            (Arc::clone(&self.shared), Arc::clone(&self.tick), Arc::clone(&self.check));
        let own_cpu = Arc::clone(&self.own_cpu);
        let run = move || {
            let mut counted = Counted::default();
            let mut due = Some(Due::Check { late: Duration::ZERO });
            while let Some(task) = due {
                // A bug of ours costs a tick or a check; the panic hook has printed it.
                let after = catch_unwind(AssertUnwindSafe(|| match task {
                    Due::Tick => tick(),
                    Due::Check { late } => check(late),
                }));
                if after.is_err() {
                    shared.own_work.fail();
                }
                let at = after.ok().flatten().map(|after| shared.clock.now() + after);
                if task == Due::Tick {
                    own_cpu.count(&mut counted);
                }
                due = shared.next(task, at);
            }
        };
        *thread = Some(thread::spawn(c"rtm-sampler", STACK, Box::new(run))?);
        schedule.running = true;
        Ok(())
    }

    /// Ticks at another interval, next one such interval from now.
    pub fn reschedule(&self, interval: Duration) {
        let mut schedule = self.shared.lock();
        schedule.interval = interval;
        schedule.next = self.shared.clock.now() + interval;
        schedule.again = None;
        drop(schedule);
        self.shared.changed.notify_all();
    }

    /// Asks the thread to end.
    pub fn begin_halt(&self) {
        let was_halting = std::mem::replace(&mut self.shared.lock().halting, true);
        if !was_halting {
            self.shared.changed.notify_all();
        }
    }

    /// Asks the thread to end and waits for it, at most `within`; whether it has ended. The schedule stays.
    pub fn halt(&self, within: Duration) -> bool {
        self.begin_halt();
        let running = |schedule: &mut Timetable| schedule.running;
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), within, running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        // `run` takes this lock before it starts another thread.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = !self.shared.lock().running;
        if let Some(thread) = thread.take_if(|_| ended) {
            thread.join();
        }
        ended
    }

    /// Never runs again.
    pub fn close(&self) {
        self.shared.lock().closed = true;
    }
}

impl Shared {
    /// Schedules what the last one has asked for, and sleeps until the next tick or check; `None` when
    /// the thread is to end. From then on it counts as ended, and [`run`](Sampler::run) starts another. Missed ticks
    /// are not made up for.
    fn next(&self, last: Due, again: Option<Duration>) -> Option<Due> {
        let asleep = self.clock.now();
        let mut schedule = self.lock();
        match last {
            Due::Tick => schedule.again = again,
            Due::Check { .. } => schedule.check = again,
        }
        loop {
            if schedule.halting {
                schedule.running = false;
                drop(schedule);
                self.changed.notify_all();
                return None;
            }
            let now = self.clock.now();
            let tick = schedule.again.unwrap_or(schedule.next);
            // Checks may be wanted from the last tick on.
            let check = schedule.check.or((last == Due::Tick).then_some(asleep));
            let due = check.map_or(tick, |check| check.min(tick));
            if due > now {
                let waited = self.changed.wait_timeout(schedule, due.saturating_sub(now));
                (schedule, _) = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let late = now.saturating_sub(due.max(asleep));
            // If both are due they take turns, however long a tick takes.
            if tick <= now && (last != Due::Tick || check.is_none_or(|check| check > now)) {
                schedule.late = schedule.late.max(late);
                if schedule.again.take().is_none() {
                    self.own_work.begin_tick(now.saturating_sub(schedule.next));
                    let next = schedule.next + schedule.interval;
                    schedule.next = if next > now { next } else { now + schedule.interval };
                }
                return Some(Due::Tick);
            }
            schedule.check = None;
            return Some(Due::Check { late: std::mem::take(&mut schedule.late).max(late) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Timetable> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn without_checks(
        interval: Duration,
        tick: impl Fn() -> Option<Duration> + Send + Sync + 'static,
    ) -> Sampler {
        Sampler::new(Clock::start(), interval, &Counters::default(), tick, |_| None)
    }

    fn ticking(interval: Duration) -> (Sampler, mpsc::Receiver<()>) {
        let (ticks, received) = mpsc::channel();
        let sampler = without_checks(interval, move || {
            ticks.send(()).unwrap();
            None
        });
        sampler.run().unwrap();
        (sampler, received)
    }

    #[test]
    fn it_ticks_until_it_is_halted() {
        let (sampler, received) = ticking(Duration::from_millis(10));
        for _ in 0..3 {
            received.recv_timeout(LONG).unwrap();
        }
        assert!(sampler.halt(LONG));
        received.try_iter().for_each(drop);
        assert_eq!(received.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
    }

    #[test]
    fn halting_does_not_wait_for_the_next_tick() {
        let sampler = without_checks(100 * LONG, || panic!("no tick was due"));
        sampler.run().unwrap();
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn closed_it_does_not_go_on() {
        let (sampler, received) = ticking(Duration::from_millis(10));
        received.recv_timeout(LONG).unwrap();
        sampler.close();
        assert!(sampler.halt(LONG));
        sampler.run().unwrap();
        received.try_iter().for_each(drop);
        assert_eq!(received.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
    }

    #[test]
    fn it_goes_on_where_the_schedule_stands() {
        let (sampler, received) = ticking(Duration::from_millis(200));
        let start = Instant::now();
        // Halted again and again, it would never tick if that put off the next tick. Between two halts the thread has
        // time to begin, or it might never see that a tick is due.
        while received.recv_timeout(Duration::from_millis(1)).is_err() {
            assert!(sampler.halt(LONG));
            sampler.run().unwrap();
        }
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn a_new_schedule_holds_at_once() {
        let (sampler, received) = ticking(100 * LONG);
        sampler.reschedule(Duration::from_millis(10));
        received.recv_timeout(LONG).unwrap();
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn a_thread_that_does_not_end_is_not_waited_for_longer_than_asked() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (ticks, received) = mpsc::channel();
        let sampler = without_checks(Duration::from_millis(10), move || {
            ticks.send(()).unwrap();
            assert!(held.lock().unwrap().recv().is_err(), "held until the test lets go");
            None
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

    #[test]
    fn missed_ticks_are_not_made_up_for() {
        let (ticks, received) = mpsc::channel();
        let interval = Duration::from_millis(50);
        let sampler = without_checks(interval, move || {
            ticks.send(Instant::now()).unwrap();
            std::thread::sleep(3 * interval);
            None
        });
        sampler.run().unwrap();
        let first = received.recv_timeout(LONG).unwrap();
        let second = received.recv_timeout(LONG).unwrap();
        // The tick took three intervals; the next one is a whole interval after its end, or nearly.
        assert!(second - first > 3 * interval, "{:?}", second - first);
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn it_checks_at_the_start_after_ticks_and_as_often_as_it_is_asked_to() {
        let (checks, received) = mpsc::channel();
        let (interval, pause) = (Duration::from_millis(300), Duration::from_millis(20));
        let check = move |late: Duration| {
            checks.send((Instant::now(), late)).unwrap();
            None
        };
        let sampler = Sampler::new(Clock::start(), interval, &Counters::default(), || None, check);
        let start = Instant::now();
        sampler.run().unwrap();
        received.recv_timeout(LONG).unwrap();
        let (second, _) = received.recv_timeout(LONG).unwrap();
        assert!(second - start >= interval, "it checked without having been asked to");
        assert!(sampler.halt(LONG));

        let (checks, received) = mpsc::channel();
        let check = move |_| {
            checks.send(Instant::now()).unwrap();
            Some(pause)
        };
        let sampler = Sampler::new(Clock::start(), LONG, &Counters::default(), || None, check);
        sampler.run().unwrap();
        let times: Vec<_> = (0..5).map(|_| received.recv_timeout(LONG).unwrap()).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= pause), "{times:?}");
        assert!(sampler.halt(LONG));
    }

    #[test]
    fn a_tick_that_takes_long_makes_no_check_late() {
        let (checks, received) = mpsc::channel();
        let interval = Duration::from_millis(50);
        let tick = move || {
            std::thread::sleep(Duration::from_secs(2));
            None
        };
        let check = move |late| {
            checks.send(late).unwrap();
            Some(Duration::from_millis(10))
        };
        let sampler = Sampler::new(Clock::start(), interval, &Counters::default(), tick, check);
        sampler.run().unwrap();
        let lates = (0..10).map(|_| received.recv_timeout(LONG).unwrap());
        assert!(lates.max().unwrap() < Duration::from_secs(1));
        sampler.begin_halt();
        assert!(sampler.halt(LONG));
    }
}
