//! The thread that may wait: for the interpreter, which C code can hold for minutes, or for a name server.
//!
//! The sampler leaves requests and takes answers; in between, the thread probes how long it has to wait. The sampler
//! waits for an answer only as long as it chooses, and there is never more than one outstanding request to the
//! interpreter.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::interpreter::{Answer, Interpreter};
use super::requests::{Outstanding, Phase, Task};
use super::thread::{self, Thread};
use crate::clock::Clock;
use crate::emitter::LookUp;
use crate::message::Message;
use crate::sources::Counters;
use crate::sources::own_cpu::{Counted, OwnCpu};
use crate::sources::own_work::OwnWork;
use crate::sources::probe::{Meter, Probe};

/// Python code may run on it, in a log handler of the program: 400 nested calls through C need more than 256 kB.
const STACK: usize = 2 * 1024 * 1024;

/// The outstanding requests, and the thread that serves them, which starts with the first.
pub struct Reader {
    shared: Arc<Shared>,
    thread: Mutex<Option<Thread>>,
}

struct Shared {
    interpreter: Arc<dyn Interpreter>,
    clock: Clock,
    own_cpu: Arc<OwnCpu>,
    own_work: Arc<OwnWork>,
    probe: Arc<Probe>,
    outstanding: Mutex<Outstanding>,
    /// The thread waits for it: a request, or that it is to end.
    requested: Condvar,
    /// Others wait for it: an answer, or what the thread does.
    changed: Condvar,
}

impl Reader {
    /// A reader without requests; its thread does not run yet. It counts its CPU time, and what its probes observe on
    /// this clock.
    #[must_use]
    pub fn new(interpreter: Arc<dyn Interpreter>, clock: Clock, counters: &Counters) -> Self {
        let shared = Shared {
            interpreter,
            clock,
            own_cpu: Arc::clone(&counters.own_cpu),
            own_work: Arc::clone(&counters.own_work),
            probe: Arc::clone(&counters.probe),
            outstanding: Mutex::default(),
            requested: Condvar::new(),
            changed: Condvar::new(),
        };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Asks the interpreter for its facts; a request that is still outstanding serves this one too.
    pub fn ask(&self) {
        self.request(|state| {
            state.answer = None;
            state.asked = true;
        });
    }

    /// Waits for the answer to the last [`ask`](Self::ask), at most `within`; halting ends the wait, and where the
    /// thread could not start there is none.
    #[must_use]
    pub fn answer(&self, within: Duration) -> Option<Answer> {
        let waiting = |state: &mut Outstanding| {
            state.answer.is_none() && !state.halting && state.phase != Phase::NotRunning
        };
        let mut state = self.shared.lock();
        state.answer_waiters += 1;
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, within, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.answer_waiters -= 1;
        state.answer.take()
    }

    /// Requests the look-up of a host's name.
    pub fn look_up(&self, look_up: LookUp) {
        self.request(|state| state.look_up = Some(look_up));
    }

    /// Requests that messages be logged: now or, where that is not possible, by the program's next call.
    pub fn log(&self, messages: Vec<Message>, now: Duration) {
        if !messages.is_empty() {
            self.request(|state| state.messages.add(messages, now));
        }
    }

    /// Writes what has been waiting for too long to be logged. The log gets it too, once that is possible.
    pub fn write_late(&self, now: Duration) {
        let late = self.shared.lock().messages.take_late(now);
        if let Some(warnings) = late {
            drop(self.shared.interpreter.write(warnings));
        }
    }

    /// Leaves a message to be logged when there is another request.
    pub fn log_later(&self, message: Message) {
        self.shared.lock().messages.add_patient(message);
    }

    /// Keeps messages for a thread of the program to log.
    pub fn keep_for_program(&self, messages: Vec<Message>) {
        if !messages.is_empty() {
            self.shared.lock().messages.add_for_program(messages);
        }
    }

    /// What a thread of the program has to log: what was kept for it, what our thread could not log, and what it had
    /// not logged when it was halted.
    #[must_use]
    pub fn take_unlogged(&self) -> Vec<Message> {
        let mut state = self.shared.lock();
        let is_logging = state.phase == Phase::Calling;
        if state.halting { state.messages.take_all(is_logging) } else { state.messages.take_for_program() }
    }

    /// Ends every wait for an answer and asks the thread to end.
    pub fn begin_halt(&self) {
        let was_halting = std::mem::replace(&mut self.shared.lock().halting, true);
        if !was_halting {
            self.shared.requested.notify_one();
            self.shared.changed.notify_all();
        }
    }

    /// Whether the thread cannot end while the caller keeps the interpreter to itself.
    #[must_use]
    pub fn is_in_interpreter(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Entering | Phase::Calling)
    }

