//! A process that has no descriptor left. Its limit holds for the whole process, so this is the only test in it.
#![cfg(target_os = "linux")]

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

mod on_demand;

const ID: &str = "3f1c9a70d2b84e65901fbc37ae52d8c4617e0b9385acf2d146708be9c35fa21d";

#[test]
fn what_could_not_be_opened_is_opened_once_a_descriptor_is_left() {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("proc/self");
    fs::create_dir_all(process.join("task/7")).unwrap();
    fs::write(process.join("statm"), "5000 300 200 1 0 90 0\n").unwrap();
    fs::write(process.join("cgroup"), format!("0::/docker/{ID}\n")).unwrap();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let settings = on_demand::settings(receiver.local_addr().unwrap(), "gc.*,cpu.*");
    let (limit, max) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, max).unwrap();
    let collector = on_demand::collector(root.path(), &settings);
    let flushes = [(); 2].map(|()| collector.flush(None).everything_sent);
    setrlimit(Resource::RLIMIT_NOFILE, limit, max).unwrap();
    assert_eq!(flushes, [false; 2]);
    assert!(collector.flush(None).everything_sent);
    let mut buffer = [0; 9000];
    let length = receiver.recv(&mut buffer).unwrap();
    let sent = str::from_utf8(&buffer[..length]).unwrap();
    let line = sent.lines().find(|line| line.starts_with("runtime.python.mem.rss:")).unwrap();
    assert!(line.ends_with(&format!("|c:{ID}")), "{line}");
}
