//! Who we are: entity id, service, env, version, user tags, runtime-id and process tags, joined once into the block of
//! tags that every line carries. A pure function of arguments, environment and command line.

use std::path::Path;

use percent_encoding::percent_decode_str;

use crate::emitter;
use crate::message::Message;
use crate::settings::ServiceArguments;
use crate::settings::variables::{self, Environment};
use crate::tag::clean;

pub mod command_line;
pub mod function;
pub mod tracers;

use self::command_line::Program;
use self::function::Function;
use self::tracers::{Names, Tracers};

/// The service of a program that nothing names.
const UNNAMED: &str = "unnamed-python-service";

/// The vendor's receiver in AWS Lambda refuses lines with more.
const MOST_TAGS_IN_LAMBDA: usize = 100;

/// What a line holds before and after its tags, in bytes: a name, a type, and a value, which as a float may take 327, or a
/// metric's own tags, of which one may take 800. The fields of the origin are counted apart.
const BESIDE_THE_BLOCK: usize = 900;

/// No value of a process tag is longer, in characters.
const LONGEST_PROCESS_VALUE: usize = 100;

/// The interpreter this process runs.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// `CPython`, `PyPy`.
    pub implementation: String,
    /// As `platform.python_version()` gives it.
    pub version: String,
    /// `sys.orig_argv`.
    pub command: Vec<String>,
}

/// How the program was started, for process tags.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entrypoint {
    /// The working directory.
    pub working_directory: String,
    /// The absolute path of the script or of the module's file; empty if there is none.
    pub file: String,
}

/// What lines carry beside what arguments and environment say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// The tag `runtime-id`.
    pub runtime_id: Option<&'a str>,
    /// How the program was started, if process tags are asked for.
    pub entrypoint: Option<&'a Entrypoint>,
    /// How many bytes of a line the fields of its origin may take.
    pub reserved: usize,
    /// What tracers in this process say.
    pub tracers: Option<&'a Tracers>,
    /// The function, in AWS Lambda.
    pub function: Option<&'a Function>,
}

/// All that an identity is made of.
#[derive(Clone, Debug, Default)]
pub struct IdentityInputs {
    /// What `enable()` was told.
    pub claims: ServiceArguments,
    /// The interpreter.
    pub runtime: Runtime,
    /// Our own id of this run of the process, if lines are to carry one.
    pub runtime_id: Option<String>,
    /// How the program was started, if process tags are asked for.
    pub entrypoint: Option<Entrypoint>,
    /// How many bytes of a line the fields of its origin may take.
    pub reserved: usize,
    /// The variables that say who the process is.
    pub environment: Environment,
    /// What tracers in this process say.
    pub tracers: Tracers,
    /// The function, in AWS Lambda.
    pub function: Option<Function>,
}

impl IdentityInputs {
    /// The identity as it is now.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let extras = Extras {
            runtime_id: self.runtime_id.as_deref(),
            entrypoint: self.entrypoint.as_ref(),
            reserved: self.reserved,
            tracers: Some(&self.tracers),
            function: self.function.as_ref(),
        };
        Identity::new(&self.claims, &self.environment, &self.runtime, extras)
    }

    /// The tags of a metric of the program's own: beside those that it is given, which are left out last, only what is the
    /// same in every process of the service, for each combination of tags is a metric that is paid for. What an extension
    /// adds to every line, it adds to these.
    #[must_use]
    pub fn tags_beside(&self, own: &[String]) -> String {
        let function = self.function.as_ref();
        let program = Program::of(&self.runtime.command);
        let mut user: Vec<String> = own.iter().map(|tag| clean(tag)).filter(|tag| !tag.is_empty()).collect();
        let mut leading = Vec::new();
        if !function.is_some_and(|function| function.has_extension) {
            let named = Named::by(&self.claims, &self.environment, program, Some(&self.tracers));
            user.extend(named.user.cleaned());
            leading = named.leading(&self.environment, function);
        }
        let trailing = function.map(|function| tags_of(function, &self.environment)).unwrap_or_default();
        join(&leading, &user, &trailing, Room::of(self.reserved, function)).tags
    }

    /// Takes over what environment and tracers say by now, if they do; says whether that is something new.
    pub fn follow(&mut self, environment: &Environment, tracers: Option<&Tracers>) -> bool {
        let tracers = tracers.unwrap_or(&self.tracers);
        let is_new = (environment, tracers) != (&self.environment, &self.tracers);
        if is_new {
            let tracers = tracers.clone();
            self.environment = environment.clone();
            self.tracers = tracers;
        }
        is_new
    }
}

/// The tags of every line.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// All tags, cleaned and joined by commas.
    pub tags: String,
    /// How many user tags were left out, for what a line takes.
    pub dropped_tags: usize,
    limit: Limit,
}

