//! The names of the service: service, env and version, each by the strongest source that knows it.

use percent_encoding::percent_decode_str;

use super::command_line::Program;
use super::servers;
use super::tags::{UserTags, keyed};
use super::tracers::{Names, Tracers};
use crate::settings::ServiceArguments;
use crate::settings::variables::{
    AZURE_SITE_NAME, CLOUD_FUNCTION_NAME, CLOUD_RUN_SERVICE, ENTITY_ID, ENV, Environment,
    LAMBDA_FUNCTION_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, SERVICE, VERSION, Variable,
};
use crate::tag::clean;

/// The service of a program that nothing names.
pub(super) const UNNAMED: &str = "unnamed-python-service";

/// What names the service.
pub(super) struct NameInputs<'a> {
    pub(super) arguments: &'a ServiceArguments,
    pub(super) environment: &'a Environment,
    pub(super) tracers: &'a Tracers,
    pub(super) program: Option<Program<'a>>,
}

/// The names of the service, and what is left of the user's tags without them.
pub(super) struct ServiceNames {
    entity_id: Option<String>,
    service: Option<String>,
    env: Option<String>,
    version: Option<String>,
    /// Whether the service was named, and not inferred.
    pub(super) service_is_given: bool,
    pub(super) inferred_service: Option<String>,
    pub(super) user_tags: Vec<String>,
}

impl ServiceNames {
    pub(super) fn of(sources: &NameInputs<'_>) -> Self {
        let NameInputs { arguments, environment, tracers, program } = sources;
        let mut argument_tags = UserTags::of_items(arguments.tags.as_deref().unwrap_or_default());
        let mut variable_tags = UserTags::of_variables(environment);
        let variable = |variable| environment.get(variable).map(str::to_owned);
        let attributes = environment.get(OTEL_RESOURCE_ATTRIBUTES).unwrap_or_default();
        let ddtrace = tracers.ddtrace.clone().unwrap_or_default();
        let opentelemetry = tracers.opentelemetry.clone().unwrap_or_default();

        let given_service = first([
            arguments.service.clone(),
            argument_tags.take("service"),
            ddtrace.service.clone().filter(|_| !ddtrace.service_is_inferred),
            variable(SERVICE),
            variable(OTEL_SERVICE_NAME),
            attribute(attributes, "service.name"),
            variable_tags.take("service"),
            opentelemetry.service,
        ]);
        let inferred_service = first([ddtrace.service, infer_service(environment, *program)]);
        let service_is_given = given_service.is_some();
        let service = first([given_service, inferred_service.clone(), Some(UNNAMED.to_owned())]);
        let env = first([
            arguments.env.clone(),
            argument_tags.take("env"),
            ddtrace.env,
            variable(ENV),
            attribute(attributes, "deployment.environment.name"),
            attribute(attributes, "deployment.environment"),
            variable_tags.take("env"),
            opentelemetry.env,
        ]);
        let version = first([
            arguments.version.clone(),
            argument_tags.take("version"),
            ddtrace.version,
            variable(VERSION),
            attribute(attributes, "service.version"),
            variable_tags.take("version"),
            opentelemetry.version,
        ]);
        variable_tags.merge(argument_tags);
        Self {
            entity_id: first([variable(ENTITY_ID)]),
            service,
            env,
            version,
            service_is_given,
            inferred_service,
            user_tags: variable_tags.cleaned(),
        }
    }

    /// Drops each name for which the Datadog Lambda Extension would add another tag. It knows the variables alone, and
    /// writes names in lower case, as Datadog does.
    pub(super) fn drop_contradicted_by_extension(&mut self, environment: &Environment) {
        let drop_unless_same = |name: &mut Option<String>, variables: &[Variable]| {
            let added = variables.iter().find_map(|variable| environment.get(*variable));
            *name = name.take().filter(|name| added.is_none_or(|added| added.eq_ignore_ascii_case(name)));
        };
        drop_unless_same(&mut self.service, &[SERVICE, LAMBDA_FUNCTION_NAME]);
        drop_unless_same(&mut self.env, &[ENV]);
        drop_unless_same(&mut self.version, &[VERSION]);
    }

    pub(super) fn tags(&self) -> Vec<String> {
        keyed([
            ("dd.internal.entity_id", self.entity_id.as_deref()),
            ("service", self.service.as_deref()),
            ("env", self.env.as_deref()),
            ("version", self.version.as_deref()),
        ])
    }
}

/// The id of this run of the process: the one that spans carry, else our own.
pub(super) fn runtime_id(own: &str, tracers: &Tracers) -> Option<String> {
    let id = |names: &Option<Names>| names.as_ref()?.runtime_id.clone();
    first([id(&tracers.ddtrace), id(&tracers.opentelemetry), Some(own.to_owned())])
}

/// The first value of which something is left as a tag.
fn first<const N: usize>(values: [Option<String>; N]) -> Option<String> {
    values.into_iter().flatten().find(|value| !clean(value).is_empty())
}

/// One attribute of `OTEL_RESOURCE_ATTRIBUTES`, whose values are percent-encoded.
fn attribute(attributes: &str, key: &str) -> Option<String> {
    let pairs = attributes.split(',').filter_map(|item| item.split_once('='));
    let value = pairs.rev().find(|(k, _)| k.trim() == key)?.1.trim();
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// The platform's name for the function or site, else the application that a server runs, else the script, module or
/// executable that was started.
fn infer_service(environment: &Environment, program: Option<Program<'_>>) -> Option<String> {
    let platforms = [LAMBDA_FUNCTION_NAME, CLOUD_RUN_SERVICE, CLOUD_FUNCTION_NAME, AZURE_SITE_NAME];
    let platform = platforms.into_iter().find_map(|variable| environment.get(variable));
    platform.map(str::to_owned).or_else(|| servers::application(program?).or_else(|| program?.name()))
}
