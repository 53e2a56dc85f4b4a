//! The memory of a container or of a process that grows, over simulated hours, in files of the test.
#![cfg(target_os = "linux")]

use std::cell::Cell;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use runtime_metrics::snapshot::{Growth, GrowthCause, InterpreterFacts, LimitApproach, Source, SourceSet};
use runtime_metrics::sources::python_blocks::PythonBlocks;
use runtime_metrics::sources::{Counters, InterpreterAnswer, Sources};
use tempfile::TempDir;

const MB: u64 = 1 << 20;
const LIMIT: u64 = 1000 * MB;
/// In a minute.
const TICKS: u32 = 3;
const TICK: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_mins(1);

/// What there is at a time.
#[derive(Clone, Copy, Default)]
struct Memory {
    container: u64,
    anonymous: u64,
    file: u64,
    blocks: Option<u64>,
}

/// A process that is observed every twenty seconds.
struct Simulated {
    root: TempDir,
    sources: Sources,
    blocks: Arc<PythonBlocks>,
    now: Duration,
}

impl Simulated {
    fn new(limit: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let counters = Counters::default();
        let blocks = Arc::clone(&counters.blocks);
        let sources = Sources::open(root.path(), counters);
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
        let simulated = Self { root, sources, blocks, now: Duration::ZERO };
        simulated.write("proc/self/cgroup", "0::/\n");
        simulated.write("sys/fs/cgroup/memory.stat", "inactive_file 0\n");
        simulated.limit(limit);
        simulated
    }

    fn limit(&self, limit: u64) {
        self.write("sys/fs/cgroup/memory.max", &format!("{limit}\n"));
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.root.path().join(file), text).unwrap();
    }

    /// The facts of the next tick.
    fn tick(&mut self, memory: Memory) -> Option<LimitApproach> {
        self.now += TICK;
        let Memory { container, anonymous, file, blocks } = memory;
        self.write("sys/fs/cgroup/memory.current", &format!("{container}\n"));
        let (anonymous, file) = (anonymous >> 10, file >> 10);
        self.write(
            "proc/self/status",
            &format!("RssAnon: {anonymous} kB\nRssFile: {file} kB\nRssShmem: 0 kB\n"),
        );
        let needed: SourceSet = [Source::Cgroup, Source::LimitApproach].into_iter().collect();
        let facts = InterpreterFacts { blocks, ..InterpreterFacts::default() };
        let answer = InterpreterAnswer { facts, gunicorn: None };
        self.sources.drain(self.now, needed, || Some(answer)).snapshot.limit_approach
    }

    /// What is known at each tick of so many minutes of this memory, which is given the minute.
    fn run(&mut self, minutes: u32, memory: impl Fn(f64) -> Memory) -> Vec<Option<LimitApproach>> {
        (1..=minutes * TICKS).map(|tick| self.tick(memory(f64::from(tick) / f64::from(TICKS)))).collect()
    }

    /// What is known after them.
    fn after(&mut self, minutes: u32, memory: impl Fn(f64) -> Memory) -> Option<LimitApproach> {
        self.run(minutes, memory).pop()?
    }

    /// At how many of these ticks the limit is approached.
    fn alarms(&mut self, minutes: u32, memory: impl Fn(f64) -> Memory) -> usize {
        self.run(minutes, memory).iter().flatten().count()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "It is whole enough, and positive."
)]
fn bytes(megabytes: f64) -> u64 {
    (megabytes * MB as f64) as u64
}

/// So many megabytes of the container, of which the process has all but a hundred.
fn native(megabytes: f64) -> Memory {
    let container = bytes(megabytes);
    Memory { container, anonymous: container.saturating_sub(100 * MB), file: 10 * MB, blocks: Some(100_000) }
}

fn assert_close(left: Duration, expected: f64) {
    let ratio = left.as_secs_f64() / 60.0 / expected;
    assert!((0.7..1.3).contains(&ratio), "{left:?}, and not {expected} minutes");
}

#[test]
fn a_steady_growth_is_predicted_after_a_quarter_of_an_hour_and_as_long_as_it_lasts() {
    let mut simulated = Simulated::new(LIMIT);
    let line = |minute: f64| native(200.0 + 5.0 * minute);
    assert_eq!(simulated.alarms(13, line), 0);
    let approach = simulated.after(3, |minute| line(13.0 + minute)).unwrap();
    assert_close(approach.left, (800.0 - 5.0 * 16.0) / 5.0);
    let approach = simulated.after(60, |minute| line(16.0 + minute)).unwrap();
    assert_close(approach.left, (800.0 - 5.0 * 76.0) / 5.0);
    // It ends.
    assert_eq!(simulated.after(30, |_| line(76.0)), None);
    // What takes longer than six hours is too far away.
    let mut simulated = Simulated::new(LIMIT);
    assert_eq!(simulated.alarms(60, |minute| native(200.0 + 1.0 * minute)), 0);
}

