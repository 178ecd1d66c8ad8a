//! The parent's end of the channel to a child that sets itself up.

use crate::{
    HookError, RunnerError, StartError,
    failure::{Failure, MOST_BYTES, Message},
    hooks::Hooks,
};
use std::time::Duration;
use sys::{
    clone::Child,
    pidfd,
    rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        fd::{AsFd, OwnedFd},
        io::{Errno, retry_on_intr},
        process::Signal,
    },
    socket,
};

/// A set-up that takes longer hangs in the kernel, on a dead network file system most likely.
const SET_UP_LIMIT: Duration = Duration::from_secs(60);

/// A message with its descriptor, if any.
type Word = (Message, Option<OwnedFd>);

/// Waits until the child is set up; returns its terminal's other end, if it has one. Runs the hooks of the host when
/// the child asks for them. A child that failed, or is too slow, is killed and reaped.
pub(crate) fn await_ready(
    channel: &OwnedFd,
    child: &Child,
    hooks: Option<&Hooks>,
) -> Result<Option<OwnedFd>, RunnerError> {
    settle(channel, child, hooks, None)
}

/// `early`: what the child has said already.
fn settle(
    channel: &OwnedFd,
    child: &Child,
    hooks: Option<&Hooks>,
    early: Option<Word>,
) -> Result<Option<OwnedFd>, RunnerError> {
    let limit = SET_UP_LIMIT + hooks.map_or(Duration::ZERO, Hooks::time_to_create);
    let mut answer = match early {
        Some(word) => Ok(Some(word)),
        None => receive_within(channel, limit),
    };
    if let (Ok(Some((Message::Made, _))), Some(hooks)) = (&answer, hooks) {
        if let Err(error) = hooks.run_of_runtime(child.pid) {
            end(child);
            return Err(error.into());
        }
        answer = socket::send(channel, &Message::GoOn.to_bytes(), &[])
            .and_then(|()| receive_within(channel, limit));
    }
    let error = match answer {
        Ok(Some((Message::Ready, terminal))) => return Ok(terminal),
        Ok(Some((Message::Failed(failure) | Message::NotExecuted(failure), _))) => failure.into(),
        Ok(Some((Message::HookFailed(what), _))) => HookError(what).into(),
        Ok(Some((Message::Start | Message::Made | Message::GoOn | Message::Born(_), _))) => {
            RunnerError::step("read the child's answer")(Errno::PROTO)
        }
        Ok(None) => return Err(died(child)),
        Err(Errno::TIMEDOUT) => RunnerError::TooSlow { seconds: limit.as_secs() },
        Err(errno) => RunnerError::step("read the child's answer")(errno),
    };
    end(child);
    Err(error)
}

/// As [`await_ready`], where the child makes another one that is the container's first process: the one that is
/// returned. The first has ended then, and is reaped.
pub(crate) fn await_inner(
    channel: &OwnedFd,
    outer: &Child,
    hooks: Option<&Hooks>,
) -> Result<(Child, Option<OwnedFd>), RunnerError> {
    // The one inside may say its first word before it is announced.
    let mut early = None;
    let failed = loop {
        match receive_within(channel, SET_UP_LIMIT) {
            Ok(Some((Message::Born(pid), Some(pidfd)))) => match born(pid, pidfd) {
                Some(inner) => {
                    end(outer);
                    let terminal = settle(channel, &inner, hooks, early)?;
                    return Ok((inner, terminal));
                }
                None => break RunnerError::step("read the child's answer")(Errno::PROTO),
            },
            Ok(Some(word)) if early.is_none() => early = Some(word),
            Ok(Some(_)) => break RunnerError::step("read the child's answer")(Errno::PROTO),
            Ok(None) => match early {
                Some((Message::Failed(failure), _)) => break failure.into(),
                Some(_) | None => return Err(died(outer)),
            },
            Err(Errno::TIMEDOUT) => break RunnerError::TooSlow { seconds: SET_UP_LIMIT.as_secs() },
            Err(errno) => break RunnerError::step("read the child's answer")(errno),
        }
    };
    end(outer);
    Err(failed)
}

