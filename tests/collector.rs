//! A whole collector on a real socket, with an interpreter that the test plays.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::libc;
use runtime_metrics::catalogue::CATALOGUE;
use runtime_metrics::catalogue::metric::{Level, Metric, Value, Wire};
use runtime_metrics::catalogue::selection::Selection;
use runtime_metrics::clock::{Clock, since_epoch};
use runtime_metrics::collector::{Answer, Collector, Interpreter};
use runtime_metrics::emitter::Distribution;
use runtime_metrics::identity::IdentityInputs;
use runtime_metrics::identity::function::{Function, InvocationFacts, Start};
use runtime_metrics::identity::tracers::{Names, RuntimeWorker, Tracers};
use runtime_metrics::message::Message;
use runtime_metrics::settings::variables::Environment;
use runtime_metrics::settings::{Arguments, Schedule, ServiceArguments, Settings, Sink, Surroundings};
use runtime_metrics::snapshot::{InterpreterFacts, Source};
use runtime_metrics::sources::Counters;
use runtime_metrics::sources::gc::GcCounters;
use runtime_metrics::sources::gunicorn::requests::{Outcome, RequestCounters};
use tempfile::TempDir;

mod on_demand;

const TIMEOUT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);
const LONG_INTERVAL: Duration = Duration::from_hours(1);

/// Answers at once, or, while it is held, not at all.
#[derive(Default)]
struct FakeInterpreter {
    held: Mutex<bool>,
    let_go: Condvar,
    asked: AtomicU64,
    entered: AtomicU64,
    logged: Mutex<Vec<Message>>,
    environment: Mutex<Arc<Environment>>,
    tracers: Mutex<Tracers>,
}

impl FakeInterpreter {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.let_go.notify_all();
    }
}

impl Interpreter for FakeInterpreter {
    fn read(&self, entered: &dyn Fn()) -> Option<Answer> {
        let count = self.asked.fetch_add(1, SeqCst);
        drop(self.let_go.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
        entered();
        let environment = self.environment.lock().unwrap().clone();
        let tracers = self.tracers.lock().unwrap().clone();
        let facts =
            InterpreterFacts { gc_count: Some([count.cast_signed(), 0, 0]), ..InterpreterFacts::default() };
        Some(Answer { facts, gunicorn: None, environment, tracers: Some(tracers) })
    }

    fn enter(&self, entered: &dyn Fn()) {
        self.entered.fetch_add(1, SeqCst);
        entered();
    }

    fn log(&self, messages: Vec<Message>) -> Vec<Message> {
        self.logged.lock().unwrap().extend(messages);
        Vec::new()
    }
}

/// The kernel ids of the threads that have registered a destructor.
static WITH_DESTRUCTORS: Mutex<BTreeSet<libc::pid_t>> = Mutex::new(BTreeSet::new());

/// In place of the C library's function, which allocates memory and ends the process if there is none.
#[expect(unsafe_code, reason = "Only the linker puts a function in the place of another.")]
#[unsafe(no_mangle)]
extern "C" fn __cxa_thread_atexit_impl(
    destructor: extern "C" fn(*mut c_void),
    value: *mut c_void,
    library: *mut c_void,
) -> c_int {
    type Register = extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, *mut c_void) -> c_int;
    WITH_DESTRUCTORS.lock().unwrap().insert(nix::unistd::gettid().as_raw());
    // SAFETY: the name is a string that ends, and the C library's function has this type.
    let register = unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"__cxa_thread_atexit_impl".as_ptr());
        std::mem::transmute::<*mut c_void, Register>(next)
    };
    register(destructor, value, library)
}

/// Who has this tag.
fn inputs(tag: &str) -> IdentityInputs {
    let arguments = ServiceArguments { tags: Some(vec![tag.to_owned()]), ..ServiceArguments::default() };
    IdentityInputs { arguments, runtime_id: Some("own".into()), ..IdentityInputs::default() }
}

struct Running {
    collector: Arc<Collector>,
    interpreter: Arc<FakeInterpreter>,
    gc: Arc<GcCounters>,
    receiver: Receiver,
}

