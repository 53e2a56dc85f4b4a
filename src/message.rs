//! Messages for the operator, which `src/python` logs through Python's `logging`.

/// The most that a message shows of a value, in characters.
pub const MAX_SHOWN: usize = 200;

/// A message for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its level.
    pub severity: Severity,
    /// Its text, which never contains a tag's value.
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
}
