//! The running server, as the desk sees it.

use super::backend::Shims;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use stream::{Count, Settings, Tokens};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Sessions that are served, until [`Server::stop`].
#[derive(Debug)]
pub(super) struct Server {
    tokens: Arc<Tokens>,
    count: Count,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Begins to serve.
    pub(super) fn start(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        tokens: Arc<Tokens>,
        backend: Shims,
        settings: Settings,
    ) -> Server {
        let (stop, mut stopped) = watch::channel(false);
        let count = Count::default();
        let stopping = async move {
            // A sender that is gone means the same.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let serving =
            stream::serve(listener, tls, Arc::clone(&tokens), backend, settings, count.clone(), stopping);
        Server { tokens, count, stop, task: Mutex::new(Some(tokio::spawn(serving))) }
    }

    /// Sessions that wait for their clients.
    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Sessions that have begun.
    pub(super) fn sessions(&self) -> usize {
        self.count.now()
    }

    /// Cuts all sessions, and waits a bounded time until their clients have been told.
    pub(super) async fn stop(&self, goodbye: Duration) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && tokio::time::timeout(goodbye, task).await.is_err()
        {
            tracing::warn!("some sessions were cut without a word");
        }
    }
}
