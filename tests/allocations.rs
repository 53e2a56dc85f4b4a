//! What a steady flush allocates, counted exactly: time varies from machine to machine, this does not.
// The Python extension has an allocator of its own.
#![cfg(all(target_os = "linux", not(feature = "python")))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cadence::prelude::*;
use cadence::{NopMetricSink, StatsdClient};
use runtime_metrics::catalogue::CATALOGUE;
use runtime_metrics::catalogue::metric::{Level, Member, Metric, Sample, Value, Wire, WireType};
use runtime_metrics::clock::Clock;
use runtime_metrics::collector::Answer;
use runtime_metrics::emitter::address::{ChosenBy, Destination};
use runtime_metrics::emitter::{Emitter, Transport};
use runtime_metrics::identity::tracers::Tracers;
use runtime_metrics::snapshot::InterpreterFacts;

mod on_demand;

/// What cadence allocates for a line: its text.
const LINE: usize = 1;

/// What sending allocates for all payloads together: their list, and the headers of the system call.
const SENDING: usize = 2;

const TAGS: &str = "service:web,env:prod,version:1.4,team:core,lang:python,lang_interpreter:CPython,\
                    lang_version:3.13.1,runtime-id:9f0c1f0e3c5a4d0b8f8e7d6c5b4a3928";

/// The system's allocator, which counts for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count_one() {
    COUNT.with(|count| count.set(count.get() + 1));
}

#[expect(unsafe_code, reason = "An allocator cannot be written without it.")]
// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_one();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How often this thread allocates or reallocates meanwhile.
fn allocations<T>(work: impl FnOnce() -> T) -> usize {
    let before = COUNT.get();
    drop(work());
    COUNT.get() - before
}

/// The rows of which each process sends one number without any setting.
fn default_rows() -> impl Iterator<Item = &'static Metric> {
    let is_default = |metric: &&Metric| metric.level == Level::Default && !metric.by_name;
    CATALOGUE.iter().filter(is_default).filter(|metric| metric.wire == Wire::Chosen)
}

/// A sample of each of them.
fn samples() -> Vec<Sample> {
    let value =
        |row: u64| if row.is_multiple_of(4) { Value::Real(2.5) } else { Value::Whole(row * 1_000_003) };
    default_rows()
        .zip(0..)
        .map(|(metric, row)| Sample { metric, member: Member::Only, value: value(row) })
        .collect()
}

/// The allocations of a flush to this address once everything has its room.
fn of_a_steady_flush(address: &str) -> usize {
    let destination =
        Destination { address: address.parse().unwrap(), chosen_by: ChosenBy::Setting("a test") };
    let transport = Transport::new(destination, Clock::start(), Arc::default());
    let mut emitter = Emitter::new(transport, TAGS.split(',').collect(), WireType::Distribution);
    let flushes = [1, 2, 3].map(|second| {
        let (samples, now) = (samples(), Duration::from_secs(second));
        allocations(|| assert!(emitter.send(samples, now, Duration::from_millis(100))))
    });
    assert_eq!(flushes[1], flushes[2]);
    flushes[2]
}

#[test]
fn a_steady_flush_allocates_the_lines_of_cadence_and_twice_to_send_them() {
    let expected = samples().len() * LINE + SENDING;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(of_a_steady_flush(&udp.local_addr().unwrap().to_string()), expected);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let _unix = UnixDatagram::bind(&path).unwrap();
    assert_eq!(of_a_steady_flush(path.to_str().unwrap()), expected);
}

#[test]
fn a_steady_tick_of_a_whole_collector_allocates_no_more_than_the_flush_alone() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Its number of digits varies, and with it what cadence allocates.
    let settings = on_demand::settings(udp.local_addr().unwrap(), "cpu.percent");
    let collector = on_demand::collector(Path::new("/"), &settings);
    let answer = || Answer {
        facts: InterpreterFacts { gc_count: Some([1, 2, 3]), ..InterpreterFacts::default() },
        tracers: Some(Tracers::default()),
        ..Answer::default()
    };
    let mut counts = Vec::new();
    for _ in 0..5 {
        let answer = answer();
        counts.push(allocations(|| assert!(collector.flush(Some(answer)).everything_sent)));
    }
    let lines = default_rows().count() - 1;
    assert_eq!(counts[2..], [lines * LINE + SENDING; 3]);
}

#[test]
fn cadence_allocates_the_text_of_a_line_and_once_more_for_tags_or_a_long_number() {
    let client = StatsdClient::from_sink("", NopMetricSink);
    let name = "runtime.python.cpu.percent";
    assert_eq!(allocations(|| client.gauge_with_tags(name, 25_u64).try_send()), LINE);
    assert_eq!(
        allocations(|| client.gauge_with_tags(name, 25_u64).with_tag_value(TAGS).try_send()),
        LINE + 1
    );
    assert_eq!(allocations(|| client.gauge_with_tags(name, 25.123_456_789_012_f64).try_send()), LINE + 1);
}
