//! What goes wrong in production, and which metrics tell why. Each incident lists them in the order in which to read
//! them.
//!
//! What a row explains, and what to read after it, follows from the incidents that list it.

use super::{CATALOGUE, PREFIX};

/// Something that goes wrong in production.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    /// What is seen, as a heading.
    pub symptom: &'static str,
    /// The metrics that tell why, in the order in which to read them.
    pub clues: &'static [Clue],
}

/// What a metric says about an incident.
#[derive(Clone, Copy, Debug)]
pub struct Clue {
    /// The name of the metric; without `runtime.python.` where it begins so.
    metric: &'static str,
    /// What to look for, and what it means.
    pub finding: &'static str,
}

impl Clue {
    const fn new(metric: &'static str, finding: &'static str) -> Self {
        Self { metric, finding }
    }

    /// Whether it is about the metric of this full name.
    #[must_use]
    pub fn is_about(&self, name: &str) -> bool {
        self.metric == name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The full name of the metric.
    #[must_use]
    pub fn name(&self) -> &'static str {
        CATALOGUE.iter().find(|metric| self.is_about(metric.name)).map_or(self.metric, |metric| metric.name)
    }
}

/// Whose fault it is that something comes late. Each step contains the ones before it: the first that is high is to
/// blame.
pub const LADDER: &[Clue] = &[
    Clue::new(
        "os.hiccup.max",
        "the machine or its limits: a CPU quota, too few CPUs, swapping. Nothing of Python takes part in it",
    ),
    Clue::new(
        "gil.wait.max",
        "the interpreter: a thread keeps the GIL, in C code, in a garbage collection, or by computing among many",
    ),
    Clue::new("event_loop.delay.max", "the program: a callback or coroutine blocks its event loop"),
    Clue::new("executor.queue_depth", "the program: its pool of threads is too small for what is submitted"),
];

