//! Every environment variable we read, and the environment itself as a plain map.
//!
//! What is not a row here is not read: the edge collects exactly these names, and an [`Environment`] is asked by
//! row. `docs/configuration.md` is generated from this table.

/// A variable of the environment.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What holds while it is unset, empty or wrong.
    pub default: &'static str,
    /// The values it takes.
    pub accepts: &'static str,
    /// What it does.
    pub effect: &'static str,
}

/// Whether automatic starts start. Read by `runtime_metrics/automatic.py`, before this core is loaded.
pub static ENABLED: Variable = Variable {
    name: "DD_RUNTIME_METRICS_ENABLED",
    default: "true",
    accepts: "true, false, 1 or 0",
    effect: "Whether `runtime-metrics run`, `import runtime_metrics.auto` and runtime_metrics.aws_lambda start metrics. With \
             runtime-metrics-autostart the default is false. enable() starts in any case.",
};

/// OpenTelemetry's switch, which turns automatic starts off. Read there, too.
pub static OTEL_METRICS_EXPORTER: Variable = Variable {
    name: "OTEL_METRICS_EXPORTER",
    default: "",
    accepts: "text",
    effect: "If it is none, automatic starts do not start, and say so. enable() starts in any case.",
};

/// Period of a flush.
pub static INTERVAL: Variable = Variable {
    name: "DD_RUNTIME_METRICS_INTERVAL",
    default: "10",
    accepts: "a number of seconds from 0.01 to 86400",
    effect: "How often metrics are sent.",
};

/// How much is sent.
pub static LEVEL: Variable = Variable {
    name: "DD_RUNTIME_METRICS_LEVEL",
    default: "default",
    accepts: "default",
    effect: "How much is sent.",
};

/// What is sent in addition.
pub static INCLUDE: Variable = Variable {
    name: "DD_RUNTIME_METRICS_INCLUDE",
    default: "",
    accepts: "a comma list of names and groups like gc.*",
    effect: "What is sent beside the metrics of the level.",
};

/// What is not sent.
pub static EXCLUDE: Variable = Variable {
    name: "DD_RUNTIME_METRICS_EXCLUDE",
    default: "",
    accepts: "a comma list of names and groups like gc.*, but not cpu.time.sys",
    effect: "What is not sent, whatever else says that it is. cpu.time.sys always is: Datadog shows the page of runtime \
             metrics by it.",
};

/// Type of every line.
pub static WIRE_TYPE: Variable = Variable {
    name: "DD_RUNTIME_METRICS_WIRE_TYPE",
    default: "distribution",
    accepts: "distribution or gauge",
    effect: "The DogStatsD type of every line. Distributions of several processes are merged by the Agent; gauges \
             overwrite each other.",
};

/// ddtrace's switch for gauges.
pub static EXPERIMENTAL_FEATURES: Variable = Variable {
    name: "DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED",
    default: "",
    accepts: "a comma list",
    effect: "If it contains DD_RUNTIME_METRICS_ENABLED, lines are gauges unless the variable above says otherwise \
             (as in ddtrace).",
};

/// Whether the runtime-id tag is sent.
pub static RUNTIME_ID_ENABLED: Variable = Variable {
    name: "DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED",
    default: "true",
    accepts: "true, false, 1 or 0",
    effect: "Whether every line carries the tag runtime-id.",
};

/// The older name of the variable above.
pub static EXPERIMENTAL_RUNTIME_ID: Variable = Variable {
    name: "DD_TRACE_EXPERIMENTAL_RUNTIME_ID_ENABLED",
    default: "",
    accepts: "true, false, 1 or 0",
    effect: "ddtrace's older name of the variable above; read only if that one is unset.",
};

/// Whether our own sending is reported.
pub static CLIENT_TELEMETRY: Variable = Variable {
    name: "DD_RUNTIME_METRICS_CLIENT_TELEMETRY",
    default: "false",
    accepts: "true, false, 1 or 0",
    effect: "Whether each flush also tells what was sent and lost, as datadog.dogstatsd.client.* (never in AWS Lambda).",
};

/// Whether ddtrace gives way.
pub static FORCE: Variable = Variable {
    name: "DD_RUNTIME_METRICS_FORCE",
    default: "false",
    accepts: "true, false, 1 or 0",
    effect: "If ddtrace sends runtime metrics itself: false leaves to it what it sends, true disables them.",
};

