//! Settings, their defaults and their validation: a pure function of arguments, environment and what was found around it.
//!
//! A wrong argument is an error, a wrong variable a warning and the default.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::catalogue::metric::{Level, WireType};
use crate::catalogue::selection::Selection;
use crate::emitter::address::{ACCEPTED, Address, ChosenBy, DEFAULT_PORT, Destination, Host, parse_port};
use crate::emitter::origin::Origin;
use crate::identity::function::Function;

pub mod variables;

use self::variables::{Environment, Variable};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// The bounds of the interval, in seconds.
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
    /// Who sends.
    pub claims: ServiceArguments,
}

impl Arguments {
    /// The names of those that were given.
    #[must_use]
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("dogstatsd_url", self.dogstatsd_url.is_some()),
            ("flush_interval", self.flush_interval.is_some()),
            ("service", self.claims.service.is_some()),
            ("env", self.claims.env.is_some()),
            ("version", self.claims.version.is_some()),
            ("tags", self.claims.tags.is_some()),
            ("level", self.level.is_some()),
            ("wire_type", self.wire_type.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

/// What `enable()` was told about the service.
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

/// What stands ready around the process.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Where an Agent's socket is, if there is one.
    pub default_socket: &'a Path,
    /// Whether the Datadog Lambda Extension is there.
    pub has_extension: bool,
}

/// What a collector is started with.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Settings {
    /// Where metrics go.
    pub destination: Destination,
    /// Time between two flushes.
    pub interval: Duration,
    /// What is sent.
    pub selection: Selection,
    /// Distributions or gauges.
    pub wire_type: WireType,
    /// Whether lines carry the runtime-id.
    pub runtime_id: bool,
    /// Whether the receiver is told of our own sending.
    pub client_telemetry: bool,
    /// Whether ddtrace's own runtime metrics are disabled in favour of ours.
    pub force: bool,
    /// Whether only CPU time tells what Gunicorn's workers do.
    pub workers_by_cpu: bool,
    /// Whether nothing may be collected and sent.
    pub disabled: bool,
    /// Whether lines carry process tags.
    pub process_tags: bool,
    /// What lines tell of their origin.
    pub origin: Origin,
    /// When samples are taken.
    pub schedule: Schedule,
    /// How metrics leave.
    pub route: Sink,
    /// The function, in AWS Lambda, before its first invocation.
    pub function: Option<Function>,
    /// Whether the process is stored as an image and restored from it.
    pub is_stored: bool,
}

/// When samples are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// At every interval, by threads of ours.
    #[default]
    Periodic,
    /// At the end of each invocation, by the thread that serves it; there is no thread of ours.
    PerInvocation,
}

/// How metrics leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sink {
    /// Through a socket.
    #[default]
    Socket,
    /// As lines of the program's log.
    Log,
    /// Not at all: nobody is there to take them.
    Nowhere,
}

/// An argument that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidArgument {
    /// The argument's name.
    pub name: &'static str,
    /// Its value, as Python would print it.
    pub value: String,
    /// What would be taken.
    pub accepted: &'static str,
}

impl fmt::Display for InvalidArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}: expected {}", self.name, self.value, self.accepted)
    }
}

/// A variable that cannot be taken, and what holds instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The variable's name.
    pub variable: &'static str,
    /// The whole message.
    pub text: String,
}

