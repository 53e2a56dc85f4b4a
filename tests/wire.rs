//! From a snapshot and an environment to the bytes of a line, through the public face.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cadence::{MetricSink, SpyMetricSink};
use proptest::prelude::*;
use runtime_metrics::catalogue::{CATALOGUE, Level, Sample, Value, samples};
use runtime_metrics::config::WireType;
use runtime_metrics::distribution::Distribution;
use runtime_metrics::emitter::Emitter;
use runtime_metrics::identity::{Claims, Extras, Identity, Runtime};
use runtime_metrics::interval::Interval;
use runtime_metrics::selection::Selection;
use runtime_metrics::snapshot::{Collections, Interpreter, Process, Snapshot, Usage};
use runtime_metrics::variables::Environment;

const SECOND: Duration = Duration::from_secs(1);

fn runtime() -> Runtime {
    Runtime {
        implementation: "CPython".into(),
        version: "3.13.1".into(),
        command: vec!["python".into(), "app.py".into()],
    }
}

fn earlier() -> Snapshot {
    Snapshot {
        at: 100 * SECOND,
        usage: Some(Usage {
            cpu: 30 * SECOND,
            user: Some(20 * SECOND),
            system: Some(10 * SECOND),
            voluntary_switches: Some(1000),
            involuntary_switches: Some(50),
        }),
        process: Process { resident: Some(1), threads: Some(1) },
        collections: Some(Collections { count: [7, 5, 3], pause: 9000, longest_pause: 9000 }),
        interpreter: Some(Interpreter { gc_count: Some([1, 1, 1]), ..Interpreter::default() }),
    }
}

fn later() -> Snapshot {
    Snapshot {
        at: 110 * SECOND,
        usage: Some(Usage {
            cpu: Duration::from_micros(32_500_001),
            user: Some(Duration::from_micros(22_500_001)),
            system: Some(10 * SECOND),
            voluntary_switches: Some(1234),
            involuntary_switches: Some(56),
        }),
        process: Process { resident: Some(73_400_320), threads: Some(12) },
        collections: Some(Collections { count: [107, 15, 4], pause: 1_009_000, longest_pause: 500_000 }),
        interpreter: Some(Interpreter { gc_count: Some([123, 4, 5]), ..Interpreter::default() }),
    }
}

/// The lines of one flush.
fn lines(earlier: &Snapshot, later: &Snapshot, tags: &str, wire_type: WireType) -> Vec<String> {
    let (receiver, sink) = SpyMetricSink::new();
    let interval = Interval::new(earlier, later, 10 * SECOND);
    assert!(
        Emitter::new(sink, tags.to_owned(), wire_type)
            .emit(samples(Selection::at(Level::Default), &interval), None)
    );
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
    let extras = Extras { runtime_id: Some("9f0c"), ..Extras::default() };
    let identity = Identity::new(&Claims::default(), &environment, &runtime(), extras);
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
    assert_eq!(lines(&earlier(), &later(), &identity.tags, WireType::Distribution), expected);
}

#[test]
fn a_metric_of_the_program_s_own_is_a_distribution_with_its_time_at_the_end() {
    let (receiver, sink) = SpyMetricSink::new();
    let emitter = Emitter::new(sink, "not:its".to_owned(), WireType::Gauge);
    let now = Duration::from_secs(1_700_000_000);
    let distribution = |timestamp| Distribution::new("orders", 12.45, timestamp, Vec::new(), now).unwrap();
    assert!(emitter.distribute(&distribution(None), ""));
    assert!(emitter.distribute(&distribution(Some(1_699_999_990.9)), "a:b,c"));
    let lines: Vec<_> = receiver.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
    assert_eq!(lines, ["orders:12.45|d", "orders:12.45|d|#a:b,c|T1699999990"]);
}

#[test]
fn gauges_differ_in_nothing_but_their_type() {
    let distributions = lines(&earlier(), &later(), "a:b", WireType::Distribution);
    let gauges = lines(&earlier(), &later(), "a:b", WireType::Gauge);
    let expected: Vec<_> = distributions.iter().map(|line| line.replace("|d|", "|g|")).collect();
    assert_eq!(gauges, expected);
    assert_eq!(gauges.len(), 15);
}

