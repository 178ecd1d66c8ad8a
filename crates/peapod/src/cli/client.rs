//! The connection to the daemon.

use anyhow::{Context as _, bail};
use api::{
    admin::admin_client::AdminClient,
    cri::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use hyper_util::rt::TokioIo;
use std::{
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};
use sys::rustix::fs::{Mode, OFlags, open};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Lists may be long; the kubelet's own limit.
const MOST_BYTES: usize = 16 << 20;

/// Where the daemon listens if nobody says otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "unix:///run/peapod/peapod.sock";

/// A unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(PathBuf);

impl Address {
    /// The flag, else `PEAPOD_ADDRESS`, else the default.
    ///
    /// # Errors
    /// If it is no unix socket.
    pub(crate) fn choose(flag: Option<String>) -> anyhow::Result<Self> {
        let named =
            flag.or_else(|| std::env::var("PEAPOD_ADDRESS").ok()).filter(|address| !address.is_empty());
        Self::parse(named.as_deref().unwrap_or(DEFAULT_ADDRESS))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if !path.starts_with('/') || path.contains('\0') {
            bail!("`{text}` is no address: want unix:///PATH");
        }
        Ok(Self(path.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// The daemon's services.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    pub(crate) admin: AdminClient<Channel>,
    address: Address,
}

impl Client {
    /// Dials once, so that a daemon that is not there is told plainly. Later calls dial again if they must:
    /// a daemon may be replaced while we wait.
    ///
    /// # Errors
    /// If nobody listens there, or we may not.
    pub(crate) async fn connect(address: &Address) -> anyhow::Result<Self> {
        drop(dial(address.path()).await.with_context(|| {
            format!(
                "no daemon answers at unix://{}: is `peapod serve` running, and are you root",
                address.0.display()
            )
        })?);
        let path = address.0.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { dial(&path).await.map(TokioIo::new) }
        });
        // The host is not looked up; it becomes the `:authority` that every CRI server takes.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MOST_BYTES)
                .max_encoding_message_size(MOST_BYTES),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MOST_BYTES)
                .max_encoding_message_size(MOST_BYTES),
            admin: AdminClient::new(channel)
                .max_decoding_message_size(MOST_BYTES)
                .max_encoding_message_size(MOST_BYTES),
            address: address.clone(),
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

/// connect(2), also where the path is longer than the 107 bytes of a socket's address.
async fn dial(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= 107 {
        return UnixStream::connect(path).await;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)).await
}

/// What the daemon says went wrong, for people: its text, and the code where the text alone could mislead.
pub(crate) fn told(status: &tonic::Status) -> anyhow::Error {
    let text = status.message();
    if text.is_empty() {
        return anyhow::anyhow!("{}", status.code().description());
    }
    match status.code() {
        tonic::Code::Unimplemented => anyhow::anyhow!("the daemon does not do that: {text}"),
        tonic::Code::Unavailable => anyhow::anyhow!("the daemon does not answer: {text}"),
        tonic::Code::DeadlineExceeded => anyhow::anyhow!("time ran out: {text}"),
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::InvalidArgument
        | tonic::Code::NotFound
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied
        | tonic::Code::ResourceExhausted
        | tonic::Code::FailedPrecondition
        | tonic::Code::Aborted
        | tonic::Code::OutOfRange
        | tonic::Code::Internal
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => anyhow::anyhow!("{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_unix_socket_is_an_address() {
        for text in ["unix:///run/p.sock", "/run/p.sock"] {
            assert_eq!(Address::parse(text).expect(text).path(), Path::new("/run/p.sock"));
        }
        for text in ["tcp://127.0.0.1:1", "run/p.sock", "unix://run/p.sock", "", "unix://"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        assert_eq!(Address::choose(Some("/a".to_owned())).expect("flag").path(), Path::new("/a"));
    }
}