/// One flush is one datagram.
struct Receiver {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Receiver {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("dsd.socket")).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self { socket, folder }
    }
}

impl Running {
    fn start(interval: Duration) -> Self {
        Self::start_with(interval, |_| ())
    }

    fn start_with(interval: Duration, change: impl FnOnce(&mut Settings)) -> Self {
        let receiver = Receiver::new();
        let mut settings = Self::settings(&receiver, interval);
        change(&mut settings);
        let (clock, gc, interpreter) =
            (Clock::start(), Arc::new(GcCounters::new()), Arc::new(FakeInterpreter::default()));
        let played = Arc::clone(&interpreter) as _;
        let counters = Counters { gc: Arc::clone(&gc), ..Counters::default() };
        let collector =
            Collector::new(Path::new("/"), clock, counters, &settings, inputs("a:b"), played, None);
        collector.run().unwrap();
        Self { collector, interpreter, gc, receiver }
    }

    fn settings(receiver: &Receiver, interval: Duration) -> Settings {
        let arguments = Arguments {
            dogstatsd_url: Some(format!("unixgram://{}/dsd.socket", receiver.folder.path().display())),
            flush_interval: Some(interval.as_secs_f64()),
            ..Arguments::default()
        };
        let surroundings = Surroundings {
            default_socket: Path::new("/nowhere"),
            has_default_socket: false,
            has_extension: false,
        };
        Settings::new(&arguments, &Environment::default(), surroundings).unwrap().0
    }

    /// The lines of the next flush, without percentages: many intervals here are too short for them.
    fn lines(&self) -> Vec<String> {
        let mut lines = self.lines_and_percentages();
        lines.retain(|line| !line.contains(".percent:"));
        lines
    }

