//! Why a row had no value at a flush: the reason that applied then, where facts tell it. Otherwise all are given that
//! there may be.

use std::borrow::Cow;
use std::time::Duration;

use super::PREFIX;
use super::metric::Metric;
use crate::interval::Length;
use crate::snapshot::{
    Absence, CgroupFacts, LimitApproach, ProcessFacts, Snapshot, Source, SourceSet, ThreadTimes, Withheld,
};

/// What only the interpreter knows.
const OF_INTERPRETER: [Source; 10] = [
    Source::LoopQueues,
    Source::PythonThreads,
    Source::GcThreshold,
    Source::GcCount,
    Source::Modules,
    Source::PythonBlocks,
    Source::Tasks,
    Source::Executors,
    Source::Gil,
    Source::Description,
];

/// A flush, as far as it tells why a row had no value.
#[derive(Clone, Copy, Debug)]
pub struct Flush<'a> {
    /// The facts at its end.
    pub snapshot: &'a Snapshot,
    /// The sources that were read.
    pub read: SourceSet,
    /// The time that it covers.
    pub length: Length,
    /// That time according to the schedule.
    pub planned: Duration,
}

impl Flush<'_> {
    /// Why a row had no value.
    #[must_use]
    pub fn reason(&self, metric: &Metric) -> Cow<'static, str> {
        let of_sources = || self.reason_of_sources(metric).map(Cow::Borrowed);
        of_sources().or_else(|| self.reason_of(metric)).unwrap_or(Cow::Borrowed(metric.absent))
    }

    /// Why a source has none of its facts.
    fn reason_of_sources(&self, metric: &Metric) -> Option<&'static str> {
        let needs_any_of =
            |is_one: &dyn Fn(Source) -> bool| metric.needs.iter().any(|source| is_one(*source));
        if needs_any_of(&|source| self.snapshot.unsupported.contains(source)) {
            Some("not on this operating system")
        } else if needs_any_of(&|source| !self.read.contains(source)) {
            Some("not in AWS Lambda")
        } else if self.snapshot.interpreter.is_none()
            && needs_any_of(&|source| OF_INTERPRETER.contains(&source))
        {
            Some(NO_ANSWER)
        } else {
            None
        }
    }

    fn reason_of(&self, metric: &Metric) -> Option<Cow<'static, str>> {
        let Self { snapshot, .. } = self;
        let (process, cgroup) = (&snapshot.process, &snapshot.process.cgroup);
        let interpreter = snapshot.interpreter.unwrap_or_default();
        let reason = match metric.name.strip_prefix(PREFIX)? {
            "cpu.time.sys"
            | "cpu.time.user"
            | "cpu.ctx_switch.voluntary"
            | "cpu.ctx_switch.involuntary"
            | "mem.faults.major" => snapshot.usage.is_none().then_some(NO_USAGE),
            "cpu.percent" => snapshot.usage.map_or(Some(NO_USAGE), |_| self.reason_of_percent()),
            "mem.rss" => Some("/proc/self/statm cannot be read"),
            "thread_count" => Some("/proc/self/task cannot be read"),
            "gil.wait.p95" | "gil.wait.avg" if snapshot.probe.longest_wait.is_some() => {
                Some("no probe was answered in the interval")
            }
            "gc.pause.p95" if snapshot.collections.is_some() => Some("no collection in the interval"),
            "os.hiccup.max" | "os.hiccup.p95" | "gil.wait.p95" | "gil.wait.max" | "gil.wait.avg" => {
                Some("no probe in the interval")
            }
            "cpu.run_delay" => reason_of_threads(process),
            "cpu.thread.max_percent" => reason_of_threads(process).or_else(|| self.reason_of_percent()),
            "cpu.throttled.time" if cgroup.periods.is_none() => Some(NO_QUOTA),
            "cpu.throttled.percent" => Some(match cgroup.periods {
                None => NO_QUOTA,
                Some(_) => "the container did not run in the interval, or its quota is new",
            }),
            "mem.rss.anon" | "mem.rss.peak" | "mem.rss.file" | "mem.rss.shmem" | "mem.virtual"
            | "mem.swap" => Some(NO_STATUS),
            "mem.headroom.percent" | "mem.limit_hits" | "mem.limit" | "mem.working_set" => {
                reason_of_memory_limit(cgroup)
            }
            "mem.time_to_limit" => reason_of_memory_limit(cgroup).or_else(|| self.reason_of_trend()),
            "mem.oom_kills" => Some("in no control group that counts them"),
            "pids.percent" => Some("no limit of processes and threads was found"),
            "pressure.cpu" | "pressure.memory" | "pressure.io" => Some(NO_PRESSURE),
            "mem.growth_rate" if process.memory.anonymous.is_none() => Some(NO_STATUS),
            "mem.growth_rate" => self.reason_of_trend().or(Some("not observed for 15 minutes yet")),
            "threads.state" => Some(match process.threads {
                Some(count) if count > ThreadTimes::MAX => MANY_THREADS,
                _ => NO_STATES,
            }),
            "io.read" | "io.write" => Some("/proc/self/io cannot be read"),
            "children.count" => Some(match process.threads {
                Some(count) if count > ThreadTimes::MAX => MANY_THREADS,
                _ => NO_CHILDREN,
            }),
            "children.cpu" | "faults.minor" => Some(NO_USAGE),
            "collector.tick.late" => Some("no flush of the schedule was due in the interval"),
            "mem.python.blocks" => return Some(self.reason_of_blocks()),
            "event_loop.delay.p95"
            | "event_loop.delay.max"
            | "event_loop.utilization"
            | "event_loop.iterations"
            | "event_loop.slow_callbacks"
            | "event_loop.ready"
            | "event_loop.timers" => {
                let is_observed = snapshot.event_loops.longest_delay.is_some();
                if is_observed {
                    Some(self.reason_of_loop(metric))
                } else if snapshot.interpreter.is_none() {
                    Some(NO_ANSWER)
                } else {
                    interpreter.no_event_loop.map(text).or(Some("no running event loop of asyncio was found"))
                }
            }
            "asyncio.tasks" => interpreter.no_tasks.map(text),
            "executor.queue_depth" => interpreter.no_queue_depth.map(text),
            "accept_queue.depth" => snapshot.no_accept_queue.map(text),
            "fd.count" => Some(NO_DESCRIPTORS),
            "fd.percent" => Some(process.descriptors.map_or(NO_DESCRIPTORS, |_| "no limit on descriptors")),
            "process.uptime" => Some("/proc/self/stat cannot be read"),
            "gil.reenabled" => Some("this build of Python is not free-threaded"),
            _ => None,
        };
        reason.map(Cow::Borrowed)
    }

    fn reason_of_percent(&self) -> Option<&'static str> {
        match self.length {
            Length::TooShort => Some("the interval was too short"),
            Length::TooLong => Some(SUSPENDED),
            Length::Regular => None,
        }
    }

    /// Why no trend can be found.
    fn reason_of_trend(&self) -> Option<&'static str> {
        let is_too_rare = self.planned > LimitApproach::MAX_INTERVAL;
        is_too_rare.then_some("more than 2 minutes between two flushes")
    }

    /// Why a loop that was observed has no such value.
    fn reason_of_loop(&self, metric: &Metric) -> &'static str {
        if metric.name.contains(".delay.") {
            "no iteration of an event loop ended in the interval"
        } else if self.length == Length::TooLong && metric.name.ends_with("utilization") {
            SUSPENDED
        } else {
            "no event loop has a selector of the standard library"
        }
    }

    fn reason_of_blocks(&self) -> Cow<'static, str> {
        match self.snapshot.blocks_withheld {
            None => "Python does not use its own allocator (PYTHONMALLOC), or has no GIL".into(),
            Some(Withheld::Until(due)) => {
                let seconds = due.saturating_sub(self.snapshot.at).as_secs();
                format!("not due for another {seconds} s, as the last read took so long").into()
            }
            Some(Withheld::GivenUp { cost }) => {
                format!("given up, as it took {:.1} ms", 1000.0 * cost.as_secs_f64()).into()
            }
        }
    }
}

