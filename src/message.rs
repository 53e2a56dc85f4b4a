//! What we have to say to the operator. The edge hands it to Python's logging.

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How much it matters.
    pub severity: Severity,
    /// What it says; never a tag's value.
    pub text: String,
}

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For whoever looks for a fault.
    Debug,
    /// Good to know.
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