/// The incidents.
pub const INCIDENTS: &[Incident] = &[
    Incident {
        symptom: "It hangs for seconds",
        clues: &[
            Clue::new(
                "stall.count",
                "above 0: the tag cause says why. cpu_starved: no CPU for it; io_d_state: a disk or a network file \
                 system; gc: a collection; gil_native: C code keeps the GIL; python: the event loop is blocked",
            ),
            Clue::new("gil.wait.max", "as long as it hung: native code keeps the GIL, or a collection runs"),
            Clue::new(
                "event_loop.delay.max",
                "as long, with gil.wait.max low: a callback blocks the event loop",
            ),
            Clue::new("gc.pause.max", "as long: it was the garbage collector"),
            Clue::new("cpu.run_delay", "grows by as much: there was no CPU for its threads"),
        ],
    },
    Incident {
        symptom: "Requests are slow, but the CPU is idle",
        clues: &[
            Clue::new("gil.wait.max", "above some 50 ms: a thread keeps the GIL, mostly in C code"),
            Clue::new(
                "gil.wait.p95",
                "above some 50 ms as well: it happens all the time, by many threads that compute",
            ),
            Clue::new("gil.wait.avg", "near gil.wait.p95: all threads wait; far below: some do"),
            Clue::new(
                "cpu.run_delay",
                "grows by more than a tenth of the time: threads wait for a CPU, not for Python",
            ),
            Clue::new(
                "cpu.throttled.percent",
                "above 0: the container is stopped for the rest of each period",
            ),
            Clue::new(
                "event_loop.delay.max",
                "above some 50 ms while gil.wait.max is low: a callback blocks the event loop",
            ),
            Clue::new("executor.queue_depth", "above 0: calls wait for a free thread of a pool"),
            Clue::new(
                "accept_queue.depth",
                "above 0: connections wait before Python sees them; traces show nothing",
            ),
            Clue::new("gunicorn.backlog", "above 0: no worker is free to accept connections"),
            Clue::new("gunicorn.request.queue_time", "high: requests wait before a worker takes them"),
            Clue::new("gunicorn.worker.busy.percent", "near 100: all threads of the worker are taken"),
            Clue::new("pressure.io", "far above 0: threads of the container wait for storage"),
            Clue::new(
                "threads.state",
                "state:disk above 0 again and again: a disk or a network file system hangs",
            ),
            Clue::new("io.read", "high: this process reads from storage what is not in memory"),
            Clue::new("io.write", "high: it writes to storage"),
            Clue::new(
                "cpu.ctx_switch.voluntary",
                "high with all of the above low: the program itself waits, for a \
                                                   database or a lock; its traces show for which",
            ),
        ],
    },
    Incident {
        symptom: "The CPU is used up: more processes, or faster code?",
        clues: &[
            Clue::new(
                "cpu.percent",
                "near 100: about one core; far above: native code that releases the GIL, in threads",
            ),
            Clue::new(
                "cpu.thread.max_percent",
                "near 100, as cpu.percent is: one thread is all that runs, so that \
                                                 more processes help and more threads do not",
            ),
            Clue::new("gil.wait.p95", "above some 50 ms: several threads compete for the GIL"),
            Clue::new("cpu.time.user", "most of it: the program's own code computes"),
            Clue::new(
                "cpu.time.sys",
                "most of it: system calls, page faults, or many small reads and writes",
            ),
            Clue::new(
                "faults.minor",
                "many: memory is mapped and released again and again, or was just forked",
            ),
            Clue::new("children.cpu", "high: child processes use it, and end"),
            Clue::new("cpu.ctx_switch.involuntary", "high: more threads want to run than there are CPUs"),
            Clue::new("cpu.run_delay", "grows as fast as time does, or faster: too few CPUs for its threads"),
            Clue::new("pressure.cpu", "near 100: something in the container waits for a CPU all the time"),
            Clue::new("cpu.limit", "how many CPUs there are at all"),
        ],
    },
    Incident {
        symptom: "It freezes for moments, with CPU to spare",
        clues: &[
            Clue::new(
                "cpu.throttled.percent",
                "above 0: its CPU quota is used up within a part of each period",
            ),
            Clue::new("cpu.throttled.time", "for how long it was stopped, on all CPUs together"),
            Clue::new(
                "cpu.limit",
                "below the number of threads that compute at once: raise it, or start fewer",
            ),
            Clue::new(
                "os.hiccup.max",
                "above some 50 ms without throttling: the host is overcommitted, or was paused",
            ),
            Clue::new("os.hiccup.p95", "high as well: it is late all the time, not once"),
            Clue::new("pressure.memory", "above 0: memory is short, and threads wait until some is freed"),
            Clue::new("mem.swap", "above 0: memory has to be read from a disk first"),
            Clue::new("mem.faults.major", "above 0: code and files are read from a disk again and again"),
        ],
    },
    Incident {
        symptom: "It pauses every few seconds",
        clues: &[
            Clue::new("gc.pause.max", "as long as the pauses: it is the garbage collector"),
            Clue::new("gc.pause.p95", "near gc.pause.max: all of them are long; far below: few are"),
            Clue::new("gc.pause.max.gen2", "as long as gc.pause.max: it is full collections that pause"),
            Clue::new("gc.pause.max.gen1", "as long: already younger generations are large"),
            Clue::new("gc.pause.max.gen0", "as long: the threshold is very high, or the CPU was taken away"),
            Clue::new("gc.explicit", "above 0: something calls gc.collect(); at each request, or in a loop?"),
            Clue::new(
                "gc.collections.gen2",
                "one for each pause: full collections of a large heap; see gc.freeze()",
            ),
            Clue::new(
                "gc.collections.gen1",
                "many: the thresholds are low, or something calls gc.collect(1)",
            ),
            Clue::new("gc.collections.gen0", "many: container objects are made faster than they are freed"),
            Clue::new("gc.pause.time", "its share of the time: what collections cost in all"),
            Clue::new("gc.pause.time.gen0", "the share of generation 0: raise the threshold if it is most"),
            Clue::new("gc.pause.time.gen1", "that of generation 1"),
            Clue::new("gc.pause.time.gen2", "that of full collections: see gc.freeze()"),
            Clue::new("gc.threshold.gen0", "not what it should be: something calls gc.set_threshold()"),
            Clue::new("gc.count.gen0", "what was made since the last collection"),
            Clue::new("gc.count.gen1", "how near the next collection of generation 1 is"),
            Clue::new(
                "gc.count.gen2",
                "collections of generation 1 since the last full one; a full one may wait longer",
            ),
            Clue::new(
                "gc.collected",
                "0: collections find nothing, so that fewer of them would do; high: cycles, \
                                       which only they can free",
            ),
        ],
    },
    Incident {
        symptom: "Memory grows",
        clues: &[
            Clue::new(
                "mem.time_to_limit",
                "below 21600 (6 hours): the seconds until the limit is reached at this rate; \
 the tag cause says whose memory grows",
            ),
            Clue::new("mem.rss", "keeps growing under a steady load"),
            Clue::new("mem.rss.anon", "grows with it: allocations; flat: mapped files or shared memory"),
            Clue::new("mem.rss.file", "grows instead: mapped files, of which the kernel can drop pages"),
            Clue::new("mem.rss.shmem", "grows instead: shared memory, as of multiprocessing or in /dev/shm"),
            Clue::new(
                "mem.virtual",
                "grows and mem.rss does not: mappings, or stacks of threads, that are not used",
            ),
            Clue::new(
                "mem.python.blocks",
                "grows with it: objects of Python; flat: a native library, or fragmentation",
            ),
            Clue::new("gc.collected", "high: cycles keep objects alive until a collection"),
            Clue::new("gc.uncollectable", "above 0: an extension makes cycles that cannot be freed"),
            Clue::new("mem.growth_rate", "above 0: how fast; kind:blocks as well: objects of Python"),
            Clue::new("modules.count", "grows too: modules are made at run time, and never freed"),
            Clue::new("children.count", "grows: child processes do not end, or are not waited for"),
            Clue::new("threads.native", "grows too: threads of a native library"),
            Clue::new("threads.python", "grows too: the program starts threads that do not end"),
            Clue::new("thread_count", "grows too: each thread has a stack, and keeps what it refers to"),
            Clue::new(
                "mem.working_set",
                "grows by more than mem.rss: other processes of the container grow as well",
            ),
            Clue::new("mem.limit", "what the limit is"),
            Clue::new("mem.headroom.percent", "how much is left until the container's limit"),
        ],
    },
    Incident {
        symptom: "Workers vanish",
        clues: &[
            Clue::new(
                "mem.time_to_limit",
                "fell towards 0 before they vanished: memory grew steadily up to the limit",
            ),
            Clue::new(
                "mem.headroom.percent",
                "was near 0 before they vanished: the container ran out of memory",
            ),
            Clue::new(
                "mem.limit_hits",
                "above 0: the container reached its limit, and the kernel had to free memory",
            ),
            Clue::new(
                "mem.rss.peak",
                "far above mem.rss: a short burst, which mem.rss misses as it is read once per flush",
            ),
            Clue::new("mem.oom_kills", "above 0: the kernel has killed a process of the container"),
            Clue::new("pids.percent", "near 100: no process or thread can be started"),
            Clue::new("process.uptime", "falls back to 0 again and again: the process is restarted"),
            Clue::new("gunicorn.workers", "fewer than configured: they are killed or time out"),
            Clue::new("gunicorn.is_running", "CRITICAL: no worker is left, or the master has ended"),
            Clue::new("gunicorn.log.critical", "above 0: a worker was ended for a timeout"),
        ],
    },
    Incident {
        symptom: "An asynchronous service is slow at moderate load",
        clues: &[
            Clue::new("event_loop.utilization", "near 100: the loop has no time left; start more processes"),
            Clue::new(
                "event_loop.delay.p95",
                "high while it is not: some callbacks are long, or make calls that block",
            ),
            Clue::new("event_loop.delay.max", "the longest of them"),
            Clue::new(
                "asyncio.tasks",
                "grows without end: tasks are started faster than they end, or never end",
            ),
            Clue::new("event_loop.slow_callbacks", "above 0: how often the loop was blocked"),
            Clue::new("event_loop.iterations", "far more than requests: a coroutine spins, as with sleep(0)"),
            Clue::new("event_loop.ready", "many, again and again: more arrives than the loop can do"),
            Clue::new("event_loop.timers", "grows without end: timeouts or delayed calls leak"),
            Clue::new("executor.queue_depth", "above 0: what was moved to threads waits there"),
        ],
    },
    Incident {
        symptom: "A background job has stopped, without an error",
        clues: &[
            Clue::new(
                "exceptions.uncaught",
                "source:thread: a thread has died of an exception; source:unraisable: one was \
                                              raised where nothing can handle it",
            ),
            Clue::new("thread_count", "lower than before: threads have ended"),
        ],
    },
    Incident {
        symptom: "\"Too many open files\" is near",
        clues: &[
            Clue::new("fd.percent", "how near: at 100 the next open() or accept() fails"),
            Clue::new("fd.count", "grows under a steady load: files or sockets are not closed"),
        ],
    },
    Incident {
        symptom: "Gunicorn responds with errors, or late",
        clues: &[
            Clue::new("gunicorn.request.status", "by status: which errors, and since when"),
            Clue::new("gunicorn.log.exception", "above 0: the application raises"),
            Clue::new("gunicorn.log.error", "above 0: Gunicorn reports errors of its own"),
            Clue::new("gunicorn.log.warning", "above 0: Gunicorn's warnings"),
            Clue::new("gunicorn.request.duration", "high: the application is slow, not the queue before it"),
            Clue::new(
                "gunicorn.requests",
                "lower than usual with normal durations: fewer requests arrive; with long ones: \
 workers are stuck",
            ),
            Clue::new("gunicorn.worker.requests.active", "near what a worker can serve: too few of them"),
            Clue::new("gunicorn.worker.connections", "near worker_connections: it accepts no more"),
        ],
    },
    Incident {
        symptom: "It is fast in one place and slow in another",
        clues: &[
            Clue::new(
                "info",
                "compare its tags: the allocator, the event loop, the garbage collector, or a debugging \
                               aid that was left on",
            ),
            Clue::new(
                "gil.reenabled",
                "1: a free-threaded build runs with the GIL, because an extension needs it",
            ),
            Clue::new("cpu.limit", "compare it as well: another quota, another machine"),
        ],
    },
    Incident {
        symptom: "What do the metrics themselves cost?",
        clues: &[
            Clue::new("collector.cpu", "CPU time of our own threads: some milliseconds a minute"),
            Clue::new("collector.gil_held", "how much of it kept the interpreter from the program"),
        ],
    },
    Incident {
        symptom: "There are gaps in the graphs",
        clues: &[
            Clue::new("collector.tick.late", "high: the machine or its limits kept our thread from running"),
            Clue::new(
                "collector.errors",
                "above 0: the interpreter did not answer in time, so that what only it knows is missing",
            ),
            Clue::new("collector.skipped", "above 0: memory was short, or a read would have cost too much"),
        ],
    },
];

