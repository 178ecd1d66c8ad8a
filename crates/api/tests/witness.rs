//! Our messages against those of the crate `k8s-cri`, which others wrote from an older version of
//! the interface (about Kubernetes 1.32): what both can say must mean the same to both. A peer that
//! was generated from our own file would agree with any mistake in it; this one does not.

#![allow(clippy::wildcard_enum_match_arm, reason = "only enums of prost-reflect and serde_json are matched")]
#![allow(clippy::tests_outside_test_module, reason = "cargo builds this whole file for tests only")]

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use prost::Message;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use serde_json::{Value as Json, json};
use tonic::codegen::{Service, http};

/// Fields that only ours have: the interface gained them after the witness was written.
const FIELDS_ONLY_OURS: [&str; 11] = [
    "ContainerConfig.stop_signal",
    "ContainerStats.io",
    "ContainerStatus.stop_signal",
    "CpuUsage.psi",
    "ImageSpec.image_ref",
    "LinuxPodSandboxStats.io",
    "MemoryUsage.psi",
    "Mount.image_sub_path",
    "Mount.mount_options",
    "RuntimeFeatures.mount_options",
    "RuntimeFeatures.user_namespaces_host_network",
];

/// Messages that only ours have, for the same reason.
#[rustfmt::skip]
const MESSAGES_ONLY_OURS: [&str; 22] = [
    "CheckpointPodRequest", "CheckpointPodResponse", "IoUsage", "PsiData", "PsiStats", "RestorePodRequest",
    "RestorePodResponse", "RestoredContainer", "StreamContainerStatsRequest",
    "StreamContainerStatsResponse", "StreamContainersRequest", "StreamContainersResponse",
    "StreamImagesRequest", "StreamImagesResponse", "StreamPodSandboxMetricsRequest",
    "StreamPodSandboxMetricsResponse", "StreamPodSandboxStatsRequest", "StreamPodSandboxStatsResponse",
    "StreamPodSandboxesRequest", "StreamPodSandboxesResponse", "UpdatePodSandboxResourcesRequest",
    "UpdatePodSandboxResourcesResponse",
];

/// One message that both know, with what each side's generated code makes of its bytes.
struct Pair {
    /// The Rust name, which is the same on both sides.
    name: &'static str,
    /// Decodes with ours and encodes again.
    ours: fn(&[u8]) -> Vec<u8>,
    /// Decodes with theirs: the fields by name, and the message encoded again.
    theirs: fn(&[u8]) -> (Json, Vec<u8>),
}

macro_rules! pairs {
    ($($message:ident,)*) => {
        vec![$(Pair {
            name: stringify!($message),
            ours: |bytes| api::cri::$message::decode(bytes).expect("ours reads it").encode_to_vec(),
            theirs: |bytes| {
                let read = k8s_cri::v1::$message::decode(bytes).expect("the witness reads it");
                (serde_json::to_value(&read).expect("JSON"), read.encode_to_vec())
            },
        }),*]
    };
}

