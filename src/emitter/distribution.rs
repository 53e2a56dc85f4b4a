//! One value of a custom metric: what is accepted, and what is refused.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Datadog accepts no value older than this.
const MAX_AGE: Duration = Duration::from_hours(4);

/// In seconds this is the year 5138: a larger number counts milliseconds, microseconds or nanoseconds.
const MAX_SECONDS: f64 = 1e11;

/// The longest name, in characters: Datadog cuts longer ones.
const MAX_NAME_LENGTH: usize = 200;

/// A value of a custom metric, which is a distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Letters, digits, underscores and points.
    pub name: String,
    /// A finite number.
    pub value: f64,
    /// When it was measured, in seconds since 1970; `None` is now.
    pub timestamp: Option<u64>,
    /// Its tags, as they were given.
    pub tags: Vec<String>,
}

/// Why a value is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its name has no letter.
    Name,
    /// It is not a finite number.
    Value,
    /// Its timestamp is not a time.
    Timestamp,
    /// It is too old.
    Old,
    /// Its tags are not texts.
    Tags,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Name, Self::Value, Self::Timestamp, Self::Old, Self::Tags];
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "its name is not a text with a letter",
            Self::Value => "its value is not a finite number",
            Self::Timestamp => "its timestamp is neither seconds since 1970 nor a datetime",
            Self::Old => "its timestamp is older than 4 hours",
            Self::Tags => "its tags are not texts",
        })
    }
}

impl Distribution {
    /// Checks a value; `now` is in seconds since 1970, and so is `timestamp`, unless it is too large for that and taken
    /// for milliseconds, microseconds or nanoseconds.
    ///
    /// # Errors
    ///
    /// Why it is not sent.
    pub fn new(
        name: &str,
        value: f64,
        timestamp: Option<f64>,
        tags: Vec<String>,
        now: Duration,
    ) -> Result<Self, Refusal> {
        let name = cleaned(name).ok_or(Refusal::Name)?;
        if !value.is_finite() {
            return Err(Refusal::Value);
        }
        let timestamp = timestamp.map(|time| checked_time(time, now)).transpose()?;
        Ok(Self { name, value, timestamp, tags })
    }

    /// The same without its timestamp, which dates it at its arrival.
    #[must_use]
    pub fn undated(&self) -> Cow<'_, Self> {
        match self.timestamp {
            None => Cow::Borrowed(self),
            Some(_) => Cow::Owned(Self { timestamp: None, ..self.clone() }),
        }
    }
}

/// A time in whichever unit, in seconds.
fn in_seconds(time: f64) -> f64 {
    let units = [1.0, 1e3, 1e6, 1e9].map(|per_second| time / per_second);
    units.into_iter().find(|seconds| *seconds < MAX_SECONDS).unwrap_or(time)
}

fn checked_time(time: f64, now: Duration) -> Result<u64, Refusal> {
    let at = Duration::try_from_secs_f64(in_seconds(time)).map_err(|_| Refusal::Timestamp)?.as_secs();
    if at < now.saturating_sub(MAX_AGE).as_secs() { Err(Refusal::Old) } else { Ok(at) }
}

/// The name as Datadog would store it: it begins with a letter, and nothing in it can end the name or the line.
fn cleaned(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
    let name: String = name.chars().take(MAX_NAME_LENGTH).map(|c| if allowed(c) { c } else { '_' }).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn of(name: &str, value: f64, timestamp: Option<f64>) -> Result<Distribution, Refusal> {
        Distribution::new(name, value, timestamp, Vec::new(), NOW)
    }

    #[test]
    fn a_name_is_cleaned_and_begins_with_a_letter() {
        let name = |name: &str| of(name, 1.0, None).map(|distribution| distribution.name);
        assert_eq!(name("coffee_house.order_value"), Ok("coffee_house.order_value".to_owned()));
        assert_eq!(name("1_a:b|c#d\ne,é-f"), Ok("a_b_c_d_e___f".to_owned()));
        assert_eq!(name(&"x".repeat(300)), Ok("x".repeat(200)));
        for nothing in ["", "123", "日本", "_."] {
            assert_eq!(name(nothing), Err(Refusal::Name), "{nothing}");
        }
    }

    #[test]
    fn a_value_is_a_finite_number() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(of("a", value, None), Err(Refusal::Value));
        }
        assert_eq!(of("a", -2.5, None).map(|distribution| distribution.value), Ok(-2.5));
    }

    #[test]
    fn a_timestamp_may_be_four_hours_old() {
        let now = NOW.as_secs_f64();
        let at = |seconds| of("a", 1.0, Some(seconds)).map(|distribution| distribution.timestamp);
        assert_eq!(of("a", 1.0, None).map(|distribution| distribution.timestamp), Ok(None));
        assert_eq!(at(now - 0.5), Ok(Some(NOW.as_secs() - 1)));
        assert_eq!(at(now - 14_400.0), Ok(Some(NOW.as_secs() - 14_400)));
        assert_eq!(at(now + 60.0), Ok(Some(NOW.as_secs() + 60)));
        assert_eq!(at(now - 14_401.0), Err(Refusal::Old));
        // As time.time_ns() gives it, and divided by a thousand and a million.
        for per_second in [1e3, 1e6, 1e9] {
            assert_eq!(at((now - 10.0) * per_second), Ok(Some(NOW.as_secs() - 10)));
            assert_eq!(at((now - 14_401.0) * per_second), Err(Refusal::Old));
        }
        for never in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(at(never), Err(Refusal::Timestamp), "{never}");
        }
    }
}