/// What keeps further tags from a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// The block would not fit into a packet.
    Length,
    /// The receiver takes no line with more.
    Number,
}

impl Identity {
    /// Decides each key on its own, by the strongest source that knows it.
    #[must_use]
    pub fn new(
        claims: &ServiceArguments,
        environment: &Environment,
        runtime: &Runtime,
        extras: Extras<'_>,
    ) -> Self {
        let program = Program::of(&runtime.command);
        let named = Named::by(claims, environment, program, extras.tracers);
        let mut trailing = tags(&[
            ("lang", Some("python".to_owned())),
            ("lang_interpreter", Some(runtime.implementation.clone())),
            ("lang_version", Some(runtime.version.clone())),
            ("runtime-id", extras.runtime_id.and_then(|own| runtime_id(own, extras.tracers))),
        ]);
        trailing.extend(extras.entrypoint.into_iter().flat_map(|entrypoint| {
            process_tags(entrypoint, program, named.service_is_given, named.inferred_service.as_deref())
        }));
        if let Some(function) = extras.function {
            trailing.extend(function.start_tags().iter().map(|tag| (*tag).to_owned()));
            trailing.extend(tags_of(function, environment));
        }
        let leading = named.leading(environment, extras.function);
        join(&leading, &named.user.cleaned(), &trailing, Room::of(extras.reserved, extras.function))
    }

    /// What to say where user tags were left out.
    #[must_use]
    pub fn warning(&self) -> Option<Message> {
        let reason = match self.limit {
            Limit::Length => "all tags together are too long".to_owned(),
            Limit::Number => format!("in AWS Lambda a line has at most {MOST_TAGS_IN_LAMBDA} tags"),
        };
        let text = || format!("the last {} user tags are not sent: {reason}", self.dropped_tags);
        (self.dropped_tags > 0).then(|| Message::warning(text()))
    }
}

/// Who sends, by the strongest sources: what every line says of the service.
struct Named {
    entity_id: Option<String>,
    service: Option<String>,
    /// Somebody has named the service: it is not inferred.
    service_is_given: bool,
    inferred_service: Option<String>,
    env: Option<String>,
    version: Option<String>,
    user: UserTags,
}

impl Named {
    fn by(
        claims: &ServiceArguments,
        environment: &Environment,
        program: Option<Program<'_>>,
        tracers: Option<&Tracers>,
    ) -> Self {
        let mut user = UserTags::default();
        user.extend(split(environment.get(&variables::DATADOG_TAGS), |text| text.split(',')));
        user.extend(environment.get(&variables::TAGS).map(split_dd_tags).unwrap_or_default());
        let mut own = UserTags::default();
        own.extend(claims.tags.iter().flatten().map(String::as_str));
        let [own_service, own_env, own_version] = ["service", "env", "version"].map(|key| own.take(key));
        user.replace(own);

        let attributes = environment.get(&variables::OTEL_RESOURCE_ATTRIBUTES).unwrap_or_default();
        let of_ddtrace = |name| of_tracer(tracers, |tracers| &tracers.ddtrace, name);
        let of_opentelemetry = |name| of_tracer(tracers, |tracers| &tracers.opentelemetry, name);
        let is_inferred_by_ddtrace = tracers
            .and_then(|tracers| tracers.ddtrace.as_ref())
            .is_some_and(|names| names.service_is_inferred);
        let given_service = first(&mut [
            claims.service.clone(),
            own_service,
            of_ddtrace(|names| &names.service).filter(|_| !is_inferred_by_ddtrace),
            environment.get(&variables::SERVICE).map(str::to_owned),
            environment.get(&variables::OTEL_SERVICE_NAME).map(str::to_owned),
            attribute(attributes, "service.name"),
            user.take("service"),
            of_opentelemetry(|names| &names.service),
        ]);
        let inferred_service =
            first(&mut [of_ddtrace(|names| &names.service), inferred_service(environment, program)]);
        let service_is_given = given_service.is_some();
        let service = first(&mut [given_service, inferred_service.clone(), Some(UNNAMED.to_owned())]);
        let env = first(&mut [
            claims.env.clone(),
            own_env,
            of_ddtrace(|names| &names.env),
            environment.get(&variables::ENV).map(str::to_owned),
            attribute(attributes, "deployment.environment.name"),
            attribute(attributes, "deployment.environment"),
            user.take("env"),
            of_opentelemetry(|names| &names.env),
        ]);
        let version = first(&mut [
            claims.version.clone(),
            own_version,
            of_ddtrace(|names| &names.version),
            environment.get(&variables::VERSION).map(str::to_owned),
            attribute(attributes, "service.version"),
            user.take("version"),
            of_opentelemetry(|names| &names.version),
        ]);
        let entity_id = first(&mut [environment.get(&variables::ENTITY_ID).map(str::to_owned)]);
        Self { entity_id, service, service_is_given, inferred_service, env, version, user }
    }

