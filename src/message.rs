//! Messages for the operator, which `src/python` logs through Python's `logging`.

/// The most that a message shows of a value, in characters.
pub const MAX_SHOWN: usize = 200;

/// A message for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its level.
    pub severity: Severity,
    /// Its text, which never contains the value of a tag that the user has added.
    pub text: String,
}

/// The level of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Only useful to diagnose a problem.
    Debug,
    /// Normal operation.
    Info,
    /// Something is wrong.
    Warning,
}

impl Message {
    /// A message of any severity.
    #[must_use]
    pub fn new(severity: Severity, text: String) -> Self {
        Self { severity, text }
    }

    /// A warning.
    #[must_use]
    pub fn warning(text: impl Into<String>) -> Self {
        Self::new(Severity::Warning, text.into())
    }

    /// Its text after our name and the process: a log may show neither, and hold the messages of several processes.
    #[must_use]
    pub fn named(&self) -> String {
        format!("runtime-metrics[{}]: {}", std::process::id(), self.text)
    }
}
