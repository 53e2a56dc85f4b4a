//! What a collector is started with: settings and identity, decided once from arguments and environment.

use std::path::Path;
use std::sync::Arc;

use pyo3::prelude::*;

use super::process::Process;
use super::{environment, program};
use crate::emitter::address::DEFAULT_SOCKET;
use crate::emitter::max_tag_bytes;
use crate::identity::function::Function;
use crate::identity::tracers::Tracers;
use crate::identity::{Entrypoint, IdentityInputs};
use crate::settings::variables::{Environment, Variable};
use crate::settings::{
    Arguments, InvalidArgument, ServiceArguments, Settings, Surroundings, Warning, extension_path,
};

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
        let environment = environment::read(py, Variable::all())?;
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
            environment: Arc::new(self.environment.identity()),
            tracers,
            function: self.settings.aws_lambda.map(Function::new),
        }
    }

    /// The names of the arguments of `requested` that would change what is in effect, which is this plan.
    ///
    /// Effects are compared: an argument that equals the variable in effect changes nothing. Settings keep to the
    /// environment of the start; the identity follows the environment and the tracers.
    pub fn changed_by(
        &self,
        requested: &Self,
        process: &Process,
        tracers: &Tracers,
    ) -> Result<Vec<&'static str>, InvalidArgument> {
        let asked = &requested.arguments;
        let (now, (then, _)) = (&self.settings, settings(asked, &self.environment)?);
        let is_elsewhere = then.destination.address != now.destination.address || then.sink != now.sink;

        let (held, given) = (&self.arguments.service_arguments, &asked.service_arguments);
        let service = given.service.clone().or(held.service.clone());
        let env = given.env.clone().or(held.env.clone());
        let version = given.version.clone().or(held.version.clone());
        let tags = given.tags.clone().or(held.tags.clone());
        let block = |arguments: ServiceArguments| {
            let inputs = requested.identity_inputs(process, tracers.clone());
            IdentityInputs { arguments, ..inputs }.identity().tags
        };
        let block_now = block(held.clone());
        let is_renamed = |arguments: ServiceArguments| block(arguments) != block_now;

        let changes = [
            ("dogstatsd_url", asked.dogstatsd_url.is_some() && is_elsewhere),
            ("flush_interval", asked.flush_interval.is_some() && then.interval != now.interval),
            ("service", is_renamed(ServiceArguments { service, ..held.clone() })),
            ("env", is_renamed(ServiceArguments { env, ..held.clone() })),
            ("version", is_renamed(ServiceArguments { version, ..held.clone() })),
            ("tags", is_renamed(ServiceArguments { tags, ..held.clone() })),
            ("level", asked.level.is_some() && then.selection != now.selection),
            ("wire_type", asked.wire_type.is_some() && then.wire_type != now.wire_type),
        ];
        Ok(changes.into_iter().filter(|(_, is_changed)| *is_changed).map(|(name, _)| name).collect())
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
