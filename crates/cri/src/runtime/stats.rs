//! Statistics of containers and of pods.
//!
//! Nothing that the kubelet dereferences is ever absent (its gate PodAndContainerStatsFromCRI):
//! attributes and their metadata, `linux`, and `default_interface` where there is a `network`. One
//! pod or container whose figures cannot be read costs no other its own.

use super::Runtime;
use crate::{render, status};
use api::cri;
use engine::{
    ContainerFilter, ContainerState, ContainerView, EngineError, Host, PodFilter, PodState, PodView,
};
use stats::{ContainerStats, Interface, PodNetwork, PodStats, Psi, PsiLine, Reader, Target};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Semaphore;
use tonic::Status;
use types::{Clock as _, SystemClock, Timestamp};

/// How many calls may read figures at once: each keeps one thread busy.
pub(super) const AT_ONCE: usize = 2;

/// A pod and those of its containers that run.
pub(super) type PodWithContainers = (Arc<PodView>, Vec<Arc<ContainerView>>);

/// Reads figures away from the threads that serve calls.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    reader: Reader,
    places: Arc<Semaphore>,
}

impl Looks {
    /// Runs `work` on a thread that may block: it reads files, and now and then walks over a writable
    /// layer. `None` if it panicked.
    pub(super) async fn look<T: Send + 'static>(
        self,
        work: impl FnOnce(&Reader) -> T + Send + 'static,
    ) -> Option<T> {
        // Never closed.
        let place = self.places.acquire_owned().await;
        let reader = self.reader;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&reader)
        });
        done.await.ok()
    }

    /// Rows of containers, without those that cannot be read.
    pub(super) async fn containers(self, containers: Vec<Arc<ContainerView>>) -> Vec<cri::ContainerStats> {
        self.look(move |reader| container_rows(reader, &containers)).await.unwrap_or_default()
    }

    /// Rows of pods, one for each.
    pub(super) async fn pods(self, pods: Vec<PodWithContainers>) -> Vec<cri::PodSandboxStats> {
        self.look(move |reader| {
            let networks = stats::networks(pods.iter().map(|(pod, _)| pod.plan.pins.net.clone()).collect());
            let rows = pods.iter().zip(networks);
            rows.map(|((pod, containers), network)| pod_row(reader, pod, containers, network)).collect()
        })
        .await
        .unwrap_or_default()
    }
}

impl<H: Host> Runtime<H> {
    pub(super) fn looks(&self) -> Looks {
        Looks { reader: self.node.stats.clone(), places: Arc::clone(&self.places) }
    }

    pub(super) async fn stats_of_one(
        &self,
        request: &cri::ContainerStatsRequest,
    ) -> Result<cri::ContainerStatsResponse, Status> {
        let container =
            self.engine.container(&request.container_id).map_err(|error| status::of_engine(&error))?;
        let rows = self.looks().containers(vec![container]).await;
        match rows.into_iter().next() {
            Some(row) => Ok(cri::ContainerStatsResponse { stats: Some(row) }),
            None => Err(no_figures("the container has ended, so there are no figures of it")),
        }
    }

    /// Only running containers; one whose figures cannot be read is left out, and the others stay.
    pub(super) async fn stats_of_all(
        &self,
        request: cri::ListContainerStatsRequest,
    ) -> cri::ListContainerStatsResponse {
        let stats = self.looks().containers(self.containers_with_stats(request.filter)).await;
        cri::ListContainerStatsResponse { stats }
    }

    pub(super) async fn stats_of_pod(
        &self,
        request: &cri::PodSandboxStatsRequest,
    ) -> Result<cri::PodSandboxStatsResponse, Status> {
        let pod = self.engine.pod(&request.pod_sandbox_id).map_err(|error| status::of_engine(&error))?;
        match pod.state() {
            PodState::Ready => {}
            PodState::NotReady => {
                return Err(no_figures("the pod sandbox is not ready, so there are no figures of it"));
            }
        }
        let containers = self.engine.containers(&ContainerFilter {
            state: Some(ContainerState::Running),
            pod: Some(pod.plan.id.to_string()),
            ..ContainerFilter::default()
        });
        let rows = self.looks().pods(vec![(pod, containers)]).await;
        match rows.into_iter().next() {
            Some(row) => Ok(cri::PodSandboxStatsResponse { stats: Some(row) }),
            None => Err(no_figures("the figures of the pod sandbox cannot be read")),
        }
    }

    /// Only ready pods.
    pub(super) async fn stats_of_pods(
        &self,
        request: cri::ListPodSandboxStatsRequest,
    ) -> cri::ListPodSandboxStatsResponse {
        let stats = self.looks().pods(self.pods_with_stats(request.filter)).await;
        cri::ListPodSandboxStatsResponse { stats }
    }

    pub(super) fn containers_with_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Vec<Arc<ContainerView>> {
        let asked = filter.unwrap_or_default();
        self.engine.containers(&ContainerFilter {
            id: Some(asked.id).filter(|id| !id.is_empty()),
            state: Some(ContainerState::Running),
            pod: Some(asked.pod_sandbox_id).filter(|id| !id.is_empty()),
            labels: asked.label_selector,
        })
    }