const MANY_THREADS: &str = "more than 256 threads";
const NO_CHILDREN: &str = "/proc/self/task/*/children cannot be read";
const NO_STATUS: &str = "/proc/self/status cannot be read, or does not list it";
const NO_STATES: &str = "/proc/self/task/*/stat cannot be read";
const NO_PRESSURE: &str =
    "the kernel does not track pressure in this control group, or beside version 1 only in another";
const NO_QUOTA: &str = "no CPU quota was found";
const NO_ANSWER: &str = "the interpreter did not answer in time";
const NO_USAGE: &str = "getrusage is refused";
const NO_DESCRIPTORS: &str = "/proc/self/fd cannot be read";
const SUSPENDED: &str = "the interval was too long: the process was suspended or frozen";

fn reason_of_threads(process: &ProcessFacts) -> Option<&'static str> {
    const UNREADABLE: &str = "/proc/self/task/*/schedstat cannot be read, or has no times";
    const UNREADABLE_OR_MANY: &str =
        "more than 256 threads, or /proc/self/task/*/schedstat cannot be read, or has no times";
    match (process.threads, &process.thread_times) {
        (Some(count), _) if count > ThreadTimes::MAX => Some(MANY_THREADS),
        (_, Some(_)) => None,
        (Some(_), None) => Some(UNREADABLE),
        (None, None) => Some(UNREADABLE_OR_MANY),
    }
}