    /// Waits while the thread waits for the interpreter. The caller, who is about to end the interpreter and must be
    /// detached, needs it as well, so this takes no longer; a thread that attached later would crash.
    pub fn await_interpreter(&self) {
        let entering = |state: &mut Outstanding| state.phase == Phase::Entering;
        let mut state = self.shared.lock();
        state.phase_waiters += 1;
        let waited = self.shared.changed.wait_while(state, entering);
        waited.unwrap_or_else(PoisonError::into_inner).phase_waiters -= 1;
    }

    /// Asks the thread to end and waits for it, at most `within`; whether it has ended. A look-up in progress is not
    /// waited for: it ends by itself and touches nothing afterwards. The thread starts again after a
    /// [`resume`](Self::resume).
    pub fn halt(&self, within: Duration) -> bool {
        self.begin_halt();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_some_and(Thread::is_current) {
            return false;
        }
        let busy =
            |state: &mut Outstanding| matches!(state.phase, Phase::Parked | Phase::Entering | Phase::Calling);
        let mut state = self.shared.lock();
        state.phase_waiters += 1;
        let waited = self.shared.changed.wait_timeout_while(state, within, busy);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.phase_waiters -= 1;
        let ended = state.phase == Phase::NotRunning;
        drop(state);
        if let Some(thread) = thread.take_if(|_| ended) {
            thread.join();
        }
        ended
    }

    /// Once halted, it stays so.
    pub fn close(&self) {
        self.shared.lock().closed = true;
    }

    /// Serves requests again after a halt, unless it is closed. For probes alone no thread starts.
    pub fn resume(&self) {
        let mut state = self.shared.lock();
        if state.closed {
            return;
        }
        state.halting = false;
        let has_work = state.asked || state.look_up.is_some() || state.messages.are_waiting();
        drop(state);
        if has_work {
            self.request(|_| ());
        }
    }

    /// Starts the thread if probes are needed.
    pub fn begin_probes(&self) {
        if self.shared.probe.is_wanted() {
            self.request(|_| ());
        }
    }

    /// Holds probes back while a fork is made, or lets them go on.
    pub fn hold_probes(&self, are_held: bool) {
        self.shared.probe.hold(are_held);
        if !are_held {
            // The thread may have looked, and not be waiting yet.
            drop(self.shared.lock());
            self.shared.requested.notify_one();
        }
    }

