//! A pod's manifest, as far as `peapod run` obeys it.
//!
//! Every field of a Pod is known here by its name: it is read, or it is refused with its path unless its
//! value asks for nothing. So a manifest never runs with less than it says. The rules are those of the
//! Kubernetes API reference (Pod v1) as of 1.37.

mod container;
mod expand;
mod names;
mod pod;
mod quantity;
mod reader;
mod security;
#[cfg(test)]
mod tests;
mod volume;

pub(crate) use container::{Container, EnvVar, Kind, Port, Protocol, PullPolicy, Resources};
pub(crate) use expand::{environment, expand};
pub(crate) use names::is_uid;
pub(crate) use pod::{Dns, Pod, RestartPolicy};
pub(crate) use security::{GroupsPolicy, Seccomp};
pub(crate) use volume::{HostPathKind, Propagation, Volume, VolumeSource};

use reader::Item;
pub(crate) use reader::shown;
use serde::Deserialize as _;
use serde_yaml_ng::Value;

/// A manifest may not be longer; Kubernetes' own limit for an object is 1.5 MiB in its store.
pub(crate) const MOST_BYTES: u64 = 1 << 20;

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("{0} is not supported by peapod run")]
    NotSupported(String),
    #[error("{path}: `{value}` is not supported by peapod run")]
    NotSupportedValue { path: String, value: String },
    #[error("{0} is no field of a Pod")]
    Unknown(String),
    #[error("{path}: {reason}")]
    Wrong { path: String, reason: String },
    #[error("the manifest cannot be read as YAML")]
    Yaml(#[source] serde_yaml_ng::Error),
    #[error("the manifest holds no document")]
    Empty,
    #[error("the manifest holds {0} documents; peapod run takes one Pod")]
    Many(usize),
}

/// Reads the one Pod of a manifest (YAML or JSON).
///
/// # Errors
/// [`ManifestError`] names the first field that is wrong or not supported.
pub(crate) fn parse(text: &str) -> Result<Pod, ManifestError> {
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(ManifestError::Yaml)?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    if documents.len() > 1 {
        return Err(ManifestError::Many(documents.len()));
    }
    let value = documents.pop().ok_or(ManifestError::Empty)?;
    pod::read(Item { path: String::new(), value }.object()?)
}
