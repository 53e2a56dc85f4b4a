//! The rows of the standard level about the program and its interpreter: what they are, and what goes wrong in them.

use super::metric::{Level, Metric, Reading, TaggedAlarm, Unit, Wire};
use crate::interval::Interval;
use crate::snapshot::{Description, Snapshot, Source, StallCause, Uncaught};

/// The metrics of the program, then its alarms.
pub const ROWS: &[Metric] = &[
    Metric {
        name: "runtime.python.info",
        unit: Unit::Process,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Description],
        reading: Reading::Description(description),
        source: "sys, gc, the modules that are imported, /proc/self/maps",
        description: "Always 1, sent once a minute: its tags describe the process, so that a fast one can be compared \
                      with a slow one. `gil`: on, off, or reenabled on a free-threaded build. `jit`: on or off, from \
                      CPython 3.14 on. `gc_impl`: generational, incremental (3.14.0 to 3.14.4) or free_threaded. \
                      `gc`: enabled or disabled. `allocator`: jemalloc, tcmalloc or mimalloc if such a library is \
                      mapped, otherwise pymalloc, mimalloc or malloc, as PYTHONMALLOC has it. `loop`: the first of \
                      uvloop, winloop, rloop, zuvloop, trio, gevent and asyncio that is imported, or none. `server`: \
                      gunicorn, uvicorn, granian, uwsgi, hypercorn, celery, lambda or other. `debug`: the first of \
                      tracemalloc, settrace, monitoring, asyncio (PYTHONASYNCIODEBUG) and devmode that is on, or none.",
        absent: "while the interpreter does not answer in time, as when C code holds the GIL",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.stall.count",
        unit: Unit::Event,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Stalls, Source::Probe, Source::EventLoops, Source::GcCallback],
        reading: Reading::TaggedAlarm(TaggedAlarm {
            key: "cause",
            quiet: 0,
            values: &[
                ("cpu_starved", |interval| stalls(interval, StallCause::CpuStarved)),
                ("io_d_state", |interval| stalls(interval, StallCause::IoDState)),
                ("gc", |interval| stalls(interval, StallCause::Gc)),
                ("gil_native", |interval| stalls(interval, StallCause::GilNative)),
                ("python", |interval| stalls(interval, StallCause::Python)),
            ],
        }),
        source: "what gil.wait.max and event_loop.delay.max observe; /proc/self/task, schedstat and stat; the callback \
                 in gc.callbacks",
        description: "Times that an event loop, or a thread that wants to run Python code, had to wait for more than a \
                      second. The cause is the first that held for half of the time: cpu_starved, the thread that kept \
                      it waiting waited for a CPU; io_d_state, it waited for a disk or a network file system (state \
                      D); gc, a garbage collection ran; gil_native, native code kept the GIL; python, a callback of \
                      the loop computed or made a blocking call. A stall is counted once, also while it goes on. One \
                      of more than four seconds is always seen, a shorter one mostly. A process that was stopped, by a \
                      signal, a debugger or the host, has not stalled.",
        absent: "in AWS Lambda",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.exceptions.uncaught",
        unit: Unit::Exception,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::UncaughtExceptions],
        reading: Reading::TaggedAlarm(TaggedAlarm {
            key: "source",
            quiet: 0,
            values: &[
                ("main", |interval| uncaught(interval, Uncaught::Main)),
                ("thread", |interval| uncaught(interval, Uncaught::Thread)),
                ("unraisable", |interval| uncaught(interval, Uncaught::Unraisable)),
                ("asyncio_never_retrieved", |interval| uncaught(interval, Uncaught::NeverRetrieved)),
            ],
        }),
        source: "sys.excepthook, threading.excepthook, sys.unraisablehook and the exception handlers of asyncio's \
                 loops, in which ours call those before them",
        description: "Exceptions that nothing handled, without SystemExit and KeyboardInterrupt. source:main ends the \
                      program, source:thread a thread of threading, while the rest goes on without it. \
                      source:unraisable was printed where none can be raised, as in a finaliser (__del__). \
                      source:asyncio_never_retrieved ended a task that nobody has awaited. Not counted where a \
                      hook that the program sets afterwards does not call the one before it.",
        absent: "while a hook is None; source:asyncio_never_retrieved where no event loop is observed, or where \
                 runtime.python.event_loop.* and runtime.python.stall.count are excluded",
        opentelemetry: None,
    },
    Metric {
        name: "runtime.python.gil.reenabled",
        unit: Unit::Process,
        level: Level::Standard,
        by_name: false,
        wire: Wire::Chosen,
        needs: &[Source::Gil],
        reading: Reading::Alarm(|interval| interval.growth_from_zero(gil_reenabled)),
        source: "sys._is_gil_enabled(), sys.flags.gil",
        description: "Sent as 1, once, where a free-threaded build runs with the GIL after all: a module that was \
                      imported does not support free threading. Not where PYTHON_GIL=1 or -X gil=1 asks for it.",
        absent: "on builds that are not free-threaded; while the interpreter does not answer in time",
        opentelemetry: None,
    },
];

fn description(snapshot: &Snapshot) -> Option<Description> {
    let description = snapshot.interpreter.as_ref()?.description?;
    let allocator = snapshot.process.allocator.unwrap_or(description.allocator);
    Some(Description { allocator, ..description })
}

fn gil_reenabled(snapshot: &Snapshot) -> Option<u64> {
    snapshot.is_gil_reenabled.map(u64::from)
}

fn stalls(interval: &Interval, cause: StallCause) -> Option<u64> {
    interval.growth_from_zero(|s| s.stalls.map(|stalls| stalls[cause as usize]))
}

fn uncaught(interval: &Interval, place: Uncaught) -> Option<u64> {
    interval.growth_from_zero(|s| s.uncaught[place as usize])
}
