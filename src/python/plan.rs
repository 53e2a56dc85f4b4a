//! What a collector is started with: settings and identity, decided once from arguments and environment.

use std::path::Path;

use pyo3::intern;
use pyo3::prelude::*;

use super::process::Process;
use super::{environment, program};
use crate::emitter::address::DEFAULT_SOCKET;
use crate::emitter::max_tag_bytes;
use crate::identity::function::Function;
use crate::identity::tracers::Tracers;
use crate::identity::{Entrypoint, IdentityInputs};
use crate::settings::variables::{Environment, Variable};
use crate::settings::{Arguments, InvalidArgument, Settings, Surroundings, Warning, extension_path};

/// What a collector is started with.
pub struct Plan {
    /// The settings.
    pub settings: Settings,
    /// The arguments of `enable()`.
    pub arguments: Arguments,
    /// The environment at that time.
    pub environment: Environment,
    /// How the program was started, if lines carry process tags.
    entrypoint: Option<Entrypoint>,
}

impl Plan {
    /// Decides by these arguments and the current environment; also returns warnings about variables.
    ///
    /// # Errors
    ///
    /// A wrong argument.
    pub fn new(py: Python<'_>, arguments: &Arguments) -> PyResult<(Self, Vec<Warning>)> {
        let environment = environment::read(py.import(intern!(py, "os"))?.as_any(), Variable::all())?;
        let (settings, warnings) = settings(arguments, &environment)?;
        let entrypoint = settings.process_tags.then(|| program::entrypoint(py)).transpose()?;
        Ok((Self { settings, arguments: arguments.clone(), environment, entrypoint }, warnings))
    }

    /// What the identity is made of, with what tracers say now.
    pub fn identity_inputs(&self, process: &Process, tracers: Tracers) -> IdentityInputs {
        IdentityInputs {
            arguments: self.arguments.service_arguments.clone(),
            runtime: process.runtime.clone(),
            runtime_id: self.settings.runtime_id.then(|| process.runtime_id()),
            entrypoint: self.entrypoint.clone(),
            max_tag_bytes: Some(max_tag_bytes(self.settings.origin.max_length())),
            environment: self.environment.identity(),
            tracers,
            function: self.settings.aws_lambda.map(Function::new),
        }
    }
}

/// The settings by these arguments, this environment, and what exists around the process.
pub fn settings(
    arguments: &Arguments,
    environment: &Environment,
) -> Result<(Settings, Vec<Warning>), InvalidArgument> {
    let default_socket = Path::new(DEFAULT_SOCKET);
    let surroundings = Surroundings {
        default_socket,
        has_default_socket: default_socket.exists(),
        has_extension: extension_path(environment).is_some_and(|path| Path::new(path).exists()),
    };
    Settings::new(arguments, environment, surroundings)
}
