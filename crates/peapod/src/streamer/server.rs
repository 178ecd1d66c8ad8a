//! The running server, as the desk sees it.

use super::backend::Shims;
use std::{sync::Arc, time::Duration};
use stream::{Settings, Tokens};
use tokio::{net::TcpListener, sync::watch};

#[derive(Debug)]
pub(super) struct Server {
    tokens: Arc<Tokens>,
    stop: watch::Sender<bool>,
    listener: TcpListener,
}

impl Server {
    pub(super) fn start(
        listener: TcpListener,
        _tls: Option<Arc<rustls::ServerConfig>>,
        tokens: Arc<Tokens>,
        _backend: Shims,
        _settings: Settings,
    ) -> Server {
        Server { tokens, stop: watch::Sender::new(false), listener }
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) fn sessions(&self) -> usize {
        0
    }

    pub(super) async fn stop(&self, _goodbye: Duration) {
        self.stop.send_replace(true);
        let _ = &self.listener;
    }
}
