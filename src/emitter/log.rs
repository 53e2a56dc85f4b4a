//! Lines for the log of a function, from which the Datadog Forwarder reads metrics: one JSON object each, in ASCII, as
//! the encoding of the log is unknown.

use std::fmt::Write;

use crate::catalogue::metric::Value;

/// Lines to be written to the log at once.
#[derive(Debug, Default)]
pub struct LogLines(String);

impl LogLines {
    /// Adds a line, unless the value is not one finite number. `at` is its time, in seconds since 1970. Name and tags
    /// must be clean: there is no quote in them.
    pub fn push<'a>(&mut self, name: &str, value: &Value, at: u64, tags: impl Iterator<Item = &'a str>) {
        let value = match value {
            Value::Whole(whole) => whole.to_string(),
            Value::Real(real) if real.is_finite() => real.to_string(),
            Value::Real(_) | Value::Observed(_) => return,
        };
        let tags: Vec<String> = tags.map(|tag| format!("\"{}\"", ascii(tag))).collect();
        let tags = tags.join(",");
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, r#"{{"m":"{name}","v":{value},"e":{at},"t":[{tags}]}}"#);
    }

    /// The lines since the last call.
    #[must_use]
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
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
    use crate::snapshot::server::Observations;

    #[test]
    fn a_value_is_a_line_of_its_own() {
        let mut lines = LogLines::default();
        lines.push("a.b", &Value::Whole(7), 1_700_000_000, ["team:core", "canary"].into_iter());
        lines.push("c", &Value::Real(0.25), 5, std::iter::empty());
        assert_eq!(
            lines.take(),
            "{\"m\":\"a.b\",\"v\":7,\"e\":1700000000,\"t\":[\"team:core\",\"canary\"]}\n\
             {\"m\":\"c\",\"v\":0.25,\"e\":5,\"t\":[]}\n"
        );
    }

    #[test]
    fn characters_beyond_ascii_are_escaped_as_in_json() {
        let mut lines = LogLines::default();
        lines.push("a", &Value::Whole(1), 5, ["café:crème", "日本", "\u{20000}"].into_iter());
        assert_eq!(
            lines.take(),
            r#"{"m":"a","v":1,"e":5,"t":["caf\u00e9:cr\u00e8me","\u65e5\u672c","\ud840\udc00"]}"#.to_owned()
                + "\n"
        );
    }

    #[test]
    fn a_value_that_is_not_one_finite_number_is_left_out() {
        let mut lines = LogLines::default();
        for value in
            [Value::Real(f64::NAN), Value::Real(f64::INFINITY), Value::Observed(Observations::default())]
        {
            lines.push("a", &value, 5, std::iter::empty());
        }
        assert_eq!(lines.take(), "");
    }
}
