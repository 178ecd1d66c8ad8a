//! Pods and containers as the daemon lists them, and which of them a person means.

use super::client::{Client, told};
use api::cri::{
    Container, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandbox, PodSandboxState,
};

/// Kubernetes' label of a pod's containers: the name in the manifest.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// A sandbox with its containers, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
    pub(crate) containers: Vec<Container>,
}

impl Pod {
    /// `namespace/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Each container's newest attempt, in the order of their first ones.
    pub(crate) fn newest(&self) -> Vec<&Container> {
        let mut newest: Vec<&Container> = Vec::new();
        for container in &self.containers {
            match newest.iter_mut().find(|seen| name(seen) == name(container)) {
                Some(seen) if attempt(seen) <= attempt(container) => *seen = container,
                Some(_) => {}
                None => newest.push(container),
            }
        }
        newest
    }
}

/// A container's name.
pub(crate) fn name(container: &Container) -> &str {
    container.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

/// How often it was made before.
pub(crate) fn attempt(container: &Container) -> u32 {
    container.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}

/// A container's state, as a word.
pub(crate) fn state(container: &Container) -> &'static str {
    match container.state() {
        ContainerState::ContainerCreated => "Created",
        ContainerState::ContainerRunning => "Running",
        ContainerState::ContainerExited => "Exited",
        ContainerState::ContainerUnknown => "Unknown",
    }
}

/// All pods of the daemon, oldest first.
pub(crate) async fn pods(client: &mut Client) -> anyhow::Result<Vec<Pod>> {
    let sandboxes =
        client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.map_err(|s| told(&s))?;
    let containers =
        client.runtime.list_containers(ListContainersRequest::default()).await.map_err(|s| told(&s))?;
    Ok(joined(sandboxes.into_inner().items, containers.into_inner().containers))
}

fn joined(sandboxes: Vec<PodSandbox>, containers: Vec<Container>) -> Vec<Pod> {
    let pod = |sandbox: PodSandbox| {
        let ready = sandbox.state() == PodSandboxState::SandboxReady;
        let metadata = sandbox.metadata.unwrap_or_default();
        Pod {
            id: sandbox.id,
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            ready,
            created_at: sandbox.created_at,
            annotations: sandbox.annotations,
            containers: Vec::new(),
        }
    };
    let mut pods: Vec<Pod> = sandboxes.into_iter().map(pod).collect();
    pods.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    for container in containers {
        if let Some(pod) = pods.iter_mut().find(|pod| pod.id == container.pod_sandbox_id) {
            pod.containers.push(container);
        }
    }
    for pod in &mut pods {
        pod.containers
            .sort_by(|a, b| (a.created_at, attempt(a), &a.id).cmp(&(b.created_at, attempt(b), &b.id)));
    }
    pods
}

/// Why no pod, or not one, is meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unclear {
    #[error("there is no pod `{0}`")]
    NoPod(String),
    #[error("`{text}` is more than one pod: {candidates}")]
    Several { text: String, candidates: String },
    #[error("pod {pod} has no container `{name}`; it has {has}")]
    NoContainer { pod: String, name: String, has: String },
}

/// The sandboxes that `text` means: a name, `namespace/name`, an id or its beginning. More than one only if
/// they are attempts of the same pod; the newest is the last.
///
/// # Errors
/// [`Unclear`] if there is none, or if pods of two namespaces or uids would fit.
pub(crate) fn choose<'a>(pods: &'a [Pod], text: &str) -> Result<Vec<&'a Pod>, Unclear> {
    let named: Vec<&Pod> = match text.split_once('/') {
        Some((namespace, name)) => {
            pods.iter().filter(|p| p.namespace == namespace && p.name == name).collect()
        }
        None => pods.iter().filter(|p| p.name == text).collect(),
    };
    let found = if named.is_empty() && !text.is_empty() {
        pods.iter().filter(|pod| pod.id.starts_with(text)).collect()
    } else {
        named
    };
    let Some(first) = found.first() else { return Err(Unclear::NoPod(super::manifest::shown(text))) };
    let same = |pod: &&Pod| (&pod.namespace, &pod.name) == (&first.namespace, &first.name);
    if found.iter().all(same) {
        return Ok(found);
    }
    let candidates: Vec<String> = found.iter().map(|p| format!("{} ({:.12})", p.full_name(), p.id)).collect();
    Err(Unclear::Several { text: super::manifest::shown(text), candidates: candidates.join(", ") })
}

