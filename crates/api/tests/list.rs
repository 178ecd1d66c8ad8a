//! `proto/cri/api.proto` against the list of CRI 1.37's names, numbers and types that is kept in
//! `tests/conformance/cri-v1.37.json`: both must say the same, in both directions. The comments in
//! the file are ours; names and numbers are the interface's and nobody's to change.

#![allow(clippy::wildcard_enum_match_arm, reason = "only enums of prost-reflect and serde_json are matched")]
#![allow(clippy::tests_outside_test_module, reason = "cargo builds this whole file for tests only")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protox::file::File;
use protox::prost_reflect::{
    DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, prost_types,
};
use serde_json::Value;

/// One line for each fact: the full name of a field, enum value, method or message, and what it is.
/// The file and the list are both turned into this, so whatever only one of them says shows up.
type Facts = BTreeMap<String, String>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn facts_of_list() -> Facts {
    let list: Value = serde_json::from_str(&read("tests/conformance/cri-v1.37.json")).expect("JSON");
    let mut facts = Facts::from([("package".into(), text(&list["package"]))]);
    for (service, methods) in object(&list["services"]) {
        for (method, m) in object(methods) {
            let fact = format!("rpc ({}) returns ({})", text(&m["request"]), text(&m["response"]));
            facts.insert(format!("{service}.{method}"), fact);
        }
    }
    for (message, fields) in object(&list["messages"]) {
        facts.insert(message.clone(), "message".into());
        for (field, f) in object(fields) {
            let old = if f["deprecated"] == Value::Bool(true) { " deprecated" } else { "" };
            facts
                .insert(format!("{message}.{field}"), format!("{} = {}{old}", text(&f["type"]), f["number"]));
        }
    }
    for (name, values) in object(&list["enums"]) {
        facts.insert(name.clone(), "enum".into());
        for (value, number) in object(values) {
            facts.insert(format!("{name}.{value}"), format!("value {number}"));
        }
    }
    facts
}

fn object(value: &Value) -> &serde_json::Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned()
}

fn facts_of_file(source: &str) -> Facts {
    let file = File::from_source("cri/api.proto", source).expect("api.proto parses");
    let set = prost_types::FileDescriptorSet { file: vec![file.file_descriptor_proto().clone()] };
    let pool = DescriptorPool::from_file_descriptor_set(set).expect("api.proto names only what it has");
    let file = pool.files().next().expect("one file");
    let mut facts = Facts::from([("package".into(), file.package_name().to_owned())]);
    for method in pool.services().flat_map(|s| s.methods().collect::<Vec<_>>()) {
        facts.insert(short(method.full_name()), rpc(&method));
    }
    for message in pool.all_messages().filter(|m| !m.is_map_entry()) {
        facts.insert(short(message.full_name()), shape(&message));
        for field in message.fields() {
            facts.insert(short(field.full_name()), line(&field));
        }
    }
    for e in pool.all_enums() {
        facts.insert(short(e.full_name()), "enum".into());
        for value in e.values() {
            // The full name of a value lies beside its enum, not beneath it.
            facts.insert(
                format!("{}.{}", short(e.full_name()), value.name()),
                format!("value {}", value.number()),
            );
        }
    }
    facts
}

fn short(full_name: &str) -> String {
    full_name.strip_prefix("runtime.v1.").unwrap_or(full_name).to_owned()
}

fn rpc(method: &MethodDescriptor) -> String {
    let stream = |yes| if yes { "stream " } else { "" };
    format!(
        "rpc ({}{}) returns ({}{})",
        stream(method.is_client_streaming()),
        method.input().name(),
        stream(method.is_server_streaming()),
        method.output().name()
    )
}

/// The list has no oneof, reserved range or extension: a message that gains one is no longer plain.
fn shape(message: &MessageDescriptor) -> String {
    let mut shape = "message".to_owned();
    for oneof in message.oneofs() {
        shape += &format!(" oneof {}", oneof.name());
    }
    for range in message.reserved_ranges() {
        shape += &format!(" reserved {range:?}");
    }
    for name in message.reserved_names() {
        shape += &format!(" reserved {name}");
    }
    shape
}

