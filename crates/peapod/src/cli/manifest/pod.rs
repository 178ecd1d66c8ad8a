//! Metadata and specification of the pod as a whole.

use super::{
    ManifestError,
    container::{self, Container, Kind},
    names,
    reader::{Object, Result, shown},
    security::{self, PodSecurity},
    volume::{self, Volume},
};
use std::{collections::BTreeMap, collections::BTreeSet, net::IpAddr};

/// A pod that `peapod run` can bring up.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// `metadata.name`.
    pub(crate) name: String,
    /// `metadata.namespace`, else `default`.
    pub(crate) namespace: String,
    /// `metadata.uid`, if the manifest has one.
    pub(crate) uid: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// `initContainers` and then `containers`, each in its order.
    pub(crate) containers: Vec<Container>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) restart: RestartPolicy,
    /// `terminationGracePeriodSeconds`.
    pub(crate) grace: i64,
    /// As the pod sees it: `spec.hostname`, else made of the name.
    pub(crate) hostname: String,
    pub(crate) host_network: bool,
    pub(crate) dns: Dns,
    pub(crate) security: PodSecurity,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// `dnsPolicy` and `dnsConfig`. Without a cluster, ClusterFirst is Default: the host's resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    /// dnsPolicy None: nothing of the host.
    pub(crate) own_only: bool,
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    /// Name and value.
    pub(crate) options: Vec<(String, Option<String>)>,
}

/// What Kubernetes has in a PodSpec and we do not obey.
const REFUSED: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostPID",
    "hostnameOverride",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "overhead",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "runtimeClassName",
    "schedulingGates",
    "schedulingGroup",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "tolerations",
    "topologySpreadConstraints",
    "workloadRef",
];

pub(super) fn read(mut document: Object) -> Result<Pod> {
    for (key, want) in [("apiVersion", "v1"), ("kind", "Pod")] {
        match document.text(key)?.as_deref() {
            Some(text) if text == want => {}
            Some(other) => {
                return Err(document.wrong(key, format!("`{}` is not supported: want {want}", shown(other))));
            }
            None => return Err(document.wrong(key, format!("is required: {want}"))),
        }
    }
    let metadata = document.object("metadata")?.ok_or_else(|| document.wrong("metadata", "is required"))?;
    let spec = document.object("spec")?.ok_or_else(|| document.wrong("spec", "is required"))?;
    document.finish(&["status"])?;
    let pod = read_spec(spec, read_metadata(metadata)?)?;
    check_together(&pod)?;
    Ok(pod)
}

