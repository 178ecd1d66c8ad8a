//! CNI network configuration: the files of the configuration directory, and their lists of plugins.
//!
//! Source: containernetworking/cni SPEC.md 1.1, sections 1 and 3. The directory is read anew for every
//! plan, so there is nothing to reload; a pod keeps the list that it was attached with in its plan.

use crate::builtin::Builtin;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, fmt, fs::File, os::unix::fs::OpenOptionsExt, path::Path};
use sys::{bounded::Bounded, libc};

/// The largest configuration file, in bytes.
const LARGEST: u64 = 256 * 1024;
/// The most files that are looked at, and the most plugins of one network.
const MOST_FILES: usize = 1000;
const MOST_PLUGINS: usize = 64;
/// The longest network name: it becomes the name of a directory.
const LONGEST_NAME: usize = 200;

/// Versions of the CNI specification in which results look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// 0.3.1: no CHECK.
    V031,
    /// 0.4.0
    V040,
    /// 1.0.0: addresses without `version`.
    V100,
    /// 1.1.0: GC and STATUS.
    V110,
}

impl Version {
    pub(crate) const ALL: [Self; 4] = [Self::V031, Self::V040, Self::V100, Self::V110];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Result<Self, BadConf> {
        Self::ALL.into_iter().find(|v| v.text() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::text).join(", ");
            BadConf::new("cniVersion", format!("`{}` is none of {known}", text.escape_default()))
        })
    }
}

/// What is wrong with a configuration: the key and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct BadConf {
    key: String,
    reason: String,
}

impl BadConf {
    pub(crate) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }

    pub(crate) fn under(mut self, parent: impl fmt::Display) -> Self {
        self.key = format!("{parent}.{}", self.key);
        self
    }
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plugin {
    /// `type`, checked to be a file name.
    pub(crate) kind: String,
    /// Its own object, as configured.
    pub(crate) raw: Map<String, Value>,
    /// The capabilities that it declares.
    pub(crate) capabilities: BTreeSet<String>,
}

/// A network: its plugins in the order of ADD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    /// `loadOnlyInlinedPlugins`; else a directory of the network's name may hold more of them.
    pub(crate) inlined_only: bool,
    pub(crate) plugins: Vec<Plugin>,
}

impl NetworkList {
    /// Reads a list (`.conflist`), or one plugin's object (`.conf`, `.json`) as a list of one.
    pub(crate) fn parse(text: &str, is_list: bool) -> Result<Self, BadConf> {
        let whole: Value =
            serde_json::from_str(text).map_err(|e| BadConf::new("file", format!("not JSON: {e}")))?;
        let Value::Object(object) = whole else {
            return Err(BadConf::new("file", "not a JSON object"));
        };
        let name = string(&object, "name")?.unwrap_or_default();
        check_name(&name)?;
        let version = version_of(&object)?;
        let raw_plugins = if is_list {
            match object.get("plugins") {
                Some(Value::Array(plugins)) => plugins.clone(),
                _ => return Err(BadConf::new("plugins", "want a list of plugins")),
            }
        } else {
            vec![Value::Object(object.clone())]
        };
        if raw_plugins.is_empty() || raw_plugins.len() > MOST_PLUGINS {
            return Err(BadConf::new("plugins", format!("want 1 to {MOST_PLUGINS} plugins")));
        }
        let plugins = raw_plugins
            .into_iter()
            .enumerate()
            .map(|(n, raw)| plugin_of(raw).map_err(|e| e.under(format!("plugins[{n}]"))))
            .collect::<Result<_, _>>()?;
        let list = Self {
            name,
            version,
            disable_check: flag(&object, "disableCheck")?,
            disable_gc: flag(&object, "disableGC")?,
            inlined_only: !is_list || flag(&object, "loadOnlyInlinedPlugins")?,
            plugins,
        };
        list.check_builtins()?;
        Ok(list)
    }

    /// What a built-in plugin cannot do is refused here, not at the first pod.
    fn check_builtins(&self) -> Result<(), BadConf> {
        for (n, plugin) in self.plugins.iter().enumerate() {
            Builtin::of(plugin, self).map_err(|e| e.under(format!("plugins[{n}] ({})", plugin.kind)))?;
        }
        Ok(())
    }

    /// The text that a pod's plan keeps; [`NetworkList::parse`] as a list gives the same network.
    pub(crate) fn to_text(&self) -> String {
        let plugins: Vec<&Map<String, Value>> = self.plugins.iter().map(|p| &p.raw).collect();
        json!({
            "cniVersion": self.version.text(),
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "loadOnlyInlinedPlugins": true,
            "plugins": plugins,
        })
        .to_string()
    }

