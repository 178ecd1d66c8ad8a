//! The daemon's side: starts the child, feeds it, takes its report, and finishes the directory.

use super::report::{MAX_REPORT, Report, Unpacked, text_to_path};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    process::{Child, Command, Stdio},
};
use sys::{
    root::RootFd,
    rustix::{
        fd::{AsRawFd as _, OwnedFd},
        fs::{self, OFlags, XattrFlags},
        io::Errno,
        pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::{Receiver, Sender},
};
use types::Digest;

/// Enough for the daemon to hash and receive while the child writes.
const PIPE_BYTES: usize = 1 << 20;

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The child could not be started or talked to.
    #[error("cannot run the unpacking of a layer")]
    Run(#[source] io::Error),
    /// It ended without a report.
    #[error("the unpacking of a layer ended without a word ({0})")]
    Died(String),
    /// The layer is refused.
    #[error("the layer cannot be unpacked: {0}")]
    Refused(String),
    /// It is not what the image's configuration promises.
    #[error("the layer's content is {found}, the image promises {wanted}")]
    OtherContent {
        /// What the image's configuration says.
        wanted: Digest,
        /// What was found.
        found: String,
    },
    /// The archive's end was found before the blob's.
    #[error("the layer's archive ends before its blob does")]
    Unverified,
    /// Its directory could not be finished.
    #[error("cannot finish the layer's directory")]
    Finish(#[source] Errno),
}

impl UnpackError {
    /// Whether the layer is to blame, and not this host.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::OtherContent { .. } | Self::Unverified)
    }
}

/// How to start the unpacking of a layer: a program that calls [`super::child_main`].
#[derive(Clone, Debug)]
pub struct Unpacker {
    program: OsString,
    args: Vec<OsString>,
}

impl Unpacker {
    /// `peapod unpack-layer`: the running program itself, even when its file was replaced meanwhile.
    #[must_use]
    pub fn this_program() -> Self {
        Self::program("/proc/self/exe", ["unpack-layer"])
    }

    /// Another program, for tests.
    #[must_use]
    pub fn program(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = &'static str>) -> Self {
        Self { program: program.as_ref().to_owned(), args: args.into_iter().map(OsString::from).collect() }
    }

    /// Starts a child for the directory `target`.
    pub(crate) fn start(&self, target: OwnedFd) -> Result<Unpacking, UnpackError> {
        let run = |error: Errno| UnpackError::Run(error.into());
        let (input, feed) = pipe_with(PipeFlags::CLOEXEC).map_err(run)?;
        let (report, output) = pipe_with(PipeFlags::CLOEXEC).map_err(run)?;
        let (watched, life) = pipe_with(PipeFlags::CLOEXEC).map_err(run)?;
        // More than the limit of unprivileged users may be refused: then it keeps its 64 KiB.
        let _ = fcntl_setpipe_size(&feed, PIPE_BYTES);
        for end in [&feed, &report] {
            let flags = fs::fcntl_getfl(end).map_err(run)?;
            fs::fcntl_setfl(end, flags | OFlags::NONBLOCK).map_err(run)?;
        }
        let child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            // Resolved by the child itself: its own descriptor table still has it then.
            .current_dir(format!("/proc/self/fd/{}", target.as_raw_fd()))
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(watched))
            .spawn()
            .map_err(UnpackError::Run)?;
        Ok(Unpacking {
            feed: Some(Sender::from_owned_fd(feed).map_err(UnpackError::Run)?),
            report: Receiver::from_owned_fd(report).map_err(UnpackError::Run)?,
            target: Some(RootFd::from(target)),
            child: Some(Reaped { child: Some(child), life: Some(life) }),
        })
    }
}

/// A child at work. Dropping it ends the child.
#[derive(Debug)]
pub(crate) struct Unpacking {
    feed: Option<Sender>,
    report: Receiver,
    /// Both are there until the unpacking is finished.
    target: Option<RootFd>,
    child: Option<Reaped>,
}

