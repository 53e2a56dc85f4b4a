//! Lines for the log of a function, from which the Datadog Forwarder reads metrics: one JSON object each, in ASCII, as
//! the encoding of the log is unknown.

use std::fmt::Write;

use crate::catalogue::metric::Value;

/// Lines to be written to the log at once.
#[derive(Debug)]
pub struct LogLines {
    now: u64,
    text: String,
}

impl LogLines {
    /// No lines yet; `now`, in seconds since 1970, is the time of values that have none of their own.
    #[must_use]
    pub fn at(now: u64) -> Self {
        Self { now, text: String::new() }
    }

    /// Adds a line, unless the value is not one finite number. Name and tags are clean: there is no quote in them.
    pub fn push(&mut self, name: &str, value: &Value, at: Option<u64>, tags: &str) {
        let value = match value {
            Value::Whole(whole) => whole.to_string(),
            Value::Real(real) if real.is_finite() => real.to_string(),
            Value::Real(_) | Value::Observed(_) => return,
        };
        let tags: Vec<String> =
            tags.split(',').filter(|tag| !tag.is_empty()).map(|tag| format!("\"{}\"", ascii(tag))).collect();
        let tags = tags.join(",");
        let at = at.unwrap_or(self.now);
        // A String takes everything.
        let _ = writeln!(self.text, r#"{{"m":"{name}","v":{value},"e":{at},"t":[{tags}]}}"#);
    }

    /// The lines.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// The text with everything beyond ASCII escaped as its UTF-16 code units.
fn ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Observations;

    #[test]
    fn a_value_is_a_line_of_its_own() {
        let mut lines = LogLines::at(5);
        lines.push("a.b", &Value::Whole(7), Some(1_700_000_000), "team:core,canary");
        lines.push("c", &Value::Real(0.25), None, "");
        assert_eq!(
            lines.into_text(),
            "{\"m\":\"a.b\",\"v\":7,\"e\":1700000000,\"t\":[\"team:core\",\"canary\"]}\n\
             {\"m\":\"c\",\"v\":0.25,\"e\":5,\"t\":[]}\n"
        );
    }

    #[test]
    fn characters_beyond_ascii_are_escaped_as_in_json() {
        let mut lines = LogLines::at(5);
        lines.push("a", &Value::Whole(1), None, "café:crème,日本,\u{20000}");
        assert_eq!(
            lines.into_text(),
            r#"{"m":"a","v":1,"e":5,"t":["caf\u00e9:cr\u00e8me","\u65e5\u672c","\ud840\udc00"]}"#.to_owned()
                + "\n"
        );
    }

    #[test]
    fn a_value_that_is_not_one_finite_number_is_left_out() {
        let mut lines = LogLines::at(5);
        for value in
            [Value::Real(f64::NAN), Value::Real(f64::INFINITY), Value::Observed(Observations::default())]
        {
            lines.push("a", &value, None, "");
        }
        assert_eq!(lines.into_text(), "");
    }
}
