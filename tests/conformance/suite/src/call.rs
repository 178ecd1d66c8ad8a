//! Ways to the runtime: one channel for each service, with a tap on it.

use crate::tap::{Tap, Tapped};
use anyhow::{Context as _, Result};
use api::cri::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};
use std::{path::PathBuf, sync::Arc};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// RuntimeService with a tap.
pub type Runtime = RuntimeServiceClient<Tapped>;
/// ImageService with a tap.
pub type Images = ImageServiceClient<Tapped>;

/// The kubelet's own limit of a message.
const LARGEST: usize = 16 << 20;

/// The endpoints of one runtime.
#[derive(Clone, Debug)]
pub struct Endpoints {
    runtime: PathBuf,
    images: PathBuf,
}

impl Endpoints {
    /// `unix://` addresses, or paths.
    #[must_use]
    pub fn new(runtime: &str, images: &str) -> Endpoints {
        let path = |address: &str| PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
        Endpoints { runtime: path(runtime), images: path(images) }
    }

    /// Connects to both.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(&self) -> Result<Channels> {
        Ok(Channels { runtime: connect(&self.runtime).await?, images: connect(&self.images).await? })
    }
}

/// Connections that all cases share.
#[derive(Clone, Debug)]
pub struct Channels {
    runtime: Channel,
    images: Channel,
}

impl Channels {
    /// A client of RuntimeService on which the tap looks.
    #[must_use]
    pub fn runtime(&self, tap: &Arc<Tap>) -> Runtime {
        RuntimeServiceClient::new(Tapped { channel: self.runtime.clone(), tap: Arc::clone(tap) })
            .max_decoding_message_size(LARGEST)
    }

    /// A client of ImageService on which the tap looks.
    #[must_use]
    pub fn images(&self, tap: &Arc<Tap>) -> Images {
        ImageServiceClient::new(Tapped { channel: self.images.clone(), tap: Arc::clone(tap) })
            .max_decoding_message_size(LARGEST)
    }
}

async fn connect(path: &std::path::Path) -> Result<Channel> {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("{}", path.display()))
}