fn born(pid: u32, pidfd: OwnedFd) -> Option<Child> {
    let pid = i32::try_from(pid).ok().and_then(sys::rustix::process::Pid::from_raw)?;
    Some(Child { pid, pidfd })
}

/// Says "start" and waits for the exec, which closes the other end, or for the reason why there was none.
/// `more`: the time that hooks of the container may take.
pub(crate) fn start(channel: &OwnedFd, program: &str, more: Duration) -> Result<(), StartError> {
    let step = |step: &str, source| StartError::Step { step: step.to_owned(), source };
    match socket::send(channel, &Message::Start.to_bytes(), &[]) {
        Ok(()) => {}
        Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(StartError::NotWaiting),
        Err(errno) => return Err(step("tell the process to start", errno)),
    }
    let error = match receive_within(channel, SET_UP_LIMIT + more) {
        Ok(None) | Err(Errno::CONNRESET) => return Ok(()),
        Ok(Some((Message::NotExecuted(failure), _))) => not_executed(program, failure),
        Ok(Some((Message::Failed(failure), _))) => step(&failure.step, failure.errno),
        Ok(Some((Message::HookFailed(what), _))) => HookError(what).into(),
        Ok(Some((Message::Ready | Message::Start | Message::Made | Message::GoOn | Message::Born(_), _))) => {
            step("read the process' answer", Errno::PROTO)
        }
        Err(errno) => step("read the process' answer", errno),
    };
    Err(error)
}

/// The texts that users of other runtimes know.
fn not_executed(program: &str, Failure { step, errno }: Failure) -> StartError {
    let program = if program.is_empty() { step } else { program.to_owned() };
    match errno {
        Errno::NOENT | Errno::NOTDIR if !program.contains('/') => {
            StartError::NotFound { why: "executable file not found in $PATH".to_owned(), program }
        }
        Errno::NOENT | Errno::NOTDIR => {
            let why = if errno == Errno::NOENT { "no such file or directory" } else { "not a directory" };
            StartError::NotFound { why: format!("stat {program}: {why}"), program }
        }
        Errno::ACCESS | Errno::ISDIR => StartError::NotPermitted { program },
        source => StartError::NotExecuted { program, source },
    }
}

impl From<Failure> for RunnerError {
    fn from(Failure { step, errno }: Failure) -> Self {
        RunnerError::Step { step, source: errno }
    }
}

/// The next message with its descriptor, if any; `None` when the other end is closed.
fn receive_within(channel: &OwnedFd, limit: Duration) -> Result<Option<Word>, Errno> {
    let limit = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut polled = [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
    if retry_on_intr(|| poll(&mut polled, Some(&limit)))? == 0 {
        return Err(Errno::TIMEDOUT);
    }
    let mut bytes = [0; MOST_BYTES];
    let (got, mut fds) = socket::receive(channel, &mut bytes)?;
    if got == 0 {
        return Ok(None);
    }
    let message = Message::parse(&bytes[..got]).ok_or(Errno::PROTO)?;
    Ok(Some((message, fds.pop())))
}

/// The child closed its end without a word.
fn died(child: &Child) -> RunnerError {
    match pidfd::wait(&child.pidfd) {
        Ok(exit) => RunnerError::Died { exit },
        Err(errno) => RunnerError::step("reap the child")(errno),
    }
}

/// Kills and reaps a child that is of no use.
pub(crate) fn end(child: &Child) {
    // The error that led here is what the caller is told; a child that cannot be killed is gone.
    let _ = pidfd::send_signal(&child.pidfd, Signal::KILL);
    let _ = pidfd::wait(&child.pidfd);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_in_the_words_that_users_know() {
        let text =
            |program: &str, errno| not_executed(program, Failure { step: String::new(), errno }).to_string();
        assert_eq!(text("foo", Errno::NOENT), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(text("/a/foo", Errno::NOENT), "exec: \"/a/foo\": stat /a/foo: no such file or directory");
        assert_eq!(text("/a/foo", Errno::ACCESS), "exec: \"/a/foo\": permission denied");
    }

    #[test]
    fn a_closed_channel_before_the_start_is_no_start() {
        let (here, there) = socket::pair().expect("pair");
        drop(there);
        assert!(matches!(start(&here, "x", Duration::ZERO), Err(StartError::NotWaiting)));
    }
}
