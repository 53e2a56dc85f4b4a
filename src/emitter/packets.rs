//! Lines packed into payloads no longer than a transport's target, counted in bytes.

use std::io::IoSlice;

/// The longest payload an Agent reads, in bytes.
pub const MAX_PAYLOAD: usize = 8192;

/// The longest UDP payload that fits one Ethernet frame, in bytes. Lines share a payload up to this length.
pub const MAX_UDP_PAYLOAD: usize = 1432;

/// How many counts of our own sending can be reported to the receiver.
pub const NUMBER_OF_COUNTERS: usize = 7;

/// What a payload reports of our own sending, in the order of the counters.
pub type Counts = [u64; NUMBER_OF_COUNTERS];

/// Payloads to be sent, in one buffer. A line is never split.
#[derive(Debug)]
pub struct Packets {
    bytes: Vec<u8>,
    /// All payloads but the last.
    closed: Vec<Closed>,
    /// What the last payload reports.
    counts: Counts,
    target: usize,
}

#[derive(Debug)]
struct Closed {
    end: usize,
    counts: Counts,
}

/// A payload to be sent.
#[derive(Debug)]
pub struct Payload<'a> {
    bytes: [IoSlice<'a>; 1],
    counts: &'a Counts,
}

impl Packets {
    /// No lines yet; `target` is the length up to which lines share a payload.
    pub fn new(target: usize) -> Self {
        Self { bytes: Vec::new(), closed: Vec::new(), counts: Counts::default(), target }
    }

    /// Adds a line and a line feed. A line longer than the target gets a payload of its own; one longer than any Agent
    /// reads is refused.
    pub fn push(&mut self, line: &str) -> bool {
        let length = line.len() + 1;
        if length > MAX_PAYLOAD {
            return false;
        }
        let end = self.bytes.len();
        let open = end - self.closed.last().map_or(0, |closed| closed.end);
        if open > 0 && open + length > self.target {
            self.closed.push(Closed { end, counts: std::mem::take(&mut self.counts) });
        }
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.push(b'\n');
        true
    }

    /// Adds what the last line reports.
    pub fn add_count(&mut self, counter: usize, count: u64) {
        self.counts[counter] += count;
    }

    /// The payloads in order, none of them empty.
    pub fn payloads(&self) -> Vec<Payload<'_>> {
        let mut payloads = Vec::with_capacity(self.closed.len() + 1);
        let mut start = 0;
        for Closed { end, counts } in &self.closed {
            payloads.push(Payload { bytes: [IoSlice::new(&self.bytes[start..*end])], counts });
            start = *end;
        }
        if start < self.bytes.len() {
            payloads.push(Payload { bytes: [IoSlice::new(&self.bytes[start..])], counts: &self.counts });
        }
        payloads
    }

    /// Forgets all lines and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.closed.clear();
        self.counts = Counts::default();
    }

    /// Changes the target, for the lines to come.
    pub fn set_target(&mut self, target: usize) {
        self.target = target;
    }
}

impl Payload<'_> {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[0]
    }

    /// What it reports.
    pub fn counts(&self) -> &Counts {
        self.counts
    }
}

impl<'a> AsRef<[IoSlice<'a>]> for Payload<'a> {
    fn as_ref(&self) -> &[IoSlice<'a>] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(target: usize, lines: &[&str]) -> Vec<String> {
        let mut packets = Packets::new(target);
        for line in lines {
            assert!(packets.push(line));
        }
        let text = |payload: &Payload<'_>| String::from_utf8(payload.bytes().to_vec()).unwrap();
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
    fn a_payload_reports_the_counts_of_its_lines() {
        let mut packets = Packets::new(8);
        for (counter, line) in ["abc", "def", "g"].into_iter().enumerate() {
            assert!(packets.push(line));
            packets.add_count(counter, 5);
        }
        let counts: Vec<_> = packets.payloads().iter().map(|payload| *payload.counts()).collect();
        assert_eq!(counts, [[5, 5, 0, 0, 0, 0, 0], [0, 0, 5, 0, 0, 0, 0]]);
        packets.clear();
        assert!(packets.push("h"));
        assert_eq!(packets.payloads()[0].counts(), &Counts::default());
    }

    #[test]
    fn length_is_counted_in_bytes() {
        assert_eq!(packed(6, &["éé", "a"]), ["éé\n", "a\n"]);
    }

    #[test]
    fn without_lines_there_is_no_payload() {
        assert!(Packets::new(10).payloads().is_empty());
    }

    #[test]
    fn a_line_that_no_agent_would_read_is_refused() {
        let mut packets = Packets::new(10);
        assert!(packets.push(&"x".repeat(MAX_PAYLOAD - 1)));
        assert!(!packets.push(&"x".repeat(MAX_PAYLOAD)));
        assert_eq!(packets.payloads().len(), 1);
    }

    proptest! {
        #[test]
        fn every_line_leaves_once_in_order_and_whole(
            target in 1_usize..200,
            lines in prop::collection::vec("[a-zé|#:,]{0,80}", 0..40),
        ) {
            let mut packets = Packets::new(target);
            for line in &lines {
                prop_assert!(packets.push(line));
            }
            let payloads = packets.payloads();
            let payloads: Vec<_> = payloads.iter().map(Payload::bytes).collect();
            for payload in &payloads {
                let feeds = payload.split(|byte| *byte == b'\n').count() - 1;
                prop_assert!(feeds >= 1 && payload.ends_with(b"\n"));
                prop_assert!(payload.len() <= target || feeds == 1);
            }
            let expected: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            prop_assert_eq!(payloads.concat(), expected.into_bytes());
        }
    }
}
