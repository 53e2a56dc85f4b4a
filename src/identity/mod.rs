//! Who we are: the tags that every line carries. A pure function of [`IdentityInputs`].

use std::sync::Arc;

use self::command_line::Program;
use self::function::Function;
use self::names::{NameInputs, ServiceNames, runtime_id};
use self::tags::keyed;
use self::tracers::Tracers;
use crate::message::Message;
use crate::settings::ServiceArguments;
use crate::settings::variables::{Environment, LAMBDA_FUNCTION_NAME};
use crate::tag::{Tags, clean_user_tag};

pub mod command_line;
pub mod function;
mod names;
mod process_tags;
mod servers;
mod tags;
pub mod tracers;

pub use self::process_tags::Entrypoint;

/// How many tags a line may have: Datadog's receiver for serverless functions, which does not run in AWS Lambda alone,
/// refuses lines with more.
const MAX_TAGS: usize = 100;

/// How many of them may be a metric's own, outside AWS Lambda, if no selected one has more: client telemetry has three.
const MAX_OWN_TAGS: usize = 3;

/// What an identity is made of.
#[derive(Clone, Debug, Default)]
pub struct IdentityInputs {
    /// The arguments of `enable()`.
    pub arguments: ServiceArguments,
    /// The interpreter.
    pub runtime: Runtime,
    /// Our own id for this run of the process, if lines carry one.
    pub runtime_id: Option<String>,
    /// How the program was started, if lines carry process tags.
    pub entrypoint: Option<Entrypoint>,
    /// How many bytes of a line its tags may take, if there is a limit.
    pub max_tag_bytes: Option<usize>,
    /// The most tags that a selected metric has of its own.
    pub max_own_tags: usize,
    /// The variables that identify the process.
    pub environment: Arc<Environment>,
    /// What the tracers in this process report.
    pub tracers: Tracers,
    /// The function, in AWS Lambda.
    pub function: Option<Function>,
}

/// The interpreter that this process runs.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// `CPython`, `PyPy`.
    pub implementation: String,
    /// As `platform.python_version()` gives it.
    pub version: String,
    /// The command line of the program that the process belongs to: `sys.orig_argv`, or that of the process which has
    /// spawned this one.
    pub command: Vec<String>,
    /// The executable that contains the interpreter and the program, if it is frozen.
    pub frozen: Option<String>,
}

/// The tags of every line.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The tags.
    pub tags: Tags,
    /// How many user tags were dropped because a line has no room for them.
    pub dropped_tags: usize,
    /// Whether they were dropped because a line may have no more tags, and not because the tags are too long.
    has_too_many: bool,
}

