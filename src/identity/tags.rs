//! Tags of the user: where they come from, and which of them wins.

use crate::settings::variables::{DATADOG_TAGS, Environment, TAGS};
use crate::tag::{clean, clean_user_tag, unreserved};

/// Tags by key: a later one replaces an earlier one with the same key.
#[derive(Default)]
pub(super) struct UserTags(Vec<(String, Option<String>)>);

impl UserTags {
    /// The tags that variables give.
    pub(super) fn of_variables(environment: &Environment) -> Self {
        let mut tags = Self::default();
        tags.extend(environment.get(DATADOG_TAGS).unwrap_or_default().split(','));
        let text = environment.get(TAGS).unwrap_or_default();
        if text.contains(',') {
            tags.extend(text.split(','));
        } else {
            tags.extend(text.split_whitespace());
        }
        tags
    }

    /// The tags that are given one by one.
    pub(super) fn of_items(items: &[String]) -> Self {
        let mut tags = Self::default();
        tags.extend(items.iter().map(String::as_str));
        tags
    }

    fn extend<'a>(&mut self, items: impl IntoIterator<Item = &'a str>) {
        for item in items {
            let (key, value) = match item.trim().split_once(':') {
                Some((key, value)) => (key.trim(), Some(value.trim().to_owned())),
                None => (item.trim(), None),
            };
            let key = unreserved(key);
            if key.is_empty() || matches!(key, "git.commit.sha" | "git.repository_url") {
                continue;
            }
            self.set(key.to_owned(), value);
        }
    }

    /// Adds stronger tags.
    pub(super) fn merge(&mut self, stronger: Self) {
        for (key, value) in stronger.0 {
            self.set(key, value);
        }
    }

    fn set(&mut self, key: String, value: Option<String>) {
        let is_same = |(k, v): &&mut (String, Option<String>)| *k == key && v.is_some() == value.is_some();
        match self.0.iter_mut().find(is_same) {
            Some(tag) => tag.1 = value,
            None => self.0.push((key, value)),
        }
    }

    /// Removes the tag of this key, which names the service, its environment or its version, and gives its value.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(k, v)| k == key && v.is_some())?;
        self.0.remove(at).1.filter(|value| !value.is_empty())
    }

    pub(super) fn cleaned(&self) -> Vec<String> {
        let text = |(key, value): &(String, Option<String>)| match value {
            Some(value) => clean_user_tag(&format!("{key}:{value}")),
            None => clean_user_tag(key),
        };
        self.0.iter().map(text).filter(|tag| !tag.is_empty()).collect()
    }
}

/// A cleaned tag for every key that has a value.
pub(super) fn keyed<const N: usize>(values: [(&str, Option<&str>); N]) -> Vec<String> {
    let tag = |(key, value)| Some(clean(&format!("{key}:{}", value?)));
    values.into_iter().filter_map(tag).collect()
}
