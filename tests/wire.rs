//! From a snapshot and an environment to the bytes of a line, through the public interface.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cadence::{MetricSink, SpyMetricSink};
use proptest::prelude::*;
use runtime_metrics::catalogue::CATALOGUE;
use runtime_metrics::catalogue::metric::{Level, Member, Metric, Reading, Sample, Value, Wire, WireType};
use runtime_metrics::catalogue::selection::{Selection, append_samples, samples};
use runtime_metrics::emitter::{Distribution, Emitter};
use runtime_metrics::identity::{IdentityInputs, Runtime};
use runtime_metrics::interval::Interval;
use runtime_metrics::settings::ServiceArguments;
use runtime_metrics::settings::variables::Environment;
use runtime_metrics::snapshot::server::{
    Ended, GunicornFacts, MasterFacts, Observations, Requests, ServerStatus, WorkerCounts,
};
use runtime_metrics::snapshot::{
    CgroupFacts, Collections, CpuPeriods, Description, EventLoopFacts, Growth, GrowthCause, InterpreterFacts,
    LimitApproach, LimitedMemory, LimitedTasks, LoopQueues, LoopTimes, MemoryParts, OwnWorkFacts, ProbeFacts,
    ProcessFacts, ResourceUsage, Snapshot, Source, Storage, ThreadStates, ThreadTimes, Uncaught,
};
use runtime_metrics::tag::Tags;

const SECOND: Duration = Duration::from_secs(1);

fn runtime() -> Runtime {
    Runtime {
        implementation: "CPython".into(),
        version: "3.13.1".into(),
        command: vec!["python".into(), "app.py".into()],
        frozen: None,
    }
}

fn earlier() -> Snapshot {
    Snapshot {
        at: 100 * SECOND,
        usage: Some(ResourceUsage {
            cpu: 30 * SECOND,
            user: Some(20 * SECOND),
            system: Some(10 * SECOND),
            voluntary_switches: Some(1000),
            involuntary_switches: Some(50),
            ..ResourceUsage::default()
        }),
        process: ProcessFacts { resident: Some(1), threads: Some(1), ..ProcessFacts::default() },
        collections: Some(Collections {
            count: [7, 5, 3],
            pause: [9000, 0, 0],
            longest_pause: [9000, 0, 0],
            ..Collections::default()
        }),
        interpreter: Some(InterpreterFacts { gc_count: Some([1, 1, 1]), ..InterpreterFacts::default() }),
        ..Snapshot::default()
    }
}

fn later() -> Snapshot {
    Snapshot {
        at: 110 * SECOND,
        usage: Some(ResourceUsage {
            cpu: Duration::from_micros(32_500_001),
            user: Some(Duration::from_micros(22_500_001)),
            system: Some(10 * SECOND),
            voluntary_switches: Some(1234),
            involuntary_switches: Some(56),
            ..ResourceUsage::default()
        }),
        process: ProcessFacts { resident: Some(73_400_320), threads: Some(12), ..ProcessFacts::default() },
        collections: Some(Collections {
            count: [107, 15, 4],
            pause: [409_000, 400_000, 200_000],
            longest_pause: [100_000, 500_000, 150_000],
            ..Collections::default()
        }),
        interpreter: Some(InterpreterFacts { gc_count: Some([123, 4, 5]), ..InterpreterFacts::default() }),
        ..Snapshot::default()
    }
}

const DESCRIPTION: Description = Description {
    gil: "on",
    jit: None,
    gc_implementation: "generational",
    gc: "enabled",
    allocator: "pymalloc",
    event_loop: "uvloop",
    server: "gunicorn",
    debug: "none",
};

fn tags_of(joined: &str) -> Tags {
    joined.split(',').collect()
}

/// The lines of one flush.
fn lines(earlier: &Snapshot, later: &Snapshot, tags: &str, wire_type: WireType) -> Vec<String> {
    lines_of(Selection::at(Level::Default), earlier, later, tags, wire_type)
}

fn lines_of(
    rows: Selection,
    earlier: &Snapshot,
    later: &Snapshot,
    tags: &str,
    wire_type: WireType,
) -> Vec<String> {
    let (receiver, sink) = SpyMetricSink::new();
    let interval = Interval::new(earlier, later, 10 * SECOND).showing_description();
    assert!(Emitter::new(sink, tags_of(tags), wire_type).emit(samples(rows, &interval)));
    receiver.try_iter().map(|line| String::from_utf8(line).unwrap()).collect()
}

