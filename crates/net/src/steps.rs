//! The verbs of CNI over a list of plugins: ADD forwards, DEL backwards, CHECK, GC, STATUS.

use crate::{
    AttachRequest, Attached, INTERFACE, Network, NetworkError, STATUS_DEADLINE,
    builtin::{
        Builtin, BuiltinError,
        bridge::{self, BridgeConf, Host, Ipam, Pod},
        loopback,
        portmap::PortmapConf,
    },
    conflist::{BadConf, NetworkList, Plugin, Version},
    fallback::{self, Names},
    firewall::protocol_name,
    netns,
    plugin::{self, Call, PluginError, Verb},
    result::CniResult,
    rtnl,
    session::Session,
    sysctl::Proc,
    worker::{Hands, WorkerError},
};
use serde_json::{Map, Value, json};
use std::{collections::HashSet, ffi::OsString, net::IpAddr, path::PathBuf, time::SystemTime};
use sys::{netlink::Subsystem, rustix::io::Errno};
use types::{
    PodId,
    pod::{PortMapping, Protocol},
};

/// The versions that a program said it speaks.
#[derive(Debug)]
pub(crate) struct KnownVersions {
    file: PathBuf,
    changed: Option<SystemTime>,
    versions: Vec<String>,
}

/// `CNI_ARGS` has no quoting: a value must not hold what ends it.
pub(crate) fn check_request(request: &AttachRequest) -> Result<(), NetworkError> {
    let fields = [
        ("metadata.name", &request.name),
        ("metadata.namespace", &request.namespace),
        ("metadata.uid", &request.uid),
    ];
    for (field, value) in fields {
        if value.chars().any(|c| matches!(c, ';' | '=') || c.is_control()) || value.len() > 1024 {
            let reason = "cannot be told to a network plugin: `;`, `=` or control characters, or too long";
            return Err(NetworkError::Request { field, reason: reason.to_owned() });
        }
    }
    Ok(())
}

fn env_of(request: &AttachRequest) -> Vec<(&'static str, OsString)> {
    // To detach, the namespace may be gone; the specification has an empty value for that.
    let netns =
        if netns::open_netns(&request.netns).is_ok() { request.netns.clone() } else { PathBuf::new() };
    let mut args = "IgnoreUnknown=1".to_owned();
    if check_request(request).is_ok() {
        args = format!(
            "{args};K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            request.namespace, request.name, request.pod, request.uid
        );
    }
    vec![
        ("CNI_CONTAINERID", request.pod.as_str().into()),
        ("CNI_NETNS", netns.into()),
        ("CNI_IFNAME", INTERFACE.into()),
        ("CNI_ARGS", args.into()),
    ]
}

/// `runtimeConfig` of each capability that this runtime has.
fn runtime_of(request: &AttachRequest) -> Map<String, Value> {
    let mut runtime = Map::new();
    if !request.port_mappings.is_empty() {
        let ports = request.port_mappings.iter().map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": protocol_name(mapping.protocol),
                "hostIP": mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        });
        runtime.insert("portMappings".to_owned(), ports.collect());
    }
    runtime
}

fn builtin(plugin: &Plugin, list: &NetworkList) -> Result<Builtin, NetworkError> {
    Builtin::of(plugin, list).map_err(NetworkError::Conflist)
}

fn failed(plugin: &Plugin) -> impl FnOnce(WorkerError) -> NetworkError {
    let plugin = plugin.kind.clone();
    move |source| NetworkError::Builtin { plugin, source }
}

/// A pod for the network thread.
#[derive(Clone, Debug)]
struct Target {
    id: String,
    netns: PathBuf,
}

impl Target {
    fn of(request: &AttachRequest) -> Self {
        Self { id: request.pod.to_string(), netns: request.netns.clone() }
    }

    /// A netlink socket inside.
    fn socket(&self) -> Result<Session, BuiltinError> {
        let fd = netns::open_netns(&self.netns)?;
        crate::worker::inside(&fd, || Session::open(Subsystem::Route))?
            .map_err(crate::builtin::errno("cannot open a netlink socket in the pod"))
    }
}

/// What a foreign plugin printed as the result of ADD.
fn result_of(stdout: &[u8]) -> Result<Value, PluginError> {
    let object: Map<String, Value> = serde_json::from_slice(stdout).map_err(PluginError::NotJson)?;
    let value = Value::Object(object);
    CniResult::read(&value).map_err(PluginError::NotJson)?;
    Ok(value)
}

fn read(value: &Value) -> CniResult {
    CniResult::read(value).unwrap_or_default() // was read before it was kept
}

