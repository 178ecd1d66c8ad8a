//! Whole sessions over TCP: clients that speak HTTP and SPDY, and processes that are real.

mod client;
mod exec;
mod forward;
mod local;
mod requests;
mod vanish;

use super::*;
use crate::ticket::{Attach, Exec, Forward, Streams};
use local::Local;
use std::net::SocketAddr;
use tokio::{sync::oneshot, task::JoinHandle};

const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
const ALL: Streams = Streams { stdin: true, ..OUTPUT };
const TERMINAL: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

/// A server with its backend.
struct Rig {
    address: SocketAddr,
    tokens: Arc<Tokens>,
    local: Local,
    count: Count,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Rig {
    async fn new() -> Rig {
        Rig::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Rig {
        Rig::tls(settings, None).await
    }

    async fn tls(settings: Settings, tls: Option<Arc<rustls::ServerConfig>>) -> Rig {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (tokens, local, count) = (Arc::<Tokens>::default(), Local::default(), Count::default());
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let (given, backend, counting) = (Arc::clone(&tokens), local.clone(), count.clone());
        let serving = serve(listener, tls, given, backend, settings, counting, stopped);
        Rig { address, tokens, local, count, stop: Some(stop), served: tokio::spawn(serving) }
    }

    /// The path of a session.
    fn grant(&self, ticket: Ticket) -> String {
        let kind = ticket.kind().path();
        format!("/{kind}/{}", self.tokens.grant(ticket).expect("room"))
    }

    fn exec(&self, streams: Streams, script: &str) -> String {
        self.grant(Ticket::Exec(Exec {
            shim: "/shim".into(),
            bundle: "/bundle".into(),
            container: "c".to_owned(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            streams,
        }))
    }

    fn attach(&self, streams: Streams) -> String {
        self.grant(Ticket::Attach(Attach { shim: "/shim".into(), container: "c".to_owned(), streams }))
    }

    fn forward(&self) -> String {
        self.grant(Ticket::Forward(Forward { netns: None, ports: Vec::new() }))
    }

    /// Waits until no session and no process is left.
    async fn is_quiet(&self) {
        while self.count.now() > 0 || self.local.alive() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
}