/// The newest of [`choose`], one that is ready if there is one.
pub(crate) fn choose_one<'a>(pods: &'a [Pod], text: &str) -> Result<&'a Pod, Unclear> {
    let found = choose(pods, text)?;
    let ready = found.iter().rev().find(|pod| pod.ready);
    ready.or(found.last()).copied().ok_or_else(|| Unclear::NoPod(super::manifest::shown(text)))
}

/// The newest attempt of a container of a pod.
pub(crate) fn container<'a>(pod: &'a Pod, wanted: &str) -> Result<&'a Container, Unclear> {
    let newest = pod.newest();
    newest.iter().find(|c| name(c) == wanted).copied().ok_or_else(|| {
        let names: Vec<&str> = newest.iter().map(|c| name(c)).collect();
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Unclear::NoContainer { pod: pod.full_name(), name: super::manifest::shown(wanted), has }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::cri::{ContainerMetadata, PodSandboxMetadata};

    fn sandbox(id: &str, namespace: &str, name: &str, created_at: i64) -> PodSandbox {
        let metadata =
            PodSandboxMetadata { name: name.into(), namespace: namespace.into(), ..Default::default() };
        PodSandbox { id: id.into(), metadata: Some(metadata), created_at, ..Default::default() }
    }

    fn of(pod: &str, name: &str, attempt: u32, created_at: i64) -> Container {
        Container {
            id: format!("{name}{attempt}"),
            pod_sandbox_id: pod.into(),
            metadata: Some(ContainerMetadata { name: name.into(), attempt }),
            created_at,
            ..Default::default()
        }
    }

    fn some() -> Vec<Pod> {
        joined(
            vec![
                sandbox("c3", "default", "web", 9),
                sandbox("a1", "default", "web", 1),
                sandbox("ab", "kube-system", "dns", 2),
                sandbox("ff", "other", "dns", 3),
                sandbox("d0", "default", "ab", 4),
            ],
            vec![of("a1", "app", 1, 7), of("a1", "app", 0, 2), of("a1", "log", 0, 3), of("??", "lost", 0, 1)],
        )
    }

    fn ids(text: &str) -> Result<Vec<String>, Unclear> {
        Ok(choose(&some(), text)?.into_iter().map(|pod| pod.id.clone()).collect())
    }

    #[test]
    fn a_pod_is_meant_by_name_by_full_name_or_by_the_beginning_of_its_id() {
        assert_eq!(ids("web"), Ok(vec!["a1".into(), "c3".into()]));
        assert_eq!(ids("kube-system/dns"), Ok(vec!["ab".into()]));
        assert_eq!(ids("f"), Ok(vec!["ff".into()]));
        // A name wins over an id.
        assert_eq!(ids("ab"), Ok(vec!["d0".into()]));
        assert!(matches!(ids("dns"), Err(Unclear::Several { .. })));
        assert!(matches!(ids("a"), Err(Unclear::Several { .. })));
        for none in ["", "default/dns", "x", "we"] {
            assert_eq!(ids(none), Err(Unclear::NoPod(none.to_owned())));
        }
        assert_eq!(choose_one(&some(), "web").expect("the newest").id, "c3");
    }

    #[test]
    fn the_newest_attempt_of_each_container_counts() {
        let pods = some();
        let newest: Vec<&str> = pods[0].newest().iter().map(|c| c.id.as_str()).collect();
        assert_eq!(newest, ["app1", "log0"]);
        assert_eq!(container(&pods[0], "app").expect("there").id, "app1");
        let error = container(&pods[0], "db").expect_err("not there").to_string();
        assert_eq!(error, "pod default/web has no container `db`; it has app, log");
    }
}
