//! What is on disk: the plan and the phase of each pod and container, as versioned JSON.
//!
//! A field is only ever added with a default, a version only ever added with a reader for the older
//! ones; the files in `tests/testdata/` are what released daemons wrote and are never edited.

use crate::{
    container::{self, plan::ContainerPlan},
    host::Limits,
    pod::{self, PodSize, plan::PodPlan},
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use store::{Change, Table};

/// A pod's record.
#[derive(Debug, Serialize, Deserialize)]
enum PodOnDisk<'a> {
    #[serde(rename = "1")]
    V1 {
        plan: Cow<'a, PodPlan>,
        phase: Cow<'a, pod::Phase>,
        /// What UpdatePodSandboxResources told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<Cow<'a, PodSize>>,
    },
}

/// A container's record.
#[derive(Debug, Serialize, Deserialize)]
enum ContainerOnDisk<'a> {
    #[serde(rename = "1")]
    V1 {
        plan: Cow<'a, ContainerPlan>,
        phase: Cow<'a, container::Phase>,
        /// An update is under way: these limits are set again if it is not finished.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        undo: Option<Cow<'a, Limits>>,
    },
}

/// What is known of a pod from disk.
pub(crate) type FoundPod = (PodPlan, pod::Phase, Option<PodSize>);
/// What is known of a container from disk.
pub(crate) type FoundContainer = (ContainerPlan, container::Phase, Option<Limits>);

pub(crate) fn put_pod(plan: &PodPlan, phase: &pod::Phase, size: Option<&PodSize>) -> Change {
    let (plan_bytes, phase, size) = (Cow::Borrowed(plan), Cow::Borrowed(phase), size.map(Cow::Borrowed));
    let record = PodOnDisk::V1 { plan: plan_bytes, phase, size };
    Change::put(Table::PODS, plan.id.as_str(), bytes(&record))
}

pub(crate) fn remove_pod(plan: &PodPlan) -> Change {
    Change::remove(Table::PODS, plan.id.as_str())
}

pub(crate) fn put_container(plan: &ContainerPlan, phase: &container::Phase, undo: Option<&Limits>) -> Change {
    let (plan_bytes, phase, undo) = (Cow::Borrowed(plan), Cow::Borrowed(phase), undo.map(Cow::Borrowed));
    let record = ContainerOnDisk::V1 { plan: plan_bytes, phase, undo };
    Change::put(Table::CONTAINERS, plan.id.as_str(), bytes(&record))
}

pub(crate) fn remove_container(plan: &ContainerPlan) -> Change {
    Change::remove(Table::CONTAINERS, plan.id.as_str())
}

pub(crate) fn pod(bytes: &[u8]) -> Result<FoundPod, serde_json::Error> {
    match serde_json::from_slice(bytes)? {
        PodOnDisk::V1 { plan, phase, size } => {
            Ok((plan.into_owned(), phase.into_owned(), size.map(Cow::into_owned)))
        }
    }
}

pub(crate) fn container(bytes: &[u8]) -> Result<FoundContainer, serde_json::Error> {
    match serde_json::from_slice(bytes)? {
        ContainerOnDisk::V1 { plan, phase, undo } => {
            Ok((plan.into_owned(), phase.into_owned(), undo.map(Cow::into_owned)))
        }
    }
}

fn bytes(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("plans have text keys, and paths made of text")
}