    /// Leaves a request, and starts the thread if it does not run.
    fn request(&self, leave: impl FnOnce(&mut Outstanding)) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.lock();
        leave(&mut state);
        if state.phase == Phase::NotRunning && !state.halting {
            let shared = Arc::clone(&self.shared);
            // If it cannot start, the request stays unanswered; the next one tries again.
            if let Ok(started) = thread::spawn(c"rtm-reader", STACK, Box::new(move || shared.run())) {
                *thread = Some(started);
                state.phase = Phase::Parked;
            }
        }
        drop(state);
        self.shared.requested.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        self.probe.begin_thread();
        let (mut probe_due, mut meter, mut counted) = (None, Meter::default(), Counted::default());
        while let Some(task) = self.next(&mut probe_due) {
            let unless_it_returns = EndOfThread(self);
            let (is_probe, mut is_replaced) = (matches!(task, Task::Probe { .. }), false);
            if is_probe {
                meter.add_probe();
            } else {
                self.own_cpu.count(&mut counted);
                // A request waits for the interpreter as a probe does, and takes the place of the next one: but not of
                // each, where requests come faster than probes.
                is_replaced = self.probe.charge(&mut meter) && matches!(task, Task::Read);
            }
            self.serve(task);
            if !is_probe {
                self.probe.restart(&mut meter);
            }
            std::mem::forget(unless_it_returns);
            // What is late by now is late because of us.
            probe_due.take_if(|due| is_replaced || *due <= self.clock.now());
            self.enter_phase(Phase::Parked);
        }
        self.own_cpu.count(&mut counted);
        self.changed.notify_all();
    }

    fn serve(&self, task: Task) {
        match task {
            Task::Read => {
                // It waits for the interpreter as a probe does.
                let is_probe = self.probe.is_wanted();
                if is_probe {
                    self.probe.begin(None, self.clock.now());
                }
                let answer = self.in_interpreter(is_probe, |entered| self.interpreter.read(entered));
                let mut state = self.lock();
                state.asked = false;
                state.answer = answer;
            }
            Task::Probe { overslept } => {
                self.probe.begin(Some(overslept), self.clock.now());
                self.in_interpreter(true, |entered| self.interpreter.enter(entered));
            }
            Task::LookUp(look_up) => look_up.run(),
            Task::Log(messages) => {
                let left = self.interpreter.log(messages);
                self.lock().messages.end_logging(left);
            }
        }
    }

    /// Calls what enters the interpreter; whether that is a probe, which ends as soon as it has entered.
    fn in_interpreter<T>(&self, is_probe: bool, call: impl FnOnce(&dyn Fn()) -> T) -> T {
        let (is_counted, entered_at) = (self.own_work.is_needed(), Cell::new(None));
        let returned = call(&|| {
            if is_probe || is_counted {
                entered_at.set(Some(self.clock.now()));
            }
            if is_probe {
                self.probe.end(entered_at.get());
            }
            self.enter_phase(Phase::Calling);
        });
        self.probe.end(None);
        if is_counted && let Some(since) = entered_at.get() {
            self.own_work.leave_interpreter(self.clock.now().saturating_sub(since));
        }
        returned
    }

    fn enter_phase(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        let is_awaited = state.phase_waiters > 0 || (state.answer_waiters > 0 && state.answer.is_some());
        drop(state);
        if is_awaited {
            self.changed.notify_all();
        }
    }

    /// The next request; `None` when the thread is to end. From then on it counts as ended, and the next request starts
    /// another.
    fn next(&self, probe_due: &mut Option<Duration>) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.halting {
                state.phase = Phase::NotRunning;
                return None;
            }
            let until_probe = self.until_probe(probe_due);
            if let Some(Err(overslept)) = until_probe {
                state.phase = Phase::Entering;
                return Some(Task::Probe { overslept });
            }
            if state.asked {
                state.phase = Phase::Entering;
                return Some(Task::Read);
            }
            if state.messages.are_waiting() {
                state.phase = Phase::Calling;
                return Some(Task::Log(state.messages.take_waiting()));
            }
            if let Some(look_up) = state.look_up.take() {
                state.phase = Phase::LookingUp;
                return Some(Task::LookUp(look_up));
            }
            state = match until_probe {
                Some(Ok(left)) => {
                    self.requested.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                _ => self.requested.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The time until the next probe, or since it was due; `None` where none is wanted.
    fn until_probe(&self, due: &mut Option<Duration>) -> Option<Result<Duration, Duration>> {
        if !self.probe.is_wanted() {
            *due = None;
            return None;
        }
        let now = self.clock.now();
        let at = *due.get_or_insert_with(|| now + self.probe.choose_pause(now));
        Some(if at > now { Ok(at.saturating_sub(now)) } else { Err(now.saturating_sub(at)) })
    }

    fn lock(&self) -> MutexGuard<'_, Outstanding> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks the thread as ended where it ends amid a request: it has panicked, or the interpreter has ended it.
struct EndOfThread<'a>(&'a Shared);

impl Drop for EndOfThread<'_> {
    fn drop(&mut self) {
        self.0.lock().phase = Phase::NotRunning;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::message::Severity;
    use crate::snapshot::InterpreterFacts;

    /// More than the time after which a warning is late.
    const LATE: Duration = Duration::from_secs(10);
    const LONG: Duration = Duration::from_mins(1);

    /// Answers each request with the next `gc_count` it is given; cannot log.
    struct Scripted(Mutex<mpsc::Receiver<i64>>);

    impl Interpreter for Scripted {
        fn read(&self, entered: &dyn Fn()) -> Option<Answer> {
            let count = self.0.lock().unwrap().recv().ok()?;
            entered();
            let facts = InterpreterFacts { gc_count: Some([count, 0, 0]), ..InterpreterFacts::default() };
            Some(Answer { facts, ..Answer::default() })
        }

        fn enter(&self, entered: &dyn Fn()) {
            entered();
        }

        fn log(&self, messages: Vec<Message>) -> Vec<Message> {
            messages
        }
    }

    fn reader() -> (Reader, mpsc::Sender<i64>) {
        let (answers, received) = mpsc::channel();
        (Reader::new(Arc::new(Scripted(Mutex::new(received))), Clock::start(), &Counters::default()), answers)
    }

    fn count(answer: Option<Answer>) -> Option<i64> {
        answer?.facts.gc_count.map(|count| count[0])
    }

    #[test]
    fn an_outstanding_request_serves_the_next_one_too() {
        let (reader, answers) = reader();
        reader.ask();
        assert_eq!(reader.answer(Duration::ZERO), None);
        // A second answer is never sent: a second request would wait for it in vain.
        reader.ask();
        answers.send(7).unwrap();
        assert_eq!(count(reader.answer(LONG)), Some(7));
        assert!(reader.halt(LONG));
    }

    #[test]
    fn halting_ends_a_wait_for_an_answer() {
        let (reader, answers) = reader();
        reader.ask();
        reader.begin_halt();
        assert_eq!(reader.answer(LONG), None);
        drop(answers);
        assert!(reader.halt(LONG));
    }

    #[test]
    fn requests_left_while_halted_are_served_after_a_resume() {
        let (reader, answers) = reader();
        assert!(reader.halt(LONG));
        reader.ask();
        answers.send(3).unwrap();
        reader.resume();
        assert_eq!(count(reader.answer(LONG)), Some(3));
        assert!(reader.halt(LONG));
    }

    /// Logs nothing until it is let go.
    struct Blocked {
        let_go: Mutex<mpsc::Receiver<()>>,
        written: Mutex<Vec<Message>>,
    }

    impl Interpreter for Blocked {
        fn read(&self, _entered: &dyn Fn()) -> Option<Answer> {
            None
        }

        fn enter(&self, entered: &dyn Fn()) {
            entered();
        }

        fn log(&self, _messages: Vec<Message>) -> Vec<Message> {
            let _ = self.let_go.lock().unwrap().recv();
            Vec::new()
        }

        fn write(&self, messages: Vec<Message>) -> Vec<Message> {
            self.written.lock().unwrap().extend(messages);
            Vec::new()
        }
    }

    #[test]
    fn a_warning_that_cannot_be_logged_in_time_is_written_once() {
        let (let_go, received) = mpsc::channel();
        let interpreter = Arc::new(Blocked { let_go: Mutex::new(received), written: Mutex::default() });
        let reader = Reader::new(Arc::clone(&interpreter) as _, Clock::start(), &Counters::default());
        let warning = Message::warning("lost");
        let debug = Message::new(Severity::Debug, "unimportant".to_owned());
        reader.log(vec![warning.clone(), debug], Duration::from_secs(1));
        reader.write_late(Duration::from_secs(2));
        assert_eq!(*interpreter.written.lock().unwrap(), []);
        for late in [LATE, 2 * LATE] {
            reader.write_late(late);
            assert_eq!(interpreter.written.lock().unwrap().as_slice(), std::slice::from_ref(&warning));
        }
        drop(let_go);
        assert!(reader.halt(LONG));
    }

    #[test]
    fn a_warning_whose_logging_does_not_end_is_left_to_the_program() {
        let (let_go, received) = mpsc::channel();
        let interpreter = Arc::new(Blocked { let_go: Mutex::new(received), written: Mutex::default() });
        let reader = Reader::new(interpreter, Clock::start(), &Counters::default());
        let warning = Message::warning("lost");
        reader.log(vec![warning.clone()], Duration::ZERO);
        while !reader.is_in_interpreter() {
            std::hint::spin_loop();
        }
        assert!(!reader.halt(Duration::ZERO));
        assert_eq!(reader.take_unlogged(), [warning]);
        drop(let_go);
        assert!(reader.halt(LONG));
    }

    #[test]
    fn what_the_thread_cannot_log_is_left_to_the_program() {
        let (reader, _answers) = reader();
        let warning = Message::warning("lost");
        reader.log(vec![warning.clone()], Duration::ZERO);
        assert!(reader.halt(LONG));
        assert_eq!(reader.take_unlogged(), [warning]);
        assert_eq!(reader.take_unlogged(), []);
    }

    #[test]
    fn once_closed_it_serves_nothing_and_probes_nothing() {
        let (reader, answers) = reader();
        reader.shared.probe.need(true);
        assert!(reader.halt(LONG));
        reader.close();
        answers.send(3).unwrap();
        reader.resume();
        reader.begin_probes();
        reader.ask();
        assert_eq!(reader.answer(LONG), None);
        assert!(reader.thread.lock().unwrap().is_none());
    }

    #[test]
    fn for_probes_alone_a_thread_starts_only_where_they_may_begin() {
        let (reader, _answers) = reader();
        let has_started = || reader.thread.lock().unwrap().is_some();
        reader.begin_probes();
        assert!(!has_started(), "none is needed");
        reader.shared.probe.need(true);
        reader.hold_probes(true);
        reader.begin_probes();
        assert!(!has_started(), "a fork is made");
        reader.hold_probes(false);
        reader.resume();
        assert!(!has_started(), "a fork has ended");
        reader.begin_probes();
        assert!(has_started());
        let facts = || reader.shared.probe.read(reader.shared.clock.now());
        let deadline = std::time::Instant::now() + LONG;
        while facts().wait_p95.is_none() {
            assert!(std::time::Instant::now() < deadline, "it does not probe");
            std::thread::yield_now();
        }
        assert!(facts().overslept.is_some());
        assert!(reader.halt(LONG));
    }

    #[test]
    fn a_late_wake_up_shows_although_a_request_waits() {
        let (reader, _answers) = reader();
        let shared = &reader.shared;
        shared.probe.need(true);
        shared.lock().asked = true;
        let mut due = Some(Duration::ZERO);
        assert!(matches!(shared.next(&mut due), Some(Task::Probe { overslept }) if !overslept.is_zero()));
        // Held back, it is forgotten, and would be late because of that.
        shared.probe.hold(true);
        assert!(matches!(shared.next(&mut due), Some(Task::Read)));
        assert_eq!(due, None);
    }

    #[test]
    fn a_request_waits_for_the_interpreter_as_a_probe_does() {
        for is_needed in [false, true] {
            let (reader, answers) = reader();
            reader.shared.probe.need(is_needed);
            reader.ask();
            let facts = || reader.shared.probe.read(reader.shared.clock.now());
            let deadline = std::time::Instant::now() + LONG;
            while is_needed && facts().longest_wait.is_none() {
                assert!(std::time::Instant::now() < deadline, "the wait is not seen while it lasts");
                std::thread::yield_now();
            }
            answers.send(1).unwrap();
            assert_eq!(count(reader.answer(LONG)), Some(1));
            assert_eq!(facts().wait_p95.is_some(), is_needed);
            assert!(reader.halt(LONG));
        }
    }
}
