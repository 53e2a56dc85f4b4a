//! The container that this process runs in, as Linux tells it.
//!
//! An Agent that is given neither an id nor an inode finds nothing; one that is given a wrong one tags with somebody
//! else's pod. So what is in doubt is left out.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The most that the kernel gives at once of a file in `/proc`.
const PAGE: usize = 4096;

/// No more is read of a file: a machine with thousands of mounts has a list of a megabyte.
const LONGEST_FILE: usize = 64 * PAGE;

/// The link `/proc/self/ns/cgroup` of whoever shares the host's view of cgroups; the kernel never gives another.
const HOST_NAMESPACE: &str = "cgroup:[4026531835]";

/// Directories whose entries are named like containers: containerd's pod-level containers, the kubelet's pods and
/// Docker's volumes.
const NOT_OF_CONTAINERS: [&str; 3] = ["sandboxes", "pods", "volumes"];

/// The number in an id of ECS fits 64 bits.
const LONGEST_NUMBER: usize = 20;

/// Up to here the inode is that of a file system's root, which says nothing.
const LAST_RESERVED_INODE: u64 = 2;

/// The container's id or, where none is to be seen, `in-` and the inode of its cgroup.
pub fn local_data(root: &Path) -> Option<String> {
    let cgroups = read(&root.join("proc/self/cgroup"));
    let is_sendable = |id: &&str| !id.contains('_');
    let id = id_in_cgroups(&cgroups).filter(is_sendable).map(str::to_owned);
    let id = id.or_else(|| {
        let mounts = read(&root.join("proc/self/mountinfo"));
        id_in_mounts(&mounts).filter(is_sendable).map(str::to_owned)
    });
    id.or_else(|| Some(format!("in-{}", cgroup_inode(root, &cgroups)?)))
}

/// The whole lines at the beginning of a file; nothing if it cannot be read.
fn read(path: &Path) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    let (mut bytes, mut page) = (Vec::new(), [0; PAGE]);
    while let Ok(length @ 1..) = file.read(&mut page) {
        bytes.extend_from_slice(&page[..length]);
        if bytes.len() >= LONGEST_FILE {
            // The rest of the last line could make another word of its end.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
            bytes.truncate(whole);
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first id that a cgroup's path ends with.
fn id_in_cgroups(cgroups: &str) -> Option<&str> {
    hierarchies(cgroups).find_map(|(_, path)| id_at_end(path.strip_suffix(".scope").unwrap_or(path)))
}

/// The controllers and the path of every line `number:controllers:path`.
fn hierarchies(cgroups: &str) -> impl Iterator<Item = (&str, &str)> {
    cgroups.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        rest.split_once(':').filter(|(_, path)| is_number && path.starts_with('/'))
    })
}

/// The id that a path ends with, as a word of its own: `docker-<id>` has one, `9<id>` does not.
fn id_at_end(path: &str) -> Option<&str> {
    let digits = path.bytes().rev().take_while(u8::is_ascii_digit).count();
    let of_ecs = 32 + 1 + digits;
    [64, of_ecs, 36, 28].into_iter().find_map(|length| {
        let (before, id) = path.split_at_checked(path.len().checked_sub(length)?)?;
        (is_id(id) && !before.ends_with(char::is_alphanumeric)).then_some(id)
    })
}

/// Whether a text has the form of a container's id: 64 hex digits, 32 and a number (ECS), a UUID, or a UUID that ends
/// early (Cloud Foundry).
fn is_id(text: &str) -> bool {
    const FORMS: [&[usize]; 3] = [&[64], &[8, 4, 4, 4, 12], &[8, 4, 4, 4, 4]];
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_separator = |byte: &u8| matches!(byte, b'-' | b'_');
    if let Some((task, number)) = text.split_once('-')
        && task.len() == 32
    {
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        return task.bytes().all(is_hex) && is_number && (1..=LONGEST_NUMBER).contains(&number.len());
    }
    let lengths = || text.as_bytes().split(is_separator).map(<[u8]>::len);
    text.bytes().all(|byte| is_hex(byte) || is_separator(&byte))
        && FORMS.iter().any(|form| lengths().eq(form.iter().copied()))
}

/// The id in the path of the file that the container's runtime has mounted as `/etc/hostname`.
///
/// Of other mounts nothing is believed: a privileged container may see those of its neighbours.
fn id_in_mounts(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (file, mounted_at) = (fields.next()?, fields.next()?);
        let (folder, name) = file.rsplit_once('/')?;
        if mounted_at != "/etc/hostname" || !name.ends_with("hostname") {
            return None;
        }
        let mut names = folder.rsplit('/').skip_while(|name| !is_id(name));
        let (id, parent) = (names.next()?, names.next()?);
        (!parent.is_empty() && !NOT_OF_CONTAINERS.contains(&parent)).then_some(id)
    })
}

/// The inode of our cgroup, by which the Agent knows it; not where the host's view is ours, and our cgroup anyone's.
fn cgroup_inode(root: &Path, cgroups: &str) -> Option<u64> {
    // Without namespaces everybody has the host's view.
    let namespace = fs::read_link(root.join("proc/self/ns/cgroup")).ok()?;
    if namespace.as_os_str() == HOST_NAMESPACE {
        return None;
    }
    // The hierarchy of version 1 that every container has, then the one of version 2.
    ["memory", ""].into_iter().find_map(|controller| {
        let (_, path) = hierarchies(cgroups).find(|(controllers, _)| *controllers == controller)?;
        // Outside the namespace's root; to follow it would lead out of the file system of cgroups.
        if path.split('/').any(|name| name == "..") {
            return None;
        }
        let directory = root.join("sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'));
        let inode = fs::metadata(directory).ok()?.ino();
        (inode > LAST_RESERVED_INODE).then_some(inode)
    })
}
