//! Lines for the log of a function, from which the vendor's forwarder takes metrics: one JSON object each, in ASCII, as
//! nobody knows what else the log can hold.

use std::fmt::Write;

use crate::catalogue::metric::Value;

/// Lines to be written at once.
#[derive(Debug, Default)]
pub struct LogLines(String);

impl LogLines {
    /// Adds a value at that time, in seconds since 1970, if it is one finite number. Name and tags must be clean: no quote
    /// in them may end them.
    pub fn push(&mut self, name: &str, value: &Value, at: u64, tags: &str) {
        let value = match value {
            Value::Whole(whole) => whole.to_string(),
            Value::Real(real) if real.is_finite() => real.to_string(),
            Value::Real(_) | Value::Observed(_) => return,
        };
        let tags: Vec<String> =
            tags.split(',').filter(|tag| !tag.is_empty()).map(|tag| format!("\"{}\"", ascii(tag))).collect();
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

/// What is beyond ASCII, by its UTF-16 code units.
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
        lines.push("a.b", &Value::Whole(7), 1_700_000_000, "team:core,canary");
        lines.push("c", &Value::Real(0.25), 5, "");
        assert_eq!(
            lines.take(),
            "{\"m\":\"a.b\",\"v\":7,\"e\":1700000000,\"t\":[\"team:core\",\"canary\"]}\n\
             {\"m\":\"c\",\"v\":0.25,\"e\":5,\"t\":[]}\n"
        );
    }

    #[test]
    fn what_is_beyond_ascii_is_escaped_as_json_has_it() {
        let mut lines = LogLines::default();
        lines.push("a", &Value::Whole(1), 5, "café:crème,日本,\u{20000}");
        assert_eq!(
            lines.take(),
            r#"{"m":"a","v":1,"e":5,"t":["caf\u00e9:cr\u00e8me","\u65e5\u672c","\ud840\udc00"]}"#.to_owned()
                + "\n"
        );
    }

    #[test]
    fn what_is_no_finite_number_is_no_line() {
        let mut lines = LogLines::default();
        for value in
            [Value::Real(f64::NAN), Value::Real(f64::INFINITY), Value::Observed(Observations::default())]
        {
            lines.push("a", &value, 5, "");
        }
        assert_eq!(lines.take(), "");
    }
}
