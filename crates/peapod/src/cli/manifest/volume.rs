//! Volumes and where containers mount them.

use super::{
    ManifestError, names,
    reader::{Item, Object, Result, shown},
};
use std::{collections::BTreeSet, path::PathBuf};

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) source: VolumeSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VolumeSource {
    /// A new directory on the disk, as long as the pod.
    EmptyDir,
    /// The same in memory.
    Memory {
        /// Bytes; `None` leaves it to tmpfs(5): half of the memory.
        limit: Option<i64>,
    },
    /// What the host has at a path.
    HostPath { path: PathBuf, kind: HostPathKind },
}

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostPathKind {
    /// Nothing is checked.
    Any,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

#[derive(Clone, Debug)]
pub(crate) struct VolumeMount {
    /// Where it stands in the manifest.
    pub(crate) path: String,
    pub(crate) volume: String,
    pub(crate) mount_path: String,
    pub(crate) read_only: bool,
    pub(crate) propagation: Propagation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    None,
    HostToContainer,
    Bidirectional,
}

/// The other sources of Kubernetes 1.37.
const REFUSED: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];

pub(super) fn read(items: Vec<Item>) -> Result<Vec<Volume>> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for item in items {
        let mut volume = item.object()?;
        let name = volume.required("name")?;
        if !names::is_label(&name) {
            return Err(volume.wrong("name", "want at most 63 of a-z, 0-9 and `-`"));
        }
        if !seen.insert(name.clone()) {
            return Err(volume.wrong("name", format!("two volumes are named `{name}`")));
        }
        let source = match (volume.object("emptyDir")?, volume.object("hostPath")?) {
            (Some(empty), None) => empty_dir(empty)?,
            (None, Some(host)) => host_path(host)?,
            // So the API server fills it in.
            (None, None) => VolumeSource::EmptyDir,
            (Some(_), Some(_)) => return Err(volume.wrong("hostPath", "a volume has one source only")),
        };
        // Every named source counts as asked for, also `secret: {}`.
        if let Some(other) = REFUSED.iter().find_map(|name| volume.take(name)) {
            return Err(ManifestError::NotSupported(other.path));
        }
        volume.finish(&[])?;
        all.push(Volume { name, source });
    }
    Ok(all)
}

fn empty_dir(mut object: Object) -> Result<VolumeSource> {
    let memory = object.word("medium", &[("", false), ("Memory", true)])?.unwrap_or(false);
    let limit = match object.take("sizeLimit") {
        None => None,
        Some(item) => Some(item.quantity()?.value()).filter(|bytes| *bytes > 0),
    };
    if limit.is_some() && !memory {
        // The kubelet evicts the pod when it is passed; nobody would here.
        return Err(ManifestError::NotSupported(format!("{} without medium Memory", object.at("sizeLimit"))));
    }
    object.finish(&[])?;
    Ok(if memory { VolumeSource::Memory { limit } } else { VolumeSource::EmptyDir })
}

fn host_path(mut object: Object) -> Result<VolumeSource> {
    let path = object.required("path")?;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(object.wrong("path", "want an absolute path without `..`"));
    }
    let kinds = [
        ("", HostPathKind::Any),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    let kind = object.word("type", &kinds)?.unwrap_or(HostPathKind::Any);
    object.finish(&[])?;
    Ok(VolumeSource::HostPath { path: path.into(), kind })
}

pub(super) fn read_mounts(items: Vec<Item>) -> Result<Vec<VolumeMount>> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for item in items {
        let mut mount = item.object()?;
        let volume = mount.required("name")?;
        let mount_path = mount.required("mountPath")?;
        if !mount_path.starts_with('/') || mount_path.split('/').any(|part| part == "..") {
            return Err(mount.wrong("mountPath", "want an absolute path without `..`"));
        }
        if mount_path.contains(':') {
            return Err(mount.wrong("mountPath", "must not contain `:`"));
        }
        if !seen.insert(mount_path.clone()) {
            return Err(mount.wrong("mountPath", format!("`{}` is used twice", shown(&mount_path))));
        }
        let read_only = mount.flag("readOnly")?.unwrap_or(false);
        // IfPossible may fall back to a plain read-only mount; Enabled may not (KEP-3857).
        mount.only("recursiveReadOnly", &["Disabled", "IfPossible"])?;
        let kinds = [
            ("None", Propagation::None),
            ("HostToContainer", Propagation::HostToContainer),
            ("Bidirectional", Propagation::Bidirectional),
        ];
        let propagation = mount.word("mountPropagation", &kinds)?.unwrap_or(Propagation::None);
        let path = mount.path().to_owned();
        mount.finish(&["bindMountOptions", "subPath", "subPathExpr"])?;
        all.push(VolumeMount { path, volume, mount_path, read_only, propagation });
    }
    Ok(all)
}
