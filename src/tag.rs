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
