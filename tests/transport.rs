//! The sink on real sockets: what arrives, what is counted as lost, and what is logged about it.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cadence::MetricSink;
use runtime_metrics::catalogue::CATALOGUE;
use runtime_metrics::catalogue::metric::{Member, Sample, Value, WireType};
use runtime_metrics::clock::Clock;
use runtime_metrics::emitter::address::{ChosenBy, Destination};
use runtime_metrics::emitter::{Distribution, Emitter, Sending, Transport};
use runtime_metrics::message::Severity;
use runtime_metrics::tag::Tags;

const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a flush may take.
const LIMIT: Duration = Duration::from_millis(100);

fn transport(address: &str) -> Transport {
    let address = address.parse().unwrap();
    let destination = Destination { address, chosen_by: ChosenBy::Setting("a test") };
    Transport::new(destination, Clock::start(), Arc::default())
}

/// Flushes these lines at a second; returns whether everything has left.
fn flush(transport: &Transport, second: u64, lines: &[String]) -> bool {
    flush_within(transport, second, LIMIT, lines)
}

/// The same, with another limit.
fn flush_within(transport: &Transport, second: u64, limit: Duration, lines: &[String]) -> bool {
    transport.begin(Duration::from_secs(second), limit);
    for line in lines {
        transport.emit(line).unwrap();
    }
    transport.flush().is_ok()
}

/// Flushes a value of a custom metric; returns whether it has left.
fn flush_custom(transport: &Transport, second: u64) -> bool {
    transport.begin(Duration::from_secs(second), LIMIT);
    transport.emit("orders:1|d").unwrap();
    transport.flush_custom().is_ok()
}

fn some_lines(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:03}:{}", "x".repeat(96))).collect()
}

fn severities(transport: &Transport) -> Vec<Severity> {
    transport.take_messages().into_iter().map(|message| message.severity).collect()
}

fn udp_receiver() -> (UdpSocket, String) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
    let address = format!("udp://{}", receiver.local_addr().unwrap());
    (receiver, address)
}

fn unix_receiver(path: &Path) -> UnixDatagram {
    let receiver = UnixDatagram::bind(path).unwrap();
    receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
    receiver
}

