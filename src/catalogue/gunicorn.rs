//! The rows of Gunicorn: its workers, their requests, its log.

use std::time::Duration;

use super::metric::{Counter, Family, Level, Member, Metric, Reading, Unit, Value, Wire};
use crate::interval::Interval;
use crate::snapshot::server::{Ended, MasterFacts, Record, Requests, ServerStatus, WorkerCounts};
use crate::snapshot::{Snapshot, Source};
use crate::tag::{Tags, clean};

/// The metrics of Gunicorn's master and workers.
pub const ROWS: &[Metric] = &[
    Metric {
        name: "gunicorn.requests",
        unit: Unit::Request,
        level: Level::Default,
        by_name: false,
        wire: Wire::Count,
        needs: &[Source::Gunicorn],
        reading: Reading::Counter(Counter::of(|s| Some(ended(s)?.count)).starting_at_zero()),
        source: "the worker's hooks, or a wrapper around its ASGI application",
        description: "Requests that a Gunicorn worker answered or failed to answer.",
        absent: "outside Gunicorn's workers; where Gunicorn's statsd_host sends it",
        opentelemetry: Some("http.server.request.duration (count)"),
    },
    Metric {
        name: "gunicorn.request.status",
        unit: Unit::Request,
        level: Level::Default,
        by_name: false,
        wire: Wire::Count,
        needs: &[Source::Gunicorn],
        reading: Reading::Family(Family {
            suffix: Some("NNN"),
            tags: &[],
            series: 500,
            members: |interval| by_status(interval).unwrap_or_default(),
        }),
        source: "the status of the response; 500 where the application raised instead, unless the client was gone",
        description: "Requests by HTTP status, which is the last part of the name: gunicorn.request.status.404.",
        absent: "for a status that did not occur in the interval; where gunicorn.requests is not sent",
        opentelemetry: Some("http.server.request.duration{http.response.status_code} (count)"),
    },
    Metric {
        name: "gunicorn.request.duration",
        unit: Unit::Millisecond,
        level: Level::Default,
        by_name: false,
        wire: Wire::Timing,
        needs: &[Source::Gunicorn],
        reading: Reading::Observations(|s| Some(&ended(s)?.durations)),
        source: "monotonic clock, from before the call of the application to the end of its response",
        description: "How long each request took, including failed ones. Of more than 4,096 requests in an interval, a \
                      reservoir sample of 4,096 is sent, with its sample rate.",
        absent: "without requests; where gunicorn.requests is not sent",
        opentelemetry: Some("http.server.request.duration"),
    },
    Metric {
        name: "gunicorn.request.queue_time",
        unit: Unit::Millisecond,
        level: Level::Default,
        by_name: false,
        wire: Wire::Timing,
        needs: &[Source::Gunicorn],
        reading: Reading::Observations(|s| Some(&requests(s)?.queue_times)),
        source: "the header X-Request-Start and the wall clock",
        description: "How long each request was queued between the proxy and the start of its processing.",
        absent: "for requests without the header, or with a time in the future or more than a day ago",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.critical",
        unit: Unit::Record,
        level: Level::Default,
        by_name: false,
        wire: Wire::Count,
        needs: &[Source::Gunicorn],
        reading: Reading::Counter(Counter::of(|s| Some(recorded(s, Record::Critical))).omitting_zero()),
        source: "a handler on the logger gunicorn.error",
        description: "Records of level CRITICAL on Gunicorn's logger, not the application's, that pass its log level.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.error",
        unit: Unit::Record,
        level: Level::Default,
        by_name: false,
        wire: Wire::Count,
        needs: &[Source::Gunicorn],
        reading: Reading::Counter(Counter::of(|s| Some(recorded(s, Record::Error))).omitting_zero()),
        source: "a handler on the logger gunicorn.error",
        description: "Records of level ERROR without an exception on Gunicorn's own logger.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.warning",
        unit: Unit::Record,
        level: Level::Default,
        by_name: false,
        wire: Wire::Count,
        needs: &[Source::Gunicorn],
        reading: Reading::Counter(Counter::of(|s| Some(recorded(s, Record::Warning))).omitting_zero()),
        source: "a handler on the logger gunicorn.error",
        description: "Records of level WARNING on Gunicorn's own logger.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.log.exception",
        unit: Unit::Record,
        level: Level::Default,
        by_name: false,
        wire: Wire::Count,
        needs: &[Source::Gunicorn],
        reading: Reading::Counter(Counter::of(|s| Some(recorded(s, Record::Exception))).omitting_zero()),
        source: "a handler on the logger gunicorn.error",
        description: "Records of level ERROR with an exception on Gunicorn's own logger.",
        absent: "when there was none; where Gunicorn's statsd_host sends it",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.workers",
        unit: Unit::Worker,
        level: Level::Default,
        by_name: false,
        wire: Wire::Gauge,
        needs: &[Source::GunicornObjects],
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["app", "state"],
            series: 2,
            members: |interval| workers(interval.end()).unwrap_or_default(),
        }),
        source: "requests in flight, which workers publish in shared memory; or their CPU time, as configured",
        description: "Workers of a Gunicorn master by state: state:working while they serve a request, state:idle \
                      otherwise. app is the name that the process title shows.",
        absent: "outside Gunicorn's master",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.is_running",
        unit: Unit::Status,
        level: Level::Default,
        by_name: false,
        wire: Wire::ServiceCheck,
        needs: &[Source::GunicornObjects],
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["app"],
            series: 1,
            members: |interval| status(interval.end()).into_iter().collect(),
        }),
        source: "the workers of Gunicorn's master",
        description: "A service check without runtime-id: OK (0) while the master has workers, CRITICAL (2) when \
                      it has none and when it exits.",
        absent: "outside Gunicorn's master; after SIGKILL; while another master serves in its place (USR2)",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.backlog",
        unit: Unit::Connection,
        level: Level::Default,
        by_name: false,
        wire: Wire::Histogram,
        needs: &[Source::GunicornObjects, Source::GunicornBacklog],
        reading: Reading::Family(Family {
            suffix: None,
            tags: &["app"],
            series: 1,
            members: |interval| backlog(interval.end()).into_iter().collect(),
        }),
        source: "getsockopt(TCP_INFO) of the master's listeners",
        description: "Connections that wait for a worker to accept them, over all listeners of a Gunicorn master.",
        absent: "outside Gunicorn's master; on anything but Linux; for Unix sockets",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.worker.requests.active",
        unit: Unit::Request,
        level: Level::Default,
        by_name: true,
        wire: Wire::Gauge,
        needs: &[Source::Gunicorn],
        reading: Reading::Now(|s| Some(Value::Whole(requests(s)?.active))),
        source: "requests in flight",
        description: "Requests that a Gunicorn worker is serving; for gthread, its busy threads.",
        absent: "outside Gunicorn's workers",
        opentelemetry: Some("http.server.active_requests"),
    },
    Metric {
        name: "gunicorn.worker.connections",
        unit: Unit::Connection,
        level: Level::Default,
        by_name: true,
        wire: Wire::Gauge,
        needs: &[Source::GunicornObjects],
        reading: Reading::Now(|s| s.gunicorn.connections.map(Value::Whole)),
        source: "the worker's own count: nr_conns of gthread and asgi, the pool of gevent",
        description: "Connections that a Gunicorn worker holds, with or without a request.",
        absent: "outside Gunicorn's gthread, gevent and asgi workers; while the interpreter does not answer in time",
        opentelemetry: None,
    },
    Metric {
        name: "gunicorn.worker.busy.percent",
        unit: Unit::Percent,
        level: Level::Default,
        by_name: true,
        wire: Wire::Gauge,
        needs: &[Source::Gunicorn],
        reading: Reading::Change(busy_percent),
        source: "time in requests, divided by time and capacity (1, the threads of gthread, or worker_connections)",
        description: "How much of a Gunicorn worker's capacity was in use, on average over the interval: at 100 it \
                      had no thread left.",
        absent: "outside Gunicorn's workers; for UvicornWorker, whose capacity is unlimited",
        opentelemetry: None,
    },
];

