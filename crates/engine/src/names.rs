//! Who has which name. A name is taken before anything is made under it and free when its object is
//! gone, so that two calls never make two objects of one name.

use serde::Serialize;
use std::{
    fmt,
    hash::{DefaultHasher, Hasher as _},
};
use types::{container::ContainerSpec, pod::PodSpec};

/// What makes a pod sandbox the same one (`PodSandboxMetadata`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodName {
    name: String,
    namespace: String,
    uid: String,
    attempt: u32,
}

impl PodName {
    pub(crate) fn of(spec: &PodSpec) -> Self {
        PodName {
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            uid: spec.uid.clone(),
            attempt: spec.attempt,
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

/// What makes a container the same one within its pod (`ContainerMetadata`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContainerName {
    name: String,
    attempt: u32,
}

impl ContainerName {
    pub(crate) fn of(spec: &ContainerSpec) -> Self {
        ContainerName { name: spec.name.clone(), attempt: spec.attempt }
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempt {})", self.name, self.attempt)
    }
}

/// Tells an identical retry from a different request under the same name. Never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn of(spec: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(spec).expect("specs have text keys, and paths made of text");
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Fingerprint(hasher.finish())
    }
}
