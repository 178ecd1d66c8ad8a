//! The CRI's messages as they are on the wire: which fields a message sets, and how to spoil one of them. The schema is
//! the interface's own list, `cri-v1.37.json`, so this knows also fields that nobody here names.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

/// Messages whose fields are named by themselves and not by the path of the request: they are reached by many ways.
const ROOTS: &[&str] = &[
    "Container",
    "ContainerConfig",
    "ContainerStats",
    "ContainerStatus",
    "Image",
    "Metric",
    "MetricDescriptor",
    "PodSandbox",
    "PodSandboxConfig",
    "PodSandboxMetrics",
    "PodSandboxStats",
    "PodSandboxStatus",
];

/// The vendored interface.
pub static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let raw: Raw =
        serde_json::from_str(include_str!("../../cri-v1.37.json")).expect("the vendored interface");
    Schema::new(raw)
});

#[derive(Deserialize)]
struct Raw {
    services: BTreeMap<String, BTreeMap<String, RawCall>>,
    messages: BTreeMap<String, BTreeMap<String, RawField>>,
}

#[derive(Deserialize)]
struct RawCall {
    request: String,
    response: String,
}

#[derive(Deserialize)]
struct RawField {
    number: u64,
    r#type: String,
}

/// All calls and messages.
#[derive(Debug)]
pub struct Schema {
    /// Every RPC, in alphabetical order.
    pub calls: BTreeMap<String, Call>,
    messages: BTreeMap<String, Vec<Field>>,
}

/// One RPC.
#[derive(Clone, Debug)]
pub struct Call {
    /// `RuntimeService` or `ImageService`.
    pub service: String,
    /// The request's message.
    pub request: String,
    /// The answer's message.
    pub response: String,
    /// Whether answers come as a stream.
    pub stream: bool,
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    number: u64,
    kind: Kind,
    repeated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// bool, 32 bits, enum: a varint.
    Number,
    /// 64 bits: a varint too. Times and sizes, of which cases check the range.
    Wide,
    Double,
    /// string, bytes.
    Text,
    Map,
    Message(String),
}

