//! `peapod ps`.

use super::{
    client::{Client, told},
    find::{self, Pod},
    output::{self, Format},
    table::table,
};
use api::cri::{Container, ContainerStatusRequest, PodSandboxStatusRequest};
use serde::Serialize;

/// List pods and their containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod ps\n  peapod ps web\n  peapod ps -o json\n\n\
                        A pod is listed until it is removed, whether it runs or not.")]
pub(crate) struct Ps {
    /// Only these pods: names, namespace/name, or ids
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Also earlier attempts of containers that were restarted
    #[arg(short, long)]
    all: bool,
}

/// A pod as `-o json` shows it. Fields are added, never changed.
#[derive(Debug, Serialize)]
struct PodRow {
    name: String,
    namespace: String,
    id: String,
    /// `Ready` or `NotReady`.
    state: &'static str,
    /// Empty with the host's network, and once the pod was stopped.
    ip: String,
    containers: Vec<ContainerRow>,
    uid: String,
    #[serde(skip)]
    created_at: i64,
}

/// A container as `-o json` shows it.
#[derive(Debug, Serialize)]
struct ContainerRow {
    name: String,
    id: String,
    /// `Created`, `Running`, `Exited` or `Unknown`.
    state: &'static str,
    /// As the manifest names it.
    image: String,
    restarts: u32,
    /// Only when it has exited.
    #[serde(rename = "exitCode", skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip)]
    since: i64,
}

pub(crate) async fn ps(args: &Ps, client: &mut Client) -> anyhow::Result<u8> {
    let all = find::pods(client).await?;
    let mut rows = Vec::new();
    for pod in wanted(&all, &args.pods)? {
        // A pod that went meanwhile is not shown.
        if let Some(row) = row(client, pod, args.all).await? {
            rows.push(row);
        }
    }
    match args.output {
        Format::Json => output::print_json(&rows)?,
        Format::Table => output::print(&text(&rows))?,
    }
    Ok(0)
}

fn wanted<'a>(all: &'a [Pod], texts: &[String]) -> anyhow::Result<Vec<&'a Pod>> {
    if texts.is_empty() {
        return Ok(all.iter().collect());
    }
    let mut some = Vec::new();
    for text in texts {
        some.extend(find::choose(all, text)?);
    }
    Ok(some)
}

async fn row(client: &mut Client, pod: &Pod, all: bool) -> anyhow::Result<Option<PodRow>> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = match client.runtime.pod_sandbox_status(request).await {
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
        status => status.map_err(|s| told(&s))?.into_inner().status.unwrap_or_default(),
    };
    let shown = if all { pod.containers.iter().collect() } else { pod.newest() };
    let mut containers = Vec::new();
    for container in shown {
        containers.extend(container_row(client, container).await?);
    }
    Ok(Some(PodRow {
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        id: pod.id.clone(),
        state: if pod.ready { "Ready" } else { "NotReady" },
        ip: status.network.unwrap_or_default().ip,
        containers,
        uid: pod.uid.clone(),
        created_at: pod.created_at,
    }))
}

async fn container_row(client: &mut Client, container: &Container) -> anyhow::Result<Option<ContainerRow>> {
    let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
    let status = match client.runtime.container_status(request).await {
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
        status => status.map_err(|s| told(&s))?.into_inner().status.unwrap_or_default(),
    };
    let state = find::state(container);
    let exited = state == "Exited";
    let spec = container.image.clone().unwrap_or_default();
    let image = [spec.user_specified_image, status.image.unwrap_or_default().image, spec.image];
    Ok(Some(ContainerRow {
        name: find::name(container).to_owned(),
        id: container.id.clone(),
        state,
        image: image.into_iter().find(|image| !image.is_empty()).unwrap_or_default(),
        restarts: find::attempt(container),
        exit_code: exited.then_some(status.exit_code),
        since: if exited { status.finished_at } else { status.started_at.max(container.created_at) },
    }))
}

fn text(pods: &[PodRow]) -> String {
    let mut rows = Vec::new();
    for pod in pods {
        let mut head = [
            format!("{}/{}", pod.namespace, pod.name),
            output::short_id(&pod.id),
            pod.state.to_owned(),
            if pod.ip.is_empty() { "-".to_owned() } else { pod.ip.clone() },
            output::ago(pod.created_at),
        ];
        let containers: Vec<[String; 4]> = pod.containers.iter().map(container_cells).collect();
        let none = ["-".to_owned(), String::new(), String::new(), String::new()];
        for cells in if containers.is_empty() { vec![none] } else { containers } {
            let [name, state, restarts, image] = cells;
            let [pod_name, id, pod_state, ip, age] = std::mem::take(&mut head);
            rows.push([pod_name, id, pod_state, ip, age, name, state, restarts, image]);
        }
    }
    table(["POD", "ID", "STATE", "IP", "AGE", "CONTAINER", "STATE", "RESTARTS", "IMAGE"], &rows)
}

fn container_cells(container: &ContainerRow) -> [String; 4] {
    let state = match container.exit_code {
        Some(code) => format!("Exited ({code}) {} ago", output::ago(container.since)),
        None => format!("{} {}", container.state, output::ago(container.since)),
    };
    let image = if container.image.starts_with("sha256:") {
        output::short_id(&container.image)
    } else {
        container.image.clone()
    };
    [container.name.clone(), state, container.restarts.to_string(), image]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<PodRow> {
        let container = |name: &str, state, exit_code| ContainerRow {
            name: name.to_owned(),
            id: format!("{name}-id"),
            state,
            image: "myapp:latest".to_owned(),
            restarts: 2,
            exit_code,
            since: i64::MAX,
        };
        vec![PodRow {
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            id: "0123456789abcdef".to_owned(),
            state: "Ready",
            ip: "10.88.0.2".to_owned(),
            containers: vec![container("app", "Running", None), container("side", "Exited", Some(137))],
            uid: "u".to_owned(),
            created_at: i64::MAX,
        }]
    }

    #[test]
    fn a_pod_has_one_line_for_each_container_and_its_name_once() {
        let want = "\
POD          ID            STATE  IP         AGE  CONTAINER  STATE                RESTARTS  IMAGE
default/web  0123456789ab  Ready  10.88.0.2  0s   app        Running 0s           2         myapp:latest
                                                  side       Exited (137) 0s ago  2         myapp:latest
";
        assert_eq!(text(&rows()), want);
    }

    #[test]
    fn json_has_the_fields_that_programs_rely_on() {
        let json = serde_json::to_value(rows()).expect("serializes");
        assert_eq!(json[0]["ip"], "10.88.0.2");
        assert_eq!(
            json[0]["containers"][1],
            serde_json::json!({
                "name": "side", "id": "side-id", "state": "Exited", "image": "myapp:latest", "restarts": 2, "exitCode": 137
            })
        );
        let fields: Vec<&String> = json[0].as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["containers", "id", "ip", "name", "namespace", "state", "uid"]);
    }
}