/// How Gunicorn's master tells what its workers do.
pub static GUNICORN_WORKER_STATE: Variable = Variable {
    name: "DD_RUNTIME_METRICS_GUNICORN_WORKER_STATE",
    default: "in_flight",
    accepts: "in_flight or cpu",
    effect: "Which of Gunicorn's workers count as working: those that serve a request, or, as the Agent's check has it, \
             those that use CPU time within a tenth of a second.",
};

/// Forbids to send.
pub static DISABLE: Variable = Variable {
    name: "DD_DOGSTATSD_DISABLE",
    default: "false",
    accepts: "true, false, 1 or 0",
    effect: "If true, enable() does nothing: nothing is collected, nothing is sent.",
};

/// Where to send, as a URL.
pub static DOGSTATSD_URL: Variable = Variable {
    name: "DD_DOGSTATSD_URL",
    default: "",
    accepts: crate::emitter::address::ACCEPTED,
    effect: "Where metrics are sent. Stronger than the hosts and ports below.",
};

/// Where to send, by host.
pub static DOGSTATSD_HOST: Variable = Variable {
    name: "DD_DOGSTATSD_HOST",
    default: "",
    accepts: "a host name or an IP address",
    effect: "The host metrics are sent to, over UDP.",
};

/// Where to send, by the Agent's host.
pub static AGENT_HOST: Variable = Variable {
    name: "DD_AGENT_HOST",
    default: "",
    accepts: "a host name or an IP address",
    effect: "The same, if the variable above is unset.",
};

/// The UDP port.
pub static DOGSTATSD_PORT: Variable = Variable {
    name: "DD_DOGSTATSD_PORT",
    default: "",
    accepts: "a port from 1 to 65535",
    effect: "The UDP port metrics are sent to, 8125 by default.",
};

/// The UDP port, weaker.
pub static AGENT_PORT: Variable = Variable {
    name: "DD_AGENT_PORT",
    default: "",
    accepts: "a port from 1 to 65535",
    effect: "The same, if the variable above is unset (as in ddtrace; beware where it names the trace port).",
};

/// The service.
pub static SERVICE: Variable = Variable {
    name: "DD_SERVICE",
    default: "",
    accepts: "text",
    effect: "The tag service, unless code has told ddtrace another. Unset, the name comes from OpenTelemetry's variables, DD_TAGS, or the program's own name.",
};

/// The environment.
pub static ENV: Variable = Variable { name: "DD_ENV", default: "", accepts: "text", effect: "The tag env." };

/// The version.
pub static VERSION: Variable =
    Variable { name: "DD_VERSION", default: "", accepts: "text", effect: "The tag version." };

/// User tags.
pub static TAGS: Variable = Variable {
    name: "DD_TAGS",
    default: "",
    accepts: "key:value items separated by commas or, if there is none, by spaces",
    effect: "Further tags on every line.",
};

/// User tags, weaker.
pub static DATADOG_TAGS: Variable = Variable {
    name: "DATADOG_TAGS",
    default: "",
    accepts: "key:value items separated by commas",
    effect: "The same; DD_TAGS wins key by key.",
};

/// OpenTelemetry's service name.
pub static OTEL_SERVICE_NAME: Variable = Variable {
    name: "OTEL_SERVICE_NAME",
    default: "",
    accepts: "text",
    effect: "The tag service, if DD_SERVICE is unset.",
};

/// OpenTelemetry's resource attributes.
pub static OTEL_RESOURCE_ATTRIBUTES: Variable = Variable {
    name: "OTEL_RESOURCE_ATTRIBUTES",
    default: "",
    accepts: "key=value items separated by commas",
    effect: "service.name, deployment.environment.name (or deployment.environment) and service.version give the tags \
             service, env and version where the variables above do not.",
};

/// The function's name in AWS Lambda.
pub static LAMBDA_FUNCTION_NAME: Variable = Variable {
    name: "AWS_LAMBDA_FUNCTION_NAME",
    default: "",
    accepts: "text",
    effect: "The tag service, if nothing above names it.",
};

/// How AWS Lambda has set up the environment.
pub static LAMBDA_INITIALIZATION_TYPE: Variable = Variable {
    name: "AWS_LAMBDA_INITIALIZATION_TYPE",
    default: "",
    accepts: "text",
    effect: "Where AWS Lambda has set it to lambda-managed-instances, metrics are sent at every interval as on any server; \
             with snap-start they begin anew after each restore.",
};

