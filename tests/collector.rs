//! A whole collector on a real socket, with an interpreter that the test plays.
#![cfg(target_os = "linux")]

use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use runtime_metrics::catalogue::Value;
use runtime_metrics::clock::Clock;
use runtime_metrics::collector::Collector;
use runtime_metrics::config::{Arguments, Settings};
use runtime_metrics::message::Message;
use runtime_metrics::reader::Interpreter;
use runtime_metrics::snapshot;
use runtime_metrics::sources::gc::GcCounters;
use runtime_metrics::variables::Environment;

const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_hours(1);

/// Answers at once, or, while it is held, not at all.
#[derive(Default)]
struct Played {
    held: Mutex<bool>,
    let_go: Condvar,
    asked: AtomicU64,
    logged: Mutex<Vec<Message>>,
}

impl Played {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.let_go.notify_all();
    }
}

impl Interpreter for Played {
    fn read(&self) -> Option<snapshot::Interpreter> {
        let count = self.asked.fetch_add(1, SeqCst);
        drop(self.let_go.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
        Some(snapshot::Interpreter { gc_count: [count, 0, 0] })
    }

    fn log(&self, messages: Vec<Message>) -> Vec<Message> {
        self.logged.lock().unwrap().extend(messages);
        Vec::new()
    }
}

struct Running {
    collector: Arc<Collector>,
    interpreter: Arc<Played>,
    gc: Arc<GcCounters>,
    receiver: UdpSocket,
}

impl Running {
    fn start(interval: Duration) -> Self {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let settings = Self::settings(&receiver, interval);
        let (clock, gc, interpreter) =
            (Clock::start(), Arc::new(GcCounters::new()), Arc::new(Played::default()));
        let played = Arc::clone(&interpreter) as _;
        let collector = Collector::new(clock, Arc::clone(&gc), &settings, "a:b".into(), played, None);
        collector.run().unwrap();
        Self { collector, interpreter, gc, receiver }
    }

    fn settings(receiver: &UdpSocket, interval: Duration) -> Settings {
        let arguments = Arguments {
            dogstatsd_url: Some(receiver.local_addr().unwrap().to_string()),
            flush_interval: Some(interval.as_secs_f64()),
            ..Arguments::default()
        };
        // In a container the lines would be longer.
        let environment = Environment::from([("DD_ORIGIN_DETECTION_ENABLED", "false")]);
        Settings::new(&arguments, &environment, Path::new("/nowhere")).unwrap().0
    }