impl IdentityInputs {
    /// Joins the tags of every line.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let names = self.names();
        let runtime_id = self.runtime_id.as_deref().and_then(|own| runtime_id(own, &self.tracers));
        let mut trailing = keyed([
            ("lang", Some("python")),
            ("lang_interpreter", Some(&self.runtime.implementation)),
            ("lang_version", Some(&self.runtime.version)),
            ("runtime-id", runtime_id.as_deref()),
        ]);
        if let Some(entrypoint) = &self.entrypoint {
            let inferred_service = names.inferred_service.as_deref();
            trailing.extend(process_tags::process_tags(
                entrypoint,
                self.program(),
                names.service_is_given,
                inferred_service,
            ));
        }
        if let Some(function) = &self.function {
            trailing.extend(function.start_tags().iter().map(|tag| (*tag).to_owned()));
        }
        trailing.extend(self.function_tags());
        self.join(&names.tags(), &names.user_tags, &trailing)
    }

    /// Joins the tags of a custom metric: its own, which are dropped last, and those of ours that are the same in
    /// every process of the service, since each combination of tags is a metric that is paid for. The Datadog Lambda
    /// Extension adds its tags to these lines, too.
    #[must_use]
    pub fn custom_metric_tags(&self, own: &[String]) -> Tags {
        let cleaned = own.iter().map(|tag| clean_user_tag(tag));
        let mut user: Vec<String> = cleaned.filter(|tag| !tag.is_empty()).collect();
        let mut leading = Vec::new();
        if !self.sends_to_extension() {
            let names = self.names();
            leading = names.tags();
            user.extend(names.user_tags);
        }
        self.join(&leading, &user, &self.function_tags()).tags
    }

    /// Takes over the environment and, if they have answered, what the tracers report. Returns whether something has
    /// changed; if nothing has, it allocates nothing.
    pub fn follow(&mut self, environment: &Arc<Environment>, tracers: Option<&Tracers>) -> bool {
        // What has not changed since it was read last is the same object, which is quick to see.
        let is_same = Arc::ptr_eq(environment, &self.environment);
        let has_changed = !is_same && *environment != self.environment;
        if !is_same {
            self.environment = Arc::clone(environment);
        }
        let tracers = tracers.filter(|tracers| **tracers != self.tracers);
        if let Some(tracers) = tracers {
            self.tracers.clone_from(tracers);
        }
        has_changed || tracers.is_some()
    }

    fn names(&self) -> ServiceNames {
        let mut names = ServiceNames::of(&NameInputs {
            arguments: &self.arguments,
            environment: &self.environment,
            tracers: &self.tracers,
            program: self.program(),
        });
        if self.sends_to_extension() {
            names.drop_contradicted_by_extension(&self.environment);
        }
        names
    }

    fn program(&self) -> Option<Program<'_>> {
        match &self.runtime.frozen {
            Some(executable) => Some(Program::frozen(executable, &self.runtime.command)),
            None => Program::of(&self.runtime.command),
        }
    }

    /// Whether lines are sent to the Datadog Lambda Extension.
    #[must_use]
    pub fn sends_to_extension(&self) -> bool {
        self.function.as_ref().is_some_and(|function| function.sends_to_extension)
    }

    fn function_tags(&self) -> Vec<String> {
        let name = self.environment.get(LAMBDA_FUNCTION_NAME);
        self.function.as_ref().map(|function| function.tags(name)).unwrap_or_default()
    }

    /// Joins tags. Of the user's, the last are dropped until all others have room.
    fn join(&self, leading: &[String], user: &[String], trailing: &[String]) -> Identity {
        let size = |tags: &[String]| tags.iter().map(|tag| tag.len() + 1).sum::<usize>();
        let max_bytes = self.max_tag_bytes.unwrap_or(usize::MAX);
        let own = if self.function.is_some() { 0 } else { MAX_OWN_TAGS }.max(self.max_own_tags);
        let max_user_tags = MAX_TAGS.saturating_sub(own + leading.len() + trailing.len());
        let mut room = max_bytes.saturating_sub(size(leading) + size(trailing));
        let fitting = user.iter().take(max_user_tags).take_while(|tag| {
            let fits = tag.len() < room;
            room = room.saturating_sub(tag.len() + 1);
            fits
        });
        let fitting = fitting.count();
        let mut tags = Tags::default();
        for tag in leading.iter().chain(&user[..fitting]).chain(trailing) {
            tags.push(tag);
        }
        Identity { tags, dropped_tags: user.len() - fitting, has_too_many: fitting == max_user_tags }
    }
}