impl Settings {
    /// Decides every setting: the argument, else the variable, else the default.
    ///
    /// # Errors
    ///
    /// The first argument that cannot be taken.
    pub fn new(
        arguments: &Arguments,
        environment: &Environment,
        surroundings: Surroundings<'_>,
    ) -> Result<(Self, Vec<Warning>), InvalidArgument> {
        let mut variables = Variables { environment, warnings: Vec::new() };
        let mut settings = Self {
            interval: match arguments.flush_interval {
                Some(seconds) => argument("flush_interval", seconds, variables::INTERVAL.accepts, interval)?,
                None => {
                    variables.read(&variables::INTERVAL, parse_interval).valid().unwrap_or(DEFAULT_INTERVAL)
                }
            },
            selection: {
                let level = match arguments.level.as_deref() {
                    Some(level) => argument("level", level, variables::LEVEL.accepts, parse)?,
                    None => variables.read(&variables::LEVEL, parse).valid().unwrap_or_default(),
                };
                variables.selection(level)
            },
            wire_type: match arguments.wire_type.as_deref() {
                Some(wire_type) => argument("wire_type", wire_type, variables::WIRE_TYPE.accepts, parse)?,
                None => match variables.read(&variables::WIRE_TYPE, parse) {
                    Found::Unset => ddtraces_type(environment),
                    found => found.valid().unwrap_or_default(),
                },
            },
            runtime_id: variables
                .newer([&variables::RUNTIME_ID_ENABLED, &variables::EXPERIMENTAL_RUNTIME_ID], parse_bool)
                .unwrap_or(true),
            // In AWS Lambda it would keep the extension busy.
            client_telemetry: variables.flag(&variables::CLIENT_TELEMETRY).unwrap_or(false)
                && environment.get(&variables::LAMBDA_FUNCTION_NAME).is_none(),
            force: variables.flag(&variables::FORCE).unwrap_or(false),
            workers_by_cpu: variables
                .read(&variables::GUNICORN_WORKER_STATE, by_cpu)
                .valid()
                .unwrap_or(false),
            disabled: variables.flag(&variables::DISABLE).unwrap_or(false),
            process_tags: variables.flag(&variables::PROCESS_TAGS).unwrap_or(false),
            origin: Origin {
                detect: variables.flag(&variables::ORIGIN_DETECTION_ENABLED).unwrap_or(true),
                external: variables.read(&variables::EXTERNAL_ENV, parse).valid(),
                cardinality: variables
                    .newer([&variables::CARDINALITY, &variables::DATADOG_CARDINALITY], parse),
            },
            destination: match arguments.dogstatsd_url.as_deref() {
                Some(url) => Destination {
                    address: argument("dogstatsd_url", url, ACCEPTED, parse)?,
                    chosen_by: ChosenBy::Setting("dogstatsd_url"),
                },
                None => variables.destination(surroundings.default_socket),
            },
            schedule: variables.schedule(),
            route: Sink::Socket,
            function: None,
            is_stored: environment.get(&variables::LAMBDA_INITIALIZATION_TYPE) == Some("snap-start"),
        };
        if environment.get(&variables::LAMBDA_FUNCTION_NAME).is_some() {
            variables.fit_into_lambda(&mut settings, surroundings.has_extension);
        }
        Ok((settings, variables.warnings))
    }
}

fn argument<V: fmt::Debug + Copy, T>(
    name: &'static str,
    value: V,
    accepted: &'static str,
    parse: impl Fn(V) -> Option<T>,
) -> Result<T, InvalidArgument> {
    parse(value).ok_or_else(|| InvalidArgument { name, value: format!("{value:?}"), accepted })
}

/// What a variable holds.
enum Found<T> {
    Unset,
    Invalid,
    Valid(T),
}

impl<T> Found<T> {
    fn valid(self) -> Option<T> {
        match self {
            Self::Valid(value) => Some(value),
            Self::Unset | Self::Invalid => None,
        }
    }
}

/// Reads variables and gathers what is wrong with them.
struct Variables<'a> {
    environment: &'a Environment,
    warnings: Vec<Warning>,
}

