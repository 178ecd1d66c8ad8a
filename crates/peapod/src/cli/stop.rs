//! `peapod stop` and `peapod rm`.

use super::{
    client::{Client, told},
    find::{self, Pod},
    output,
    run::{GRACE, KIND, Places},
};
use anyhow::Context as _;
use api::cri::{ContainerState, RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Stop pods: their containers end, and their network is given back
///
/// Containers get SIGTERM (or their image's stop signal), and SIGKILL after the pod's
/// terminationGracePeriodSeconds. Logs and exit codes stay until the pod is removed.
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// Names, namespace/name, or ids
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
    /// Seconds until SIGKILL, in place of the pod's own
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u32>,
    #[command(flatten)]
    places: Places,
}

/// Stop and remove pods, with their logs and emptyDir volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod rm web\n  peapod rm --all --timeout 0")]
pub(crate) struct Rm {
    /// Names, namespace/name, or ids
    #[arg(required_unless_present = "all", value_name = "POD")]
    pods: Vec<String>,
    /// Every pod of the daemon
    #[arg(short, long, conflicts_with = "pods")]
    all: bool,
    /// Seconds until SIGKILL, in place of the pod's own
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u32>,
    #[command(flatten)]
    places: Places,
}

/// Grace where nobody said any, as in Kubernetes.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// What a sidecar gets at least, though the apps used up the pod's grace (KEP-753).
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// A container that is to be stopped.
#[derive(Clone, Debug)]
pub(crate) struct Stopping {
    pub(crate) id: String,
    pub(crate) sidecar: bool,
}

pub(crate) async fn stop(args: &Stop, client: &mut Client) -> anyhow::Result<u8> {
    let pods = find::pods(client).await?;
    // All or none is found before anything is stopped.
    let chosen = chosen(&pods, &args.pods)?;
    for pod in chosen {
        stop_found(client, pod, args.timeout, &args.places).await?;
        output::print(&format!("stopped {}\n", pod.full_name()))?;
    }
    Ok(0)
}

pub(crate) async fn rm(args: &Rm, client: &mut Client) -> anyhow::Result<u8> {
    let pods = find::pods(client).await?;
    let chosen = if args.all { pods.iter().collect() } else { chosen(&pods, &args.pods)? };
    for pod in chosen {
        stop_found(client, pod, args.timeout, &args.places).await?;
        remove(client, pod, &args.places).await?;
        output::print(&format!("removed {}\n", pod.full_name()))?;
    }
    let claim = args.places.claim()?;
    let left: BTreeSet<String> = find::pods(client).await?.into_iter().map(|pod| pod.uid).collect();
    args.places.sweep(&claim, client.address().path(), &left)?;
    args.places.tidy(claim);
    Ok(0)
}

fn chosen<'a>(pods: &'a [Pod], texts: &[String]) -> anyhow::Result<Vec<&'a Pod>> {
    let mut all: Vec<&Pod> = Vec::new();
    for text in texts {
        for pod in find::choose(pods, text)? {
            if !all.iter().any(|seen| seen.id == pod.id) {
                all.push(pod);
            }
        }
    }
    Ok(all)
}

async fn stop_found(client: &Client, pod: &Pod, timeout: Option<u32>, places: &Places) -> anyhow::Result<()> {
    places.mark_stopping(&pod.uid, client.address().path());
    let living = |c: &&api::cri::Container| c.state() != ContainerState::ContainerExited;
    let stopping = |c: &api::cri::Container| Stopping {
        id: c.id.clone(),
        sidecar: c.annotations.get(KIND).is_some_and(|kind| kind == "sidecar"),
    };
    let containers = pod.containers.iter().filter(living).map(stopping).collect();
    let own = pod.containers.iter().filter_map(|c| c.annotations.get(GRACE)?.parse().ok()).max();
    let grace = timeout.map(u64::from).or(own).map_or(DEFAULT_GRACE, Duration::from_secs);
    stop_containers(client, containers, grace)
        .await
        .and(stop_sandbox(client, &pod.id).await)
        .with_context(|| format!("cannot stop pod {}", pod.full_name()))
}

/// Removes a stopped pod from the daemon, and then what it had on the disk.
pub(crate) async fn remove(client: &Client, pod: &Pod, places: &Places) -> anyhow::Result<()> {
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    let removed = client.runtime.clone().remove_pod_sandbox(request).await;
    removed.map_err(|s| told(&s)).with_context(|| format!("cannot remove pod {}", pod.full_name()))?;
    places.remove(&pod.uid, client.address().path())
}

/// Stops containers in the kubelet's order: all but the sidecars at once, then the sidecars, the last first.
pub(crate) async fn stop_containers(
    client: &Client,
    all: Vec<Stopping>,
    grace: Duration,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (sidecars, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|container| container.sidecar);
    let mut at_once = tokio::task::JoinSet::new();
    for container in others {
        at_once.spawn(stop_container(client.clone(), container.id, grace));
    }
    while let Some(stopped) = at_once.join_next().await {
        stopped??;
    }
    for sidecar in sidecars.into_iter().rev() {
        let left = grace.saturating_sub(begin.elapsed()).max(LEAST_GRACE.min(grace));
        stop_container(client.clone(), sidecar.id, left).await?;
    }
    Ok(())
}

async fn stop_container(mut client: Client, container_id: String, grace: Duration) -> anyhow::Result<()> {
    let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
    let request = StopContainerRequest { container_id, timeout };
    client.runtime.stop_container(request).await.map_err(|s| told(&s))?;
    Ok(())
}

/// Ends what still runs in a sandbox, at once, and gives back its network.
pub(crate) async fn stop_sandbox(client: &Client, id: &str) -> anyhow::Result<()> {
    let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    client.runtime.clone().stop_pod_sandbox(request).await.map_err(|s| told(&s))?;
    Ok(())
}
