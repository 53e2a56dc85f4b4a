//! Settings, their defaults and their validation: a pure function of arguments, variables and what exists around the
//! process.
//!
//! An invalid argument is an error. An invalid variable is a warning, and the default is used.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::catalogue::metric::{Level, WireType};
use crate::catalogue::selection::Selection;
use crate::emitter::address::{
    Address, ChosenBy, DEFAULT_PORT, Destination, Host, InvalidAddress, parse_port,
};
use crate::emitter::origin::Origin;
use crate::message::MAX_SHOWN;
use crate::snapshot::{Source, SourceSet};

mod aws_lambda;
mod parser;
pub mod variables;

pub use self::aws_lambda::{AwsLambda, Schedule, Sink, UnsentReason, extension_path};
pub use self::parser::Warning;
use self::parser::{Parsed, Parser, parse_as, parse_bool};
use self::variables::{Environment, Variable};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// The intervals that are accepted, in seconds.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.01..=86_400.0;

/// The arguments of `enable()`.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// Where to send.
    pub dogstatsd_url: Option<String>,
    /// Seconds between two flushes.
    pub flush_interval: Option<f64>,
    /// How much to send.
    pub level: Option<String>,
    /// Distributions or gauges.
    pub wire_type: Option<String>,
    /// What describes the service.
    pub service_arguments: ServiceArguments,
}

impl Arguments {
    /// The names of those that were given.
    #[must_use]
    pub fn given(&self) -> Vec<&'static str> {
        let ServiceArguments { service, env, version, tags } = &self.service_arguments;
        let all = [
            ("dogstatsd_url", self.dogstatsd_url.is_some()),
            ("flush_interval", self.flush_interval.is_some()),
            ("service", service.is_some()),
            ("env", env.is_some()),
            ("version", version.is_some()),
            ("tags", tags.is_some()),
            ("level", self.level.is_some()),
            ("wire_type", self.wire_type.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

/// The arguments of `enable()` that describe the service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceArguments {
    /// The tag `service`.
    pub service: Option<String>,
    /// The tag `env`.
    pub env: Option<String>,
    /// The tag `version`.
    pub version: Option<String>,
    /// Further tags, each `key:value` or bare.
    pub tags: Option<Vec<String>>,
}

/// What exists around the process.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The socket that an Agent on this host offers by default.
    pub default_socket: &'a Path,
    /// Whether that socket exists.
    pub has_default_socket: bool,
    /// Whether the Datadog Lambda Extension is installed.
    pub has_extension: bool,
}

/// What a collector is started with.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "Each is a switch that is set independently.")]
pub struct Settings {
    /// The receiver's address.
    pub destination: Destination,
    /// Time between two flushes.
    pub interval: Duration,
    /// What is sent.
    pub selection: Selection,
    /// Distributions or gauges.
    pub wire_type: WireType,
    /// Whether lines carry the runtime-id.
    pub runtime_id: bool,
    /// Whether each flush reports what was sent and lost.
    pub client_telemetry: bool,
    /// Whether ddtrace's own runtime metrics are disabled in favour of ours.
    pub force: bool,
    /// Whether it was set that they are not.
    pub keeps_ddtraces: bool,
    /// Whether messages go to standard error as well.
    pub verbose: bool,
    /// Whether Gunicorn's workers count as working by their CPU time.
    pub workers_by_cpu: bool,
    /// Whether nothing may be collected and sent.
    pub disabled: bool,
    /// Whether lines carry process tags.
    pub process_tags: bool,
    /// What lines say about their origin.
    pub origin: Origin,
    /// When samples are taken.
    pub schedule: Schedule,
    /// Where lines go.
    pub sink: Sink,
    /// What is special about a function in AWS Lambda, if this is one.
    pub aws_lambda: Option<AwsLambda>,
}

/// An argument with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidArgument {
    /// The argument's name.
    pub name: &'static str,
    /// Its value, as Python would print it.
    pub value: String,
    /// The values that are accepted.
    pub accepted: &'static str,
}

