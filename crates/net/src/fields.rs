//! The keys of a built-in plugin's configuration, each taken once; what is left over is refused.
//!
//! The plugins that ours stand for are written in Go, whose JSON reader matches keys without regard
//! to case: files with `isGateWay` are about and mean it.

use crate::conflist::BadConf;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Keys of every plugin, which the runtime deals with.
const COMMON: [&str; 6] = ["cniversion", "name", "type", "capabilities", "dns", "cniversions"];

/// The keys that are still to be taken.
#[derive(Debug)]
pub(crate) struct Fields {
    left: Vec<(String, Value)>,
}

impl Fields {
    pub(crate) fn of(object: &Map<String, Value>) -> Self {
        let left = object.iter().filter(|(key, _)| !COMMON.contains(&key.to_ascii_lowercase().as_str()));
        Self { left: left.map(|(key, value)| (key.clone(), value.clone())).collect() }
    }

    /// The value of a key, if there is one that is not null.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, BadConf> {
        let Some(at) = self.left.iter().position(|(k, _)| k.eq_ignore_ascii_case(key)) else {
            return Ok(None);
        };
        let (_, value) = self.left.swap_remove(at);
        serde_json::from_value(value).map_err(|e| BadConf::new(key, e.to_string()))
    }

    /// A switch that is off unless it is set.
    pub(crate) fn flag(&mut self, key: &str) -> Result<bool, BadConf> {
        Ok(self.take(key)?.unwrap_or(false))
    }

    /// A key that is known and not supported: passes only with a value that asks for nothing.
    pub(crate) fn refuse(&mut self, key: &str, why: &str) -> Result<(), BadConf> {
        let asks = match self.take::<Value>(key)? {
            None => false,
            Some(value) => !is_nothing(&value),
        };
        if asks { Err(BadConf::new(key, format!("not supported: {why}"))) } else { Ok(()) }
    }

    /// A key that changes nothing here.
    pub(crate) fn ignore(&mut self, key: &str) {
        self.left.retain(|(k, _)| !k.eq_ignore_ascii_case(key));
    }

    /// Refuses what nobody took; keys that begin with `_` are comments.
    pub(crate) fn end(self) -> Result<(), BadConf> {
        match self.left.into_iter().find(|(key, _)| !key.starts_with('_')) {
            Some((key, _)) => Err(BadConf::new(key, "not a key of this plugin")),
            None => Ok(()),
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.values().all(is_nothing),
    }
}