#[test]
fn the_lines_of_a_flush_are_exactly_these() {
    let environment = Environment::from([
        ("DD_SERVICE", "web"),
        ("DD_ENV", "prod"),
        ("DD_VERSION", "1.4"),
        ("DD_TAGS", "team:core"),
    ]);
    let inputs = IdentityInputs {
        runtime: runtime(),
        runtime_id: Some("9f0c".to_owned()),
        environment: Arc::new(environment),
        ..IdentityInputs::default()
    };
    let identity = inputs.identity();
    let tags = "service:web,env:prod,version:1.4,team:core,\
                lang:python,lang_interpreter:CPython,lang_version:3.13.1,runtime-id:9f0c";
    let expected: Vec<String> = [
        "cpu.time.sys:0",
        "cpu.time.user:2.500001",
        "cpu.percent:25.00001",
        "cpu.ctx_switch.voluntary:234",
        "cpu.ctx_switch.involuntary:6",
        "gc.count.gen0:123",
        "gc.count.gen1:4",
        "gc.count.gen2:5",
        "gc.collections.gen0:100",
        "gc.collections.gen1:10",
        "gc.collections.gen2:1",
        "gc.pause.time:1000000",
        "gc.pause.max:500000",
        "mem.rss:73400320",
        "thread_count:12",
    ]
    .iter()
    .map(|line| format!("runtime.python.{line}|d|#{tags}"))
    .collect();
    let rows = expected.iter().map(|line| Selection::named(name(line)));
    let rows = rows.fold(Selection::default(), Selection::with);
    assert_eq!(rows.len() as usize, expected.len());
    assert_eq!(
        lines_of(rows, &earlier(), &later(), identity.tags.as_str(), WireType::Distribution),
        expected
    );
}

/// The name of the metric in a line.
fn name(line: &str) -> &str {
    line.split(':').next().unwrap()
}

/// The names of the metrics that are sent while everything is known, or without those that need a source.
fn sent_without(source: Option<Source>) -> Vec<&'static str> {
    let lines = lines(&earlier(), &later(), "a:b", WireType::Distribution);
    let rows = CATALOGUE.iter().filter(|metric| lines.iter().any(|line| name(line) == metric.name));
    let rows = rows.filter(|metric| source.is_none_or(|source| !metric.needs.contains(&source)));
    rows.map(|metric| metric.name).collect()
}

#[test]
fn a_custom_metric_is_a_distribution_with_its_tags_alone_and_its_time_at_the_end() {
    let (receiver, sink) = SpyMetricSink::new();
    let mut emitter = Emitter::new(sink, tags_of("not:its"), WireType::Gauge);
    let now = Duration::from_secs(1_700_000_000);
    let distribution = |timestamp| Distribution::new("orders", 12.45, timestamp, Vec::new(), now).unwrap();
    assert!(emitter.write_distribution(&distribution(None), &tags_of("")));
    assert!(emitter.write_distribution(&distribution(Some(1_699_999_990.9)), &tags_of("a:b,c")));
    let lines: Vec<_> = receiver.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
    assert_eq!(lines, ["orders:12.45|d", "orders:12.45|d|#a:b,c|T1699999990"]);
}

#[test]
fn gauges_differ_in_nothing_but_their_type() {
    let distributions = lines(&earlier(), &later(), "a:b", WireType::Distribution);
    let gauges = lines(&earlier(), &later(), "a:b", WireType::Gauge);
    let expected: Vec<_> = distributions.iter().map(|line| line.replace("|d|", "|g|")).collect();
    assert_eq!(gauges, expected);
    assert!(!gauges.is_empty());
}

#[test]
fn what_is_unknown_is_not_sent() {
    let unknown = Snapshot { at: 110 * SECOND, ..Snapshot::default() };
    assert_eq!(lines(&earlier(), &unknown, "a:b", WireType::Distribution), Vec::<String>::new());
    let names = |later: &Snapshot| -> Vec<String> {
        lines(&earlier(), later, "a:b", WireType::Distribution)
            .iter()
            .map(|line| name(line).to_owned())
            .collect()
    };
    assert_eq!(names(&later()), sent_without(None));
    let no_answer = Snapshot { interpreter: None, ..later() };
    assert_eq!(names(&no_answer), sent_without(Some(Source::GcCount)));
    let missed_collections = Snapshot { collections: None, ..later() };
    assert_eq!(names(&missed_collections), sent_without(Some(Source::GcCallback)));
    let no_usage = Snapshot { usage: None, ..later() };
    assert_eq!(names(&no_usage), sent_without(Some(Source::ResourceUsage)));
}