impl fmt::Display for InvalidArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}: expected {}", self.name, self.value, self.accepted)
    }
}

/// What makes no sense for a single invocation of a function: what threads of ours observe, which do not run there, and
/// what a program does between its requests.
const NOT_PER_INVOCATION: [Source; 11] = [
    Source::Probe,
    Source::Stalls,
    Source::OwnCpu,
    Source::EventLoops,
    Source::LoopQueues,
    Source::Tasks,
    Source::Executors,
    Source::AcceptQueue,
    Source::LimitApproach,
    Source::Growth,
    Source::OwnWork,
];

impl Settings {
    /// The sources that the selected rows need.
    #[must_use]
    pub fn needs(&self) -> SourceSet {
        let needs = self.selection.needs();
        match self.schedule {
            Schedule::Periodic => needs,
            Schedule::PerInvocation => NOT_PER_INVOCATION.into_iter().fold(needs, SourceSet::without),
        }
    }

    /// Decides every setting: the argument, else the variable, else the default.
    ///
    /// # Errors
    ///
    /// The first argument that has an invalid value.
    pub fn new(
        arguments: &Arguments,
        environment: &Environment,
        surroundings: Surroundings<'_>,
    ) -> Result<(Self, Vec<Warning>), InvalidArgument> {
        let mut parser = Parser { environment, warnings: Vec::new() };
        let interval = match arguments.flush_interval {
            Some(seconds) => argument("flush_interval", seconds, variables::INTERVAL, interval)?,
            None => parser.parse(variables::INTERVAL, parse_interval).valid().unwrap_or(DEFAULT_INTERVAL),
        };
        let level = match arguments.level.as_deref() {
            Some(level) => argument("level", level, variables::LEVEL, parse_as)?,
            None => parser.parse(variables::LEVEL, parse_as).valid().unwrap_or_default(),
        };
        let selection = selection(&mut parser, level);
        let wire_type = match arguments.wire_type.as_deref() {
            Some(wire_type) => argument("wire_type", wire_type, variables::WIRE_TYPE, parse_as)?,
            None => match parser.parse(variables::WIRE_TYPE, parse_as) {
                Parsed::Unset => wire_type_of_ddtrace(environment),
                parsed => parsed.valid().unwrap_or_default(),
            },
        };
        let runtime_id =
            parser.parse_newer(variables::RUNTIME_ID, variables::EXPERIMENTAL_RUNTIME_ID, parse_bool);
        let client_telemetry = parser.parse_flag(variables::CLIENT_TELEMETRY).unwrap_or(false);
        let force = parser.parse_flag(variables::FORCE);
        let verbose = parser.parse_flag(variables::VERBOSE).unwrap_or(false);
        let workers_by_cpu = parser.parse(variables::GUNICORN_WORKER_STATE, parse_by_cpu).valid();
        let disabled = parser.parse_flag(variables::DISABLE).unwrap_or(false);
        let process_tags = parser.parse_flag(variables::PROCESS_TAGS).unwrap_or(false);
        let origin = Origin {
            detect: parser.parse_flag(variables::ORIGIN_DETECTION).unwrap_or(true),
            external: parser.parse(variables::EXTERNAL_ENV, parse_as).valid(),
            cardinality: parser.parse_newer(variables::CARDINALITY, variables::DATADOG_CARDINALITY, parse_as),
        };
        let destination = match arguments.dogstatsd_url.as_deref() {
            Some(url) => Destination {
                address: url.parse().map_err(|invalid: InvalidAddress| InvalidArgument {
                    name: "dogstatsd_url",
                    value: shown(url),
                    accepted: invalid.accepted(),
                })?,
                chosen_by: ChosenBy::Setting("dogstatsd_url"),
            },
            None => destination(&mut parser, surroundings),
        };
        let schedule = aws_lambda::schedule(&mut parser);
        let (destination, sink) =
            aws_lambda::route(&mut parser, schedule, destination, surroundings.has_extension);
        let aws_lambda = AwsLambda::new(environment, &destination.address, surroundings.has_extension);
        let settings = Self {
            destination,
            interval,
            selection,
            wire_type,
            runtime_id: runtime_id.unwrap_or(true),
            // In AWS Lambda it would keep the extension busy.
            client_telemetry: client_telemetry && aws_lambda.is_none(),
            force: force == Some(true),
            keeps_ddtraces: force == Some(false),
            verbose,
            workers_by_cpu: workers_by_cpu.unwrap_or(false),
            disabled,
            process_tags,
            origin,
            schedule,
            sink,
            aws_lambda,
        };
        Ok((settings, parser.warnings))
    }