impl Identity {
    /// A warning, if user tags were dropped.
    #[must_use]
    pub fn warning(&self) -> Option<Message> {
        let reason = if self.has_too_many {
            format!("a line has at most {MAX_TAGS} tags")
        } else {
            "all tags together are too long".to_owned()
        };
        let text = format!("the last {} user tags are not sent: {reason}", self.dropped_tags);
        (self.dropped_tags > 0).then(|| Message::warning(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::names::UNNAMED;
    use super::tracers::Names;
    use super::*;

    fn runtime(command: &[&str]) -> Runtime {
        Runtime {
            implementation: "CPython".into(),
            version: "3.13.1".into(),
            command: command.iter().map(ToString::to_string).collect(),
            frozen: None,
        }
    }

    /// A program, `app.py`, in an environment.
    fn app<const N: usize>(environment: [(&str, &str); N]) -> IdentityInputs {
        IdentityInputs {
            runtime: runtime(&["python", "app.py"]),
            environment: Arc::new(Environment::from(environment)),
            ..IdentityInputs::default()
        }
    }

    fn tags(inputs: &IdentityInputs) -> String {
        inputs.identity().tags.to_string()
    }

    fn tags_with<const N: usize>(arguments: ServiceArguments, environment: [(&str, &str); N]) -> String {
        tags(&IdentityInputs { arguments, ..app(environment) })
    }

    /// The argument `service`.
    fn service(name: &str) -> ServiceArguments {
        ServiceArguments { service: Some(name.into()), ..ServiceArguments::default() }
    }

    fn service_of(command: &[&str]) -> String {
        let identity = IdentityInputs { runtime: runtime(command), ..IdentityInputs::default() }.identity();
        let service = identity.tags.iter().next().unwrap();
        service.strip_prefix("service:").unwrap().to_owned()
    }

    const TAIL: &str = "lang:python,lang_interpreter:CPython,lang_version:3.13.1";

    #[test]
    fn tags_are_in_the_documented_order() {
        let environment = [
            ("DD_SERVICE", "web"),
            ("DD_ENV", "prod"),
            ("DD_VERSION", "1.4"),
            ("DD_TAGS", "team:core,canary"),
            ("DD_ENTITY_ID", "1d-2e"),
        ];
        let inputs = IdentityInputs {
            runtime: runtime(&[]),
            runtime_id: Some("9f0c".into()),
            entrypoint: Some(entrypoint()),
            ..app(environment)
        };
        assert_eq!(
            tags(&inputs),
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
        let with = |id| tags(&app([("DD_ENTITY_ID", id)]));
        assert_eq!(with("a|b,c\nd"), format!("dd.internal.entity_id:a_b_c_d,service:app,{TAIL}"));
        assert_eq!(with(""), format!("service:app,{TAIL}"));
        assert_eq!(with("::"), format!("service:app,{TAIL}"));
    }

    #[test]
    fn process_tags_say_whether_the_service_was_given_or_inferred() {
        let with = |variable| {
            let tags = tags(&IdentityInputs { entrypoint: Some(entrypoint()), ..app([variable]) });
            tags.split_once(&format!("{TAIL},entrypoint.basedir:shop,entrypoint.name:app,"))
                .unwrap()
                .1
                .to_owned()
        };
        let script = "entrypoint.type:script,entrypoint.workdir:srv";
        assert_eq!(with(("DD_SERVICE", "")), format!("{script},svc.auto:app"));
        for given in [("DD_SERVICE", "x"), ("OTEL_SERVICE_NAME", "x"), ("DD_TAGS", "service:x")] {
            assert_eq!(with(given), format!("{script},svc.user:true"), "{given:?}");
        }
        assert_eq!(with(("AWS_LAMBDA_FUNCTION_NAME", "Resize")), format!("{script},svc.auto:resize"));
    }

    #[test]
    fn each_key_takes_its_strongest_source_on_its_own() {
        let all = [
            ("DD_SERVICE", "dd"),
            ("OTEL_SERVICE_NAME", "otel"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=attr,deployment.environment=old,service.version=9"),
            ("DD_TAGS", "service:tag,env:tag,version:tag,a:b"),
        ];
        let arguments = ServiceArguments {
            tags: Some(vec!["env:arg".into(), "service:weaker".into()]),
            ..ServiceArguments::default()
        };
        assert_eq!(tags_with(arguments, all), format!("service:weaker,env:arg,version:9,a:b,{TAIL}"));
        assert_eq!(tags_with(service("arg"), all), format!("service:arg,env:old,version:9,a:b,{TAIL}"));
        assert_eq!(tags(&app(all)), format!("service:dd,env:old,version:9,a:b,{TAIL}"));
        let [_, otel, attributes, dd_tags] = all;
        assert_eq!(tags(&app([otel, attributes])), format!("service:otel,env:old,version:9,{TAIL}"));
        assert_eq!(tags(&app([attributes])), format!("service:attr,env:old,version:9,{TAIL}"));
        assert_eq!(tags(&app([dd_tags])), format!("service:tag,env:tag,version:tag,a:b,{TAIL}"));
        assert_eq!(tags(&app([("K_SERVICE", "run")])), format!("service:run,{TAIL}"));
        assert_eq!(tags(&app([])), format!("service:app,{TAIL}"));
    }

    #[test]
    fn an_opentelemetry_attribute_is_decoded_and_the_newer_environment_name_wins() {
        let attributes = "deployment.environment=old,deployment.environment.name=a%2Fb";
        let tags = tags(&app([("OTEL_RESOURCE_ATTRIBUTES", attributes)]));
        assert_eq!(tags, format!("service:app,env:a/b,{TAIL}"));
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
            ("__a:1,__:2,__c,a:3", "", None, "a:3,c"),
            ("__git.commit.sha:f00,a:1", "", None, "a:1"),
        ] {
            let arguments = ServiceArguments {
                tags: argument.map(|tag| vec![tag.to_owned()]),
                ..ServiceArguments::default()
            };
            let tags = tags_with(arguments, [("DD_TAGS", dd_tags), ("DATADOG_TAGS", datadog_tags)]);
            // Order between sources is not promised, so tags are compared sorted.
            let sorted = |text: &str| {
                let mut tags: Vec<String> = text.split(',').map(str::to_owned).collect();
                tags.sort();
                tags
            };
            assert_eq!(sorted(&tags), sorted(&format!("service:app,{expected},{TAIL}")), "{dd_tags:?}");
        }
    }

    #[test]
    fn no_text_can_end_a_tag_or_a_line() {
        let named = |name: &str| tags_with(service(name), []);
        assert_eq!(named("a\nb|c,d#e\u{1F600}f é"), format!("service:a_b_c_d_e_f_é,{TAIL}"));
        assert_eq!(named(":"), format!("service:app,{TAIL}"));
        assert_eq!(named(&"é".repeat(10_000)), format!("service:{},{TAIL}", "é".repeat(192)));
    }

    fn function(sends_to_extension: bool) -> Function {
        Function { sends_to_extension, invocation: None }
    }

    #[test]
    fn a_name_that_the_extension_contradicts_is_not_sent_to_it() {
        const NAME: (&str, &str) = ("AWS_LAMBDA_FUNCTION_NAME", "Coffee");
        /// The tags up to those of the interpreter.
        fn named<const N: usize>(
            function: Option<Function>,
            arguments: ServiceArguments,
            environment: [(&str, &str); N],
        ) -> String {
            let tags = tags(&IdentityInputs { arguments, function, ..app(environment) });
            tags.split("lang:python").next().unwrap().trim_end_matches(',').to_owned()
        }
        let (with, without) = (Some(function(true)), Some(function(false)));
        let none = ServiceArguments::default();
        assert_eq!(named(with.clone(), none.clone(), [NAME]), "service:Coffee");
        assert_eq!(named(with.clone(), service("COFFEE"), [NAME]), "service:COFFEE");
        assert_eq!(named(with.clone(), service("tea"), [NAME]), "");
        assert_eq!(named(without, service("tea"), [NAME]), "service:tea");
        assert_eq!(named(with.clone(), service("tea"), [NAME, ("DD_SERVICE", "Tea")]), "service:tea");
        // It does not know OpenTelemetry's variables.
        let otel = ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,service.version=2");
        assert_eq!(named(with.clone(), none.clone(), [NAME, otel]), "service:Coffee,env:prod,version:2");
        let arguments = ServiceArguments { env: Some("dev".into()), version: Some("1".into()), ..none };
        let variables = [NAME, ("DD_ENV", "prod"), ("DD_VERSION", "1")];
        assert_eq!(named(with, arguments, variables), "service:Coffee,version:1");
    }

    fn numbered_tags(count: usize) -> String {
        (0..count).map(|number| format!("{number}:x")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_line_has_at_most_a_hundred_tags() {
        let with = |function| {
            let inputs = app([("DD_TAGS", &numbered_tags(150))]);
            let identity = IdentityInputs { function, runtime_id: Some("9f0c".into()), ..inputs }.identity();
            (identity.tags.iter().count(), identity.warning().unwrap().text)
        };
        let text = |count| format!("the last {count} user tags are not sent: a line has at most 100 tags");
        assert_eq!(with(Some(function(false))), (100, text(55)));
        // With room for those that a metric has of its own.
        assert_eq!(with(None), (97, text(58)));
        let inputs = IdentityInputs { max_own_tags: 8, ..app([("DD_TAGS", &numbered_tags(150))]) };
        assert_eq!(inputs.identity().tags.iter().count(), 92);
    }

    #[test]
    fn a_custom_metric_has_its_own_tags_and_those_of_the_service() {
        let own = ["__product:latte".to_owned(), "a b|c".to_owned(), ":".to_owned(), "__:x".to_owned()];
        let with = |function| {
            let environment =
                [("AWS_LAMBDA_FUNCTION_NAME", "coffee"), ("DD_ENV", "prod"), ("DD_TAGS", "team:core")];
            let inputs = IdentityInputs { runtime_id: Some("9f0c".into()), function, ..app(environment) };
            inputs.custom_metric_tags(&own).to_string()
        };
        let own = "product:latte,a_b_c";
        assert_eq!(with(None), format!("service:coffee,env:prod,{own},team:core"));
        assert_eq!(with(Some(function(true))), own);
        assert_eq!(
            with(Some(function(false))),
            format!("service:coffee,env:prod,{own},team:core,functionname:coffee")
        );
    }

    #[test]
    fn a_custom_metric_keeps_its_own_tags_before_those_of_the_environment() {
        let inputs =
            IdentityInputs { function: Some(function(false)), ..app([("DD_TAGS", &numbered_tags(150))]) };
        let tags = inputs.custom_metric_tags(&["product:latte".to_owned(), "order:online".to_owned()]);
        assert!(tags.as_str().contains("product:latte,order:online,0:x,"), "{tags}");
        assert_eq!(tags.iter().count(), 100);
    }

    #[test]
    fn of_user_tags_that_do_not_fit_the_last_are_dropped() {
        const ROOM: usize = 6692;
        let dd_tags: Vec<String> = (0..100).map(|n| format!("{n}:{}", "x".repeat(150))).collect();
        let inputs =
            IdentityInputs { max_tag_bytes: Some(ROOM), ..app([("DD_TAGS", dd_tags.join(",").as_str())]) };
        let identity = inputs.identity();
        let tags = identity.tags.as_str();
        assert!(tags.len() <= ROOM);
        assert!(tags.len() > ROOM - 160);
        let kept = 100 - identity.dropped_tags;
        assert!(tags.contains(&format!(",{}:", kept - 1)));
        assert!(!tags.contains(&format!(",{kept}:")));
        assert!(tags.ends_with(TAIL));
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
            (&["python", "/usr/local/bin/gunicorn", "shop.wsgi:application"], "shop"),
            (&["python", "/usr/local/bin/gunicorn", "-c", "gunicorn.conf.py"], "gunicorn"),
            (&["python", "shop.pyz"], "shop"),
            (&["python", "./shop.pex", "x"], "shop"),
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
    fn a_frozen_program_has_the_name_of_its_executable() {
        let frozen = |executable: &str| {
            let command = runtime(&["./convert", "/data/invoice-4711.pdf", "-m", "x"]);
            let runtime = Runtime { frozen: Some(executable.into()), ..command };
            tags(&IdentityInputs { runtime, ..IdentityInputs::default() })
        };
        assert_eq!(frozen("/opt/bin/convert"), format!("service:convert,{TAIL}"));
        assert_eq!(frozen(""), format!("service:{UNNAMED},{TAIL}"));
    }

    #[test]
    fn the_application_that_a_server_runs_names_the_service_unless_a_tracer_or_a_platform_does() {
        let mut inputs = IdentityInputs {
            runtime: runtime(&["python", "/usr/bin/gunicorn", "shop.wsgi:application"]),
            ..IdentityInputs::default()
        };
        assert_eq!(tags(&inputs), format!("service:shop,{TAIL}"));
        let inferred =
            Names { service: Some("folder".into()), service_is_inferred: true, ..Names::default() };
        inputs.tracers.ddtrace = Some(inferred);
        assert_eq!(tags(&inputs), format!("service:folder,{TAIL}"));
        // It may have inferred nothing.
        inputs.tracers.ddtrace = Some(Names { service_is_inferred: true, ..Names::default() });
        assert_eq!(tags(&inputs), format!("service:shop,{TAIL}"));
        inputs.environment = Arc::new(Environment::from([("K_SERVICE", "run")]));
        assert_eq!(tags(&inputs), format!("service:run,{TAIL}"));
    }

    #[test]
    fn tracers_give_way_to_arguments_and_replace_our_own_id() {
        let names = |name: &str| Names {
            runtime_id: Some(format!("{name}-id")),
            service: Some(format!("{name}-service")),
            service_is_inferred: false,
            env: None,
            version: Some(format!("{name}-version")),
        };
        let mut inputs = IdentityInputs {
            arguments: ServiceArguments { version: Some("given".into()), ..ServiceArguments::default() },
            runtime: Runtime::default(),
            runtime_id: Some("own-id".into()),
            ..app([("DD_SERVICE", "set"), ("DD_ENV", "set")])
        };
        let tags = |inputs: &IdentityInputs| {
            let tags = inputs.identity().tags;
            tags.iter().filter(|tag| !tag.starts_with("lang")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(tags(&inputs), "service:set env:set version:given runtime-id:own-id");
        inputs.tracers.opentelemetry = Some(names("otel"));
        assert_eq!(tags(&inputs), "service:set env:set version:given runtime-id:otel-id");
        inputs.tracers.ddtrace = Some(names("ddtrace"));
        assert_eq!(tags(&inputs), "service:ddtrace-service env:set version:given runtime-id:ddtrace-id");
        // The name that ddtrace has inferred is used where nothing names the service, as spans carry it.
        inputs.tracers.ddtrace.as_mut().unwrap().service_is_inferred = true;
        assert_eq!(tags(&inputs), "service:set env:set version:given runtime-id:ddtrace-id");
        inputs.tracers.opentelemetry = None;
        inputs.environment = Arc::new(Environment::from([("DD_ENV", "set")]));
        assert_eq!(tags(&inputs), "service:ddtrace-service env:set version:given runtime-id:ddtrace-id");
        inputs.tracers.opentelemetry = Some(names("otel"));
        // Of what names the service, the SDK comes last.
        inputs.tracers.ddtrace = None;
        inputs.environment = Arc::new(Environment::from([("DD_TAGS", "env:tagged")]));
        assert_eq!(tags(&inputs), "service:otel-service env:tagged version:given runtime-id:otel-id");
        inputs.runtime_id = None;
        assert_eq!(tags(&inputs), "service:otel-service env:tagged version:given");
    }

    #[test]
    fn an_identity_follows_environment_and_tracers() {
        let mut inputs = app([("DD_SERVICE", "web")]);
        let environment = |service| Arc::new(Environment::from([("DD_SERVICE", service)]));
        let (web, tracers) = (environment("web"), Tracers::default());
        assert!(!inputs.follow(&web, Some(&tracers)), "its content is the same");
        assert!(!inputs.follow(&web, Some(&tracers)));
        assert!(inputs.follow(&environment("shop"), None));
        assert!(tags(&inputs).starts_with("service:shop,"));
        let names = Names { env: Some("prod".into()), ..Names::default() };
        let tracers = Tracers { ddtrace: Some(names), ..Tracers::default() };
        assert!(inputs.follow(&web, Some(&tracers)));
        assert!(tags(&inputs).starts_with("service:web,env:prod,"));
        assert!(!inputs.follow(&web, None), "what a tracer reported last applies until it answers");
        assert!(tags(&inputs).starts_with("service:web,env:prod,"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn any_text_becomes_clean_tags(
            service: String, dd_tags: String, tag: String, entity: String, directory: String, file: String,
            datadog_tags in "[ab:,|#é \n\t]{0,60}"
        ) {
            const ROOM: usize = 7292;
            let environment = [
                ("DD_TAGS", dd_tags.as_str()), ("DATADOG_TAGS", &datadog_tags), ("DD_ENTITY_ID", &entity)
            ];
            let inputs = IdentityInputs {
                arguments: ServiceArguments { tags: Some(vec![tag]), ..self::service(&service) },
                runtime: runtime(&["python", &file]),
                entrypoint: Some(Entrypoint { working_directory: directory, file: file.clone() }),
                max_tag_bytes: Some(ROOM),
                ..app(environment)
            };
            let tags = inputs.identity().tags;
            prop_assert!(tags.as_str().len() <= ROOM);
            prop_assert!(!tags.as_str().contains(['|', '\n', '#', '\0']));
            for tag in tags.as_str().split(',') {
                prop_assert!(!tag.is_empty() && !tag.ends_with(':'));
                prop_assert!(tag.chars().count() <= crate::tag::MAX_TAG_LENGTH);
            }
        }
    }
}
