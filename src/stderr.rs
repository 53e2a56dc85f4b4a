//! Standard error, for a message that cannot be logged: a line at a time, without a wait, and only while descriptor 2
//! is the standard error of the process. A program may have closed it, and what it opened next has its number.

#[cfg(unix)]
use crate::descriptor::FileId;
use crate::message::Message;

/// What a pipe takes as a whole, so that a line does not mix with other output.
const MAX_LINE: usize = 4096;

/// The standard error of this process.
#[derive(Debug)]
pub struct StandardError {
    /// What it was at the start; `None` if there was none.
    #[cfg(unix)]
    file: Option<FileId>,
    #[cfg(not(unix))]
    exists: bool,
}

impl StandardError {
    /// What descriptor 2 is now, if the process began with a standard error.
    #[must_use]
    pub fn at_start(exists: bool) -> Self {
        #[cfg(unix)]
        let stderr = std::io::stderr();
        Self {
            #[cfg(unix)]
            file: exists.then(|| FileId::of(&stderr).ok()).flatten(),
            #[cfg(not(unix))]
            exists,
        }
    }

    /// Writes the message in a line of its own; whether that was possible at once.
    #[cfg(unix)]
    #[must_use]
    pub fn write(&self, message: &Message) -> bool {
        let stderr = std::io::stderr();
        // Not by Rust's own stream: its lock may be held in the parent of a forked child.
        self.is_it(&stderr) && takes_a_line(&stderr) && nix::unistd::write(&stderr, &line(message)).is_ok()
    }

    /// Writes the message in a line of its own; whether that was possible.
    #[cfg(not(unix))]
    #[must_use]
    pub fn write(&self, message: &Message) -> bool {
        use std::io::Write;
        self.exists && std::io::stderr().write_all(&line(message)).is_ok()
    }

    /// Whether this descriptor is the standard error, as it was at the start or redirected since.
    ///
    /// A standard error is inherited, or made by `dup2()`: neither closes it on `exec`. Python and most libraries open
    /// files so that they are closed then.
    #[cfg(unix)]
    fn is_it(&self, stderr: impl std::os::fd::AsFd + Copy) -> bool {
        use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
        let has = |get, bits| fcntl(stderr, get).is_ok_and(|flags| flags & bits != 0);
        let Some(file) = self.file else { return false };
        !has(FcntlArg::F_GETFD, FdFlag::FD_CLOEXEC.bits())
            // A server that redirects it later does so to a log.
            && (FileId::of(&stderr).is_ok_and(|now| now == file) || has(FcntlArg::F_GETFL, OFlag::O_APPEND.bits()))
    }
}

/// Whether a write of a line would neither block nor fail.
#[cfg(unix)]
fn takes_a_line(stderr: impl std::os::fd::AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    // With an error as well, the other end is closed, and a write could end the program by SIGPIPE.
    poll(&mut polled, PollTimeout::ZERO).is_ok() && polled[0].revents() == Some(PollFlags::POLLOUT)
}

/// The message as one line, whatever is in its text.
fn line(message: &Message) -> Vec<u8> {
    let mut line = String::new();
    for character in message.named().chars() {
        if line.len() + character.len_utf8() >= MAX_LINE {
            break;
        }
        line.push(if character.is_control() { ' ' } else { character });
    }
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_that_a_pipe_takes_as_a_whole() {
        let shown = |text: &str| String::from_utf8(line(&Message::warning(text))).unwrap();
        let name = format!("runtime-metrics[{}]: ", std::process::id());
        assert_eq!(shown("two\nlines\u{7}"), format!("{name}two lines \n"));
        let long = shown(&"é".repeat(MAX_LINE));
        assert!(long.len() <= MAX_LINE && long.ends_with("é\n"), "{}", long.len());
    }
}
