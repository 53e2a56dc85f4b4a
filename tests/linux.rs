//! The Linux sources beside sysinfo, which reads the same process in its own way.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use runtime_metrics::snapshot::Source;
use runtime_metrics::sources::linux::Linux;
use runtime_metrics::sources::portable::Portable;
use runtime_metrics::sources::rusage;

fn close(ours: u64, theirs: u64, percent: u64) -> bool {
    ours.abs_diff(theirs) * 100 <= theirs * percent
}

#[test]
fn it_agrees_with_sysinfo() {
    let barrier = Arc::new(Barrier::new(6));
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                barrier.wait();
                barrier.wait();
            })
        })
        .collect();
    let memory = vec![1_u8; 64 << 20];
    let enough = Duration::from_millis(200);
    while rusage::read().unwrap().cpu < enough {}
    barrier.wait();

    let needed = [Source::ResourceUsage, Source::Memory, Source::Threads].into_iter().collect();
    let ours = Linux::open(Path::new("/")).read(Duration::ZERO, needed);
    let (usage, theirs) = Portable::open(Path::new("/")).read(needed);
    let used = rusage::read().unwrap();

    assert!(close(ours.resident.unwrap(), theirs.resident.unwrap(), 2), "{ours:?} {theirs:?}");
    assert!(ours.resident.unwrap() > memory.len() as u64);
    assert_eq!(ours.threads, theirs.threads);
    assert!(ours.threads.unwrap() >= 6);
    // sysinfo counts in ticks of 10 ms, and user and kernel are cut separately.
    let difference = used.cpu.abs_diff(usage.unwrap().cpu);
    assert!(difference <= Duration::from_millis(40), "{difference:?}");
    assert!(used.cpu >= enough);

    barrier.wait();
    for thread in threads {
        thread.join().unwrap();
    }
}
