//! A function in AWS Lambda, and what its lines say about it and about the invocation that they are sent in.
//!
//! Times are wall-clock times: the monotonic clock may stand still while the environment is frozen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::settings::AwsLambda;
use crate::tag::clean;

/// How many tags a line may have: Datadog's receiver in AWS Lambda refuses lines with more.
pub(super) const MAX_TAGS: usize = 100;

/// An environment that waits longer than this for its first invocation was set up in advance.
const IN_ADVANCE: Duration = Duration::from_secs(10);

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

/// Tells the invocations of a process apart, which come one after the other, by their ids and contexts. However many
/// see one begin, only the first is to serve it. No lock: a child process would have no thread to unlock it.
#[derive(Debug)]
pub struct Guard<C> {
    /// When the environment was set up, in milliseconds since 1970; 0 while that is not known.
    set_up: AtomicU64,
    has_served: AtomicBool,
    is_under_way: AtomicBool,
    /// The last that had an id. The same id with another context is another try of what has failed.
    last: ArcSwapOption<(String, C)>,
}

impl<C> Default for Guard<C> {
    fn default() -> Self {
        Self {
            set_up: AtomicU64::new(0),
            has_served: AtomicBool::new(false),
            is_under_way: AtomicBool::new(false),
            last: ArcSwapOption::const_empty(),
        }
    }
}

impl<C> Guard<C> {
    /// The environment is set up now, in time since 1970, unless it has been before.
    pub fn set_up(&self, now: Duration) {
        // Nobody minds if it was.
        let _ = self.set_up.compare_exchange(0, milliseconds(now), SeqCst, SeqCst);
    }

    /// The environment begins anew now: the next invocation is its first.
    pub fn renew(&self, now: Duration) {
        self.set_up.store(milliseconds(now), SeqCst);
        self.has_served.store(false, SeqCst);
        self.last.store(None);
        self.end();
    }

    /// Whether this is an invocation that nobody serves or has served, who is around this call or was before it. If so it
    /// is under way until its [end](Self::end).
    ///
    /// `key` is its id and its context, if it has both; `is_same` tells whether another context is this one.
    pub fn begin(&self, key: Option<(String, C)>, is_same: impl FnOnce(&C) -> bool) -> bool {
        if self.is_under_way.swap(true, SeqCst) {
            return false;
        }
        if let Some(key) = key {
            if self.last.load().as_ref().is_some_and(|last| last.0 == key.0 && is_same(&last.1)) {
                self.end();
                return false;
            }
            self.last.store(Some(Arc::new(key)));
        }
        true
    }

    /// How the environment has come to the invocation that begins now. Asked once of each.
    pub fn start(&self, now: Duration) -> Start {
        let is_first = !self.has_served.swap(true, SeqCst);
        Start::after(is_first.then(|| now.saturating_sub(Duration::from_millis(self.set_up.load(SeqCst)))))
    }

    /// What is under way is over.
    pub fn end(&self) {
        self.is_under_way.store(false, SeqCst);
    }
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
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

    fn begins(guard: &Guard<u8>, id: &str, context: u8) -> bool {
        guard.begin(Some((id.to_owned(), context)), |last| *last == context)
    }

    #[test]
    fn what_is_under_way_or_has_been_served_is_served_by_nobody_else() {
        let guard = Guard::default();
        assert!(begins(&guard, "a", 1));
        assert!(!begins(&guard, "a", 1) && !begins(&guard, "b", 2) && !guard.begin(None, |_| false));
        guard.end();
        assert!(!begins(&guard, "a", 1), "it was served");
        assert!(begins(&guard, "a", 2), "it is tried again");
        guard.end();
        assert!(guard.begin(None, |_| true), "without an id each call is one");
        guard.end();
        assert!(!begins(&guard, "a", 2) && begins(&guard, "b", 2));
    }

    #[test]
    fn an_environment_is_set_up_once_and_serves_its_first_invocation_once() {
        let guard = Guard::<u8>::default();
        let at = Duration::from_secs;
        guard.set_up(at(100));
        guard.set_up(at(200));
        assert_eq!([guard.start(at(120)), guard.start(at(120))], [Start::Proactive, Start::Warm]);
        guard.renew(at(200));
        assert_eq!([guard.start(at(209)), guard.start(at(300))], [Start::Cold, Start::Warm]);
        assert_eq!(Guard::<u8>::default().start(Duration::ZERO), Start::Cold);
    }

    #[test]
    fn an_environment_that_begins_anew_knows_nothing_of_what_was_served() {
        let guard = Guard::default();
        assert!(begins(&guard, "a", 1));
        guard.renew(Duration::ZERO);
        assert!(begins(&guard, "a", 1));
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