#[test]
fn a_negative_count_is_left_out_alone() {
    let sent = |count| {
        let interpreter = Some(InterpreterFacts { gc_count: Some(count), ..InterpreterFacts::default() });
        let lines = lines(&earlier(), &Snapshot { interpreter, ..later() }, "a:b", WireType::Distribution);
        let counts = lines.iter().map(|line| line.trim_start_matches("runtime.python."));
        counts.filter(|line| line.starts_with("gc.count.")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sent([-1, 4, 0]), ["gc.count.gen1:4|d|#a:b", "gc.count.gen2:0|d|#a:b"]);
    assert_eq!(sent([0, -5, i64::MIN]), ["gc.count.gen0:0|d|#a:b"]);
}

#[test]
fn a_freeze_leaves_out_the_percentage_alone() {
    let thawed = Snapshot { at: 131 * SECOND, ..later() };
    let sent = lines(&earlier(), &thawed, "a:b", WireType::Distribution);
    let missing = sent_without(None).into_iter().filter(|row| !sent.iter().any(|line| name(line) == *row));
    assert_eq!(missing.collect::<Vec<_>>(), ["runtime.python.cpu.percent"]);
}

#[test]
fn names_and_texts_of_the_catalogue_keep_the_rules() {
    let mut names: Vec<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
    for metric in &CATALOGUE {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
        let prefix = if metric.wire == Wire::Chosen { "runtime.python." } else { "gunicorn." };
        assert!(
            metric.name.starts_with(prefix) && metric.name.chars().all(allowed),
            "{}: begin the name with {prefix} and use lower case, digits, underscores and dots",
            metric.name
        );
        assert!(
            metric.description.ends_with('.') && metric.description.starts_with(char::is_uppercase),
            "{}: write the description as a sentence",
            metric.name
        );
        assert!(
            !metric.source.is_empty() && !metric.absent.is_empty() && !metric.absent.ends_with('.'),
            "{}: fill in `source` and `absent`, which ends the sentence \"Not sent: ...\"",
            metric.name
        );
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CATALOGUE.len());
}

/// Control groups that limit everything.
fn limited(count: u64) -> CgroupFacts {
    CgroupFacts {
        cpus: Some(0.5),
        periods: Some(CpuPeriods {
            all: 2 * count,
            throttled: count,
            throttled_time: Some(Duration::from_secs(count)),
        }),
        memory: Some(LimitedMemory { limit: 4, working_set: 3 }),
        limit_hits: Some(count),
        oom_kills: Some(count),
        tasks: Some(LimitedTasks { limit: 4, count }),
        pressure: [Some(1.5), Some(2.5), Some(3.5)],
    }
}

/// The snapshot with every fact known, of a process that would be master and worker at once.
fn everything(snapshot: &Snapshot, count: u64) -> Snapshot {
    let ended = Ended { count, by_status: vec![(200, count)], durations: observed(&[count], 1) };
    let requests = Requests {
        ended: Some(ended),
        queue_times: observed(&[count], 1),
        active: count,
        busy: SECOND,
        capacity: Some(1),
    };
    let master = MasterFacts {
        app: "shop".into(),
        workers: Some(WorkerCounts { idle: 1, working: 1 }),
        status: Some(ServerStatus::Ok),
        backlog: Some(count),
    };
    let gunicorn = GunicornFacts {
        records: [count; 4],
        requests: Some(requests),
        connections: Some(count),
        master: Some(master),
    };
    let time = Duration::from_secs(count);
    let thread = ThreadTimes { id: 1, cpu: time, delay: time };
    let process = ProcessFacts {
        memory: MemoryParts {
            anonymous: Some(count),
            peak: Some(count),
            swapped: Some(count),
            file: Some(count),
            shared: Some(count),
            addresses: Some(count),
        },
        children: Some(count),
        children_cpu: Some(time),
        storage: Some(Storage { read: count, written: 2 * count }),
        descriptors: Some(count),
        max_descriptors: Some(1024),
        uptime: Some(time),
        thread_times: Some(vec![thread]),
        thread_states: Some(ThreadStates { running: count, sleeping: 2 * count, disk: 0 }),
        cgroup: limited(count),
        allocator: Some("jemalloc"),
        ..snapshot.process.clone()
    };
    let found = |collections| Collections {
        collected: count,
        uncollectable: count,
        pause_p95: Some(count),
        explicit: Some(count),
        ..collections
    };
    // Faster than the rate from which they are sent.
    let faults =
        |usage| ResourceUsage { major_faults: Some(1000 * count), minor_faults: Some(count), ..usage };
    Snapshot {
        usage: snapshot.usage.map(faults),
        process,
        own_cpu: Some(time),
        own_work: Some(OwnWorkFacts {
            latest_tick: Some(time),
            in_interpreter: time,
            skipped: count,
            errors: 2 * count,
        }),
        limit_approach: (count > 0).then_some(LimitApproach { left: time, cause: GrowthCause::Native }),
        growth: Growth { anonymous: Some(1.5), blocks: Some(2.5) },
        accept_queue: Some(count),
        probe: ProbeFacts {
            overslept: Some(time),
            overslept_p95: Some(time / 2),
            wait_p95: Some(time / 4),
            wait_mean: Some(time / 8),
            longest_wait: Some(time / 2),
        },
        event_loops: EventLoopFacts {
            delay_p95: Some(time / 8),
            longest_delay: Some(time / 4),
            iterations: Some(count),
            slow_iterations: Some(2 * count),
            times: vec![LoopTimes { id: 1, busy: time, known: 2 * time }],
        },
        collections: snapshot.collections.map(found),
        uncaught: Uncaught::ALL.map(|_| Some(count)),
        stalls: Some([count; 5]),
        is_gil_reenabled: Some(count > 1),
        interpreter: snapshot.interpreter.map(|facts| InterpreterFacts {
            description: Some(DESCRIPTION),
            blocks: Some(count),
            gc_threshold: Some(count),
            modules: Some(count),
            threads: Some(count),
            tasks: Some(count),
            queue_depth: Some(count),
            loop_queues: Some(LoopQueues { ready: count, timers: 2 * count }),
            ..facts
        }),
        gunicorn,
        ..snapshot.clone()
    }
}

/// The snapshot as it is where nothing but these sources is read.
fn reduced(mut snapshot: Snapshot, needs: &[Source]) -> Snapshot {
    let is_read = |source| needs.contains(&source);
    snapshot.usage = snapshot.usage.filter(|_| is_read(Source::ResourceUsage));
    snapshot.process.resident = snapshot.process.resident.filter(|_| is_read(Source::Memory));
    snapshot.process.threads = snapshot.process.threads.filter(|_| is_read(Source::Threads));
    if !is_read(Source::MemoryParts) {
        snapshot.process.memory = MemoryParts::default();
    }
    if !is_read(Source::Descriptors) {
        (snapshot.process.descriptors, snapshot.process.max_descriptors) = (None, None);
    }
    snapshot.process.uptime = snapshot.process.uptime.filter(|_| is_read(Source::Uptime));
    snapshot.process.thread_times = snapshot.process.thread_times.filter(|_| is_read(Source::ThreadTimes));
    let process = &mut snapshot.process;
    process.children = process.children.filter(|_| is_read(Source::Children));
    process.children_cpu = process.children_cpu.filter(|_| is_read(Source::EndedChildren));
    process.thread_states = process.thread_states.filter(|_| is_read(Source::ThreadStates));
    process.storage = process.storage.filter(|_| is_read(Source::Storage));
    let CgroupFacts { tasks, pressure, .. } = process.cgroup;
    if !is_read(Source::Cgroup) {
        process.cgroup = CgroupFacts::default();
    }
    process.cgroup.tasks = tasks.filter(|_| is_read(Source::CgroupTasks));
    process.cgroup.pressure = if is_read(Source::Pressure) { pressure } else { [None; 3] };
    if !is_read(Source::Probe) {
        snapshot.probe = ProbeFacts::default();
    }
    snapshot.limit_approach = snapshot.limit_approach.filter(|_| is_read(Source::LimitApproach));
    snapshot.accept_queue = snapshot.accept_queue.filter(|_| is_read(Source::AcceptQueue));
    if !is_read(Source::Growth) {
        snapshot.growth = Growth::default();
    }
    snapshot.own_cpu = snapshot.own_cpu.filter(|_| is_read(Source::OwnCpu));
    snapshot.own_work = snapshot.own_work.filter(|_| is_read(Source::OwnWork));
    snapshot.collections = snapshot.collections.filter(|_| is_read(Source::GcCallback));
    if let Some(collections) = &mut snapshot.collections
        && !is_read(Source::GcObjects)
    {
        (collections.collected, collections.uncollectable) = (0, 0);
    }
    if let Some(collections) = &mut snapshot.collections {
        collections.pause_p95 = collections.pause_p95.filter(|_| is_read(Source::GcPauses));
        collections.explicit = collections.explicit.filter(|_| is_read(Source::GcExplicit));
    }
    if !is_read(Source::EventLoops) {
        snapshot.event_loops = EventLoopFacts::default();
    }
    // Without one of these, some of them are not seen, or have another cause.
    let of_stalls = [Source::Stalls, Source::Probe, Source::EventLoops, Source::GcCallback];
    snapshot.stalls = snapshot.stalls.filter(|_| of_stalls.into_iter().all(is_read));
    if !is_read(Source::UncaughtExceptions) {
        snapshot.uncaught = Default::default();
    }
    if !is_read(Source::Description) {
        snapshot.process.allocator = None;
    }
    if let Some(facts) = &mut snapshot.interpreter {
        facts.gc_count = facts.gc_count.filter(|_| is_read(Source::GcCount));
        facts.blocks = facts.blocks.filter(|_| is_read(Source::PythonBlocks));
        facts.gc_threshold = facts.gc_threshold.filter(|_| is_read(Source::GcThreshold));
        facts.threads = facts.threads.filter(|_| is_read(Source::PythonThreads));
        facts.loop_queues = facts.loop_queues.filter(|_| is_read(Source::LoopQueues));
        facts.modules = facts.modules.filter(|_| is_read(Source::Modules));
        facts.tasks = facts.tasks.filter(|_| is_read(Source::Tasks));
        facts.queue_depth = facts.queue_depth.filter(|_| is_read(Source::Executors));
        facts.description = facts.description.filter(|_| is_read(Source::Description));
    }
    snapshot.is_gil_reenabled = snapshot.is_gil_reenabled.filter(|_| is_read(Source::Gil));
    if !is_read(Source::Gunicorn) {
        snapshot.gunicorn.records = [0; 4];
        snapshot.gunicorn.requests = None;
    }
    if !is_read(Source::GunicornObjects) {
        snapshot.gunicorn.master = None;
        snapshot.gunicorn.connections = None;
    }
    if let Some(master) = &mut snapshot.gunicorn.master {
        master.backlog = master.backlog.filter(|_| is_read(Source::GunicornBacklog));
    }
    snapshot
}

#[test]
fn a_row_names_the_sources_that_its_reading_needs_and_no_other() {
    let (earlier, later) = (everything(&earlier(), 1), everything(&later(), 3));
    for metric in &CATALOGUE {
        let sent = |needs: &[Source]| {
            let (earlier, later) = (reduced(earlier.clone(), needs), reduced(later.clone(), needs));
            lines_of(Selection::named(metric.name), &earlier, &later, "a:b", WireType::Gauge)
        };
        let text = format!("{}: `needs` must name the sources that its reading uses", metric.name);
        let expected = lines_of(Selection::named(metric.name), &earlier, &later, "a:b", WireType::Gauge);
        assert!(!expected.is_empty(), "{}: give its fact a value in this test's snapshots", metric.name);
        assert_eq!(sent(metric.needs), expected, "{text}");
        for source in metric.needs {
            let others: Vec<_> = metric.needs.iter().copied().filter(|other| other != source).collect();
            assert_ne!(sent(&others), expected, "{text}, and not {source:?}");
        }
    }
}

/// The rows of the standard level that the default level does not have.
fn standard() -> Selection {
    Selection::at(Level::Standard).without(Selection::at(Level::Default))
}

#[test]
fn the_lines_of_the_standard_level_are_exactly_these() {
    let lines =
        lines_of(standard(), &everything(&earlier(), 1), &everything(&later(), 3), "a:b", WireType::Gauge);
    let expected = [
        "os.hiccup.max:3000000000",
        "gil.wait.p95:750000000",
        "gil.wait.max:1500000000",
        "cpu.run_delay:2000000000",
        "cpu.thread.max_percent:20",
        "cpu.limit:0.5",
        "cpu.throttled.percent:50",
        "mem.rss.anon:3",
        "mem.rss.peak:3",
        "mem.headroom.percent:25",
        "mem.python.blocks:3",
        "event_loop.delay.p95:375000000",
        "event_loop.delay.max:750000000",
        "event_loop.utilization:20",
        "asyncio.tasks:3",
        "executor.queue_depth:3",
        "accept_queue.depth:3",
        "gc.collected:2",
        "fd.count:3",
        "fd.percent:0.29296875",
        "process.uptime:3",
        "collector.cpu:2000000000",
        "mem.time_to_limit:3",
        "mem.limit_hits:2",
        "mem.oom_kills:2",
        "gc.uncollectable:2",
        "mem.swap:3",
        "mem.faults.major:2000",
    ];
    let tags = |line: &str| {
        if line.starts_with("mem.time_to_limit") { "cause:native,a:b" } else { "a:b" }
    };
    let expected = expected.map(|line| format!("runtime.python.{line}|g|#{}", tags(line)));
    let of_the_program = [
        "info:1|g|#gil:on,gc_impl:generational,gc:enabled,allocator:jemalloc,loop:uvloop,server:gunicorn,debug:none,",
        "stall.count:2|g|#cause:cpu_starved,",
        "stall.count:2|g|#cause:io_d_state,",
        "stall.count:2|g|#cause:gc,",
        "stall.count:2|g|#cause:gil_native,",
        "stall.count:2|g|#cause:python,",
        "exceptions.uncaught:2|g|#source:main,",
        "exceptions.uncaught:2|g|#source:thread,",
        "exceptions.uncaught:2|g|#source:unraisable,",
        "exceptions.uncaught:2|g|#source:asyncio_never_retrieved,",
        "gil.reenabled:1|g|#",
    ]
    .map(|line| format!("runtime.python.{line}a:b"));
    assert_eq!(lines, [expected.as_slice(), &of_the_program].concat());
}

#[test]
fn the_lines_of_the_detailed_level_are_exactly_these() {
    let detailed = Selection::at(Level::Detailed).without(Selection::at(Level::Standard));
    let lines =
        lines_of(detailed, &everything(&earlier(), 1), &everything(&later(), 3), "a:b", WireType::Gauge);
    let expected = [
        "gc.pause.p95:3",
        "gc.pause.time.gen0:400000",
        "gc.pause.time.gen1:400000",
        "gc.pause.time.gen2:200000",
        "gc.pause.max.gen0:100000",
        "gc.pause.max.gen1:500000",
        "gc.pause.max.gen2:150000",
        "gc.explicit:2",
        "gc.threshold.gen0:3",
        "gil.wait.avg:375000000",
        "mem.rss.file:3",
        "mem.rss.shmem:3",
        "mem.virtual:3",
        "mem.growth_rate:1.5 kind:anon",
        "mem.growth_rate:2.5 kind:blocks",
        "threads.state:3 state:running",
        "threads.state:6 state:sleeping",
        "threads.state:0 state:disk",
        "threads.python:3",
        "threads.native:9",
        "event_loop.iterations:3",
        "event_loop.slow_callbacks:6",
        "event_loop.ready:3",
        "event_loop.timers:6",
        "io.read:2",
        "io.write:4",
        "mem.limit:4",
        "mem.working_set:3",
        "cpu.throttled.time:2000000000",
        "pids.percent:75",
        "pressure.cpu:1.5",
        "pressure.memory:2.5",
        "pressure.io:3.5",
        "modules.count:3",
        "children.count:3",
        "children.cpu:2",
        "faults.minor:2",
        "os.hiccup.p95:1500000000",
        "collector.tick.late:3000000000",
        "collector.gil_held:2000000000",
        "collector.skipped:2",
        "collector.errors:4",
    ]
    .map(|line| {
        let (line, tags) =
            line.split_once(' ').map_or((line, "a:b".to_owned()), |(line, tag)| (line, format!("{tag},a:b")));
        format!("runtime.python.{line}|g|#{tags}")
    });
    assert_eq!(lines, expected);
}

#[test]
fn what_describes_the_process_is_sent_only_where_it_is_to_be_shown() {
    let snapshot = everything(&later(), 1);
    let interval = Interval::new(&snapshot, &snapshot, 10 * SECOND);
    for (interval, is_shown) in [(interval, false), (interval.showing_description(), true)] {
        let mut shown = Vec::new();
        let outcome = append_samples(&mut shown, Selection::named("info"), &interval);
        let (sent, quiet) =
            (outcome.sent == Selection::named("info"), outcome.quiet == Selection::named("info"));
        assert_eq!((shown.len(), sent, quiet), (usize::from(is_shown), is_shown, !is_shown));
    }
}

#[test]
fn an_alarm_with_nothing_to_report_is_sent_only_where_it_is_to_be_shown() {
    let snapshot = everything(&later(), 0);
    let earlier = Snapshot { at: earlier().at, ..snapshot.clone() };
    let interval = Interval::new(&earlier, &snapshot, 10 * SECOND);
    let is_alarm = |sample: &Sample| sample.metric.reading.kind() == "alarm";
    let alarms = |interval: &Interval| -> Vec<_> {
        samples(standard(), interval).into_iter().filter(is_alarm).map(|sample| sample.value).collect()
    };
    assert_eq!(alarms(&interval), []);
    let shown = alarms(&interval.showing_quiet_alarms());
    let quiet = |metric: &Metric| match metric.reading {
        Reading::Alarm(_) => vec![Value::Whole(0)],
        Reading::TaggedAlarm(alarm) => vec![Value::Whole(alarm.quiet); alarm.values.len()],
        _ => vec![],
    };
    assert_eq!(shown, CATALOGUE.iter().flat_map(quiet).collect::<Vec<_>>());
}

#[test]
fn while_the_limit_is_not_approached_the_most_that_is_predicted_is_shown_for_each_cause() {
    let later = everything(&later(), 3);
    let far = Snapshot { limit_approach: None, ..later.clone() };
    let lines = |snapshot: &Snapshot, planned| {
        let earlier = earlier();
        let interval = Interval::new(&earlier, snapshot, planned).showing_quiet_alarms();
        let (receiver, sink) = SpyMetricSink::new();
        let samples = samples(Selection::named("mem.time_to_limit"), &interval);
        assert!(Emitter::new(sink, tags_of("a:b"), WireType::Gauge).emit(samples));
        receiver.try_iter().map(|line| String::from_utf8(line).unwrap()).collect::<Vec<_>>()
    };
    let expected = |native| {
        ["python", "fragmentation", "mmap", "native", "other"].map(|cause| {
            let seconds = if cause == "native" { native } else { 21600 };
            format!("runtime.python.mem.time_to_limit:{seconds}|g|#cause:{cause},a:b")
        })
    };
    assert_eq!(lines(&far, 10 * SECOND), expected(21600));
    assert_eq!(lines(&later, 10 * SECOND), expected(3));
    assert_eq!(lines(&later, 121 * SECOND), Vec::<String>::new(), "too few flushes");
    let unlimited = Snapshot { process: ProcessFacts::default(), ..far };
    assert_eq!(lines(&unlimited, 10 * SECOND), Vec::<String>::new());
}

#[test]
fn few_major_faults_are_no_alarm() {
    let with = |at, faults| {
        let usage = ResourceUsage { major_faults: Some(faults), ..ResourceUsage::default() };
        Snapshot { at, usage: Some(usage), ..Snapshot::default() }
    };
    let earlier = with(100 * SECOND, 0);
    for (faults, expected) in [(100, None), (101, Some(Value::Whole(101)))] {
        let later = with(110 * SECOND, faults);
        let interval = Interval::new(&earlier, &later, 10 * SECOND);
        let samples = samples(Selection::named("mem.faults.major"), &interval);
        assert_eq!(samples.into_iter().next().map(|sample| sample.value), expected);
    }
}

fn observed(kept: &[u64], seen: u64) -> Observations {
    Observations { kept: kept.to_vec(), seen }
}

#[test]
fn the_lines_of_a_gunicorn_worker_are_exactly_these() {
    let ended = |count, by_status: &[(u16, u64)], durations| Ended {
        count,
        by_status: by_status.to_vec(),
        durations,
    };
    let requests = |ended, active, busy| Requests {
        ended: Some(ended),
        active,
        busy,
        capacity: Some(4),
        ..Requests::default()
    };
    let earlier = Snapshot {
        at: 100 * SECOND,
        gunicorn: GunicornFacts {
            records: [1, 0, 7, 0],
            requests: Some(requests(ended(10, &[(200, 9), (302, 1)], observed(&[9], 1)), 0, 3 * SECOND)),
            ..GunicornFacts::default()
        },
        ..Snapshot::default()
    };
    let last = ended(14, &[(200, 11), (302, 1), (404, 2)], observed(&[300_000, 12, 1_000], 4));
    let later = Snapshot {
        at: 110 * SECOND,
        gunicorn: GunicornFacts {
            records: [1, 2, 7, 1],
            requests: Some(Requests { queue_times: observed(&[1_500], 1), ..requests(last, 3, 13 * SECOND) }),
            ..GunicornFacts::default()
        },
        ..Snapshot::default()
    };
    let expected = [
        "gunicorn.requests:4|c|#a:b",
        "gunicorn.request.status.200:2|c|#a:b",
        "gunicorn.request.status.404:2|c|#a:b",
        "gunicorn.request.duration:300:0.012:1|ms|@0.75|#a:b",
        "gunicorn.request.queue_time:1.5|ms|#a:b",
        "gunicorn.log.error:2|c|#a:b",
        "gunicorn.log.exception:1|c|#a:b",
    ];
    assert_eq!(lines(&earlier, &later, "a:b", WireType::Distribution), expected);
    let saturation = ["gunicorn.worker.requests.active:3|g|#a:b", "gunicorn.worker.busy.percent:25|g|#a:b"];
    let by_name = Selection::named("gunicorn.worker.*");
    assert_eq!(lines_of(by_name, &earlier, &later, "a:b", WireType::Gauge), saturation);
}

#[test]
fn an_application_name_becomes_a_clean_tag() {
    let master = MasterFacts {
        app: "my shop|#x\n".into(),
        workers: None,
        status: Some(ServerStatus::Ok),
        backlog: None,
    };
    let later = Snapshot {
        gunicorn: GunicornFacts { master: Some(master), ..GunicornFacts::default() },
        ..Snapshot::default()
    };
    let expected = ["_sc|gunicorn.is_running|0|#app:my_shop__x_,a:b"];
    assert_eq!(lines(&Snapshot::default(), &later, "a:b", WireType::Distribution), expected);
}

#[test]
fn a_worker_that_has_just_begun_has_a_baseline_of_nothing() {
    let requests = Requests {
        ended: Some(Ended { count: 1, by_status: vec![(500, 1)], ..Ended::default() }),
        ..Requests::default()
    };
    let later = Snapshot {
        gunicorn: GunicornFacts { requests: Some(requests), ..GunicornFacts::default() },
        ..Snapshot::default()
    };
    let expected = ["gunicorn.requests:1|c|#a:b", "gunicorn.request.status.500:1|c|#a:b"];
    assert_eq!(lines(&Snapshot::default(), &later, "a:b", WireType::Distribution), expected);
}

#[test]
fn the_lines_of_a_gunicorn_master_are_exactly_these() {
    let later = Snapshot {
        gunicorn: GunicornFacts {
            master: Some(MasterFacts {
                app: "shop".into(),
                workers: Some(WorkerCounts { idle: 2, working: 1 }),
                status: Some(ServerStatus::Critical),
                backlog: Some(5),
            }),
            ..GunicornFacts::default()
        },
        ..Snapshot::default()
    };
    let expected = [
        "gunicorn.workers:2|g|#app:shop,state:idle,a:b,runtime-id:9f0c,c:d",
        "gunicorn.workers:1|g|#app:shop,state:working,a:b,runtime-id:9f0c,c:d",
        "_sc|gunicorn.is_running|2|#app:shop,a:b,c:d",
        "gunicorn.backlog:5|h|#app:shop,a:b,runtime-id:9f0c,c:d",
    ];
    let tags = "a:b,runtime-id:9f0c,c:d";
    assert_eq!(lines(&Snapshot::default(), &later, tags, WireType::Distribution), expected);
    assert_eq!(
        lines(&Snapshot::default(), &later, "", WireType::Gauge)[2],
        "_sc|gunicorn.is_running|2|#app:shop"
    );
}

/// The rows of which every process sends one value.
fn of_every_process() -> Vec<&'static Metric> {
    CATALOGUE.iter().filter(|metric| metric.wire == Wire::Chosen).collect()
}

