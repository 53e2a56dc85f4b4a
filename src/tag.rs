//! Tags of a line: what may stand in one, and many of them joined.

use std::fmt;

/// The longest tag, in characters: Datadog truncates there.
pub const MAX_TAG_LENGTH: usize = 200;

/// Turns any text into a tag that cannot end the tag, the line or the packet.
#[must_use]
pub fn clean(tag: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '/');
    let cleaned: String =
        tag.chars().take(MAX_TAG_LENGTH).map(|c| if allowed(c) { c } else { '_' }).collect();
    cleaned.trim_end_matches(':').to_owned()
}

/// The same for a tag whose key is the user's. Empty if nothing is left of the key.
#[must_use]
pub fn clean_user_tag(tag: &str) -> String {
    let cleaned = clean(tag);
    match unreserved(&cleaned) {
        unreserved if unreserved.len() == cleaned.len() => cleaned,
        unreserved if unreserved.starts_with(':') => String::new(),
        unreserved => unreserved.to_owned(),
    }
}

/// A key, or a tag, without leading underscores if there are several. Prometheus keeps such names for itself:
/// `statsd_exporter` takes one and then answers every scrape with an error, for all services. Datadog strips them.
#[must_use]
pub fn unreserved(key: &str) -> &str {
    if key.starts_with("__") { key.trim_start_matches('_') } else { key }
}

/// Cleaned tags, each of them once. They are kept joined by commas, as a line has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    joined: String,
    /// Where each tag ends in `joined`.
    ends: Vec<usize>,
}

impl Tags {
    /// Adds a cleaned tag, unless it is empty or already there.
    pub fn push(&mut self, tag: &str) {
        if tag.is_empty() || self.iter().any(|present| present == tag) {
            return;
        }
        if !self.joined.is_empty() {
            self.joined.push(',');
        }
        self.joined.push_str(tag);
        self.ends.push(self.joined.len());
    }

    /// The tags joined by commas.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.joined
    }

    /// The tags one by one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let tag = &self.joined[start..*end];
            start = end + 1;
            tag
        })
    }
}

impl<'a> FromIterator<&'a str> for Tags {
    fn from_iter<I: IntoIterator<Item = &'a str>>(tags: I) -> Self {
        let mut joined = Self::default();
        tags.into_iter().for_each(|tag| joined.push(tag));
        joined
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_begins_with_two_underscores() {
        for (given, expected) in [
            ("__team:core", "team:core"),
            ("____team:__core", "team:__core"),
            ("| team:core", "team:core"),
            ("__canary", "canary"),
            ("_team:core", "_team:core"),
            ("a__b:c", "a__b:c"),
            ("1:x", "1:x"),
            ("日本:x", "日本:x"),
            ("__:core", ""),
            ("__", ""),
        ] {
            assert_eq!(clean_user_tag(given), expected, "{given}");
        }
    }

    #[test]
    fn tags_are_joined_and_listed_in_the_order_in_which_they_were_added() {
        let mut tags = Tags::default();
        assert_eq!((tags.as_str(), tags.iter().count()), ("", 0));
        for tag in ["service:web", "", "canary", "service:web", "café:crème"] {
            tags.push(tag);
        }
        assert_eq!(tags.as_str(), "service:web,canary,café:crème");
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["service:web", "canary", "café:crème"]);
    }
}
