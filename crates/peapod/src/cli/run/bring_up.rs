//! From a manifest to a sandbox that is ready for containers.

use super::{
    super::{
        client::{Client, told},
        find,
        manifest::Pod,
        stop,
    },
    dns, images,
    places::{Hold, Places},
    plan::{MADE_BY_RUN, Plan},
    qos,
};
use anyhow::{Context as _, bail};
use api::cri::{ContainerState, Image, PodSandboxConfig, PodSandboxStatusRequest, RunPodSandboxRequest};
use std::{collections::BTreeMap, fs};

/// A pod whose sandbox is ready and whose containers are still to be made.
#[derive(Debug)]
pub(crate) struct BroughtUp {
    pub(crate) plan: Plan,
    pub(crate) id: String,
    pub(crate) sandbox: PodSandboxConfig,
    /// By the name in the manifest.
    pub(crate) images: BTreeMap<String, Image>,
    /// Empty with the host's network.
    pub(crate) ip: String,
    pub(crate) hold: Hold,
}

/// The earlier pods of this name, which may be replaced.
///
/// # Errors
/// If one lives, or is not of `peapod run`.
pub(crate) fn replaceable<'a>(
    pods: &'a [find::Pod],
    pod: &Pod,
    places: &Places,
) -> anyhow::Result<Vec<&'a find::Pod>> {
    let same = |other: &&find::Pod| other.namespace == pod.namespace && other.name == pod.name;
    let earlier: Vec<&find::Pod> = pods.iter().filter(same).collect();
    for other in &earlier {
        let name = other.full_name();
        if !other.annotations.contains_key(MADE_BY_RUN) {
            bail!("there is a pod {name} that peapod run did not make; it is left alone");
        }
        let runs = |c: &api::cri::Container| match c.state() {
            ContainerState::ContainerRunning | ContainerState::ContainerUnknown => true,
            ContainerState::ContainerCreated | ContainerState::ContainerExited => false,
        };
        if other.containers.iter().any(runs) || places.is_held(&other.uid) {
            bail!("pod {name} runs already; `peapod rm {name}` removes it");
        }
    }
    Ok(earlier)
}

/// Pulls what is missing, makes room for the pod (its ended predecessor, orphans), and runs its sandbox.
///
/// # Errors
/// Nothing of the new pod is left then.
pub(crate) async fn bring_up(client: &Client, pod: Pod, places: &Places) -> anyhow::Result<BroughtUp> {
    let mut images = BTreeMap::new();
    for container in &pod.containers {
        images.insert(container.image.clone(), images::ensure(client, container).await?);
    }
    let claim = places.claim()?;
    let owner = client.address().path();
    let pods = find::pods(&mut client.clone()).await?;
    let replaced = replaceable(&pods, &pod, places)?;
    for old in &replaced {
        stop::stop_sandbox(client, &old.id)
            .await
            .with_context(|| format!("cannot stop pod {}", old.full_name()))?;
        stop::remove(client, old, places).await?;
    }
    let known = pods.iter().filter(|pod| !replaced.iter().any(|old| old.id == pod.id));
    places.sweep(&claim, owner, &known.map(|pod| pod.uid.clone()).collect())?;

    let uid = match &pod.uid {
        Some(uid) => uid.clone(),
        None => random_uid()?,
    };
    let pod_places = places.of(&pod, &uid);
    let hold = places.make(&claim, &pod, &pod_places, owner)?;
    let memory = qos::machine_memory(&fs::read_to_string("/proc/meminfo")?);
    let plan = Plan { uid, places: pod_places, memory, masked_cpus: masked_cpus(), pod };
    let sandbox = plan.sandbox(dns::config(&plan.pod.dns));
    match run(client, &sandbox).await {
        Ok((id, ip)) => Ok(BroughtUp { plan, id, sandbox, images, ip, hold }),
        Err(error) => {
            // What could not be removed is swept by the next `run`.
            let _ = places.remove(&plan.uid, owner);
            Err(error.context(format!("cannot bring up pod {}/{}", plan.pod.namespace, plan.pod.name)))
        }
    }
}

async fn run(client: &Client, sandbox: &PodSandboxConfig) -> anyhow::Result<(String, String)> {
    let mut runtime = client.runtime.clone();
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let id = runtime.run_pod_sandbox(request).await.map_err(|s| told(&s))?.into_inner().pod_sandbox_id;
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = runtime.pod_sandbox_status(request).await.map_err(|s| told(&s))?.into_inner().status;
    Ok((id, status.unwrap_or_default().network.unwrap_or_default().ip))
}

/// A version 4 UUID, as the API server gives pods.
fn random_uid() -> anyhow::Result<String> {
    let text =
        fs::read_to_string("/proc/sys/kernel/random/uuid").context("the kernel gives no random number")?;
    Ok(text.trim().to_owned())
}

/// The CPUs whose heat a container must not see, as the kubelet masks them.
fn masked_cpus() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let cpu = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let is_cpu =
            name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        (is_cpu && fs::metadata(entry.path().join("thermal_throttle")).is_ok()).then_some(name)
    };
    let mut cpus: Vec<String> = entries.filter_map(cpu).collect();
    cpus.sort();
    cpus
}