struct Metadata {
    name: String,
    namespace: String,
    uid: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn read_metadata(mut metadata: Object) -> Result<Metadata> {
    let name = metadata.required("name")?;
    if !names::is_subdomain(&name) {
        return Err(metadata.wrong("name", "want at most 253 of a-z, 0-9, `-` and `.`, as a DNS name"));
    }
    let namespace =
        metadata.text("namespace")?.filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
    if !names::is_label(&namespace) {
        return Err(metadata.wrong("namespace", "want at most 63 of a-z, 0-9 and `-`"));
    }
    let uid = metadata.text("uid")?.filter(|uid| !uid.is_empty());
    if uid.as_deref().is_some_and(|uid| !names::is_uid(uid)) {
        return Err(metadata.wrong("uid", "want at most 63 letters, digits and `-`"));
    }
    let labels = labels(&mut metadata)?;
    let annotations = annotations(&mut metadata)?;
    metadata.ignore(&["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink"]);
    metadata.finish(&[
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "ownerReferences",
    ])?;
    Ok(Metadata { name, namespace, uid, labels, annotations })
}

fn read_spec(mut spec: Object, metadata: Metadata) -> Result<Pod> {
    let containers = containers(&mut spec)?;
    let volumes = volume::read(spec.list("volumes")?)?;
    let policies = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    let restart = spec.word("restartPolicy", &policies)?.unwrap_or(RestartPolicy::Always);
    let grace = spec.number("terminationGracePeriodSeconds", 0..=366 * 24 * 3600)?.unwrap_or(30);
    let hostname = hostname(&mut spec, &metadata.name)?;
    let host_network = spec.flag("hostNetwork")?.unwrap_or(false);
    let dns = dns(&mut spec)?;
    let security = security::pod(spec.object("securityContext")?, host_network)?;
    ask_nothing(&mut spec)?;
    spec.finish(REFUSED)?;
    let Metadata { name, namespace, uid, labels, annotations } = metadata;
    Ok(Pod {
        name,
        namespace,
        uid,
        labels,
        annotations,
        containers,
        volumes,
        restart,
        grace,
        hostname,
        host_network,
        dns,
        security,
    })
}

/// Fields that a server fills in with what asks for nothing on a node alone.
fn ask_nothing(spec: &mut Object) -> Result<()> {
    spec.only("enableServiceLinks", &["true", "false"])?;
    // `false` asks for a user namespace.
    spec.only("hostUsers", &["true"])?;
    spec.only("preemptionPolicy", &["PreemptLowerPriority"])?;
    spec.only("schedulerName", &["default-scheduler"])?;
    spec.only("serviceAccount", &["default"])?;
    spec.only("serviceAccountName", &["default"])?;
    if let Some(mut os) = spec.object("os")? {
        os.only("name", &["linux"])?;
        os.finish(&[])?;
    }
    Ok(())
}

fn labels(metadata: &mut Object) -> Result<BTreeMap<String, String>> {
    let labels = metadata.map("labels")?;
    for (key, value) in &labels {
        if !names::is_qualified(key) || !names::is_label_value(value) {
            return Err(metadata.wrong("labels", format!("`{}: {}` is no label", shown(key), shown(value))));
        }
    }
    Ok(labels)
}

fn annotations(metadata: &mut Object) -> Result<BTreeMap<String, String>> {
    let annotations = metadata.map("annotations")?;
    if let Some(key) = annotations.keys().find(|key| !names::is_qualified(&key.to_ascii_lowercase())) {
        return Err(metadata.wrong("annotations", format!("`{}` is no name of an annotation", shown(key))));
    }
    // Kubernetes' TotalAnnotationSizeLimitB.
    if annotations.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > 256 << 10 {
        return Err(metadata.wrong("annotations", "are more than 256 KiB"));
    }
    Ok(annotations)
}

fn containers(spec: &mut Object) -> Result<Vec<Container>> {
    let mut all = Vec::new();
    for item in spec.list("initContainers")? {
        all.push(container::read(item.object()?, true)?);
    }
    let apps = spec.list("containers")?;
    if apps.is_empty() {
        return Err(spec.wrong("containers", "is required: at least one"));
    }
    for item in apps {
        all.push(container::read(item.object()?, false)?);
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = all.iter().find(|c| !seen.insert(c.name.as_str())) {
        let list = if twice.kind == Kind::App { "containers" } else { "initContainers" };
        return Err(spec.wrong(list, format!("two containers are named `{}`", twice.name)));
    }
    Ok(all)
}

fn hostname(spec: &mut Object, name: &str) -> Result<String> {
    match spec.text("hostname")?.filter(|hostname| !hostname.is_empty()) {
        Some(hostname) if names::is_label(&hostname) => Ok(hostname),
        Some(_) => Err(spec.wrong("hostname", "want at most 63 of a-z, 0-9 and `-`")),
        // A name may be longer than the kernel's 64 bytes; the kubelet cuts it in this way too.
        None => Ok(name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()),
    }
}

fn dns(spec: &mut Object) -> Result<Dns> {
    let policies =
        [("ClusterFirst", false), ("ClusterFirstWithHostNet", false), ("Default", false), ("None", true)];
    let own_only = spec.word("dnsPolicy", &policies)?.unwrap_or(false);
    let mut dns = Dns { own_only, ..Dns::default() };
    if let Some(mut config) = spec.object("dnsConfig")? {
        dns.servers = config.texts("nameservers")?;
        dns.searches = config.texts("searches")?;
        for item in config.list("options")? {
            let mut option = item.object()?;
            let name = option.required("name")?;
            dns.options.push((name, option.text("value")?));
            option.finish(&[])?;
        }
        check_dns(&config, &dns)?;
        config.finish(&[])?;
    }
    if own_only && dns.servers.is_empty() {
        return Err(spec.wrong("dnsConfig.nameservers", "is required with dnsPolicy None"));
    }
    Ok(dns)
}

/// resolv.conf(5) has three servers; Kubernetes allows 32 search domains of 2048 characters in all.
fn check_dns(config: &Object, dns: &Dns) -> Result<()> {
    if dns.servers.len() > 3 {
        return Err(config.wrong("nameservers", "are more than 3"));
    }
    if let Some(server) = dns.servers.iter().find(|server| server.parse::<IpAddr>().is_err()) {
        return Err(config.wrong("nameservers", format!("`{}` is no IP address", shown(server))));
    }
    if dns.searches.len() > 32 || dns.searches.iter().map(String::len).sum::<usize>() > 2048 {
        return Err(config.wrong("searches", "are more than 32, or longer than 2048 characters in all"));
    }
    let domain = |search: &str| {
        let search = search.strip_suffix('.').unwrap_or(search).replace('_', "x");
        names::is_subdomain(&search)
    };
    if let Some(search) = dns.searches.iter().find(|search| !domain(search) && *search != ".") {
        return Err(config.wrong("searches", format!("`{}` is no domain", shown(search))));
    }
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let fine = |(name, value): &(String, Option<String>)| word(name) && value.as_deref().is_none_or(word);
    if !dns.options.iter().all(fine) {
        return Err(config.wrong("options", "want words without spaces"));
    }
    Ok(())
}

/// What one part says about another.
fn check_together(pod: &Pod) -> Result<()> {
    let wrong = |path: String, reason: String| Err(ManifestError::Wrong { path, reason });
    let mut host_ports = BTreeSet::new();
    for container in &pod.containers {
        for mount in &container.mounts {
            if !pod.volumes.iter().any(|volume| volume.name == mount.volume) {
                return wrong(mount.path.clone(), format!("there is no volume `{}`", shown(&mount.volume)));
            }
        }
        for port in &container.ports {
            if pod.host_network && port.host_port.is_some_and(|host| host != port.container_port) {
                return wrong(
                    port.path.clone(),
                    "hostPort must equal containerPort with hostNetwork".to_owned(),
                );
            }
            let Some(host) = port.host_port.filter(|_| !pod.host_network) else { continue };
            if !host_ports.insert((port.protocol, host, port.host_ip)) {
                return wrong(port.path.clone(), format!("hostPort {host} is used twice"));
            }
        }
    }
    Ok(())
}
