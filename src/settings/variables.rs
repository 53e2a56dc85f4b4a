//! The table of environment variables, by whose rows an [`Environment`] is asked.
//!
//! A variable without a row cannot be read: a [`Variable`] is made of a row and of nothing else.
//! `docs/configuration.md` is generated from this table.

use crate::emitter::address::ACCEPTED;

/// What there is to know about an environment variable.
#[derive(Debug)]
pub struct Row {
    /// The name.
    pub name: &'static str,
    /// What applies while it is unset, empty or invalid.
    pub default: &'static str,
    /// The values that are accepted.
    pub accepts: &'static str,
    /// What it does.
    pub effect: &'static str,
    /// Whether it identifies the process. Such variables are read at every flush: a program may set them for itself.
    pub is_identity: bool,
}

const BOOLEAN: &str = "true, false, 1 or 0";
const CARDINALITIES: &str = "none, low, orchestrator or high";
const HANDLER: &str = "module.function";
const HOST: &str = "a host name or an IP address";
const NAMES: &str = "comma-separated names and groups such as gc.*";
const PORT: &str = "a port from 1 to 65535";
const TEXT: &str = "text";

/// Every variable, in the order of the documentation. Those that have no constant below are read by the Python package.
pub static VARIABLES: &[Row] = &[
    Row {
        name: "DD_RUNTIME_METRICS_ENABLED",
        default: "true",
        accepts: BOOLEAN,
        effect: "Whether `runtime-metrics run`, `import runtime_metrics.auto` and \
                 runtime_metrics.aws_lambda start metrics. With runtime-metrics-autostart the default is \
                 false. enable() ignores it.",
        is_identity: false,
    },
    Row {
        name: "OTEL_METRICS_EXPORTER",
        default: "",
        accepts: TEXT,
        effect: "If it is none, metrics are not started automatically, and the log says so. enable() \
                 ignores it.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_INTERVAL",
        default: "10",
        accepts: "a number of seconds from 0.01 to 86400",
        effect: "How often metrics are sent.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_LEVEL",
        default: "default",
        accepts: "default, standard or detailed",
        effect: "How much is sent. The standard level adds what explains why a process is slow, and what will end it; \
                 the detailed level what an investigation asks for next.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_INCLUDE",
        default: "",
        accepts: NAMES,
        effect: "Metrics to send in addition to those of the level.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_EXCLUDE",
        default: "",
        accepts: "comma-separated names and groups such as gc.*, but not cpu.time.sys",
        effect: "Metrics not to send, whatever else selects them. cpu.time.sys is always sent: Datadog \
                 shows its page of runtime metrics only if it arrives.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_WIRE_TYPE",
        default: "distribution",
        accepts: "distribution or gauge",
        effect: "The DogStatsD type of every line. The Agent merges the distributions of several \
                 processes; gauges overwrite each other.",
        is_identity: false,
    },
    Row {
        name: "DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED",
        default: "",
        accepts: "comma-separated names",
        effect: "If it contains DD_RUNTIME_METRICS_ENABLED, lines are gauges unless the variable above \
                 says otherwise (as in ddtrace).",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED",
        default: "true",
        accepts: BOOLEAN,
        effect: "Whether every line carries the tag runtime-id.",
        is_identity: false,
    },
    Row {
        name: "DD_TRACE_EXPERIMENTAL_RUNTIME_ID_ENABLED",
        default: "",
        accepts: BOOLEAN,
        effect: "ddtrace's older name for the variable above; read only if that one is unset.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_CLIENT_TELEMETRY",
        default: "false",
        accepts: BOOLEAN,
        effect: "Whether each flush also reports what was sent and lost, as datadog.dogstatsd.client.* \
                 (never in AWS Lambda).",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_FORCE",
        default: "false",
        accepts: BOOLEAN,
        effect: "If ddtrace sends runtime metrics itself: with true, its runtime metrics are disabled; else \
                 the metrics that it sends are left to it, with a warning unless this is set to false.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_VERBOSE",
        default: "false",
        accepts: BOOLEAN,
        effect: "If true, messages go to standard error as well: what is sent where, how often and as whom, when \
                 metrics start, and each change of state.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_GUNICORN_WORKER_STATE",
        default: "in_flight",
        accepts: "in_flight or cpu",
        effect: "Which of Gunicorn's workers count as working: those that are serving a request or, as in \
                 the Agent's check, those that use CPU time within a tenth of a second.",
        is_identity: false,
    },
    Row {
        name: "DD_DOGSTATSD_DISABLE",
        default: "false",
        accepts: BOOLEAN,
        effect: "If true, enable() does nothing: nothing is collected, and nothing is sent.",
        is_identity: false,
    },
    Row {
        name: "DD_DOGSTATSD_URL",
        default: "",
        accepts: ACCEPTED,
        effect: "Where metrics are sent. Takes precedence over the hosts and ports below.",
        is_identity: false,
    },
    Row {
        name: "DD_DOGSTATSD_HOST",
        default: "",
        accepts: HOST,
        effect: "The host that metrics are sent to, over UDP.",
        is_identity: false,
    },
    Row {
        name: "DD_AGENT_HOST",
        default: "",
        accepts: HOST,
        effect: "The same, if the variable above is unset.",
        is_identity: false,
    },
    Row {
        name: "DD_DOGSTATSD_PORT",
        default: "",
        accepts: PORT,
        effect: "The UDP port that metrics are sent to, 8125 by default.",
        is_identity: false,
    },
    Row {
        name: "DD_AGENT_PORT",
        default: "",
        accepts: PORT,
        effect: "The same, if the variable above is unset (as in ddtrace; beware where it holds the port \
                 for traces).",
        is_identity: false,
    },
    Row {
        name: "DD_SERVICE",
        default: "",
        accepts: TEXT,
        effect: "The tag service, unless the program has given ddtrace another. If unset, the name comes \
                 from OpenTelemetry's variables, from DD_TAGS or from the program (see below): set it.",
        is_identity: true,
    },
    Row { name: "DD_ENV", default: "", accepts: TEXT, effect: "The tag env.", is_identity: true },
    Row { name: "DD_VERSION", default: "", accepts: TEXT, effect: "The tag version.", is_identity: true },
    Row {
        name: "DD_TAGS",
        default: "",
        accepts: "key:value items separated by commas or, where there is no comma, by spaces",
        effect: "Additional tags on every line.",
        is_identity: true,
    },
    Row {
        name: "DATADOG_TAGS",
        default: "",
        accepts: "key:value items separated by commas",
        effect: "The same; where both have a key, DD_TAGS wins.",
        is_identity: true,
    },
    Row {
        name: "OTEL_SERVICE_NAME",
        default: "",
        accepts: TEXT,
        effect: "The tag service, if DD_SERVICE is unset.",
        is_identity: true,
    },
    Row {
        name: "OTEL_RESOURCE_ATTRIBUTES",
        default: "",
        accepts: "key=value items separated by commas",
        effect: "service.name, deployment.environment.name (or deployment.environment) and \
                 service.version give the tags service, env and version where the variables above do not.",
        is_identity: true,
    },
    Row {
        name: "AWS_LAMBDA_FUNCTION_NAME",
        default: "",
        accepts: TEXT,
        effect: "The tag service, if nothing above gives it.",
        is_identity: true,
    },
    Row { name: "K_SERVICE", default: "", accepts: TEXT, effect: "The same (Cloud Run).", is_identity: true },
    Row {
        name: "FUNCTION_NAME",
        default: "",
        accepts: TEXT,
        effect: "The same (Cloud Functions).",
        is_identity: true,
    },
    Row {
        name: "WEBSITE_SITE_NAME",
        default: "",
        accepts: TEXT,
        effect: "The same (Azure).",
        is_identity: true,
    },
    Row {
        name: "DD_EXPERIMENTAL_PROPAGATE_PROCESS_TAGS_ENABLED",
        default: "false",
        accepts: BOOLEAN,
        effect: "Whether every line carries ddtrace's process tags: entrypoint.name, entrypoint.type, \
                 entrypoint.basedir, entrypoint.workdir, and svc.user or svc.auto (on by default in \
                 ddtrace).",
        is_identity: false,
    },
    Row {
        name: "DD_ORIGIN_DETECTION_ENABLED",
        default: "true",
        accepts: BOOLEAN,
        effect: "Whether lines name their container, so that the Agent adds the container's tags. Some \
                 receivers other than the Agent refuse such lines.",
        is_identity: false,
    },
    Row {
        name: "DD_ENTITY_ID",
        default: "",
        accepts: TEXT,
        effect: "The tag dd.internal.entity_id, which the Agent replaces with the tags of this pod. Set \
                 by the admission controller.",
        is_identity: true,
    },
    Row {
        name: "DD_EXTERNAL_ENV",
        default: "",
        accepts: "at most 512 lower-case letters, digits, commas and hyphens",
        effect: "What the admission controller knows about this container. Sent unless origin detection \
                 is off.",
        is_identity: false,
    },
    Row {
        name: "DD_CARDINALITY",
        default: "",
        accepts: CARDINALITIES,
        effect: "How detailed the tags are that the Agent adds: pod_name needs orchestrator, container_id \
                 needs high. If unset, the Agent's own setting applies.",
        is_identity: false,
    },
    Row {
        name: "DATADOG_CARDINALITY",
        default: "",
        accepts: CARDINALITIES,
        effect: "The same; read only if the variable above is unset.",
        is_identity: false,
    },
    Row {
        name: "AWS_LAMBDA_INITIALIZATION_TYPE",
        default: "",
        accepts: TEXT,
        effect: "Set by AWS Lambda. With lambda-managed-instances, metrics are sent at every interval, as \
                 on any server; with snap-start, they start afresh after each restore.",
        is_identity: false,
    },
    Row {
        name: "_HANDLER",
        default: "",
        accepts: HANDLER,
        effect: "Set by AWS Lambda. If it is runtime_metrics.aws_lambda.handler, that module imports the \
                 handler that the next variable names.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_LAMBDA_HANDLER",
        default: "",
        accepts: HANDLER,
        effect: "The function's own handler, which runtime_metrics.aws_lambda.handler wraps.",
        is_identity: false,
    },
    Row {
        name: "DD_LAMBDA_HANDLER",
        default: "",
        accepts: HANDLER,
        effect: "The same, if the variable above is unset and this one is not \
                 runtime_metrics.aws_lambda.handler.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_LAMBDA_THREAD",
        default: "false",
        accepts: BOOLEAN,
        effect: "If true, metrics are sent at every interval in AWS Lambda, too, and not at the end of \
                 each invocation: late, and at the cost of the function's time ([lambda.md](lambda.md)).",
        is_identity: false,
    },
    Row {
        name: "DD_FLUSH_TO_LOG",
        default: "false",
        accepts: BOOLEAN,
        effect: "If true, a function in AWS Lambda that has neither the Datadog Lambda Extension nor an \
                 address writes its metrics to its log, for the Datadog Forwarder. Applies only where \
                 each invocation sends its own metrics: not on managed instances, and not with the \
                 variable above.",
        is_identity: false,
    },
    Row {
        name: "DD_RUNTIME_METRICS_LAMBDA_EXTENSION",
        default: "/opt/extensions/datadog-agent",
        accepts: "a path",
        effect: "Where the Datadog Lambda Extension is installed; for tests.",
        is_identity: false,
    },
];