/// A receiver's view of a line, written after the grammar and not after our code.
fn parse(line: &str) -> Option<(&str, &str, &str, Vec<&str>)> {
    let mut fields = line.split('|');
    let (name, value) = fields.next()?.split_once(':')?;
    let (kind, tags) = (fields.next()?, fields.next()?.strip_prefix('#')?);
    let decimal = |c: char| c.is_ascii_digit() || c == '.';
    if fields.next().is_some() || !value.chars().all(decimal) {
        return None;
    }
    Some((name, value, kind, tags.split(',').collect()))
}

fn any_value() -> impl Strategy<Value = Value> {
    let edges = prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 5e-324, 0.0]);
    prop_oneof![
        any::<u64>().prop_map(Value::Whole),
        (0.0..1e12).prop_map(Value::Real),
        edges.prop_map(Value::Real)
    ]
}

/// Keeps every line it is given.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl MetricSink for Lines {
    fn emit(&self, line: &str) -> std::io::Result<usize> {
        self.0.lock().unwrap().push(line.to_owned());
        Ok(line.len())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_line_parses_back_to_what_went_in(
        value in any_value(),
        metric in prop::sample::select(of_every_process()),
        service: String,
        user_tags in prop::collection::vec(any::<String>(), 0..5),
        dd_tags: String,
        runtime_id in "[0-9a-f]{32}",
    ) {
        let inputs = IdentityInputs {
            arguments: ServiceArguments {
                service: Some(service),
                tags: Some(user_tags),
                ..ServiceArguments::default()
            },
            runtime: runtime(),
            runtime_id: Some(runtime_id.clone()),
            environment: Arc::new(Environment::from([("DD_TAGS", dd_tags.as_str())])),
            ..IdentityInputs::default()
        };
        let identity = inputs.identity();
        let sink = Lines::default();
        let mut emitter = Emitter::new(sink.clone(), identity.tags.clone(), WireType::Distribution);
        let sample = Sample { metric, member: Member::Only, value: value.clone() };
        let written = emitter.emit(std::iter::once(sample));

        let lines = sink.0.lock().unwrap();
        let sendable = !matches!(value, Value::Real(real) if !real.is_finite());
        prop_assert_eq!(written, sendable);
        prop_assert_eq!(lines.len(), usize::from(sendable));
        for line in lines.iter() {
            prop_assert!(!line.contains('\n'));
            let (name, parsed, kind, tags) = parse(line).expect("a line of the grammar");
            prop_assert_eq!(name, metric.name);
            let parsed = match &value {
                Value::Whole(_) => Value::Whole(parsed.parse().unwrap()),
                _ => Value::Real(parsed.parse().unwrap()),
            };
            prop_assert_eq!(&parsed, &value);
            prop_assert_eq!(kind, "d");
            prop_assert_eq!(tags.join(","), identity.tags.as_str());
            prop_assert!(tags.iter().any(|tag| tag.strip_prefix("runtime-id:") == Some(&runtime_id)));
        }
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "A line carries what a float can hold.")]
    fn packed_durations_leave_once_each_in_lines_that_fit(
        kept in prop::collection::vec(prop_oneof![0_u64..5_000_000, 0_u64..10_000_000_000_000], 1..3000),
        unsampled in 0_u64..10_000,
        tags in "[a-z]{0,20}:[a-z]{1,200}(,[a-z]{1,9}:[a-z]{1,190}){0,38}",
        suffix in "[|:a-z]{0,600}",
    ) {
        let tags = tags_of(&tags);
        let metric = CATALOGUE.iter().find(|metric| metric.name == "gunicorn.request.duration").unwrap();
        let seen = kept.len() as u64 + unsampled;
        let sink = Lines::default();
        let mut emitter = Emitter::new(sink.clone(), tags.clone(), WireType::Distribution);
        emitter.set_suffix(suffix.clone());
        let value = Value::Observed(observed(&kept, seen));
        let sample = Sample { metric, member: Member::Only, value };
        prop_assert!(emitter.emit(std::iter::once(sample)));

        let lines = sink.0.lock().unwrap();
        let rate = if unsampled > 0 { format!("|@{}", kept.len() as f64 / seen as f64) } else { String::new() };
        let end = format!("|ms{rate}|#{tags}{suffix}");
        let ends = tags.as_str().len() + suffix.len();
        prop_assume!(!(800..1000).contains(&ends), "near the limit either payload would do");
        let longest = if ends < 800 { 1432 } else { 8192 };
        let mut values = Vec::new();
        for line in lines.iter() {
            prop_assert!(line.len() < longest, "{}", line.len());
            let packed = line.strip_prefix("gunicorn.request.duration:").unwrap().strip_suffix(&end).unwrap();
            values.extend(packed.split(':').map(|value| value.parse::<f64>().unwrap()));
        }
        let expected: Vec<f64> = kept.iter().map(|value| *value as f64 / 1000.0).collect();
        prop_assert_eq!(values, expected);
        // Each line but the last is full, but for zeros at the end of values, for which there was room.
        let full = |line: &&String| line.len() + 60 + longest / 20 >= longest;
        prop_assert!(lines.iter().rev().skip(1).all(|line| full(&line)));
    }

    #[test]
    fn any_two_snapshots_give_only_finite_values(
        cpu in any::<[u32; 2]>(), at in any::<[u32; 2]>(), switches in any::<[u64; 2]>(), pause in any::<[u64; 2]>()
    ) {
        let snapshot = |n: usize| Snapshot {
            at: Duration::from_micros(at[n].into()),
            usage: Some(ResourceUsage {
                cpu: Duration::from_micros(cpu[n].into()),
                user: Some(Duration::from_micros(cpu[n].into())),
                voluntary_switches: Some(switches[n]),
                ..ResourceUsage::default()
            }),
            collections: Some(Collections { pause: [pause[n], 0, 0], ..Collections::default() }),
            ..Snapshot::default()
        };
        let (earlier, later) = (snapshot(0), snapshot(1));
        let mut seen = 0;
        for sample in samples(Selection::at(Level::Default), &Interval::new(&earlier, &later, SECOND)) {
            seen += 1;
            if let Value::Real(real) = sample.value {
                prop_assert!(real.is_finite() && real >= 0.0);
            }
        }
        prop_assert!(seen >= 7);
    }
}
