//! `PodSandboxConfig` to [`PodSpec`].

use super::{Bad, Handlers, resources::resources, security, text};
use api::cri;
use std::{collections::BTreeMap, path::PathBuf};
use types::pod::{Dns, PodSpec, PortMapping, Protocol, SandboxSecurity};

/// Ports of one pod; far beyond any real pod.
const MOST_PORTS: usize = 4096;

/// Checks the whole request. `handler` is the RuntimeClass handler.
pub(crate) fn pod(
    config: Option<&cri::PodSandboxConfig>,
    handler: &str,
    handlers: &Handlers,
) -> Result<PodSpec, Bad> {
    let config = config.ok_or_else(|| Bad::field("config", "is missing"))?;
    let metadata = config.metadata.as_ref().ok_or_else(|| Bad::field("config.metadata", "is missing"))?;
    handlers.check("runtime_handler", handler)?;
    if config.windows.is_some() {
        return Err(Bad::field("config.windows", "this is a Linux node"));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    let security = sandbox_security("config.linux.security_context", &context)?;
    let namespaces = security::pod_namespaces(
        "config.linux.security_context.namespace_options",
        context.namespace_options.as_ref(),
    )?;
    let limits = |name: &str, asked: Option<&cri::LinuxContainerResources>| {
        asked.map(|r| resources(&format!("config.linux.{name}"), r)).transpose()
    };
    Ok(PodSpec {
        name: text::name("config.metadata.name", &metadata.name)?,
        namespace: text::name("config.metadata.namespace", &metadata.namespace)?,
        uid: text::name("config.metadata.uid", &metadata.uid)?,
        attempt: metadata.attempt,
        hostname: hostname(&config.hostname)?,
        log_directory: match config.log_directory.as_str() {
            "" => None,
            path => Some(PathBuf::from(text::absolute("config.log_directory", path)?)),
        },
        dns: config.dns_config.as_ref().map(dns).transpose()?,
        port_mappings: ports(&config.port_mappings)?,
        labels: text::labels("config.labels", &config.labels)?,
        annotations: text::labels("config.annotations", &config.annotations)?,
        runtime_handler: handler.to_owned(),
        cgroup_parent: cgroup_parent(&linux.cgroup_parent)?,
        sysctls: sysctls(&linux.sysctls)?,
        namespaces,
        privileged: context.privileged,
        resources: limits("resources", linux.resources.as_ref())?,
        overhead: limits("overhead", linux.overhead.as_ref())?,
        security,
    })
}

/// Who the sandbox's own process would run as, and what would confine it: there is no pause container, but
/// whether the profiles can be used is looked at, and its label is that of the pod.
fn sandbox_security(field: &str, asked: &cri::LinuxSandboxSecurityContext) -> Result<SandboxSecurity, Bad> {
    let at = |name: &str| format!("{field}.{name}");
    let selinux = security::selinux(&at("selinux_options"), asked.selinux_options.as_ref())?;
    let apparmor = security::apparmor(&at("apparmor"), asked.apparmor.as_ref(), "")?;
    #[expect(deprecated, reason = "an older client names the profile in the deprecated field only")]
    let seccomp = security::seccomp(&at("seccomp"), asked.seccomp.as_ref(), &asked.seccomp_profile_path)?;
    security::groups(&at("supplemental_groups"), &asked.supplemental_groups)?;
    security::policy(&at("supplemental_groups_policy"), asked.supplemental_groups_policy)?;
    let user = asked.run_as_user.as_ref().map(|u| security::id(&at("run_as_user"), u.value)).transpose()?;
    let group =
        asked.run_as_group.as_ref().map(|g| security::id(&at("run_as_group"), g.value)).transpose()?;
    if group.is_some() && user.is_none() {
        return Err(Bad::field(at("run_as_group"), "is given without run_as_user"));
    }
    Ok(SandboxSecurity { run_as_user: user, run_as_group: group, seccomp, apparmor, selinux })
}

/// At most HOST_NAME_MAX (64) bytes of letters, digits, dots and hyphens; empty = the node's.
fn hostname(name: &str) -> Result<String, Bad> {
    let fine = name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if fine {
        Ok(name.to_owned())
    } else {
        Err(Bad::field(
            "config.hostname",
            format!(
                "`{}` is not a host name: at most 64 letters, digits, dots and hyphens",
                text::short(name)
            ),
        ))
    }
}

/// Lines of resolv.conf(5): one value can never become two lines.
fn dns(asked: &cri::DnsConfig) -> Result<Dns, Bad> {
    let words = |name: &str, values: &[String]| {
        let field = format!("config.dns_config.{name}");
        if values.len() > 256 {
            return Err(Bad::field(field, format!("are {}, at most 256 are taken", values.len())));
        }
        values
            .iter()
            .map(|value| {
                if value.is_empty() || value.chars().any(char::is_whitespace) {
                    return Err(Bad::field(&field, format!("`{}` is not one word", text::short(value))));
                }
                text::bounded(&field, value, 1024)
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Dns {
        servers: words("servers", &asked.servers)?,
        searches: words("searches", &asked.searches)?,
        options: words("options", &asked.options)?,
    })
}

fn ports(asked: &[cri::PortMapping]) -> Result<Vec<PortMapping>, Bad> {
    if asked.len() > MOST_PORTS {
        return Err(Bad::field("config.port_mappings", format!("are {}, at most {MOST_PORTS}", asked.len())));
    }
    let mut mappings = Vec::new();
    for (index, port) in asked.iter().enumerate() {
        let at = |name: &str| format!("config.port_mappings[{index}].{name}");
        let number = |name: &str, value: i32| {
            u16::try_from(value).map_err(|_| Bad::field(at(name), format!("{value} is not a port")))
        };
        let protocol = match cri::Protocol::try_from(port.protocol) {
            Ok(cri::Protocol::Tcp) => Protocol::Tcp,
            Ok(cri::Protocol::Udp) => Protocol::Udp,
            Ok(cri::Protocol::Sctp) => Protocol::Sctp,
            Err(_) => return Err(Bad::field(at("protocol"), format!("{} is no protocol", port.protocol))),
        };
        let container_port = number("container_port", port.container_port)?;
        let host_port = number("host_port", port.host_port)?;
        let host_ip = match port.host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse().map_err(|_| {
                Bad::field(at("host_ip"), format!("`{}` is not an address", text::short(ip)))
            })?),
        };
        if host_port == 0 {
            continue;
        }
        if container_port == 0 {
            return Err(Bad::field(at("container_port"), "0 is not a port"));
        }
        mappings.push(PortMapping { protocol, container_port, host_port, host_ip });
    }
    Ok(mappings)
}

/// Form only: whether it is a path or the name of a slice goes with the cgroup driver, which the
/// engine knows.
fn cgroup_parent(path: &str) -> Result<String, Bad> {
    const FIELD: &str = "config.linux.cgroup_parent";
    if path.is_empty() || path.ends_with(".slice") && !path.contains('/') {
        return text::bounded(FIELD, path, 255);
    }
    text::absolute(FIELD, path)
}

/// Form only: which sysctls are namespaced is the network room's to say.
fn sysctls(asked: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Bad> {
    for (key, value) in asked {
        let fine = (1..=256).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
            && !key.split(['.', '/']).any(str::is_empty);
        if !fine {
            return Err(Bad::field(
                "config.linux.sysctls",
                format!("`{}` is not the name of a sysctl", text::short(key)),
            ));
        }
        if value.len() > 4096 || value.contains(['\0', '\n', '\r']) {
            return Err(Bad::field("config.linux.sysctls", format!("the value of {key} is not one line")));
        }
    }
    Ok(asked.clone())
}