/// The incidents that a metric of this full name explains.
pub fn explained_by(name: &str) -> impl Iterator<Item = &'static Incident> {
    INCIDENTS.iter().filter(move |incident| incident.clues.iter().any(|clue| clue.is_about(name)))
}

/// What to read after a metric of this full name, each once: what comes next in the incidents that it explains.
#[must_use]
pub fn read_after(name: &str) -> Vec<&'static str> {
    let mut next = Vec::new();
    for incident in explained_by(name) {
        let after = incident.clues.iter().skip_while(|clue| !clue.is_about(name)).nth(1);
        if let Some(clue) = after
            && !next.contains(&clue.name())
        {
            next.push(clue.name());
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_explains_an_incident() {
        let idle: Vec<_> =
            CATALOGUE.iter().filter(|metric| explained_by(metric.name).next().is_none()).collect();
        let names: Vec<_> = idle.iter().map(|metric| metric.name).collect();
        assert!(names.is_empty(), "no incident of src/catalogue/incidents.rs lists {names:?}");
    }

    #[test]
    fn every_clue_is_about_a_metric_and_no_incident_names_one_twice() {
        for clues in INCIDENTS.iter().map(|incident| incident.clues).chain([LADDER]) {
            for (at, clue) in clues.iter().enumerate() {
                let rows = CATALOGUE.iter().filter(|metric| clue.is_about(metric.name));
                assert_eq!(rows.count(), 1, "{}", clue.metric);
                assert!(clues[..at].iter().all(|before| before.metric != clue.metric), "{}", clue.metric);
            }
        }
    }

    #[test]
    fn what_to_read_next_follows_in_the_same_incident() {
        assert_eq!(read_after("runtime.python.fd.percent"), ["runtime.python.fd.count"]);
        assert_eq!(read_after("runtime.python.fd.count"), [""; 0]);
        let after = read_after("runtime.python.mem.headroom.percent");
        assert_eq!(after, ["runtime.python.mem.limit_hits"]);
    }
}
