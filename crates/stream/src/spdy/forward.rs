//! Port-forward over SPDY: for each connection the client opens a pair of streams, `data` and `error`, with
//! the headers `port` and `requestID` (k8s.io/cri-streaming:pkg/streaming/portforward/httpstream.go).

use super::{
    connection::{Role, Stream, connection},
    frame::Status,
};
use crate::{
    backend::Backend,
    forward::{self, End},
    session::{Activity, Life},
    ticket::Forward,
};
use std::{collections::HashMap, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// How long is read on after the goodbye, so that it is not lost.
const LINGER: Duration = Duration::from_secs(1);
/// How long the connections of a session that is cut may take to tell their clients.
const CUT: Duration = Duration::from_secs(3);

/// Serves one client of port-forward, to the end of its connection.
pub(crate) async fn forward<IO, B>(io: IO, forward: Forward, backend: B, life: Life)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Backend,
{
    let activity = Activity::default();
    // Streams of connections, of those that wait for their other half, and of those to be told no.
    let most = life.settings.forwards.saturating_mul(2).saturating_add(16);
    let (connection, reader, accepted) = connection(io, Role::Server, most, activity.clone());
    let mut reading = pin!(reader.run());
    let pairs = Pairs {
        forward: std::sync::Arc::new(forward),
        backend,
        life: life.clone(),
        activity: activity.clone(),
        halves: HashMap::new(),
        running: JoinSet::new(),
    };
    tokio::select! {
        ended = &mut reading => {
            if let Err(error) = ended {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "a client's connection ended");
            }
            return;
        }
        () = pairs.run(accepted) => {}
        () = activity.idle(life.settings.idle) => tracing::debug!("a port-forward was idle for too long"),
    }
    let goodbye = async {
        connection.goodbye().await;
        // What it says decides nothing any more.
        let _ = reading.await;
    };
    let _ = timeout(LINGER, goodbye).await;
}

/// One of the two streams of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Data,
    Error,
}

fn half(stream: &Stream) -> Option<Half> {
    match stream.headers.get("streamtype")? {
        "data" => Some(Half::Data),
        "error" => Some(Half::Error),
        _ => None,
    }
}

/// What both streams of a connection have in common. Clients from before `requestID` open the error
/// stream first, and the data stream next.
fn request(stream: &Stream, half: Half) -> String {
    match (stream.headers.get("requestid"), half) {
        (Some(id), _) if !id.is_empty() => id.to_owned(),
        (_, Half::Error) => stream.input.id().to_string(),
        (_, Half::Data) => i64::from(stream.input.id()).saturating_sub(2).to_string(),
    }
}

/// The port that a stream is for, or what is wrong with it.
fn port(stream: &Stream) -> Result<u16, String> {
    let text = stream.headers.get("port").unwrap_or_default();
    match text.parse::<u16>() {
        // Go's parser takes digits alone.
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        Ok(_) | Err(_) => Err(format!("the header \"port\" is {text:?}: a port is a number from 1 to 65535")),
    }
}

struct Pairs<B> {
    forward: std::sync::Arc<Forward>,
    backend: B,
    life: Life,
    activity: Activity,
    /// Streams that wait for their other half, and until when.
    halves: HashMap<String, (Half, Stream, Instant)>,
    running: JoinSet<()>,
}

