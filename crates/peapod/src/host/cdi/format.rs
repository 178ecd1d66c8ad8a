//! The format of specification files (CDI SPEC.md). An unknown key is an error, as with CDI's own library:
//! what a vendor asks for is done or refused, never left out.

use serde::{Deserialize, de::IgnoredAny};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path, PathBuf},
};
use types::cdi::{CdiKind, CdiName};

/// Versions of the format, oldest first.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// One file's devices.
const MOST_DEVICES: usize = 16_384;

/// A file, checked.
#[derive(Debug)]
pub(super) struct Description {
    kind: CdiKind,
    /// For each container that has a device of the file.
    pub(super) edits: Edits,
    devices: BTreeMap<String, Edits>,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: CdiKind,
    annotations: Option<BTreeMap<String, String>>,
    devices: Option<Vec<Device>>,
    container_edits: Option<Edits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    annotations: Option<BTreeMap<String, String>>,
    container_edits: Option<Edits>,
}

/// What is changed of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edits {
    pub(super) env: Option<Vec<String>>,
    pub(super) device_nodes: Option<Vec<DeviceNode>>,
    pub(super) net_devices: Option<Vec<IgnoredAny>>,
    pub(super) hooks: Option<Vec<Hook>>,
    pub(super) mounts: Option<Vec<Mount>>,
    pub(super) intel_rdt: Option<IgnoredAny>,
    #[serde(alias = "additionalGIDs")]
    pub(super) additional_gids: Option<Vec<u32>>,
}

/// A node beneath the container's /dev.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub(super) path: PathBuf,
    pub(super) host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    pub(super) options: Option<Vec<String>>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

/// A program of the host's, at a point in the container's life.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: HookName,
    pub(super) path: PathBuf,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    /// Seconds.
    pub(super) timeout: Option<i64>,
}

/// The points of the OCI runtime specification.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum HookName {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Description {
    pub(super) fn from_json(text: &[u8]) -> Result<Self, Malformed> {
        serde_json::from_slice::<File>(text).map_err(|error| Malformed(error.to_string()))?.check()
    }

    pub(super) fn from_yaml(text: &[u8]) -> Result<Self, Malformed> {
        serde_yaml_ng::from_slice::<File>(text).map_err(|error| Malformed(error.to_string()))?.check()
    }

    /// What a device changes, if it is of this file.
    pub(super) fn device(&self, name: &CdiName) -> Option<&Edits> {
        (self.kind == name.kind).then(|| self.devices.get(&name.device)).flatten()
    }
}

impl File {
    fn check(self) -> Result<Description, Malformed> {
        let version = VERSIONS
            .iter()
            .position(|known| *known == self.cdi_version.trim_start_matches('v'))
            .ok_or_else(|| wrong("cdiVersion", format!("`{}` is not known", shown(&self.cdi_version))))?;
        let since = |needed: &str, what: &str, used: bool| {
            let least = VERSIONS.iter().position(|known| *known == needed).unwrap_or(0);
            match used && version < least {
                true => Err(wrong("cdiVersion", format!("`{what}` is of {needed} and later"))),
                false => Ok(()),
            }
        };
        since("0.6.0", "annotations", self.annotations.is_some_and(|all| !all.is_empty()))?;
        since("0.6.0", "a dot in the class", self.kind.class().contains('.'))?;
        let edits = self.container_edits.unwrap_or_default();
        edits.check("containerEdits", &since)?;
        let mut devices = BTreeMap::new();
        for device in self.devices.unwrap_or_default() {
            let at = format!("device `{}`", shown(&device.name));
            if CdiName::parse(&format!("{}={}", self.kind, device.name)).is_err() {
                return Err(wrong(&at, "its name is none"));
            }
            since(
                "0.5.0",
                "a digit at the start of a name",
                device.name.starts_with(|c: char| c.is_ascii_digit()),
            )?;
            since("0.6.0", "annotations", device.annotations.is_some_and(|all| !all.is_empty()))?;
            let edits = device.container_edits.unwrap_or_default();
            edits.check(&at, &since)?;
            if devices.insert(device.name, edits).is_some() {
                return Err(wrong(&at, "it is there twice"));
            }
            if devices.len() > MOST_DEVICES {
                return Err(wrong("devices", format!("they are more than {MOST_DEVICES}")));
            }
        }
        Ok(Description { kind: self.kind, edits, devices })
    }
}

/// Fails if what is named is used by a file of a version that does not have it.
type Since<'a> = &'a dyn Fn(&str, &str, bool) -> Result<(), Malformed>;

impl Edits {
    fn check(&self, at: &str, since: Since<'_>) -> Result<(), Malformed> {
        since("0.7.0", "intelRdt", self.intel_rdt.is_some())?;
        since("0.7.0", "additionalGids", self.additional_gids.as_ref().is_some_and(|all| !all.is_empty()))?;
        since("1.1.0", "netDevices", self.net_devices.as_ref().is_some_and(|all| !all.is_empty()))?;
        for variable in self.env.iter().flatten() {
            check_variable(at, variable)?;
        }
        for node in self.device_nodes.iter().flatten() {
            since("0.5.0", "hostPath of a device node", node.host_path.is_some())?;
            node.check(at)?;
        }
        for mount in self.mounts.iter().flatten() {
            since("0.4.0", "type of a mount", mount.kind.is_some())?;
            plain(at, "containerPath", &mount.container_path)?;
            if mount.host_path.as_os_str().is_empty() {
                return Err(wrong(at, "a mount has no hostPath"));
            }
        }
        for hook in self.hooks.iter().flatten() {
            plain(at, "the path of a hook", &hook.path)?;
            hook.env.iter().flatten().try_for_each(|variable| check_variable(at, variable))?;
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(wrong(at, "the timeout of a hook is not above 0"));
            }
        }
        Ok(())
    }
}

impl DeviceNode {
    fn check(&self, at: &str) -> Result<(), Malformed> {
        plain(at, "the path of a device node", &self.path)?;
        if let Some(host) = &self.host_path {
            plain(at, "hostPath", host)?;
        }
        if !matches!(self.kind.as_deref(), None | Some("" | "b" | "c" | "u" | "p")) {
            return Err(wrong(at, "the type of a device node is not b, c, u or p"));
        }
        let permissions = self.permissions.as_deref().unwrap_or_default();
        if permissions.len() > 3 || !permissions.bytes().all(|byte| b"rwm".contains(&byte)) {
            return Err(wrong(at, format!("permissions `{}` are not of r, w, m", shown(permissions))));
        }
        Ok(())
    }
}

fn check_variable(at: &str, variable: &str) -> Result<(), Malformed> {
    match variable.split_once('=') {
        Some((name, _)) if !name.is_empty() && !variable.contains('\0') => Ok(()),
        _ => Err(wrong(at, format!("`{}` is no variable", shown(variable)))),
    }
}

fn plain(at: &str, what: &str, path: &Path) -> Result<(), Malformed> {
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute()
        && !climbs
        && path != Path::new("/")
        && !path.as_os_str().as_encoded_bytes().contains(&0)
    {
        return Ok(());
    }
    Err(wrong(at, format!("{what}, `{}`, is not an absolute path", shown(&path.to_string_lossy()))))
}

fn wrong(at: &str, why: impl fmt::Display) -> Malformed {
    Malformed(format!("{at}: {why}"))
}

fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}
