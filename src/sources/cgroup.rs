//! The limits of the control groups that the process is in, and how close it is to them, of version 1 and 2.
//!
//! A limit of any visible ancestor holds as well. In a container only its own groups are visible, so the root of the
//! mounted file system is one of them.

use std::array;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::container::hierarchies;
use super::kernel_file;
use crate::snapshot::{CgroupFacts, CpuPeriods, LimitedMemory, LimitedTasks, Pressure, Source, SourceSet};

const ROOT: &str = "sys/fs/cgroup";

/// The time between two searches for the groups that the process is in and that have something to read. What they have
/// is read each time.
const PERIOD: Duration = Duration::from_mins(1);

/// The sources whose groups are searched for only where they are needed.
const ON_DEMAND: [Source; 2] = [Source::CgroupTasks, Source::Pressure];

/// The groups that have something to read, the process's own first.
#[derive(Debug, Default)]
pub struct Cgroups {
    /// When they were searched for.
    searched: Option<Duration>,
    /// What was needed then.
    needed: SourceSet,
    /// Those with a quota of CPU time.
    cpu: Vec<Group>,
    /// Those with a limit of memory.
    memory: Vec<Group>,
    /// The first that counts kills.
    kills: Option<Group>,
    /// Those with a limit of processes and threads, where that is needed.
    tasks: Vec<Group>,
    /// The process's own, where what it waits for is needed.
    pressure: Option<Group>,
}

impl Cgroups {
    /// Reads the facts at `now`, below `root`, which is `/` except in tests.
    #[must_use]
    pub fn read(&mut self, now: Duration, root: &Path, needed: SourceSet) -> CgroupFacts {
        // What another group has counted is no growth of these.
        let mut is_new = [false; 3];
        let is_due = self.searched.is_none_or(|searched| now.saturating_sub(searched) >= PERIOD);
        let is_lacking = |source: &Source| needed.contains(*source) && !self.needed.contains(*source);
        if is_due || ON_DEMAND.iter().any(is_lacking) {
            let before = self.counting().map(Option::<&Group>::cloned);
            self.find(root, needed);
            is_new =
                array::from_fn(|at| self.searched.is_some() && self.counting()[at] != before[at].as_ref());
            self.searched = Some(now);
            self.needed = needed;
        }
        let [cpu, memory, kills] = array::from_fn(|at| self.counting()[at].filter(|_| !is_new[at]));
        CgroupFacts {
            cpus: self.cpu.iter().filter_map(Group::quota).chain(affinity()).reduce(f64::min),
            periods: cpu.and_then(Group::periods),
            memory: self.memory.iter().filter_map(Group::memory).reduce(tighter),
            limit_hits: memory.and_then(Group::limit_hits),
            oom_kills: kills.and_then(Group::oom_kills),
            tasks: self.tasks.iter().filter_map(Group::tasks).reduce(fuller),
            pressure: Pressure::ALL.map(|of| self.pressure.as_ref()?.pressure(of)),
        }
    }

    /// The groups whose counters are read.
    fn counting(&self) -> [Option<&Group>; 3] {
        [self.cpu.first(), self.memory.first(), self.kills.as_ref()]
    }

    fn find(&mut self, root: &Path, needed: SourceSet) {
        let cgroups = kernel_file::read(&root.join("proc/self/cgroup")).unwrap_or_default();
        self.cpu = groups(root, &cgroups, "cpu");
        self.cpu.retain(|group| group.quota().is_some());
        self.memory = groups(root, &cgroups, "memory");
        let kills = self.memory.iter().position(|group| group.oom_kills().is_some());
        self.kills = kills.map(|first| self.memory[first].clone());
        self.memory.retain(|group| group.limit().is_some());
        self.tasks.clear();
        if needed.contains(Source::CgroupTasks) {
            self.tasks = groups(root, &cgroups, "pids");
            self.tasks.retain(|group| group.tasks().is_some());
        }
        self.pressure = needed.contains(Source::Pressure).then(|| with_pressure(root, &cgroups)).flatten();
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    One,
    Two,
}

/// A group of one controller.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    version: Version,
    directory: PathBuf,
}

/// The groups of a controller, the process's own first.
fn groups(root: &Path, cgroups: &str, controller: &str) -> Vec<Group> {
    let of_version_1 =
        hierarchies(cgroups).find(|(controllers, _)| controllers.split(',').any(|name| name == controller));
    if let Some((_, path)) = of_version_1 {
        from_inner(Version::One, &root.join(ROOT).join(controller), path)
    } else {
        let [groups, _] = unified(root, cgroups);
        groups
    }
}

