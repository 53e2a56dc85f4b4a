//! AWS Lambda: what starts metrics in a function, what wraps its handler, its custom metrics, and what happens around
//! the snapshot that it may be restored from.

mod metric;
mod snapstart;
mod start;
mod wrapper;

pub use self::metric::lambda_metric;
pub use self::start::{mark_set_up, prepare};
pub use self::wrapper::instrument;