    /// If nothing is sent, a message that says why.
    #[must_use]
    pub fn unsent_message(&self) -> Option<String> {
        match self.sink {
            Sink::None(reason) => Some(reason.message(&self.destination)),
            Sink::Socket | Sink::Log => None,
        }
    }
}

/// The argument's value; what is accepted is the same as for its variable.
fn argument<V: fmt::Debug + Copy, T>(
    name: &'static str,
    value: V,
    variable: Variable,
    parse: impl Fn(V) -> Option<T>,
) -> Result<T, InvalidArgument> {
    let accepted = variable.row().accepts;
    parse(value).ok_or_else(|| InvalidArgument { name, value: shown(value), accepted })
}

/// A value as Python would print it, without what is beyond the limit.
fn shown(value: impl fmt::Debug) -> String {
    format!("{value:?}").chars().take(MAX_SHOWN).collect()
}

/// The rows of a level, with those that variables add and without those that they remove.
fn selection(parser: &mut Parser<'_>, level: Level) -> Selection {
    let added = rows(parser, variables::INCLUDE, Selection::default());
    // Datadog shows its page of runtime metrics only if this one arrives.
    let removed = rows(parser, variables::EXCLUDE, Selection::named("cpu.time.sys"));
    Selection::at(level).with(added).without(removed)
}

/// The rows that a variable names, except those that it must not.
fn rows(parser: &mut Parser<'_>, variable: Variable, except: Selection) -> Selection {
    let text = parser.environment.get(variable).unwrap_or_default();
    let mut named = Selection::default();
    let mut ignored = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let rows = Selection::named(item).without(except);
        if rows.is_empty() {
            ignored.push(item);
        }
        named = named.with(rows);
    }
    if !ignored.is_empty() {
        parser.warn(variable, &ignored.join(","), "it is ignored");
    }
    named
}

/// The address of the strongest variable that has a valid one, else the default.
fn destination(parser: &mut Parser<'_>, surroundings: Surroundings<'_>) -> Destination {
    let variable = variables::DOGSTATSD_URL;
    let url = parser.environment.get(variable);
    let parsed = url.map(str::parse);
    if let Some(Ok(address)) = parsed {
        return Destination { address, chosen_by: ChosenBy::Setting(variable.row().name) };
    }
    let destination = host_and_port(parser).unwrap_or_else(|| {
        Destination::default_at(surroundings.default_socket, surroundings.has_default_socket)
    });
    if let (Some(url), Some(Err(invalid))) = (url, parsed) {
        let invalid: InvalidAddress = invalid;
        parser.warn_expecting(variable, url, invalid.accepted(), &format!("{destination} is used"));
    }
    destination
}

/// A host, a port, or both.
fn host_and_port(parser: &mut Parser<'_>) -> Option<Destination> {
    let host = parser.parse_first([variables::DOGSTATSD_HOST, variables::AGENT_HOST], parse_as::<Host>);
    let port = parser.parse_first([variables::DOGSTATSD_PORT, variables::AGENT_PORT], parse_port);
    let chosen_by = match (&host, &port) {
        (Some((_, name)), _) | (None, Some((_, name))) => ChosenBy::Setting(name),
        (None, None) => return None,
    };
    let host = host.map_or(Host::Localhost, |(host, _)| host);
    let port = port.map_or(DEFAULT_PORT, |(port, _)| port);
    Some(Destination { address: Address::Udp(host, port), chosen_by })
}

fn parse_interval(text: &str) -> Option<Duration> {
    interval(text.parse().ok()?)
}