    /// What lines begin with.
    fn leading(&self, environment: &Environment, function: Option<&Function>) -> Vec<String> {
        let names = [&self.service, &self.env, &self.version].map(Clone::clone);
        let [service, env, version] = match function {
            Some(Function { has_extension: true, .. }) => uncontradicted(names, environment),
            _ => names,
        };
        tags(&[
            ("dd.internal.entity_id", self.entity_id.clone()),
            ("service", service),
            ("env", env),
            ("version", version),
        ])
    }
}

/// What a tracer in this process says.
fn of_tracer(
    tracers: Option<&Tracers>,
    names: fn(&Tracers) -> &Option<Names>,
    name: fn(&Names) -> &Option<String>,
) -> Option<String> {
    name(names(tracers?).as_ref()?).clone()
}

/// That of their spans, else our own.
fn runtime_id(own: &str, tracers: Option<&Tracers>) -> Option<String> {
    first(&mut [
        of_tracer(tracers, |tracers| &tracers.ddtrace, |names| &names.runtime_id),
        of_tracer(tracers, |tracers| &tracers.opentelemetry, |names| &names.runtime_id),
        Some(own.to_owned()),
    ])
}

/// The tags of the function itself.
fn tags_of(function: &Function, environment: &Environment) -> Vec<String> {
    let name = environment.get(&variables::LAMBDA_FUNCTION_NAME);
    function.tags(name).iter().map(|tag| clean(tag)).collect()
}

/// Service, env and version without those that the extension in AWS Lambda, which knows the variables alone, would add
/// otherwise; it writes them in lower case, as the back end does.
fn uncontradicted(names: [Option<String>; 3], environment: &Environment) -> [Option<String>; 3] {
    let [service, env, version] = names;
    let theirs = |variable| environment.get(variable);
    let their_service = theirs(&variables::SERVICE).or_else(|| theirs(&variables::LAMBDA_FUNCTION_NAME));
    let agreed = |ours: Option<String>, theirs: Option<&str>| {
        ours.filter(|ours| theirs.is_none_or(|theirs| theirs.eq_ignore_ascii_case(ours)))
    };
    [
        agreed(service, their_service),
        agreed(env, theirs(&variables::ENV)),
        agreed(version, theirs(&variables::VERSION)),
    ]
}

/// What a line has room for.
#[derive(Clone, Copy)]
struct Room {
    bytes: usize,
    tags: usize,
}

impl Room {
    /// Beside so many bytes of the fields of its origin.
    fn of(reserved: usize, function: Option<&Function>) -> Self {
        Self {
            bytes: emitter::MAX_PAYLOAD.saturating_sub(BESIDE_THE_BLOCK + reserved),
            tags: if function.is_some() { MOST_TAGS_IN_LAMBDA } else { usize::MAX },
        }
    }
}

/// Joins the tags, leaving out user tags from the last on until the block has room.
fn join(leading: &[String], user: &[String], trailing: &[String], room: Room) -> Identity {
    let size = |tags: &[String]| tags.iter().map(|tag| tag.len() + 1).sum::<usize>();
    let mut bytes = room.bytes.saturating_sub(size(leading) + size(trailing));
    let most = room.tags.saturating_sub(leading.len() + trailing.len());
    let mut kept: Vec<&str> = leading.iter().map(String::as_str).collect();
    let fitting = user.iter().take(most).take_while(|tag| {
        let fits = tag.len() < bytes;
        bytes = bytes.saturating_sub(tag.len() + 1);
        fits
    });
    kept.extend(fitting.map(String::as_str));
    let fitted = kept.len() - leading.len();
    let dropped_tags = user.len() - fitted;
    let limit = if fitted == most { Limit::Number } else { Limit::Length };
    kept.extend(trailing.iter().map(String::as_str));

    let mut unique: Vec<&str> = Vec::with_capacity(kept.len());
    for tag in kept {
        if !tag.is_empty() && !unique.contains(&tag) {
            unique.push(tag);
        }
    }
    Identity { tags: unique.join(","), dropped_tags, limit }
}

/// Tags by key: a later one takes the place of an earlier one with the same key.
#[derive(Default)]
struct UserTags(Vec<(String, Option<String>)>);