    fn lines_and_percentages(&self) -> Vec<String> {
        let mut buffer = [0; 8192];
        let length = self.receiver.socket.recv(&mut buffer).unwrap();
        let text = str::from_utf8(&buffer[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The lines of the next flush of which this is true, which comes within a hundred.
    fn lines_where(&self, is_true: impl Fn(&[String]) -> bool) -> Vec<String> {
        (0..100).map(|_| self.lines()).find(|lines| is_true(lines)).expect("no such flush came")
    }

    fn flushes(&self) -> usize {
        self.receiver.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 8192];
        std::iter::from_fn(|| self.receiver.socket.recv(&mut buffer).ok()).count()
    }

    fn stop(&self) {
        self.collector.stop(Some(Answer::default()), TIMEOUT, false);
    }
}

/// How many metrics a process sends in any interval, of those that the filter lets through.
fn rows(filter: impl Fn(&Metric) -> bool) -> usize {
    let of_every_process = |metric: &&Metric| {
        metric.wire == Wire::Chosen
            && metric.level == Level::Default
            && !metric.by_name
            && !metric.name.ends_with(".percent")
    };
    CATALOGUE.iter().filter(of_every_process).filter(|metric| filter(metric)).count()
}

/// How many metrics a process sends.
fn all() -> usize {
    rows(|_| true)
}

/// How many do not need the interpreter's answer.
fn without_answer() -> usize {
    rows(|metric| !metric.needs.contains(&Source::GcCount))
}

fn names(lines: &[String], part: &str) -> usize {
    lines.iter().filter(|line| line.contains(part)).count()
}

/// A collector of a function in AWS Lambda, and what it sends to.
fn of_a_function() -> (Arc<Collector>, Running) {
    of_a_function_by(Sink::Socket, inputs("a:b"))
}

fn of_a_function_by(sink: Sink, inputs: IdentityInputs) -> (Arc<Collector>, Running) {
    of_a_function_with(|settings| settings.sink = sink, inputs)
}

fn of_a_function_with(
    change: impl FnOnce(&mut Settings),
    inputs: IdentityInputs,
) -> (Arc<Collector>, Running) {
    let running = Running::start(LONG_INTERVAL);
    let mut settings = Running::settings(&running.receiver, SHORT);
    settings.schedule = Schedule::PerInvocation;
    settings.sink = Sink::Socket;
    change(&mut settings);
    let inputs = IdentityInputs { function: Some(Function::default()), ..inputs };
    let interpreter = Arc::clone(&running.interpreter) as _;
    let counters = Counters { gc: Arc::clone(&running.gc), ..Counters::default() };
    let collector =
        Collector::new(Path::new("/"), Clock::start(), counters, &settings, inputs, interpreter, None);
    (collector, running)
}

fn invoked(start: Start) -> InvocationFacts {
    InvocationFacts { start, arn: None, version: None, memory: None }
}

#[test]
fn a_function_sends_what_an_invocation_has_used_and_nothing_else() {
    let (collector, running) = of_a_function();
    collector.run().unwrap();
    running.gc.start(1_000_000);
    running.gc.stop(3_000_000, 0);
    assert!(collector.begin_invocation(|| invoked(Start::Cold)));
    running.gc.start(4_000_000);
    running.gc.stop(5_000_000, 0);
    let logged = collector.end_invocation(|| Some(Answer::default()));
    assert_eq!(logged, "");
    let lines = running.lines();
    assert_eq!(names(&lines, "gc.pause.time:1000000|"), 1, "{lines:?}");
    assert_eq!(names(&lines, "cold_start:true"), lines.len());
    // Neither a tick nor a last sample: the process ends between invocations.
    std::thread::sleep(3 * SHORT);
    collector.stop(Some(Answer::default()), TIMEOUT, true);
    assert_eq!(running.flushes(), 0);
}

#[test]
fn a_function_sends_nothing_of_the_standard_level_that_threads_of_ours_would_observe() {
    let (collector, running) =
        of_a_function_with(|settings| settings.selection = Selection::at(Level::Standard), inputs(""));
    collector.run().unwrap();
    assert!(collector.begin_invocation(|| invoked(Start::Cold)));
    collector.end_invocation(|| Some(Answer::default()));
    let lines = running.lines();
    assert_eq!(names(&lines, "runtime.python.gc.collected:"), 1, "{lines:?}");
    for name in ["collector.cpu", "gil.wait", "os.hiccup", "event_loop", "asyncio.tasks", "executor"] {
        assert_eq!(names(&lines, &format!("runtime.python.{name}")), 0, "{lines:?}");
    }
    collector.stop(Some(Answer::default()), TIMEOUT, true);
}

#[test]
fn a_read_that_costs_too_much_is_given_up_with_one_warning() {
    let receiver = Receiver::new();
    let (settings, counters) = (Running::settings(&receiver, LONG_INTERVAL), Counters::default());
    let blocks = Arc::clone(&counters.blocks);
    let interpreter = Arc::new(FakeInterpreter::default());
    let (clock, inputs) = (Clock::start(), inputs("a:b"));
    let collector = Collector::new(Path::new("/"), clock, counters, &settings, inputs, interpreter, None);
    let warnings = || -> Vec<_> {
        collector.flush(Some(Answer::default()));
        let texts = collector.take_messages().into_iter().map(|message| message.text);
        texts.filter(|text| text.contains("getallocatedblocks")).collect()
    };
    for hour in [1, 2] {
        let times = Mutex::new(vec![Duration::from_millis(7), Duration::ZERO]);
        let clock = || Duration::from_hours(hour) + times.lock().unwrap().pop().unwrap();
        assert_eq!(blocks.spend(clock, || hour), Some(hour));
        let expected = "sys.getallocatedblocks(), for runtime.python.mem.python.blocks, took 7.0 ms, which is too \
                        long: it is not called any more";
        assert_eq!(warnings(), if hour == 1 { vec![] } else { vec![expected] });
    }
    assert_eq!(warnings(), Vec::<String>::new());
}

/// More than the longest time between two probes of an idle process.
const UNTIL_PROBE: Duration = Duration::from_secs(2);

#[test]
fn no_probe_begins_while_a_fork_is_made_nor_after_the_end() {
    let running =
        Running::start_with(LONG_INTERVAL, |settings| settings.selection = Selection::named("gil.wait.*"));
    let probes = || running.interpreter.entered.load(SeqCst);
    let probes_begin = || {
        let (before, deadline) = (probes(), Instant::now() + TIMEOUT);
        while probes() == before {
            assert!(Instant::now() < deadline, "no probe begins");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let begin_meanwhile = || {
        let before = probes();
        std::thread::sleep(UNTIL_PROBE);
        probes() > before
    };
    let collector = &running.collector;
    probes_begin();
    collector.begin_fork();
    collector.hold_pipeline(TIMEOUT);
    assert!(!begin_meanwhile());
    collector.end_fork();
    probes_begin();
    collector.begin_fork();
    collector.stop(Some(Answer::default()), TIMEOUT, true);
    collector.end_fork();
    collector.run().unwrap();
    assert!(!begin_meanwhile());
}

#[test]
fn a_quiet_alarm_is_shown_by_the_first_flush_that_could_be_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut settings = on_demand::settings("127.0.0.1:9".parse().unwrap(), "");
    settings.destination.address = format!("unix://{}", path.display()).parse().unwrap();
    settings.selection = Selection::named("gc.uncollectable");
    let collector = on_demand::collector(Path::new("/"), &settings);
    assert!(!collector.flush(Some(Answer::default())).everything_sent);
    let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let arrived = || {
        assert!(collector.flush(Some(Answer::default())).everything_sent);
        let mut buffer = [0; 2000];
        receiver.recv(&mut buffer).map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned()).ok()
    };
    let shown = arrived().expect("a zero was sent");
    assert!(shown.starts_with("runtime.python.gc.uncollectable:0|"), "{shown}");
    assert_eq!(arrived(), None);
}

#[test]
fn that_the_gil_is_on_again_is_sent_once_however_often_the_interpreter_does_not_answer() {
    let select = |settings: &mut Settings| settings.selection = Selection::named("gil.reenabled");
    let running = Running::start_with(LONG_INTERVAL, select);
    let answer = |is_gil_reenabled| {
        let facts = InterpreterFacts { is_gil_reenabled, ..InterpreterFacts::default() };
        Some(Answer { facts, ..Answer::default() })
    };
    let (off, on) = (answer(Some(false)), answer(Some(true)));
    for answer in [off, None, on.clone(), None, on.clone(), on] {
        running.collector.flush(answer);
    }
    running.stop();
    running.receiver.socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8192];
    let sent = std::iter::from_fn(|| {
        let length = running.receiver.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).split('|').next()?.to_owned())
    });
    let sent: Vec<_> = sent.collect();
    assert_eq!(sent, ["runtime.python.gil.reenabled:0", "runtime.python.gil.reenabled:1"]);
}

