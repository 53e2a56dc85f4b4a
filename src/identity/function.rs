//! An invocation of a function in AWS Lambda: whose it is, how it began, and what its lines tell of the function.
//!
//! The clock is the caller's, and times are those of the wall: the monotonic clock may stand still while the environment is
//! frozen.

use std::time::Duration;

/// An environment that waits longer than this for its first invocation was set up in advance.
const IN_ADVANCE: Duration = Duration::from_secs(10);

/// How the environment came to its invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It was set up for it.
    Cold,
    /// It was set up in advance: nobody waited for that.
    Proactive,
    /// It has served others before.
    Warm,
}

impl Start {
    /// `waited` is how long the environment, since it was set up, has waited for its first invocation; `None` at any
    /// other.
    #[must_use]
    pub fn after(waited: Option<Duration>) -> Self {
        match waited {
            None => Self::Warm,
            Some(waited) if waited > IN_ADVANCE => Self::Proactive,
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

/// What is known of the function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Whether the vendor's extension adds tags to what it receives.
    pub has_extension: bool,
    /// The invocation, once there is one.
    pub invoked: Option<Invoked>,
}

/// What an invocation's context says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoked {
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
    /// The tags of the start.
    #[must_use]
    pub fn start_tags(&self) -> &'static [&'static str] {
        self.invoked.as_ref().map_or(&[], |invoked| invoked.start.tags())
    }

    /// The tags that the extension would add, by the names it gives them.
    ///
    /// `name` is the function's, where no invocation has told more.
    #[must_use]
    pub fn tags(&self, name: Option<&str>) -> Vec<String> {
        if self.has_extension {
            return Vec::new();
        }
        let mut tags = Vec::new();
        let invoked = self.invoked.as_ref();
        // arn:aws:lambda:region:account:function:name, and perhaps :alias.
        let arn = invoked.and_then(|invoked| invoked.arn.as_deref()).unwrap_or_default();
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
        if let Some(version) = invoked.and_then(|invoked| invoked.version.as_ref()) {
            tags.push(format!("executedversion:{}", version.trim_start_matches('$')));
        }
        if let Some(memory) = invoked.and_then(|invoked| invoked.memory.as_ref()) {
            tags.push(format!("memorysize:{memory}"));
        }
        tags
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
    fn a_start_in_advance_is_told_and_is_not_cold() {
        assert_eq!(Start::Cold.tags(), ["cold_start:true"]);
        assert_eq!(Start::Proactive.tags(), ["cold_start:false", "proactive_initialization:true"]);
        assert_eq!(Start::Warm.tags(), ["cold_start:false"]);
    }

    fn invoked(arn: &str) -> Function {
        let invoked = Invoked {
            start: Start::Warm,
            arn: Some(arn.to_owned()),
            version: Some("$LATEST".to_owned()),
            memory: Some("128".to_owned()),
        };
        Function { has_extension: false, invoked: Some(invoked) }
    }

    const ARN: &str = "arn:aws:lambda:eu-central-1:123456789012:function:coffee";

    #[test]
    fn the_function_s_tags_come_from_the_name_it_was_invoked_by() {
        assert_eq!(
            invoked(ARN).tags(Some("other")).join(","),
            "functionname:coffee,region:eu-central-1,account_id:123456789012,resource:coffee,\
             executedversion:LATEST,memorysize:128"
        );
        let of_alias = invoked(&format!("{ARN}:live")).tags(None).join(",");
        assert!(of_alias.contains("functionname:coffee,") && of_alias.contains("resource:coffee:live,"));
    }

    #[test]
    fn without_a_name_that_can_be_read_only_the_function_s_own_is_told() {
        for arn in ["", "arn", "a:b:c:d:e:f:g", "arn:aws:s3:::bucket:x"] {
            let tags = invoked(arn).tags(Some("coffee"));
            assert_eq!(tags, ["functionname:coffee", "executedversion:LATEST", "memorysize:128"], "{arn}");
        }
        assert_eq!(Function::default().tags(Some("coffee")), ["functionname:coffee"]);
        assert!(Function::default().start_tags().is_empty());
    }

    #[test]
    fn what_an_extension_adds_is_not_repeated() {
        let function = Function { has_extension: true, ..invoked(ARN) };
        assert!(function.tags(Some("coffee")).is_empty());
        assert_eq!(function.start_tags(), ["cold_start:false"]);
    }
}
