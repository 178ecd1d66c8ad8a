//! What the administrator decided about containers, for those who complete their specifications.

use config::Config;
use std::path::PathBuf;

/// The parts of the configuration that a container's making asks for.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Directories of CDI specifications, the last one counts most.
    pub(super) cdi_dirs: Vec<PathBuf>,
    /// Device nodes belong to the user and the group that the request names.
    pub(super) own_devices: bool,
    /// A missing source of a mount becomes a directory.
    pub(super) make_sources: bool,
    /// What `RuntimeDefault` is for seccomp; `None` = the built-in profile.
    pub(super) seccomp: Option<PathBuf>,
}

impl From<&Config> for Policy {
    fn from(config: &Config) -> Policy {
        let container = &config.container;
        Policy {
            cdi_dirs: config.cdi.spec_dirs.clone(),
            own_devices: container.device_ownership_from_security_context,
            make_sources: container.create_missing_mount_sources,
            seccomp: Some(container.seccomp_profile.clone()).filter(|path| !path.as_os_str().is_empty()),
        }
    }
}