fn requests(snapshot: &Snapshot) -> Option<&Requests> {
    snapshot.gunicorn.requests.as_ref()
}

fn ended(snapshot: &Snapshot) -> Option<&Ended> {
    requests(snapshot)?.ended.as_ref()
}

fn by_status(interval: &Interval) -> Option<Vec<(Member, Value)>> {
    let statuses = ended(interval.end())?.by_status.iter().map(|(status, _)| *status);
    let grown = statuses.filter_map(|status| {
        let count = interval.growth_from_zero(|s| ended(s)?.with_status(status))?;
        (count > 0).then_some((Member::Suffixed(status), Value::Whole(count)))
    });
    Some(grown.collect())
}

fn recorded(snapshot: &Snapshot, record: Record) -> u64 {
    snapshot.gunicorn.records[record as usize]
}

fn master(snapshot: &Snapshot) -> Option<&MasterFacts> {
    snapshot.gunicorn.master.as_ref()
}

fn tagged(master: &MasterFacts, tag: &str) -> Member {
    let mut tags = Tags::default();
    tags.push(&clean(&format!("app:{}", master.app)));
    tags.push(tag);
    Member::Tagged(tags)
}

fn workers(snapshot: &Snapshot) -> Option<Vec<(Member, Value)>> {
    let master = master(snapshot)?;
    let WorkerCounts { idle, working } = master.workers?;
    let member = |tag, count| (tagged(master, tag), Value::Whole(count));
    Some(vec![member("state:idle", idle), member("state:working", working)])
}

fn status(snapshot: &Snapshot) -> Option<(Member, Value)> {
    let master = master(snapshot)?;
    let status = match master.status? {
        ServerStatus::Ok => 0,
        ServerStatus::Critical => 2,
    };
    Some((tagged(master, ""), Value::Whole(status)))
}

fn backlog(snapshot: &Snapshot) -> Option<(Member, Value)> {
    let master = master(snapshot)?;
    Some((tagged(master, ""), Value::Whole(master.backlog?)))
}

#[expect(clippy::cast_precision_loss, reason = "No worker serves 2^52 requests at once.")]
fn busy_percent(interval: &Interval) -> Option<Value> {
    let capacity = requests(interval.end())?.capacity.filter(|capacity| *capacity > 0)?;
    let percent = interval.percent(|s| Some(requests(s).map_or(Duration::ZERO, |requests| requests.busy)))?;
    // The time in requests comes from another clock, which is read a moment later.
    Some(Value::Real((percent / capacity as f64).min(100.0)))
}