impl Network {
    async fn call(
        &self,
        kind: &str,
        verb: Verb,
        config: Map<String, Value>,
        env: Vec<(&'static str, OsString)>,
    ) -> Result<Vec<u8>, NetworkError> {
        let deadline = match verb {
            Verb::Add | Verb::Del | Verb::Check | Verb::Gc => self.options.call_deadline,
            Verb::Status | Verb::Version => STATUS_DEADLINE.min(self.options.call_deadline),
        };
        let config = Value::Object(config).to_string();
        let call = Call { verb, kind, bin_dir: &self.options.bin_dir, env, config, deadline };
        let said = call.run().await;
        said.map_err(|source| NetworkError::Plugin { plugin: kind.to_owned(), verb, source })
    }

    /// ADD forwards, without taking anything back.
    pub(crate) async fn add_all(
        &self,
        list: &NetworkList,
        request: &AttachRequest,
    ) -> Result<Attached, NetworkError> {
        let runtime = runtime_of(request);
        if !runtime.is_empty() && !list.plugins.iter().any(|p| p.capabilities.contains("portMappings")) {
            // Some networks serve host ports without being told by their plugin.
            tracing::warn!(pod = %request.pod, network = list.name, "no plugin takes the pod's host ports");
        }
        let mut previous: Option<Value> = None;
        let mut switched_on = Vec::new();
        for plugin in &list.plugins {
            let config = list.request_for(plugin, previous.as_ref(), &runtime);
            let result = match builtin(plugin, list)? {
                Builtin::Loopback => Some(self.add_loopback(list, plugin, request).await?),
                Builtin::Bridge(conf) => {
                    let (result, switched) = self.add_bridge(list, plugin, *conf, request, config).await?;
                    switched_on.extend(switched);
                    Some(result)
                }
                Builtin::Portmap(conf) => {
                    self.add_portmap(plugin, conf, request, previous.as_ref()).await?;
                    None
                }
                Builtin::Foreign => Some(self.add_foreign(plugin, config, request).await?),
            };
            previous = result.or(previous);
        }
        let result = previous.unwrap_or(Value::Null);
        let ips = read(&result).addresses_of(INTERFACE);
        if ips.is_empty() {
            return Err(NetworkError::NoAddress(list.name.clone()));
        }
        Ok(Attached { ips, result: result.to_string(), switched_on })
    }

    async fn add_foreign(
        &self,
        plugin: &Plugin,
        config: Map<String, Value>,
        request: &AttachRequest,
    ) -> Result<Value, NetworkError> {
        let stdout = self.call(&plugin.kind, Verb::Add, config, env_of(request)).await?;
        result_of(&stdout).map_err(|source| NetworkError::Plugin {
            plugin: plugin.kind.clone(),
            verb: Verb::Add,
            source,
        })
    }

    async fn add_loopback(
        &self,
        list: &NetworkList,
        plugin: &Plugin,
        request: &AttachRequest,
    ) -> Result<Value, NetworkError> {
        let target = Target::of(request);
        let result = self.worker.run(move |_| loopback::add(&mut target.socket()?, &target.netns)).await;
        Ok(result.map_err(failed(plugin))?.to_json(list.version, plugin.raw.get("dns")))
    }

    async fn add_bridge(
        &self,
        list: &NetworkList,
        plugin: &Plugin,
        conf: BridgeConf,
        request: &AttachRequest,
        config: Map<String, Value>,
    ) -> Result<(Value, Vec<String>), NetworkError> {
        let given = match &conf.ipam {
            Ipam::HostLocal(_) => None,
            Ipam::Foreign(kind) => {
                let stdout = self.call(kind, Verb::Add, config, env_of(request)).await?;
                let value = result_of(&stdout).map_err(|source| NetworkError::Plugin {
                    plugin: kind.clone(),
                    verb: Verb::Add,
                    source,
                })?;
                Some(read(&value))
            }
        };
        let target = Target::of(request);
        #[cfg(test)]
        let stop = *self.stop_behind.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        #[cfg(not(test))]
        let stop: Option<bridge::Step> = None;
        let work = move |hands: &mut Hands| add_bridge_here(hands, &conf, &target, given, stop);
        let added = self.worker.run(work).await.map_err(failed(plugin))?;
        Ok((added.result.to_json(list.version, plugin.raw.get("dns")), added.switched_on))
    }

    async fn add_portmap(
        &self,
        plugin: &Plugin,
        conf: PortmapConf,
        request: &AttachRequest,
        previous: Option<&Value>,
    ) -> Result<(), NetworkError> {
        if request.port_mappings.is_empty() || !plugin.capabilities.contains("portMappings") {
            return Ok(());
        }
        let Some(previous) = previous.map(read) else {
            let why = BadConf::new("portmap", "has to stand behind the plugin that gives addresses");
            return Err(NetworkError::Conflist(why));
        };
        let (id, mappings) = (request.pod.to_string(), request.port_mappings.clone());
        let work = move |hands: &mut Hands| {
            conf.add(&mut hands.firewall, &id, &mappings, &previous, INTERFACE)?;
            forget_connections(hands, &mappings)?;
            let v4 = previous.addresses_of(INTERFACE).into_iter().find(IpAddr::is_ipv4);
            match v4.filter(|_| conf.reaches_from_loopback()) {
                Some(ip) => open_loopback(hands, ip),
                None => Ok(()),
            }
        };
        self.worker.run(work).await.map_err(failed(plugin))
    }

    /// DEL backwards.
    pub(crate) async fn del_all(
        &self,
        list: &NetworkList,
        request: &AttachRequest,
        result: Option<&str>,
    ) -> Result<(), NetworkError> {
        let runtime = runtime_of(request);
        let previous: Option<Value> = result.and_then(|text| serde_json::from_str(text).ok());
        let told = previous.as_ref().filter(|_| list.version >= Version::V040);
        let mut first_error = Ok(());
        for plugin in list.plugins.iter().rev() {
            let config = list.request_for(plugin, told, &runtime);
            let done = match builtin(plugin, list)? {
                Builtin::Loopback => Ok(()),
                Builtin::Bridge(conf) => {
                    self.del_bridge(plugin, *conf, request, config, previous.as_ref()).await
                }
                Builtin::Portmap(_) => {
                    let (id, mappings) = (request.pod.to_string(), request.port_mappings.clone());
                    let work = move |hands: &mut Hands| {
                        PortmapConf::del(&mut hands.firewall, &id, &mappings)?;
                        forget_connections(hands, &mappings)
                    };
                    self.worker.run(work).await.map_err(failed(plugin))
                }
                Builtin::Foreign => {
                    self.call(&plugin.kind, Verb::Del, config, env_of(request)).await.map(drop)
                }
            };
            first_error = first_error.and(done);
        }
        first_error
    }

    async fn del_bridge(
        &self,
        plugin: &Plugin,
        conf: BridgeConf,
        request: &AttachRequest,
        config: Map<String, Value>,
        previous: Option<&Value>,
    ) -> Result<(), NetworkError> {
        let known = previous.map(|value| read(value).addresses_of(INTERFACE));
        let foreign = match &conf.ipam {
            Ipam::HostLocal(_) => None,
            Ipam::Foreign(kind) => Some(kind.clone()),
        };
        let id = request.pod.to_string();
        let work = move |hands: &mut Hands| {
            // Link and rules first: an address that is free may be another pod's at once.
            let rules = conf.del(&mut hands.route, &mut hands.firewall, &id, known.as_deref());
            let Ipam::HostLocal(ipam) = &conf.ipam else { return rules };
            rules.and(hands.leases.del(ipam, &id, INTERFACE))
        };
        let done = self.worker.run(work).await.map_err(failed(plugin));
        match foreign {
            Some(kind) => done.and(self.call(&kind, Verb::Del, config, env_of(request)).await.map(drop)),
            None => done,
        }
    }

    /// CHECK forwards.
    pub(crate) async fn check_all(
        &self,
        list: &NetworkList,
        request: &AttachRequest,
        result: &str,
    ) -> Result<(), NetworkError> {
        let runtime = runtime_of(request);
        let previous: Value = serde_json::from_str(result)
            .map_err(|e| NetworkError::Request { field: "result", reason: e.to_string() })?;
        for plugin in &list.plugins {
            let config = list.request_for(plugin, Some(&previous), &runtime);
            let target = Target::of(request);
            let (result, mappings) = (read(&previous), request.port_mappings.clone());
            let capable = plugin.capabilities.contains("portMappings");
            match builtin(plugin, list)? {
                Builtin::Loopback => {
                    self.worker
                        .run(move |_| loopback::check(&mut target.socket()?))
                        .await
                        .map_err(failed(plugin))?;
                }
                Builtin::Bridge(conf) => {
                    if let Ipam::Foreign(kind) = &conf.ipam {
                        self.call(kind, Verb::Check, config, env_of(request)).await?;
                    }
                    let work = move |hands: &mut Hands| check_bridge_here(hands, &conf, &target, &result);
                    self.worker.run(work).await.map_err(failed(plugin))?;
                }
                Builtin::Portmap(_) if mappings.is_empty() || !capable => {}
                Builtin::Portmap(_) => {
                    let work = move |hands: &mut Hands| {
                        PortmapConf::check(&mut hands.firewall, &target.id, &mappings, &result, INTERFACE)
                    };
                    self.worker.run(work).await.map_err(failed(plugin))?;
                }
                Builtin::Foreign => {
                    self.call(&plugin.kind, Verb::Check, config, env_of(request)).await?;
                }
            }
        }
        Ok(())
    }

    /// VERSION once for each program, STATUS where the network's version has it.
    pub(crate) async fn ask_status(
        &self,
        list: &NetworkList,
        kind: &str,
        config: &Map<String, Value>,
    ) -> Result<(), NetworkError> {
        let wrap = |verb: Verb| {
            let plugin = kind.to_owned();
            move |source| NetworkError::Plugin { plugin, verb, source }
        };
        let file = plugin::find(kind, &self.options.bin_dir).map_err(wrap(Verb::Version))?;
        let changed = std::fs::metadata(&file).and_then(|m| m.modified()).ok();
        let mut all = self.versions.lock().await;
        if !all.iter().any(|known| known.file == file && known.changed == changed) {
            let ask = Map::from_iter([("cniVersion".to_owned(), Value::from(list.version.text()))]);
            let stdout = self.call(kind, Verb::Version, ask, Vec::new()).await?;
            let versions = versions_of(&stdout).map_err(wrap(Verb::Version))?;
            all.retain(|known| known.file != file);
            all.push(KnownVersions { file: file.clone(), changed, versions });
        }
        let speaks =
            all.iter().any(|k| k.file == file && k.versions.iter().any(|v| v == list.version.text()));
        drop(all);
        if !speaks {
            let message = format!("it does not speak version {} of CNI", list.version.text());
            return Err(wrap(Verb::Version)(PluginError::Answered {
                code: 1,
                message,
                details: String::new(),
            }));
        }
        if list.version < Version::V110 {
            return Ok(());
        }
        self.call(kind, Verb::Status, config.clone(), Vec::new()).await.map(drop)
    }

    /// GC of the foreign plugins, with the attachments that are still valid.
    pub(crate) async fn ask_gc(&self, list: &NetworkList, living: &[PodId]) -> Result<(), NetworkError> {
        if list.disable_gc || list.version < Version::V110 {
            return Ok(());
        }
        let valid: Value =
            living.iter().map(|pod| json!({"containerID": pod.as_str(), "ifname": INTERFACE})).collect();
        let mut first_error = Ok(());
        for (kind, mut config) in foreign(list) {
            config.insert("cni.dev/valid-attachments".to_owned(), valid.clone());
            let done = self.call(&kind, Verb::Gc, config, Vec::new()).await.map(drop);
            first_error = first_error.and(done);
        }
        first_error
    }
}

fn versions_of(stdout: &[u8]) -> Result<Vec<String>, PluginError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        supported_versions: Vec<String>,
    }
    serde_json::from_slice::<Versions>(stdout).map(|v| v.supported_versions).map_err(PluginError::NotJson)
}