    /// What a plugin gets on stdin: its own object with what the specification has injected.
    pub(crate) fn request_for(
        &self,
        plugin: &Plugin,
        previous: Option<&Value>,
        runtime: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut request = plugin.raw.clone();
        request.remove("capabilities");
        request.remove("cniVersions");
        request.insert("name".to_owned(), self.name.clone().into());
        request.insert("cniVersion".to_owned(), self.version.text().into());
        let asked: Map<String, Value> = runtime
            .iter()
            .filter(|(capability, _)| plugin.capabilities.contains(*capability))
            .map(|(capability, value)| (capability.clone(), value.clone()))
            .collect();
        if !asked.is_empty() {
            request.insert("runtimeConfig".to_owned(), Value::Object(asked));
        }
        if let Some(previous) = previous {
            request.insert("prevResult".to_owned(), previous.clone());
        }
        request
    }
}

fn string(object: &Map<String, Value>, key: &str) -> Result<Option<String>, BadConf> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(BadConf::new(key, "want a string")),
    }
}

/// A boolean; the specification also allows the strings "true" and "false".
fn flag(object: &Map<String, Value>, key: &str) -> Result<bool, BadConf> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => Err(BadConf::new(key, "want true or false")),
    }
}

/// SPEC.md: starts with an alphanumeric character, then those and `_`, `.`, `-`.
fn check_name(name: &str) -> Result<(), BadConf> {
    let fine = name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fine {
        Ok(())
    } else {
        let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
        Err(BadConf::new("name", format!("`{shown}` is not a network name")))
    }
}

/// The version to speak: the highest known one of `cniVersions`, else `cniVersion`.
fn version_of(object: &Map<String, Value>) -> Result<Version, BadConf> {
    let offered = match object.get("cniVersions") {
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).filter_map(|text| Version::parse(text).ok()).max()
        }
        _ => None,
    };
    match (offered, string(object, "cniVersion")?) {
        (Some(version), _) => Ok(version),
        (None, Some(text)) => Version::parse(&text),
        (None, None) => Err(BadConf::new("cniVersion", "missing (0.1.0 and 0.2.0 are not spoken)")),
    }
}

fn plugin_of(raw: Value) -> Result<Plugin, BadConf> {
    let Value::Object(mut raw) = raw else {
        return Err(BadConf::new("plugin", "not a JSON object"));
    };
    let kind = string(&raw, "type")?.unwrap_or_default();
    check_type(&kind)?;
    let capabilities = match raw.get("capabilities") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(Value::Object(all)) => {
            all.iter().filter(|(_, on)| **on == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
        }
        Some(_) => return Err(BadConf::new("capabilities", "want an object of booleans")),
    };
    // The runtime's own to give (SPEC.md section 3); a file cannot forge them.
    raw.remove("prevResult");
    raw.remove("runtimeConfig");
    Ok(Plugin { kind, raw, capabilities })
}

/// A plugin's `type` is the name of a file in the directory of the plugins and never a path
/// (CVE-2021-20206).
pub(crate) fn check_type(kind: &str) -> Result<(), BadConf> {
    let fine = !kind.is_empty()
        && kind.len() <= 255
        && !matches!(kind, "." | "..")
        && !kind.contains(|c: char| c == '/' || c == '\\' || c.is_control());
    if fine {
        Ok(())
    } else {
        let shown: String = kind.chars().take(80).flat_map(char::escape_default).collect();
        Err(BadConf::new("type", format!("`{shown}` is not the name of a plugin")))
    }
}

/// What a configuration directory holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// The first network that is valid.
    Network(NetworkList),
    /// Files, but none is valid: what is wrong with each.
    NoneValid(Vec<String>),
    /// No file of a network, or no directory.
    Nothing,
}

/// Reads `*.conflist`, `*.conf` and `*.json` in lexical order; the first valid one is the network.
pub(crate) fn first_in(dir: &Path) -> Found {
    let mut names: Vec<String> = match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .take(MOST_FILES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| [".conflist", ".conf", ".json"].iter().any(|end| name.ends_with(end)))
            .collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Found::Nothing,
        Err(e) => return Found::NoneValid(vec![format!("{}: {e}", dir.display())]),
    };
    names.sort();
    let mut wrong = Vec::new();
    for name in names {
        match read(dir, &name) {
            Ok(list) => return Found::Network(list),
            Err(why) => {
                tracing::warn!(file = name, why, "CNI configuration is not used");
                wrong.push(format!("{name}: {why}"));
            }
        }
    }
    if wrong.is_empty() { Found::Nothing } else { Found::NoneValid(wrong) }
}

