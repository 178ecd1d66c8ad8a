//! The stream server: a small process of its own that outlives daemons.
//!
//! A daemon starts it when the first session is asked for, and leaves it behind; the next daemon finds
//! it by its control socket, `<state>/streams/control`. It talks to shims directly and knows no pod
//! beyond the tickets that it is given. After some minutes without a session it ends.

mod backend;
mod dial;
mod server;
mod start;
mod tls;

pub(crate) use start::door;

use crate::{listen, logging};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use server::Server;
use std::{
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use stream::{
    Tokens,
    control::{Answer, Attendant, Identity, attend},
};
use sys::rustix::{fd::OwnedFd, io::fcntl_dupfd_cloexec, net::sockopt::socket_acceptconn};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The hidden command of this process.
pub(crate) const COMMAND: &str = "stream-server";
/// Without a session for so long it ends.
const IDLE: Duration = Duration::from_secs(300);
/// How often it looks whether it is needed.
const LOOK: Duration = Duration::from_secs(10);
/// How long it waits for its predecessor to let go of a fixed port.
const PORT_WITHIN: Duration = Duration::from_secs(3);
/// How long cut sessions may take to tell their clients.
const GOODBYE: Duration = Duration::from_secs(6);

/// What a daemon starts it with. Equal text means that it can be adopted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setup {
    address: SocketAddr,
    tls_cert: PathBuf,
    tls_key: PathBuf,
    idle_timeout: u64,
    log_level: config::LogLevel,
}

/// `<state>/streams` and what is in it.
#[derive(Clone, Debug)]
struct Places {
    dir: PathBuf,
}

impl Places {
    fn of(state: &Path) -> Places {
        Places { dir: state.join("streams") }
    }

    fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    fn fifos(&self) -> PathBuf {
        self.dir.join("fifos")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// The process, with the state directory and its setup as arguments and its control socket, listening,
/// as standard input.
pub(crate) fn main(arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> anyhow::Result<()> {
    // Its own session: no signal of the daemon's terminal comes here.
    let _ = sys::rustix::process::setsid();
    let _ = sys::rustix::thread::set_name(c"peapod-streams");
    sys::rustix::process::umask(sys::rustix::fs::Mode::from_raw_mode(0o077));
    let state: PathBuf = arguments.next().context("the state directory is missing")?.into();
    let setup = arguments.next().and_then(|text| text.into_string().ok()).context("the setup is missing")?;
    let settings: Setup = serde_json::from_str(&setup).context("the setup cannot be read")?;
    logging::start(settings.log_level);
    sys::heap::few_arenas();
    let control = take_control().context("standard input is not a listening socket")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let done = runtime.block_on(run(&Places::of(&state), setup, &settings, control));
    runtime.shutdown_background();
    done
}

fn take_control() -> io::Result<std::os::unix::net::UnixListener> {
    let stdin = io::stdin();
    if !socket_acceptconn(&stdin).unwrap_or(false) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let control: OwnedFd = fcntl_dupfd_cloexec(&stdin, 3)?;
    sys::rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let control = std::os::unix::net::UnixListener::from(control);
    control.set_nonblocking(true)?;
    Ok(control)
}

async fn run(
    places: &Places,
    setup: String,
    settings: &Setup,
    control: std::os::unix::net::UnixListener,
) -> anyhow::Result<()> {
    let control = UnixListener::from_std(control).context("the control socket cannot be served")?;
    let (server, base) = match build(places, settings).await {
        Ok(built) => built,
        Err(error) => {
            refuse(&control, &format!("{error:#}")).await;
            return Err(error);
        }
    };
    let (end, mut ends) = watch::channel(End::No);
    let identity = Identity { version: env!("CARGO_PKG_VERSION").to_owned(), settings: setup, base };
    tracing::info!(address = identity.base, pid = std::process::id(), "sessions are served");
    let desk = Arc::new(Desk { identity, server, end });
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut needed = Needed::new(places.control());
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            accepted = control.accept() => match accepted {
                Ok((stream, _)) => {
                    let desk = Arc::clone(&desk);
                    tokio::spawn(async move {
                        if let Err(error) = attend(stream, &*desk).await {
                            tracing::debug!(%error, "a daemon's question");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "the control socket"),
            },
            _ = look.tick() => if needed.is_over(&desk) { break },
            _ = ends.changed() => break,
            _ = terminate.recv() => break,
        }
    }
    // No daemon comes any more, and no client.
    drop(control);
    desk.server.stop(GOODBYE).await;
    tracing::info!("ended");
    Ok(())
}

async fn build(places: &Places, setup: &Setup) -> anyhow::Result<(Server, String)> {
    let fifos = places.fifos();
    // Names that a predecessor left.
    sys::tree::remove_path(&fifos).with_context(|| format!("cannot empty {}", fifos.display()))?;
    listen::own_dir(&fifos, 0o700)?;
    let (tls, scheme) = match setup.tls_cert.as_os_str().is_empty() {
        true => (None, "http"),
        false => (Some(tls::server(&setup.tls_cert, &setup.tls_key)?), "https"),
    };
    let listener = bind(setup.address).await?;
    let base = format!("{scheme}://{}", listener.local_addr().context("its own address is not known")?);
    let settings =
        stream::Settings { idle: Duration::from_secs(setup.idle_timeout), ..stream::Settings::default() };
    let tokens = Arc::new(Tokens::default());
    let server = Server::start(listener, tls, tokens, backend::Shims::new(fifos), settings);
    Ok((server, base))
}

/// A fixed port may still be a predecessor's, for a moment.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let deadline = tokio::time::Instant::now() + PORT_WITHIN;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("streaming.address: cannot listen on {address}"));
            }
        }
    }
}

/// Tells the daemon that has just started this process why it cannot serve.
async fn refuse(control: &UnixListener, reason: &str) {
    let answer = async {
        let (stream, _) = control.accept().await?;
        stream::control::answer(stream, &Answer::Refused { reason: reason.to_owned() }).await
    };
    if !matches!(tokio::time::timeout(LOOK, answer).await, Ok(Ok(()))) {
        tracing::warn!("no daemon asked why there is no stream server");
    }
}

/// Whether it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    Yes,
}

/// Who answers daemons.
#[derive(Debug)]
struct Desk {
    identity: Identity,
    server: Server,
    end: watch::Sender<End>,
}

impl Attendant for Desk {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn tokens(&self) -> &Tokens {
        self.server.tokens()
    }

    fn end_if_idle(&self) -> bool {
        // In this order: a client that has come has a session before its token is gone.
        let idle = self.server.tokens().close_if_empty() && self.server.sessions() == 0;
        if idle {
            self.end();
        }
        idle
    }

    fn end(&self) {
        self.end.send_replace(End::Yes);
    }
}

/// Whether anybody still wants this server.
#[derive(Debug)]
struct Needed {
    control: PathBuf,
    /// Device and inode of the socket as it was found first.
    own: Option<(u64, u64)>,
    idle_since: Option<std::time::Instant>,
}

impl Needed {
    fn new(control: PathBuf) -> Needed {
        let own = place(&control);
        Needed { control, own, idle_since: None }
    }

    /// Ends what was idle for long, or is idle and can no longer be found.
    fn is_over(&mut self, desk: &Desk) -> bool {
        if desk.server.sessions() > 0 || !desk.server.tokens().is_empty() {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert_with(std::time::Instant::now);
        let unknown = place(&self.control) != self.own;
        sys::heap::trim();
        (unknown || since.elapsed() >= IDLE) && desk.end_if_idle()
    }
}

fn place(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
