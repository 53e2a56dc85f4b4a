//! How our code runs in a callback of a loop.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::prelude::*;

/// Runs it so that a panic, which is a bug of ours, does not reach the program.
pub fn shielded(work: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Ok(()))
}