    /// The lines of the next flush; with these tags it is one datagram.
    fn lines(&self) -> Vec<String> {
        let mut buffer = [0; 2000];
        let length = self.receiver.recv(&mut buffer).unwrap();
        let text = str::from_utf8(&buffer[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn flushes(&self) -> usize {
        self.receiver.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2000];
        std::iter::from_fn(|| self.receiver.recv(&mut buffer).ok()).count()
    }

    fn stop(&self) {
        self.collector.stop(Some(snapshot::Interpreter::default()), PATIENCE, false);
    }
}

fn names(lines: &[String], part: &str) -> usize {
    lines.iter().filter(|line| line.contains(part)).count()
}

#[test]
fn every_interval_has_all_fifteen_metrics() {
    let running = Running::start(Duration::from_millis(100));
    let (mut complete, mut all) = (0, 0);
    // On a busy machine an answer may come too late, and then only its own metrics are absent.
    while complete < 3 {
        let lines = running.lines();
        assert!(matches!(lines.len(), 12 | 15), "{lines:?}");
        complete += usize::from(lines.len() == 15);
        all += 1;
        assert!(all < 100);
    }
    running.stop();
}

#[test]
fn an_interpreter_that_does_not_answer_takes_only_its_own_metrics_away() {
    let running = Running::start(SOON);
    while running.lines().len() < 15 {}
    running.interpreter.hold(true);
    while names(&running.lines(), "gc.count") > 0 {}
    let asked = running.interpreter.asked.load(SeqCst);
    for _ in 0..5 {
        let lines = running.lines();
        assert_eq!(lines.len(), 12);
        assert_eq!(names(&lines, "cpu.time"), 2);
    }
    assert_eq!(running.interpreter.asked.load(SeqCst), asked, "one request is outstanding, never two");
    running.interpreter.hold(false);
    while names(&running.lines(), "gc.count") < 3 {}
    running.stop();
}

#[test]
fn an_answer_that_came_too_late_is_never_sent() {
    let running = Running::start(Duration::from_millis(50));
    running.interpreter.hold(true);
    while names(&running.lines(), "gc.count") > 0 {}
    let outstanding = running.interpreter.asked.load(SeqCst) - 1;
    running.interpreter.hold(false);
    let late = format!("gc.count.gen0:{outstanding}|");
    let next = running.lines();
    assert_eq!(names(&next, &late), 0, "{next:?}");
    assert_eq!(names(&next, "gc.count"), 3);
    running.stop();
}

#[test]
fn collections_that_went_unseen_are_absent_for_one_interval_only() {
    let running = Running::start(NEVER);
    let collect = || {
        running.gc.start(0);
        running.gc.stop(1000, 0);
    };
    let flush = || {
        assert!(running.collector.flush(None));
        running.lines()
    };
    collect();
    running.gc.note_unseen();
    // A look does not make the flush forget.
    assert!(running.collector.look(None).iter().all(|sample| !sample.metric.name.contains("gc.pause")));
    let lines = flush();
    assert_eq!(names(&lines, "gc.collections") + names(&lines, "gc.pause"), 0);
    let warnings = running.collector.take_messages();
    assert_eq!(warnings.iter().filter(|message| message.text.contains("gc.callbacks")).count(), 1);
    collect();
    let lines = flush();
    assert_eq!(names(&lines, "gc.collections.gen0:1|"), 1, "{lines:?}");
    assert_eq!(names(&lines, "gc.pause.time:1000|"), 1, "{lines:?}");
    running.stop();
}

#[test]
fn a_look_sends_nothing_and_leaves_the_interval_as_it_is() {
    let running = Running::start(NEVER);
    running.gc.start(0);
    running.gc.stop(777, 2);
    let value = |name: &str| {
        let samples = running.collector.look(None);
        samples.iter().find(|sample| sample.metric.name.ends_with(name)).map(|sample| sample.value)
    };
    for _ in 0..2 {
        assert_eq!(value("gc.collections.gen2"), Some(Value::Whole(1)));
        assert_eq!(value("gc.pause.max"), Some(Value::Whole(777)));
        assert_eq!(value("gc.count.gen0"), None);
    }
    assert_eq!(running.flushes(), 0);
    running.stop();
}

#[test]
fn stopping_sends_one_last_sample_and_no_more() {
    let running = Running::start(NEVER);
    running.stop();
    assert_eq!(running.flushes(), 1);
    running.stop();
    assert!(running.flushes() <= 1, "a second stop is harmless");
}

#[test]
fn stopping_is_bounded_although_the_interpreter_does_not_answer() {
    let running = Running::start(SOON);
    running.interpreter.hold(true);
    while names(&running.lines(), "gc.count") > 0 {}
    let start = Instant::now();
    running.collector.stop(None, Duration::from_millis(200), false);
    assert!(start.elapsed() < PATIENCE);
    running.interpreter.hold(false);
}

#[test]
fn another_receiver_and_interval_keep_what_has_gathered() {
    let running = Running::start(NEVER);
    running.gc.start(0);
    running.gc.stop(5, 1);
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    running.collector.reconfigure(&Running::settings(&other, SOON), "c:d".into());
    let moved = Running { receiver: other, ..running };
    let lines = moved.lines();
    assert_eq!(names(&lines, "gc.collections.gen1:1|d|#c:d"), 1, "{lines:?}");
    moved.stop();
}

#[test]
fn a_failure_is_logged_through_the_interpreter_once() {
    let running = Running::start(SOON);
    running.lines();
    let Running { collector, interpreter, receiver, .. } = running;
    drop(receiver);
    let start = Instant::now();
    let warnings = || {
        let logged = interpreter.logged.lock().unwrap();
        logged.iter().filter(|message| message.text.contains("fails")).count()
    };
    while warnings() == 0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    let ticks = interpreter.asked.load(SeqCst);
    while interpreter.asked.load(SeqCst) < ticks + 5 {
        std::thread::yield_now();
    }
    assert_eq!(warnings(), 1);
    collector.stop(None, PATIENCE, false);
}