fn interval(seconds: f64) -> Option<Duration> {
    INTERVALS.contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

fn parse_by_cpu(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "in_flight" => Some(false),
        "cpu" => Some(true),
        _ => None,
    }
}

/// ddtrace sends gauges instead of distributions if this experimental feature is enabled.
fn wire_type_of_ddtrace(environment: &Environment) -> WireType {
    let features = environment.get(variables::EXPERIMENTAL_FEATURES).unwrap_or_default();
    let gauges =
        features.split(',').any(|item| item.trim().eq_ignore_ascii_case("DD_RUNTIME_METRICS_ENABLED"));
    if gauges { WireType::Gauge } else { WireType::Distribution }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "default" => Ok(Self::Default),
            "standard" => Ok(Self::Standard),
            "detailed" => Ok(Self::Detailed),
            _ => Err(()),
        }
    }
}

impl FromStr for WireType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "distribution" => Ok(Self::Distribution),
            "gauge" => Ok(Self::Gauge),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::emitter::address::ACCEPTED;
    use crate::emitter::origin::Cardinality;

    const SOCKET: &str = "/run/dsd.socket";

    fn alone() -> Surroundings<'static> {
        Surroundings { default_socket: Path::new(SOCKET), has_default_socket: false, has_extension: false }
    }

    fn with_extension() -> Surroundings<'static> {
        Surroundings { has_extension: true, ..alone() }
    }

    fn settings<const N: usize>(environment: [(&str, &str); N]) -> (Settings, Vec<String>) {
        settings_in(alone(), environment)
    }

    fn settings_in<const N: usize>(
        surroundings: Surroundings<'_>,
        environment: [(&str, &str); N],
    ) -> (Settings, Vec<String>) {
        let environment = Environment::from(environment);
        let (settings, warnings) = Settings::new(&Arguments::default(), &environment, surroundings).unwrap();
        (settings, warnings.into_iter().map(|warning| warning.text).collect())
    }

    /// Whether lines are sent to the Datadog Lambda Extension.
    fn sends_to_extension(settings: &Settings) -> bool {
        settings.aws_lambda.expect("this is a function").sends_to_extension
    }

    fn error(arguments: &Arguments) -> String {
        Settings::new(arguments, &Environment::default(), alone()).unwrap_err().to_string()
    }

    #[test]
    fn without_arguments_and_variables_the_defaults_apply() {
        let (settings, warnings) = settings([]);
        assert_eq!(
            settings,
            Settings {
                destination: Destination::default_at(Path::new(SOCKET), false),
                interval: Duration::from_secs(10),
                selection: Selection::at(Level::Default),
                wire_type: WireType::Distribution,
                runtime_id: true,
                client_telemetry: false,
                force: false,
                keeps_ddtraces: false,
                verbose: false,
                workers_by_cpu: false,
                disabled: false,
                process_tags: false,
                origin: Origin { detect: true, external: None, cardinality: None },
                schedule: Schedule::Periodic,
                sink: Sink::Socket,
                aws_lambda: None,
            }
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn the_address_comes_from_the_first_rule_that_matches() {
        for (environment, expected) in [
            (
                &[("DD_DOGSTATSD_URL", "udp://d"), ("DD_AGENT_HOST", "a")][..],
                "udp://d:8125 (from DD_DOGSTATSD_URL)",
            ),
            (
                &[("DD_DOGSTATSD_HOST", "d"), ("DD_AGENT_HOST", "a"), ("DD_DOGSTATSD_PORT", "1")],
                "udp://d:1 (from DD_DOGSTATSD_HOST)",
            ),
            (&[("DD_AGENT_HOST", "a"), ("DD_AGENT_PORT", "2")], "udp://a:2 (from DD_AGENT_HOST)"),
            (&[("DD_AGENT_HOST", "fe80::1")], "udp://[fe80::1]:8125 (from DD_AGENT_HOST)"),
            (
                &[("DD_DOGSTATSD_PORT", "1"), ("DD_AGENT_PORT", "2")],
                "udp://localhost:1 (from DD_DOGSTATSD_PORT)",
            ),
            (&[("DD_AGENT_PORT", "2")], "udp://localhost:2 (from DD_AGENT_PORT)"),
            (&[("DD_DOGSTATSD_URL", ""), ("DD_AGENT_HOST", "")], "udp://localhost:8125 (by default)"),
        ] {
            let environment = Environment::read(Variable::all(), |name| {
                environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            });
            let (settings, warnings) = Settings::new(&Arguments::default(), &environment, alone()).unwrap();
            assert_eq!(settings.destination.to_string(), expected);
            assert_eq!(warnings, []);
        }
    }

    #[test]
    fn without_an_address_the_agent_s_socket_is_used_if_it_exists() {
        let surroundings = Surroundings { has_default_socket: true, ..alone() };
        let destination = |variables| settings_in(surroundings, variables).0.destination.to_string();
        assert_eq!(destination([("DD_AGENT_HOST", "")]), "unix:///run/dsd.socket (by default)");
        assert_eq!(destination([("DD_AGENT_HOST", "agent")]), "udp://agent:8125 (from DD_AGENT_HOST)");
    }

    #[test]
    fn the_warning_about_an_invalid_url_names_the_address_that_is_used_instead() {
        let (settings, warnings) = settings([("DD_DOGSTATSD_URL", "ftp://x"), ("DD_AGENT_HOST", "agent")]);
        assert_eq!(settings.destination.address.to_string(), "udp://agent:8125");
        assert_eq!(
            warnings,
            [format!(
                "DD_DOGSTATSD_URL=\"ftp://x\": expected {ACCEPTED}; \
                 udp://agent:8125 (from DD_AGENT_HOST) is used"
            )]
        );
    }

    #[test]
    fn the_warning_about_a_mistake_in_a_part_of_an_url_names_that_part() {
        let (_, warnings) = settings([("DD_DOGSTATSD_URL", "udp://agent:99999")]);
        let expected = "DD_DOGSTATSD_URL=\"udp://agent:99999\": expected a port from 1 to 65535; \
                        udp://localhost:8125 (by default) is used";
        assert_eq!(warnings, [expected]);
    }

    #[test]
    fn an_invalid_variable_is_one_warning_and_the_default() {
        for (name, value, expected) in [
            ("DD_RUNTIME_METRICS_INTERVAL", "0", "10 is used"),
            ("DD_RUNTIME_METRICS_INTERVAL", "nan", "10 is used"),
            ("DD_RUNTIME_METRICS_INTERVAL", "86401", "10 is used"),
            ("DD_RUNTIME_METRICS_INTERVAL", "ten", "10 is used"),
            ("DD_RUNTIME_METRICS_LEVEL", "everything", "default is used"),
            ("DD_RUNTIME_METRICS_WIRE_TYPE", "count", "distribution is used"),
            ("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED", "yes", "true is used"),
            ("DD_DOGSTATSD_PORT", "0", "it is ignored"),
            ("DD_DOGSTATSD_PORT", "abc", "it is ignored"),
            ("DD_AGENT_HOST", "a/b", "it is ignored"),
            ("DD_EXPERIMENTAL_PROPAGATE_PROCESS_TAGS_ENABLED", "yes", "false is used"),
            ("DD_ORIGIN_DETECTION_ENABLED", "no", "true is used"),
            ("DD_EXTERNAL_ENV", "cn-Web", "it is ignored"),
            ("DD_CARDINALITY", "medium", "it is ignored"),
            ("DATADOG_CARDINALITY", "medium", "it is ignored"),
        ] {
            let (settings, warnings) = settings([(name, value)]);
            assert_eq!(settings, self::settings([]).0, "{name}={value}");
            assert_eq!(warnings.len(), 1, "{name}={value}");
            assert!(warnings[0].starts_with(&format!("{name}=\"{value}\": expected ")), "{warnings:?}");
            assert!(warnings[0].ends_with(expected), "{warnings:?}");
        }
    }

    #[test]
    fn rows_are_added_and_removed_by_name() {
        let selected = |include, exclude| {
            let (settings, warnings) =
                settings([("DD_RUNTIME_METRICS_INCLUDE", include), ("DD_RUNTIME_METRICS_EXCLUDE", exclude)]);
            (settings.selection, warnings)
        };
        let all = Selection::at(Level::Default);
        assert_eq!(selected("mem.rss", ""), (all, vec![]));
        let without = all.without(Selection::named("gc.*")).without(Selection::named("mem.rss"));
        assert_eq!(selected("gc.pause.max", " gc.* ,runtime.python.mem.rss,"), (without, vec![]));
        let unknown = "DD_RUNTIME_METRICS_INCLUDE=\"rss,nothing.*\": expected comma-separated names and groups such as \
                       gc.*; it is ignored";
        let more = all.with(Selection::named("mem.*"));
        assert_eq!(selected("rss,nothing.*,mem.*", ""), (more, vec![unknown.to_owned()]));
        let (selection, warnings) = selected("", "cpu.time.sys");
        assert_eq!((selection, warnings.len()), (all, 1));
        // Of a group, the other rows are removed.
        let kept = all.without(Selection::named("cpu.time.user"));
        assert_eq!(selected("", "cpu.time.*"), (kept, vec![]));
    }

    #[test]
    fn variables_are_applied() {
        let (settings, warnings) = settings([
            ("DD_RUNTIME_METRICS_INTERVAL", "0.5"),
            ("DD_RUNTIME_METRICS_WIRE_TYPE", "gauge"),
            ("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED", "False"),
            ("DD_EXPERIMENTAL_PROPAGATE_PROCESS_TAGS_ENABLED", "1"),
            ("DD_ORIGIN_DETECTION_ENABLED", "0"),
            ("DD_EXTERNAL_ENV", "it-false"),
            ("DD_CARDINALITY", "High"),
            ("DATADOG_CARDINALITY", "low"),
        ]);
        assert_eq!(settings.interval, Duration::from_millis(500));
        assert_eq!(settings.wire_type, WireType::Gauge);
        assert!(!settings.runtime_id);
        assert!(settings.process_tags);
        let external = "it-false".parse().ok();
        let cardinality = Some(Cardinality::High);
        assert_eq!(settings.origin, Origin { detect: false, external, cardinality });
        assert!(warnings.is_empty());
    }

    #[test]
    fn the_older_name_of_the_cardinality_is_read_if_the_newer_is_unset() {
        let older = ("DATADOG_CARDINALITY", "low");
        assert_eq!(settings([older]).0.origin.cardinality, Some(Cardinality::Low));
        assert_eq!(settings([older, ("DD_CARDINALITY", "")]).0.origin.cardinality, Some(Cardinality::Low));
    }

    #[test]
    fn ddtraces_variables_are_read_if_ours_are_unset() {
        let gauges = ("DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED", "x, dd_runtime_metrics_enabled");
        assert_eq!(settings([gauges]).0.wire_type, WireType::Gauge);
        let ours = ("DD_RUNTIME_METRICS_WIRE_TYPE", "distribution");
        assert_eq!(settings([gauges, ours]).0.wire_type, WireType::Distribution);
        let no_id = ("DD_TRACE_EXPERIMENTAL_RUNTIME_ID_ENABLED", "0");
        assert!(!settings([no_id]).0.runtime_id);
        assert!(settings([no_id, ("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED", "1")]).0.runtime_id);
    }

    #[test]
    fn an_invalid_variable_hides_its_older_name() {
        let gauges = ("DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED", "DD_RUNTIME_METRICS_ENABLED");
        let (settings, _) = settings([gauges, ("DD_RUNTIME_METRICS_WIRE_TYPE", "count")]);
        assert_eq!(settings.wire_type, WireType::Distribution);
        let no_id = ("DD_TRACE_EXPERIMENTAL_RUNTIME_ID_ENABLED", "false");
        assert!(self::settings([no_id, ("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED", "no")]).0.runtime_id);
        let low = ("DATADOG_CARDINALITY", "low");
        assert_eq!(self::settings([low, ("DD_CARDINALITY", "lowest")]).0.origin.cardinality, None);
    }

    #[test]
    fn an_invalid_argument_names_itself_its_value_and_what_is_accepted() {
        let url = |text: &str| Arguments { dogstatsd_url: Some(text.into()), ..Arguments::default() };
        let interval = |seconds| Arguments { flush_interval: Some(seconds), ..Arguments::default() };
        assert_eq!(error(&url("ftp://x")), format!("dogstatsd_url=\"ftp://x\": expected {ACCEPTED}"));
        assert_eq!(error(&url("")), format!("dogstatsd_url=\"\": expected {ACCEPTED}"));
        let port = "dogstatsd_url=\"udp://x:99999\": expected a port from 1 to 65535";
        assert_eq!(error(&url("udp://x:99999")), port);
        let path = format!("/{}", "x".repeat(1_000));
        let (long, reason) = (error(&url(&path)), path.parse::<Address>().unwrap_err().accepted());
        assert!(long.ends_with(&format!(": expected {reason}")) && long.len() < 300, "{long}");
        for (seconds, shown) in [(0.0, "0.0"), (-1.0, "-1.0"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let expected = format!("flush_interval={shown}: expected a number of seconds from 0.01 to 86400");
            assert_eq!(error(&interval(seconds)), expected);
        }
        let level = Arguments { level: Some("all".into()), ..Arguments::default() };
        assert_eq!(error(&level), "level=\"all\": expected default, standard or detailed");
        let wire_type = Arguments { wire_type: Some("g".into()), ..Arguments::default() };
        assert_eq!(error(&wire_type), "wire_type=\"g\": expected distribution or gauge");
    }

    #[test]
    fn an_argument_wins_over_its_variable() {
        let arguments = Arguments {
            dogstatsd_url: Some("udp://a".into()),
            flush_interval: Some(1.0),
            wire_type: Some("distribution".into()),
            ..Arguments::default()
        };
        let environment = Environment::from([
            ("DD_DOGSTATSD_URL", "udp://b"),
            ("DD_RUNTIME_METRICS_INTERVAL", "2"),
            ("DD_RUNTIME_METRICS_WIRE_TYPE", "gauge"),
        ]);
        let (settings, _) = Settings::new(&arguments, &environment, alone()).unwrap();
        assert_eq!(settings.destination.to_string(), "udp://a:8125 (from dogstatsd_url)");
        assert_eq!(settings.interval, Duration::from_secs(1));
        assert_eq!(settings.wire_type, WireType::Distribution);
    }

    const FUNCTION: (&str, &str) = ("AWS_LAMBDA_FUNCTION_NAME", "coffee");

    #[test]
    fn a_function_is_measured_at_each_invocation_unless_it_is_a_server_or_keeps_its_thread() {
        let schedule = |name, value| settings_in(with_extension(), [FUNCTION, (name, value)]).0.schedule;
        let kind = "AWS_LAMBDA_INITIALIZATION_TYPE";
        for value in ["on-demand", "provisioned-concurrency", "snap-start", ""] {
            assert_eq!(schedule(kind, value), Schedule::PerInvocation, "{value}");
        }
        assert_eq!(schedule(kind, "lambda-managed-instances"), Schedule::Periodic);
        let thread = "DD_RUNTIME_METRICS_LAMBDA_THREAD";
        assert_eq!(schedule(thread, "TRUE"), Schedule::Periodic);
        assert_eq!(schedule(thread, "0"), Schedule::PerInvocation);
        assert_eq!(settings([(kind, "on-demand"), (thread, "false")]).0.schedule, Schedule::Periodic);
        let uses_snapstart = |kind_of_function| {
            settings([FUNCTION, (kind, kind_of_function)])
                .0
                .aws_lambda
                .is_some_and(|function| function.uses_snapstart)
        };
        assert!(uses_snapstart("snap-start") && !uses_snapstart("on-demand"));
    }

    #[test]
    fn a_function_without_an_address_sends_to_its_extension_or_to_its_log() {
        let (sent, warnings) = settings_in(with_extension(), [FUNCTION, ("DD_FLUSH_TO_LOG", "true")]);
        assert_eq!(sent.destination.to_string(), "udp://127.0.0.1:8125 (from the Datadog Lambda Extension)");
        assert_eq!((sent.sink, sends_to_extension(&sent), warnings.len()), (Sink::Socket, true, 0));
        let (logged, warnings) = settings([FUNCTION, ("DD_FLUSH_TO_LOG", "1")]);
        assert_eq!((logged.sink, sends_to_extension(&logged), warnings.len()), (Sink::Log, false, 0));
        let (unsent, warnings) = settings([FUNCTION]);
        assert_eq!((unsent.sink, sends_to_extension(&unsent)), (Sink::None(UnsentReason::NoReceiver), false));
        let message = unsent.unsent_message().unwrap();
        assert!(message.contains("layer") && message.contains("DD_FLUSH_TO_LOG=true"), "{message}");
        assert!(warnings.is_empty(), "no variable is invalid: {warnings:?}");
        let server = ("AWS_LAMBDA_INITIALIZATION_TYPE", "lambda-managed-instances");
        let (server, warnings) = settings([FUNCTION, server]);
        assert_eq!(server.destination, Destination::default_at(Path::new(SOCKET), false));
        assert_eq!((server.sink, server.unsent_message(), warnings.len()), (Sink::Socket, None, 0));
    }

    #[test]
    fn the_extension_is_looked_for_in_functions_alone() {
        let path = ("DD_RUNTIME_METRICS_LAMBDA_EXTENSION", "/extension");
        assert_eq!(extension_path(&Environment::from([FUNCTION, path])), Some("/extension"));
        assert_eq!(extension_path(&Environment::from([FUNCTION])), Some("/opt/extensions/datadog-agent"));
        assert_eq!(extension_path(&Environment::from([path])), None);
        // Here, it has not been found.
        assert_eq!(settings([FUNCTION, path]).0.sink, Sink::None(UnsentReason::NoReceiver));
    }

    #[test]
    fn an_address_is_used_and_is_the_extension_s_if_it_is_within_the_function() {
        for (host, port, is_extensions) in [
            ("127.0.0.1", "8125", true),
            ("localhost", "8125", true),
            ("127.0.0.1", "8126", false),
            ("10.0.0.1", "8125", false),
        ] {
            let address = [("DD_AGENT_HOST", host), ("DD_DOGSTATSD_PORT", port)];
            let (settings, warnings) = settings_in(with_extension(), [FUNCTION, address[0], address[1]]);
            assert_eq!(settings.destination.to_string(), format!("udp://{host}:{port} (from DD_AGENT_HOST)"));
            assert_eq!(
                (settings.sink, sends_to_extension(&settings)),
                (Sink::Socket, is_extensions),
                "{host}"
            );
            assert!(warnings.is_empty());
        }
    }

    #[test]
    fn a_function_sends_nothing_to_a_host_name() {
        let (settings, warnings) = settings([FUNCTION, ("DD_AGENT_HOST", "agent.internal")]);
        assert_eq!(settings.sink, Sink::None(UnsentReason::HostName));
        assert_eq!(
            settings.unsent_message().as_deref(),
            Some(
                "metrics are not sent to udp://agent.internal:8125 (from DD_AGENT_HOST): in AWS Lambda the names of \
                 hosts are not resolved; use an IP address"
            )
        );
        assert!(warnings.is_empty());
    }

    proptest! {
        #[test]
        fn no_environment_is_an_error(values in prop::collection::vec(any::<String>(), variables::VARIABLES.len())) {
            let mut values = values.into_iter();
            let environment = Environment::read(Variable::all(), |_| values.next());
            let settings = Settings::new(&Arguments::default(), &environment, alone());
            let (settings, _) = settings.expect("variables only warn");
            prop_assert!(settings.interval >= Duration::from_millis(10));
        }
    }
}
