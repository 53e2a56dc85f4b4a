//! The extension module `runtime_metrics._core`: converts and delegates, decides nothing.
//!
//! Nothing here raises into the program but a wrong argument of `enable()`.

mod arguments;
mod aws_lambda;
mod fork;
mod gc_callback;
mod interpreter;
mod log;
mod process;
mod running;
mod server;
mod status;
mod tables;
mod tracers;

/// The native core of `runtime_metrics`.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::aws_lambda::{instrument, lambda_metric, note_set_up};
    #[pymodule_export]
    use super::gc_callback::GcCallback;
    #[pymodule_export]
    use super::running::{disable, enable, enable_automatically, enabled, flush, snapshot};
    #[pymodule_export]
    use super::server::{GunicornMaster, Request, Requests, lead_gunicorn};
    #[pymodule_export]
    use super::status::status;
    #[pymodule_export]
    use super::tables::{Metric, Variable, catalogue, client_telemetry, variables};

    /// What runs is one per process, and ends with the interpreter that it began in.
    #[pymodule_init]
    fn only_in_the_main_interpreter(module: &Bound<'_, PyModule>) -> PyResult<()> {
        if super::interpreter::is_main(module.py()) {
            return Ok(());
        }
        Err(PyImportError::new_err("runtime_metrics can be imported by the main interpreter only"))
    }

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name that Python code looks for")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