#[test]
fn what_is_unknown_is_not_sent() {
    let unknown = Snapshot { at: 110 * SECOND, ..Snapshot::default() };
    assert_eq!(lines(&earlier(), &unknown, "a:b", WireType::Distribution), Vec::<String>::new());
    let no_answer = Snapshot { interpreter: None, ..later() };
    assert_eq!(lines(&earlier(), &no_answer, "a:b", WireType::Distribution).len(), 12);
    let missed_collections = Snapshot { collections: None, ..later() };
    assert_eq!(lines(&earlier(), &missed_collections, "a:b", WireType::Distribution).len(), 10);
}

#[test]
fn a_freeze_leaves_out_the_percentage_alone() {
    let thawed = Snapshot { at: 131 * SECOND, ..later() };
    let sent = lines(&earlier(), &thawed, "a:b", WireType::Distribution);
    assert_eq!(sent.len(), 14);
    assert!(!sent.iter().any(|line| line.contains("cpu.percent")));
}

#[test]
fn names_and_texts_of_the_catalogue_keep_the_rules() {
    let mut names: Vec<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
    for metric in &CATALOGUE {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
        assert!(metric.name.starts_with("runtime.python.") && metric.name.chars().all(allowed));
        assert!(metric.description.ends_with('.') && metric.description.starts_with(char::is_uppercase));
        assert!(!metric.source.is_empty() && !metric.absent.is_empty() && !metric.absent.ends_with('.'));
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CATALOGUE.len());
}

/// A level never grows by accident: it is what people pay for.
#[test]
fn the_default_level_is_what_ddtrace_sends() {
    let mut names: Vec<_> = CATALOGUE
        .iter()
        .filter(|metric| metric.level == Level::Default)
        .map(|metric| metric.name.strip_prefix("runtime.python.").unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "cpu.ctx_switch.involuntary",
            "cpu.ctx_switch.voluntary",
            "cpu.percent",
            "cpu.time.sys",
            "cpu.time.user",
            "gc.collections.gen0",
            "gc.collections.gen1",
            "gc.collections.gen2",
            "gc.count.gen0",
            "gc.count.gen1",
            "gc.count.gen2",
            "gc.pause.max",
            "gc.pause.time",
            "mem.rss",
            "thread_count",
        ]
    );
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
        row in 0..CATALOGUE.len(),
        service: String,
        user_tags in prop::collection::vec(any::<String>(), 0..5),
        dd_tags: String,
        runtime_id in "[0-9a-f]{32}",
    ) {
        let claims = Claims { service: Some(service), tags: Some(user_tags), ..Claims::default() };
        let environment = Environment::from([("DD_TAGS", dd_tags.as_str())]);
        let extras = Extras { runtime_id: Some(&runtime_id), ..Extras::default() };
        let identity = Identity::new(&claims, &environment, &runtime(), extras);
        let sink = Lines::default();
        let metric = &CATALOGUE[row];
        let mut emitter = Emitter::new(sink.clone(), identity.tags.clone(), WireType::Distribution);
        let written = emitter.emit(std::iter::once(Sample { metric, value }), None);

        let lines = sink.0.lock().unwrap();
        let sendable = !matches!(value, Value::Real(real) if !real.is_finite());
        prop_assert_eq!(written, sendable);
        prop_assert_eq!(lines.len(), usize::from(sendable));
        for line in lines.iter() {
            prop_assert!(!line.contains('\n'));
            let (name, parsed, kind, tags) = parse(line).expect("a line of the grammar");
            prop_assert_eq!(name, metric.name);
            let parsed = match value {
                Value::Whole(_) => Value::Whole(parsed.parse().unwrap()),
                Value::Real(_) => Value::Real(parsed.parse().unwrap()),
            };
            prop_assert_eq!(parsed, value);
            prop_assert_eq!(kind, "d");
            prop_assert_eq!(tags.join(","), identity.tags.as_str());
            prop_assert!(tags.iter().any(|tag| tag.strip_prefix("runtime-id:") == Some(&runtime_id)));
        }
    }

    #[test]
    fn any_two_snapshots_give_only_finite_values(
        cpu in any::<[u32; 2]>(), at in any::<[u32; 2]>(), switches in any::<[u64; 2]>(), pause in any::<[u64; 2]>()
    ) {
        let snapshot = |n: usize| Snapshot {
            at: Duration::from_micros(at[n].into()),
            usage: Some(Usage {
                cpu: Duration::from_micros(cpu[n].into()),
                user: Some(Duration::from_micros(cpu[n].into())),
                voluntary_switches: Some(switches[n]),
                ..Usage::default()
            }),
            collections: Some(Collections { pause: pause[n], ..Collections::default() }),
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
