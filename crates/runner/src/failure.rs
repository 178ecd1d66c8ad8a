//! What went wrong in the child, and its way through the channel to the parent.

use crate::HookError;
use sys::rustix::io::Errno;

/// The longest text in one message; a longer one is cut.
const MOST_TEXT: usize = 2048;

/// A step of the child that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The step with its object: `mount /proc: open the target`.
    pub(crate) step: String,
    /// Why.
    pub(crate) errno: Errno,
}

/// Names the step of a system call that failed.
pub(crate) trait Step<T> {
    /// With a fixed text.
    fn step(self, step: &'static str) -> Result<T, Failure>;
    /// With a text that is only made when it is needed.
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure { step: step.to_owned(), errno })
    }
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|errno| Failure { step: step(), errno })
    }
}

/// Everything that travels on the channel; the first byte is the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Child to parent: set up, waits for [`Message::Start`]. With a terminal its descriptor comes along.
    Ready,
    /// Parent to child: exec now.
    Start,
    /// Child to parent: a step failed, the child ends.
    Failed(Failure),
    /// Child to parent: all is mounted; the hooks of the host may run.
    Made,
    /// Parent to child: go on.
    GoOn,
    /// Child to parent: a hook failed, the child ends.
    HookFailed(String),
    /// Child to parent: the program could not be found or executed, the child ends.
    NotExecuted(Failure),
    /// A child that prepared things for another to its parent: that one was born, as the parent's child too, with
    /// this number. Its pidfd comes along.
    Born(u32),
}

/// Room for every message.
pub(crate) const MOST_BYTES: usize = MOST_TEXT + 8;

impl From<Failure> for Message {
    fn from(failure: Failure) -> Self {
        Message::Failed(failure)
    }
}

impl From<HookError> for Message {
    fn from(HookError(what): HookError) -> Self {
        Message::HookFailed(what)
    }
}

impl Message {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (kind, errno, text) = match self {
            Message::Ready => (1, None, ""),
            Message::Start => (2, None, ""),
            Message::Failed(failure) => (3, Some(failure.errno), failure.step.as_str()),
            Message::NotExecuted(failure) => (4, Some(failure.errno), failure.step.as_str()),
            Message::Made => (5, None, ""),
            Message::GoOn => (6, None, ""),
            Message::HookFailed(what) => (7, None, what.as_str()),
            Message::Born(_) => (8, None, ""),
        };
        let mut bytes = vec![kind];
        if let Message::Born(pid) = self {
            bytes.extend(pid.to_ne_bytes());
        }
        bytes.extend(errno.into_iter().flat_map(|errno| errno.raw_os_error().to_ne_bytes()));
        bytes.extend(&text.as_bytes()[..text.floor_char_boundary(MOST_TEXT)]);
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let failure = || {
            let (errno, text) = rest.split_first_chunk::<4>()?;
            let errno = Errno::from_raw_os_error(i32::from_ne_bytes(*errno));
            Some(Failure { step: String::from_utf8_lossy(text).into_owned(), errno })
        };
        match kind {
            1 => Some(Message::Ready),
            2 => Some(Message::Start),
            3 => failure().map(Message::Failed),
            4 => failure().map(Message::NotExecuted),
            5 => Some(Message::Made),
            6 => Some(Message::GoOn),
            7 => Some(Message::HookFailed(String::from_utf8_lossy(rest).into_owned())),
            8 => rest.try_into().ok().map(u32::from_ne_bytes).map(Message::Born),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_arrives_as_it_was_sent_and_a_long_text_is_cut_at_a_character() {
        let failure = Failure { step: "mount /ä".to_owned(), errno: Errno::NOTDIR };
        for sent in [
            Message::Ready,
            Message::Start,
            Message::Failed(failure.clone()),
            Message::NotExecuted(failure),
            Message::Made,
            Message::GoOn,
            Message::HookFailed("hooks.prestart[0] /ä: exit status: 1".to_owned()),
            Message::Born(7),
        ] {
            assert_eq!(Message::parse(&sent.to_bytes()), Some(sent));
        }
        let long = Message::Failed(Failure { step: "ä".repeat(5000), errno: Errno::IO }).to_bytes();
        assert!(long.len() <= MOST_BYTES);
        assert!(
            matches!(Message::parse(&long), Some(Message::Failed(f)) if f.step.chars().all(|c| c == 'ä'))
        );
        for bad in [&b""[..], &[9], &[3, 1, 2], &[8, 1]] {
            assert_eq!(Message::parse(bad), None);
        }
    }
}