fn reason_of_memory_limit(cgroup: &CgroupFacts) -> Option<&'static str> {
    cgroup.memory.is_none().then_some("no memory limit below the machine's memory was found")
}

fn text(absence: Absence) -> &'static str {
    match absence {
        Absence::NoAsyncio => "the program has not imported asyncio",
        Absence::NoTaskRegistry => "this version of Python has no registry of tasks that can be counted",
        Absence::Greenlets => "gevent or eventlet has patched threads",
        Absence::NoPool => "no pool of threads was found",
        Absence::TooManyPooled => "more than 512 threads in pools, or more than 64 event loops with a pool",
        Absence::NoListener => "no listening socket was found",
        Absence::InBacklog => "gunicorn.backlog counts the same connections",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::CATALOGUE;
    use crate::snapshot::{
        CpuPeriods, EventLoopFacts, InterpreterFacts, LimitedMemory, ResourceUsage, ThreadTimes,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn metric(name: &str) -> &'static Metric {
        let found = CATALOGUE.iter().find(|metric| metric.name.strip_prefix(PREFIX) == Some(name));
        found.unwrap_or_else(|| panic!("{name}"))
    }

    fn everything() -> SourceSet {
        CATALOGUE.iter().flat_map(|metric| metric.needs.iter().copied()).collect()
    }

    fn flush(snapshot: &Snapshot) -> Flush<'_> {
        Flush { snapshot, read: everything(), length: Length::Regular, planned: 10 * SECOND }
    }

    fn reason(name: &str, snapshot: &Snapshot) -> String {
        flush(snapshot).reason(metric(name)).into_owned()
    }

    /// A snapshot in which nothing is known but that the interpreter has answered.
    fn answered(facts: &InterpreterFacts) -> Snapshot {
        Snapshot { at: 100 * SECOND, interpreter: Some(*facts), ..Snapshot::default() }
    }

    fn unknown() -> Snapshot {
        answered(&InterpreterFacts::default())
    }

    #[test]
    fn a_source_that_is_not_here_was_not_read_or_got_no_answer_is_the_reason() {
        let unsupported = [Source::Cgroup].into_iter().collect();
        let snapshot = Snapshot { unsupported, ..unknown() };
        assert_eq!(reason("mem.headroom.percent", &snapshot), "not on this operating system");
        let (snapshot, tasks) = (unknown(), metric("asyncio.tasks"));
        let flush = Flush { read: everything().without(Source::Tasks), ..flush(&snapshot) };
        assert_eq!(flush.reason(tasks), "not in AWS Lambda");
        let silent = Snapshot::default();
        for name in ["asyncio.tasks", "gc.count.gen0", "mem.python.blocks", "gil.reenabled", "info"] {
            assert_eq!(reason(name, &silent), "the interpreter did not answer in time", "{name}");
        }
        assert_eq!(reason("fd.count", &silent), "/proc/self/fd cannot be read");
    }

    #[test]
    fn a_read_that_is_withheld_says_until_when_or_what_it_took() {
        let withheld = |why| Snapshot { blocks_withheld: Some(why), ..unknown() };
        let until = withheld(Withheld::Until(143 * SECOND));
        let expected = "not due for another 43 s, as the last read took so long";
        assert_eq!(reason("mem.python.blocks", &until), expected);
        let given_up = withheld(Withheld::GivenUp { cost: Duration::from_micros(7240) });
        assert_eq!(reason("mem.python.blocks", &given_up), "given up, as it took 7.2 ms");
        assert!(reason("mem.python.blocks", &unknown()).contains("PYTHONMALLOC"));
    }

    #[test]
    fn the_interpreter_tells_why_it_has_no_tasks_loops_or_pools() {
        let facts = InterpreterFacts {
            no_tasks: Some(Absence::NoTaskRegistry),
            no_queue_depth: Some(Absence::NoPool),
            no_event_loop: Some(Absence::Greenlets),
            ..InterpreterFacts::default()
        };
        assert!(reason("asyncio.tasks", &answered(&facts)).starts_with("this version of Python"));
        assert_eq!(reason("executor.queue_depth", &answered(&facts)), "no pool of threads was found");
        for name in ["event_loop.delay.p95", "event_loop.delay.max", "event_loop.utilization"] {
            assert_eq!(reason(name, &answered(&facts)), "gevent or eventlet has patched threads", "{name}");
            assert_eq!(reason(name, &unknown()), "no running event loop of asyncio was found", "{name}");
        }
        let event_loops = EventLoopFacts { longest_delay: Some(SECOND), ..EventLoopFacts::default() };
        let beating = Snapshot { event_loops, ..unknown() };
        assert!(reason("event_loop.utilization", &beating).contains("no event loop has a selector"));
    }

    #[test]
    fn a_control_group_without_a_limit_is_the_reason() {
        assert_eq!(reason("cpu.throttled.percent", &unknown()), "no CPU quota was found");
        let memory = "no memory limit below the machine's memory was found";
        for name in ["mem.headroom.percent", "mem.limit_hits", "mem.time_to_limit"] {
            assert_eq!(reason(name, &unknown()), memory, "{name}");
        }
        let mut snapshot = unknown();
        snapshot.process.cgroup = CgroupFacts {
            periods: Some(CpuPeriods { all: 1, throttled: 0, throttled_time: None }),
            memory: Some(LimitedMemory { limit: 2, working_set: 1 }),
            ..CgroupFacts::default()
        };
        assert!(reason("cpu.throttled.percent", &snapshot).contains("did not run"));
        let rare = Flush { planned: 200 * SECOND, ..flush(&snapshot) };
        assert_eq!(rare.reason(metric("mem.time_to_limit")), "more than 2 minutes between two flushes");
    }

    #[test]
    fn growth_needs_anonymous_memory_that_is_observed_often_and_for_long_enough() {
        let growth = metric("mem.growth_rate");
        assert_eq!(reason("mem.growth_rate", &unknown()), NO_STATUS);
        let mut snapshot = unknown();
        snapshot.process.memory.anonymous = Some(1);
        assert_eq!(reason("mem.growth_rate", &snapshot), "not observed for 15 minutes yet");
        let rare = Flush { planned: 200 * SECOND, ..flush(&snapshot) };
        assert_eq!(rare.reason(growth), "more than 2 minutes between two flushes");
    }

    #[test]
    fn a_percentage_may_need_another_interval_or_fewer_threads() {
        let mut snapshot = Snapshot { usage: Some(ResourceUsage::default()), ..unknown() };
        snapshot.process.threads = Some(ThreadTimes::MAX);
        assert!(reason("cpu.run_delay", &snapshot).contains("schedstat"));
        snapshot.process.thread_times = Some(Vec::new());
        for (length, expected) in [(Length::TooShort, "too short"), (Length::TooLong, "too long")] {
            for name in ["cpu.percent", "cpu.thread.max_percent"] {
                let flush = Flush { length, ..flush(&snapshot) };
                assert!(flush.reason(metric(name)).contains(expected), "{name}");
            }
        }
        snapshot.process.threads = Some(ThreadTimes::MAX + 1);
        for name in ["cpu.run_delay", "cpu.thread.max_percent"] {
            assert_eq!(reason(name, &snapshot), "more than 256 threads", "{name}");
        }
        assert_eq!(reason("cpu.percent", &unknown()), NO_USAGE);
    }

    #[test]
    fn where_facts_do_not_tell_all_reasons_are_given() {
        let usage = Some(ResourceUsage::default());
        let snapshot = Snapshot { usage, ..unknown() };
        for name in ["cpu.time.sys", "accept_queue.depth", "exceptions.uncaught", "asyncio.tasks"] {
            assert_eq!(reason(name, &snapshot), metric(name).absent, "{name}");
        }
        let workers = CATALOGUE.iter().find(|metric| metric.name == "gunicorn.workers").unwrap();
        assert_eq!(flush(&snapshot).reason(workers), workers.absent);
    }

    #[test]
    fn every_name_with_a_reason_is_in_the_catalogue() {
        let source = include_str!("absence.rs");
        let (_, rest) = source.split_once("match metric.name.strip_prefix(PREFIX)? {").unwrap();
        let (arms, _) = rest.split_once("_ => None,").unwrap();
        let is_pattern = |line: &&str| line.starts_with('"') || line.starts_with("| \"");
        let patterns = arms.lines().map(str::trim).filter(is_pattern);
        let names = patterns.flat_map(|line| line.split("=>").next().unwrap().split(" | "));
        let names = names.map(|name| name.trim_matches(['|', ' ']).split('"').nth(1).unwrap());
        let names: Vec<_> = names.map(|name| metric(name).name).collect();
        assert!(names.len() > 20, "{names:?}");
    }
}
