//! The units of values.

use std::fmt;

/// The unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Block of memory of Python's own allocator.
    Block,
    /// Byte.
    Byte,
    /// Garbage collection.
    Collection,
    /// Connection of a client.
    Connection,
    /// CPU.
    Core,
    /// File descriptor.
    Descriptor,
    /// Something that failed.
    Error,
    /// Something that has happened.
    Event,
    /// Exception.
    Exception,
    /// Page fault.
    Fault,
    /// A limit that was reached.
    Hit,
    /// Something that waits in a queue.
    Item,
    /// Millisecond.
    Millisecond,
    /// Module of Python.
    Module,
    /// Nanosecond.
    Nanosecond,
    /// Container object.
    Object,
    /// A flush, or a read for one.
    Operation,
    /// Percent: of one core, of what a worker can serve.
    Percent,
    /// Process.
    Process,
    /// Record of a log.
    Record,
    /// HTTP request.
    Request,
    /// Second.
    Second,
    /// Status of a service check: 0 is OK, 2 is CRITICAL.
    Status,
    /// Context switch.
    Switch,
    /// Task of asyncio.
    Task,
    /// Operating-system thread.
    Thread,
    /// Worker process.
    Worker,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Byte => "byte",
            Self::Collection => "collection",
            Self::Connection => "connection",
            Self::Core => "core",
            Self::Descriptor => "descriptor",
            Self::Error => "error",
            Self::Event => "event",
            Self::Exception => "exception",
            Self::Fault => "fault",
            Self::Hit => "hit",
            Self::Item => "item",
            Self::Millisecond => "millisecond",
            Self::Module => "module",
            Self::Nanosecond => "nanosecond",
            Self::Object => "object",
            Self::Operation => "operation",
            Self::Percent => "percent",
            Self::Process => "process",
            Self::Record => "record",
            Self::Request => "request",
            Self::Second => "second",
            Self::Status => "status",
            Self::Switch => "switch",
            Self::Task => "task",
            Self::Thread => "thread",
            Self::Worker => "worker",
        })
    }
}