/// The process's own group of version 2, if the kernel tracks pressure in it.
///
/// Beside version 1 it may be another group than the one that a container manager has made.
fn with_pressure(root: &Path, cgroups: &str) -> Option<Group> {
    let is_limited = |controllers: &str| controllers.split(',').any(|name| name == "memory" || name == "cpu");
    let of_version_1 = hierarchies(cgroups).filter(|(controllers, _)| is_limited(controllers));
    let mut of_version_1 = of_version_1.map(|(_, path)| path).peekable();
    let path = path_of_version_2(cgroups);
    if of_version_1.peek().is_some() && !of_version_1.any(|other| other == path) {
        return None;
    }
    // Where a container sees the path of the host, the innermost that exists is its own.
    let own = unified(root, cgroups).map(|groups| groups.into_iter().find(|group| group.directory.is_dir()));
    let is_known = |group: &Group| Pressure::ALL.iter().any(|of| group.pressure(*of).is_some());
    own.into_iter().flatten().find(is_known)
}

/// The groups of version 2, where they are mounted alone and where they are beside those of version 1.
fn unified(root: &Path, cgroups: &str) -> [Vec<Group>; 2] {
    let path = path_of_version_2(cgroups);
    ["", "unified"].map(|folder| from_inner(Version::Two, &root.join(ROOT).join(folder), path))
}

fn path_of_version_2(cgroups: &str) -> &str {
    let unified = hierarchies(cgroups).find(|(controllers, _)| controllers.is_empty());
    unified.map_or("/", |(_, path)| path)
}

/// The group of this path and its ancestors, in this order.
fn from_inner(version: Version, mounted: &Path, path: &str) -> Vec<Group> {
    // A path that leads out of the namespace cannot be followed.
    let leads_out = path.split('/').any(|name| name == "..");
    let inner = Path::new(if leads_out { "" } else { path.trim_start_matches('/') });
    inner.ancestors().map(|ancestor| Group { version, directory: mounted.join(ancestor) }).collect()
}

impl Group {
    /// The CPUs that its quota amounts to; `None` without one.
    fn quota(&self) -> Option<f64> {
        let (quota, period): (u32, u32) = match self.version {
            // Without a quota it is -1.
            Version::One => (self.number("cpu.cfs_quota_us")?, self.number("cpu.cfs_period_us")?),
            Version::Two => {
                let max = self.file("cpu.max")?;
                let (quota, period) = max.trim().split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            }
        };
        (period > 0).then(|| f64::from(quota) / f64::from(period))
    }

    fn periods(&self) -> Option<CpuPeriods> {
        let stat = self.file("cpu.stat")?;
        let throttled_time = match self.version {
            Version::One => value(&stat, "throttled_time").map(Duration::from_nanos),
            Version::Two => value(&stat, "throttled_usec").map(Duration::from_micros),
        };
        Some(CpuPeriods {
            all: value(&stat, "nr_periods")?,
            throttled: value(&stat, "nr_throttled")?,
            throttled_time,
        })
    }

    /// Its processes and threads; `None` without a limit.
    fn tasks(&self) -> Option<LimitedTasks> {
        Some(LimitedTasks { limit: self.number("pids.max")?, count: self.number("pids.current")? })
    }

    /// In how many percent of the last 10 seconds one of its processes had to wait.
    fn pressure(&self, of: Pressure) -> Option<f64> {
        let text = self.file(match of {
            Pressure::Cpu => "cpu.pressure",
            Pressure::Memory => "memory.pressure",
            Pressure::Io => "io.pressure",
        })?;
        let (_, rest) = text.split_once("some avg10=")?;
        rest.split_ascii_whitespace().next()?.parse().ok()
    }

    /// The limit of its memory; `None` without one, or if the machine has no more than that.
    fn limit(&self) -> Option<u64> {
        let limit = self.number(match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        })?;
        memory_of_machine().is_none_or(|available| limit < available).then_some(limit)
    }

    fn memory(&self) -> Option<LimitedMemory> {
        let limit = self.limit()?;
        let (usage, inactive) = match self.version {
            Version::One => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::Two => ("memory.current", "inactive_file"),
        };
        let inactive = value(&self.file("memory.stat")?, inactive)?;
        Some(LimitedMemory { limit, working_set: self.number::<u64>(usage)?.saturating_sub(inactive) })
    }

    fn limit_hits(&self) -> Option<u64> {
        match self.version {
            Version::One => self.number("memory.failcnt"),
            Version::Two => value(&self.events()?, "max"),
        }
    }

    fn oom_kills(&self) -> Option<u64> {
        let events = match self.version {
            Version::One => self.file("memory.oom_control"),
            Version::Two => self.events(),
        };
        value(&events?, "oom_kill")
    }

    /// What happened in the group itself; before Linux 5.2, in the groups below it as well.
    fn events(&self) -> Option<String> {
        self.file("memory.events.local").or_else(|| self.file("memory.events"))
    }

    fn file(&self, name: &str) -> Option<String> {
        kernel_file::read(&self.directory.join(name)).ok()
    }

    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.file(name)?.trim().parse().ok()
    }
}