impl UserTags {
    fn extend<'a>(&mut self, items: impl IntoIterator<Item = &'a str>) {
        for item in items {
            let (key, value) = match item.trim().split_once(':') {
                Some((key, value)) => (key.trim(), Some(value.trim().to_owned())),
                None => (item.trim(), None),
            };
            if key.is_empty() || matches!(key, "git.commit.sha" | "git.repository_url") {
                continue;
            }
            self.set(key.to_owned(), value);
        }
    }

    /// Takes over other tags, which are stronger.
    fn replace(&mut self, others: Self) {
        for (key, value) in others.0 {
            self.set(key, value);
        }
    }

    fn set(&mut self, key: String, value: Option<String>) {
        let same = |(k, v): &&mut (String, Option<String>)| *k == key && v.is_some() == value.is_some();
        match self.0.iter_mut().find(same) {
            Some(tag) => tag.1 = value,
            None => self.0.push((key, value)),
        }
    }

    /// Removes the key, for it becomes a tag of its own; an empty value counts as none.
    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(k, v)| k == key && v.is_some())?;
        self.0.remove(at).1.filter(|value| !value.is_empty())
    }

    fn cleaned(&self) -> Vec<String> {
        let text = |(key, value): &(String, Option<String>)| match value {
            Some(value) => clean(&format!("{key}:{value}")),
            None => clean(key),
        };
        self.0.iter().map(text).filter(|tag| !tag.is_empty()).collect()
    }
}

/// The first value that leaves something of a tag.
fn first(sources: &mut [Option<String>]) -> Option<String> {
    sources.iter_mut().filter_map(Option::take).find(|value| !clean(value).is_empty())
}

/// A tag for every key that has a value.
fn tags(values: &[(&str, Option<String>)]) -> Vec<String> {
    let tag = |(key, value): &(&str, Option<String>)| Some(clean(&format!("{key}:{}", value.as_ref()?)));
    values.iter().filter_map(tag).collect()
}

fn split<'a, I: Iterator<Item = &'a str>>(text: Option<&'a str>, by: impl Fn(&'a str) -> I) -> Vec<&'a str> {
    text.map(|text| by(text).collect()).unwrap_or_default()
}

fn split_dd_tags(text: &str) -> Vec<&str> {
    if text.contains(',') { text.split(',').collect() } else { text.split_whitespace().collect() }
}