impl Variables<'_> {
    /// Reads a variable, and warns of a wrong one.
    fn read<T>(&mut self, variable: &Variable, parse: impl Fn(&str) -> Option<T>) -> Found<T> {
        let Some(text) = self.environment.get(variable) else { return Found::Unset };
        if let Some(value) = parse(text) {
            return Found::Valid(value);
        }
        let instead = if variable.default.is_empty() {
            "it is ignored".into()
        } else {
            format!("{} is used", variable.default)
        };
        self.warn(variable, text, &instead);
        Found::Invalid
    }

    fn flag(&mut self, variable: &Variable) -> Option<bool> {
        self.read(variable, parse_bool).valid()
    }

    /// A variable or, if it is unset, the one that it is another name of. A wrong one hides the other.
    fn newer<T>(&mut self, variables: [&Variable; 2], parse: fn(&str) -> Option<T>) -> Option<T> {
        let [newer, older] = variables;
        match self.read(newer, parse) {
            Found::Unset => self.read(older, parse).valid(),
            found => found.valid(),
        }
    }

    fn warn(&mut self, variable: &Variable, value: &str, instead: &str) {
        let shown: String = value.chars().take(200).collect();
        self.warnings.push(Warning {
            variable: variable.name,
            text: format!("{}={shown:?}: expected {}; {instead}", variable.name, variable.accepts),
        });
    }

    /// The rows of a level, with those that variables add and without those that they take away.
    fn selection(&mut self, level: Level) -> Selection {
        let added = self.rows(&variables::INCLUDE, Selection::default());
        // Its presence switches on the page of runtime metrics.
        let taken_away = self.rows(&variables::EXCLUDE, Selection::named("cpu.time.sys"));
        Selection::at(level).with(added).without(taken_away)
    }

    /// The rows that a variable names, but for those that it may not.
    fn rows(&mut self, variable: &Variable, but: Selection) -> Selection {
        let text = self.environment.get(variable).unwrap_or_default();
        let mut named = Selection::default();
        let mut ignored = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let rows = Selection::named(item);
            if rows.without(but).is_empty() {
                ignored.push(item);
            }
            named = named.with(rows.without(but));
        }
        if !ignored.is_empty() {
            self.warn(variable, &ignored.join(","), "it is ignored");
        }
        named
    }

    /// The strongest rule that gives a valid address.
    fn destination(&mut self, default_socket: &Path) -> Destination {
        let url = self.environment.get(&variables::DOGSTATSD_URL);
        if let Some(address) = url.and_then(parse) {
            return Destination { address, chosen_by: ChosenBy::Setting(variables::DOGSTATSD_URL.name) };
        }
        let destination = self.host_and_port().unwrap_or_else(|| Destination::by_default(default_socket));
        if let Some(url) = url {
            self.warn(&variables::DOGSTATSD_URL, url, &format!("{destination} is used"));
        }
        destination
    }

    /// A function is frozen between its invocations; a thread would go on at a thaw, in the time of the next.
    fn schedule(&mut self) -> Schedule {
        let is_function = self.environment.get(&variables::LAMBDA_FUNCTION_NAME).is_some();
        let is_server =
            self.environment.get(&variables::LAMBDA_INITIALIZATION_TYPE) == Some("lambda-managed-instances");
        let keeps_thread = self.flag(&variables::LAMBDA_THREAD).unwrap_or(false);
        if is_function && !is_server && !keeps_thread { Schedule::PerInvocation } else { Schedule::Periodic }
    }

    /// Without an address of its own a function sends to the vendor's extension, else to its log if that is asked for.
    fn fit_into_lambda(&mut self, settings: &mut Settings, has_extension: bool) {
        let is_given = !matches!(settings.destination.chosen_by, ChosenBy::Default(_));
        let flushes_to_log = self.flag(&variables::FLUSH_TO_LOG).unwrap_or(false);
        if settings.schedule == Schedule::PerInvocation && !is_given {
            if has_extension {
                settings.destination = Destination::of_extension();
            } else {
                settings.route = if flushes_to_log { Sink::Log } else { Sink::Nowhere };
            }
            if settings.route == Sink::Nowhere {
                let text = "metrics are not sent: this function has no Datadog Lambda Extension, and no address of another \
                            receiver; add the extension's layer, or set DD_FLUSH_TO_LOG=true to have them in the log";
                self.warnings
                    .push(Warning { variable: variables::LAMBDA_EXTENSION.name, text: text.to_owned() });
            }
        }
        // An address within the function is the extension's all the same.
        let is_extensions = match &settings.destination.address {
            Address::Udp(host, port) => host.is_this_machine() && *port == DEFAULT_PORT,
            Address::Unix(..) => false,
        };
        settings.function = Some(Function { has_extension: has_extension && is_extensions, invoked: None });
        // Nothing waits for a name server while it is paid for.
        if let (Schedule::PerInvocation, Address::Udp(Host::Name(name), _)) =
            (settings.schedule, &settings.destination.address)
        {
            settings.route = Sink::Nowhere;
            let text = format!(
                "nothing is sent to {}: in AWS Lambda the name {name} is not looked up; give an IP address",
                settings.destination
            );
            self.warnings.push(Warning { variable: variables::LAMBDA_FUNCTION_NAME.name, text });
        }
    }

    /// A host, a port, or both.
    fn host_and_port(&mut self) -> Option<Destination> {
        let host = self.stronger([&variables::DOGSTATSD_HOST, &variables::AGENT_HOST], parse::<Host>);
        let port = self.stronger([&variables::DOGSTATSD_PORT, &variables::AGENT_PORT], parse_port);
        let chosen_by = match (&host, &port) {
            (Some((_, name)), _) | (None, Some((_, name))) => ChosenBy::Setting(name),
            (None, None) => return None,
        };
        let host = host.map_or(Host::Localhost, |(host, _)| host);
        let port = port.map_or(DEFAULT_PORT, |(port, _)| port);
        Some(Destination { address: Address::Udp(host, port), chosen_by })
    }

    /// The first of the variables that has a valid value, and its name.
    fn stronger<T>(
        &mut self,
        variables: [&'static Variable; 2],
        parse: fn(&str) -> Option<T>,
    ) -> Option<(T, &'static str)> {
        variables.into_iter().find_map(|variable| Some((self.read(variable, parse).valid()?, variable.name)))
    }
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn parse_interval(text: &str) -> Option<Duration> {
    interval(text.parse().ok()?)
}

fn interval(seconds: f64) -> Option<Duration> {
    INTERVALS.contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

fn by_cpu(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "in_flight" => Some(false),
        "cpu" => Some(true),
        _ => None,
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// ddtrace sends gauges instead of distributions by this experimental feature.
fn ddtraces_type(environment: &Environment) -> WireType {
    let features = environment.get(&variables::EXPERIMENTAL_FEATURES).unwrap_or_default();
    let gauges =
        features.split(',').any(|item| item.trim().eq_ignore_ascii_case("DD_RUNTIME_METRICS_ENABLED"));
    if gauges { WireType::Gauge } else { WireType::Distribution }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "default" => Ok(Self::Default),
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
    use crate::emitter::origin::Cardinality;

    const NO_SOCKET: &str = "/nowhere/dsd.socket";

    fn alone() -> Surroundings<'static> {
        Surroundings { default_socket: Path::new(NO_SOCKET), has_extension: false }
    }

    fn beside_extension() -> Surroundings<'static> {
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

    fn of_function(has_extension: bool) -> Function {
        Function { has_extension, invoked: None }
    }

    fn refusal(arguments: &Arguments) -> String {
        Settings::new(arguments, &Environment::default(), alone()).unwrap_err().to_string()
    }

    #[test]
    fn without_anything_the_defaults_hold() {
        let (settings, warnings) = settings([]);
        assert_eq!(
            settings,
            Settings {
                destination: Destination::by_default(Path::new(NO_SOCKET)),
                interval: Duration::from_secs(10),
                selection: Selection::at(Level::Default),
                wire_type: WireType::Distribution,
                runtime_id: true,
                client_telemetry: false,
                force: false,
                workers_by_cpu: false,
                disabled: false,
                process_tags: false,
                origin: Origin { detect: true, external: None, cardinality: None },
                schedule: Schedule::Periodic,
                route: Sink::Socket,
                function: None,
                is_stored: false,
            }
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn the_address_comes_from_the_first_rule_that_matches() {
        for (environment, expected) in [
            (
                &[("DD_DOGSTATSD_URL", "unix:///d"), ("DD_AGENT_HOST", "a")][..],
                "unix:///d (from DD_DOGSTATSD_URL)",
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
            let environment = Environment::collect(|name| {
                environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            });
            let (settings, warnings) = Settings::new(&Arguments::default(), &environment, alone()).unwrap();
            assert_eq!(settings.destination.to_string(), expected);
            assert_eq!(warnings, []);
        }
    }

    #[test]
    fn a_wrong_url_variable_names_the_address_that_is_used_instead() {
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
    fn a_wrong_variable_is_one_warning_and_the_default() {
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
    fn rows_are_added_and_taken_away_by_name() {
        let selected = |include, exclude| {
            let (settings, warnings) =
                settings([("DD_RUNTIME_METRICS_INCLUDE", include), ("DD_RUNTIME_METRICS_EXCLUDE", exclude)]);
            (settings.selection, warnings)
        };
        let all = Selection::at(Level::Default);
        assert_eq!(selected("mem.rss", ""), (all, vec![]));
        let without = all.without(Selection::named("gc.*")).without(Selection::named("mem.rss"));
        assert_eq!(selected("gc.pause.max", " gc.* ,runtime.python.mem.rss,"), (without, vec![]));
        let unknown = "DD_RUNTIME_METRICS_INCLUDE=\"rss,gil.*\": expected a comma list of names and groups like gc.*; \
                       it is ignored";
        assert_eq!(selected("rss,gil.*,mem.*", ""), (all, vec![unknown.to_owned()]));
        let (selection, warnings) = selected("", "cpu.time.sys");
        assert_eq!((selection, warnings.len()), (all, 1));
        // A group is taken away but for that row.
        let kept = all.without(Selection::named("cpu.time.user"));
        assert_eq!(selected("", "cpu.time.*"), (kept, vec![]));
    }

    #[test]
    fn variables_are_obeyed() {
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
    fn the_older_name_of_the_cardinality_holds_where_the_newer_is_unset() {
        let older = ("DATADOG_CARDINALITY", "low");
        assert_eq!(settings([older]).0.origin.cardinality, Some(Cardinality::Low));
        assert_eq!(settings([older, ("DD_CARDINALITY", "")]).0.origin.cardinality, Some(Cardinality::Low));
    }

    #[test]
    fn ddtraces_names_are_obeyed_where_ours_are_unset() {
        let gauges = ("DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED", "x, dd_runtime_metrics_enabled");
        assert_eq!(settings([gauges]).0.wire_type, WireType::Gauge);
        let ours = ("DD_RUNTIME_METRICS_WIRE_TYPE", "distribution");
        assert_eq!(settings([gauges, ours]).0.wire_type, WireType::Distribution);
        let no_id = ("DD_TRACE_EXPERIMENTAL_RUNTIME_ID_ENABLED", "0");
        assert!(!settings([no_id]).0.runtime_id);
        assert!(settings([no_id, ("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED", "1")]).0.runtime_id);
    }

    #[test]
    fn a_wrong_variable_does_not_bring_its_weaker_names_to_life() {
        let gauges = ("DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED", "DD_RUNTIME_METRICS_ENABLED");
        let (settings, _) = settings([gauges, ("DD_RUNTIME_METRICS_WIRE_TYPE", "count")]);
        assert_eq!(settings.wire_type, WireType::Distribution);
        let no_id = ("DD_TRACE_EXPERIMENTAL_RUNTIME_ID_ENABLED", "false");
        assert!(self::settings([no_id, ("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED", "no")]).0.runtime_id);
        let low = ("DATADOG_CARDINALITY", "low");
        assert_eq!(self::settings([low, ("DD_CARDINALITY", "lowest")]).0.origin.cardinality, None);
    }

    #[test]
    fn a_wrong_argument_names_itself_its_value_and_what_is_accepted() {
        let url = |text: &str| Arguments { dogstatsd_url: Some(text.into()), ..Arguments::default() };
        let interval = |seconds| Arguments { flush_interval: Some(seconds), ..Arguments::default() };
        assert_eq!(refusal(&url("ftp://x")), format!("dogstatsd_url=\"ftp://x\": expected {ACCEPTED}"));
        assert_eq!(refusal(&url("")), format!("dogstatsd_url=\"\": expected {ACCEPTED}"));
        for (seconds, shown) in [(0.0, "0.0"), (-1.0, "-1.0"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let expected = format!("flush_interval={shown}: expected a number of seconds from 0.01 to 86400");
            assert_eq!(refusal(&interval(seconds)), expected);
        }
        let level = Arguments { level: Some("detailed".into()), ..Arguments::default() };
        assert_eq!(refusal(&level), "level=\"detailed\": expected default");
        let wire_type = Arguments { wire_type: Some("g".into()), ..Arguments::default() };
        assert_eq!(refusal(&wire_type), "wire_type=\"g\": expected distribution or gauge");
    }

    #[test]
    fn an_argument_wins_over_its_variable() {
        let arguments = Arguments {
            dogstatsd_url: Some("/a".into()),
            flush_interval: Some(1.0),
            wire_type: Some("distribution".into()),
            ..Arguments::default()
        };
        let environment = Environment::from([
            ("DD_DOGSTATSD_URL", "/b"),
            ("DD_RUNTIME_METRICS_INTERVAL", "2"),
            ("DD_RUNTIME_METRICS_WIRE_TYPE", "gauge"),
        ]);
        let (settings, _) = Settings::new(&arguments, &environment, alone()).unwrap();
        assert_eq!(settings.destination.to_string(), "unix:///a (from dogstatsd_url)");
        assert_eq!(settings.interval, Duration::from_secs(1));
        assert_eq!(settings.wire_type, WireType::Distribution);
    }

    const FUNCTION: (&str, &str) = ("AWS_LAMBDA_FUNCTION_NAME", "coffee");

    #[test]
    fn a_function_is_measured_at_each_invocation_unless_it_is_a_server_or_keeps_its_thread() {
        let schedule = |name, value| settings_in(beside_extension(), [FUNCTION, (name, value)]).0.schedule;
        let kind = "AWS_LAMBDA_INITIALIZATION_TYPE";
        for value in ["on-demand", "provisioned-concurrency", "snap-start", ""] {
            assert_eq!(schedule(kind, value), Schedule::PerInvocation, "{value}");
        }
        assert_eq!(schedule(kind, "lambda-managed-instances"), Schedule::Periodic);
        let thread = "DD_RUNTIME_METRICS_LAMBDA_THREAD";
        assert_eq!(schedule(thread, "TRUE"), Schedule::Periodic);
        assert_eq!(schedule(thread, "0"), Schedule::PerInvocation);
        assert_eq!(settings([(kind, "on-demand"), (thread, "false")]).0.schedule, Schedule::Periodic);
        assert!(settings_in(beside_extension(), [FUNCTION, (kind, "snap-start")]).0.is_stored);
    }

    #[test]
    fn a_function_without_an_address_sends_to_its_extension_or_to_its_log() {
        let (with, warnings) = settings_in(beside_extension(), [FUNCTION, ("DD_FLUSH_TO_LOG", "true")]);
        assert_eq!(with.destination.to_string(), "udp://127.0.0.1:8125 (from the Datadog Lambda Extension)");
        assert_eq!((with.route, with.function, warnings.len()), (Sink::Socket, Some(of_function(true)), 0));
        let (logged, warnings) = settings([FUNCTION, ("DD_FLUSH_TO_LOG", "1")]);
        assert_eq!((logged.route, logged.function, warnings.len()), (Sink::Log, Some(of_function(false)), 0));
        let (lost, warnings) = settings([FUNCTION]);
        assert_eq!((lost.route, lost.function), (Sink::Nowhere, Some(of_function(false))));
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(warning.contains("layer") && warning.contains("DD_FLUSH_TO_LOG=true"), "{warning}");
        let server = ("AWS_LAMBDA_INITIALIZATION_TYPE", "lambda-managed-instances");
        let (server, warnings) = settings([FUNCTION, server]);
        assert_eq!(server.destination, Destination::by_default(Path::new(NO_SOCKET)));
        assert_eq!((server.route, warnings.len()), (Sink::Socket, 0));
    }

    #[test]
    fn whether_there_is_an_extension_is_told_and_not_looked_for() {
        let path = ("DD_RUNTIME_METRICS_LAMBDA_EXTENSION", "/");
        assert_eq!(settings([FUNCTION, path]).0.route, Sink::Nowhere);
    }

    #[test]
    fn an_address_of_a_function_s_own_is_sent_to_and_is_the_extension_s_where_it_is_within_the_function() {
        for (host, port, is_extensions) in [
            ("127.0.0.1", "8125", true),
            ("localhost", "8125", true),
            ("127.0.0.1", "8126", false),
            ("10.0.0.1", "8125", false),
        ] {
            let address = [("DD_AGENT_HOST", host), ("DD_DOGSTATSD_PORT", port)];
            let (settings, warnings) = settings_in(beside_extension(), [FUNCTION, address[0], address[1]]);
            assert_eq!(settings.destination.to_string(), format!("udp://{host}:{port} (from DD_AGENT_HOST)"));
            assert_eq!(
                (settings.route, settings.function),
                (Sink::Socket, Some(of_function(is_extensions))),
                "{host}"
            );
            assert!(warnings.is_empty());
        }
    }

    #[test]
    fn in_a_function_no_name_is_looked_up_and_that_is_said() {
        let (settings, warnings) = settings([FUNCTION, ("DD_AGENT_HOST", "agent.internal")]);
        assert_eq!(settings.route, Sink::Nowhere);
        assert_eq!(
            warnings,
            ["nothing is sent to udp://agent.internal:8125 (from DD_AGENT_HOST): in AWS Lambda the name \
              agent.internal is not looked up; give an IP address"]
        );
    }

    proptest! {
        #[test]
        fn no_environment_makes_it_fail(values in prop::collection::vec(any::<String>(), variables::VARIABLES.len())) {
            let mut values = values.into_iter();
            let environment = Environment::collect(|_| values.next());
            let settings = Settings::new(&Arguments::default(), &environment, alone());
            let (settings, _) = settings.expect("variables only warn");
            prop_assert!(settings.interval >= Duration::from_millis(10));
        }
    }
}
