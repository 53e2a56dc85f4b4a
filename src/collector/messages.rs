//! Messages that wait to be logged: by the reader's thread or, where that is not possible, by one of the program.

use std::time::Duration;

use crate::message::{Message, Severity};

/// The most messages of a kind that are kept; the oldest are dropped.
const MAX_MESSAGES: usize = 16;

/// A warning that has not been logged after this time, as another thread keeps the interpreter or a lock of the log, is
/// written without it.
const LOG_TIMEOUT: Duration = Duration::from_secs(5);

/// All messages that wait.
#[derive(Debug, Default)]
pub struct Messages {
    /// To be logged by the reader's thread.
    waiting: Vec<Message>,
    /// Warnings among them, and those that the thread is logging, since when.
    late: Option<(Duration, Vec<Message>)>,
    /// To be logged by a thread of the program.
    unlogged: Vec<Message>,
}

impl Messages {
    /// Adds messages for the reader's thread. Warnings among them are [late](Self::take_late) some time after `now`.
    pub fn add(&mut self, messages: Vec<Message>, now: Duration) {
        let is_warning = |message: &&Message| message.severity >= Severity::Warning;
        let warnings: Vec<_> = messages.iter().filter(is_warning).cloned().collect();
        if !warnings.is_empty() {
            keep(&mut self.late.get_or_insert_with(|| (now, Vec::new())).1, warnings);
        }
        keep(&mut self.waiting, messages);
    }

    /// Adds a message for the reader's thread that is never late.
    pub fn add_patient(&mut self, message: Message) {
        keep(&mut self.waiting, vec![message]);
    }

    /// Adds messages for a thread of the program.
    pub fn add_for_program(&mut self, messages: Vec<Message>) {
        keep(&mut self.unlogged, messages);
    }

    /// Whether the reader's thread has messages to log.
    #[must_use]
    pub fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What the reader's thread has to log.
    #[must_use]
    pub fn take_waiting(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.waiting)
    }

    /// The reader's thread has logged what it took, except `left`.
    pub fn end_logging(&mut self, left: Vec<Message>) {
        if self.waiting.is_empty() {
            self.late = None;
        }
        keep(&mut self.unlogged, left);
    }

    /// The warnings that have been waiting for too long, once.
    #[must_use]
    pub fn take_late(&mut self, now: Duration) -> Option<Vec<Message>> {
        let late = self.late.take_if(|(since, _)| now.saturating_sub(*since) >= LOG_TIMEOUT);
        late.map(|(_, warnings)| warnings)
    }

    /// What a thread of the program has to log.
    #[must_use]
    pub fn take_for_program(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.unlogged)
    }

    /// The same with what waits for the reader's thread, which has been halted; if `is_logging`, it may never end what
    /// it is logging.
    #[must_use]
    pub fn take_all(&mut self, is_logging: bool) -> Vec<Message> {
        let mut all = self.take_for_program();
        let waiting = self.take_waiting();
        let late = self.late.take().map(|(_, warnings)| warnings).unwrap_or_default();
        if is_logging {
            all.extend(late.into_iter().filter(|warning| !waiting.contains(warning)));
        }
        all.extend(waiting);
        all
    }
}

/// Adds messages, except one that repeats the last, and drops the oldest where there are too many.
fn keep(kept: &mut Vec<Message>, messages: Vec<Message>) {
    for message in messages {
        if kept.last() != Some(&message) {
            kept.push(message);
        }
    }
    let excess = kept.len().saturating_sub(MAX_MESSAGES);
    kept.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(numbers: std::ops::Range<usize>) -> Vec<Message> {
        numbers.map(|number| Message::warning(number.to_string())).collect()
    }

    #[test]
    fn the_oldest_of_too_many_is_dropped() {
        let mut messages = Messages::default();
        messages.add_for_program(numbered(0..MAX_MESSAGES + 2));
        assert_eq!(messages.take_for_program(), numbered(2..MAX_MESSAGES + 2));
        assert_eq!(messages.take_for_program(), []);
    }

    #[test]
    fn a_message_that_repeats_the_last_is_kept_once() {
        let mut messages = Messages::default();
        for _ in 0..3 {
            messages.add(numbered(0..1), Duration::ZERO);
        }
        assert_eq!(messages.take_waiting(), numbered(0..1));
    }

    #[test]
    fn warnings_alone_are_late_and_only_once() {
        let mut messages = Messages::default();
        let debug = Message::new(Severity::Debug, "unimportant".to_owned());
        messages.add(vec![Message::warning("0"), debug], Duration::from_secs(1));
        messages.add_patient(Message::warning("patient"));
        assert_eq!(messages.take_late(LOG_TIMEOUT), None);
        assert_eq!(messages.take_late(LOG_TIMEOUT + Duration::from_secs(1)), Some(numbered(0..1)));
        assert_eq!(messages.take_late(2 * LOG_TIMEOUT), None);
    }

    #[test]
    fn what_was_logged_is_not_late() {
        let mut messages = Messages::default();
        messages.add(numbered(0..2), Duration::ZERO);
        drop(messages.take_waiting());
        messages.end_logging(numbered(1..2));
        assert_eq!(messages.take_late(LOG_TIMEOUT), None);
        assert_eq!(messages.take_all(false), numbered(1..2));
    }

    #[test]
    fn what_a_halted_thread_is_logging_is_left_to_the_program_once() {
        for (is_logging, expected) in [(false, 1..2), (true, 0..2)] {
            let mut messages = Messages::default();
            messages.add(numbered(0..1), Duration::ZERO);
            drop(messages.take_waiting());
            messages.add(numbered(1..2), Duration::ZERO);
            assert_eq!(messages.take_all(is_logging), numbered(expected));
        }
    }
}