pub(crate) const INTERVAL: Variable = Variable::named("DD_RUNTIME_METRICS_INTERVAL");
pub(crate) const LEVEL: Variable = Variable::named("DD_RUNTIME_METRICS_LEVEL");
pub(crate) const INCLUDE: Variable = Variable::named("DD_RUNTIME_METRICS_INCLUDE");
pub(crate) const EXCLUDE: Variable = Variable::named("DD_RUNTIME_METRICS_EXCLUDE");
pub(crate) const WIRE_TYPE: Variable = Variable::named("DD_RUNTIME_METRICS_WIRE_TYPE");
pub(crate) const EXPERIMENTAL_FEATURES: Variable = Variable::named("DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED");
pub(crate) const RUNTIME_ID: Variable = Variable::named("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED");
pub(crate) const EXPERIMENTAL_RUNTIME_ID: Variable =
    Variable::named("DD_TRACE_EXPERIMENTAL_RUNTIME_ID_ENABLED");
pub(crate) const CLIENT_TELEMETRY: Variable = Variable::named("DD_RUNTIME_METRICS_CLIENT_TELEMETRY");
pub(crate) const FORCE: Variable = Variable::named("DD_RUNTIME_METRICS_FORCE");
pub(crate) const VERBOSE: Variable = Variable::named("DD_RUNTIME_METRICS_VERBOSE");
pub(crate) const GUNICORN_WORKER_STATE: Variable =
    Variable::named("DD_RUNTIME_METRICS_GUNICORN_WORKER_STATE");
