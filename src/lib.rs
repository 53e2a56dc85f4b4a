//! The Python interpreter's runtime metrics over DogStatsD.
//!
//! ```text
//!     facts                    meaning                      wire
//!   sources ──► Snapshot ──►  Interval + catalogue ──►  emitter ──► sink (cadence)
//!      ▲                          (pure)                     ▲
//!      └────────── collector (pipeline, threads, clock) ─────┘
//!                                ▲
//!                   python (the only pyo3)  ◄── python/runtime_metrics
//! ```
//!
//! The left reads numbers and decides nothing, the middle is pure, the right formats and sends. A
//! [`collector::Collector`] joins them with two threads: the sampler, which keeps the schedule and never enters the
//! interpreter, and the reader, which may wait for it. Who we are ([`identity`], [`settings`]) and what we measure
//! ([`snapshot`]) meet in the collector and nowhere else.
//!
//! Imports run in one direction: `snapshot` ← `interval` ← `catalogue` ← `emitter` ← `settings` ← `identity` ←
//! `collector` ← `python`, and `snapshot` ← `sources` ← `collector`; `tests/architecture.rs` fails on a breach.
//!
//! To add a metric, add a row to [`catalogue::CATALOGUE`].

pub mod catalogue;
pub mod clock;
pub mod collector;
pub mod descriptor;
pub mod emitter;
pub mod fork_mark;
pub mod identity;
pub mod interval;
pub mod memory;
pub mod message;
pub mod replaceable;
pub mod settings;
pub mod snapshot;
pub mod sources;
pub mod stderr;
pub mod tag;

#[cfg(feature = "python")]
mod python;

/// The extension's alone: a program in Rust has an allocator of its own.
#[cfg(feature = "python")]
#[global_allocator]
static ALLOCATOR: memory::WithReserve<std::alloc::System> = memory::WithReserve::new(std::alloc::System);