/// The value in the line of this name.
fn value(text: &str, name: &str) -> Option<u64> {
    let (_, value) = text.lines().filter_map(|line| line.split_once(' ')).find(|(key, _)| *key == name)?;
    value.trim().parse().ok()
}

/// The memory of which less is left, as a share of its limit.
fn tighter(one: LimitedMemory, other: LimitedMemory) -> LimitedMemory {
    let product =
        |used: LimitedMemory, limit: LimitedMemory| u128::from(used.working_set) * u128::from(limit.limit);
    if product(other, one) > product(one, other) { other } else { one }
}

/// The tasks of which fewer may be added, as a share of their limit.
fn fuller(one: LimitedTasks, other: LimitedTasks) -> LimitedTasks {
    let product = |used: LimitedTasks, limit: LimitedTasks| u128::from(used.count) * u128::from(limit.limit);
    if product(other, one) > product(one, other) { other } else { one }
}

/// The number of CPUs that the process may run on.
fn affinity() -> Option<f64> {
    let cpus = sched_getaffinity(Pid::this()).ok()?;
    let count = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false)).count();
    u32::try_from(count).ok().map(f64::from)
}

fn memory_of_machine() -> Option<u64> {
    let pages = u64::try_from(sysconf(SysconfVar::_PHYS_PAGES).ok()??).ok()?;
    pages.checked_mul(sysconf(SysconfVar::PAGE_SIZE).ok()??.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn everything() -> SourceSet {
        [Source::Cgroup, Source::CgroupTasks, Source::Pressure].into_iter().collect()
    }

    /// Writes files, given as lines `path: content`, and reads the facts.
    fn facts(files: &[(&str, &str)]) -> CgroupFacts {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), files);
        Cgroups::default().read(Duration::ZERO, root.path(), everything())
    }

    const MEMORY_STAT: &str = "anon 5\nfile 9\ninactive_file 100\nactive_file 3\n";

    #[test]
    fn version_2_in_a_container() {
        let facts = facts(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/cpu.stat", "usage_usec 9\nnr_periods 40\nnr_throttled 7\nthrottled_usec 3\n"),
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "700\n"),
            ("sys/fs/cgroup/memory.stat", MEMORY_STAT),
            ("sys/fs/cgroup/memory.events", "low 0\nhigh 0\nmax 15\noom 4\noom_kill 5\n"),
            ("sys/fs/cgroup/memory.events.local", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n"),
            ("sys/fs/cgroup/pids.max", "50\n"),
            ("sys/fs/cgroup/pids.current", "7\n"),
            (
                "sys/fs/cgroup/cpu.pressure",
                "some avg10=12.50 avg60=9.00 avg300=8.00 total=7\nfull avg10=1.00\n",
            ),
            ("sys/fs/cgroup/io.pressure", "some avg10=0.00 avg60=9.00 avg300=8.00 total=7\n"),
        ]);
        let expected = CgroupFacts {
            cpus: Some(0.5),
            periods: Some(CpuPeriods {
                all: 40,
                throttled: 7,
                throttled_time: Some(Duration::from_micros(3)),
            }),
            memory: Some(LimitedMemory { limit: 1000, working_set: 600 }),
            limit_hits: Some(12),
            oom_kills: Some(2),
            tasks: Some(LimitedTasks { limit: 50, count: 7 }),
            pressure: [Some(12.5), None, Some(0.0)],
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn version_1_in_a_container_whose_path_is_that_of_the_host() {
        let facts = facts(&[
            (
                "proc/self/cgroup",
                "7:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:pids:/docker/abc\n0::/system.slice\n",
            ),
            ("sys/fs/cgroup/pids/pids.max", "4\n"),
            ("sys/fs/cgroup/pids/pids.current", "5\n"),
            ("sys/fs/cgroup/unified/system.slice/memory.pressure", "some avg10=99.00 avg60=1.00 total=7\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "25000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpu.stat", "nr_periods 8\nnr_throttled 1\nthrottled_time 5\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "90\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 4\ntotal_inactive_file 100\n"),
            ("sys/fs/cgroup/memory/memory.failcnt", "6\n"),
            ("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ]);
        let expected = CgroupFacts {
            cpus: Some(0.25),
            periods: Some(CpuPeriods { all: 8, throttled: 1, throttled_time: Some(Duration::from_nanos(5)) }),
            memory: Some(LimitedMemory { limit: 2000, working_set: 0 }),
            limit_hits: Some(6),
            oom_kills: Some(1),
            tasks: Some(LimitedTasks { limit: 4, count: 5 }),
            pressure: [None; 3],
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn beside_version_1_pressure_is_known_only_of_the_same_group() {
        let pressure = |cgroups: &str, group: &str| {
            let file = format!("sys/fs/cgroup/{group}cpu.pressure");
            let files = [("proc/self/cgroup", cgroups), (&file, "some avg10=5.00 avg60=1.00 total=7\n")];
            facts(&files).pressure[0]
        };
        assert_eq!(pressure("4:memory:/a\n1:name=systemd:/b\n0::/\n", "unified/"), None);
        assert_eq!(pressure("4:memory:/a\n3:cpu,cpuacct:/b\n0::/b\n", "unified/b/"), Some(5.0));
        assert_eq!(pressure("2:pids:/a\n1:name=systemd:/a\n0::/b\n", "unified/b/"), Some(5.0));
    }

    #[test]
    fn pressure_is_that_of_the_innermost_group_that_exists() {
        let read = |files: &[(&str, &str)]| facts(files).pressure[0];
        let of_container = [
            ("proc/self/cgroup", "0::/docker/abc\n"),
            ("sys/fs/cgroup/cpu.pressure", "some avg10=5.00 avg60=1.00 total=7\n"),
        ];
        assert_eq!(read(&of_container), Some(5.0));
        // Not that of an ancestor, where the group itself tracks none.
        let untracked = [of_container[0], of_container[1], ("sys/fs/cgroup/docker/abc/cgroup.procs", "7\n")];
        assert_eq!(read(&untracked), None);
    }

    #[test]
    fn a_limit_of_an_ancestor_holds_as_well() {
        let group = "sys/fs/cgroup/app.slice/web.service";
        let facts = facts(&[
            ("proc/self/cgroup", "0::/app.slice/web.service\n"),
            (&format!("{group}/cpu.max"), "150000 100000\n"),
            (&format!("{group}/cpu.stat"), "nr_periods 1\nnr_throttled 0\n"),
            (&format!("{group}/memory.max"), "max\n"),
            (&format!("{group}/memory.events"), "max 0\noom_kill 4\n"),
            ("sys/fs/cgroup/app.slice/cpu.max", "20000 100000\n"),
            ("sys/fs/cgroup/app.slice/cpu.stat", "nr_periods 99\nnr_throttled 98\n"),
            ("sys/fs/cgroup/app.slice/memory.max", "4000\n"),
            ("sys/fs/cgroup/app.slice/memory.current", "3100\n"),
            ("sys/fs/cgroup/app.slice/memory.stat", MEMORY_STAT),
            ("sys/fs/cgroup/app.slice/memory.events", "max 3\noom_kill 9\n"),
        ]);
        assert_eq!(facts.cpus, Some(0.2));
        assert_eq!(facts.periods, Some(CpuPeriods { all: 1, throttled: 0, throttled_time: None }));
        assert_eq!(facts.memory, Some(LimitedMemory { limit: 4000, working_set: 3000 }));
        assert_eq!((facts.limit_hits, facts.oom_kills), (Some(3), Some(4)));
    }

    #[test]
    fn of_several_limits_the_one_that_is_closest_counts() {
        let memory = |limit, working_set| LimitedMemory { limit, working_set };
        let (roomy, tight) = (memory(1000, 100), memory(u64::MAX, u64::MAX - 1));
        assert_eq!(tighter(roomy, tight), tight);
        assert_eq!(tighter(tight, roomy), tight);
    }

    #[test]
    fn without_limits_only_the_cpus_of_the_process_are_known() {
        let unlimited = [
            ("proc/self/cgroup", "4:memory:/\n3:cpu:/\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.failcnt", "0\n"),
        ];
        let expected = CgroupFacts { cpus: affinity(), ..CgroupFacts::default() };
        assert!(expected.cpus >= Some(1.0));
        assert_eq!(facts(&unlimited), expected);
        assert_eq!(facts(&[]), expected);
    }

    #[test]
    fn a_path_that_leads_out_of_the_namespace_is_not_followed() {
        let facts = facts(&[
            ("proc/self/cgroup", "0::/../../other\n"),
            ("sys/fs/cgroup/cpu.max", "10000 100000\n"),
            ("sys/other/cpu.max", "1000 100000\n"),
        ]);
        assert_eq!(facts.cpus, Some(0.1));
    }

    #[test]
    fn a_limit_is_seen_to_change_at_once_and_to_come_or_go_within_a_minute() {
        let root = tempfile::tempdir().unwrap();
        let group = "sys/fs/cgroup/web.service";
        let (max, memory) = (format!("{group}/cpu.max"), format!("{group}/memory.max"));
        let stat =
            [(format!("{group}/memory.stat"), MEMORY_STAT), (format!("{group}/memory.current"), "150\n")];
        write(root.path(), &stat.each_ref().map(|(path, content)| (path.as_str(), *content)));
        write(root.path(), &[("proc/self/cgroup", "0::/\n"), (&max, "10000 100000\n"), (&memory, "max\n")]);
        let mut cgroups = Cgroups::default();
        let mut read = |second| cgroups.read(Duration::from_secs(second), root.path(), everything());
        assert_eq!(read(10).cpus, affinity());
        // It enters a group, as it may when it is started.
        write(root.path(), &[("proc/self/cgroup", "0::/web.service\n")]);
        assert_eq!(read(69).cpus, affinity());
        assert_eq!(read(70).cpus, Some(0.1));
        write(root.path(), &[(&max, "20000 100000\n"), (&memory, "1000\n")]);
        let changed = read(80);
        assert_eq!((changed.cpus, changed.memory), (Some(0.2), None));
        assert_eq!(read(130).memory, Some(LimitedMemory { limit: 1000, working_set: 50 }));
        write(root.path(), &[(&max, "max 100000\n"), (&memory, "2000\n")]);
        let changed = read(140);
        assert_eq!(changed.cpus, affinity());
        assert_eq!(changed.memory.map(|memory| memory.limit), Some(2000));
    }

    #[test]
    fn what_another_group_has_counted_is_no_growth() {
        let root = tempfile::tempdir().unwrap();
        for (group, kills) in [("a", "3"), ("b", "5000")] {
            let events = format!("max 0\noom_kill {kills}\n");
            write(root.path(), &[(&format!("sys/fs/cgroup/{group}/memory.events.local"), &events)]);
        }
        write(root.path(), &[("proc/self/cgroup", "0::/a\n")]);
        let mut cgroups = Cgroups::default();
        let mut read =
            |second| cgroups.read(Duration::from_secs(second), root.path(), everything()).oom_kills;
        assert_eq!([read(10), read(70)], [Some(3); 2]);
        write(root.path(), &[("proc/self/cgroup", "0::/b\n")]);
        assert_eq!([read(120), read(130), read(140)], [Some(3), None, Some(5000)]);
    }

    #[test]
    fn what_is_needed_later_is_searched_for_at_once() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.events.local", "max 0\noom_kill 3\n"),
                ("sys/fs/cgroup/pids.max", "50\n"),
                ("sys/fs/cgroup/pids.current", "7\n"),
                ("sys/fs/cgroup/cpu.pressure", "some avg10=12.50 avg60=9.00 total=7\n"),
            ],
        );
        let mut cgroups = Cgroups::default();
        let mut read = |second, needed| {
            let facts = cgroups.read(Duration::from_secs(second), root.path(), needed);
            (facts.tasks, facts.pressure[0], facts.oom_kills)
        };
        let standard: SourceSet = [Source::Cgroup].into_iter().collect();
        assert_eq!(read(10, standard), (None, None, Some(3)));
        let all = (Some(LimitedTasks { limit: 50, count: 7 }), Some(12.5), Some(3));
        assert_eq!([read(20, everything()), read(30, everything())], [all; 2]);
    }

    #[test]
    fn malformed_files_are_unknown() {
        let facts = facts(&[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cpu.max", "50000 0\n"),
            ("sys/fs/cgroup/memory.max", "many\n"),
            ("sys/fs/cgroup/memory.events.local", "oom_kill\noom_kill x\n"),
        ]);
        assert_eq!(facts, CgroupFacts { cpus: affinity(), ..CgroupFacts::default() });
    }
}
