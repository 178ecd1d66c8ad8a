//! Golden texts of whole specifications, and the rules one by one.

use crate::{DeviceKind, DeviceNode, HostFacts, Input, Places, SpecError, container, limits, volumes};
use oci_spec::runtime::{Capability, LinuxSeccomp};
use std::{collections::HashSet, path::PathBuf};
use types::{
    PodId,
    container::{
        ContainerSpec, ImageDefaults, Mount, PidMode, Propagation, ResolvedUser, Resources, RunAs,
        SeccompProfile,
    },
    pod::{NsMode, PodSpec},
};

/// Everything that an [`Input`] borrows.
#[derive(Clone, Debug)]
struct Case {
    pod_id: PodId,
    pod: PodSpec,
    container: ContainerSpec,
    image: ImageDefaults,
    user: ResolvedUser,
    places: Places,
    host: HostFacts,
    devices: Vec<DeviceNode>,
    profile: Option<LinuxSeccomp>,
}

fn short_profile(bounding: &HashSet<Capability>) -> LinuxSeccomp {
    let number = bounding.len();
    serde_json::from_str(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":{number}}}"#))
        .unwrap()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn bind(container_path: &str, host_path: &str, readonly: bool, propagation: Propagation) -> Mount {
    Mount { container_path: container_path.to_owned(), host_path: host_path.into(), readonly, propagation }
}

fn node(path: &str, kind: DeviceKind, major: u32, minor: u32, permissions: &str) -> DeviceNode {
    DeviceNode {
        path: path.into(),
        kind,
        major,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 6,
        permissions: permissions.to_owned(),
    }
}

impl Case {
    /// An ordinary pod with a container that asks for nothing.
    fn minimal() -> Case {
        let pod = PodSpec {
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "0a1b".to_owned(),
            hostname: "web-0".to_owned(),
            ..PodSpec::default()
        };
        let spec = ContainerSpec {
            name: "app".to_owned(),
            image: "sha256:1234".to_owned(),
            user_specified_image: "docker.io/library/app:1".to_owned(),
            ..ContainerSpec::default()
        };
        Case {
            pod_id: PodId::parse(&"ab".repeat(32)).unwrap(),
            pod,
            container: spec,
            image: ImageDefaults { cmd: strings(&["/bin/app"]), ..ImageDefaults::default() },
            user: ResolvedUser { groups: vec![0], ..ResolvedUser::default() },
            places: Places {
                net: Some("/ns/net".into()),
                ipc: Some("/ns/ipc".into()),
                uts: Some("/ns/uts".into()),
                pid: None,
                hosts: "/files/hosts".into(),
                hostname: "/files/hostname".into(),
                resolv_conf: "/files/resolv.conf".into(),
                shm: "/shm".into(),
                volumes: "/volumes".into(),
            },
            host: HostFacts {
                cgroup_v2: true,
                cgroup_options: strings(&["nsdelegate", "memory_recursiveprot"]),
                last_capability: 40,
                hostname: "node-1".to_owned(),
                possible_cpus: 2,
                may_raise_limits: true,
                oom_score_adj: 0,
                devices: vec![
                    node("/dev/kmsg", DeviceKind::Char, 1, 11, "rwm"),
                    node("/dev/sda", DeviceKind::Block, 8, 0, "rwm"),
                ],
                masks_by_default: true,
            },
            devices: Vec::new(),
            profile: None,
        }
    }

    /// A container that asks for everything.
    fn full() -> Case {
        let mut case = Case::minimal();
        case.image = ImageDefaults {
            entrypoint: strings(&["/entry", "-x"]),
            cmd: strings(&["ignored"]),
            env: strings(&["PATH=/image/bin", "A=image", "B=image", "broken", "=x"]),
            working_dir: "/srv".to_owned(),
            volumes: strings(&["/data", "/cache/"]),
            ..ImageDefaults::default()
        };
        case.user = ResolvedUser {
            uid: 1000,
            gid: 2000,
            groups: vec![2000, 3000],
            home: Some("/home/app".to_owned()),
        };
        let spec = &mut case.container;
        spec.args = strings(&["serve"]);
        spec.envs = vec![("A".to_owned(), b"request".to_vec()), ("C".to_owned(), b"a=b".to_vec())];
        spec.mounts = vec![
            bind("/data/deep", "/host/deep", false, Propagation::HostToContainer),
            bind("/data", "/host/data", true, Propagation::Private),
            bind("/etc/hosts", "/host/hosts", false, Propagation::Private),
        ];
        spec.tty = true;
        spec.resources = Resources {
            cpu_period: Some(100_000),
            cpu_quota: Some(50_000),
            cpu_shares: Some(512),
            memory_limit: Some(1 << 26),
            oom_score_adj: -997,
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![("2MB".to_owned(), 1 << 22), ("1GB".to_owned(), 0)],
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        let security = &mut spec.security;
        security.add_capabilities = strings(&["NET_ADMIN", "CAP_SYS_TIME"]);
        security.drop_capabilities = strings(&["ALL"]);
        security.add_ambient_capabilities = strings(&["NET_BIND_SERVICE"]);
        security.user = Some(RunAs::Uid(1000));
        security.readonly_rootfs = true;
        security.no_new_privs = true;
        security.masked_paths = strings(&["/proc/kcore"]);
        security.readonly_paths = strings(&["/proc/sys"]);
        security.seccomp = SeccompProfile::RuntimeDefault;
        case.devices = vec![node("/dev/fuse", DeviceKind::Char, 10, 229, "rw")];
        case
    }

    fn privileged() -> Case {
        let mut case = Case::minimal();
        case.pod.privileged = true;
        case.container.security.privileged = true;
        case.container.security.seccomp = SeccompProfile::RuntimeDefault;
        case.container.mounts = vec![bind("/mnt", "/mnt", false, Propagation::Bidirectional)];
        case
    }

    /// The node's network and IPC, one PID namespace for the pod, cgroup v1.
    fn shared() -> Case {
        let mut case = Case::minimal();
        case.pod.namespaces.network = NsMode::Node;
        case.pod.namespaces.ipc = NsMode::Node;
        case.pod.namespaces.pid = NsMode::Pod;
        case.pod.hostname = String::new();
        case.container.security.namespaces.pid = PidMode::Pod;
        case.places.net = None;
        case.places.ipc = None;
        case.places.uts = None;
        case.places.pid = Some("/proc/7/ns/pid".into());
        case.places.shm = "/dev/shm".into();
        case.host.cgroup_v2 = false;
        case.host.masks_by_default = false;
        case.host.may_raise_limits = false;
        case.host.oom_score_adj = 100;
        case.container.resources.oom_score_adj = -997;
        case
    }

    fn input(&self) -> Input<'_> {
        Input {
            pod_id: &self.pod_id,
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            user: &self.user,
            places: &self.places,
            cgroup_path: "/kubepods/pod0a1b/c1",
            host: &self.host,
            devices: &self.devices,
            default_seccomp: short_profile,
            localhost_seccomp: self.profile.as_ref(),
        }
    }

    /// As JSON, with the capabilities (sets without an order) sorted.
    fn json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(container(&self.input()).unwrap()).unwrap();
        for set in json["process"]["capabilities"].as_object_mut().unwrap().values_mut() {
            set.as_array_mut().unwrap().sort_by_key(ToString::to_string);
        }
        json
    }

    fn error(&self) -> String {
        container(&self.input()).unwrap_err().to_string()
    }

    fn mounts(&self) -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let json = self.json();
        json["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| (text(&mount["destination"]), text(&mount["source"])))
            .collect()
    }
}

/// Compares with the text, and says how it should read if it does not.
fn golden(case: &Case, text: &str) {
    let json = case.json();
    let expected: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(json == expected, "{}", serde_json::to_string_pretty(&json).unwrap());
}

#[test]
fn a_container_that_asks_for_nothing() {
    golden(&Case::minimal(), include_str!("golden/minimal.json"));
}

#[test]
fn a_container_that_asks_for_everything() {
    golden(&Case::full(), include_str!("golden/full.json"));
}

#[test]
fn a_privileged_container() {
    golden(&Case::privileged(), include_str!("golden/privileged.json"));
}

#[test]
fn a_container_in_the_nodes_network_with_a_shared_pid_namespace() {
    golden(&Case::shared(), include_str!("golden/shared.json"));
}

#[test]
fn a_specification_survives_its_own_json() {
    for case in [Case::minimal(), Case::full(), Case::privileged(), Case::shared()] {
        let spec = container(&case.input()).unwrap();
        let again = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(spec, again);
    }
}

#[test]
fn command_and_arguments_follow_dockers_rules() {
    let table: [[&[&str]; 5]; 7] = [
        // entrypoint, cmd, command, args, result
        [&["e"], &["c"], &[], &[], &["e", "c"]],
        [&["e"], &["c"], &[], &["a"], &["e", "a"]],
        [&["e"], &["c"], &["x"], &[], &["x"]],
        [&["e"], &["c"], &["x"], &["a"], &["x", "a"]],
        [&[], &["c"], &[], &["a"], &["a"]],
        [&["e"], &[], &[], &[], &["e"]],
        [&[], &[], &[], &["a"], &["a"]],
    ];
    for [entrypoint, cmd, command, args, result] in table {
        let mut case = Case::minimal();
        case.image.entrypoint = strings(entrypoint);
        case.image.cmd = strings(cmd);
        case.container.command = strings(command);
        case.container.args = strings(args);
        assert_eq!(case.json()["process"]["args"], serde_json::json!(result));
    }
    let mut case = Case::minimal();
    case.image.cmd.clear();
    assert_eq!(container(&case.input()), Err(SpecError::NoCommand));
}

#[test]
fn environments_that_cannot_be_carried_are_refused_by_name() {
    let mut case = Case::minimal();
    case.container.envs = vec![("BLOB".to_owned(), vec![0xff, 0xfe])];
    assert_eq!(container(&case.input()), Err(SpecError::NotUtf8 { name: "BLOB".to_owned() }));
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
        case.container.envs = vec![(name.to_owned(), value.as_bytes().to_vec())];
        assert!(case.error().starts_with("envs: "), "{name:?} {value:?}");
    }
}

