//! The extension module `runtime_metrics._core`: converts and delegates, decides nothing.
//!
//! Nothing here raises into the program but a wrong argument of `enable()`.

mod arguments;
mod fork;
mod gc_callback;
mod interpreter;
mod log;
mod process;
mod running;
mod tables;

/// The native core of `runtime_metrics`.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::gc_callback::GcCallback;
    #[pymodule_export]
    use super::running::{disable, enable, enable_automatically, enabled, flush, snapshot};
    #[pymodule_export]
    use super::tables::{Metric, Variable, catalogue, variables};

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name that Python code looks for")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
