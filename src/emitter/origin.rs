//! Where a line comes from, in fields at its end: by them the Agent adds the tags of a container or pod.
//!
//! The entity id, which is a tag, is not here but in [`crate::identity`].

use std::path::{Path, PathBuf};
use std::str::FromStr;

#[cfg(target_os = "linux")]
use crate::sources::container;

/// No external data is longer, in bytes.
const LONGEST_EXTERNAL: usize = 512;

/// What each field begins with, in their order.
const KEYS: [&str; 3] = ["|c:", "|e:", "|card:"];

/// What the settings say of the origin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin {
    /// Whether the container is looked for and external data are sent.
    pub detect: bool,
    /// What the admission controller has said of this container.
    pub external: Option<ExternalData>,
    /// How detailed the Agent's tags shall be.
    pub cardinality: Option<Cardinality>,
}

/// A text that every receiver takes as the field `e:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalData(String);

/// How detailed the Agent's tags shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    /// No tags of the origin.
    None,
    /// Tags of the host and of what is deployed.
    Low,
    /// And of the pod or task.
    Orchestrator,
    /// And of the container.
    High,
}

impl Origin {
    /// `|c:<container>|e:<external data>|card:<level>`, without those that are off or unknown.
    #[must_use]
    pub fn fields(&self, root: &Path) -> String {
        let container = if self.detect { container::local_data(root) } else { None };
        let values = [container.as_deref(), self.external(), self.cardinality.map(Cardinality::name)];
        let mut fields = String::new();
        for (key, value) in KEYS.into_iter().zip(values) {
            if let Some(value) = value {
                fields.push_str(key);
                fields.push_str(value);
            }
        }
        fields
    }

    /// The most bytes that [`fields`](Self::fields) can take.
    #[must_use]
    pub fn longest_fields(&self) -> usize {
        let container = self.detect.then_some(container::MAX_LENGTH);
        let external = self.external().map(str::len);
        let cardinality = self.cardinality.map(|level| level.name().len());
        let longest = KEYS.into_iter().zip([container, external, cardinality]);
        longest.map(|(key, value)| value.map_or(0, |value| key.len() + value)).sum()
    }

    fn external(&self) -> Option<&str> {
        self.external.as_ref().filter(|_| self.detect).map(|data| data.0.as_str())
    }
}

impl FromStr for ExternalData {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let data: String = text.chars().filter(|c| !c.is_control() && *c != '|').collect();
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b',' | b'-');
        let valid = (1..=LONGEST_EXTERNAL).contains(&data.len()) && data.bytes().all(allowed);
        if valid { Ok(Self(data)) } else { Err(()) }
    }
}

impl Cardinality {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Orchestrator => "orchestrator",
            Self::High => "high",
        }
    }
}

impl FromStr for Cardinality {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::None, Self::Low, Self::Orchestrator, Self::High];
        all.into_iter().find(|level| level.name().eq_ignore_ascii_case(text)).ok_or(())
    }
}

/// The end of every line: the origin's fields, put together when the first line is written.
///
/// Not before: a server may drop its privileges or be put into another cgroup after its start.
#[derive(Debug, Default)]
pub struct OriginFields {
    origin: Origin,
    root: PathBuf,
    text: Option<String>,
}

impl OriginFields {
    /// Nothing is looked for yet; it will be below `root`.
    #[must_use]
    pub fn new(origin: Origin, root: &Path) -> Self {
        Self { origin, root: root.to_owned(), text: None }
    }

    /// The fields, from the second time on as they were at the first.
    pub fn text(&mut self) -> &str {
        self.text.get_or_insert_with(|| self.origin.fields(&self.root))
    }
}

/// Elsewhere nothing tells the container.
#[cfg(not(target_os = "linux"))]
mod container {
    pub const MAX_LENGTH: usize = 0;

    pub fn local_data(_root: &std::path::Path) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(detect: bool) -> Origin {
        Origin {
            detect,
            external: Some("it-false,cn-web,pu-1".parse().unwrap()),
            cardinality: Some(Cardinality::Low),
        }
    }

    #[test]
    fn what_is_off_or_unknown_is_left_out() {
        let nowhere = Path::new("/nowhere");
        assert_eq!(origin(true).fields(nowhere), "|e:it-false,cn-web,pu-1|card:low");
        assert_eq!(origin(false).fields(nowhere), "|card:low");
        assert_eq!(Origin::default().fields(nowhere), "");
        assert_eq!(Origin { detect: true, ..Origin::default() }.fields(nowhere), "");
    }

    #[test]
    fn room_is_kept_for_what_may_be_sent_and_for_no_more() {
        let container = "|c:".len() + container::MAX_LENGTH;
        assert_eq!(origin(true).longest_fields(), container + "|e:it-false,cn-web,pu-1|card:low".len());
        assert_eq!(origin(false).longest_fields(), "|card:low".len());
        assert_eq!(Origin::default().longest_fields(), 0);
    }

    #[test]
    fn external_data_are_what_the_strictest_receiver_takes() {
        let longest = "x".repeat(LONGEST_EXTERNAL);
        for (text, expected) in [
            ("it-false,cn-web,pu-0f-1", Some("it-false,cn-web,pu-0f-1")),
            ("it-true|\n\u{7}\u{85}", Some("it-true")),
            (&longest, Some(longest.as_str())),
            (&format!("{longest}x"), None),
            ("", None),
            ("|", None),
            ("\n", None),
            ("cn-Web", None),
            ("cn-a b", None),
            ("cn-a#b", None),
            ("cn-é", None),
        ] {
            let parsed = text.parse::<ExternalData>().ok();
            assert_eq!(parsed.map(|data| data.0).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_cardinality_is_one_of_four_words_in_any_case() {
        for (text, expected) in [
            ("none", Some("none")),
            ("Low", Some("low")),
            ("ORCHESTRATOR", Some("orchestrator")),
            ("high", Some("high")),
            ("", None),
            ("medium", None),
            ("low ", None),
        ] {
            assert_eq!(text.parse::<Cardinality>().ok().map(Cardinality::name), expected, "{text:?}");
        }
    }
}