#[test]
fn all_comes_before_single_capabilities() {
    let ask = |add: &[&str], drop: &[&str]| {
        let mut case = Case::minimal();
        case.container.security.add_capabilities = strings(add);
        case.container.security.drop_capabilities = strings(drop);
        let json = case.json();
        json["process"]["capabilities"]["bounding"].as_array().unwrap().len()
    };
    assert_eq!(ask(&[], &[]), 14);
    assert_eq!(ask(&["ALL"], &[]), 41);
    assert_eq!(ask(&[], &["ALL"]), 0);
    assert_eq!(ask(&["SYS_ADMIN"], &["ALL"]), 1);
    assert_eq!(ask(&["ALL"], &["SYS_ADMIN", "CAP_CHOWN"]), 39);
    assert_eq!(ask(&["ALL"], &["ALL"]), 0);
    assert_eq!(ask(&["CHOWN"], &["CHOWN"]), 13);
    let mut case = Case::minimal();
    case.container.security.add_capabilities = strings(&["SYS_ADMINISTRATOR"]);
    assert_eq!(
        case.error(),
        "linux.security_context.capabilities.add_capabilities: \"SYS_ADMINISTRATOR\" is not a capability"
    );
}

#[test]
fn a_capability_that_the_kernel_lacks_is_not_given() {
    let mut case = Case::privileged();
    case.host.last_capability = 37;
    let json = case.json();
    let bounding = json["process"]["capabilities"]["bounding"].as_array().unwrap();
    assert_eq!(bounding.len(), 38);
    assert!(!bounding.contains(&serde_json::json!("CAP_BPF")));
}

