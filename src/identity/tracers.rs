//! What the tracers in this process, ddtrace and OpenTelemetry, say about it.

use crate::catalogue::selection::Selection;

/// What tracers in this process say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tracers {
    /// How ddtrace names the process, if the program has imported it.
    pub ddtrace: Option<Names>,
    /// How an OpenTelemetry SDK does, if one is set up.
    pub opentelemetry: Option<Names>,
    /// Runtime metrics that ddtrace sends itself.
    pub worker: RuntimeWorker,
}

impl Tracers {
    /// The same but for the ids, which a child process does not share.
    #[must_use]
    pub fn without_ids(&self) -> Self {
        let mut heirs = self.clone();
        for names in [&mut heirs.ddtrace, &mut heirs.opentelemetry].into_iter().flatten() {
            names.runtime_id = None;
        }
        heirs
    }
}

/// ddtrace's own runtime metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeWorker {
    /// It sends none.
    #[default]
    Off,
    /// It sent these when we were started, which the first flush may find confirmed, and says then.
    Sent(Selection),
    /// It sends these.
    Sends(Selection),
    /// We stopped it, so many times by now: each time it sent these as it ended.
    Stopped(Selection, u32),
}

impl RuntimeWorker {
    /// The rows that are its to send.
    #[must_use]
    pub fn sends(self) -> Selection {
        match self {
            Self::Sent(rows) | Self::Sends(rows) => rows,
            Self::Off | Self::Stopped(..) => Selection::default(),
        }
    }

    /// The rows that it has sent as it ended, if we have stopped it since it was as it was before.
    #[must_use]
    pub fn ended_with(self, before: Self) -> Selection {
        match self {
            Self::Stopped(rows, _) if self != before => rows,
            _ => Selection::default(),
        }
    }

    /// The same, not yet said.
    #[must_use]
    pub fn unsaid(self) -> Self {
        match self {
            Self::Sends(rows) => Self::Sent(rows),
            other => other,
        }
    }
}

/// How a tracer names the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Its id of this run of the process.
    pub runtime_id: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// Whether it has made that name up, as nobody gave it one.
    pub service_is_inferred: bool,
    /// The environment.
    pub env: Option<String>,
    /// The version.
    pub version: Option<String>,
}