pub(crate) const DISABLE: Variable = Variable::named("DD_DOGSTATSD_DISABLE");
pub(crate) const DOGSTATSD_URL: Variable = Variable::named("DD_DOGSTATSD_URL");
pub(crate) const DOGSTATSD_HOST: Variable = Variable::named("DD_DOGSTATSD_HOST");
pub(crate) const AGENT_HOST: Variable = Variable::named("DD_AGENT_HOST");
pub(crate) const DOGSTATSD_PORT: Variable = Variable::named("DD_DOGSTATSD_PORT");
pub(crate) const AGENT_PORT: Variable = Variable::named("DD_AGENT_PORT");
pub(crate) const SERVICE: Variable = Variable::named("DD_SERVICE");
pub(crate) const ENV: Variable = Variable::named("DD_ENV");
pub(crate) const VERSION: Variable = Variable::named("DD_VERSION");
pub(crate) const TAGS: Variable = Variable::named("DD_TAGS");
pub(crate) const DATADOG_TAGS: Variable = Variable::named("DATADOG_TAGS");
pub(crate) const OTEL_SERVICE_NAME: Variable = Variable::named("OTEL_SERVICE_NAME");
pub(crate) const OTEL_RESOURCE_ATTRIBUTES: Variable = Variable::named("OTEL_RESOURCE_ATTRIBUTES");
pub(crate) const LAMBDA_FUNCTION_NAME: Variable = Variable::named("AWS_LAMBDA_FUNCTION_NAME");
pub(crate) const CLOUD_RUN_SERVICE: Variable = Variable::named("K_SERVICE");
pub(crate) const CLOUD_FUNCTION_NAME: Variable = Variable::named("FUNCTION_NAME");
pub(crate) const AZURE_SITE_NAME: Variable = Variable::named("WEBSITE_SITE_NAME");
pub(crate) const PROCESS_TAGS: Variable = Variable::named("DD_EXPERIMENTAL_PROPAGATE_PROCESS_TAGS_ENABLED");
pub(crate) const ORIGIN_DETECTION: Variable = Variable::named("DD_ORIGIN_DETECTION_ENABLED");
pub(crate) const ENTITY_ID: Variable = Variable::named("DD_ENTITY_ID");
pub(crate) const EXTERNAL_ENV: Variable = Variable::named("DD_EXTERNAL_ENV");
pub(crate) const CARDINALITY: Variable = Variable::named("DD_CARDINALITY");
pub(crate) const DATADOG_CARDINALITY: Variable = Variable::named("DATADOG_CARDINALITY");
pub(crate) const LAMBDA_INITIALIZATION_TYPE: Variable = Variable::named("AWS_LAMBDA_INITIALIZATION_TYPE");
pub(crate) const LAMBDA_THREAD: Variable = Variable::named("DD_RUNTIME_METRICS_LAMBDA_THREAD");
pub(crate) const FLUSH_TO_LOG: Variable = Variable::named("DD_FLUSH_TO_LOG");
pub(crate) const LAMBDA_EXTENSION: Variable = Variable::named("DD_RUNTIME_METRICS_LAMBDA_EXTENSION");

