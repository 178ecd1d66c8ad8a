//! One container of a pod.

use super::{
    names,
    quantity::Quantity,
    reader::{Item, Object, Result, shown},
    security::{self, ContainerSecurity},
    volume::{self, VolumeMount},
};
use std::{collections::BTreeSet, net::IpAddr};

#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) image: String,
    pub(crate) pull: PullPolicy,
    /// Not expanded yet.
    pub(crate) command: Vec<String>,
    /// Not expanded yet.
    pub(crate) args: Vec<String>,
    /// Not expanded yet.
    pub(crate) env: Vec<EnvVar>,
    pub(crate) working_dir: String,
    pub(crate) ports: Vec<Port>,
    pub(crate) mounts: Vec<VolumeMount>,
    pub(crate) resources: Resources,
    pub(crate) security: ContainerSecurity,
    /// Absolute; `/dev/termination-log` if the manifest says nothing.
    pub(crate) termination_path: String,
}

/// Name and value.
pub(crate) type EnvVar = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of `initContainers`: runs to its end before the next is started.
    Init,
    /// Of `initContainers` with restartPolicy Always: runs beside the rest (KEP-753).
    Sidecar,
    /// Of `containers`.
    App,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// Where it stands in the manifest.
    pub(crate) path: String,
    pub(crate) container_port: u16,
    pub(crate) host_port: Option<u16>,
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Requests that the manifest leaves out are the limits, as the API server fills them in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Thousandths of a CPU.
    pub(crate) cpu_request: Option<i64>,
    /// Thousandths of a CPU.
    pub(crate) cpu_limit: Option<i64>,
    /// Bytes.
    pub(crate) memory_request: Option<i64>,
    /// Bytes.
    pub(crate) memory_limit: Option<i64>,
}

/// What Kubernetes has in a Container and we do not obey.
const REFUSED: &[&str] = &[
    "envFrom",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "resizePolicy",
    "restartPolicyRules",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "targetContainerName",
    "tty",
    "volumeDevices",
];

pub(super) fn read(mut object: Object, init: bool) -> Result<Container> {
    let name = object.required("name")?;
    if !names::is_label(&name) {
        return Err(object.wrong("name", "want at most 63 of a-z, 0-9 and `-`"));
    }
    let kind = match (init, object.text("restartPolicy")?.as_deref()) {
        (true, Some("Always")) => Kind::Sidecar,
        (true, None) => Kind::Init,
        (false, None) => Kind::App,
        (true, Some(other)) => {
            return Err(
                object.wrong("restartPolicy", format!("`{}` is not supported: want Always", shown(other)))
            );
        }
        (false, Some(_)) => {
            return Err(super::ManifestError::NotSupported(object.at("restartPolicy")));
        }
    };
    let image = object.required("image")?;
    if image.trim() != image {
        return Err(object.wrong("image", "has spaces around it"));
    }
    let policies = [
        ("IfNotPresent", PullPolicy::IfNotPresent),
        ("Always", PullPolicy::Always),
        ("Never", PullPolicy::Never),
    ];
    let pull = object.word("imagePullPolicy", &policies)?.unwrap_or(PullPolicy::IfNotPresent);
    let termination_path = match object.text("terminationMessagePath")?.filter(|path| !path.is_empty()) {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err(object.wrong("terminationMessagePath", "want an absolute path")),
        None => "/dev/termination-log".to_owned(),
    };
    object.only("terminationMessagePolicy", &["File"])?;
    let command = object.texts("command")?;
    let args = object.texts("args")?;
    let working_dir = object.text("workingDir")?.unwrap_or_default();
    let env = env(&mut object)?;
    let ports = ports(&mut object)?;
    let mounts = volume::read_mounts(object.list("volumeMounts")?)?;
    let resources = resources(object.object("resources")?)?;
    let security = security::container(object.object("securityContext")?)?;
    let both_ways = mounts.iter().find(|m| m.propagation == volume::Propagation::Bidirectional);
    if let Some(mount) = both_ways.filter(|_| !security.privileged) {
        let path = format!("{}.mountPropagation", mount.path);
        let reason = "Bidirectional is for privileged containers".to_owned();
        return Err(super::ManifestError::Wrong { path, reason });
    }
    object.finish(REFUSED)?;
    Ok(Container {
        name,
        kind,
        image,
        pull,
        command,
        args,
        env,
        working_dir,
        ports,
        mounts,
        resources,
        security,
        termination_path,
    })
}

