//! What tracers in this process, ddtrace and OpenTelemetry, report about it. They are found among the modules that the
//! program has imported; nothing is imported to find them.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use once_cell::race::OnceBox;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::interrupt::ignore_exception;
use crate::catalogue::metric::Level;
use crate::catalogue::selection::Selection;
use crate::identity::tracers::{Names, RuntimeWorker, Tracers};
use crate::python::interned::intern;

/// The names that ddtrace's runtime metrics have, read once: the release does not change while the process runs.
static DDTRACES_NAMES: OnceBox<Selection> = OnceBox::new();

/// How often we have stopped ddtrace's runtime metrics. Every answer carries it, as one that comes too late is dropped.
static STOPS: AtomicU32 = AtomicU32::new(0);

/// What tracers report now; `None` if one of them failed to answer. With `force`, ddtrace's own runtime metrics are
/// disabled if they run.
pub fn read(modules: &Bound<'_, PyDict>, force: bool) -> PyResult<Option<Tracers>> {
    let py = modules.py();
    let tracers = || {
        let opentelemetry = opentelemetry(modules)?;
        // The parent of ddtrace's other module, so without it there is neither.
        let Some(runtime) = modules.get_item(intern!(py, "ddtrace.internal.runtime"))? else {
            return Ok(Tracers { opentelemetry, ..Tracers::default() });
        };
        Ok(Tracers { ddtrace: ddtrace(modules, &runtime)?, opentelemetry, worker: worker(modules, force)? })
    };
    ignore_exception(py, tracers())
}

/// How ddtrace names the process.
fn ddtrace(modules: &Bound<'_, PyDict>, runtime: &Bound<'_, PyAny>) -> PyResult<Option<Names>> {
    let py = modules.py();
    // Its import may still be under way.
    let Some(runtime_id) = runtime.getattr_opt(intern!(py, "get_runtime_id"))? else { return Ok(None) };
    let mut names = Names { runtime_id: text(&runtime_id.call0()?), ..Names::default() };
    let ddtrace = modules.get_item(intern!(py, "ddtrace"))?;
    let config = ddtrace.map(|ddtrace| ddtrace.getattr_opt(intern!(py, "config"))).transpose()?.flatten();
    if let Some(config) = config {
        let name = |key: &Bound<'_, PyString>| -> PyResult<Option<String>> {
            Ok(config.getattr_opt(key)?.and_then(|name| text(&name)))
        };
        names.service = name(intern!(py, "service"))?;
        let is_given = config.getattr_opt(intern!(py, "_is_user_provided_service"))?;
        names.service_is_inferred = is_given.is_some_and(|given| given.is_truthy().is_ok_and(|given| !given));
        names.env = name(intern!(py, "env"))?;
        names.version = name(intern!(py, "version"))?;
    }
    Ok(Some(names))
}

/// The resource of the SDK, once it is set up. Until then there is a proxy, which has none.
fn opentelemetry(modules: &Bound<'_, PyDict>) -> PyResult<Option<Names>> {
    let py = modules.py();
    let Some(trace) = modules.get_item(intern!(py, "opentelemetry.trace"))? else { return Ok(None) };
    // Not read by get_tracer_provider(), which imports and sets up an SDK if the environment names one.
    let Some(provider) = trace.getattr_opt(intern!(py, "_TRACER_PROVIDER"))? else { return Ok(None) };
    let Some(resource) = provider.getattr_opt(intern!(py, "resource"))? else { return Ok(None) };
    let attributes = resource.getattr(intern!(py, "attributes"))?;
    let attribute = |key: &Bound<'_, PyString>| -> PyResult<Option<String>> {
        Ok(text(&attributes.call_method1(intern!(py, "get"), (key,))?))
    };
    let env = attribute(intern!(py, "deployment.environment.name"))?;
    Ok(Some(Names {
        runtime_id: attribute(intern!(py, "service.instance.id"))?,
        service: attribute(intern!(py, "service.name"))?.filter(|name| !name.starts_with("unknown_service")),
        service_is_inferred: false,
        env: env.map_or_else(|| attribute(intern!(py, "deployment.environment")), |env| Ok(Some(env)))?,
        version: attribute(intern!(py, "service.version"))?,
    }))
}

/// ddtrace's own runtime metrics.
fn worker(modules: &Bound<'_, PyDict>, force: bool) -> PyResult<RuntimeWorker> {
    let py = modules.py();
    let module = modules.get_item(intern!(py, "ddtrace.internal.runtime.runtime_metrics"))?;
    let worker = module.map(|module| module.getattr_opt(intern!(py, "RuntimeWorker"))).transpose()?.flatten();
    let Some(worker) = worker else { return Ok(RuntimeWorker::Off) };
    let sent = || {
        *DDTRACES_NAMES
            .get_or_init(|| Box::new(names_of(modules).unwrap_or_else(|_| Selection::at(Level::Default))))
    };
    if !worker.getattr(intern!(py, "enabled"))?.is_truthy()? {
        return Ok(match STOPS.load(SeqCst) {
            0 => RuntimeWorker::Off,
            stops => RuntimeWorker::Stopped(sent(), stops),
        });
    }
    if force {
        // Nothing else of ddtrace is changed. As ddtrace is loaded, this imports one small module.
        let disable = || py.import("ddtrace.runtime")?.getattr("RuntimeMetrics")?.call_method0("disable");
        if ignore_exception(py, disable())?.is_some() {
            return Ok(RuntimeWorker::Stopped(sent(), STOPS.fetch_add(1, SeqCst) + 1));
        }
    }
    Ok(RuntimeWorker::Sends(sent()))
}

/// The names that this release of ddtrace sends. Releases before 4 send fewer.
fn names_of(modules: &Bound<'_, PyDict>) -> PyResult<Selection> {
    let constants = modules.get_item("ddtrace.internal.runtime.constants")?;
    let Some(constants) = constants else { return Ok(Selection::at(Level::Default)) };
    let mut sent = Selection::default();
    for name in constants.getattr("DEFAULT_RUNTIME_METRICS")?.try_iter()? {
        sent = sent.with(Selection::named(&name?.extract::<String>()?));
    }
    Ok(sent)
}

fn text(value: &Bound<'_, PyAny>) -> Option<String> {
    let text = value.cast::<PyString>().ok()?.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}