impl Schema {
    fn new(raw: Raw) -> Schema {
        let kind = |name: &str| match name {
            "string" | "bytes" => Kind::Text,
            "double" => Kind::Double,
            "int64" | "uint64" => Kind::Wide,
            map if map.starts_with("map<") => Kind::Map,
            message if raw.messages.contains_key(message) => Kind::Message(message.to_owned()),
            _number => Kind::Number,
        };
        let field = |(name, field): (&String, &RawField)| {
            let (repeated, of) = field
                .r#type
                .strip_prefix("repeated ")
                .map_or((false, field.r#type.as_str()), |of| (true, of));
            Field { name: name.clone(), number: field.number, kind: kind(of), repeated }
        };
        let messages = raw
            .messages
            .iter()
            .map(|(name, fields)| {
                let mut fields: Vec<Field> = fields.iter().map(field).collect();
                fields.sort_by_key(|field| field.number);
                (name.clone(), fields)
            })
            .collect();
        let calls = raw
            .services
            .into_iter()
            .flat_map(|(service, calls)| {
                calls.into_iter().map(move |(name, call)| {
                    let stream = call.response.starts_with("stream ");
                    let response = call.response.trim_start_matches("stream ").to_owned();
                    (name, Call { service: service.clone(), request: call.request, response, stream })
                })
            })
            .collect();
        Schema { calls, messages }
    }

    /// The paths of all fields beneath the message: those that hold no message themselves. A message without fields is
    /// one path, its name.
    #[must_use]
    pub fn paths(&self, message: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        self.collect(message, message, &mut BTreeSet::new(), &mut all);
        all
    }

    /// As [`Schema::paths`], without those of messages that are named by themselves, in the order of their numbers.
    #[must_use]
    pub fn own_paths(&self, message: &str) -> Vec<String> {
        let mut all = Vec::new();
        self.own(message, message, &mut all);
        all
    }

    fn own(&self, message: &str, prefix: &str, all: &mut Vec<String>) {
        let fields = &self.messages[message];
        if fields.is_empty() {
            all.push(prefix.to_owned());
        }
        for field in fields {
            match &field.kind {
                Kind::Message(inner) if ROOTS.contains(&inner.as_str()) => {}
                Kind::Message(inner) => self.own(inner, &format!("{prefix}.{}", field.name), all),
                Kind::Number | Kind::Wide | Kind::Double | Kind::Text | Kind::Map => {
                    all.push(format!("{prefix}.{}", field.name))
                }
            }
        }
    }

    fn collect(&self, message: &str, prefix: &str, seen: &mut BTreeSet<String>, all: &mut BTreeSet<String>) {
        let fields = &self.messages[message];
        if fields.is_empty() {
            all.insert(prefix.to_owned());
        }
        for field in fields {
            match &field.kind {
                Kind::Message(inner) if ROOTS.contains(&inner.as_str()) => {
                    if seen.insert(inner.clone()) {
                        self.collect(inner, inner, seen, all);
                    }
                }
                Kind::Message(inner) => self.collect(inner, &format!("{prefix}.{}", field.name), seen, all),
                Kind::Number | Kind::Wide | Kind::Double | Kind::Text | Kind::Map => {
                    all.insert(format!("{prefix}.{}", field.name));
                }
            }
        }
    }

    /// Adds to `seen` the paths of all fields that `bytes`, one message, sets; and of the messages on the way.
    ///
    /// # Errors
    /// When the bytes are no such message.
    pub fn fields_set(&self, message: &str, bytes: &[u8], seen: &mut BTreeSet<String>) -> Result<()> {
        self.note(message, message, bytes, seen)
    }

    fn note(&self, message: &str, prefix: &str, bytes: &[u8], seen: &mut BTreeSet<String>) -> Result<()> {
        seen.insert(prefix.to_owned());
        let fields = self.messages.get(message).with_context(|| format!("no message {message}"))?;
        for record in records(bytes) {
            let record = record?;
            let Some(field) = fields.iter().find(|field| field.number == record.number) else {
                seen.insert(format!("{prefix}.#{}", record.number));
                continue;
            };
            match &field.kind {
                Kind::Message(inner) => {
                    let path = self.path(prefix, field, inner);
                    self.note(inner, &path, record.payload, seen)?;
                }
                Kind::Number | Kind::Wide | Kind::Double | Kind::Text | Kind::Map => {
                    seen.insert(format!("{prefix}.{}", field.name));
                }
            }
        }
        Ok(())
    }

    fn path(&self, prefix: &str, field: &Field, inner: &str) -> String {
        if ROOTS.contains(&inner) { inner.to_owned() } else { format!("{prefix}.{}", field.name) }
    }

    /// The message with the field of that path spoilt wherever it is: a number is another, a text has one letter more,
    /// what may be absent is gone. A scalar that is absent comes into being.
    ///
    /// # Errors
    /// When the bytes are no such message.
    pub fn spoil(&self, message: &str, bytes: &[u8], target: &str) -> Result<Vec<u8>> {
        self.spoilt(message, message, bytes, target)
    }

    fn spoilt(&self, message: &str, prefix: &str, bytes: &[u8], target: &str) -> Result<Vec<u8>> {
        let fields = self.messages.get(message).with_context(|| format!("no message {message}"))?;
        let mut out = Vec::with_capacity(bytes.len() + 8);
        let mut met = false;
        for record in records(bytes) {
            let record = record?;
            let Some(field) = fields.iter().find(|field| field.number == record.number) else {
                out.extend_from_slice(record.whole);
                continue;
            };
            let here = format!("{prefix}.{}", field.name) == target;
            met |= here;
            match &field.kind {
                Kind::Message(inner) => {
                    let path = self.path(prefix, field, inner);
                    let inside = self.spoilt(inner, &path, record.payload, target)?;
                    tag(&mut out, field.number, 2);
                    varint(&mut out, inside.len() as u64);
                    out.extend_from_slice(&inside);
                }
                Kind::Number | Kind::Wide if here && record.payload.is_empty() => {
                    // A bool turns, a number becomes its neighbour, a time or size is beyond all measure.
                    tag(&mut out, field.number, 0);
                    varint(&mut out, record.value ^ if field.kind == Kind::Wide { 1 << 61 } else { 1 });
                }
                Kind::Text if here && !field.repeated => {
                    tag(&mut out, field.number, 2);
                    varint(&mut out, record.payload.len() as u64 + 1);
                    out.extend_from_slice(record.payload);
                    out.push(b'~');
                }
                // A share of time that nothing can have.
                Kind::Double if here => fixed(&mut out, field.number),
                // Gone.
                Kind::Map | Kind::Text | Kind::Wide if here => {}
                Kind::Number | Kind::Wide | Kind::Double | Kind::Text | Kind::Map => {
                    out.extend_from_slice(record.whole)
                }
            }
        }
        if !met && let Some(field) = fields.iter().find(|field| format!("{prefix}.{}", field.name) == target)
        {
            absent(&mut out, field);
        }
        Ok(out)
    }
}

/// Writes a field that was not there.
fn absent(out: &mut Vec<u8>, field: &Field) {
    match &field.kind {
        Kind::Number | Kind::Wide if !field.repeated => {
            tag(out, field.number, 0);
            varint(out, if field.kind == Kind::Wide { 1 << 61 } else { 1 });
        }
        Kind::Text => {
            tag(out, field.number, 2);
            varint(out, 1);
            out.push(b'~');
        }
        Kind::Map => {
            tag(out, field.number, 2);
            // One entry: "~" = "~".
            varint(out, 6);
            out.extend_from_slice(&[0x0a, 1, b'~', 0x12, 1, b'~']);
        }
        Kind::Double if !field.repeated => fixed(out, field.number),
        Kind::Number | Kind::Wide | Kind::Double | Kind::Message(_) => {}
    }
}

/// Writes the double -1.
fn fixed(out: &mut Vec<u8>, number: u64) {
    tag(out, number, 1);
    out.extend_from_slice(&(-1.0_f64).to_le_bytes());
}

struct Record<'a> {
    number: u64,
    value: u64,
    payload: &'a [u8],
    whole: &'a [u8],
}

fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let read = record(bytes);
        match &read {
            Ok(record) => bytes = &bytes[record.whole.len()..],
            Err(_) => bytes = &[],
        }
        Some(read)
    })
}