fn received(mut receive: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> String {
    let mut buffer = vec![0; 70_000];
    let length = receive(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn udp_datagrams_fit_a_frame_and_carry_every_line() {
    let (receiver, address) = udp_receiver();
    let (transport, lines) = (transport(&address), some_lines(40));
    assert!(flush(&transport, 1, &lines));
    let datagrams: Vec<_> = (0..3).map(|_| received(|buffer| receiver.recv(buffer))).collect();
    assert!(datagrams.iter().all(|datagram| datagram.len() <= 1432));
    assert_eq!(datagrams.concat(), lines.join("\n") + "\n");
    let stats = transport.stats();
    assert_eq!((stats.packets_sent, stats.bytes_sent), (3, 40 * 101));
    assert_eq!((stats.packets_dropped, stats.bytes_dropped), (0, 0));
}

#[test]
fn a_unix_datagram_holds_8192_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let receiver = unix_receiver(&path);
    for scheme in ["unix", "unixgram"] {
        let transport = transport(&format!("{scheme}://{}", path.display()));
        assert!(flush(&transport, 1, &some_lines(100)));
        let sizes: Vec<_> = (0..2).map(|_| received(|buffer| receiver.recv(buffer)).len()).collect();
        assert_eq!(sizes, [81 * 101, 19 * 101]);
    }
}

#[test]
fn a_stream_carries_each_payload_behind_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let listener = UnixListener::bind(&path).unwrap();
    for scheme in ["unix", "unixstream"] {
        let transport = transport(&format!("{scheme}://{}", path.display()));
        assert!(flush(&transport, 1, &some_lines(100)));
        assert!(flush(&transport, 2, &some_lines(1)));
        let mut stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        for expected in [81 * 101, 19 * 101, 101] {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            assert_eq!(u32::from_le_bytes(length), expected);
            let mut payload = vec![0; expected as usize];
            stream.read_exact(&mut payload).unwrap();
            assert!(payload.starts_with(b"0") && payload.ends_with(b"x\n"));
        }
    }
}

#[test]
fn a_closed_port_is_logged_once_and_a_receiver_that_comes_back_is_found() {
    let (receiver, address) = udp_receiver();
    let transport = transport(&address);
    assert!(flush(&transport, 1, &some_lines(1)));
    assert_eq!(severities(&transport), []);
    let port = receiver.local_addr().unwrap();
    drop(receiver);
    // The first refusal is known only at the send that follows it.
    let outcomes: Vec<_> = (2..8).map(|second| flush(&transport, second, &some_lines(30))).collect();
    assert_eq!(outcomes, [false; 6]);
    assert_eq!(severities(&transport), [Severity::Warning]);
    // Six times three packets are lost, and none counts as sent that the kernel took and that was then refused.
    let stats = transport.stats();
    assert_eq!((stats.packets_dropped, stats.bytes_dropped), (18, 6 * 30 * 101));
    assert_eq!((stats.packets_sent, stats.bytes_sent), (1, 101));

    let receiver = UdpSocket::bind(port).unwrap();
    receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert!(flush(&transport, 8, &some_lines(1)));
    assert_eq!(received(|buffer| receiver.recv(buffer)), format!("{}\n", some_lines(1)[0]));
    assert!(flush(&transport, 9, &some_lines(1)));
    assert_eq!(severities(&transport), [Severity::Info]);
}

/// A port at which nothing listens, neither over IPv4 nor over IPv6.
fn free_port() -> u16 {
    let claimed = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = claimed.local_addr().unwrap().port();
    UdpSocket::bind(("::1", port)).expect("the port is free on both");
    port
}

fn listening(host: &str, port: u16) -> UdpSocket {
    let receiver = UdpSocket::bind((host, port)).unwrap();
    receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
    receiver
}

#[test]
fn a_name_of_several_addresses_reaches_a_receiver_at_any_of_them() {
    for host in ["::1", "127.0.0.1"] {
        let port = free_port();
        let receiver = listening(host, port);
        let transport = transport(&format!("udp://localhost:{port}"));
        for second in 1..4 {
            assert!(flush(&transport, second, &some_lines(30)));
            let arrived: String = (0..3).map(|_| received(|buffer| receiver.recv(buffer))).collect();
            assert_eq!(arrived, some_lines(30).join("\n") + "\n");
        }
        assert_eq!(transport.status().peer, Some(receiver.local_addr().unwrap()));
        assert_eq!(severities(&transport), []);
        assert_eq!((transport.stats().packets_sent, transport.stats().packets_dropped), (9, 0));
    }
}

#[test]
fn a_receiver_that_moves_to_another_address_of_its_name_is_followed() {
    let port = free_port();
    let transport = transport(&format!("udp://localhost:{port}"));
    for (second, host) in (0..).map(|n| 10 * n).zip(["127.0.0.1", "::1", "127.0.0.1"]) {
        let receiver = listening(host, port);
        // The loss of what was sent before is learnt with the first of these.
        flush(&transport, second, &some_lines(1));
        assert!(flush(&transport, second + 1, &some_lines(1)));
        for _ in 0..2 {
            assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
        }
        drop(receiver);
        assert!(flush(&transport, second + 2, &some_lines(1)), "the refusal is not known yet");
    }
    assert_eq!(transport.stats().packets_dropped, 2);
}

#[test]
fn a_name_refused_at_all_its_addresses_is_one_warning_that_names_them() {
    let port = free_port();
    let transport = transport(&format!("udp://localhost:{port}"));
    let mut peers: Vec<_> = (1..30)
        .map(|second| {
            flush(&transport, second, &some_lines(3));
            transport.status().peer.unwrap().ip().to_string()
        })
        .collect();
    peers.dedup();
    assert_eq!(peers, ["127.0.0.1"]);
    let messages = transport.take_messages();
    let [warning] = messages.as_slice() else { panic!("{messages:?}") };
    assert!(warning.text.contains("localhost is 127.0.0.1 and ::1); will keep trying"), "{}", warning.text);
    // A receiver at the other address is found within a minute.
    let receiver = listening("::1", port);
    flush(&transport, 90, &some_lines(1));
    assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
    assert!(flush(&transport, 91, &some_lines(1)));
}

#[test]
fn a_child_process_begins_with_the_address_that_works() {
    let port = free_port();
    let receiver = listening("::1", port);
    let parent = transport(&format!("udp://localhost:{port}"));
    assert!(flush(&parent, 1, &some_lines(1)));
    let child = transport(&format!("udp://localhost:{port}"));
    child.take_over(&parent.handover());
    let other = listening("127.0.0.1", port);
    assert!(flush(&child, 1, &some_lines(1)));
    assert_eq!(child.status().peer, Some(receiver.local_addr().unwrap()));
    drop((other, receiver));
    // One whose parent was refused everywhere tries all of them for itself.
    for second in [1000, 1010] {
        flush(&parent, second, &some_lines(1));
    }
    let child = transport(&format!("udp://localhost:{port}"));
    child.take_over(&parent.handover());
    let receiver = listening("127.0.0.1", port);
    assert!(flush(&child, 1, &some_lines(1)));
    assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
}

#[test]
fn a_unix_receiver_that_is_restarted_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let transport = transport(&format!("unix://{}", path.display()));
    assert!(!flush(&transport, 1, &some_lines(1)), "it does not exist yet");
    for second in 2..5 {
        let receiver = unix_receiver(&path);
        assert!(flush(&transport, second, &some_lines(1)));
        assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
        drop(receiver);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(severities(&transport), [Severity::Warning, Severity::Info]);
    assert_eq!(transport.stats().packets_dropped, 1);
}

#[test]
fn a_receiver_whose_socket_was_replaced_gets_nothing_more_although_it_still_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    for scheme in ["unix", "unixgram"] {
        let replaced = unix_receiver(&path);
        let transport = transport(&format!("{scheme}://{}", path.display()));
        assert!(flush(&transport, 1, &some_lines(1)));
        fs::remove_file(&path).unwrap();
        let receiver = unix_receiver(&path);
        assert!(flush(&transport, 2, &some_lines(1)));
        assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
        fs::remove_file(&path).unwrap();
        assert!(!flush(&transport, 3, &some_lines(1)), "there is no socket at the path");
        assert_eq!(received(|buffer| replaced.recv(buffer)).len(), 101);
        replaced.set_nonblocking(true).unwrap();
        assert!(replaced.recv(&mut [0]).is_err(), "it has received the first flush alone");
    }
}

