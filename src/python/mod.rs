//! The extension module `runtime_metrics._core`, the only place that knows Python. It converts and delegates.
//!
//! Nothing here raises into the program except wrong arguments of `enable()`, with one more exception: what a signal
//! handler of the program raises while a call of ours runs Python code, `KeyboardInterrupt` or `SystemExit` for
//! example, is the program's and is passed on. Every `PyResult` in this folder may have it as its error; where there
//! are others, the documentation names them. [`interrupt`] separates it from exceptions that are ours to handle.
//!
//! Imports run in one direction: `interrupt` ← `program` ← `log` ← `process` ← `interpreter` ← `plan` ← `running` ←
//! `exit` ← `fork` ← `hooks` ← `aws_lambda` ← `api`, and the small files beside them; `tests/architecture.rs` fails on
//! a circle. What a lower file needs of a higher one it is given.

mod absence;
mod api;
mod arguments;
mod aws_lambda;
mod description;
mod environment;
mod event_loops;
mod exception_hooks;
mod executors;
mod exit;
mod explicit_collections;
mod first_uses;
mod fork;
mod gc_callback;
mod gunicorn_state;
mod hooks;
mod interned;
mod interpreter;
mod interrupt;
mod invocations;
mod log;
mod loop_handler;
mod native_function;
mod orphans;
mod pending;
mod plan;
mod process;
mod program;
mod rq;
mod running;
mod server;
mod start;
mod status;
mod stopped_world;
mod tables;
mod thread_local;
mod threads;
mod tracers;
mod turn;

/// The native core of `runtime_metrics`.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::python::api::{disable, enable, enable_automatically, enabled, flush, snapshot};
    #[pymodule_export]
    use crate::python::aws_lambda::{instrument, lambda_metric, mark_set_up};
    #[pymodule_export]
    use crate::python::gc_callback::GcCallback;
    use crate::python::interpreter::is_main;
    #[pymodule_export]
    use crate::python::server::{GunicornMaster, Request, Requests, become_gunicorn_master};
    #[pymodule_export]
    use crate::python::status::status;
    #[pymodule_export]
    use crate::python::tables::{
        Incident, Metric, Variable, catalogue, client_telemetry, incidents, is_named, lag_ladder,
        selected_names, variables,
    };
    use crate::python::{first_uses, log};

    /// What runs is one per process, and ends with the interpreter that the process began in.
    #[pymodule_init]
    fn refuse_sub_interpreters(module: &Bound<'_, PyModule>) -> PyResult<()> {
        if is_main(module.py()) {
            first_uses::prepare(module.py())?;
            return log::prepare(module.py());
        }
        Err(PyImportError::new_err("runtime_metrics can be imported by the main interpreter only"))
    }

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python code looks for this name.")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