/// The programs of a list, with what each gets on stdin apart from a pod.
pub(crate) fn foreign(list: &NetworkList) -> Vec<(String, Map<String, Value>)> {
    let program = |plugin: &Plugin| match Builtin::of(plugin, list) {
        Ok(Builtin::Foreign) => Some(plugin.kind.clone()),
        Ok(Builtin::Bridge(conf)) => match conf.ipam {
            Ipam::Foreign(kind) => Some(kind),
            Ipam::HostLocal(_) => None,
        },
        Ok(Builtin::Loopback | Builtin::Portmap(_)) | Err(_) => None,
    };
    let request = |plugin: &Plugin| list.request_for(plugin, None, &Map::new());
    list.plugins.iter().filter_map(|plugin| Some((program(plugin)?, request(plugin)))).collect()
}

fn add_bridge_here(
    hands: &mut Hands,
    conf: &BridgeConf,
    target: &Target,
    given: Option<CniResult>,
    stop: Option<bridge::Step>,
) -> Result<bridge::Added, BuiltinError> {
    let netns = netns::open_netns(&target.netns)?;
    let addresses = match (&conf.ipam, given) {
        (Ipam::HostLocal(ipam), _) => {
            let mut result = CniResult { routes: ipam.routes.clone(), ..CniResult::default() };
            for lease in hands.leases.add(ipam, &target.id, INTERFACE)? {
                result.add_ip(0, lease.address, Some(lease.gateway));
            }
            result
        }
        (Ipam::Foreign(_), given) => given.unwrap_or_default(),
    };
    let pod = Pod { id: &target.id, interface: INTERFACE, netns_path: &target.netns, netns: &netns };
    let mut host =
        Host { route: &mut hands.route, firewall: &mut hands.firewall, switched_on: &hands.switched_on };
    conf.add(&mut host, &pod, &addresses, &mut |step| match stop {
        Some(at) if at == step => Err(BuiltinError::Missing(format!("the rest behind {step:?}"))),
        Some(_) | None => Ok(()),
    })
}