/// What the names of most of our variables begin with.
pub const PREFIX: &str = "DD_RUNTIME_METRICS_";

/// What follows it in variables of Datadog's tracers for other languages, which one environment may configure, too.
const OF_OTHERS: [&str; 4] =
    ["DIAGNOSTICS_METRICS_API_ENABLED", "EVENT_LOOP_ENABLED", "GC_ENABLED", "V2_ENABLED"];

/// Whether this name, without [`PREFIX`], is no variable that anything reads.
#[must_use]
pub fn is_unknown(name: &str) -> bool {
    !names().any(|known| known == name) && !OF_OTHERS.contains(&name)
}

/// The names that begin with [`PREFIX`], without it.
pub fn names() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().filter_map(|row| row.name.strip_prefix(PREFIX))
}

/// A row of the table, which an environment is asked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variable(usize);

impl Variable {
    /// The row of this name. Where the table has none, the constant that is declared by it does not compile.
    const fn named(name: &str) -> Self {
        let mut index = 0;
        while index < VARIABLES.len() {
            if is_same(VARIABLES[index].name, name) {
                return Self(index);
            }
            index += 1;
        }
        panic!("the table has no row of this name")
    }

    /// All of them, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..VARIABLES.len()).map(Self)
    }

    /// Those that identify the process.
    pub fn identity() -> impl Iterator<Item = Self> {
        Self::all().filter(|variable| variable.row().is_identity)
    }

    /// Its place in the table.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }

    /// What the table says about it.
    #[must_use]
    pub fn row(self) -> &'static Row {
        &VARIABLES[self.0]
    }
}

