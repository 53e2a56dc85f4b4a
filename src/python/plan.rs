//! What a collector is started with: settings and identity, decided once from arguments and environment.

use std::path::Path;
use std::sync::Arc;

use pyo3::prelude::*;

use super::interpreter::CPython;
use super::process::Process;
use super::{environment, program};
use crate::clock::Clock;
use crate::collector::{Collector, OutputHandover, introduction};
use crate::emitter::address::DEFAULT_SOCKET;
use crate::emitter::max_tag_bytes;
use crate::identity::function::Function;
use crate::identity::tracers::Tracers;
use crate::identity::{Entrypoint, IdentityInputs};
use crate::message::{Message, Severity};
use crate::settings::variables::{Environment, Variable};
use crate::settings::{
    Arguments, InvalidArgument, ServiceArguments, Settings, Sink, Surroundings, Warning, extension_path,
};
use crate::sources::Counters;

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

    /// That metrics will be sent, if messages go to standard error, where nobody has to set up a log for them.
    pub fn announcement(&self, inputs: &IdentityInputs) -> Option<Message> {
        let Settings { destination, interval, verbose, sink, .. } = &self.settings;
        let text =
            || format!("runtime metrics will be sent {}", introduction(destination, *interval, inputs));
        (*verbose && *sink == Sink::Socket).then(|| Message::new(Severity::Info, text()))
    }

    /// What the identity is made of, with what tracers report now.
    pub fn identity_inputs(&self, process: &Process, tracers: Tracers) -> IdentityInputs {
        IdentityInputs {
            arguments: self.arguments.service_arguments.clone(),
            runtime: process.runtime.clone(),
            runtime_id: self.settings.runtime_id.then(|| process.runtime_id()),
            entrypoint: self.entrypoint.clone(),
            max_tag_bytes: Some(max_tag_bytes(self.settings.origin.max_length())),
            max_own_tags: self.settings.selection.max_own_tags(),
            environment: Arc::new(self.environment.identity()),
            tracers,
            function: self.settings.aws_lambda.map(Function::new),
        }
    }

    /// A collector that reads this interpreter. It has opened its sources, and nothing runs yet.
    pub fn collector(
        &self,
        process: &Process,
        inputs: IdentityInputs,
        clock: Clock,
        interpreter: &Arc<CPython>,
        handover: Option<&OutputHandover>,
    ) -> Arc<Collector> {
        let counters = Counters {
            gc: interpreter.gc_counters(),
            gunicorn: Arc::clone(&process.gunicorn),
            uncaught: interpreter.uncaught_counters(),
            blocks: interpreter.blocks(),
            ..Counters::default()
        };
        interpreter.watch_loops(Arc::clone(&counters.event_loops));
        let interpreter = Arc::clone(interpreter) as _;
        Collector::new(Path::new("/"), clock, counters, &self.settings, inputs, interpreter, handover)
    }

    /// The names of the arguments of `requested` that would change what is in effect, which is this plan.
    ///
    /// Effects are compared: an argument that equals the variable in effect changes nothing. Settings keep to the
    /// environment at the start; the identity follows the environment and the tracers.
    pub fn changed_by(
        &self,
        requested: &Self,
        process: &Process,
        tracers: &Tracers,
    ) -> Result<Vec<&'static str>, InvalidArgument> {
        let arguments = &requested.arguments;
        let (old, (new, _)) = (&self.settings, settings(arguments, &self.environment)?);
        let changes_sink = new.destination.address != old.destination.address || new.sink != old.sink;

        // In any order, and without a limit that could hide a difference.
        let tags = |arguments: ServiceArguments| {
            let inputs = requested.identity_inputs(process, tracers.clone());
            let identity = IdentityInputs { arguments, max_tag_bytes: None, ..inputs }.identity();
            let mut tags: Vec<String> = identity.tags.iter().map(str::to_owned).collect();
            tags.sort_unstable();
            tags
        };
        let current = &self.arguments.service_arguments;
        let current_tags = tags(current.clone());
        let changes_tags = |arguments| tags(arguments) != current_tags;
        let given = arguments.service_arguments.clone();
        let service = given.service.or(current.service.clone());
        let env = given.env.or(current.env.clone());
        let version = given.version.or(current.version.clone());
        let user_tags = given.tags.or(current.tags.clone());

        let changes = [
            ("dogstatsd_url", arguments.dogstatsd_url.is_some() && changes_sink),
            ("flush_interval", arguments.flush_interval.is_some() && new.interval != old.interval),
            ("service", changes_tags(ServiceArguments { service, ..current.clone() })),
            ("env", changes_tags(ServiceArguments { env, ..current.clone() })),
            ("version", changes_tags(ServiceArguments { version, ..current.clone() })),
            ("tags", changes_tags(ServiceArguments { tags: user_tags, ..current.clone() })),
            ("level", arguments.level.is_some() && new.selection != old.selection),
            ("wire_type", arguments.wire_type.is_some() && new.wire_type != old.wire_type),
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