#[test]
fn tags_that_the_function_leaves_no_room_for_are_logged_once() {
    // With those of the service and the interpreter it is one less than a line may have.
    let tags = (0..94).map(|number| format!("{number}:x")).collect();
    let arguments = ServiceArguments { tags: Some(tags), ..ServiceArguments::default() };
    let (collector, _running) = of_a_function_by(Sink::Socket, IdentityInputs { arguments, ..inputs("") });
    let told = |start| {
        assert!(collector.begin_invocation(|| invoked(start)));
        collector.end_invocation(|| None);
        collector.take_messages().iter().filter(|message| message.text.contains("user tags")).count()
    };
    assert_eq!([Start::Warm, Start::Proactive, Start::Warm, Start::Proactive].map(told), [0, 1, 0, 0]);
}

fn orders() -> Distribution {
    Distribution { name: "orders".to_owned(), value: 1.0, timestamp: None, tags: Vec::new() }
}

#[test]
fn a_slow_receiver_of_custom_metrics_is_not_logged_for_each_of_them() {
    let (collector, running) = of_a_function();
    running.receiver.socket.set_nonblocking(true).unwrap();
    let mut said = 0;
    for number in 0..1000 {
        collector.send_custom(&orders());
        // Now and then it takes one.
        if number % 20 == 0 {
            running.receiver.socket.recv(&mut [0; 8192]).unwrap();
        }
        said += collector.take_messages().len();
    }
    assert!(said <= 1, "{said}");
    assert!(collector.status().unwrap().totals.dropped.packets > 900);
}

