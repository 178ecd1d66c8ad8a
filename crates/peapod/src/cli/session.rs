//! A person at a session: keys go in, output comes out, the window's size follows, and the exit code is
//! that of the process.

use super::{
    output::{self, complain},
    terminal::{self, Leave, Raw},
};
use anyhow::Context as _;
use std::io::Write as _;
use stream::{
    Size,
    client::{Authorities, Input, Outcome, Output, Remote, Said, remote},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a session passes on, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Standard input.
    pub(crate) stdin: bool,
    /// There is a terminal on the other side.
    pub(crate) tty: bool,
    /// Ctrl-P Ctrl-Q leaves.
    pub(crate) may_leave: bool,
}

/// The session at that URL, to its end; gives the exit code.
pub(crate) async fn hold(url: &str, manner: Manner) -> anyhow::Result<u8> {
    let session = remote(url, &Authorities::System).await?;
    // From here on keys are the process's, if there is a terminal on both sides.
    let raw = (manner.tty && manner.stdin && terminal::has_input()).then(Raw::take).transpose();
    let raw = raw.context("the terminal cannot be used for a session")?;
    let Remote { input, output } = session;
    let window = manner.tty.then(|| signal(SignalKind::window_change())).transpose();
    let window = window.context("SIGWINCH cannot be handled")?;
    let ends = raw.as_ref().map(|_| Ends::watch()).transpose().context("signals cannot be handled")?;
    let outcome = tokio::select! {
        // Output first: what was said is shown before the end is.
        biased;
        outcome = show(output) => outcome?,
        () = follow(&input, window) => Outcome::Exit(0),
        left = feed(&input, manner) => { left?; Outcome::Exit(0) }
        code = Ends::one(ends) => Outcome::Exit(code)
    };
    drop(raw);
    match outcome {
        Outcome::Exit(code) => Ok(code),
        Outcome::Failed(text) | Outcome::Lost(text) => Err(anyhow::anyhow!(text)),
    }
}

/// Signals that end this program, when the terminal is to be given back first.
struct Ends {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    fn watch() -> std::io::Result<Ends> {
        Ok(Ends {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one; gives the exit code that a shell shows for it.
    async fn one(ends: Option<Ends>) -> u8 {
        let Some(Ends { mut hangup, mut interrupt, mut terminate }) = ends else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = hangup.recv() => 128 + 1,
            _ = interrupt.recv() => 128 + 2,
            _ = terminate.recv() => 128 + 15,
        }
    }
}

/// Shows what comes, to the end.
async fn show(mut session: Output) -> anyhow::Result<Outcome> {
    loop {
        match session.next().await {
            Said::Stdout(bytes) => output::write(&bytes)?,
            Said::Stderr(bytes) => {
                // Nobody can be told of a broken standard error.
                let mut err = std::io::stderr().lock();
                let _ = err.write_all(&bytes).and_then(|()| err.flush());
            }
            Said::End(outcome) => return Ok(outcome),
        }
    }
}

/// Tells the window's size now and whenever it changes; never returns.
async fn follow(input: &Input, window: Option<Signal>) {
    if let Some(mut window) = window {
        loop {
            if let Some((width, height)) = terminal::size()
                && input.resize(Size { width, height }).await.is_err()
            {
                break;
            }
            if window.recv().await.is_none() {
                break;
            }
        }
    }
    // That the session is over is told by its output.
    std::future::pending().await
}

/// Passes input on; returns when the person leaves.
async fn feed(input: &Input, manner: Manner) -> anyhow::Result<()> {
    if manner.stdin {
        let mut pieces = terminal::input().context("standard input cannot be read")?;
        let mut leave = Leave::default();
        while let Some(piece) = pieces.recv().await {
            let (keys, leaves) = match manner.may_leave {
                true => leave.filter(&piece),
                false => (piece, false),
            };
            if input.write(&keys).await.is_err() {
                break;
            }
            if leaves {
                complain("\r\npeapod: left; the container goes on");
                return Ok(());
            }
        }
        // With an error the session is over, which its output tells.
        let _ = input.end().await;
    }
    std::future::pending().await
}