#[rustfmt::skip]
fn pairs() -> Vec<Pair> {
    pairs![
    AttachRequest, AttachResponse, AuthConfig, CdiDevice, Capability, CheckpointContainerRequest,
    CheckpointContainerResponse, Container, ContainerAttributes, ContainerConfig, ContainerEventResponse,
    ContainerFilter, ContainerMetadata, ContainerMetrics, ContainerResources, ContainerStateValue,
    ContainerStats, ContainerStatsFilter, ContainerStatsRequest, ContainerStatsResponse, ContainerStatus,
    ContainerStatusRequest, ContainerStatusResponse, ContainerUser, CpuUsage, CreateContainerRequest,
    CreateContainerResponse, DnsConfig, Device, ExecRequest, ExecResponse, ExecSyncRequest,
    ExecSyncResponse, FilesystemIdentifier, FilesystemUsage, GetEventsRequest, HugepageLimit, IdMapping,
    Image, ImageFilter, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxContainerUser, LinuxPodSandboxConfig, LinuxPodSandboxStats,
    LinuxPodSandboxStatus, LinuxRuntimeConfiguration, LinuxSandboxSecurityContext,
    ListContainerStatsRequest, ListContainerStatsResponse, ListContainersRequest, ListContainersResponse,
    ListImagesRequest, ListImagesResponse, ListMetricDescriptorsRequest, ListMetricDescriptorsResponse,
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, ListPodSandboxRequest,
    ListPodSandboxResponse, ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, MemoryUsage, Metric,
    MetricDescriptor, Mount, Namespace, NamespaceOption, NetworkConfig, NetworkInterfaceUsage,
    NetworkUsage, PodIp, PodSandbox, PodSandboxAttributes, PodSandboxConfig, PodSandboxFilter,
    PodSandboxMetadata, PodSandboxMetrics, PodSandboxNetworkStatus, PodSandboxStateValue, PodSandboxStats,
    PodSandboxStatsFilter, PodSandboxStatsRequest, PodSandboxStatsResponse, PodSandboxStatus,
    PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest, PortForwardResponse,
    PortMapping, ProcessUsage, PullImageRequest, PullImageResponse, RemoveContainerRequest,
    RemoveContainerResponse, RemoveImageRequest, RemoveImageResponse, RemovePodSandboxRequest,
    RemovePodSandboxResponse, ReopenContainerLogRequest, ReopenContainerLogResponse, RunPodSandboxRequest,
    RunPodSandboxResponse, RuntimeCondition, RuntimeConfig, RuntimeConfigRequest, RuntimeConfigResponse,
    RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, SeLinuxOption, SecurityProfile,
    StartContainerRequest, StartContainerResponse, StatusRequest, StatusResponse, StopContainerRequest,
    StopContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse, SwapUsage, UInt64Value,
    UpdateContainerResourcesRequest, UpdateContainerResourcesResponse, UpdateRuntimeConfigRequest,
    UpdateRuntimeConfigResponse, UserNamespace, VersionRequest, VersionResponse, WindowsContainerConfig,
    WindowsContainerResources, WindowsContainerSecurityContext, WindowsContainerStats,
    WindowsCpuGroupAffinity, WindowsCpuUsage, WindowsFilesystemUsage, WindowsMemoryUsage,
    WindowsNamespaceOption, WindowsNetworkInterfaceUsage, WindowsNetworkUsage, WindowsPodSandboxConfig,
    WindowsPodSandboxStats, WindowsProcessUsage, WindowsSandboxSecurityContext,
    ]
}

fn pool() -> DescriptorPool {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let set = protox::compile(["cri/api.proto"], [proto]).expect("api.proto compiles");
    DescriptorPool::from_file_descriptor_set(set).expect("api.proto is one file")
}

/// Names as both code generators see them: `DNSConfig` is `DnsConfig`, `uidMappings` `uid_mappings`.
fn plain(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

/// Fills every field, each with a value of its own and at the far end of its type, so that a field
/// that is swapped with another, cut short or lost cannot look like the right one.
struct Filler {
    next: u32,
    only_what_both_know: bool,
}

impl Filler {
    fn message(&mut self, message: &MessageDescriptor) -> DynamicMessage {
        let mut filled = DynamicMessage::new(message.clone());
        for field in message.fields() {
            let value = self.field(&field);
            if !(self.only_what_both_know && is_only_ours(&field)) {
                filled.set_field(&field, value);
            }
        }
        filled
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(entry) if entry.is_map_entry() => {
                let mut map = HashMap::new();
                for _ in 0..2 {
                    let key = MapKey::String(self.text());
                    map.insert(key, self.value(&entry.map_entry_value_field().kind()));
                }
                Value::Map(map)
            }
            kind if field.is_list() => Value::List(vec![self.value(&kind), self.value(&kind)]),
            kind => self.value(&kind),
        }
    }

    fn value(&mut self, kind: &Kind) -> Value {
        self.next += 1;
        let n = self.next;
        match kind {
            Kind::Bool => Value::Bool(true),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.text().into()),
            Kind::Int32 => Value::I32(i32::MIN.saturating_add_unsigned(n)),
            Kind::Int64 => Value::I64(i64::MIN.saturating_add_unsigned(n.into())),
            Kind::Uint32 => Value::U32(u32::MAX - n),
            Kind::Uint64 => Value::U64(u64::MAX - u64::from(n)),
            Kind::Double => Value::F64(f64::from(n) + 0.25),
            Kind::Enum(e) => Value::EnumNumber(e.values().map(|v| v.number()).max().expect("a value")),
            Kind::Message(m) => Value::Message(self.message(m)),
            other => panic!("the interface has no {other:?} so far: say how to fill one"),
        }
    }

    /// Not ASCII alone: text is UTF-8 on both sides.
    fn text(&mut self) -> String {
        self.next += 1;
        format!("wért-{}", self.next)
    }
}

fn is_only_ours(field: &FieldDescriptor) -> bool {
    let name = field.full_name().strip_prefix("runtime.v1.").expect("our package");
    FIELDS_ONLY_OURS.contains(&name)
}

/// The message in the form that the witness' serde derives give: every field by name, enums as numbers.
fn by_name(message: &DynamicMessage) -> Json {
    let fields = message.fields().map(|(field, value)| (plain(field.name()), json_of(&field, value)));
    Json::Object(fields.collect())
}

