//! The origin fields of lines: captured and made-up trees of `/proc`, a real namespace, and what arrives at a socket.
#![cfg(target_os = "linux")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use runtime_metrics::catalogue::CATALOGUE;
use runtime_metrics::catalogue::metric::{Member, Metric, Sample, Value, Wire, WireType};
use runtime_metrics::clock::Clock;
use runtime_metrics::collector::{Answer, Collector, Interpreter};
use runtime_metrics::emitter::address::{ChosenBy, Destination};
use runtime_metrics::emitter::origin::Origin;
use runtime_metrics::emitter::{Distribution, Emitter, Transport, max_tag_bytes};
use runtime_metrics::identity::{IdentityInputs, Runtime};
use runtime_metrics::message::Message;
use runtime_metrics::settings::variables::{Environment, Variable};
use runtime_metrics::settings::{Arguments, ServiceArguments, Settings, Surroundings};
use runtime_metrics::sources::{Counters, container};
use tempfile::TempDir;

/// The container of every tree that has one.
const ID: &str = "3f1c9a70d2b84e65901fbc37ae52d8c4617e0b9385acf2d146708be9c35fa21d";
const TASK: &str = "6b0f2d18c7e94a53b1d80e6fa2c97435-2531612879";
const GARDEN: &str = "6a4e1f90-38c2-4d7b-5e16-09fc";
const GARDEN_UUID: &str = "6a4e1f90-38c2-4d7b-5e16-09fc7be2d541";

const HOST: Option<&str> = Some("cgroup:[4026531835]");
const OWN: Option<&str> = Some("cgroup:[4026532178]");

fn detecting() -> Origin {
    Origin { detect: true, ..Origin::default() }
}

/// No Agent's socket and no extension.
fn alone() -> Surroundings<'static> {
    Surroundings { default_socket: Path::new("/nowhere"), has_default_socket: false, has_extension: false }
}

fn fields(root: &Path) -> String {
    fields_of(&detecting(), root)
}

fn fields_of(origin: &Origin, root: &Path) -> String {
    origin.fields(|| container::local_data(root).unwrap())
}

