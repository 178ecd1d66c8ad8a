//! What is on disk: the plan and the phase of each pod and container, as versioned JSON.
//!
//! A field is only ever added with a default, a version only ever added with a reader for the older
//! ones; the files in `tests/testdata/` are what released daemons wrote and are never edited.

use crate::{
    container::{self, plan::ContainerPlan},
    pod::{self, plan::PodPlan},
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use store::{Change, Table};

/// A pod's record.
#[derive(Debug, Serialize, Deserialize)]
enum PodOnDisk<'a> {
    #[serde(rename = "1")]
    V1 { plan: Cow<'a, PodPlan>, phase: Cow<'a, pod::Phase> },
}

/// A container's record.
#[derive(Debug, Serialize, Deserialize)]
enum ContainerOnDisk<'a> {
    #[serde(rename = "1")]
    V1 { plan: Cow<'a, ContainerPlan>, phase: Cow<'a, container::Phase> },
}

pub(crate) fn put_pod(plan: &PodPlan, phase: &pod::Phase) -> Change {
    let record = PodOnDisk::V1 { plan: Cow::Borrowed(plan), phase: Cow::Borrowed(phase) };
    Change::put(Table::PODS, plan.id.as_str(), bytes(&record))
}

pub(crate) fn remove_pod(plan: &PodPlan) -> Change {
    Change::remove(Table::PODS, plan.id.as_str())
}

pub(crate) fn put_container(plan: &ContainerPlan, phase: &container::Phase) -> Change {
    let record = ContainerOnDisk::V1 { plan: Cow::Borrowed(plan), phase: Cow::Borrowed(phase) };
    Change::put(Table::CONTAINERS, plan.id.as_str(), bytes(&record))
}

pub(crate) fn remove_container(plan: &ContainerPlan) -> Change {
    Change::remove(Table::CONTAINERS, plan.id.as_str())
}

pub(crate) fn pod(bytes: &[u8]) -> Result<(PodPlan, pod::Phase), serde_json::Error> {
    match serde_json::from_slice(bytes)? {
        PodOnDisk::V1 { plan, phase } => Ok((plan.into_owned(), phase.into_owned())),
    }
}

pub(crate) fn container(bytes: &[u8]) -> Result<(ContainerPlan, container::Phase), serde_json::Error> {
    match serde_json::from_slice(bytes)? {
        ContainerOnDisk::V1 { plan, phase } => Ok((plan.into_owned(), phase.into_owned())),
    }
}

fn bytes(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("plans have text keys, and paths made of text")
}
