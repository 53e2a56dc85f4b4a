//! A function in AWS Lambda, and what its lines say about it and about the invocation that they are sent in.

use std::time::Duration;

use crate::settings::AwsLambda;
use crate::tag::clean;

/// An environment that waits longer than this for its first invocation was set up in advance.
const MAX_COLD_START_WAIT: Duration = Duration::from_secs(10);

/// How the environment came to an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It was set up for the invocation.
    Cold,
    /// It was set up in advance, and the invocation did not wait for that.
    Proactive,
    /// It has served others before.
    Warm,
}

impl Start {
    /// `waited` is how long the environment has waited for its first invocation since it was set up; `None` at any
    /// later one.
    #[must_use]
    pub fn after(waited: Option<Duration>) -> Self {
        match waited {
            None => Self::Warm,
            Some(waited) if waited > MAX_COLD_START_WAIT => Self::Proactive,
            Some(_) => Self::Cold,
        }
    }

    /// Its tags.
    #[must_use]
    pub fn tags(self) -> &'static [&'static str] {
        match self {
            Self::Cold => &["cold_start:true"],
            Self::Proactive => &["cold_start:false", "proactive_initialization:true"],
            Self::Warm => &["cold_start:false"],
        }
    }
}

/// What is known about the function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Whether lines are sent to the Datadog Lambda Extension, which adds tags to them.
    pub sends_to_extension: bool,
    /// The current or the last invocation, once there is one.
    pub invocation: Option<InvocationFacts>,
}

/// What an invocation's context says, and how the environment came to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvocationFacts {
    /// How the environment came to it.
    pub start: Start,
    /// The name that the function was invoked by, with account and region: `invoked_function_arn`.
    pub arn: Option<String>,
    /// `function_version`.
    pub version: Option<String>,
    /// In megabytes: `memory_limit_in_mb`.
    pub memory: Option<String>,
}

impl Function {
    /// A function before its first invocation.
    #[must_use]
    pub fn new(settings: AwsLambda) -> Self {
        Self { sends_to_extension: settings.sends_to_extension, invocation: None }
    }

    /// The tags of the start.
    #[must_use]
    pub fn start_tags(&self) -> &'static [&'static str] {
        self.invocation.as_ref().map_or(&[], |invocation| invocation.start.tags())
    }

    /// The tags that the extension would add, with the names it gives them.
    ///
    /// `name` is the function's, for use until an invocation says more.
    #[must_use]
    pub fn tags(&self, name: Option<&str>) -> Vec<String> {
        if self.sends_to_extension {
            return Vec::new();
        }
        let mut tags = Vec::new();
        let invocation = self.invocation.as_ref();
        // arn:aws:lambda:region:account:function:name, and perhaps :alias.
        let arn = invocation.and_then(|invocation| invocation.arn.as_deref()).unwrap_or_default();
        if let [_, _, "lambda", region, account, "function", name, alias @ ..] =
            arn.split(':').collect::<Vec<_>>().as_slice()
        {
            tags.push(format!("functionname:{name}"));
            tags.push(format!("region:{region}"));
            tags.push(format!("account_id:{account}"));
            let alias = alias.first().map(|alias| format!(":{}", alias.trim_start_matches('$')));
            tags.push(format!("resource:{name}{}", alias.unwrap_or_default()));
        } else if let Some(name) = name {
            tags.push(format!("functionname:{name}"));
        }
        if let Some(version) = invocation.and_then(|invocation| invocation.version.as_ref()) {
            tags.push(format!("executedversion:{}", version.trim_start_matches('$')));
        }
        if let Some(memory) = invocation.and_then(|invocation| invocation.memory.as_ref()) {
            tags.push(format!("memorysize:{memory}"));
        }
        tags.iter().map(|tag| clean(tag)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_invocation_is_a_cold_start_unless_the_environment_was_set_up_in_advance() {
        let after = |seconds| Start::after(Some(Duration::from_secs_f64(seconds)));
        assert_eq!([after(0.0), after(10.0), after(10.001)], [Start::Cold, Start::Cold, Start::Proactive]);
        assert_eq!(Start::after(None), Start::Warm);
    }

    #[test]
    fn a_start_in_advance_has_a_tag_of_its_own_and_is_not_cold() {
        assert_eq!(Start::Cold.tags(), ["cold_start:true"]);
        assert_eq!(Start::Proactive.tags(), ["cold_start:false", "proactive_initialization:true"]);
        assert_eq!(Start::Warm.tags(), ["cold_start:false"]);
    }

    fn invoked_by(arn: &str) -> Function {
        let invocation = InvocationFacts {
            start: Start::Warm,
            arn: Some(arn.to_owned()),
            version: Some("$LATEST".to_owned()),
            memory: Some("128".to_owned()),
        };
        Function { sends_to_extension: false, invocation: Some(invocation) }
    }

    const ARN: &str = "arn:aws:lambda:eu-central-1:123456789012:function:coffee";

    #[test]
    fn the_function_s_tags_come_from_the_name_it_was_invoked_by() {
        assert_eq!(
            invoked_by(ARN).tags(Some("other")).join(","),
            "functionname:coffee,region:eu-central-1,account_id:123456789012,resource:coffee,\
             executedversion:LATEST,memorysize:128"
        );
        let of_alias = invoked_by(&format!("{ARN}:live")).tags(None).join(",");
        assert!(of_alias.contains("functionname:coffee,") && of_alias.contains("resource:coffee:live,"));
    }

    #[test]
    fn without_a_valid_arn_the_function_has_the_name_that_its_environment_gives() {
        for arn in ["", "arn", "a:b:c:d:e:f:g", "arn:aws:s3:::bucket:x"] {
            let tags = invoked_by(arn).tags(Some("coffee"));
            assert_eq!(tags, ["functionname:coffee", "executedversion:LATEST", "memorysize:128"], "{arn}");
        }
        assert_eq!(Function::default().tags(Some("coffee")), ["functionname:coffee"]);
        assert!(Function::default().start_tags().is_empty());
    }

    #[test]
    fn tags_that_the_extension_adds_are_not_sent_to_it() {
        let function = Function { sends_to_extension: true, ..invoked_by(ARN) };
        assert!(function.tags(Some("coffee")).is_empty());
        assert_eq!(function.start_tags(), ["cold_start:false"]);
    }
}
