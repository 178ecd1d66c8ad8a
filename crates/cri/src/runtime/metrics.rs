//! ListMetricDescriptors and ListPodSandboxMetrics: what the kubelet shows at /metrics/cadvisor when
//! it takes its statistics from the CRI (KEP-2371).

use super::{Runtime, stats::Looks};
use api::cri;
use engine::{ContainerView, Host, PodView};
use stats::{
    Reader, Target,
    metrics::{BASE_LABELS, CONTAINER, Facts, Figures, Kind, Machine, Metric, POD, Value},
};
use types::{Clock as _, SystemClock, Timestamp};

/// What cAdvisor calls the container of a series that is the pod's own.
const POD_LABEL: &str = "POD";

impl<H: Host> Runtime<H> {
    /// As long as the daemon runs they are the same: the kubelet asks once.
    pub(super) async fn metric_descriptors(&self) -> cri::ListMetricDescriptorsResponse {
        let machine = self.looks().look(|reader| reader.machine().cloned().ok()).await.flatten();
        let has = |needs| machine.as_ref().is_none_or(|machine: &Machine| machine.has(needs));
        let of_containers = CONTAINER.iter().filter(|metric| has(metric.needs)).map(descriptor);
        let descriptors = of_containers.chain(POD.iter().map(descriptor)).collect();
        cri::ListMetricDescriptorsResponse { descriptors }
    }

    /// One row for each ready pod.
    pub(super) async fn pod_metrics(&self) -> cri::ListPodSandboxMetricsResponse {
        let pod_metrics = self.looks().metrics(self.pods_with_stats(None)).await;
        cri::ListPodSandboxMetricsResponse { pod_metrics }
    }
}

impl Looks {
    /// Metrics of pods; what cannot be read costs nothing else its value.
    pub(super) async fn metrics(
        self,
        pods: Vec<super::stats::PodWithContainers>,
    ) -> Vec<cri::PodSandboxMetrics> {
        self.look(move |reader| {
            let networks = stats::networks(pods.iter().map(|(pod, _)| pod.plan.pins.net.clone()).collect());
            let rows = pods.iter().zip(networks).map(|((pod, containers), network)| {
                let labels = labels(pod, pod.plan.id.as_str(), "", POD_LABEL);
                let interfaces = network.iter().flat_map(|network| network.all());
                cri::PodSandboxMetrics {
                    pod_sandbox_id: pod.plan.id.to_string(),
                    metrics: interfaces
                        .flat_map(|interface| {
                            POD.iter().flat_map(|metric| values(metric, interface, &labels))
                        })
                        .collect(),
                    container_metrics: containers
                        .iter()
                        .filter_map(|container| container_metrics(reader, pod, container))
                        .collect(),
                }
            });
            rows.collect()
        })
        .await
        .unwrap_or_default()
    }
}

fn container_metrics(
    reader: &Reader,
    pod: &PodView,
    container: &ContainerView,
) -> Option<cri::ContainerMetrics> {
    let plan = &container.plan;
    let upper = plan.rootfs.join("upper");
    let target = Target { id: plan.id.as_str(), cgroup: &plan.cgroup, writable_layer: Some(&upper) };
    let facts = Facts { started_at: container.phase.started_at(), resources: plan.resources().clone() };
    let figures = match reader.figures(&target, facts, now()) {
        Ok(figures) => figures,
        Err(error) => {
            if !error.is_gone() {
                tracing::warn!(container = %plan.id, %error, "cannot read its figures");
            }
            return None;
        }
    };
    let image = match plan.spec.user_specified_image.as_str() {
        "" => plan.image.reference.as_str(),
        image => image,
    };
    let labels = labels(pod, plan.id.as_str(), image, &plan.spec.name);
    let machine = reader.machine().ok()?;
    Some(cri::ContainerMetrics {
        container_id: plan.id.to_string(),
        metrics: machine
            .of_containers()
            .flat_map(|metric: &Metric<Figures>| values(metric, &figures, &labels))
            .collect(),
    })
}

fn now() -> Timestamp {
    SystemClock.now()
}

/// In the order of [`BASE_LABELS`].
fn labels(pod: &PodView, id: &str, image: &str, container: &str) -> [String; BASE_LABELS.len()] {
    let spec = &pod.plan.spec;
    [id, image, &spec.namespace, &spec.name, container].map(str::to_owned)
}

fn kind(kind: Kind) -> cri::MetricType {
    match kind {
        Kind::Counter => cri::MetricType::Counter,
        Kind::Gauge => cri::MetricType::Gauge,
    }
}

fn descriptor<F>(metric: &Metric<F>) -> cri::MetricDescriptor {
    cri::MetricDescriptor {
        name: metric.name.to_owned(),
        help: metric.help.to_owned(),
        label_keys: BASE_LABELS.iter().chain(metric.labels).map(|label| (*label).to_owned()).collect(),
    }
}

fn values<F>(metric: &Metric<F>, figures: &F, base: &[String]) -> Vec<cri::Metric> {
    let of = |value: Value| cri::Metric {
        name: metric.name.to_owned(),
        // 0 is now: nothing was collected ahead of time.
        timestamp: 0,
        metric_type: kind(metric.kind).into(),
        label_values: base.iter().cloned().chain(value.labels).collect(),
        value: Some(cri::UInt64Value { value: value.number }),
    };
    (metric.read)(figures).into_iter().map(of).collect()
}