/// What is expected of a tree.
enum Found {
    Nothing,
    Id(&'static str),
    /// The inode of this directory below `sys/fs/cgroup`, which is there.
    Inode(&'static str),
}

/// A root with these two files, a namespace, and a directory for every cgroup; git keeps neither links nor empty
/// directories.
fn tree(cgroup: &[u8], mountinfo: &[u8], namespace: Option<&str>) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("proc/self");
    fs::create_dir_all(process.join("ns")).unwrap();
    fs::write(process.join("cgroup"), cgroup).unwrap();
    fs::write(process.join("mountinfo"), mountinfo).unwrap();
    if let Some(namespace) = namespace {
        symlink(namespace, process.join("ns/cgroup")).unwrap();
    }
    root
}

fn inode(root: &Path, cgroup: &str) -> u64 {
    fs::metadata(root.join("sys/fs/cgroup").join(cgroup)).unwrap().ino()
}

#[test]
fn every_captured_tree_gives_its_container_or_nothing() {
    use Found::{Id, Inode, Nothing};
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cgroup");
    let cases = [
        ("docker-v1", HOST, Id(ID)),
        ("docker-v1-own-namespace", OWN, Inode("memory")),
        ("docker-v2", HOST, Id(ID)),
        ("docker-v2-own-namespace", OWN, Id(ID)),
        ("docker-hybrid", HOST, Id(ID)),
        ("hybrid-own-namespace", OWN, Inode("memory/jobs")),
        ("docker-in-docker", OWN, Id(ID)),
        ("docker-in-docker-own-namespace", OWN, Id(ID)),
        ("kubernetes-in-docker", OWN, Inode("")),
        ("kubernetes-v1", HOST, Id(ID)),
        ("kubernetes-v1-systemd", HOST, Id(ID)),
        ("kubernetes-v1-colon", HOST, Id(ID)),
        ("kubernetes-v2", OWN, Inode("")),
        ("kubernetes-v2-host-namespace", HOST, Id(ID)),
        ("kubernetes-pod-cgroup", HOST, Nothing),
        ("ecs", HOST, Id(ID)),
        ("fargate", HOST, Id(TASK)),
        ("fargate-1.3", HOST, Id(ID)),
        ("cloud-foundry", HOST, Id(GARDEN)),
        ("cloud-foundry-uuid", HOST, Id(GARDEN_UUID)),
        ("podman", HOST, Id(ID)),
        ("podman-nested-cgroup", HOST, Id(ID)),
        ("podman-own-namespace", OWN, Id(ID)),
        ("podman-rootless", HOST, Id(ID)),
        ("host", HOST, Nothing),
        ("host-service", HOST, Nothing),
        ("host-without-namespaces", None, Nothing),
        ("lxc", OWN, Inode("init.scope")),
        ("beside-its-neighbours", OWN, Inode("")),
        ("underscores", OWN, Inode("jobs/8d3f2b61_4c0e_4f7a_9b15_e2a6c7d90f38")),
        ("short-id", HOST, Nothing),
        ("outside-its-namespace", OWN, Nothing),
        ("no-memory-controller", OWN, Nothing),
        ("look-alikes", HOST, Nothing),
    ];
    assert_eq!(cases.len(), fs::read_dir(&fixtures).unwrap().count(), "every tree is a case");
    for (case, namespace, found) in cases {
        let captured = |file: &str| fs::read(fixtures.join(case).join("proc/self").join(file)).unwrap();
        let tree = tree(&captured("cgroup"), &captured("mountinfo"), namespace);
        // Directories that must not be reported exist.
        for cgroup in ["memory/jobs", "memory/system.slice/web.service", "cpu/jobs", "jobs", "user.slice"] {
            fs::create_dir_all(tree.path().join("sys/fs/cgroup").join(cgroup)).unwrap();
        }
        let expected = match found {
            Nothing => String::new(),
            Id(id) => format!("|c:{id}"),
            Inode(cgroup) => {
                fs::create_dir_all(tree.path().join("sys/fs/cgroup").join(cgroup)).unwrap();
                format!("|c:in-{}", inode(tree.path(), cgroup))
            }
        };
        assert_eq!(fields(tree.path()), expected, "{case}");
    }
}

#[test]
fn an_inode_that_belongs_to_a_file_system_s_root_is_not_sent() {
    let tree = tree(b"0::/\n", b"", OWN);
    fs::create_dir_all(tree.path().join("sys/fs")).unwrap();
    symlink("/proc", tree.path().join("sys/fs/cgroup")).unwrap();
    assert_eq!(inode(tree.path(), ""), 1);
    assert_eq!(fields(tree.path()), "");
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(fields(empty.path()), "", "no /proc");
    assert_eq!(fields(tree(b"", b"", OWN).path()), "", "empty files");
    assert_eq!(
        fields(tree(b"\0\xff\n:::\n\n0:", b"\0 \0 \0 \xff\n      \n", OWN).path()),
        "",
        "binary files"
    );
    let directories = tempfile::tempdir().unwrap();
    for file in ["cgroup", "mountinfo", "ns/cgroup"] {
        fs::create_dir_all(directories.path().join("proc/self").join(file)).unwrap();
    }
    assert_eq!(fields(directories.path()), "", "no files at all");
    // A root that reads everything needs another obstacle than a file's mode.
    let circle = tempfile::tempdir().unwrap();
    fs::create_dir_all(circle.path().join("proc/self/ns")).unwrap();
    for file in ["cgroup", "mountinfo"] {
        symlink(file, circle.path().join("proc/self").join(file)).unwrap();
    }
    assert_eq!(fields(circle.path()), "", "files that do not open");
}

#[test]
fn if_one_file_cannot_be_read_the_other_is() {
    let mount = format!("1 2 8:1 /containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n");
    let tree = tree(b"\xff\xfe", mount.as_bytes(), HOST);
    assert_eq!(fields(tree.path()), format!("|c:{ID}"));
    fs::remove_file(tree.path().join("proc/self/cgroup")).unwrap();
    assert_eq!(fields(tree.path()), format!("|c:{ID}"));
}

#[test]
fn of_a_long_file_only_whole_lines_at_its_beginning_are_read() {
    let id_line = format!("1:cpu:/docker/{ID}\n");
    let filler = "2:pids:/\n".repeat(120_000);
    assert!(filler.len() > 1 << 20);
    assert_eq!(fields(tree((id_line.clone() + &filler).as_bytes(), b"", HOST).path()), format!("|c:{ID}"));
    assert_eq!(fields(tree((filler + &id_line).as_bytes(), b"", HOST).path()), "");
    // The end of what is read falls behind the id, in the midst of a path.
    let whole = format!("1:cpu:/docker/{ID}/jobs\n");
    let before = (256 << 10) - (whole.len() - "/jobs\n".len());
    let cut = "\n".repeat(before) + &whole + &"2:pids:/\n".repeat(1000);
    assert!(cut[..256 << 10].ends_with(ID));
    assert_eq!(fields(tree(cut.as_bytes(), b"", HOST).path()), "");
    let endless = tree(&vec![b'a'; 1 << 20], &vec![b'/'; 1 << 20], OWN);
    assert_eq!(fields(endless.path()), "");
}

/// A view of ids written after the documents and not after our code.
fn is_id(text: &str) -> bool {
    let hex = |text: &str, length: usize| {
        text.len() == length && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
    };
    let parts: Vec<&str> = text.split('-').collect();
    match parts.as_slice() {
        [container] => hex(container, 64),
        [task, number] => hex(task, 32) && number.parse::<u128>().is_ok() && number.len() <= 20,
        [first, middle @ .., last] if parts.len() == 5 => {
            hex(first, 8) && middle.iter().all(|part| hex(part, 4)) && (hex(last, 4) || hex(last, 12))
        }
        _ => false,
    }
}

/// Ids, and what an id becomes by a slip.
fn almost_an_id() -> impl Strategy<Value = String> {
    let id = prop_oneof![
        "[0-9a-f]{64}",
        "[0-9a-f]{32}-[0-9]{1,22}",
        "[0-9a-f]{8}([-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}",
        "[0-9a-f]{8}(-[0-9a-f]{4}){4}",
    ];
    (
        id,
        "[0-9a-fg/:|,# -]{0,2}",
        "(|[.]scope|[0-9a-f|\\n#, -]{1,3})",
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(id, before, after, at, whole)| {
            let cut = if whole { id.len() } else { at.index(id.len()) };
            before + &id[..cut] + &after
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn no_bytes_make_it_fail_or_forge_a_field(
        cgroup in prop::collection::vec(any::<u8>(), 0..400),
        mountinfo in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        prop_assert_eq!(fields(tree(&cgroup, &mountinfo, OWN).path()), "");
    }

    #[test]
    fn what_is_sent_is_an_id_that_stands_there(
        paths in prop::collection::vec(("(/|/docker/|/a/libpod-|/../|)", almost_an_id()), 0..4),
        roots in prop::collection::vec(("(/|/containers/|/sandboxes/|/a/pods/)", almost_an_id()), 0..3),
    ) {
        let cgroup = paths.iter().map(|(folder, id)| format!("3:cpu:{folder}{id}\n")).collect::<Vec<_>>().concat();
        let mountinfo = roots
            .iter()
            .map(|(folder, id)| format!("1 2 8:1 {folder}{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"))
            .collect::<Vec<_>>()
            .concat();
        let sent = fields(tree(cgroup.as_bytes(), mountinfo.as_bytes(), HOST).path());
        if !sent.is_empty() {
            let id = sent.strip_prefix("|c:").unwrap();
            prop_assert!(is_id(id), "{}", id);
            let mounted = format!("/{id}/");
            prop_assert!(cgroup.contains(id) || mountinfo.contains(&mounted));
        }
    }

    #[test]
    fn an_id_at_the_end_of_a_path_is_found_whatever_stands_before(
        folders in "(/[a-zA-Z0-9 :._-]{1,12}){0,4}/(docker-|libpod-|x:y:)?",
        id in "([0-9a-f]{64}|[0-9a-f]{32}-[0-9]{1,20}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-([0-9a-f]{4}|[0-9a-f]{12}))",
        scope in "([.]scope)?",
        lines in "([0-9]{1,2}:[a-z]{0,4}:/[a-z]{0,9}\n){0,5}",
    ) {
        let cgroup = format!("{lines}7:pids:{folders}{id}{scope}\n{lines}");
        prop_assert_eq!(fields(tree(cgroup.as_bytes(), b"", None).path()), format!("|c:{id}"));
    }

    #[test]
    fn no_variable_can_forge_a_field(external: String, cardinality: String, like in "[a-z0-9,|\n -]{0,20}") {
        for external in [external, like] {
            let environment =
                Environment::from([("DD_EXTERNAL_ENV", external.as_str()), ("DD_CARDINALITY", &cardinality)]);
            let (settings, warnings) =
                Settings::new(&Arguments::default(), &environment, alone()).unwrap();
            let sent = fields_of(&settings.origin, Path::new("/nowhere"));
            let kept = usize::from(settings.origin.external.is_some());
            prop_assert_eq!(sent.matches('|').count(), kept + usize::from(settings.origin.cardinality.is_some()));
            prop_assert!(sent.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "|:,-".contains(c)));
            prop_assert!(sent.len() <= settings.origin.max_length());
            let given = usize::from(!external.is_empty()) + usize::from(!cardinality.is_empty());
            prop_assert_eq!(warnings.len() + kept, given);
        }
    }
}

/// The fields that a child of this program finds in a cgroup namespace of its own, after it has run `prepare`.
fn fields_in_namespace(prepare: &str) -> String {
    let test = std::env::current_exe().unwrap();
    // Where the test itself runs in a container, its runtime tells the id by this mount.
    let script = format!(
        "umount -l /etc/hostname 2>/dev/null; {prepare} && exec \"$0\" --exact --ignored --nocapture {CHILD}"
    );
    let child = Command::new("unshare").args(["-C", "-m", "sh", "-c", &script]).arg(test).output().unwrap();
    let printed = String::from_utf8(child.stdout).unwrap();
    let (_, rest) = printed.split_once("fields=<").unwrap_or_else(|| panic!("{printed} {:?}", child.stderr));
    rest.split_once('>').unwrap().0.to_owned()
}

const CHILD: &str = "shows_its_fields_to_the_test_that_started_it";

#[test]
#[ignore = "the next test runs it, in a namespace"]
fn shows_its_fields_to_the_test_that_started_it() {
    println!("fields=<{}>", fields(Path::new("/")));
}

#[test]
fn in_a_real_namespace_the_inode_is_that_of_the_cgroup_seen_from_outside() {
    let permitted = Command::new("unshare").args(["-C", "-m", "true"]).output();
    if !permitted.is_ok_and(|done| done.status.success()) {
        println!("skipped: this user may not make a cgroup namespace");
        return;
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path_of = |controller: &str| {
        let line = own.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
        line.splitn(3, ':').nth(2).map(|path| path.trim_start_matches('/').to_owned())
    };
    // As a container's runtime does, that the mounts fit the namespace.
    let under = "umount -l /sys/fs/cgroup";
    let (mount, directory) = match path_of("memory") {
        Some(path) => (
            format!("{under}/memory && mount -t cgroup -o memory none /sys/fs/cgroup/memory"),
            format!("memory/{path}"),
        ),
        None => (
            format!("{under} && mount -t cgroup2 none /sys/fs/cgroup"),
            path_of("").expect("a cgroup of version 2"),
        ),
    };
    let inode = inode(Path::new("/"), &directory);
    let expected = if inode > 2 { format!("|c:in-{inode}") } else { String::new() };
    assert_eq!(fields_in_namespace(&mount), expected);
}

type Receive = Box<dyn Fn() -> Option<String>>;

/// The address of a receiver of ours, with the receiver.
fn address(datagram_socket: Option<&Path>) -> (String, Receive) {
    let wait = Some(Duration::from_millis(1));
    let text = |buffer: &[u8]| String::from_utf8(buffer.to_vec()).unwrap();
    if let Some(path) = datagram_socket {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(wait).unwrap();
        let receive = move || {
            let mut buffer = [0; 10_000];
            socket.recv(&mut buffer).ok().map(|length| text(&buffer[..length]))
        };
        (format!("unixgram://{}", path.display()), Box::new(receive))
    } else {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(wait).unwrap();
        let address = format!("udp://{}", socket.local_addr().unwrap());
        let receive = move || {
            let mut buffer = [0; 10_000];
            socket.recv(&mut buffer).ok().map(|length| text(&buffer[..length]))
        };
        (address, Box::new(receive))
    }
}

/// A transport to a receiver of ours, with the receiver.
fn receiver(datagram_socket: Option<&Path>) -> (Transport, Receive) {
    let (address, receive) = address(datagram_socket);
    let chosen_by = ChosenBy::Setting("a test");
    (
        Transport::new(
            Destination { address: address.parse().unwrap(), chosen_by },
            Clock::start(),
            Arc::default(),
        ),
        receive,
    )
}

fn all(receive: &dyn Fn() -> Option<String>) -> String {
    std::iter::from_fn(receive).collect()
}

/// An interpreter that has nothing to say.
struct Silent;

impl Interpreter for Silent {
    fn read(&self, _entered: &dyn Fn()) -> Option<Answer> {
        None
    }

    fn enter(&self, entered: &dyn Fn()) {
        entered();
    }

    fn log(&self, messages: Vec<Message>) -> Vec<Message> {
        messages
    }
}

#[test]
fn the_fields_end_every_line_as_they_were_found_at_the_first_flush() {
    let tree = tree(b"", b"", HOST);
    let (address, receive) = address(None);
    let arguments = Arguments { dogstatsd_url: Some(address), ..Arguments::default() };
    let environment =
        Environment::from([("DD_EXTERNAL_ENV", "it-false,cn-web"), ("DD_CARDINALITY", "orchestrator")]);
    let (settings, _) = Settings::new(&arguments, &environment, alone()).unwrap();
    let inputs = IdentityInputs::default();
    let clock = Clock::start();
    let collector =
        Collector::new(tree.path(), clock, Counters::default(), &settings, inputs, Arc::new(Silent), None);
    let cgroup = tree.path().join("proc/self/cgroup");
    // After the start, before the first line.
    fs::write(&cgroup, format!("0::/docker/{ID}\n")).unwrap();
    let fields = format!("|c:{ID}|e:it-false,cn-web|card:orchestrator");
    for _ in 0..2 {
        assert!(collector.flush(None).everything_sent);
        fs::write(&cgroup, "").unwrap();
        let sent = all(&receive);
        assert!(sent.lines().count() >= 2 && sent.lines().all(|line| line.ends_with(&fields)), "{sent}");
    }
    let orders = Distribution::new("orders", 1.0, None, Vec::new(), Duration::ZERO).unwrap();
    collector.send_custom(&orders);
    assert!(all(&receive).ends_with(&format!("{fields}\n")));
}

/// The rows whose type the settings choose.
fn rows() -> impl Iterator<Item = &'static Metric> {
    CATALOGUE.iter().filter(|metric| metric.wire == Wire::Chosen)
}

#[test]
fn without_detection_lines_have_no_fields_but_a_cardinality_that_was_set() {
    let tree = tree(format!("0::/docker/{ID}\n").as_bytes(), b"", HOST);
    let lines = |variables: &[(&str, &str)]| {
        let environment = Environment::read(Variable::all(), |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        });
        let (settings, _) = Settings::new(&Arguments::default(), &environment, alone()).unwrap();
        let (transport, receive) = receiver(None);
        let mut emitter = Emitter::new(transport, ["a:b"].into_iter().collect(), WireType::Distribution);
        emitter.set_suffix(fields_of(&settings.origin, tree.path()));
        let samples = rows().map(|metric| Sample { metric, member: Member::Only, value: Value::Whole(1) });
        assert!(emitter.emit(samples));
        all(&receive)
    };
    let plain: Vec<_> = rows().map(|metric| format!("{}:1|d|#a:b\n", metric.name)).collect();
    let plain = plain.concat();
    let off = ("DD_ORIGIN_DETECTION_ENABLED", "false");
    let external = ("DD_EXTERNAL_ENV", "it-false");
    assert_eq!(lines(&[off]), plain);
    assert_eq!(lines(&[off, external]), plain);
    let with = |fields: &str| plain.replace("|#a:b\n", &format!("|#a:b{fields}\n"));
    assert_eq!(lines(&[external]), with(&format!("|c:{ID}|e:it-false")));
    assert_eq!(lines(&[off, external, ("DD_CARDINALITY", "HIGH")]), with("|card:high"));
}

fn any_origin() -> impl Strategy<Value = Origin> {
    let external = prop::option::of("([a-z0-9,-]{1,40}|[a-z0-9,-]{512})");
    let level = prop::sample::select(vec!["none", "low", "orchestrator", "high", ""]);
    (any::<bool>(), external, level).prop_map(|(detect, external, level)| Origin {
        detect,
        external: external.and_then(|text| text.parse().ok()),
        cardinality: level.parse().ok(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_line_is_whole_or_not_sent_however_many_tags_there_are(
        tags in prop::collection::vec("[a-z]{1,8}:[a-zé,| ]{0,190}", 0..200),
        origin in any_origin(),
        values in prop::collection::vec(prop_oneof![
            any::<u64>().prop_map(Value::Whole),
            any::<f64>().prop_map(|real| Value::Real(if real.is_finite() { real.abs() } else { f64::MAX })),
        ], 4),
        over_udp: bool,
    ) {
        let folder = tree(format!("0::/docker/{ID}\n").as_bytes(), b"", HOST);
        let inputs = IdentityInputs {
            arguments: ServiceArguments { tags: Some(tags), ..ServiceArguments::default() },
            runtime: Runtime { implementation: "CPython".into(), version: "3.13.1".into(), ..Runtime::default() },
            max_tag_bytes: Some(max_tag_bytes(origin.max_length())),
            ..IdentityInputs::default()
        };
        let identity = inputs.identity();
        prop_assert_eq!(identity.warning().is_some(), identity.dropped_tags > 0);
        let fields = fields_of(&origin, folder.path());
        let end = format!("|d|#{}{fields}", identity.tags);

        let socket = (!over_udp).then(|| folder.path().join("dsd.socket"));
        let target = if over_udp { 1432 } else { 8192 };
        let (transport, receive) = receiver(socket.as_deref());
        let mut emitter = Emitter::new(transport, identity.tags, WireType::Distribution);
        emitter.set_suffix(fields);
        let samples = values
            .iter()
            .zip(&CATALOGUE)
            .map(|(value, metric)| Sample { metric, member: Member::Only, value: value.clone() });
        prop_assert!(emitter.emit(samples), "everything has left");

        let mut lines = 0;
        for payload in std::iter::from_fn(&receive) {
            let text = payload.strip_suffix('\n').expect("whole lines");
            let count = text.lines().count();
            prop_assert!(payload.len() <= target || (count == 1 && payload.len() <= 8192));
            for line in text.lines() {
                let (name, _) = line.strip_suffix(&end).expect("all tags and fields").split_once(':').unwrap();
                prop_assert_eq!(name, CATALOGUE[lines].name);
                lines += 1;
            }
        }
        prop_assert_eq!(lines, values.len());
    }
}