fn env(object: &mut Object) -> Result<Vec<EnvVar>> {
    let read = |item: Item| {
        let mut variable = item.object()?;
        let name = variable.required("name")?;
        if !names::is_variable(&name) {
            return Err(variable.wrong("name", "want printable ASCII without `=`"));
        }
        let value = variable.text("value")?.unwrap_or_default();
        variable.finish(&["valueFrom"])?;
        Ok((name, value))
    };
    object.list("env")?.into_iter().map(read).collect()
}

fn ports(object: &mut Object) -> Result<Vec<Port>> {
    let mut names_seen = BTreeSet::new();
    let mut all = Vec::new();
    for item in object.list("ports")? {
        let mut port = item.object()?;
        let protocols = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
        let protocol = port.word("protocol", &protocols)?.unwrap_or(Protocol::Tcp);
        let container_port = port
            .number("containerPort", 1..=65535)?
            .ok_or_else(|| port.wrong("containerPort", "is required"))?;
        let host_port = port.number("hostPort", 0..=65535)?.filter(|port| *port != 0);
        let host_ip = match port.text("hostIP")?.filter(|ip| !ip.is_empty()) {
            Some(ip) => Some(ip.parse().map_err(|_| port.wrong("hostIP", "is no IP address"))?),
            None => None,
        };
        if let Some(name) = port.text("name")? {
            if !names::is_port_name(&name) {
                return Err(port.wrong("name", "want at most 15 of a-z, 0-9 and `-`, with a letter"));
            }
            if !names_seen.insert(name) {
                return Err(port.wrong("name", "is used twice in this container"));
            }
        }
        let path = port.path().to_owned();
        port.finish(&[])?;
        let (container_port, host_port) = (number(container_port), host_port.map(number));
        all.push(Port { path, container_port, host_port, host_ip, protocol });
    }
    Ok(all)
}

/// Within range by [`Object::number`].
fn number(port: i64) -> u16 {
    u16::try_from(port).expect("a port was checked to be at most 65535")
}

fn resources(object: Option<Object>) -> Result<Resources> {
    let Some(mut object) = object else { return Ok(Resources::default()) };
    let (cpu_limit, memory_limit) = amounts(object.object("limits")?)?;
    let (cpu_request, memory_request) = amounts(object.object("requests")?)?;
    if cpu_request > cpu_limit.or(cpu_request) {
        return Err(object.wrong("requests.cpu", "is more than the limit"));
    }
    if memory_request > memory_limit.or(memory_request) {
        return Err(object.wrong("requests.memory", "is more than the limit"));
    }
    object.finish(&["claims"])?;
    Ok(Resources {
        cpu_request: cpu_request.or(cpu_limit).map(Quantity::milli),
        cpu_limit: cpu_limit.map(Quantity::milli),
        memory_request: memory_request.or(memory_limit).map(Quantity::value),
        memory_limit: memory_limit.map(Quantity::value),
    })
}

/// CPU and memory of `limits` or `requests`.
fn amounts(object: Option<Object>) -> Result<(Option<Quantity>, Option<Quantity>)> {
    let Some(object) = object else { return Ok((None, None)) };
    let (mut cpu, mut memory) = (None, None);
    for (name, item) in object.into_items() {
        let amount = match name.as_str() {
            "cpu" => &mut cpu,
            "memory" => &mut memory,
            _ => return Err(super::ManifestError::NotSupported(item.path)),
        };
        *amount = Some(item.quantity()?);
    }
    Ok((cpu, memory))
}