#[test]
fn a_stream_to_a_receiver_whose_socket_was_replaced_is_closed_although_it_still_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let replaced = UnixListener::bind(&path).unwrap();
    let transport = transport(&format!("unixstream://{}", path.display()));
    assert!(flush(&transport, 1, &some_lines(1)));
    let mut first = replaced.accept().unwrap().0;
    fs::remove_file(&path).unwrap();
    let receiver = UnixListener::bind(&path).unwrap();
    assert!(flush(&transport, 2, &some_lines(1)));
    let mut frames = Vec::new();
    first.read_to_end(&mut frames).unwrap();
    assert_eq!(frames.len(), 105);
    let mut frame = [0; 105];
    receiver.accept().unwrap().0.read_exact(&mut frame).unwrap();
}

#[test]
fn a_full_queue_drops_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let receiver = unix_receiver(&path);
    let transport = transport(&format!("unix://{}", path.display()));
    let outcomes: Vec<_> = (0..40).map(|second| flush(&transport, second, &some_lines(1))).collect();
    assert!(outcomes[0] && !outcomes[39]);
    let stats = transport.stats();
    assert_eq!(stats.packets_sent + stats.packets_dropped, 40);
    // The connection is kept: what fitted is there, and what is sent next arrives.
    for _ in 0..stats.packets_sent {
        received(|buffer| receiver.recv(buffer));
    }
    assert!(flush(&transport, 41, &some_lines(1)));
    assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
}