/// One attribute of `OTEL_RESOURCE_ATTRIBUTES`, percent-decoded as OpenTelemetry writes them.
fn attribute(attributes: &str, key: &str) -> Option<String> {
    let pairs = attributes.split(',').filter_map(|item| item.split_once('='));
    let value = pairs.rev().find(|(k, _)| k.trim() == key)?.1.trim();
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// The platform's name for the function or site, else the script or module that was started.
fn inferred_service(environment: &Environment, program: Option<Program<'_>>) -> Option<String> {
    let platforms = [
        &variables::LAMBDA_FUNCTION_NAME,
        &variables::K_SERVICE,
        &variables::FUNCTION_NAME,
        &variables::WEBSITE_SITE_NAME,
    ];
    let platform = platforms.into_iter().find_map(|variable| environment.get(variable));
    platform.map(str::to_owned).or_else(|| program?.name())
}

/// ddtrace's process tags, in its order. Without a script or module only the working directory and the service are told.
fn process_tags(
    entrypoint: &Entrypoint,
    program: Option<Program<'_>>,
    service_is_given: bool,
    inferred_service: Option<&str>,
) -> Vec<String> {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = program.and_then(|program| match program {
        Program::Script(path) => Some(Path::new(path).file_stem()?.to_string_lossy().into_owned()),
        Program::Module(name) => Some(name.to_owned()),
    });
    let kind = program.map(|program| match program {
        Program::Script(_) => "script",
        Program::Module(_) => "module",
    });
    let (user, auto) = if service_is_given { (Some("true"), None) } else { (None, inferred_service) };
    let mut values = [
        ("entrypoint.basedir", Path::new(&entrypoint.file).parent().and_then(last)),
        ("entrypoint.name", name),
        ("entrypoint.type", kind.map(str::to_owned)),
        ("entrypoint.workdir", last(Path::new(&entrypoint.working_directory))),
        ("svc.auto", auto.map(str::to_owned)),
        ("svc.user", user.map(str::to_owned)),
    ];
    for (_, value) in &mut values {
        *value = value.take().and_then(|text| process_value(&text));
    }
    tags(&values)
}

/// A value as ddtrace writes it; `None` for one that says nothing. Letters beyond ASCII keep their case: the back end
/// lowers it, and the table for it is as large as this module.
fn process_value(text: &str) -> Option<String> {
    if matches!(text, "/" | "\\" | "bin") {
        return None;
    }
    let text: String = text.chars().take(LONGEST_PROCESS_VALUE).collect();
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let mut value = String::new();
    for c in text.to_ascii_lowercase().chars().map(|c| if allowed(c) { c } else { '_' }) {
        if c != '_' || !value.ends_with('_') {
            value.push(c);
        }
    }
    let value = value.trim_matches('_');
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runtime(command: &[&str]) -> Runtime {
        Runtime {
            implementation: "CPython".into(),
            version: "3.13.1".into(),
            command: command.iter().map(ToString::to_string).collect(),
        }
    }

    fn tags<const N: usize>(claims: &ServiceArguments, environment: [(&str, &str); N]) -> String {
        let runtime = runtime(&["python", "app.py"]);
        Identity::new(claims, &Environment::from(environment), &runtime, Extras::default()).tags
    }

    fn service_of(command: &[&str]) -> String {
        let identity = Identity::new(
            &ServiceArguments::default(),
            &Environment::default(),
            &runtime(command),
            Extras::default(),
        );
        let service = identity.tags.split(',').next().unwrap().to_owned();
        service.strip_prefix("service:").unwrap().to_owned()
    }

    const TAIL: &str = "lang:python,lang_interpreter:CPython,lang_version:3.13.1";

    #[test]
    fn the_block_is_in_the_documented_order() {
        let environment = Environment::from([
            ("DD_SERVICE", "web"),
            ("DD_ENV", "prod"),
            ("DD_VERSION", "1.4"),
            ("DD_TAGS", "team:core,canary"),
            ("DD_ENTITY_ID", "1d-2e"),
        ]);
        let entrypoint = entrypoint();
        let extras = Extras { runtime_id: Some("9f0c"), entrypoint: Some(&entrypoint), ..Extras::default() };
        let identity = Identity::new(&ServiceArguments::default(), &environment, &runtime(&[]), extras);
        assert_eq!(
            identity.tags,
            format!(
                "dd.internal.entity_id:1d-2e,service:web,env:prod,version:1.4,team:core,canary,{TAIL},\
                 runtime-id:9f0c,entrypoint.basedir:shop,entrypoint.workdir:srv,svc.user:true"
            )
        );
    }

    fn entrypoint() -> Entrypoint {
        Entrypoint { working_directory: "/srv".into(), file: "/opt/shop/app.py".into() }
    }

    #[test]
    fn an_entity_id_is_cleaned_and_never_empty() {
        let with = |id| tags(&ServiceArguments::default(), [("DD_ENTITY_ID", id)]);
        assert_eq!(with("a|b,c\nd"), format!("dd.internal.entity_id:a_b_c_d,service:app,{TAIL}"));
        assert_eq!(with(""), format!("service:app,{TAIL}"));
        assert_eq!(with("::"), format!("service:app,{TAIL}"));
    }

    #[test]
    fn process_tags_tell_how_the_program_was_started() {
        let of = |command: &[&str], environment: &[(&str, &str)], entrypoint: &Entrypoint| {
            let environment = Environment::collect(|name| {
                environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            });
            let extras = Extras { entrypoint: Some(entrypoint), ..Extras::default() };
            let block =
                Identity::new(&ServiceArguments::default(), &environment, &runtime(command), extras).tags;
            block.split_once(&format!("{TAIL},")).unwrap().1.to_owned()
        };
        let script =
            "entrypoint.basedir:shop,entrypoint.name:app,entrypoint.type:script,entrypoint.workdir:srv";
        assert_eq!(of(&["python", "app.py"], &[], &entrypoint()), format!("{script},svc.auto:app"));
        for given in [("DD_SERVICE", "x"), ("OTEL_SERVICE_NAME", "x"), ("DD_TAGS", "service:x")] {
            let tags = of(&["python", "app.py"], &[given], &entrypoint());
            assert_eq!(tags, format!("{script},svc.user:true"), "{given:?}");
        }
        let function = [("AWS_LAMBDA_FUNCTION_NAME", "Resize")];
        assert_eq!(of(&["python", "app.py"], &function, &entrypoint()), format!("{script},svc.auto:resize"));
        let module = "entrypoint.basedir:shop,entrypoint.name:shop.web,entrypoint.type:module,\
                      entrypoint.workdir:srv,svc.auto:shop.web";
        assert_eq!(of(&["python", "-m", "shop.web"], &[], &entrypoint()), module);
        let tool = Entrypoint { file: "/usr/bin/gunicorn".into(), working_directory: "/".into() };
        assert_eq!(
            of(&["python", "/usr/bin/gunicorn"], &[], &tool),
            "entrypoint.name:gunicorn,entrypoint.type:script,svc.auto:gunicorn"
        );
        let prompt = Entrypoint { file: String::new(), working_directory: "/srv".into() };
        assert_eq!(of(&["python"], &[], &prompt), "entrypoint.workdir:srv");
    }

    #[test]
    fn a_process_value_is_written_as_ddtrace_writes_it() {
        let long = "A".repeat(101);
        let cut = "a".repeat(100);
        for (text, expected) in [
            ("My App", Some("my_app")),
            ("__main__", Some("main")),
            ("a, |b", Some("a_b")),
            ("a:b/c.d-e", Some("a_b/c.d-e")),
            ("É", Some("É")),
            (&long, Some(cut.as_str())),
            ("bin", None),
            ("/", None),
            ("\\", None),
            ("", None),
            ("|", None),
        ] {
            assert_eq!(process_value(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn each_key_takes_its_strongest_source_on_its_own() {
        let all = [
            ("DD_SERVICE", "dd"),
            ("OTEL_SERVICE_NAME", "otel"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=attr,deployment.environment=old,service.version=9"),
            ("DD_TAGS", "service:tag,env:tag,version:tag,a:b"),
        ];
        let claims = ServiceArguments {
            tags: Some(vec!["env:arg".into(), "service:weaker".into()]),
            ..ServiceArguments::default()
        };
        assert_eq!(tags(&claims, all), format!("service:weaker,env:arg,version:9,a:b,{TAIL}"));
        let claims = ServiceArguments { service: Some("arg".into()), ..ServiceArguments::default() };
        assert_eq!(tags(&claims, all), format!("service:arg,env:old,version:9,a:b,{TAIL}"));
        assert_eq!(
            tags(&ServiceArguments::default(), all),
            format!("service:dd,env:old,version:9,a:b,{TAIL}")
        );
        let [_, otel, attributes, dd_tags] = all;
        let none = ServiceArguments::default();
        assert_eq!(tags(&none, [otel, attributes]), format!("service:otel,env:old,version:9,{TAIL}"));
        assert_eq!(tags(&none, [attributes]), format!("service:attr,env:old,version:9,{TAIL}"));
        assert_eq!(tags(&none, [dd_tags]), format!("service:tag,env:tag,version:tag,a:b,{TAIL}"));
        assert_eq!(tags(&none, [("K_SERVICE", "run")]), format!("service:run,{TAIL}"));
        assert_eq!(tags(&none, []), format!("service:app,{TAIL}"));
    }

    #[test]
    fn an_opentelemetry_attribute_is_decoded_and_the_newer_environment_name_wins() {
        let attributes = "deployment.environment=old,deployment.environment.name=a%2Fb";
        let block = tags(&ServiceArguments::default(), [("OTEL_RESOURCE_ATTRIBUTES", attributes)]);
        assert_eq!(block, format!("service:app,env:a/b,{TAIL}"));
    }

    #[test]
    fn user_tags_follow_their_rules() {
        for (dd_tags, datadog_tags, argument, expected) in [
            ("a:1 b:2", "", None, "a:1,b:2"),
            ("a:1, b:2 ,c", "", None, "a:1,b:2,c"),
            ("a:1 2,b:3", "", None, "a:1_2,b:3"),
            ("a:1,a:2", "", None, "a:2"),
            (":lost,,a:", "", None, "a"),
            ("url:http://x", "", None, "url:http://x"),
            ("a:1", "a:0,z:9", None, "a:1,z:9"),
            ("a:1", "", Some("a:2"), "a:2"),
            ("git.commit.sha:f00,git.repository_url:x,a:1", "", None, "a:1"),
            ("", "a:1 b:2", None, "a:1_b:2"),
        ] {
            let claims = ServiceArguments {
                tags: argument.map(|tag| vec![tag.to_owned()]),
                ..ServiceArguments::default()
            };
            let block = tags(&claims, [("DD_TAGS", dd_tags), ("DATADOG_TAGS", datadog_tags)]);
            // Order between sources is not promised, so tags are compared sorted.
            let sorted = |text: &str| {
                let mut tags: Vec<String> = text.split(',').map(str::to_owned).collect();
                tags.sort();
                tags
            };
            assert_eq!(sorted(&block), sorted(&format!("service:app,{expected},{TAIL}")), "{dd_tags:?}");
        }
    }

    #[test]
    fn no_text_can_end_a_tag_or_a_line() {
        let service = "a\nb|c,d#e\u{1F600}f é";
        let block =
            tags(&ServiceArguments { service: Some(service.into()), ..ServiceArguments::default() }, []);
        assert_eq!(block, format!("service:a_b_c_d_e_f_é,{TAIL}"));
        assert_eq!(
            tags(&ServiceArguments { service: Some(":".into()), ..ServiceArguments::default() }, []),
            format!("service:app,{TAIL}")
        );
        let long =
            tags(&ServiceArguments { service: Some("é".repeat(10_000)), ..ServiceArguments::default() }, []);
        assert_eq!(long, format!("service:{},{TAIL}", "é".repeat(192)));
    }

    fn function(has_extension: bool) -> Function {
        Function { has_extension, invoked: None }
    }

    /// The tags of a function in an environment, up to those of the interpreter.
    fn named<const N: usize>(
        function: &Function,
        claims: &ServiceArguments,
        environment: [(&str, &str); N],
    ) -> String {
        let extras = Extras { function: Some(function), ..Extras::default() };
        let block = Identity::new(claims, &Environment::from(environment), &runtime(&[]), extras).tags;
        block.split("lang:python").next().unwrap().trim_end_matches(',').to_owned()
    }

    #[test]
    fn what_an_extension_would_name_otherwise_is_not_sent_to_it() {
        const NAME: (&str, &str) = ("AWS_LAMBDA_FUNCTION_NAME", "Coffee");
        let (with, without) = (function(true), function(false));
        let claims =
            |service: &str| ServiceArguments { service: Some(service.into()), ..ServiceArguments::default() };
        assert_eq!(named(&with, &ServiceArguments::default(), [NAME]), "service:Coffee");
        assert_eq!(named(&with, &claims("COFFEE"), [NAME]), "service:COFFEE");
        assert_eq!(named(&with, &claims("tea"), [NAME]), "");
        assert_eq!(named(&without, &claims("tea"), [NAME]), "service:tea");
        assert_eq!(named(&with, &claims("tea"), [NAME, ("DD_SERVICE", "Tea")]), "service:tea");
        // It knows nothing of these.
        let otel = ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,service.version=2");
        assert_eq!(
            named(&with, &ServiceArguments::default(), [NAME, otel]),
            "service:Coffee,env:prod,version:2"
        );
        let claims = ServiceArguments {
            env: Some("dev".into()),
            version: Some("1".into()),
            ..ServiceArguments::default()
        };
        let variables = [NAME, ("DD_ENV", "prod"), ("DD_VERSION", "1")];
        assert_eq!(named(&with, &claims, variables), "service:Coffee,version:1");
    }

    #[test]
    fn in_a_function_a_line_has_at_most_a_hundred_tags() {
        let dd_tags: Vec<String> = (0..150).map(|number| format!("{number}:x")).collect();
        let environment = Environment::from([("DD_TAGS", dd_tags.join(",").as_str())]);
        let function = function(false);
        let with = |function| {
            let extras = Extras { function, runtime_id: Some("9f0c"), ..Extras::default() };
            let identity = Identity::new(
                &ServiceArguments::default(),
                &environment,
                &runtime(&["python", "app.py"]),
                extras,
            );
            let warning = identity.warning().map(|warning| warning.text);
            (identity.tags.split(',').count(), warning.unwrap_or_default())
        };
        let text = "the last 55 user tags are not sent: in AWS Lambda a line has at most 100 tags";
        assert_eq!(with(Some(&function)), (100, text.to_owned()));
        assert_eq!(with(None), (155, String::new()));
    }

    #[test]
    fn a_metric_of_the_program_s_own_has_its_tags_and_those_of_the_service() {
        let own = ["product:latte".to_owned(), "a b|c".to_owned(), ":".to_owned()];
        let environment = Environment::from([
            ("AWS_LAMBDA_FUNCTION_NAME", "coffee"),
            ("DD_ENV", "prod"),
            ("DD_TAGS", "team:core"),
        ]);
        let beside = |function| {
            let subject = IdentityInputs {
                environment: environment.clone(),
                runtime_id: Some("9f0c".to_owned()),
                function,
                ..IdentityInputs::default()
            };
            subject.tags_beside(&own)
        };
        let own = "product:latte,a_b_c";
        assert_eq!(beside(None), format!("service:coffee,env:prod,{own},team:core"));
        assert_eq!(beside(Some(function(true))), own);
        assert_eq!(
            beside(Some(function(false))),
            format!("service:coffee,env:prod,{own},team:core,functionname:coffee")
        );
    }

    #[test]
    fn a_metric_of_the_program_s_own_keeps_its_tags_before_those_of_the_environment() {
        let dd_tags: Vec<String> = (0..150).map(|number| format!("{number}:x")).collect();
        let subject = IdentityInputs {
            environment: Environment::from([("DD_TAGS", dd_tags.join(",").as_str())]),
            function: Some(function(false)),
            ..IdentityInputs::default()
        };
        let tags = subject.tags_beside(&["product:latte".to_owned(), "order:online".to_owned()]);
        assert!(tags.contains("product:latte,order:online,0:x,"), "{tags}");
        assert_eq!(tags.split(',').count(), 100);
    }

    #[test]
    fn user_tags_that_do_not_fit_are_left_out_from_the_last_on() {
        let dd_tags: Vec<String> = (0..100).map(|n| format!("{n}:{}", "x".repeat(150))).collect();
        let environment = Environment::from([("DD_TAGS", dd_tags.join(",").as_str())]);
        let room = 8192 - BESIDE_THE_BLOCK - 600;
        let extras = Extras { reserved: 600, ..Extras::default() };
        let command = runtime(&["python", "app.py"]);
        let identity = Identity::new(&ServiceArguments::default(), &environment, &command, extras);
        assert!(identity.tags.len() <= room);
        assert!(identity.tags.len() > room - 160);
        let kept = 100 - identity.dropped_tags;
        assert!(identity.tags.contains(&format!(",{}:", kept - 1)));
        assert!(!identity.tags.contains(&format!(",{kept}:")));
        assert!(identity.tags.ends_with(TAIL));
        let warning = identity.warning().unwrap().text;
        assert!(warning.ends_with("are not sent: all tags together are too long"), "{warning}");
    }

    #[test]
    fn the_service_is_inferred_from_the_command_line() {
        for (command, service) in [
            (&["python", "/srv/shop/app.py", "--port", "80"][..], "app"),
            (&["/usr/bin/python3", "-X", "dev", "-u", "app.py"], "app"),
            (&["python", "-Xdev", "-Wignore", "app.pyc"], "app"),
            (&["python", "-m", "shop.web", "x"], "shop.web"),
            (&["python", "-Im", "shop"], "shop"),
            (&["python", "-mshop"], "shop"),
            (&["python", "/usr/local/bin/gunicorn", "app:app"], "gunicorn"),
            (&["python", "/srv/shop/__main__.py"], "shop"),
            (&["python", "--check-hash-based-pycs", "always", "app.py"], "app"),
            (&["python", "-c", "import app"], UNNAMED),
            (&["python", "-Bc", "import app"], UNNAMED),
            (&["python", "-"], UNNAMED),
            (&["python"], UNNAMED),
            (&[], UNNAMED),
        ] {
            assert_eq!(service_of(command), service, "{command:?}");
        }
    }

    #[test]
    fn tracers_come_behind_arguments_and_their_ids_before_ours() {
        let names = |name: &str| Names {
            runtime_id: Some(format!("{name}-id")),
            service: Some(format!("{name}-service")),
            service_is_inferred: false,
            env: None,
            version: Some(format!("{name}-version")),
        };
        let mut subject = IdentityInputs {
            claims: ServiceArguments { version: Some("claimed".into()), ..ServiceArguments::default() },
            runtime_id: Some("own-id".into()),
            environment: Environment::from([("DD_SERVICE", "set"), ("DD_ENV", "set")]),
            ..IdentityInputs::default()
        };
        let told = |subject: &IdentityInputs| {
            let tags = subject.identity().tags;
            let kept = tags.split(',').filter(|tag| !tag.starts_with("lang"));
            kept.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&subject), "service:set env:set version:claimed runtime-id:own-id");
        subject.tracers.opentelemetry = Some(names("otel"));
        assert_eq!(told(&subject), "service:set env:set version:claimed runtime-id:otel-id");
        subject.tracers.ddtrace = Some(names("ddtrace"));
        assert_eq!(told(&subject), "service:ddtrace-service env:set version:claimed runtime-id:ddtrace-id");
        // What ddtrace has made up is what its spans carry, where nobody gives a name.
        subject.tracers.ddtrace.as_mut().unwrap().service_is_inferred = true;
        assert_eq!(told(&subject), "service:set env:set version:claimed runtime-id:ddtrace-id");
        subject.tracers.opentelemetry = None;
        subject.environment = Environment::from([("DD_ENV", "set")]);
        assert_eq!(told(&subject), "service:ddtrace-service env:set version:claimed runtime-id:ddtrace-id");
        subject.tracers.opentelemetry = Some(names("otel"));
        // The SDK's own names come last, before what is inferred.
        subject.tracers.ddtrace = None;
        subject.environment = Environment::from([("DD_TAGS", "env:tagged")]);
        assert_eq!(told(&subject), "service:otel-service env:tagged version:claimed runtime-id:otel-id");
        subject.runtime_id = None;
        assert_eq!(told(&subject), "service:otel-service env:tagged version:claimed");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn any_text_becomes_clean_tags(
            service: String, dd_tags: String, tag: String, entity: String, directory: String, file: String,
            datadog_tags in "[ab:,|#é \n\t]{0,60}"
        ) {
            let claims = ServiceArguments { service: Some(service), tags: Some(vec![tag]), ..ServiceArguments::default() };
            let environment = Environment::from([
                ("DD_TAGS", dd_tags.as_str()), ("DATADOG_TAGS", &datadog_tags), ("DD_ENTITY_ID", &entity)
            ]);
            let runtime = runtime(&["python", &file]);
            let entrypoint = Entrypoint { working_directory: directory, file: file.clone() };
            let extras = Extras { entrypoint: Some(&entrypoint), ..Extras::default() };
            let block = Identity::new(&claims, &environment, &runtime, extras).tags;
            prop_assert!(block.len() <= emitter::MAX_PAYLOAD - BESIDE_THE_BLOCK);
            prop_assert!(!block.contains(['|', '\n', '#', '\0']));
            for tag in block.split(',') {
                prop_assert!(!tag.is_empty() && tag.chars().count() <= crate::tag::MAX_TAG_LENGTH && !tag.ends_with(':'));
            }
        }
    }
}
