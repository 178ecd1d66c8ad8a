//! What the child will do, made by the parent from the OCI runtime specification.
//!
//! The child parses nothing and looks nothing up: its strings are ready for the kernel, its descriptors
//! open, and all that could be refused was refused before it, its cgroup and its mounts existed.

pub(crate) mod devices;
pub(crate) mod label;
pub(crate) mod layers;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod options;
pub(crate) mod process;
pub(crate) mod refusal;
pub(crate) mod rootfs;
pub(crate) mod schedule;
pub(crate) mod sysctl;
pub(crate) mod userns;

use crate::{RootMount, RunnerError};
use cgroup::CgroupPath;
use devices::Node;
use mounts::{MountKind, MountPlan};
use namespaces::Namespaces;
use oci_spec::runtime::Spec;
use process::{Filter, ProcessPlan, absolute};
use rootfs::{RootKind, RootPlan};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use sys::rustix::thread::UnshareFlags;
use userns::UserPlan;

/// A container, ready for the child.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) process: ProcessPlan,
    pub(crate) namespaces: Namespaces,
    /// `None`: the caller's own user namespace.
    pub(crate) user: Option<UserPlan>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) root: RootPlan,
    pub(crate) mounts: Vec<MountPlan>,
    /// Empty when /dev is the host's own.
    pub(crate) devices: Vec<Node>,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) readonly: Vec<PathBuf>,
    pub(crate) sysctls: Vec<(PathBuf, Vec<u8>)>,
}

/// Where a container's things are.
pub(crate) struct Places<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) rootfs: &'a [RootMount],
    pub(crate) cgroups: &'a cgroup::Mounts,
    pub(crate) group: &'a CgroupPath,
}

impl Plan {
    pub(crate) fn new(
        spec: &Spec,
        places: &Places<'_>,
        seccomp: Option<Filter>,
    ) -> Result<Self, RunnerError> {
        refusal::check(spec)?;
        let process =
            spec.process().as_ref().ok_or_else(|| RunnerError::invalid("process", "it is missing"))?;
        let linux = spec.linux().as_ref().ok_or_else(|| RunnerError::invalid("linux", "it is missing"))?;
        let mut namespaces = Namespaces::new(linux.namespaces().as_deref().unwrap_or_default())?;
        namespaces.set_time_offsets(&linux.time_offsets().clone().unwrap_or_default())?;
        let user = UserPlan::new(linux, &mut namespaces)?;
        let root = spec.root().as_ref();
        let root_path = root.map_or(Path::new("rootfs"), |root| root.path().as_path());
        let mounts =
            mounts::parse(spec.mounts().as_deref().unwrap_or_default(), places, root_path, user.as_ref())?;
        let host_dev = mounts
            .iter()
            .any(|mount| mount.target == Path::new("/dev") && matches!(mount.kind, MountKind::Bind { .. }));
        let wanted_devices = linux.devices().as_deref().unwrap_or_default();
        let mut devices = devices::parse(wanted_devices)?;
        if let Some(user) = &user {
            devices::map_owners(&mut devices, user);
        }
        let uts = |name: &'static str, value: &Option<String>| uts_name(name, value.as_deref(), &namespaces);
        Ok(Plan {
            hostname: uts("hostname", spec.hostname())?,
            domainname: uts("domainname", spec.domainname())?,
            process: ProcessPlan::new(process, Some(linux), seccomp, user.as_ref())?,
            root: RootPlan::new(
                places.rootfs,
                places.bundle,
                root.map(|root| root.path().as_path()),
                root.and_then(|root| root.readonly()).unwrap_or(false),
                linux.rootfs_propagation().as_deref(),
            )?,
            sysctls: sysctl::parse(&linux.sysctl().clone().unwrap_or_default(), &namespaces)?,
            masked: paths("linux.maskedPaths", linux.masked_paths().as_deref())?,
            readonly: paths("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
            devices: if host_dev { Vec::new() } else { devices },
            mounts,
            namespaces,
            user,
        })
    }

    /// Makes the user namespaces that the plan needs: the last step before the child.
    pub(crate) fn make_user_namespaces(&mut self) -> Result<(), RunnerError> {
        let mut made = userns::Made::default();
        if let Some(user) = &mut self.user {
            match &user.fd {
                Some(fd) => made.add(&user.uids, &user.gids, fd),
                None => user.fd = Some(made.of("linux.uidMappings", &user.uids, &user.gids)?),
            }
        }
        if let RootKind::Layers { layers, .. } = &mut self.root.kind {
            if self.user.is_none() {
                return Err(RunnerError::unsupported("rootfs.options", "uidmap without a user namespace"));
            }
            let map = &mut layers.map;
            map.userns = Some(made.of("rootfs.options", &map.uids, &map.gids)?);
        }
        mounts::map_ids(&mut self.mounts, &mut made)
    }

    /// The user namespaces that mounts stand for.
    pub(crate) fn maps(&self) -> impl Iterator<Item = &Rc<sys::rustix::fd::OwnedFd>> {
        let root = match &self.root.kind {
            RootKind::Layers { layers, .. } => layers.map.userns.as_ref(),
            RootKind::Mount { .. } | RootKind::Bind { .. } => None,
        };
        let mounts = self.mounts.iter().filter_map(|mount| mount.idmap.as_ref()?.userns.as_ref());
        mounts.chain(root).chain(self.user.iter().filter_map(|user| user.fd.as_ref()))
    }
}

fn uts_name(
    field: &'static str,
    value: Option<&str>,
    namespaces: &Namespaces,
) -> Result<Option<String>, RunnerError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    if value.len() > 64 || value.contains('\0') {
        return Err(RunnerError::invalid(field, "it is longer than 64 bytes or holds a NUL"));
    }
    if namespaces.is_own(UnshareFlags::NEWUTS, "uts")? {
        return Ok(Some(value.to_owned()));
    }
    Err(RunnerError::invalid(field, "the container has no uts namespace of its own"))
}

fn paths(field: &str, texts: Option<&[String]>) -> Result<Vec<PathBuf>, RunnerError> {
    let one = |(at, text): (usize, &String)| absolute(&format!("{field}[{at}]"), Path::new(text));
    let mut found: Vec<PathBuf> = Vec::new();
    for path in texts.unwrap_or_default().iter().enumerate().map(one) {
        let path = path?;
        // Named twice it would be mounted twice.
        if !found.contains(&path) {
            found.push(path);
        }
    }
    Ok(found)
}
