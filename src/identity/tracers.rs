//! What the tracers in this process, ddtrace and OpenTelemetry, report about it.

use crate::catalogue::selection::Selection;

/// What the tracers in this process report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tracers {
    /// How ddtrace names the process, if the program has imported it.
    pub ddtrace: Option<Names>,
    /// How an OpenTelemetry SDK names the process, if one is set up.
    pub opentelemetry: Option<Names>,
    /// ddtrace's own runtime metrics.
    pub worker: RuntimeWorker,
}

impl Tracers {
    /// The same without the runtime-ids, which a child process does not share.
    #[must_use]
    pub fn without_ids(&self) -> Self {
        let mut tracers = self.clone();
        for names in [&mut tracers.ddtrace, &mut tracers.opentelemetry].into_iter().flatten() {
            names.runtime_id = None;
        }
        tracers
    }
}

/// ddtrace's own runtime metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeWorker {
    /// ddtrace sends none.
    #[default]
    Off,
    /// ddtrace sends these.
    Sends(Selection),
    /// We have stopped ddtrace's worker so many times. Each time it sent these as it ended.
    Stopped(Selection, u32),
}

impl RuntimeWorker {
    /// The rows that are left to ddtrace, as it sends them.
    #[must_use]
    pub fn sends(self) -> Selection {
        match self {
            Self::Sends(rows) => rows,
            Self::Off | Self::Stopped(..) => Selection::default(),
        }
    }

    /// The rows that ddtrace has sent as it ended, if we have stopped it since `before`.
    #[must_use]
    pub fn ended_with(self, before: Self) -> Selection {
        match self {
            Self::Stopped(rows, _) if self != before => rows,
            _ => Selection::default(),
        }
    }
}

/// How a tracer names the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Its id for this run of the process.
    pub runtime_id: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// Whether the tracer has inferred that service, as nothing named it.
    pub service_is_inferred: bool,
    /// The environment.
    pub env: Option<String>,
    /// The version.
    pub version: Option<String>,
}