/// `==`, which is not available in constants.
const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

/// The variables that were set when they were read, in the order of the table. An empty variable counts as unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<(Variable, String)>);

impl Environment {
    /// Looks up each of these variables by its name.
    pub fn read(
        variables: impl IntoIterator<Item = Variable>,
        mut lookup: impl FnMut(&'static str) -> Option<String>,
    ) -> Self {
        let mut environment = Self::default();
        for variable in variables {
            let value = lookup(variable.row().name).filter(|value| !value.is_empty());
            if let (Some(value), Err(at)) = (value, environment.find(variable)) {
                environment.0.insert(at, (variable, value));
            }
        }
        environment
    }

    /// The variable's value.
    #[must_use]
    pub fn get(&self, variable: Variable) -> Option<&str> {
        self.find(variable).ok().map(|at| self.0[at].1.as_str())
    }

    /// The variables that identify the process.
    #[must_use]
    pub fn identity(&self) -> Self {
        Self(self.0.iter().filter(|(variable, _)| variable.row().is_identity).cloned().collect())
    }

    fn find(&self, variable: Variable) -> Result<usize, usize> {
        self.0.binary_search_by_key(&variable, |(variable, _)| *variable)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self::read(Variable::all(), |name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        let environment = Environment::from([("DD_SERVICE", ""), ("DD_ENV", "prod")]);
        assert_eq!(environment.get(SERVICE), None);
        assert_eq!(environment.get(ENV), Some("prod"));
        assert_eq!(environment, Environment::from([("DD_ENV", "prod")]));
    }

    #[test]
    fn the_identity_is_the_variables_that_are_read_at_every_flush() {
        let environment =
            Environment::from([("DD_ENTITY_ID", "1d"), ("DD_AGENT_HOST", "a"), ("DD_ENV", "prod")]);
        assert_eq!(environment.identity(), Environment::from([("DD_ENTITY_ID", "1d"), ("DD_ENV", "prod")]));
    }

    #[test]
    fn a_name_that_nothing_reads_is_unknown() {
        assert!(is_unknown("INTERVALL"));
        assert!(!is_unknown("INTERVAL") && !is_unknown("RUNTIME_ID_ENABLED") && !is_unknown("GC_ENABLED"));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = VARIABLES.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VARIABLES.len());
    }
}
