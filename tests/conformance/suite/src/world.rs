//! The runtime under test, as all cases see it: its name, its features, the suite's registry and directory.

use crate::{
    call::{Channels, Endpoints},
    registry::Registry,
    tap::Tap,
};
use anyhow::{Context as _, Result};
use api::cri;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// The image of most containers, in the suite's registry.
pub const BUSYBOX: &str = "busybox:1";

/// What all cases share.
#[derive(Debug)]
pub struct World {
    /// The way to the runtime.
    pub channels: Channels,
    /// The suite's own images.
    pub registry: Registry,
    /// The name that the runtime gives itself.
    pub runtime_name: String,
    /// The version that it says.
    pub runtime_version: String,
    /// Whether it puts containers into systemd's slices.
    pub systemd: bool,
    /// Features of the default handler.
    pub handler: cri::RuntimeHandlerFeatures,
    /// Features of the runtime.
    pub features: cri::RuntimeFeatures,
    /// Names of its handlers.
    pub handlers: Vec<String>,
    /// The id of [`BUSYBOX`].
    pub busybox: String,
    dir: PathBuf,
    count: AtomicU32,
}

impl World {
    /// Connects, asks who answers, and pulls the image that most cases need.
    ///
    /// # Errors
    /// When the runtime does not answer or cannot pull.
    pub async fn open(endpoints: &Endpoints, registry: &str, dir: &Path) -> Result<Arc<World>> {
        let channels = endpoints.connect().await?;
        let registry = Registry::serve(registry).await?;
        let tap = Arc::new(Tap::default());
        let mut runtime = channels.runtime(&tap);
        let version = runtime.version(cri::VersionRequest::default()).await.context("Version")?.into_inner();
        let status = runtime.status(cri::StatusRequest::default()).await.context("Status")?.into_inner();
        let driver =
            runtime.runtime_config(cri::RuntimeConfigRequest {}).await.map(tonic::Response::into_inner);
        let systemd = driver
            .ok()
            .and_then(|answer| answer.linux)
            .is_some_and(|linux| linux.cgroup_driver() == cri::CgroupDriver::Systemd);
        let image = cri::ImageSpec { image: registry.image(BUSYBOX), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(image), ..Default::default() };
        let pulled = channels.images(&tap).pull_image(request).await.context("PullImage")?.into_inner();
        let default = status.runtime_handlers.iter().find(|handler| handler.name.is_empty());
        Ok(Arc::new(World {
            channels,
            registry,
            runtime_name: version.runtime_name,
            runtime_version: version.runtime_version,
            systemd,
            handler: default.and_then(|handler| handler.features).unwrap_or_default(),
            features: status.features.unwrap_or_default(),
            handlers: status.runtime_handlers.into_iter().map(|handler| handler.name).collect(),
            busybox: pulled.image_ref,
            dir: dir.to_owned(),
            count: AtomicU32::new(0),
        }))
    }

    /// A number that no other case of this process has.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// The directory of a case with that number.
    #[must_use]
    pub fn dir(&self, number: u32) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// The cgroup beneath which a case's pods are: in the cgroupfs syntax, as the kubelet gives it.
    #[must_use]
    pub fn cgroup(&self, number: u32) -> String {
        let pid = std::process::id();
        if self.systemd {
            return format!("/peapodtest.slice/peapodtest-c{pid}.slice/peapodtest-c{pid}-p{number}.slice");
        }
        format!("/peapod-test-conformance-{pid}/p{number}")
    }

    /// The cgroup of ours that is above those of all cases.
    #[must_use]
    pub fn cgroup_top(&self) -> String {
        if self.systemd {
            "/peapodtest.slice".to_owned()
        } else {
            format!("/peapod-test-conformance-{}", std::process::id())
        }
    }
}