#[test]
fn a_saw_tooth_a_warm_up_and_a_jump_are_not() {
    let shapes: [fn(f64) -> f64; 4] = [
        |minute| 300.0 + 20.0 * (minute % 8.0),
        |minute| 600.0 - 400.0 * (-minute / 8.0).exp(),
        |minute| if minute < 25.0 { 200.0 } else { 700.0 },
        |minute| 300.0 + 10.0 * (minute * 1.7).sin(),
    ];
    for shape in shapes {
        let mut simulated = Simulated::new(LIMIT);
        assert_eq!(simulated.alarms(120, |minute| native(shape(minute))), 0);
    }
}

#[test]
fn the_cause_is_what_has_grown() {
    let line = |minute: f64| 200.0 + 10.0 * minute;
    let of = |memory: fn(f64) -> Memory| {
        let mut simulated = Simulated::new(LIMIT);
        let approach = simulated.after(20, memory).expect("the container grows");
        assert_close(approach.left, (1000.0 - line(20.0)) / 10.0);
        approach.cause
    };
    // Objects of 100 bytes, beside memory that has other owners.
    assert_eq!(
        of(|minute| Memory {
            container: bytes(200.0 + 10.0 * minute),
            anonymous: 50 * MB + bytes(10.0 * minute),
            file: 10 * MB,
            blocks: Some(200_000 + bytes(10.0 * minute) / 100),
        }),
        GrowthCause::Python
    );
    // The number of objects varies, in a process most of whose memory is not theirs.
    assert_eq!(
        of(|minute| Memory {
            container: bytes(200.0 + 10.0 * minute),
            anonymous: 100 * MB + bytes(10.0 * minute),
            file: 10 * MB,
            blocks: Some(10_000 + bytes(minute) / 1000),
        }),
        GrowthCause::Native
    );
    assert_eq!(
        of(|minute| Memory {
            container: bytes(200.0 + 10.0 * minute),
            anonymous: 50 * MB + bytes(1.0 * minute),
            file: 10 * MB + bytes(9.0 * minute),
            blocks: Some(200_000),
        }),
        GrowthCause::Mmap
    );
    // Another process, while Python code of this one allocates and frees.
    assert_eq!(
        of(|minute| Memory {
            container: bytes(200.0 + 10.0 * minute),
            anonymous: 50 * MB + bytes(0.1 * minute),
            file: 10 * MB,
            blocks: Some(200_000 + bytes(minute) / 10),
        }),
        GrowthCause::Other
    );
    // One of eight workers that all leak.
    assert_eq!(
        of(|minute| Memory {
            container: bytes(200.0 + 10.0 * minute),
            anonymous: 50 * MB + bytes(10.0 / 8.0 * minute),
            file: 10 * MB,
            blocks: Some(200_000 + bytes(10.0 / 8.0 * minute) / 100),
        }),
        GrowthCause::Python
    );
}

/// What the C library of this process has free is real.
#[test]
#[cfg(target_env = "gnu")]
fn memory_that_malloc_has_free_and_cannot_use_is_fragmentation() {
    let growing = |minute: f64| Memory {
        container: bytes(50.0 + 0.25 * minute),
        anonymous: bytes(40.0 + 0.25 * minute),
        file: 10 * MB,
        blocks: Some(100_000),
    };
    let mut pieces: Vec<Option<Box<[u8; 4000]>>> = (0..8000).map(|_| Some(Box::new([1; 4000]))).collect();
    for piece in pieces.iter_mut().step_by(2) {
        *piece = None;
    }
    let approach = Simulated::new(100 * MB).after(31, growing).unwrap();
    assert_eq!(approach.cause, GrowthCause::Fragmentation);
    drop(pieces);
}

#[test]
fn blocks_that_are_rarely_counted_are_counted_once_the_limit_is_approached() {
    assert_eq!(leaking_objects_after(0.0), (GrowthCause::Python, vec![0, 10, 14]));
    // However long it has been calm before, and whatever was counted at which point.
    for calm in [45.0, 60.0, 75.0, 90.0, 120.0] {
        assert_eq!(leaking_objects_after(calm).0, GrowthCause::Python, "after {calm} minutes");
    }
}

