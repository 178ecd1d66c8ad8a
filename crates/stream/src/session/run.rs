//! The session engine: copies until the process and its output have ended, or the client is gone.

use super::{Activity, Buffer, Channel, Client, Life, Outlet, Size, Want};
use crate::{
    backend::{Backend, Control, Process},
    status::Outcome,
};
use bytes::Bytes;
use std::{future::pending, io, time::Duration};
use tokio::{
    net::unix::pipe::{Receiver, Sender},
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

/// Bytes that are still read after a process's end: more than any pipe holds, so all of its own; a
/// child that it left behind and that writes for ever is not followed any longer.
const LEFTOVERS: usize = 8 << 20;
/// How long a client that did nothing for hours, or is cut, may take to be told so.
const CUT: Duration = Duration::from_secs(5);

/// Starts what the client wants and stays with it to its end: the client's streams must all be there.
pub(crate) async fn serve<B: Backend, C: Client>(
    backend: &B,
    want: &Want,
    client: C,
    outlet: Outlet,
    life: &Life,
) {
    let (process, doing) = match want {
        Want::Exec(exec) => (backend.exec(exec).await, "executing command in"),
        Want::Attach(attach) => (backend.attach(attach).await, "attaching to"),
    };
    match process {
        Ok(process) => run(client, outlet, process, life, want.streams().tty).await,
        Err(error) => {
            let outcome = Outcome::Failed(format!("error {doing} container: {error}"));
            let Outlet { mut size, activity, .. } = outlet;
            tell(&client, &outcome, &mut size, activity.idle(life.settings.idle)).await;
        }
    }
}

/// Copies between a client and a process until that has ended and its output is delivered. If the client
/// goes first, the process's streams are dropped, and that is all.
async fn run<C: Client>(client: C, outlet: Outlet, process: Process, life: &Life, terminal: bool) {
    let Outlet { mut input, mut size, activity } = outlet;
    let Process { stdin, stdout, stderr, control } = process;
    let (ended, is_ended) = watch::channel(false);
    let (hurry, mut hurried) = watch::channel(None);
    let taken = Activity::default();
    let output =
        |channel, pipe| copy(&client, channel, pipe, Patience::new(&is_ended, life), [&activity, &taken]);
    let work = async {
        let end = async {
            let outcome = Outcome::of(control.wait().await);
            if terminal || matches!(outcome, Outcome::Failed(_)) {
                hurry.send_replace(Some(outcome.clone()));
            }
            ended.send_replace(true);
            Ok(outcome)
        };
        tokio::try_join!(end, output(Channel::Stdout, stdout), output(Channel::Stderr, stderr))
    };
    let (outcome, is_cut) = tokio::select! {
        done = work => match done {
            Ok((outcome, (), ())) => (outcome, false),
            Err(error) => return tracing::debug!(%error, "the client of a session does not read any more"),
        },
        () = resize(&mut size, &*control) => return tracing::debug!("the client of a session is gone"),
        () = feed(&mut input, stdin, &*control, &activity) => return,
        () = activity.idle(life.settings.idle) => {
            let text = format!("nothing was sent or received for {:?}: the session is closed", life.settings.idle);
            (Outcome::Failed(text), true)
        }
        outcome = unheard(&mut hurried, &taken, life.settings.unheard) => (outcome, true),
        () = life.stopped() => {
            (Outcome::Failed("the stream server ends: the session is cut".to_owned()), true)
        }
    };
    drop(input);
    if is_cut {
        tell(&client, &outcome, &mut size, sleep(CUT)).await;
    } else if hurry.borrow().is_some() {
        tell(&client, &outcome, &mut size, sleep(life.settings.unheard)).await;
    } else {
        tell(&client, &outcome, &mut size, activity.idle(life.settings.idle)).await;
    }
}

/// Returns the outcome of a session in a hurry when its client has taken nothing for so long.
async fn unheard(
    hurried: &mut watch::Receiver<Option<Outcome>>,
    taken: &Activity,
    time: Duration,
) -> Outcome {
    let outcome = hurried.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    match outcome {
        Some(outcome) => {
            taken.idle(time).await;
            outcome
        }
        None => pending().await,
    }
}

/// Says the last word, unless the client goes or the time is over.
async fn tell<C: Client>(
    client: &C,
    outcome: &Outcome,
    size: &mut watch::Receiver<Option<Size>>,
    patience: impl Future<Output = ()>,
) {
    tokio::select! {
        () = client.finish(outcome) => {}
        () = Outlet::gone(size) => {}
        () = patience => {}
    }
}

/// Hands the newest size to the terminal; returns when the client is gone.
async fn resize(size: &mut watch::Receiver<Option<Size>>, control: &dyn Control) {
    while size.changed().await.is_ok() {
        let newest = *size.borrow_and_update();
        if let Some(newest) = newest {
            control.resize(newest).await;
        }
    }
}

/// Writes input to the process, as fast as that reads; never returns. What comes after the process has
/// closed its input is dropped, so that the client is not held up.
async fn feed(
    input: &mut mpsc::Receiver<Option<Bytes>>,
    mut stdin: Option<Sender>,
    control: &dyn Control,
    activity: &Activity,
) {
    while let Some(piece) = input.recv().await {
        match (piece, &stdin) {
            (Some(bytes), Some(pipe)) => {
                if let Err(error) = write_all(pipe, &bytes, activity).await {
                    tracing::debug!(%error, "a process does not read its input any more");
                    stdin = None;
                }
            }
            (Some(_), None) => {}
            (None, _) => {
                drop(stdin.take());
                control.input_ended().await;
                break;
            }
        }
    }
    // What still comes is a mistake of the client; it is not left waiting.
    while input.recv().await.is_some() {}
    pending().await
}

async fn write_all(pipe: &Sender, mut bytes: &[u8], activity: &Activity) -> io::Result<()> {
    while !bytes.is_empty() {
        pipe.writable().await?;
        match pipe.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        activity.touch();
    }
    Ok(())
}

/// Copies one output to its end; an error is the client's. What the client takes is counted.
async fn copy<C: Client>(
    client: &C,
    channel: Channel,
    pipe: Option<Receiver>,
    mut patience: Patience,
    counts: [&Activity; 2],
) -> io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    loop {
        tokio::select! {
            biased;
            ready = pipe.readable() => if ready.is_err() { break },
            () = patience.over() => break,
        }
        patience.pause();
        let mut buffer = Buffer::take();
        match pipe.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                client.write(channel, &buffer[..n]).await?;
                counts.into_iter().for_each(Activity::touch);
                if patience.is_spent_by(n) {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, ?channel, "a process's output cannot be read");
                break;
            }
        }
    }
    drop(pipe);
    client.close(channel).await;
    Ok(())
}

/// How long output is waited for after the process's end: until its end of file, or until nothing came
/// for [`Settings::drain`](crate::Settings) in all, or [`LEFTOVERS`] came. Only waiting counts: a slow
/// client gets everything.
struct Patience {
    ended: watch::Receiver<bool>,
    left: Duration,
    since: Option<Instant>,
    bytes: usize,
}

impl Patience {
    fn new(ended: &watch::Receiver<bool>, life: &Life) -> Patience {
        Patience { ended: ended.clone(), left: life.settings.drain, since: None, bytes: LEFTOVERS }
    }

    /// Waits until there is none left.
    async fn over(&mut self) {
        if self.ended.wait_for(|ended| *ended).await.is_err() {
            // Nobody will tell the end any more: the session is being dropped.
            return pending().await;
        }
        self.since = Some(Instant::now());
        sleep(self.left).await;
    }

    /// Something came.
    fn pause(&mut self) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }

    /// Whether so many bytes more were the last.
    fn is_spent_by(&mut self, bytes: usize) -> bool {
        if *self.ended.borrow() {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        self.bytes == 0
    }
}
