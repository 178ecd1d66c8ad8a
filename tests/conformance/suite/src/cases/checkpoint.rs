//! Checkpoint and restore: what a runtime does that can, and what one says that cannot.

use crate::{
    case::{Case, case, holds, is, refused, skip},
    story::{Test, map},
};
use anyhow::bail;
use api::cri;
use tonic::Code;

const CONTAINER: &str = "KEP-2008; CRI CheckpointContainer";
const POD: &str = "KEP-5823; CRI CheckpointPod, RestorePod";

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case(
            "checkpoint: a container's is an archive, and the container goes on",
            CONTAINER,
            "CheckpointContainerRequest.container_id CheckpointContainerRequest.location CheckpointContainerRequest.timeout",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let location = t.dir().join("checkpoint.tar");
                let request = cri::CheckpointContainerRequest {
                    container_id: c.id.clone(),
                    location: location.to_string_lossy().into_owned(),
                    timeout: 30,
                };
                match t.runtime().checkpoint_container(request).await {
                    Ok(_) => holds("the archive", std::fs::metadata(&location)?.len() > 0)?,
                    Err(status) => {
                        is("after an error, no file", location.try_exists()?, false)?;
                        is("after an error, the container", c.sh("echo goes on").await?, "goes on")?;
                        return skip(format!("the runtime answers {:?}", status.code()));
                    }
                }
                is("the container", c.sh("echo goes on").await?, "goes on")
            },
        ),
        case(
            "checkpoint: of an unknown container fails",
            CONTAINER,
            "CheckpointContainerRequest.container_id",
            |t: Test| async move {
                let request = cri::CheckpointContainerRequest {
                    container_id: "0123456789abcdef".repeat(4),
                    location: t.dir().join("checkpoint.tar").to_string_lossy().into_owned(),
                    timeout: 0,
                };
                refused("it", t.runtime().checkpoint_container(request).await, &[]).map(|_| ())
            },
        ),
        case(
            "checkpoint: a pod's is written beneath its directory, and the pod goes on",
            POD,
            "CheckpointPodRequest.pod_sandbox_id CheckpointPodRequest.output_path CheckpointPodRequest.container_ids",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let path = t.host_dir("checkpoint", &[])?;
                let request = cri::CheckpointPodRequest {
                    pod_sandbox_id: c.pod.id.clone(),
                    output_path: path.clone(),
                    container_ids: vec![c.id.clone()],
                    options: map(&[]),
                };
                let tried = t.runtime().checkpoint_pod(request).await;
                is("the container", c.sh("echo goes on").await?, "goes on")?;
                match tried {
                    Ok(_) => holds("something was written", std::fs::read_dir(&path)?.count() > 0),
                    Err(status) => {
                        is("after an error, files", std::fs::read_dir(&path)?.count(), 0)?;
                        skip(format!("the runtime answers {:?}", status.code()))
                    }
                }
            },
        ),
        case(
            "checkpoint: an unknown option is refused",
            "KEP-5823: unknown option keys rejected",
            "CheckpointPodRequest.options",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let request = cri::CheckpointPodRequest {
                    pod_sandbox_id: c.pod.id.clone(),
                    output_path: t.host_dir("checkpoint", &[])?,
                    container_ids: Vec::new(),
                    options: map(&[("no.such/option", "x")]),
                };
                refused("it", t.runtime().checkpoint_pod(request).await, &[]).map(|_| ())
            },
        ),
        case(
            "checkpoint: restoring from what is no checkpoint fails and leaves no pod",
            POD,
            "RestorePodRequest.checkpoint_path RestorePodRequest.runtime_handler RestorePodRequest.options",
            |t: Test| async move {
                let mark = t.unique("mark");
                let mut config = t.pod_config();
                config.labels = map(&[("mark", &mark)]);
                let request = cri::RestorePodRequest {
                    checkpoint_path: t.host_dir("empty", &[])?,
                    config: Some(config),
                    runtime_handler: t
                        .world
                        .handlers
                        .iter()
                        .find(|h| !h.is_empty())
                        .cloned()
                        .unwrap_or_default(),
                    options: map(&[("no.such/option", "x")]),
                    container_configs: Vec::new(),
                };
                refused("it", t.runtime().restore_pod(request).await, &[])?;
                let filter =
                    cri::PodSandboxFilter { label_selector: map(&[("mark", &mark)]), ..Default::default() };
                let request = cri::ListPodSandboxRequest { filter: Some(filter) };
                is("pods", t.runtime().list_pod_sandbox(request).await?.into_inner().items.len(), 0)
            },
        ),
        case(
            "checkpoint: a runtime that cannot says Unimplemented",
            "gRPC; kubelet",
            "CheckpointPodRequest.pod_sandbox_id",
            |t: Test| async move {
                let request = cri::CheckpointPodRequest {
                    pod_sandbox_id: "0123456789abcdef".repeat(4),
                    ..Default::default()
                };
                match t.runtime().checkpoint_pod(request).await {
                    Ok(_) => bail!("an unknown pod was checkpointed"),
                    Err(status) => holds(
                        &format!("{:?} is one of the codes", status.code()),
                        matches!(
                            status.code(),
                            Code::Unimplemented
                                | Code::NotFound
                                | Code::InvalidArgument
                                | Code::FailedPrecondition
                        ),
                    ),
                }
            },
        ),
    ]
}