/// The cause, and in which minutes blocks were counted, where objects are leaked from a minute on.
fn leaking_objects_after(calm: f64) -> (GrowthCause, Vec<u64>) {
    let mut simulated = Simulated::new(LIMIT);
    let leaking = |minute: f64| {
        let grown = bytes(10.0 * (minute - calm).max(0.0));
        Memory {
            container: 200 * MB + grown,
            anonymous: 50 * MB + grown,
            file: 10 * MB,
            blocks: Some(200_000 + grown / 100),
        }
    };
    // It takes 2 ms, which is allowed every ten minutes.
    let mut counted = Vec::new();
    let approach = loop {
        let (at, minute) = (simulated.now + TICK, (simulated.now + TICK).as_secs_f64() / 60.0);
        let times = Cell::new(at);
        let clock = || times.replace(at + Duration::from_millis(2));
        let blocks = simulated.blocks.spend(clock, || leaking(minute).blocks).flatten();
        counted.extend(blocks.map(|_| at.as_secs() / 60));
        if let Some(approach) = simulated.tick(Memory { blocks, ..leaking(minute) }) {
            break approach;
        }
        assert!(simulated.now < 180 * MINUTE, "no prediction came");
    };
    (approach.cause, counted)
}

#[test]
fn where_blocks_cannot_be_counted_the_cause_is_found_without_them_at_the_next_flush() {
    let mut simulated = Simulated::new(LIMIT);
    let leaking = |minute: f64| Memory { blocks: None, ..native(200.0 + 10.0 * minute) };
    assert_eq!(simulated.after(20, leaking).map(|approach| approach.cause), Some(GrowthCause::Native));
}

#[test]
fn the_cause_is_looked_for_again_every_ten_minutes() {
    let mut simulated = Simulated::new(LIMIT);
    let grown = |minute: f64| bytes(4.0 * minute);
    let first = |minute: f64| Memory {
        container: 200 * MB + grown(minute),
        anonymous: 50 * MB + grown(minute),
        file: 0,
        blocks: Some(200_000),
    };
    assert_eq!(simulated.after(20, first).map(|approach| approach.cause), Some(GrowthCause::Native));
    // From now on it is files that are mapped.
    let then = |minute: f64| Memory {
        container: 200 * MB + grown(20.0 + minute),
        anonymous: 50 * MB + grown(20.0),
        file: grown(minute),
        blocks: Some(200_000),
    };
    let causes: Vec<_> = (1..=35)
        .map(|minute| {
            let memory = |since: f64| then(f64::from(minute - 1) + since);
            simulated.after(1, memory).map(|approach| approach.cause)
        })
        .collect();
    assert_eq!(causes[3], Some(GrowthCause::Native));
    assert_eq!(causes.last(), Some(&Some(GrowthCause::Mmap)));
}

#[test]
fn another_limit_begins_another_series() {
    let mut simulated = Simulated::new(LIMIT);
    let line = |minute: f64| native(200.0 + 5.0 * minute);
    assert!(simulated.after(20, line).is_some());
    simulated.limit(900 * MB);
    assert_eq!(simulated.alarms(13, |minute| line(20.0 + minute)), 0);
    assert!(simulated.after(2, |minute| line(33.0 + minute)).is_some());
}

#[test]
fn memory_of_the_process_that_grows_is_seen_without_a_limit_and_only_where_it_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc/self")).unwrap();
    let mut sources = Sources::open(root.path(), Counters::default());
    let mut growth = |needed: &[Source], tick: u32| {
        let kilobytes = 100_000 + 1024 * u64::from(tick);
        let status = format!("RssAnon: {kilobytes} kB\n");
        fs::write(root.path().join("proc/self/status"), status).unwrap();
        let facts = InterpreterFacts { blocks: Some(1_000_000), ..InterpreterFacts::default() };
        let answer = InterpreterAnswer { facts, gunicorn: None };
        let needed = needed.iter().copied().collect();
        sources.drain(tick * TICK, needed, || Some(answer)).snapshot.growth
    };
    for tick in 0..14 * TICKS {
        assert_eq!(growth(&[Source::Growth], tick), Growth::default());
    }
    let grown = growth(&[Source::Growth], 14 * TICKS);
    let a_minute = grown.anonymous.unwrap() / (1_048_576.0 * f64::from(TICKS));
    assert!((a_minute - 1.0).abs() < 0.01, "{a_minute}");
    assert_eq!(grown.blocks, Some(0.0));
    assert_eq!(growth(&[Source::MemoryParts], 15 * TICKS), Growth::default());
}