#[test]
fn a_receiver_that_reads_gets_more_datagrams_than_its_queue_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let receiver = unix_receiver(&path);
    let transport = transport(&format!("unix://{}", path.display()));
    let lines: Vec<_> = (0..40).map(|n| format!("{n:03}:{}", "x".repeat(8000))).collect();
    let reads = thread::spawn(move || {
        let first = |_| received(|buffer| receiver.recv(buffer))[..3].to_owned();
        (0..80).map(first).collect::<Vec<_>>()
    });
    // However long this machine keeps the reader waiting.
    for second in [1, 2] {
        assert!(flush_within(&transport, second, 100 * TIMEOUT, &lines));
    }
    let expected: Vec<_> = (0..40).chain(0..40).map(|n| format!("{n:03}")).collect();
    assert_eq!(reads.join().unwrap(), expected);
    assert_eq!(transport.stats().packets_dropped, 0);
}

#[test]
fn a_receiver_that_has_stopped_reading_costs_little_time_over_all_flushes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let _receiver = unix_receiver(&path);
    let transport = transport(&format!("unix://{}", path.display()));
    while flush_within(&transport, 1, Duration::ZERO, &some_lines(1)) {}
    let start = Instant::now();
    let flushes: Vec<_> = (0..50).map(|_| flush(&transport, 1, &some_lines(1))).collect();
    assert_eq!(flushes, [false; 50]);
    // The first of them waits for as long as a flush may, and those that follow in the same second do not.
    assert!((LIMIT / 2..10 * LIMIT).contains(&start.elapsed()), "{:?}", start.elapsed());
    let start = Instant::now();
    assert!(!flush(&transport, 11, &some_lines(1)));
    assert!(start.elapsed() >= LIMIT / 2, "ten seconds later it is waited for again: {:?}", start.elapsed());
}

#[test]
fn no_flush_waits_while_it_is_asked_to_hurry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let _receiver = unix_receiver(&path);
    let address = format!("unix://{}", path.display()).parse().unwrap();
    let destination = Destination { address, chosen_by: ChosenBy::Setting("a test") };
    let transport = Transport::new(destination, Clock::start(), Arc::new(true.into()));
    let start = Instant::now();
    while flush_within(&transport, 1, 100 * TIMEOUT, &some_lines(1)) {}
    assert!(start.elapsed() < TIMEOUT);
}

#[test]
fn a_stream_nobody_reads_ends_in_bounded_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let listener = UnixListener::bind(&path).unwrap();
    let transport = transport(&format!("unixstream://{}", path.display()));
    let lines = some_lines(79);
    let mut flushes = 0;
    while flush(&transport, flushes, &lines) {
        flushes += 1;
        assert!(flushes < 1000, "the socket's buffer has no end");
    }
    let start = Instant::now();
    assert!(!flush(&transport, flushes + 1, &some_lines(400)));
    assert!(start.elapsed() < 2 * LIMIT, "all payloads share the limit: {:?}", start.elapsed());
    // Even if a part of a frame was written, what follows it on the next connection is whole.
    let reads = thread::spawn(move || {
        let (mut whole, mut cut) = (0, 0);
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut length = [0; 4];
            while stream.read_exact(&mut length).is_ok() {
                let mut payload = vec![0; u32::from_le_bytes(length) as usize];
                match stream.read_exact(&mut payload) {
                    Ok(()) if payload == b"the end\n" => return (whole, cut),
                    Ok(()) => whole += 1,
                    Err(_) => cut += 1,
                }
            }
        }
        (whole, cut)
    });
    let sent = transport.stats().packets_sent;
    let mut second = flushes + 2;
    while !flush(&transport, second, &["the end".to_owned()]) {
        second += 1;
    }
    let (whole, cut) = reads.join().unwrap();
    assert_eq!(whole, sent);
    assert!(cut <= 2, "{cut}");
}