#[test]
fn ambient_capabilities_are_in_all_sets() {
    let json = Case::full().json();
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        let set = json["process"]["capabilities"][set].as_array().unwrap();
        assert!(set.contains(&serde_json::json!("CAP_NET_BIND_SERVICE")));
    }
    assert_eq!(json["process"]["capabilities"]["ambient"].as_array().unwrap().len(), 1);
}

#[test]
fn a_mount_that_is_asked_for_replaces_the_default_at_its_target() {
    let mut case = Case::minimal();
    case.container.mounts = vec![
        bind("/dev/shm/", "/host/shm", false, Propagation::Private),
        bind("/sys/fs/../fs/cgroup", "/host/cgroup", false, Propagation::Private),
        bind("/etc/./resolv.conf", "/host/resolv.conf", false, Propagation::Private),
    ];
    let mounts = case.mounts();
    for (target, source) in [
        ("/dev/shm", "/host/shm"),
        ("/sys/fs/cgroup", "/host/cgroup"),
        ("/etc/resolv.conf", "/host/resolv.conf"),
    ] {
        let found: Vec<_> = mounts.iter().filter(|(known, _)| known == target).collect();
        assert_eq!(found, [&(target.to_owned(), source.to_owned())]);
    }
    // All of /dev replaces also what would be mounted in it.
    case.container.mounts = vec![bind("/dev", "/dev", false, Propagation::Private)];
    let targets: Vec<String> = case.mounts().into_iter().map(|(target, _)| target).collect();
    assert!(
        !targets.contains(&"/dev/pts".to_owned()) && !targets.contains(&"/dev/mqueue".to_owned()),
        "{targets:?}"
    );
}

#[test]
fn mounts_are_ordered_by_depth() {
    let mut case = Case::minimal();
    case.container.mounts = vec![
        bind("/a/b/c", "/1", false, Propagation::Private),
        bind("/a", "/2", false, Propagation::Private),
        bind("/etc", "/3", false, Propagation::Private),
        bind("/a/b", "/4", false, Propagation::Private),
    ];
    let sources: Vec<String> = case.mounts().into_iter().skip(6).map(|(_, source)| source).collect();
    assert_eq!(
        sources,
        ["/2", "/3", "/4", "/files/hostname", "/files/hosts", "/files/resolv.conf", "/shm", "/1"]
    );
}

