//! Lines packed into payloads no longer than a transport's target, counted in bytes.

use std::ops::Range;

/// The longest payload an Agent reads.
pub const LONGEST: usize = 8192;

/// Payloads to be sent, in one buffer. A line is never split.
#[derive(Debug)]
pub struct Packets {
    bytes: Vec<u8>,
    /// Where each payload but the last ends, and how many lines there are until then.
    ends: Vec<(usize, usize)>,
    lines: usize,
    target: usize,
}

impl Packets {
    /// No lines yet; `target` is the length up to which lines share a payload.
    pub fn new(target: usize) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), lines: 0, target }
    }

    /// Adds a line, its ending and a line feed. A line longer than the target has a payload of its own; one that no
    /// Agent would read is refused.
    pub fn push(&mut self, line: &str, ending: &str) -> bool {
        let length = line.len() + ending.len() + 1;
        if length > LONGEST {
            return false;
        }
        let open = self.bytes.len() - self.last_end();
        if open > 0 && open + length > self.target {
            self.ends.push((self.bytes.len(), self.lines));
        }
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.extend_from_slice(ending.as_bytes());
        self.bytes.push(b'\n');
        self.lines += 1;
        true
    }

    /// The payloads in order, none of them empty.
    pub fn payloads(&self) -> Vec<&[u8]> {
        let ends = || self.ends.iter().map(|(byte, _)| *byte);
        let starts = std::iter::once(0).chain(ends());
        let ends = ends().chain(std::iter::once(self.bytes.len()));
        starts.zip(ends).map(|(start, end)| &self.bytes[start..end]).filter(|p| !p.is_empty()).collect()
    }

    /// Where the lines of these payloads stand, counted from the last line.
    pub fn lines_of(&self, payloads: Range<usize>) -> Range<usize> {
        let until = |payload: usize| match payload.checked_sub(1) {
            Some(before) => self.ends.get(before).map_or(self.lines, |(_, lines)| *lines),
            None => 0,
        };
        self.lines - until(payloads.end)..self.lines - until(payloads.start)
    }

    /// Forgets all lines and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.lines = 0;
    }

    /// Changes the target, for the lines to come.
    pub fn set_target(&mut self, target: usize) {
        self.target = target;
    }

    fn last_end(&self) -> usize {
        self.ends.last().map_or(0, |(byte, _)| *byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(target: usize, lines: &[&str]) -> Vec<String> {
        let mut packets = Packets::new(target);
        for line in lines {
            assert!(packets.push(line, ""));
        }
        let text = |payload: &&[u8]| String::from_utf8(payload.to_vec()).unwrap();
        packets.payloads().iter().map(text).collect()
    }

    #[test]
    fn lines_share_a_payload_up_to_the_target() {
        assert_eq!(packed(8, &["abc", "def", "g"]), ["abc\ndef\n", "g\n"]);
        assert_eq!(packed(7, &["abc", "def", "g"]), ["abc\n", "def\ng\n"]);
    }

    #[test]
    fn a_line_longer_than_the_target_goes_alone() {
        assert_eq!(packed(4, &["a", "long line", "b", "c"]), ["a\n", "long line\n", "b\nc\n"]);
    }

    #[test]
    fn lines_are_found_by_their_payloads() {
        let mut packets = Packets::new(8);
        for line in ["abc", "def", "g", "a long line", "h"] {
            assert!(packets.push(line, ""));
        }
        assert_eq!(packets.payloads().len(), 4);
        let of = |payloads| packets.lines_of(payloads);
        assert_eq!([of(0..1), of(1..2), of(2..3), of(3..4)], [3..5, 2..3, 1..2, 0..1]);
        assert_eq!((of(0..4), of(2..4), of(0..0)), (0..5, 0..2, 5..5));
    }

    #[test]
    fn length_is_counted_in_bytes() {
        assert_eq!(packed(6, &["éé", "a"]), ["éé\n", "a\n"]);
    }

    #[test]
    fn without_lines_there_is_no_payload() {
        assert_eq!(Packets::new(10).payloads(), Vec::<&[u8]>::new());
    }

    #[test]
    fn a_line_that_no_agent_would_read_is_refused() {
        let mut packets = Packets::new(10);
        assert!(packets.push(&"x".repeat(LONGEST - 1), ""));
        assert!(!packets.push(&"x".repeat(LONGEST), ""));
        assert!(packets.push(&"x".repeat(LONGEST - 3), "|e"));
        assert!(!packets.push(&"x".repeat(LONGEST - 2), "|e"));
        assert_eq!(packets.payloads().len(), 2);
    }

    proptest! {
        #[test]
        fn every_line_leaves_once_in_order_and_whole(
            target in 1_usize..200,
            lines in prop::collection::vec("[a-zé|#:,]{0,80}", 0..40),
            ending in "(\\|c:[a-f0-9]{0,64})?"
        ) {
            let mut packets = Packets::new(target);
            for line in &lines {
                prop_assert!(packets.push(line, &ending));
            }
            let payloads = packets.payloads();
            for payload in &payloads {
                let feeds = payload.split(|byte| *byte == b'\n').count() - 1;
                prop_assert!(feeds >= 1 && payload.ends_with(b"\n"));
                prop_assert!(payload.len() <= target || feeds == 1);
            }
            let expected: String = lines.iter().flat_map(|line| [line.as_str(), &ending, "\n"]).collect();
            prop_assert_eq!(payloads.concat(), expected.into_bytes());
        }
    }
}