/// The function's handler in AWS Lambda. Read by `runtime_metrics/aws_lambda.py`.
pub static LAMBDAS_HANDLER: Variable = Variable {
    name: "_HANDLER",
    default: "",
    accepts: "module.function",
    effect: "If AWS Lambda has set it to runtime_metrics.aws_lambda.handler, the runtime imports with that module the handler \
             that the next variable names.",
};

/// The handler beneath ours. Read there, too.
pub static LAMBDA_HANDLER: Variable = Variable {
    name: "DD_RUNTIME_METRICS_LAMBDA_HANDLER",
    default: "",
    accepts: "module.function",
    effect: "The function's own handler, where runtime_metrics.aws_lambda.handler stands in its place.",
};

/// What is beneath datadog-lambda's handler, or ours. Read there, too.
pub static DATADOG_LAMBDA_HANDLER: Variable = Variable {
    name: "DD_LAMBDA_HANDLER",
    default: "",
    accepts: "module.function",
    effect: "The same, if the variable above is unset and this one does not name runtime_metrics.aws_lambda.handler.",
};

/// Whether a function keeps the schedule of a server.
pub static LAMBDA_THREAD: Variable = Variable {
    name: "DD_RUNTIME_METRICS_LAMBDA_THREAD",
    default: "false",
    accepts: "true, false, 1 or 0",
    effect: "If true, metrics are sent at every interval in AWS Lambda, too, and not at the end of each invocation: late, \
             and at the cost of the function's time ([lambda.md](lambda.md)).",
};

/// Whether metrics go to the log.
pub static FLUSH_TO_LOG: Variable = Variable {
    name: "DD_FLUSH_TO_LOG",
    default: "false",
    accepts: "true, false, 1 or 0",
    effect: "If true, metrics of a function in AWS Lambda that has neither the Datadog Lambda Extension nor an address go to \
             its log, for the Datadog Forwarder. Only where each invocation sends its own: not on managed instances, nor with \
             the variable above.",
};

/// Where the extension is looked for.
pub static LAMBDA_EXTENSION: Variable = Variable {
    name: "DD_RUNTIME_METRICS_LAMBDA_EXTENSION",
    default: "/opt/extensions/datadog-agent",
    accepts: "a path",
    effect: "Where AWS Lambda has the Datadog Lambda Extension; for tests.",
};

/// The service's name in Cloud Run.
pub static K_SERVICE: Variable =
    Variable { name: "K_SERVICE", default: "", accepts: "text", effect: "The same (Cloud Run)." };

/// The function's name in Cloud Functions.
pub static FUNCTION_NAME: Variable =
    Variable { name: "FUNCTION_NAME", default: "", accepts: "text", effect: "The same (Cloud Functions)." };

/// The site's name in Azure.
pub static WEBSITE_SITE_NAME: Variable =
    Variable { name: "WEBSITE_SITE_NAME", default: "", accepts: "text", effect: "The same (Azure)." };

/// Whether process tags are sent.
pub static PROCESS_TAGS: Variable = Variable {
    name: "DD_EXPERIMENTAL_PROPAGATE_PROCESS_TAGS_ENABLED",
    default: "false",
    accepts: "true, false, 1 or 0",
    effect: "Whether every line carries ddtrace's process tags: entrypoint.name, entrypoint.type, entrypoint.basedir, \
             entrypoint.workdir, and svc.user or svc.auto (in ddtrace on by default).",
};

/// Whether fields of the origin are sent.
pub static ORIGIN_DETECTION_ENABLED: Variable = Variable {
    name: "DD_ORIGIN_DETECTION_ENABLED",
    default: "true",
    accepts: "true, false, 1 or 0",
    effect: "Whether lines tell the Agent their container, for it to add the container's tags. Some receivers that are \
             no Agent refuse such lines.",
};

/// Which pod or container this is, as a tag.
pub static ENTITY_ID: Variable = Variable {
    name: "DD_ENTITY_ID",
    default: "",
    accepts: "text",
    effect: "The tag dd.internal.entity_id, in whose place the Agent puts the tags of this pod. The admission \
             controller sets it.",
};

