//! The sink on real sockets: what arrives, what is counted as lost, and what is said about it.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

use cadence::MetricSink;
use runtime_metrics::emitter::address::{ChosenBy, Destination};
use runtime_metrics::emitter::origin::Ending;
use runtime_metrics::emitter::transport::Transport;
use runtime_metrics::message::Severity;

const PATIENCE: Duration = Duration::from_secs(10);

fn transport(address: &str) -> Transport {
    let address = address.parse().unwrap();
    Transport::new(Destination { address, chosen_by: ChosenBy::Setting("a test") }, Ending::default())
}

/// Flushes these lines at a second; says whether everything has left.
fn flush(transport: &Transport, second: u64, lines: &[String]) -> bool {
    transport.prepare(Duration::from_secs(second));
    for line in lines {
        transport.emit(line).unwrap();
    }
    transport.flush().is_ok()
}

fn some_lines(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:03}:{}", "x".repeat(96))).collect()
}

fn severities(transport: &Transport) -> Vec<Severity> {
    transport.take_messages().into_iter().map(|message| message.severity).collect()
}

fn udp_receiver() -> (UdpSocket, String) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("udp://{}", receiver.local_addr().unwrap());
    (receiver, address)
}

fn unix_receiver(path: &Path) -> UnixDatagram {
    let receiver = UnixDatagram::bind(path).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
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
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
fn a_closed_port_is_said_once_and_a_receiver_that_comes_back_is_found() {
    let (receiver, address) = udp_receiver();
    let transport = transport(&address);
    assert!(flush(&transport, 1, &some_lines(1)));
    assert_eq!(severities(&transport), [Severity::Debug]);
    let port = receiver.local_addr().unwrap();
    drop(receiver);
    // The first refusal is known only at the send that follows it.
    let outcomes: Vec<_> = (2..8).map(|second| flush(&transport, second, &some_lines(30))).collect();
    assert_eq!(outcomes, [false; 6]);
    assert_eq!(severities(&transport), [Severity::Warning]);
    let lost = transport.stats().packets_dropped;
    assert!(lost >= 6, "{lost}");

    let receiver = UdpSocket::bind(port).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    flush(&transport, 8, &some_lines(1));
    assert_eq!(received(|buffer| receiver.recv(buffer)), format!("{}\n", some_lines(1)[0]));
    assert!(flush(&transport, 9, &some_lines(1)));
    assert_eq!(severities(&transport), [Severity::Info]);
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
fn a_full_queue_drops_counts_and_never_waits() {
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
fn a_stream_nobody_reads_ends_in_bounded_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    let listener = UnixListener::bind(&path).unwrap();
    let transport = transport(&format!("unixstream://{}", path.display()));
    let start = std::time::Instant::now();
    let lines = some_lines(79);
    let mut flushes = 0;
    while flush(&transport, flushes, &lines) {
        flushes += 1;
        assert!(flushes < 1000, "the socket's buffer has no end");
    }
    assert!(start.elapsed() < PATIENCE);
    // The half frame's connection is gone; a new one carries a whole frame.
    let mut half = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut half).unwrap();
    assert!(half.len() as u64 >= flushes * (4 + 79 * 101));
    assert!(flush(&transport, flushes + 1, &some_lines(1)));
    let mut length = [0; 4];
    listener.accept().unwrap().0.read_exact(&mut length).unwrap();
    assert_eq!(u32::from_le_bytes(length), 101);
}

#[test]
fn by_default_a_socket_that_appears_while_sending_fails_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.socket");
    // Nothing listens there: the test claims the port of an Agent for a moment to know that it is free.
    let free = UdpSocket::bind("127.0.0.1:8125");
    let transport = Transport::new(Destination::by_default(&path), Ending::default());
    drop(free.expect("port 8125 is free on the machine that runs the tests"));
    while flush(&transport, 1, &some_lines(1)) {}
    let receiver = unix_receiver(&path);
    assert!(flush(&transport, 2, &some_lines(1)));
    assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
}

#[test]
fn a_line_no_agent_would_read_is_refused_and_counted() {
    let (_receiver, address) = udp_receiver();
    let transport = transport(&address);
    assert!(transport.emit(&"x".repeat(8192)).is_err());
    assert_eq!(transport.stats().packets_dropped, 1);
    assert!(transport.flush().is_ok(), "there is nothing left to send");
    assert_eq!(transport.stats().packets_sent, 0);
}

#[test]
fn a_name_is_looked_up_by_whoever_asks_for_it_and_never_in_a_flush() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = receiver.local_addr().unwrap().port();
    // A name to us, and one that the system's resolver knows without asking anybody.
    let transport = transport(&format!("udp://127.1:{port}"));
    let host = transport.due_look_up(Duration::ZERO).expect("it is due at once");
    assert!(transport.due_look_up(Duration::from_secs(1)).is_none(), "it was just asked for");
    assert!(!flush(&transport, 1, &some_lines(1)), "nothing is known yet");
    let warning = transport.take_messages().remove(0);
    assert!(warning.text.contains("the name 127.1 has not been resolved"), "{}", warning.text);
    host.look_up();
    assert!(flush(&transport, 2, &some_lines(1)));
    assert_eq!(received(|buffer| receiver.recv(buffer)).len(), 101);
    assert!(transport.due_look_up(Duration::from_secs(599)).is_none());
    assert!(transport.due_look_up(Duration::from_mins(10)).is_some());
}

#[test]
fn an_unknown_name_is_a_warning_that_names_it() {
    let transport = transport("udp://no-such-host.invalid:8125");
    transport.due_look_up(Duration::ZERO).unwrap().look_up();
    assert!(!flush(&transport, 1, &some_lines(2)));
    assert!(!flush(&transport, 2, &some_lines(2)));
    let messages = transport.take_messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].severity, Severity::Warning);
    assert!(messages[0].text.contains("no-such-host.invalid"));
    assert!(transport.due_look_up(Duration::from_secs(59)).is_none());
    assert!(transport.due_look_up(Duration::from_mins(1)).is_some(), "sooner while sending fails");
}