impl Unpacking {
    /// Hands over compressed bytes. False when the child takes no more: its report says why.
    pub(crate) async fn feed(&mut self, bytes: &[u8]) -> Result<bool, UnpackError> {
        let Some(feed) = &mut self.feed else { return Ok(false) };
        match feed.write_all(bytes).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(UnpackError::Run(error)),
        }
    }

    /// Waits until the child has something to report; before the end of its input that is a failure.
    pub(crate) async fn reports(&self) {
        // An error of the pipe itself is found again when the report is read.
        let _ = self.report.readable().await;
    }

    /// Ends the input, waits for the report and finishes the directory: opaque marks, then all data to
    /// the disk. `wanted` is what the image's configuration promises of the content.
    pub(crate) async fn finish(&mut self, wanted: &Digest) -> Result<Unpacked, UnpackError> {
        self.feed = None;
        let mut text = Vec::new();
        (&mut self.report).take(MAX_REPORT).read_to_end(&mut text).await.map_err(UnpackError::Run)?;
        let (child, target) = (self.child.take(), self.target.take());
        let (Some(child), Some(target)) = (child, target) else {
            return Err(UnpackError::Died("it was finished before".to_owned()));
        };
        let wanted = wanted.clone();
        let finishing = tokio::task::spawn_blocking(move || {
            let exit = child.wait();
            let facts = facts(&text, exit, &wanted)?;
            finish_directory(&target, &facts).map_err(UnpackError::Finish)?;
            Ok(facts)
        });
        finishing.await.map_err(|error| UnpackError::Run(io::Error::other(error)))?
    }

    /// Ends the child; call the result, which may block, before the directory is removed: then nothing
    /// writes into it any more.
    pub(crate) fn abort(self) -> impl FnOnce() + Send + 'static {
        let Self { report, mut child, feed, .. } = self;
        drop(feed);
        if let Some(child) = &mut child {
            child.end();
        }
        move || {
            drop(child.map(Reaped::wait));
            if let Ok(report) = report.into_blocking_fd() {
                // Its end is the end of the inner process too; what it says does not matter now.
                let _ = io::copy(&mut std::fs::File::from(report), &mut io::sink());
            }
        }
    }
}

fn facts(text: &[u8], exit: String, wanted: &Digest) -> Result<Unpacked, UnpackError> {
    if text.is_empty() {
        return Err(UnpackError::Died(exit));
    }
    match serde_json::from_slice(text) {
        Ok(Report::Done(facts)) if facts.diff_id.as_ref() == Some(wanted) => Ok(facts),
        Ok(Report::Done(facts)) => Err(UnpackError::OtherContent {
            wanted: wanted.clone(),
            found: facts.diff_id.map_or_else(|| "unknown".to_owned(), String::from),
        }),
        Ok(Report::Failed(why)) => Err(UnpackError::Refused(why)),
        Err(_) => Err(UnpackError::Died(format!("its report is unreadable, {exit}"))),
    }
}

fn finish_directory(target: &RootFd, facts: &Unpacked) -> Result<(), Errno> {
    for text in &facts.opaque {
        let path = text_to_path(text).ok_or(Errno::BADMSG)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = target.resolve(OsStr::from_bytes(&path), flags)?;
        fs::fsetxattr(dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    }
    fs::syncfs(target.resolve(".", OFlags::RDONLY | OFlags::DIRECTORY)?)
}

/// A child process that is never left as a zombie.
#[derive(Debug)]
struct Reaped {
    child: Option<Child>,
    /// While it is open the child goes on.
    life: Option<OwnedFd>,
}

impl Reaped {
    /// Ends the child; it is to be waited for.
    fn end(&mut self) {
        self.life = None;
    }

    fn wait(mut self) -> String {
        match self.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => error.to_string(),
            None => "already reaped".to_owned(),
        }
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
        let Some(mut child) = self.child.take() else { return };
        // A child in the middle of a disk write ends a moment later: not on this thread's time.
        let mut reap = move || drop(child.wait());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(reap)),
            Err(_) => reap(),
        }
    }
}
