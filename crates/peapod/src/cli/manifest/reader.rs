//! One mapping of a YAML document, read field by field: what nobody took is refused by its path.

use super::{ManifestError, quantity::Quantity};
use serde_yaml_ng::Value;
use std::collections::BTreeMap;

pub(crate) type Result<T> = std::result::Result<T, ManifestError>;

/// A value and where it stands, such as `spec.containers[0].image`.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) path: String,
    pub(crate) value: Value,
}

/// A mapping whose fields are taken one by one; [`Object::finish`] looks at the rest.
#[derive(Debug)]
pub(crate) struct Object {
    path: String,
    fields: BTreeMap<String, Value>,
}

impl Item {
    pub(crate) fn object(self) -> Result<Object> {
        let Value::Mapping(fields) = self.value else {
            return Err(wrong_kind(&self.path, "a mapping", &self.value));
        };
        let mut named = BTreeMap::new();
        for (key, value) in fields {
            let Value::String(key) = key else {
                return Err(wrong_kind(&self.path, "names of fields as text", &key));
            };
            named.insert(key, value);
        }
        Ok(Object { path: self.path, fields: named })
    }

    pub(crate) fn text(self) -> Result<String> {
        let Value::String(text) = self.value else {
            return Err(wrong_kind(&self.path, "text (quote it)", &self.value));
        };
        if text.contains('\0') {
            return Err(ManifestError::Wrong { path: self.path, reason: "holds a NUL byte".to_owned() });
        }
        Ok(text)
    }

    /// A number, or text such as `64Mi`.
    pub(crate) fn quantity(self) -> Result<Quantity> {
        let text = match &self.value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            Value::Null | Value::Bool(_) | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                return Err(wrong_kind(&self.path, "a quantity", &self.value));
            }
        };
        let wrong =
            |error| ManifestError::Wrong { path: self.path, reason: format!("`{}` {error}", shown(&text)) };
        Quantity::parse(&text).map_err(wrong)
    }

    fn list(self) -> Result<Vec<Item>> {
        let Value::Sequence(values) = self.value else {
            return Err(wrong_kind(&self.path, "a list", &self.value));
        };
        let path = self.path;
        let item = |(i, value)| Item { path: format!("{path}[{i}]"), value };
        Ok(values.into_iter().enumerate().map(item).collect())
    }
}

impl Object {
    /// The path of one of its fields.
    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Where it stands itself.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn wrong(&self, key: &str, reason: impl Into<String>) -> ManifestError {
        ManifestError::Wrong { path: self.at(key), reason: reason.into() }
    }

    /// The field, unless it is absent or null.
    pub(crate) fn take(&mut self, key: &str) -> Option<Item> {
        let value = self.fields.remove(key).filter(|value| !value.is_null())?;
        Some(Item { path: self.at(key), value })
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>> {
        self.take(key).map(Item::text).transpose()
    }

    /// A text that must be there and not be empty.
    pub(crate) fn required(&mut self, key: &str) -> Result<String> {
        match self.text(key)? {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) | None => Err(self.wrong(key, "is required")),
        }
    }

    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Item { value: Value::Bool(flag), .. }) => Ok(Some(flag)),
            Some(Item { value, path }) => Err(wrong_kind(&path, "true or false", &value)),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn number(&mut self, key: &str, range: std::ops::RangeInclusive<i64>) -> Result<Option<i64>> {
        let Some(item) = self.take(key) else { return Ok(None) };
        match item.value.as_i64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(number) => {
                Err(self.wrong(key, format!("{number} is not within {} to {}", range.start(), range.end())))
            }
            None => Err(wrong_kind(&item.path, "a whole number", &item.value)),
        }
    }

    pub(crate) fn object(&mut self, key: &str) -> Result<Option<Object>> {
        self.take(key).map(Item::object).transpose()
    }

    /// The items of a list; none if it is absent.
    pub(crate) fn list(&mut self, key: &str) -> Result<Vec<Item>> {
        self.take(key).map_or(Ok(Vec::new()), Item::list)
    }

    pub(crate) fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        self.list(key)?.into_iter().map(Item::text).collect()
    }

    /// A mapping of texts, such as labels.
    pub(crate) fn map(&mut self, key: &str) -> Result<BTreeMap<String, String>> {
        let Some(object) = self.object(key)? else { return Ok(BTreeMap::new()) };
        let path = object.path;
        let pair = |(key, value): (String, Value)| {
            let path = format!("{path}.{key}");
            Ok((key, Item { path, value }.text()?))
        };
        object.fields.into_iter().map(pair).collect()
    }

    /// The rest, by name: for mappings whose keys are data.
    pub(crate) fn into_items(self) -> impl Iterator<Item = (String, Item)> {
        let path = self.path;
        self.fields.into_iter().filter(|(_, value)| !value.is_null()).map(move |(key, value)| {
            let path = format!("{path}.{key}");
            (key, Item { path, value })
        })
    }

    /// One of some words; the first is the default.
    pub(crate) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err(self.wrong(key, format!("`{}` is none of {}", shown(&text), known.join(", "))))
            }
        }
    }

    /// A field that may hold one of these values, which ask for nothing, and no other.
    pub(crate) fn only(&mut self, key: &str, values: &[&str]) -> Result<()> {
        let Some(item) = self.take(key) else { return Ok(()) };
        let text = match &item.value {
            Value::String(text) => text.clone(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Number(_) | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                return if asks_nothing(&item.value) {
                    Ok(())
                } else {
                    Err(ManifestError::NotSupported(item.path))
                };
            }
        };
        if text.is_empty() || values.contains(&text.as_str()) {
            return Ok(());
        }
        Err(ManifestError::NotSupportedValue { path: item.path, value: shown(&text) })
    }

    /// Fields that a server writes down and that nothing follows from.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.fields.remove(*key);
        }
    }

    /// Refuses what was not taken: `known` are fields that Kubernetes has and we do not obey; they may
    /// be there if they ask for nothing.
    pub(crate) fn finish(self, known: &[&str]) -> Result<()> {
        for (key, value) in &self.fields {
            if !known.contains(&key.as_str()) {
                return Err(ManifestError::Unknown(self.at(&shown(key))));
            }
            if !asks_nothing(value) {
                return Err(ManifestError::NotSupported(self.at(key)));
            }
        }
        Ok(())
    }
}

/// What leaves a field at its default: null, false, empty.
fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Tagged(_) => false,
    }
}

fn wrong_kind(path: &str, want: &str, got: &Value) -> ManifestError {
    let got = match got {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tag",
    };
    let path = if path.is_empty() { "the document" } else { path };
    ManifestError::Wrong { path: path.to_owned(), reason: format!("want {want}, got {got}") }
}

/// Foreign text for an error message: bounded, on one line.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