#[test]
fn what_goes_to_the_log_is_of_the_time_of_its_flush_and_is_given_once() {
    let started = since_epoch().as_secs();
    let (collector, running) = of_a_function_by(Sink::Log, inputs("a:b"));
    let flushed = collector.flush(None);
    assert!(flushed.everything_sent);
    let times = |log: &str| -> Vec<u64> {
        let time = |line: &str| line.split_once(r#","e":"#)?.1.split_once(',')?.0.parse().ok();
        log.lines().map(|line| time(line).expect("a line has a time")).collect()
    };
    let is_now = |time: &u64| (started..=since_epoch().as_secs()).contains(time);
    assert!(times(&flushed.log).iter().all(is_now), "{}", flushed.log);
    let lines = flushed.log.lines().filter(|line| !line.contains(".percent"));
    assert_eq!(lines.count(), without_answer());
    assert!(collector.begin_invocation(|| invoked(Start::Cold)));
    assert_eq!(collector.send_custom(&orders()).lines().count(), 1);
    let ended = collector.end_invocation(|| None);
    assert!(!ended.is_empty() && times(&ended).iter().all(is_now), "{ended}");
    assert_eq!(running.flushes(), 0);
    let status = collector.status().unwrap();
    assert_eq!((status.destination, status.transport), (None, None));
}

#[test]
fn an_invocation_that_finds_the_collector_busy_is_not_the_first() {
    let (collector, _running) = of_a_function();
    assert!(collector.begin_invocation(|| invoked(Start::Warm)));
    let mut is_asked = false;
    collector.end_invocation(|| {
        let begun = collector.begin_invocation(|| {
            is_asked = true;
            invoked(Start::Cold)
        });
        assert!(!begun);
        None
    });
    assert!(!is_asked);
}

#[test]
fn an_invocation_has_a_percentage_however_long_it_is() {
    let (collector, running) = of_a_function();
    assert!(collector.begin_invocation(|| invoked(Start::Warm)));
    // Longer than three intervals, which a server must have slept through.
    std::thread::sleep(4 * SHORT);
    collector.end_invocation(|| None);
    assert_eq!(names(&running.lines_and_percentages(), "cpu.percent:"), 1);
}

#[test]
fn requests_from_before_the_baseline_are_not_counted() {
    let receiver = Receiver::new();
    let settings = Running::settings(&receiver, LONG_INTERVAL);
    let (clock, counters, interpreter) =
        (Clock::start(), Counters::default(), Arc::new(FakeInterpreter::default()));
    let requests = Arc::new(RequestCounters::new(None, true, None, 7));
    counters.gunicorn.become_worker(Arc::clone(&requests), clock);
    let answer = |milliseconds| {
        let duration = Duration::from_millis(milliseconds);
        requests.count(Outcome { duration, status: Some(200), queued: None });
    };
    answer(5);
    let (gc, played) = (Arc::clone(&counters.gc), Arc::clone(&interpreter) as _);
    let collector = Collector::new(Path::new("/"), clock, counters, &settings, inputs("a:b"), played, None);
    let running = Running { collector, interpreter, gc, receiver };
    answer(7);
    running.collector.flush(None);
    let lines = running.lines();
    for line in
        ["gunicorn.requests:1|c|", "gunicorn.request.status.200:1|c|", "gunicorn.request.duration:7|ms|"]
    {
        assert!(lines.iter().any(|sent| sent.starts_with(line)), "{line} in {lines:?}");
    }
}

#[test]
fn every_interval_has_all_metrics() {
    let running = Running::start(Duration::from_millis(100));
    let (mut complete, mut flushes) = (0, 0);
    // On a busy machine an answer may come too late, and then only its own metrics are absent.
    while complete < 3 {
        let lines = running.lines();
        assert!([without_answer(), all()].contains(&lines.len()), "{lines:?}");
        complete += usize::from(lines.len() == all());
        flushes += 1;
        assert!(flushes < 100);
    }
    running.stop();
}

#[test]
fn an_interpreter_that_does_not_answer_takes_only_its_own_metrics_away() {
    let running = Running::start(SHORT);
    running.lines_where(|lines| lines.len() == all());
    running.interpreter.hold(true);
    running.lines_where(|lines| names(lines, "gc.count") == 0);
    let asked = running.interpreter.asked.load(SeqCst);
    for _ in 0..5 {
        let lines = running.lines();
        assert_eq!(lines.len(), without_answer());
        assert_eq!(names(&lines, "cpu.time"), 2);
    }
    assert_eq!(running.interpreter.asked.load(SeqCst), asked, "one request is outstanding, never two");
    running.interpreter.hold(false);
    running.lines_where(|lines| names(lines, "gc.count") == 3);
    running.stop();
}

#[test]
fn an_answer_that_came_too_late_is_never_sent() {
    let running = Running::start(Duration::from_millis(50));
    running.interpreter.hold(true);
    running.lines_where(|lines| names(lines, "gc.count") == 0);
    let outstanding = running.interpreter.asked.load(SeqCst) - 1;
    running.interpreter.hold(false);
    let late = format!("gc.count.gen0:{outstanding}|");
    // On a busy machine the next answer may be late as well.
    for _ in 0..100 {
        let next = running.lines();
        assert_eq!(names(&next, &late), 0, "{next:?}");
        if names(&next, "gc.count") == 3 {
            return running.stop();
        }
    }
    panic!("no answer came in time");
}

#[test]
fn collections_that_went_unseen_are_absent_for_one_interval_only() {
    let running = Running::start(LONG_INTERVAL);
    let collect = || {
        running.gc.start(0);
        running.gc.stop(1000, 0);
    };
    let flush = || {
        assert!(running.collector.flush(None).everything_sent);
        running.lines()
    };
    collect();
    running.gc.mark_missed();
    // A look does not make the flush forget.
    assert!(running.collector.inspect(None).iter().all(|sample| !sample.metric.name.contains("gc.pause")));
    let lines = flush();
    assert_eq!(names(&lines, "gc.collections") + names(&lines, "gc.pause"), 0);
    let warnings = running.collector.take_messages();
    assert_eq!(warnings.iter().filter(|message| message.text.contains("gc.callbacks")).count(), 1);
    collect();
    let lines = flush();
    assert_eq!(names(&lines, "gc.collections.gen0:1|"), 1, "{lines:?}");
    assert_eq!(names(&lines, "gc.pause.time:1000|"), 1, "{lines:?}");
    assert_eq!(names(&lines, "gc.pause.max:1000|"), 1, "{lines:?}");
    // A flush starts another window.
    assert_eq!(names(&flush(), "gc.pause.max:0|"), 1);
    running.stop();
}

#[test]
fn a_look_sends_nothing_and_leaves_the_interval_as_it_is() {
    let running = Running::start(LONG_INTERVAL);
    running.gc.start(0);
    running.gc.stop(777, 2);
    let value = |name: &str| {
        let samples = running.collector.inspect(None);
        samples.iter().find(|sample| sample.metric.name.ends_with(name)).map(|sample| sample.value.clone())
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
    let running = Running::start(LONG_INTERVAL);
    running.stop();
    assert_eq!(running.flushes(), 1);
    running.stop();
    assert!(running.flushes() <= 1, "a second stop is harmless");
}

#[test]
fn stopping_is_bounded_although_the_interpreter_does_not_answer() {
    let running = Running::start(SHORT);
    running.interpreter.hold(true);
    running.lines_where(|lines| names(lines, "gc.count") == 0);
    let start = Instant::now();
    running.collector.stop(None, Duration::from_millis(200), false);
    assert!(start.elapsed() < TIMEOUT);
    running.interpreter.hold(false);
}

#[test]
fn another_receiver_and_interval_keep_what_has_gathered() {
    let running = Running::start(LONG_INTERVAL);
    running.gc.start(0);
    running.gc.stop(5, 1);
    let other = Receiver::new();
    running.collector.reconfigure(&Running::settings(&other, SHORT), inputs("c:d"));
    let moved = Running { receiver: other, ..running };
    let lines = moved.lines();
    assert_eq!(names(&lines, "gc.collections.gen1:1|d|#service:unnamed-python-service,c:d,"), 1, "{lines:?}");
    moved.stop();
}

/// The next lines of which each contains this.
fn lines_with(running: &Running, part: &str) -> Vec<String> {
    let start = Instant::now();
    loop {
        let lines = running.lines();
        if names(&lines, part) == lines.len() {
            return lines;
        }
        assert!(start.elapsed() < TIMEOUT, "{lines:?}");
    }
}

#[test]
fn the_identity_follows_environment_and_tracers_at_every_flush() {
    let running = Running::start(SHORT);
    lines_with(&running, "service:unnamed-python-service,a:b,");
    *running.interpreter.environment.lock().unwrap() =
        Arc::new(Environment::from([("DD_SERVICE", "renamed")]));
    lines_with(&running, "service:renamed,a:b,");
    let names = Names { runtime_id: Some("theirs".into()), env: Some("prod".into()), ..Names::default() };
    *running.interpreter.tracers.lock().unwrap() = Tracers { ddtrace: Some(names), ..Tracers::default() };
    let lines = lines_with(&running, "service:renamed,env:prod,a:b,");
    assert!(lines.iter().all(|line| line.ends_with("runtime-id:theirs")), "{lines:?}");
    // An interpreter that does not answer leaves everything as it was.
    running.interpreter.hold(true);
    let lines = running.lines_where(|lines| lines.len() == without_answer());
    assert!(lines.iter().all(|line| line.ends_with("runtime-id:theirs")), "{lines:?}");
    running.interpreter.hold(false);
    running.stop();
}

#[test]
fn what_ddtrace_sends_is_left_to_it_while_it_does() {
    let running = Running::start(SHORT);
    let worker =
        |worker| *running.interpreter.tracers.lock().unwrap() = Tracers { worker, ..Tracers::default() };
    let flush_of = |number| running.lines_where(|lines| lines.len() == number);
    let level = Selection::at(Level::Default);
    let gc = level.without(level.without(Selection::named("gc.*")));
    let gc_and_memory = gc.with(Selection::named("mem.rss"));
    let without = |sent: Selection| all() - sent.len() as usize;
    flush_of(all());
    worker(RuntimeWorker::Sends(gc_and_memory));
    let lines = flush_of(without(gc_and_memory));
    assert_eq!(names(&lines, "runtime.python.cpu."), rows(|metric| metric.name.contains(".cpu.")));
    worker(RuntimeWorker::Off);
    flush_of(all());
    // What it sends as it is stopped stands for one interval.
    worker(RuntimeWorker::Stopped(gc, 1));
    flush_of(without(gc));
    flush_of(all());
    running.stop();
    let logged = running.interpreter.logged.lock().unwrap();
    let said: Vec<_> =
        logged.iter().filter(|m| m.text.contains("ddtrace")).map(|m| m.text.as_str()).collect();
    assert_eq!(
        said,
        [
            format!(
                "ddtrace sends runtime metrics itself: {} of 15 names are left to it{LEFT}",
                gc_and_memory.len()
            )
            .as_str(),
            "ddtrace no longer sends runtime metrics: all names are sent here",
            "ddtrace's runtime metrics were disabled (DD_RUNTIME_METRICS_FORCE): all names are sent here",
        ]
    );
}

#[test]
fn the_status_tells_what_ddtrace_sent_as_it_was_stopped() {
    let running = Running::start(LONG_INTERVAL);
    let collector = &running.collector;
    let state_after = |worker| {
        let tracers = Some(Tracers { worker, ..Tracers::default() });
        collector.flush(Some(Answer { tracers, ..Answer::default() }));
        let rows = collector.status().unwrap().rows;
        rows.iter().find(|(name, _)| *name == "runtime.python.mem.rss").unwrap().1.clone()
    };
    let memory = Selection::named("mem.*");
    let states =
        [RuntimeWorker::Sends(memory), RuntimeWorker::Stopped(memory, 1), RuntimeWorker::Stopped(memory, 1)];
    let states = states.map(state_after);
    assert_eq!(states, ["ddtrace sends it", "ddtrace has sent it for the last interval", "sent"]);
    running.stop();
}

/// What follows where most names are left to ddtrace.
const LEFT: &str = ", and not sent here; DD_RUNTIME_METRICS_FORCE=true disables ddtrace's in favour of these, \
                    DD_RUNTIME_METRICS_FORCE=false keeps ddtrace's without this warning";

/// What a collector logs about ddtrace at a flush.
fn logged_about_ddtrace(collector: &Collector, worker: RuntimeWorker) -> Vec<String> {
    let tracers = Some(Tracers { worker, ..Tracers::default() });
    collector.flush(Some(Answer { tracers, ..Answer::default() }));
    let messages = collector.take_messages().into_iter().map(|message| message.text);
    messages.filter(|text| text.contains("ddtrace")).collect()
}

#[test]
fn what_ddtrace_sends_is_logged_at_the_first_flush_and_not_again_by_a_child() {
    let receiver = Receiver::new();
    let worker = RuntimeWorker::Sends(Selection::named("gc.*"));
    let child_of = |parent: Option<&Collector>| {
        let handover = parent.and_then(|parent| Some(parent.inheritance()?.handover));
        let mut inputs = inputs("a:b");
        inputs.tracers.worker = worker;
        let settings = Running::settings(&receiver, LONG_INTERVAL);
        let played = Arc::new(FakeInterpreter::default());
        Collector::new(
            Path::new("/"),
            Clock::start(),
            Counters::default(),
            &settings,
            inputs,
            played,
            handover.as_ref(),
        )
    };
    let parent = child_of(None);
    assert!(parent.take_messages().is_empty());
    let early_child = child_of(Some(&parent));
    let parent = child_of(None);
    assert_eq!(
        logged_about_ddtrace(&parent, worker),
        [format!("ddtrace sends runtime metrics itself: 8 of 15 names are left to it{LEFT}")]
    );
    assert!(logged_about_ddtrace(&parent, worker).is_empty());
    let child = child_of(Some(&parent));
    assert!(logged_about_ddtrace(&child, worker).is_empty());
    // Its parent has not logged it yet, and will.
    assert!(logged_about_ddtrace(&early_child, worker).is_empty());
    assert!(logged_about_ddtrace(&child_of(None), RuntimeWorker::Off).is_empty());
    let few = RuntimeWorker::Sends(Selection::named("gc.count.*"));
    let text = "ddtrace sends runtime metrics itself: 3 of 15 names are left to it";
    assert_eq!(logged_about_ddtrace(&child_of(None), few), [text]);
}

#[test]
fn a_failure_is_logged_through_the_interpreter_once() {
    let running = Running::start(SHORT);
    running.lines();
    let Running { collector, interpreter, receiver, .. } = running;
    drop(receiver);
    let start = Instant::now();
    let warnings = || {
        let logged = interpreter.logged.lock().unwrap();
        logged.iter().filter(|message| message.text.contains("fails")).count()
    };
    while warnings() == 0 {
        assert!(start.elapsed() < TIMEOUT);
        std::thread::yield_now();
    }
    let ticks = interpreter.asked.load(SeqCst);
    while interpreter.asked.load(SeqCst) < ticks + 5 {
        std::thread::yield_now();
    }
    assert_eq!(warnings(), 1);
    collector.stop(None, TIMEOUT, false);
}

#[test]
fn no_thread_of_ours_needs_memory_of_the_c_library_to_begin() {
    let of_the_standard_library = || nix::unistd::gettid().as_raw();
    let registered = std::thread::spawn(of_the_standard_library).join().unwrap();
    assert!(WITH_DESTRUCTORS.lock().unwrap().contains(&registered));
    let running = Running::start(SHORT);
    running.lines_where(|lines| names(lines, "gc.count") > 0);
    let mut ours = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap();
        // Another test's thread may end meanwhile.
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("rtm-") {
            ours.insert(task.file_name().to_str().unwrap().parse::<i32>().unwrap());
        }
    }
    assert!(ours.len() >= 2, "{ours:?}");
    let needing = WITH_DESTRUCTORS.lock().unwrap().intersection(&ours).copied().collect::<Vec<_>>();
    assert!(needing.is_empty(), "{needing:?}");
    running.stop();
}
