//! The origin fields at the end of a line, from which the Agent finds the container or pod, and adds its tags.
//!
//! The entity id is not here: it is a tag, and part of the identity.

use std::str::FromStr;

/// The longest container id or inode, in bytes.
const MAX_CONTAINER_LENGTH: usize = 64;

/// The longest external data, in bytes.
const MAX_EXTERNAL_LENGTH: usize = 512;

/// What each field begins with, in their order.
const KEYS: [&str; 3] = ["|c:", "|e:", "|card:"];

/// What the settings say about the origin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin {
    /// Whether the container is detected, and external data is sent.
    pub detect: bool,
    /// What the admission controller knows about this container.
    pub external: Option<ExternalData>,
    /// How detailed the Agent's tags are to be.
    pub cardinality: Option<Cardinality>,
}

/// A text that every receiver accepts as the field `e:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalData(String);

/// How detailed the Agent's tags are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    /// No tags of the origin.
    None,
    /// Tags of the host and the deployment.
    Low,
    /// Also those of the pod or task.
    Orchestrator,
    /// Also those of the container.
    High,
}

impl Origin {
    /// `|c:<container>|e:<external data>|card:<level>`, without those that are off or unknown.
    ///
    /// `container` is asked only if the container is to be detected.
    #[must_use]
    pub fn fields(&self, container: impl FnOnce() -> Option<String>) -> String {
        let container = if self.detect { container() } else { None };
        let container = container.filter(|container| container.len() <= MAX_CONTAINER_LENGTH);
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

    /// The length that [`fields`](Self::fields) never exceeds, in bytes.
    #[must_use]
    pub fn max_length(&self) -> usize {
        let container = self.detect.then_some(MAX_CONTAINER_LENGTH);
        let external = self.external().map(str::len);
        let cardinality = self.cardinality.map(|level| level.name().len());
        let lengths = KEYS.into_iter().zip([container, external, cardinality]);
        lengths.map(|(key, value)| value.map_or(0, |value| key.len() + value)).sum()
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
        let valid = (1..=MAX_EXTERNAL_LENGTH).contains(&data.len()) && data.bytes().all(allowed);
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
        let detecting = Origin { detect: true, ..Origin::default() };
        assert_eq!(origin(true).fields(|| None), "|e:it-false,cn-web,pu-1|card:low");
        assert_eq!(origin(false).fields(|| None), "|card:low");
        assert_eq!(detecting.fields(|| None), "");
        assert_eq!(origin(false).fields(|| panic!("the container is not detected")), "|card:low");
        assert_eq!(Origin::default().fields(|| panic!("the container is not detected")), "");
    }

    #[test]
    fn a_container_comes_first() {
        let container = || Some("in-4026532178".to_owned());
        assert_eq!(origin(true).fields(container), "|c:in-4026532178|e:it-false,cn-web,pu-1|card:low");
        assert_eq!(origin(true).fields(|| Some("x".repeat(65))), "|e:it-false,cn-web,pu-1|card:low");
    }

    #[test]
    fn no_fields_are_longer_than_their_maximum() {
        let container = "|c:".len() + MAX_CONTAINER_LENGTH;
        assert_eq!(origin(true).max_length(), container + "|e:it-false,cn-web,pu-1|card:low".len());
        assert_eq!(origin(false).max_length(), "|card:low".len());
        assert_eq!(Origin::default().max_length(), 0);
    }

    #[test]
    fn external_data_is_what_the_strictest_receiver_accepts() {
        let longest = "x".repeat(MAX_EXTERNAL_LENGTH);
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
