//! The container that this process runs in, according to Linux.
//!
//! Given neither an id nor an inode, an Agent adds no tags; given a wrong one, it adds those of another pod. So
//! anything doubtful is left out.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc::{EMFILE, ENFILE};

use crate::descriptor::Guarded;

/// The most that one read of a file in `/proc` returns.
const PAGE: usize = 4096;

/// The most that is read of a file: on a machine with thousands of mounts the list takes a megabyte.
const MAX_FILE_LENGTH: usize = 64 * PAGE;

/// The link `/proc/self/ns/cgroup` of processes in the host's cgroup namespace; the kernel gives it this fixed number.
const HOST_NAMESPACE: &str = "cgroup:[4026531835]";

/// Directories whose entries look like container ids but are not: containerd's sandboxes, the kubelet's pods, Docker's
/// volumes.
const NOT_OF_CONTAINERS: [&str; 3] = ["sandboxes", "pods", "volumes"];

/// The digits of the number in an id of ECS, which fits 64 bits.
const MAX_DIGITS: usize = 20;

/// Inodes up to this one are those of the roots of file systems, which identify nothing.
const LAST_RESERVED_INODE: u64 = 2;

/// The container's id or, where it is not visible, `in-` and the inode of its cgroup.
///
/// # Errors
///
/// If no descriptor is left to look with.
pub fn local_data(root: &Path) -> io::Result<Option<String>> {
    let cgroups = read(&root.join("proc/self/cgroup"))?;
    let is_sendable = |id: &&str| !id.contains('_');
    if let Some(id) = id_in_cgroups(&cgroups).filter(is_sendable) {
        return Ok(Some(id.to_owned()));
    }
    let mounts = read(&root.join("proc/self/mountinfo"))?;
    let id = id_in_mounts(&mounts).filter(is_sendable).map(str::to_owned);
    Ok(id.or_else(|| Some(format!("in-{}", cgroup_inode(root, &cgroups)?))))
}

/// The whole lines at the beginning of a file; nothing if it is not to be read.
fn read(path: &Path) -> io::Result<String> {
    let opened = Guarded::open(|| File::open(path));
    if let Err(error) = &opened
        && matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
    {
        return Err(error.kind().into());
    }
    let Ok(file) = opened else { return Ok(String::new()) };
    let (mut bytes, mut page) = (Vec::new(), [0; PAGE]);
    while let Ok(length @ 1..) = (&*file).read(&mut page) {
        bytes.extend_from_slice(&page[..length]);
        if bytes.len() >= MAX_FILE_LENGTH {
            // A line that is cut off could end in another word.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
            bytes.truncate(whole);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first id that a cgroup's path ends with.
fn id_in_cgroups(cgroups: &str) -> Option<&str> {
    hierarchies(cgroups).find_map(|(_, path)| id_at_end(path.strip_suffix(".scope").unwrap_or(path)))
}

/// The controllers and the path of every line `number:controllers:path`.
pub(super) fn hierarchies(cgroups: &str) -> impl Iterator<Item = (&str, &str)> {
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
        return task.bytes().all(is_hex) && is_number && (1..=MAX_DIGITS).contains(&number.len());
    }
    let lengths = || text.as_bytes().split(is_separator).map(<[u8]>::len);
    text.bytes().all(|byte| is_hex(byte) || is_separator(&byte))
        && FORMS.iter().any(|form| lengths().eq(form.iter().copied()))
}

/// The id in the path of the file that the container's runtime has mounted as `/etc/hostname`.
///
/// Other mounts are not trusted: a privileged container may see those of its neighbours.
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

/// The inode of our cgroup, by which the Agent finds it; not in the host's namespace, where our cgroup may be any.
fn cgroup_inode(root: &Path, cgroups: &str) -> Option<u64> {
    // Without namespaces every process is in the host's.
    let namespace = fs::read_link(root.join("proc/self/ns/cgroup")).ok()?;
    if namespace.as_os_str() == HOST_NAMESPACE {
        return None;
    }
    // The hierarchy of version 1 that every container has, then the one of version 2.
    ["memory", ""].into_iter().find_map(|controller| {
        let (_, path) = hierarchies(cgroups).find(|(controllers, _)| *controllers == controller)?;
        // Outside the namespace's root: following it would leave the file system of cgroups.
        if path.split('/').any(|name| name == "..") {
            return None;
        }
        let directory = root.join("sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'));
        let inode = fs::metadata(directory).ok()?.ino();
        (inode > LAST_RESERVED_INODE).then_some(inode)
    })
}
