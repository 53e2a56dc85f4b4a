//! Input from the interpreter, not a source: [`super::Gunicorn::drain`] makes facts of it.

/// The state of Gunicorn's own objects, as the interpreter reports it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GunicornObjects {
    /// In the master, the pids of its workers.
    pub workers: Vec<u32>,
    /// In the master, whether another master serves in its place.
    pub is_replaced: bool,
    /// In the master, connections that wait to be accepted.
    pub backlog: Option<u64>,
    /// In a worker, connections that it holds.
    pub connections: Option<u64>,
}