fn json_of(field: &FieldDescriptor, value: &Value) -> Json {
    match value {
        Value::Bool(v) => json!(v),
        Value::I32(v) | Value::EnumNumber(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::String(v) => json!(v),
        // Bytes since Kubernetes 1.36.3, a string before: the same on the wire as long as it is UTF-8.
        Value::Bytes(v) if field.full_name() == "runtime.v1.KeyValue.value" => {
            json!(std::str::from_utf8(v).expect("UTF-8"))
        }
        Value::Bytes(v) => json!(v.to_vec()),
        Value::Message(m) => by_name(m),
        Value::List(items) => items.iter().map(|v| json_of(field, v)).collect(),
        Value::Map(map) => {
            let entries =
                map.iter().map(|(k, v)| (k.as_str().expect("a string key").to_owned(), json_of(field, v)));
            Json::Object(entries.collect())
        }
        Value::F32(_) | Value::F64(_) => panic!("{}: only ours have floats so far", field.full_name()),
    }
}

/// The witness' JSON with field names in plain form; the keys of maps are data and stay.
fn plain_names(message: &MessageDescriptor, json: Json) -> Json {
    let Json::Object(fields) = json else { panic!("{}: not an object: {json}", message.name()) };
    let renamed = fields.into_iter().map(|(name, value)| {
        let name = plain(&name);
        let field = message.fields().find(|f| plain(f.name()) == name);
        let inner = field.as_ref().filter(|f| !f.is_map()).map(FieldDescriptor::kind);
        let value = match (inner, value) {
            (Some(Kind::Message(m)), Json::Array(items)) => {
                items.into_iter().map(|item| plain_names(&m, item)).collect()
            }
            (Some(Kind::Message(m)), value) if !value.is_null() => plain_names(&m, value),
            (_, value) => value,
        };
        (name, value)
    });
    Json::Object(renamed.collect())
}

fn descriptor(pool: &DescriptorPool, rust_name: &str) -> MessageDescriptor {
    let mut messages = pool.all_messages();
    messages.find(|m| plain(m.name()) == plain(rust_name)).unwrap_or_else(|| panic!("no message {rust_name}"))
}

#[test]
fn what_both_can_say_means_the_same_to_both() {
    let pool = pool();
    for pair in pairs() {
        let message = descriptor(&pool, pair.name);
        let full = Filler { next: 0, only_what_both_know: false }.message(&message);
        let known = Filler { next: 0, only_what_both_know: true }.message(&message);

        let (json, again) = (pair.theirs)(&full.encode_to_vec());
        assert_eq!(plain_names(&message, json), by_name(&known), "{}: the witness reads it as", pair.name);

        let back = (pair.ours)(&again);
        let back = DynamicMessage::decode(message, back.as_slice()).expect("our own bytes");
        assert_eq!(back, known, "{}: there and back", pair.name);
    }
}

#[test]
fn our_types_keep_every_field_that_the_file_has() {
    let pool = pool();
    for pair in pairs() {
        let message = descriptor(&pool, pair.name);
        let full = Filler { next: 0, only_what_both_know: false }.message(&message);
        let back = (pair.ours)(&full.encode_to_vec());
        assert_eq!(DynamicMessage::decode(message, back.as_slice()).expect("our own bytes"), full);
    }
}

#[test]
fn every_message_is_compared_or_named_as_only_ours() {
    let pool = pool();
    let ours: BTreeSet<_> =
        pool.all_messages().filter(|m| !m.is_map_entry()).map(|m| plain(m.name())).collect();
    let compared: BTreeSet<_> = pairs().iter().map(|p| plain(p.name)).collect();
    let named: BTreeSet<_> = MESSAGES_ONLY_OURS.iter().map(|m| plain(m)).collect();
    assert_eq!(compared.union(&named).cloned().collect::<BTreeSet<_>>(), ours);
    assert!(compared.is_disjoint(&named));
    for name in FIELDS_ONLY_OURS {
        let (message, field) = name.split_once('.').expect("message.field");
        assert!(descriptor(&pool, message).get_field_by_name(field).is_some(), "no field {name}");
    }
}

#[test]
fn enum_values_have_the_same_names_and_numbers() {
    macro_rules! compare {
        ($($name:literal $ours:path = $theirs:path,)*) => {$({
            let numbers = pool().get_enum_by_name(concat!("runtime.v1.", $name)).expect($name);
            for number in numbers.values().map(|v| v.number()) {
                let ours = <$ours>::try_from(number).expect($name).as_str_name();
                let theirs = <$theirs>::try_from(number).expect($name).as_str_name();
                assert_eq!(ours, theirs, "{} {number}", $name);
            }
        })*};
    }
    use api::cri as ours;
    use k8s_cri::v1 as theirs;
    // All but Signal, which the witness does not have.
    compare! {
        "CgroupDriver" ours::CgroupDriver = theirs::CgroupDriver,
        "ContainerEventType" ours::ContainerEventType = theirs::ContainerEventType,
        "ContainerState" ours::ContainerState = theirs::ContainerState,
        "MetricType" ours::MetricType = theirs::MetricType,
        "MountPropagation" ours::MountPropagation = theirs::MountPropagation,
        "NamespaceMode" ours::NamespaceMode = theirs::NamespaceMode,
        "PodSandboxState" ours::PodSandboxState = theirs::PodSandboxState,
        "Protocol" ours::Protocol = theirs::Protocol,
        "SecurityProfile.ProfileType" ours::security_profile::ProfileType = theirs::security_profile::ProfileType,
        "SupplementalGroupsPolicy" ours::SupplementalGroupsPolicy = theirs::SupplementalGroupsPolicy,
    }
}

#[test]
fn a_value_that_is_not_utf8_is_kept_by_ours_alone() {
    let ours = api::cri::KeyValue { key: "RAW".into(), value: vec![0xff, 0x00, 0xfe] };
    let bytes = ours.encode_to_vec();
    assert_eq!(api::cri::KeyValue::decode(bytes.as_slice()).expect("ours"), ours);
    k8s_cri::v1::KeyValue::decode(bytes.as_slice()).expect_err("a string of the witness must be UTF-8");
}

/// Takes a call as a connection would, notes its path, and answers nothing.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl<B> Service<http::Request<B>> for Recorder {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        self.0.lock().expect("no other thread").push(request.uri().path().to_owned());
        ready(Ok(tonic::Status::unimplemented("only the path is of interest").into_http()))
    }
}