fn record(bytes: &[u8]) -> Result<Record<'_>> {
    let (key, mut at) = read_varint(bytes)?;
    let mut value = 0;
    let payload = match key & 7 {
        0 => {
            let (number, length) = read_varint(&bytes[at..])?;
            value = number;
            at += length;
            &[][..]
        }
        1 | 5 => {
            let length = if key & 7 == 1 { 8 } else { 4 };
            let fixed = bytes.get(at..at + length).context("a fixed number is cut off")?;
            at += length;
            fixed
        }
        2 => {
            let (length, width) = read_varint(&bytes[at..])?;
            at += width;
            let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
            let payload = end.and_then(|end| bytes.get(at..end)).context("a field is cut off")?;
            at += payload.len();
            payload
        }
        wire => bail!("wire type {wire}"),
    };
    Ok(Record { number: key >> 3, value, payload, whole: &bytes[..at] })
}

fn read_varint(bytes: &[u8]) -> Result<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
    }
    bail!("a varint is cut off")
}

fn tag(out: &mut Vec<u8>, number: u64, wire: u64) {
    varint(out, (number << 3) | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f | 0x80).to_le_bytes()[0]);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::cri;

    fn bytes(status: &cri::ContainerStatusResponse) -> Vec<u8> {
        prost::Message::encode_to_vec(status)
    }

    fn answer() -> cri::ContainerStatusResponse {
        cri::ContainerStatusResponse {
            status: Some(cri::ContainerStatus {
                id: "abc".to_owned(),
                exit_code: 6,
                mounts: vec![cri::Mount { readonly: true, ..Default::default() }],
                ..Default::default()
            }),
            info: [("a".to_owned(), "b".to_owned())].into(),
        }
    }

    #[test]
    fn the_fields_of_a_message_are_found() {
        let mut seen = BTreeSet::new();
        SCHEMA.fields_set("ContainerStatusResponse", &bytes(&answer()), &mut seen).expect("a message");
        for path in ["ContainerStatus.id", "ContainerStatus.exit_code", "ContainerStatus.mounts.readonly"] {
            assert!(seen.contains(path), "{path} in {seen:?}");
        }
        assert!(seen.contains("ContainerStatusResponse.info"));
        assert!(!seen.contains("ContainerStatus.message"));
    }

    #[test]
    fn one_field_is_spoilt_and_no_other() {
        let spoil = |path: &str| -> cri::ContainerStatusResponse {
            let bytes = SCHEMA.spoil("ContainerStatusResponse", &bytes(&answer()), path).expect("a message");
            prost::Message::decode(&*bytes).expect("a message")
        };
        let mut expected = answer();
        expected.status.as_mut().expect("set").id = "abc~".to_owned();
        assert_eq!(spoil("ContainerStatus.id"), expected);
        expected = answer();
        expected.status.as_mut().expect("set").exit_code = 7;
        assert_eq!(spoil("ContainerStatus.exit_code"), expected);
        expected = answer();
        expected.status.as_mut().expect("set").mounts[0].readonly = false;
        assert_eq!(spoil("ContainerStatus.mounts.readonly"), expected);
        expected = answer();
        expected.status.as_mut().expect("set").reason = "~".to_owned();
        assert_eq!(spoil("ContainerStatus.reason"), expected);
        expected = answer();
        expected.info.clear();
        assert_eq!(spoil("ContainerStatusResponse.info"), expected);
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        let mut seen = BTreeSet::new();
        assert!(SCHEMA.fields_set("ContainerStatusResponse", &[0x0a, 9, 1], &mut seen).is_err());
        assert!(SCHEMA.fields_set("ContainerStatusResponse", &[0x80], &mut seen).is_err());
    }
}