impl<B: Backend> Pairs<B> {
    /// Takes streams until there will be no more, or the server ends.
    async fn run(mut self, mut accepted: mpsc::Receiver<Stream>) {
        loop {
            let next = self.halves.values().map(|(_, _, until)| *until).min();
            let expiry = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                stream = accepted.recv() => match stream {
                    Some(stream) => self.take(stream).await,
                    None => return,
                },
                // One that failed by a panic has closed its streams all the same.
                Some(_) = self.running.join_next() => {}
                () = expiry => self.expire().await,
                () = self.life.stopped() => break,
            }
        }
        // Each tells its own client; one that does not read is left.
        let _ = timeout(CUT, async { while self.running.join_next().await.is_some() {} }).await;
    }

    async fn take(&mut self, stream: Stream) {
        let Some(half) = half(&stream) else {
            tracing::debug!(headers = ?stream.headers, "a client opens a stream that is not expected");
            return stream.output.reset(Status::Protocol).await;
        };
        // If that fails, so will the reader.
        let _ = stream.output.reply().await;
        let request = request(&stream, half);
        match self.halves.remove(&request) {
            Some((other, first, until)) if other == half => {
                let text = format!(
                    "error processing stream for request {request}: there already is one of that type"
                );
                match half {
                    Half::Error => refuse(&stream, None, &text).await,
                    Half::Data => stream.output.reset(Status::Protocol).await,
                }
                self.halves.insert(request, (other, first, until));
            }
            Some((_, first, _)) => match half {
                Half::Data => self.pair(stream, first).await,
                Half::Error => self.pair(first, stream).await,
            },
            None if self.halves.len() >= self.life.settings.forwards => match half {
                Half::Error => refuse(&stream, None, &self.too_many()).await,
                Half::Data => stream.output.reset(Status::Refused).await,
            },
            None => {
                let until = Instant::now() + self.life.settings.creation;
                self.halves.insert(request, (half, stream, until));
            }
        }
    }

    fn too_many(&self) -> String {
        format!("there are {} connections already: close one", self.life.settings.forwards)
    }

    async fn pair(&mut self, data: Stream, error: Stream) {
        let port = match port(&data).and_then(|one| port(&error).map(|other| (one, other))) {
            Ok((one, other)) if one == other => one,
            Ok((one, other)) => {
                let text = format!("the data stream is for port {one} and the error stream for port {other}");
                return refuse(&error, Some(&data), &text).await;
            }
            Err(text) => return refuse(&error, Some(&data), &text).await,
        };
        if self.running.len() >= self.life.settings.forwards {
            return refuse(&error, Some(&data), &self.too_many()).await;
        }
        let (forward, backend, life) = (self.forward.clone(), self.backend.clone(), self.life.clone());
        let activity = self.activity.clone();
        self.running
            .spawn(async move { connect(data, error, port, &forward, &backend, &activity, &life).await });
    }

    async fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<String> = self
            .halves
            .iter()
            .filter(|(_, (_, _, until))| *until <= now)
            .map(|(request, _)| request.clone())
            .collect();
        for request in late {
            match self.halves.remove(&request) {
                Some((Half::Error, stream, _)) => {
                    refuse(&stream, None, &format!("request {request} timed out waiting for streams")).await;
                }
                Some((Half::Data, stream, _)) => stream.output.reset(Status::Cancel).await,
                None => {}
            }
        }
    }
}

/// Says why there is no connection, and ends its streams.
async fn refuse(error: &Stream, data: Option<&Stream>, text: &str) {
    // Who is gone needs no answer.
    let _ = error.output.write(text.as_bytes()).await;
    error.output.close().await;
    if let Some(data) = data {
        data.output.reset(Status::Cancel).await;
    }
}

/// One connection, from the dial to its end.
async fn connect<B: Backend>(
    mut data: Stream,
    error: Stream,
    port: u16,
    to: &Forward,
    backend: &B,
    activity: &Activity,
    life: &Life,
) {
    let connection = match forward::dial(backend, to, port).await {
        Ok(connection) => connection,
        Err(text) => return refuse(&error, Some(&data), &text).await,
    };
    match forward::copy(&data.output, &mut data.input.pieces, connection, activity, life).await {
        End::Closed => error.output.close().await,
        // The client waits for the end of the error stream, whatever it does to the other.
        End::Gone => {
            data.output.reset(Status::Cancel).await;
            error.output.close().await;
        }
        End::Broken(cause) => {
            tracing::debug!(error = %cause, port, "a forwarded connection broke");
            data.output.reset(Status::Cancel).await;
            error.output.close().await;
        }
        End::Idle => {
            let text = format!(
                "nothing was sent or received for {:?}: the connection is closed",
                life.settings.idle
            );
            refuse(&error, Some(&data), &text).await;
        }
        End::Cut => refuse(&error, Some(&data), "the stream server ends: the connection is cut").await,
    }
}