macro_rules! paths {
    ($types:path, $client:ident :: $name:ident, $($method:ident($request:ident),)*) => {{
        use $types as types;
        let recorder = Recorder::default();
        let mut client = types::$client::$name::new(recorder.clone());
        $({
            let call = pin!(client.$method(types::$request::default()));
            let answer = call.poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(answer, Poll::Ready(Err(_))), "answered at once, by the recorder");
        })*
        recorder.0.lock().expect("no other thread").clone()
    }};
}

macro_rules! same_paths {
    ($client:ident :: $name:ident, $($calls:tt)*) => {{
        let ours = paths!(api::cri, $client::$name, $($calls)*);
        assert_eq!(ours, paths!(k8s_cri::v1, $client::$name, $($calls)*));
        ours
    }};
}

#[test]
fn calls_of_both_go_to_the_same_paths() {
    let runtime = same_paths!(
        runtime_service_client::RuntimeServiceClient,
        version(VersionRequest),
        run_pod_sandbox(RunPodSandboxRequest),
        stop_pod_sandbox(StopPodSandboxRequest),
        remove_pod_sandbox(RemovePodSandboxRequest),
        pod_sandbox_status(PodSandboxStatusRequest),
        list_pod_sandbox(ListPodSandboxRequest),
        create_container(CreateContainerRequest),
        start_container(StartContainerRequest),
        stop_container(StopContainerRequest),
        remove_container(RemoveContainerRequest),
        list_containers(ListContainersRequest),
        container_status(ContainerStatusRequest),
        update_container_resources(UpdateContainerResourcesRequest),
        reopen_container_log(ReopenContainerLogRequest),
        exec_sync(ExecSyncRequest),
        exec(ExecRequest),
        attach(AttachRequest),
        port_forward(PortForwardRequest),
        container_stats(ContainerStatsRequest),
        list_container_stats(ListContainerStatsRequest),
        pod_sandbox_stats(PodSandboxStatsRequest),
        list_pod_sandbox_stats(ListPodSandboxStatsRequest),
        update_runtime_config(UpdateRuntimeConfigRequest),
        status(StatusRequest),
        checkpoint_container(CheckpointContainerRequest),
        get_container_events(GetEventsRequest),
        list_metric_descriptors(ListMetricDescriptorsRequest),
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest),
        runtime_config(RuntimeConfigRequest),
    );
    let image = same_paths!(
        image_service_client::ImageServiceClient,
        list_images(ListImagesRequest),
        image_status(ImageStatusRequest),
        pull_image(PullImageRequest),
        remove_image(RemoveImageRequest),
        image_fs_info(ImageFsInfoRequest),
    );
    assert_eq!((runtime.len(), image.len()), (29, 5));
    assert_eq!(runtime[0], "/runtime.v1.RuntimeService/Version");
}