#[test]
fn a_flush_does_not_wait_for_a_stream_to_be_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut waiting = Vec::new();
    let start = Instant::now();
    // The queue of those that wait to be accepted is as long as the system allows.
    loop {
        let transport = transport(&format!("unixstream://{}", path.display()));
        if !flush(&transport, 1, &some_lines(1)) {
            break;
        }
        waiting.push(transport);
    }
    assert!(!waiting.is_empty());
    assert!(start.elapsed() < TIMEOUT);
}

#[test]
fn the_status_follows_what_happens() {
    let (receiver, address) = udp_receiver();
    let transport = transport(&address);
    let status = transport.status();
    assert_eq!((status.sending, status.peer, status.error), (Sending::Untried, None, None));
    assert!(flush(&transport, 5, &some_lines(2)));
    let status = transport.status();
    assert_eq!(status.sending, Sending::Working);
    assert_eq!(status.peer, Some(receiver.local_addr().unwrap()));
    assert_eq!((status.totals.sent.packets, status.totals.sent.bytes), (1, 202));
    drop(receiver);
    let failed: Vec<_> = (6..9)
        .filter_map(|second| {
            flush(&transport, second, &some_lines(2));
            let status = transport.status();
            (status.sending == Sending::Failing).then_some(status.since)
        })
        .collect();
    assert!(failed.len() > 1 && failed.iter().all(|since| *since == failed[0]), "{failed:?}");
    assert!(failed[0] >= status.since);
    let status = transport.status();
    assert!(status.error.unwrap().starts_with("connection refused (is an Agent listening there,"));
    // The kernel took all four; three of them were refused.
    assert_eq!((status.totals.sent.packets, status.totals.sent.bytes), (1, 202));
    assert_eq!((status.totals.dropped.packets, status.totals.dropped.bytes), (3, 3 * 202));
}

#[test]
fn a_port_where_nothing_listens_is_known_at_the_first_flush() {
    let (receiver, address) = udp_receiver();
    drop(receiver);
    let transport = transport(&address);
    assert!(!flush(&transport, 1, &some_lines(1)));
    assert_eq!(severities(&transport), [Severity::Warning]);
    let totals = transport.status().totals;
    assert_eq!((totals.sent.packets, totals.dropped.packets), (0, 1));
}

#[test]
fn by_default_a_socket_that_appears_while_sending_fails_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    // Nothing listens there: the test claims the port of an Agent for a moment to know that it is free.
    let free = UdpSocket::bind("127.0.0.1:8125");
    let transport = Transport::new(Destination::by_default(&path), Clock::start(), Arc::default());
    drop(free.expect("port 8125 is free on the machine that runs the tests"));
    while flush(&transport, 1, &some_lines(1)) {}
    let receiver = unix_receiver(&path);
    assert!(flush(&transport, 2, &some_lines(1)));
    assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
}

#[test]
fn a_line_longer_than_any_agent_reads_is_refused_and_counted() {
    let (_receiver, address) = udp_receiver();
    let transport = transport(&address);
    assert!(transport.emit(&"x".repeat(8192)).is_err());
    assert_eq!(transport.stats().packets_dropped, 1);
    assert!(transport.flush().is_err());
    assert_eq!(transport.stats().packets_sent, 0, "there is nothing left to send");
    assert!(transport.take_messages()[0].text.contains("larger than this path allows"));
    assert!(transport.flush().is_ok());
}