fn line(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(entry) if entry.is_map_entry() => format!(
            "map<{}, {}>",
            kind_name(&entry.map_entry_key_field().kind()),
            kind_name(&entry.map_entry_value_field().kind())
        ),
        kind if field.is_list() => format!("repeated {}", kind_name(&kind)),
        kind => kind_name(&kind),
    };
    let options = field.field_descriptor_proto().options.clone().unwrap_or_default();
    let old = if options.deprecated() { " deprecated" } else { "" };
    format!("{kind} = {}{old}", field.number())
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(m) => short(m.full_name()),
        // The list calls an enum by the name that the field's message sees it by.
        Kind::Enum(e) => e.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

/// What the file has and the list has not, and the other way round, as lines for a person to read.
fn differences(file: &Facts, list: &Facts) -> Vec<String> {
    let absent = "nothing".to_owned();
    let names = file.keys().chain(list.keys()).collect::<std::collections::BTreeSet<_>>();
    names
        .into_iter()
        .map(|name| (name, file.get(name).unwrap_or(&absent), list.get(name).unwrap_or(&absent)))
        .filter(|(_, ours, listed)| ours != listed)
        .map(|(name, ours, listed)| format!("{name}: api.proto has `{ours}`, the list `{listed}`"))
        .collect()
}

#[test]
fn every_name_number_and_type_is_the_one_of_the_list() {
    let found = differences(&facts_of_file(&read("proto/cri/api.proto")), &facts_of_list());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_list_is_whole() {
    let facts = facts_of_list();
    let count = |what: &str| facts.values().filter(|f| f.starts_with(what)).count();
    assert_eq!((count("rpc"), count("message"), count("enum")), (43, 175, 11));
}

#[test]
fn any_one_change_of_the_file_is_noticed() {
    let changes = [
        (
            "string runtime_api_version = 4;",
            "string runtime_api_version = 5;",
            "VersionResponse.runtime_api_version",
        ),
        ("uint32 attempt = 4;", "int32 attempt = 4;", "PodSandboxMetadata.attempt"),
        ("repeated string searches = 2;", "string searches = 2;", "DNSConfig.searches"),
        (
            "map<string, string> sysctls = 3;",
            "map<string, bytes> sysctls = 3;",
            "LinuxPodSandboxConfig.sysctls",
        ),
        ("bytes value = 2;", "string value = 2;", "KeyValue.value"),
        ("bool stdin_once = 13;", "bool stdin_twice = 13;", "ContainerConfig.stdin_once"),
        ("string pod_cidr = 1;", "oneof cidr { string pod_cidr = 1; }", "NetworkConfig"),
        ("string pod_cidr = 1;", "string pod_cidr = 1; reserved 2;", "NetworkConfig"),
        ("string pod_cidr = 1;", "string pod_cidr = 1; string more = 2;", "NetworkConfig.more"),
        ("SIGNAL_SIGHUP = 8;", "SIGHUP = 8;", "Signal.SIGNAL_SIGHUP"),
        ("CGROUPFS = 1;", "CGROUPFS = 2;", "CgroupDriver.CGROUPFS"),
        (
            "string seccomp_profile_path = 7 [deprecated = true];",
            "string seccomp_profile_path = 7;",
            "LinuxSandboxSecurityContext.seccomp_profile_path",
        ),
        (
            "returns (stream ContainerEventResponse)",
            "returns (ContainerEventResponse)",
            "RuntimeService.GetContainerEvents",
        ),
        ("package runtime.v1;", "package runtime.v2;", "package"),
    ];
    let source = read("proto/cri/api.proto");
    let list = facts_of_list();
    for (from, to, name) in changes {
        assert!(source.contains(from), "api.proto has no `{from}` that could be changed");
        let found = differences(&facts_of_file(&source.replacen(from, to, 1)), &list);
        assert!(
            found.iter().any(|d| d.starts_with(&format!("{name}:"))),
            "`{from}` -> `{to}` went unnoticed: {found:?}"
        );
    }
}
