//! How a collector starts, and takes over arguments.

use std::sync::Arc;

use pyo3::prelude::*;

use super::interrupt::catch_exception;
use super::log;
use super::plan::Plan;
use super::process::Process;
use super::running::{Running, current, not_collected};
use crate::identity::tracers::Tracers;
use crate::message::{Message, Severity};
use crate::settings::Arguments;

/// The outcome of a start.
#[derive(Default)]
pub struct Started {
    /// What runs now, if it did not run before.
    pub running: Option<Arc<Running>>,
    /// Messages to be logged.
    pub messages: Vec<Message>,
}

/// Starts a collector, or gives arguments to one that runs.
///
/// # Errors
///
/// A wrong argument.
pub fn start(
    py: Python<'_>,
    process: &'static Process,
    arguments: &Arguments,
    is_explicit: bool,
) -> PyResult<Started> {
    let running = current(py);
    let (plan, warnings) = Plan::new(py, arguments)?;
    log::set_verbose(plan.settings.verbose);
    if plan.settings.disabled {
        let text = "runtime metrics are not collected: DD_DOGSTATSD_DISABLE is set".to_owned();
        return Ok(Started { running: None, messages: vec![Message::new(Severity::Info, text)] });
    }
    if process.is_exiting() {
        return Ok(Started::default());
    }
    let mut messages = process.messages(warnings);
    messages.extend(process.unknown_variables(py)?);
    if let Some(running) = running {
        running.ensure_running();
        messages.extend(running.apply(py, process, plan)?);
        return Ok(Started { running: None, messages });
    }
    let running = match catch_exception(py, Running::new(py, process, plan, is_explicit))? {
        Ok(running) => Arc::new(running),
        Err(error) => {
            messages.push(not_collected(&error));
            return Ok(Started { running: None, messages });
        }
    };
    // If two threads start at once, the second has nothing to do.
    if !running.register() {
        return Ok(Started { running: None, messages });
    }
    let inputs = running.plan().identity_inputs(process, Tracers::default());
    messages.extend(inputs.identity().warning());
    let failures = running.start(py)?;
    if failures.is_empty() {
        messages.extend(running.plan().announcement(&inputs));
    }
    messages.extend(failures);
    Ok(Started { running: Some(running), messages })
}
