//! The Python interpreter's runtime metrics over DogStatsD.
//!
//! ```text
//!     facts                    meaning                      wire
//!   sources ──► Snapshot ──►  Interval + CATALOGUE ──►  emitter ──► sink
//!      ▲                         (pure)                    ▲
//!      └─────────── pipeline, at the sampler's beat ───────┘
//!                               ▲
//!                 python (the only pyo3)  ◄── python/runtime_metrics
//! ```
//!
//! The left reads numbers and decides nothing, the middle is pure, the right formats and sends.
//! A [`collector::Collector`] joins them with two threads: the sampler, which keeps the schedule and
//! never touches the interpreter, and the reader, the one that may wait.
//!
//! To add a metric, add a row to [`catalogue::CATALOGUE`].

pub mod catalogue;
pub mod clock;
pub mod collector;
pub mod config;
pub mod descriptor;
pub mod distribution;
pub mod emitter;
pub mod identity;
pub mod interval;
pub mod invocation;
pub mod message;
pub mod pipeline;
pub mod process_image;
pub mod program;
pub mod reader;
pub mod sampler;
pub mod selection;
mod slot;
pub mod snapshot;
pub mod sources;
pub mod variables;

#[cfg(feature = "python")]
mod python;