    pub(super) fn pods_with_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Vec<PodWithContainers> {
        let asked = filter.unwrap_or_default();
        let pods = self.engine.pods(&PodFilter {
            id: Some(asked.id).filter(|id| !id.is_empty()),
            state: Some(PodState::Ready),
            labels: asked.label_selector,
        });
        let running = ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
        let mut of_pods: HashMap<types::PodId, Vec<Arc<ContainerView>>> = HashMap::new();
        for container in self.engine.containers(&running) {
            of_pods.entry(container.plan.pod.clone()).or_default().push(container);
        }
        pods.into_iter()
            .map(|pod| {
                let containers = of_pods.remove(&pod.plan.id).unwrap_or_default();
                (pod, containers)
            })
            .collect()
    }
}

fn no_figures(why: &str) -> Status {
    status::of_engine(&EngineError::FailedPrecondition { why: why.to_owned(), source: None })
}

fn container_rows(reader: &Reader, containers: &[Arc<ContainerView>]) -> Vec<cri::ContainerStats> {
    let read = |container: &Arc<ContainerView>| {
        let plan = &container.plan;
        let upper = plan.rootfs.join("upper");
        let target = Target { id: plan.id.as_str(), cgroup: &plan.cgroup, writable_layer: Some(&upper) };
        match reader.container(&target, SystemClock.now()) {
            Ok(stats) => Some(row(container, &stats)),
            Err(error) if error.is_gone() => None,
            Err(error) => {
                tracing::warn!(container = %plan.id, %error, "cannot read its figures");
                None
            }
        }
    };
    containers.iter().filter_map(read).collect()
}

/// A pod has a row also if its group cannot be read: without those figures.
fn pod_row(
    reader: &Reader,
    pod: &PodView,
    containers: &[Arc<ContainerView>],
    network: Option<PodNetwork>,
) -> cri::PodSandboxStats {
    let (plan, now) = (&pod.plan, SystemClock.now());
    let read = match reader.pod(plan.id.as_str(), &plan.cgroup.path, now) {
        Ok(stats) => Some(stats),
        Err(error) => {
            if !error.is_gone() {
                tracing::warn!(pod = %plan.id, %error, "cannot read its figures");
            }
            None
        }
    };
    let linux = cri::LinuxPodSandboxStats {
        cpu: read.as_ref().map(|stats| cpu(&stats.cpu, stats.timestamp)),
        memory: read.as_ref().map(|stats| memory(&stats.memory, stats.timestamp)),
        network: network.as_ref().map(|network| network_usage(network, now)),
        process: read.as_ref().and_then(process_usage),
        containers: container_rows(reader, containers),
        io: read.as_ref().and_then(|stats| stats.io.as_ref().map(|usage| io(usage, stats.timestamp))),
    };
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: plan.id.to_string(),
            metadata: Some(render::pod_metadata(pod)),
            labels: plan.spec.labels.clone(),
            annotations: plan.spec.annotations.clone(),
        }),
        linux: Some(linux),
        windows: None,
    }
}

fn process_usage(stats: &PodStats) -> Option<cri::ProcessUsage> {
    let count = number(stats.processes)?;
    Some(cri::ProcessUsage { timestamp: stats.timestamp.0, process_count: Some(count) })
}

fn network_usage(network: &PodNetwork, now: Timestamp) -> cri::NetworkUsage {
    cri::NetworkUsage {
        timestamp: now.0,
        default_interface: Some(interface(&network.default)),
        interfaces: network.others.iter().map(interface).collect(),
    }
}

fn interface(interface: &Interface) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: number(Some(interface.rx_bytes)),
        rx_errors: number(Some(interface.rx_errors)),
        tx_bytes: number(Some(interface.tx_bytes)),
        tx_errors: number(Some(interface.tx_errors)),
    }
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
        cpu: Some(cpu(&stats.cpu, stats.timestamp)),
        memory: Some(memory(&stats.memory, stats.timestamp)),
        writable_layer: stats.writable_layer.as_ref().map(|(when, usage)| layer(plan, *when, usage)),
        swap: stats.swap.map(|swap| cri::SwapUsage {
            timestamp,
            swap_available_bytes: number(swap.available),
            swap_usage_bytes: number(Some(swap.usage)),
        }),
        io: stats.io.as_ref().map(|usage| io(usage, stats.timestamp)),
    }
}

fn cpu(usage: &stats::CpuUsage, timestamp: Timestamp) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: timestamp.0,
        usage_core_nano_seconds: number(usage.usage_core_nanos),
        usage_nano_cores: number(usage.usage_nano_cores),
        psi: usage.psi.as_ref().map(psi),
    }
}

fn memory(usage: &stats::MemoryUsage, timestamp: Timestamp) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp: timestamp.0,
        working_set_bytes: number(usage.working_set),
        available_bytes: number(usage.available),
        usage_bytes: number(usage.usage),
        rss_bytes: number(usage.rss),
        page_faults: number(usage.page_faults),
        major_page_faults: number(usage.major_page_faults),
        psi: usage.psi.as_ref().map(psi),
    }
}

fn io(usage: &stats::IoUsage, timestamp: Timestamp) -> cri::IoUsage {
    cri::IoUsage { timestamp: timestamp.0, psi: usage.psi.as_ref().map(psi) }
}

/// The directory of all writable layers stands for the file system: the kubelet looks once at each
/// that it is told of.
fn layer(
    plan: &engine::host::ContainerPlan,
    when: Timestamp,
    usage: &stats::DirectoryUsage,
) -> cri::FilesystemUsage {
    // <root>/pods/<pod>/<container>
    let place = plan.rootfs.ancestors().nth(2).unwrap_or(&plan.rootfs);
    cri::FilesystemUsage {
        timestamp: when.0,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: place.display().to_string() }),
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
