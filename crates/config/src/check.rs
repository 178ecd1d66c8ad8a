//! What a configuration must satisfy beyond its types. Each error names its key.

use crate::{Cgroup, CgroupDriver, Config, ConfigError, MAX_STATE_PATH};
use std::path::{Component, Path};
use types::handler::{Handler, OWN};

/// More than any node has.
const MOST_HANDLERS: u64 = 64;
/// unix(7): 108 bytes with the NUL.
const MAX_SOCKET_PATH: usize = 107;

impl Config {
    /// # Errors
    /// [`ConfigError::Invalid`] for the first key that cannot be.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.check_places()?;
        plain("network.conf_dir", &self.network.conf_dir)?;
        plain("registry.dir", &self.registry.dir)?;
        for dir in &self.network.bin_dirs {
            plain("network.bin_dirs", dir)?;
        }
        if !self.container.seccomp_profile.as_os_str().is_empty() {
            plain("container.seccomp_profile", &self.container.seccomp_profile)?;
        }
        for dir in &self.cdi.spec_dirs {
            plain("cdi.spec_dirs", dir)?;
        }
        self.check_handlers()?;
        group_name(&self.socket_group)?;
        cgroup_parent("cgroup.parent", &self.cgroup)?;
        within("registry.max_parallel_layers", self.registry.max_parallel_layers as u64, 1, 64)?;
        within("registry.progress_timeout", self.registry.progress_timeout, 1, 86_400)?;
        let (least, most) = types::shim::LOG_LINE.into_inner();
        within("container.max_log_line", self.container.max_log_line as u64, least as u64, most as u64)?;
        within("exec.output_cap", self.exec.output_cap, 1 << 10, 16 << 20)?;
        within("exec.drain", self.exec.drain, 0, 60_000)?;
        self.check_streaming()?;
        within("limits.max_pods", self.limits.max_pods as u64, 1, 100_000)?;
        within("limits.max_containers_per_pod", self.limits.max_containers_per_pod as u64, 1, 10_000)?;
        within("limits.max_concurrent_calls", self.limits.max_concurrent_calls as u64, 16, 65_536)?;
        within("limits.max_message", self.limits.max_message as u64, 4 << 20, 64 << 20)
    }

    fn check_handlers(&self) -> Result<(), ConfigError> {
        within("handlers", self.handlers.len() as u64, 0, MOST_HANDLERS)?;
        for (name, handler) in &self.handlers {
            if !is_label(name) || OWN.contains(&name.as_str()) {
                let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
                let why = format!(
                    "has `{shown}`: a handler's name is a DNS label (at most 63 lower-case letters, digits and \
                     hyphens), and not `peapod`"
                );
                return Err(ConfigError::Invalid { key: "handlers", why });
            }
            let mut paths = vec![("path", handler.program())];
            if let Handler::Shim { runtime: Some(runtime), .. } = handler {
                paths.push(("runtime", runtime));
            }
            for (key, path) in paths {
                plain("handlers", path).map_err(|_| {
                    let why = format!("has `{name}` with a `{key}` that is no absolute path of a program");
                    ConfigError::Invalid { key: "handlers", why }
                })?;
            }
        }
        Ok(())
    }

    fn check_streaming(&self) -> Result<(), ConfigError> {
        let streaming = &self.streaming;
        for (key, path) in
            [("streaming.tls_cert", &streaming.tls_cert), ("streaming.tls_key", &streaming.tls_key)]
        {
            if !path.as_os_str().is_empty() {
                plain(key, path)?;
            }
        }
        if streaming.tls_cert.as_os_str().is_empty() != streaming.tls_key.as_os_str().is_empty() {
            return Err(invalid(
                "streaming.tls_key",
                "is needed with `streaming.tls_cert`, and only with it",
            ));
        }
        within("streaming.idle_timeout", streaming.idle_timeout, 1, 7 * 86_400)
    }

    fn check_places(&self) -> Result<(), ConfigError> {
        plain("root", &self.root)?;
        plain("state", &self.state)?;
        if self.root.starts_with(&self.state) || self.state.starts_with(&self.root) {
            return Err(invalid("state", "must not be `root`, nor one lie in the other"));
        }
        if self.state.as_os_str().len() > MAX_STATE_PATH {
            let why =
                format!("is longer than {MAX_STATE_PATH} bytes: sockets beneath it would not fit unix(7)");
            return Err(ConfigError::Invalid { key: "state", why });
        }
        if !self.listen.starts_with("unix:///") {
            return Err(invalid("listen", "must be unix:// and an absolute path"));
        }
        plain("listen", self.socket())?;
        if self.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(invalid("listen", "has a path longer than 107 bytes"));
        }
        Ok(())
    }
}

fn invalid(key: &'static str, why: &str) -> ConfigError {
    ConfigError::Invalid { key, why: why.to_owned() }
}

/// Absolute, more than `/`, no `..`, no control characters, UTF-8 (it is written to JSON and logs).
fn plain(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    let mut parts = path.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let names = parts.clone().all(|part| matches!(part, Component::Normal(_)));
    let text = path.to_str().is_some_and(|text| !text.chars().any(char::is_control));
    match absolute && names && text && parts.next().is_some() {
        true => Ok(()),
        false => Err(invalid(key, "must be an absolute path without `..`, and not `/`")),
    }
}

fn cgroup_parent(key: &'static str, cgroup: &Cgroup) -> Result<(), ConfigError> {
    let path = cgroup.parent();
    if cgroup.driver == CgroupDriver::Systemd {
        let slice = types::slice::Slice::parse(path);
        return slice
            .map(drop)
            .map_err(|error| ConfigError::Invalid { key, why: format!("must be a slice: {error}") });
    }
    plain(key, Path::new(path))?;
    match path.contains("//") || path.ends_with('/') || path.ends_with(".slice") || path.len() > 1024 {
        true => Err(invalid(key, "must be a cgroup path such as /peapod")),
        false => Ok(()),
    }
}

/// RFC 1123, as Kubernetes wants it of `RuntimeClass.handler`.
fn is_label(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    name.len() <= 63
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn group_name(name: &str) -> Result<(), ConfigError> {
    let fine = (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    match fine {
        true => Ok(()),
        false => Err(invalid("socket_group", "must be the name or number of a group")),
    }
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(ConfigError::Invalid { key, why: format!("is {value}, and must be {least} to {most}") }),
    }
}