/// Which container this is, as a field.
pub static EXTERNAL_ENV: Variable = Variable {
    name: "DD_EXTERNAL_ENV",
    default: "",
    accepts: "at most 512 lower-case letters, digits, commas and hyphens",
    effect: "What the admission controller knows of this container. Sent unless origin detection is off.",
};

/// How detailed the Agent's tags shall be.
pub static CARDINALITY: Variable = Variable {
    name: "DD_CARDINALITY",
    default: "",
    accepts: "none, low, orchestrator or high",
    effect: "How detailed the tags shall be that the Agent adds; pod_name needs orchestrator, container_id high. \
             Unset, the Agent's own setting holds.",
};

/// The weaker name of the variable above.
pub static DATADOG_CARDINALITY: Variable = Variable {
    name: "DATADOG_CARDINALITY",
    default: "",
    accepts: "none, low, orchestrator or high",
    effect: "The same; read only if the variable above is unset.",
};

/// Every variable, in the order of the documentation.
pub static VARIABLES: [&Variable; 43] = [
    &ENABLED,
    &OTEL_METRICS_EXPORTER,
    &INTERVAL,
    &LEVEL,
    &INCLUDE,
    &EXCLUDE,
    &WIRE_TYPE,
    &EXPERIMENTAL_FEATURES,
    &RUNTIME_ID_ENABLED,
    &EXPERIMENTAL_RUNTIME_ID,
    &CLIENT_TELEMETRY,
    &FORCE,
    &GUNICORN_WORKER_STATE,
    &DISABLE,
    &DOGSTATSD_URL,
    &DOGSTATSD_HOST,
    &AGENT_HOST,
    &DOGSTATSD_PORT,
    &AGENT_PORT,
    &SERVICE,
    &ENV,
    &VERSION,
    &TAGS,
    &DATADOG_TAGS,
    &OTEL_SERVICE_NAME,
    &OTEL_RESOURCE_ATTRIBUTES,
    &LAMBDA_FUNCTION_NAME,
    &K_SERVICE,
    &FUNCTION_NAME,
    &WEBSITE_SITE_NAME,
    &PROCESS_TAGS,
    &ORIGIN_DETECTION_ENABLED,
    &ENTITY_ID,
    &EXTERNAL_ENV,
    &CARDINALITY,
    &DATADOG_CARDINALITY,
    &LAMBDA_INITIALIZATION_TYPE,
    &LAMBDAS_HANDLER,
    &LAMBDA_HANDLER,
    &DATADOG_LAMBDA_HANDLER,
    &LAMBDA_THREAD,
    &FLUSH_TO_LOG,
    &LAMBDA_EXTENSION,
];

/// Those that say who the process is. They are read at every flush: a program may set them for itself.
pub static IDENTITY: [&Variable; 12] = [
    &SERVICE,
    &ENV,
    &VERSION,
    &TAGS,
    &DATADOG_TAGS,
    &OTEL_SERVICE_NAME,
    &OTEL_RESOURCE_ATTRIBUTES,
    &LAMBDA_FUNCTION_NAME,
    &K_SERVICE,
    &FUNCTION_NAME,
    &WEBSITE_SITE_NAME,
    &ENTITY_ID,
];

/// The environment as it was when it was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment(Vec<(&'static str, String)>);

impl Environment {
    /// Asks `lookup` for every variable of the table.
    pub fn collect(lookup: impl FnMut(&str) -> Option<String>) -> Self {
        Self::collect_of(&VARIABLES, lookup)
    }

    /// Asks `lookup` for these variables alone.
    pub fn collect_of(variables: &[&Variable], mut lookup: impl FnMut(&str) -> Option<String>) -> Self {
        Self(variables.iter().filter_map(|v| Some((v.name, lookup(v.name)?))).collect())
    }

    /// These variables alone.
    #[must_use]
    pub fn only(&self, variables: &[&Variable]) -> Self {
        Self::collect_of(variables, |name| self.value(name).map(str::to_owned))
    }

    /// The variable's value; an empty variable is an unset one.
    #[must_use]
    pub fn get(&self, variable: &Variable) -> Option<&str> {
        self.value(variable.name).filter(|value| !value.is_empty())
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self::collect(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        let environment = Environment::from([("DD_SERVICE", ""), ("DD_ENV", "prod")]);
        assert_eq!(environment.get(&SERVICE), None);
        assert_eq!(environment.get(&ENV), Some("prod"));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VARIABLES.len());
    }
}