#[test]
fn mounts_that_lead_nowhere_are_refused() {
    for target in ["", "relative", "/", "/..", "/a/..", "/a\0b"] {
        let mut case = Case::minimal();
        case.container.mounts = vec![bind(target, "/x", false, Propagation::Private)];
        assert!(case.error().starts_with("mounts[0].container_path: "), "{target:?}");
    }
    let mut case = Case::minimal();
    case.container.mounts = vec![bind("/x", "relative", false, Propagation::Private)];
    assert_eq!(case.error(), "mounts[0].host_path: is not absolute");
}

#[test]
fn volumes_of_the_image_are_binds_only_over_a_read_only_root() {
    let mut case = Case::full();
    // /data is covered by a mount of the request.
    assert_eq!(volumes(&case.input()), [("/cache".to_owned(), PathBuf::from("/volumes/1"))]);
    case.container.security.readonly_rootfs = false;
    assert_eq!(volumes(&case.input()), []);
}

#[test]
fn a_profile_file_must_have_been_loaded() {
    let mut case = Case::minimal();
    case.container.security.seccomp = SeccompProfile::Localhost("/p.json".into());
    assert!(case.error().contains("/p.json"));
    case.profile = Some(serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_LOG"}"#).unwrap());
    assert_eq!(case.json()["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_LOG");
}

#[test]
fn a_privileged_container_needs_a_privileged_pod() {
    let mut case = Case::privileged();
    case.pod.privileged = false;
    assert_eq!(case.error(), "linux.security_context.privileged: its sandbox is not privileged");
}

#[test]
fn a_namespace_that_the_pod_does_not_have_cannot_be_joined() {
    let mut case = Case::minimal();
    case.container.security.namespaces.pid = PidMode::Pod;
    assert_eq!(container(&case.input()), Err(SpecError::NoNamespace { what: "PID" }));
    let mut case = Case::minimal();
    case.places.net = None;
    assert_eq!(container(&case.input()), Err(SpecError::NoNamespace { what: "network" }));
}

#[test]
fn lists_of_hidden_paths_are_taken_as_they_are_and_none_means_the_usual_ones() {
    let hidden = |case: &Case| {
        let json = case.json();
        let count = |key: &str| json["linux"][key].as_array().map(Vec::len);
        (count("maskedPaths"), count("readonlyPaths"))
    };
    let mut case = Case::minimal();
    assert_eq!(hidden(&case), (Some(14), Some(5)));
    case.container.security.readonly_paths = strings(&["/proc/sys"]);
    assert_eq!(hidden(&case), (None, Some(1)));
    case.container.security.readonly_paths.clear();
    case.host.masks_by_default = false;
    assert_eq!(hidden(&case), (None, None));
}

#[test]
fn devices_with_other_permissions_are_refused() {
    for permissions in ["", "x", "rwx"] {
        let mut case = Case::minimal();
        case.devices = vec![node("/dev/x", DeviceKind::Char, 1, 1, permissions)];
        assert!(case.error().starts_with("devices[/dev/x]: "), "{permissions:?}");
    }
}

#[test]
fn limits_of_zero_are_no_limits() {
    let none = Resources {
        cpu_shares: Some(0),
        cpu_quota: Some(0),
        cpu_period: Some(0),
        memory_limit: Some(0),
        memory_swap_limit: Some(0),
        hugepage_limits: vec![("2MB".to_owned(), 0)],
        ..Resources::default()
    };
    assert_eq!(serde_json::to_value(limits(&none).unwrap()).unwrap(), serde_json::json!({}));
    let swap = |limit, both| {
        let asked = Resources { memory_limit: limit, memory_swap_limit: both, ..Resources::default() };
        limits(&asked).map(|limits| limits.memory().as_ref().and_then(|memory| memory.swap()))
    };
    assert_eq!(swap(Some(100), None), Ok(Some(100)));
    assert_eq!(swap(Some(100), Some(300)), Ok(Some(300)));
    assert_eq!(swap(Some(100), Some(-1)), Ok(Some(-1)));
    assert!(swap(Some(100), Some(99)).is_err());
}

#[test]
fn unified_limits_need_cgroup_v2() {
    let mut case = Case::full();
    case.host.cgroup_v2 = false;
    assert_eq!(case.error(), "linux.resources.unified: needs cgroup v2, this machine has v1");
}

#[test]
fn a_working_directory_must_be_absolute() {
    let mut case = Case::minimal();
    case.container.working_dir = "srv".to_owned();
    assert!(case.error().starts_with("working_dir: "));
    case.container.working_dir = String::new();
    case.image.working_dir = "srv".to_owned();
    assert!(case.error().starts_with("working directory of the image: "));
}
