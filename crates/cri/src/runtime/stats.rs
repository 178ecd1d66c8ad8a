//! ContainerStats and ListContainerStats.

use super::Runtime;
use crate::status;
use api::cri;
use engine::{ContainerFilter, ContainerState, ContainerView, EngineError, Host};
use stats::{ContainerStats, Psi, PsiLine, Reader, Target};
use std::sync::Arc;
use tonic::Status;
use types::{Clock as _, SystemClock, Timestamp};

impl<H: Host> Runtime<H> {
    pub(super) async fn stats_of_one(
        &self,
        request: &cri::ContainerStatsRequest,
    ) -> Result<cri::ContainerStatsResponse, Status> {
        let container =
            self.engine.container(&request.container_id).map_err(|error| status::of_engine(&error))?;
        let rows = read(&self.node.stats, vec![container]).await;
        match rows.into_iter().next() {
            Some(row) => Ok(cri::ContainerStatsResponse { stats: Some(row) }),
            None => Err(status::of_engine(&EngineError::FailedPrecondition {
                why: "the container has ended, so there are no figures of it".to_owned(),
                source: None,
            })),
        }
    }

    /// Only running containers; one whose figures cannot be read is left out, and the others stay.
    pub(super) async fn stats_of_all(
        &self,
        request: cri::ListContainerStatsRequest,
    ) -> cri::ListContainerStatsResponse {
        let asked = request.filter.unwrap_or_default();
        let filter = ContainerFilter {
            id: Some(asked.id).filter(|id| !id.is_empty()),
            state: Some(ContainerState::Running),
            pod: Some(asked.pod_sandbox_id).filter(|id| !id.is_empty()),
            labels: asked.label_selector,
        };
        cri::ListContainerStatsResponse {
            stats: read(&self.node.stats, self.engine.containers(&filter)).await,
        }
    }
}

/// Reads on a thread that may block: files, and now and then a walk over a writable layer.
async fn read(reader: &Reader, containers: Vec<Arc<ContainerView>>) -> Vec<cri::ContainerStats> {
    let reader = reader.clone();
    let read = tokio::task::spawn_blocking(move || {
        let now = SystemClock.now();
        containers
            .iter()
            .filter_map(|container| {
                let plan = &container.plan;
                let upper = plan.rootfs.join("upper");
                let target =
                    Target { id: plan.id.as_str(), cgroup: &plan.cgroup, writable_layer: Some(&upper) };
                match reader.container(&target, now) {
                    Ok(stats) => Some(row(container, &stats)),
                    Err(error) if error.is_gone() => None,
                    Err(error) => {
                        tracing::warn!(container = %plan.id, %error, "cannot read its figures");
                        None
                    }
                }
            })
            .collect()
    });
    read.await.unwrap_or_default()
}

fn number(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.map(|value| cri::UInt64Value { value })
}

/// The kubelet dereferences the attributes and their metadata: they are never absent.
fn row(container: &ContainerView, stats: &ContainerStats) -> cri::ContainerStats {
    let plan = &container.plan;
    let timestamp = stats.timestamp.0;
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: plan.id.to_string(),
            metadata: Some(cri::ContainerMetadata {
                name: plan.spec.name.clone(),
                attempt: plan.spec.attempt,
            }),
            labels: plan.spec.labels.clone(),
            annotations: plan.spec.annotations.clone(),
        }),
        cpu: Some(cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: number(stats.cpu.usage_core_nanos),
            usage_nano_cores: number(stats.cpu.usage_nano_cores),
            psi: stats.cpu.psi.as_ref().map(psi),
        }),
        memory: Some(cri::MemoryUsage {
            timestamp,
            working_set_bytes: number(stats.memory.working_set),
            available_bytes: number(stats.memory.available),
            usage_bytes: number(stats.memory.usage),
            rss_bytes: number(stats.memory.rss),
            page_faults: number(stats.memory.page_faults),
            major_page_faults: number(stats.memory.major_page_faults),
            psi: stats.memory.psi.as_ref().map(psi),
        }),
        writable_layer: stats.writable_layer.as_ref().map(|(when, usage)| layer(plan, *when, usage)),
        swap: stats.swap.map(|swap| cri::SwapUsage {
            timestamp,
            swap_available_bytes: number(swap.available),
            swap_usage_bytes: number(Some(swap.usage)),
        }),
        io: stats.io.as_ref().map(|io| cri::IoUsage { timestamp, psi: io.psi.as_ref().map(psi) }),
    }
}

fn layer(
    plan: &engine::host::ContainerPlan,
    when: Timestamp,
    usage: &stats::DirectoryUsage,
) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: when.0,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: plan.rootfs.display().to_string() }),
        used_bytes: number(Some(usage.bytes)),
        inodes_used: number(Some(usage.inodes)),
    }
}

fn psi(psi: &Psi) -> cri::PsiStats {
    let line = |line: &PsiLine| cri::PsiData {
        total: line.total_nanos,
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    cri::PsiStats { full: Some(line(&psi.full)), some: Some(line(&psi.some)) }
}