fn check_bridge_here(
    hands: &mut Hands,
    conf: &BridgeConf,
    target: &Target,
    previous: &CniResult,
) -> Result<(), BuiltinError> {
    let netns = netns::open_netns(&target.netns)?;
    let mut inside = target.socket()?;
    if let Ipam::HostLocal(ipam) = &conf.ipam {
        hands.leases.check(ipam, &target.id, INTERFACE)?;
    }
    let pod = Pod { id: &target.id, interface: INTERFACE, netns_path: &target.netns, netns: &netns };
    let mut host =
        Host { route: &mut hands.route, firewall: &mut hands.firewall, switched_on: &hands.switched_on };
    conf.check(&mut host, &mut inside, &pod, previous)
}

/// UDP clients of a port turn to where it leads now.
fn forget_connections(hands: &mut Hands, mappings: &[PortMapping]) -> Result<(), BuiltinError> {
    if !mappings.iter().any(|m| m.protocol == Protocol::Udp) {
        return Ok(());
    }
    let listed = rtnl::addresses(&mut hands.route);
    let listed = listed.map_err(crate::builtin::netlink("cannot list the host's addresses"))?;
    let own: Vec<IpAddr> = listed.into_iter().map(|address| address.net.ip()).collect();
    hands.firewall.forget_connections(mappings, &own)
}