fn read(dir: &Path, name: &str) -> Result<NetworkList, String> {
    let path = dir.join(name);
    // Not blocking: a FIFO must not hold the daemon.
    let file =
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("not a file".to_owned());
    }
    let text = Bounded::new(file, LARGEST).read_text().map_err(|e| e.to_string())?;
    let list = NetworkList::parse(&text, name.ends_with(".conflist")).map_err(|e| e.to_string())?;
    if !list.inlined_only && std::fs::read_dir(dir.join(&list.name)).is_ok_and(|mut d| d.next().is_some()) {
        return Err(format!(
            "loadOnlyInlinedPlugins: plugins in files of their own (`{}/`) are not supported; inline them",
            list.name
        ));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(kind: &str) -> Result<NetworkList, BadConf> {
        NetworkList::parse(
            &json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": kind}]}).to_string(),
            true,
        )
    }

    #[test]
    fn a_type_that_is_a_path_is_refused() {
        for kind in
            ["../../../canary/run", "/bin/sh", "", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", &"x".repeat(256)]
        {
            let error = foreign(kind).expect_err(kind);
            assert_eq!(error.key, "plugins[0].type", "{kind:?}");
        }
        foreign("calico").expect("a plain name");
    }

    #[test]
    fn names_and_versions_are_checked() {
        let with = |name: &str, version: &str| {
            NetworkList::parse(
                &json!({"cniVersion": version, "name": name, "plugins": [{"type": "x"}]}).to_string(),
                true,
            )
        };
        for name in ["", "../n", "a/b", ".", "-a", "a b", &"n".repeat(201)] {
            assert_eq!(with(name, "1.0.0").expect_err(name).key, "name");
        }
        for version in ["0.1.0", "0.2.0", "1.2.0", "", "1"] {
            assert_eq!(with("n", version).expect_err(version).key, "cniVersion");
        }
        for version in Version::ALL {
            assert_eq!(with("n", version.text()).expect("spoken").version, version);
        }
    }

    #[test]
    fn the_highest_known_of_several_versions_is_spoken() {
        let text = json!({"cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.1.0", "9.9.9"], "name": "n", "plugins": [{"type": "x"}]});
        assert_eq!(NetworkList::parse(&text.to_string(), true).expect("list").version, Version::V110);
    }

    #[test]
    fn what_is_not_a_list_of_plugins_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"cniVersion":"1.0.0","name":"n"}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[1]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":1}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","disableCheck":3,"plugins":[{"type":"x"}]}"#,
        ] {
            assert!(NetworkList::parse(text, true).is_err(), "{text}");
        }
    }

    #[test]
    fn the_text_in_a_plan_is_the_same_network() {
        let text = json!({"cniVersion": "1.0.0", "name": "n", "disableCheck": "true", "plugins": [
            {"type": "x", "capabilities": {"portMappings": true, "mac": false}, "own": {"k": [1]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        let mut list = NetworkList::parse(&text.to_string(), true).expect("list");
        assert!(list.disable_check && !list.inlined_only);
        list.inlined_only = true;
        assert_eq!(NetworkList::parse(&list.to_text(), true).expect("again"), list);
    }

    #[test]
    fn a_request_has_only_the_capabilities_that_the_plugin_declares() {
        let text = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "x", "capabilities": {"portMappings": true, "mac": false}, "runtimeConfig": {"forged": 1}},
            {"type": "y", "prevResult": {"forged": 1}}]});
        let list = NetworkList::parse(&text.to_string(), true).expect("list");
        let runtime = json!({"portMappings": [1], "mac": "m"});
        let runtime = runtime.as_object().expect("object");
        let first = list.request_for(&list.plugins[0], None, runtime);
        assert_eq!(
            Value::Object(first),
            json!({"cniVersion": "1.0.0", "name": "n", "type": "x", "runtimeConfig": {"portMappings": [1]}})
        );
        let second = list.request_for(&list.plugins[1], Some(&json!({"ips": []})), runtime);
        assert_eq!(
            Value::Object(second),
            json!({"cniVersion": "1.0.0", "name": "n", "type": "y", "prevResult": {"ips": []}})
        );
    }
}