#[test]
fn a_name_is_looked_up_by_the_caller_and_never_in_a_flush() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
    let port = receiver.local_addr().unwrap().port();
    // Not a number for us, and a name that the system's resolver knows without asking a server.
    let transport = transport(&format!("udp://127.1:{port}"));
    let look_up = transport.due_look_up(Duration::ZERO).expect("it is due at once");
    assert!(transport.due_look_up(Duration::from_mins(9)).is_none(), "it is being looked up");
    assert!(!flush(&transport, 1, &some_lines(1)), "nothing is known yet");
    let warning = transport.take_messages().remove(0);
    assert!(warning.text.contains("the name 127.1 has not been resolved"), "{}", warning.text);
    look_up.run();
    drop(look_up);
    assert!(flush(&transport, 2, &some_lines(1)));
    assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
    assert!(transport.due_look_up(Duration::from_secs(59)).is_none());
    assert!(transport.due_look_up(Duration::from_mins(1)).is_some());
}

#[test]
fn an_unknown_name_is_a_warning_that_names_it() {
    let transport = transport("udp://no-such-host.invalid:8125");
    transport.due_look_up(Duration::ZERO).unwrap().run();
    assert!(!flush(&transport, 1, &some_lines(2)));
    assert!(!flush(&transport, 2, &some_lines(2)));
    let messages = transport.take_messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].severity, Severity::Warning);
    assert!(messages[0].text.contains("no-such-host.invalid"));
    // Often at first, later less often.
    let due = |milliseconds| transport.due_look_up(Duration::from_millis(milliseconds)).is_some();
    let seconds: Vec<_> = (1..=3000).filter(|tenth| due(tenth * 100)).map(|tenth| tenth / 10).collect();
    assert_eq!(seconds, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
}

#[test]
fn a_loss_of_custom_metrics_is_logged_with_the_next_scheduled_flush() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let transport = transport(&format!("unixgram://{}", path.display()));
    assert!((0..1000).all(|_| !flush_custom(&transport, 1)), "there is no receiver");
    assert_eq!(transport.stats().packets_dropped, 1000);
    assert_eq!(severities(&transport), []);
    let receiver = unix_receiver(&path);
    assert!(flush(&transport, 2, &some_lines(1)), "it has left itself");
    assert_eq!(severities(&transport), [Severity::Warning]);
    assert!(flush_custom(&transport, 3) && flush(&transport, 3, &some_lines(1)));
    let info = transport.take_messages().remove(0);
    assert!(info.text.ends_with("works again after 1 s; 1000 packets were lost"), "{}", info.text);
    drop(receiver);
}

#[test]
fn a_report_lost_before_a_custom_metric_is_sent_again() {
    let (receiver, address) = udp_receiver();
    let mut emitter = Emitter::new(transport(&address), Tags::default(), WireType::Distribution);
    emitter = emitter.with_client_telemetry();
    let sample = Sample { metric: &CATALOGUE[0], member: Member::Only, value: Value::Whole(1) };
    let second = Duration::from_secs;
    assert!(emitter.send(vec![sample; 5], second(0), LIMIT));
    assert_eq!(reported_metrics(&receiver), 0);
    let port = receiver.local_addr().unwrap();
    drop(receiver);
    assert!(emitter.send([], second(1), LIMIT), "its report of five is refused, as the next datagram learns");
    let orders = Distribution::new("orders", 1.0, None, Vec::new(), Duration::ZERO).unwrap();
    emitter.distribute(&orders, &Tags::default(), second(2), LIMIT);
    let receiver = UdpSocket::bind(port).unwrap();
    receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
    emitter.distribute(&orders, &Tags::default(), second(3), LIMIT);
    assert_eq!(received(|buffer| receiver.recv(buffer)), "orders:1|d\n");
    let reported = [4, 5, 6].map(|at| {
        emitter.send([], second(at), LIMIT);
        reported_metrics(&receiver)
    });
    assert_eq!(reported, [0, 5, 0]);
}

/// How many samples the next report says have been written.
fn reported_metrics(receiver: &UdpSocket) -> u64 {
    let payload = received(|buffer| receiver.recv(buffer));
    let count = payload.lines().find_map(|line| line.strip_prefix("datadog.dogstatsd.client.metrics:"));
    count.and_then(|line| line.split('|').next()).expect("a report").parse().unwrap()
}