/// Host ports work from the host's own 127.0.0.1: the link towards the pod may carry such packets.
fn open_loopback(hands: &mut Hands, pod: IpAddr) -> Result<(), BuiltinError> {
    let looked = crate::builtin::netlink("cannot look for the link towards the pod");
    match rtnl::link_towards(&mut hands.route, pod).map_err(looked)? {
        Some(link) => bridge::route_localnet(&link.name),
        None => Ok(()),
    }
}

/// GC of what is kept by the built-in plugins.
pub(crate) fn collect(
    hands: &mut Hands,
    list: Option<&NetworkList>,
    living: &HashSet<String>,
) -> Result<(), BuiltinError> {
    let is_alive = |id: &str| living.contains(id);
    let rules = hands.firewall.gc(&is_alive).map(drop);
    let mut leases = Ok(());
    for plugin in list.iter().flat_map(|list| &list.plugins) {
        let Some(list) = list else { break };
        if let Ok(Builtin::Bridge(conf)) = Builtin::of(plugin, list)
            && let Ipam::HostLocal(ipam) = &conf.ipam
        {
            leases = leases.and(hands.leases.gc(ipam, &is_alive).map(drop));
        }
    }
    rules.and(leases)
}

/// Takes away what this daemon has made for itself.
pub(crate) fn remove(hands: &mut Hands, names: &Names) -> Result<(), BuiltinError> {
    fallback::remove(hands, names)?;
    hands.firewall.remove()?;
    let noted = match std::fs::read_to_string(&hands.switched_on) {
        Ok(noted) => noted,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            let source = Errno::from_io_error(&e).unwrap_or(Errno::IO);
            return Err(crate::builtin::errno("cannot read which sysctls were switched on")(source));
        }
    };
    let links =
        rtnl::links(&mut hands.route).map_err(crate::builtin::netlink("cannot list the host's links"))?;
    // Whoever came later found forwarding on and may rely on it.
    let others = ["bridge", "macvlan", "ipvlan", "tun", "vxlan", "wireguard"];
    if !links.iter().any(|link| others.contains(&link.kind.as_str())) {
        let proc = Proc::open()?;
        for path in noted.lines().filter(|path| bridge::FORWARDING.iter().any(|(_, known)| known == path)) {
            proc.ensure_path(path, "0").map_err(crate::builtin::errno(format!("cannot set {path}")))?;
        }
    }
    std::fs::remove_file(&hands.switched_on).map_err(|e| {
        crate::builtin::errno("cannot forget which sysctls were switched on")(
            Errno::from_io_error(&e).unwrap_or(Errno::IO),
        )
    })
}
