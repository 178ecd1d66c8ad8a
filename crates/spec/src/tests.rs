//! Specs as golden text: data in, text out.

use super::*;
use types::{
    container::{IdMapping, ImageVolume, Mount, MountOption, Resources, RunAs, Security},
    pod::{Namespaces, NsMode, UserMapping, UserMode},
};

struct Case {
    pod: PodSpec,
    container: ContainerSpec,
    image: ImageDefaults,
    user: ResolvedUser,
    places: Places,
}

fn case() -> Case {
    Case {
        pod: PodSpec {
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "u1".to_owned(),
            hostname: "web".to_owned(),
            ..PodSpec::default()
        },
        container: ContainerSpec {
            name: "app".to_owned(),
            image: "busybox".to_owned(),
            ..ContainerSpec::default()
        },
        image: ImageDefaults {
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["serve".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "A=1".to_owned()],
            ..ImageDefaults::default()
        },
        user: ResolvedUser { uid: 0, gid: 0, groups: vec![0], home: Some("/root".to_owned()) },
        places: Places {
            net: Some("/s/ns/p/net".into()),
            ipc: Some("/s/ns/p/ipc".into()),
            uts: Some("/s/ns/p/uts".into()),
            user: None,
            pid: None,
            target: None,
            hosts: "/s/pods/p/files/hosts".into(),
            hostname: "/s/pods/p/files/hostname".into(),
            resolv_conf: "/s/pods/p/files/resolv.conf".into(),
            shm: Some("/s/pods/p/shm".into()),
            volumes: "/s/pods/p/c/volumes".into(),
        },
    }
}

fn spec(case: &Case) -> Result<Spec, SpecError> {
    container(&Input {
        pod_id: &PodId::parse(&"a".repeat(64)).expect("an id"),
        pod: &case.pod,
        container_id: &ContainerId::parse(&"b".repeat(64)).expect("an id"),
        container: &case.container,
        image: &case.image,
        image_name: "docker.io/library/busybox:latest",
        user: &case.user,
        places: &case.places,
        cgroup: "/pods/p/c",
    })
}

/// The parts of a spec that a change should be seen in, a line each.
fn shown(spec: &Spec) -> String {
    use std::fmt::Write as _;
    let value = serde_json::to_value(spec).expect("a spec is JSON");
    let mut text = String::new();
    let mut line = |name: &str, value: &serde_json::Value| writeln!(text, "{name} {value}").expect("written");
    line("args", &value["process"]["args"]);
    line("env", &value["process"]["env"]);
    line("cwd", &value["process"]["cwd"]);
    line("user", &value["process"]["user"]);
    line("root", &value["root"]);
    line("propagation", &value["linux"]["rootfsPropagation"]);
    line("masked", &value["linux"]["maskedPaths"]);
    for namespace in value["linux"]["namespaces"].as_array().expect("a list") {
        line("namespace", namespace);
    }
    for mount in value["mounts"].as_array().expect("a list") {
        let options: Vec<_> =
            mount["options"].as_array().expect("a list").iter().filter_map(|o| o.as_str()).collect();
        writeln!(
            text,
            "mount {} {} at {} ({})",
            mount["type"].as_str().unwrap_or_default(),
            mount["source"].as_str().unwrap_or_default(),
            mount["destination"].as_str().unwrap_or_default(),
            options.join(",")
        )
        .expect("written");
    }
    let mut line = |name: &str, value: &serde_json::Value| writeln!(text, "{name} {value}").expect("written");
    line("resources", &value["linux"]["resources"]);
    text
}

const ORDINARY: &str = r#"args ["/entry","serve"]
env ["PATH=/bin","HOSTNAME=web","HOME=/root","A=1"]
cwd "/"
user {"additionalGids":[0],"gid":0,"uid":0}
root {"path":"rootfs","readonly":false}
propagation null
masked []
namespace {"type":"mount"}
namespace {"type":"cgroup"}
namespace {"path":"/s/ns/p/net","type":"network"}
namespace {"path":"/s/ns/p/ipc","type":"ipc"}
namespace {"path":"/s/ns/p/uts","type":"uts"}
namespace {"type":"pid"}
mount proc proc at /proc (nosuid,noexec,nodev)
mount tmpfs tmpfs at /dev (nosuid,strictatime,mode=755,size=65536k)
mount devpts devpts at /dev/pts (nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5)
mount mqueue mqueue at /dev/mqueue (nosuid,noexec,nodev)
mount sysfs sysfs at /sys (nosuid,noexec,nodev,ro)
mount cgroup cgroup at /sys/fs/cgroup (nosuid,noexec,nodev,relatime,ro)
mount bind /s/pods/p/shm at /dev/shm (rbind,rprivate,rw,nosuid,noexec,nodev)
mount bind /s/pods/p/files/hosts at /etc/hosts (rbind,rprivate,rw)
mount bind /s/pods/p/files/hostname at /etc/hostname (rbind,rprivate,rw)
mount bind /s/pods/p/files/resolv.conf at /etc/resolv.conf (rbind,rprivate,rw)
resources {"cpu":{},"devices":[{"access":"rwm","allow":false}],"hugepageLimits":[],"memory":{}}
"#;

#[test]
fn an_ordinary_container() {
    assert_eq!(shown(&spec(&case()).expect("a spec")), ORDINARY);
}

#[test]
fn everything_at_once() {
    let mut case = case();
    case.container = ContainerSpec {
        command: vec!["/cmd".to_owned()],
        args: vec!["x".to_owned()],
        working_dir: "/w".to_owned(),
        envs: vec![("A".to_owned(), b"2".to_vec()), ("B".to_owned(), b"3".to_vec())],
        mounts: vec![
            Mount {
                container_path: "/data//x/".to_owned(),
                host_path: "/srv".into(),
                readonly: true,
                propagation: Propagation::HostToContainer,
                ..Mount::default()
            },
            Mount {
                container_path: "/etc/hosts".to_owned(),
                host_path: "/k/hosts".into(),
                ..Mount::default()
            },
        ],
        tty: true,
        resources: Resources {
            cpu_shares: Some(512),
            cpu_quota: Some(20_000),
            cpu_period: Some(100_000),
            memory_limit: Some(1 << 20),
            cpuset_cpus: "0".to_owned(),
            ..Resources::default()
        },
        security: Security {
            readonly_rootfs: true,
            masked_paths: vec!["/proc/kcore".to_owned()],
            user: Some(RunAs::Uid(1000)),
            ..Security::default()
        },
        ..case.container
    };
    case.user = ResolvedUser { uid: 1000, gid: 5, groups: vec![5, 7], home: None };
    let text = shown(&spec(&case).expect("a spec"));
    for line in [
        r#"args ["/cmd","x"]"#,
        r#"env ["PATH=/bin","HOSTNAME=web","TERM=xterm","A=2","B=3"]"#,
        r#"cwd "/w""#,
        r#"user {"additionalGids":[5,7],"gid":5,"uid":1000}"#,
        r#"root {"path":"rootfs","readonly":true}"#,
        r#"propagation "rslave""#,
        r#"masked ["/proc/kcore","/proc/interrupts"]"#,
        "mount bind /srv at /data/x (rbind,rslave,ro)",
        "mount bind /k/hosts at /etc/hosts (rbind,rprivate,rw)",
        r#"resources {"cpu":{"cpus":"0","period":100000,"quota":20000,"shares":512},"devices":[{"access":"rwm","allow":false}],"hugepageLimits":[],"memory":{"limit":1048576,"swap":1048576}}"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }
    assert_eq!(text.matches(" at /etc/hosts ").count(), 1, "the kubelet's file replaces ours");
}

#[test]
fn a_privileged_container_has_no_masks_and_the_nodes_cgroups() {
    let mut case = case();
    case.container.security.privileged = true;
    case.container.security.masked_paths = vec!["/proc/kcore".to_owned()];
    let error = spec(&case).expect_err("the pod is not privileged");
    assert!(error.field.ends_with("privileged"), "{error}");
    case.pod.privileged = true;
    let text = shown(&spec(&case).expect("a spec"));
    assert!(text.contains("masked []") && !text.contains(r#""type":"cgroup""#), "{text}");
    assert!(
        text.contains("sysfs at /sys (nosuid,noexec,nodev,rw)") && text.contains(r#""allow":true"#),
        "{text}"
    );
}

#[test]
fn the_nodes_network_and_one_pid_namespace() {
    let mut case = case();
    case.pod.namespaces =
        Namespaces { network: NsMode::Node, pid: NsMode::Pod, ipc: NsMode::Node, user: None };
    case.container.security.namespaces.pid = PidMode::Pod;
    case.places = Places { net: None, uts: None, ipc: None, shm: None, ..case.places };
    let error = spec(&case).expect_err("no shared PID namespace");
    assert!(error.field.ends_with("namespace_options.pid"), "{error}");
    case.places.pid = Some("/proc/7/ns/pid".into());
    let text = shown(&spec(&case).expect("a spec"));
    for line in [
        r#"namespace {"path":"/proc/7/ns/pid","type":"pid"}"#,
        "mount sysfs sysfs at /sys (nosuid,noexec,nodev,ro)",
        "mount bind /dev/shm at /dev/shm (rbind,rprivate,rw,nosuid,noexec,nodev)",
    ] {
        assert!(text.contains(line), "no line {line} in\n{text}");
    }
    assert!(!text.contains(r#""type":"network""#), "{text}");
}

#[test]
fn a_container_says_its_pods_namespaces_again_or_is_refused() {
    let pid = |pod, container: PidMode| {
        let mut case = case();
        case.pod.namespaces.pid = pod;
        case.container.security.namespaces.pid = container;
        case.places.pid = (pod == NsMode::Pod).then(|| "/proc/7/ns/pid".into());
        case.places.target = Some("/proc/8/ns/pid".into());
        let value = serde_json::to_value(spec(&case).ok()?).expect("JSON");
        let all = value["linux"]["namespaces"].as_array().expect("a list").clone();
        let found = all.iter().find(|namespace| namespace["type"] == "pid");
        Some(found.map_or("node".to_owned(), |pid| pid["path"].as_str().unwrap_or("own").to_owned()))
    };
    let target = || PidMode::Target("x".to_owned());
    for (pod, container, expected) in [
        (NsMode::Container, PidMode::Container, Some("own")),
        (NsMode::Container, PidMode::Pod, None),
        (NsMode::Container, PidMode::Node, None),
        (NsMode::Container, target(), Some("/proc/8/ns/pid")),
        (NsMode::Pod, PidMode::Container, Some("own")),
        (NsMode::Pod, PidMode::Pod, Some("/proc/7/ns/pid")),
        (NsMode::Pod, PidMode::Node, None),
        (NsMode::Pod, target(), Some("/proc/8/ns/pid")),
        (NsMode::Node, PidMode::Container, Some("own")),
        (NsMode::Node, PidMode::Pod, Some("node")),
        (NsMode::Node, PidMode::Node, Some("node")),
        (NsMode::Node, target(), Some("/proc/8/ns/pid")),
    ] {
        assert_eq!(pid(pod, container.clone()).as_deref(), expected, "{pod:?} {container:?}");
    }
    for (pod, container, fine) in [
        (NsMode::Pod, NsMode::Pod, true),
        (NsMode::Node, NsMode::Pod, true),
        (NsMode::Node, NsMode::Node, true),
        (NsMode::Pod, NsMode::Node, false),
        (NsMode::Pod, NsMode::Container, false),
        (NsMode::Node, NsMode::Container, false),
    ] {
        let mut network = case();
        network.pod.namespaces.network = pod;
        network.container.security.namespaces.network = container;
        let mut ipc = case();
        ipc.pod.namespaces.ipc = pod;
        ipc.container.security.namespaces.ipc = container;
        assert_eq!(spec(&network).is_ok(), fine, "network {pod:?} {container:?}");
        assert_eq!(spec(&ipc).is_ok(), fine, "ipc {pod:?} {container:?}");
    }
}

#[test]
fn paths_are_hidden_as_asked() {
    let hidden = |masked: &[&str], readonly: &[&str], privileged: bool| {
        let mut case = case();
        case.pod.privileged = privileged;
        case.container.security.privileged = privileged;
        case.container.security.masked_paths = masked.iter().map(|path| (*path).to_owned()).collect();
        case.container.security.readonly_paths = readonly.iter().map(|path| (*path).to_owned()).collect();
        let value = serde_json::to_value(spec(&case).expect("a spec")).expect("JSON");
        let list = |name: &str| -> Vec<String> {
            serde_json::from_value(value["linux"][name].clone()).unwrap_or_default()
        };
        (list("maskedPaths"), list("readonlyPaths"))
    };
    assert_eq!(hidden(&[], &[], false), (vec![], vec![]), "procMount: Unmasked");
    let (masked, readonly) = hidden(&["/proc/acpi"], &["/proc/sys"], false);
    assert_eq!(
        (masked.join(" "), readonly.join(" ")),
        ("/proc/acpi /proc/interrupts".into(), "/proc/sys".into())
    );
    let (masked, readonly) = hidden(&[], &["/proc/sys"], false);
    assert_eq!((masked.len(), readonly.len()), (0, 1), "one list was given");
    assert_eq!(hidden(&["/proc/acpi"], &["/proc/sys"], true), (vec![], vec![]));
}

#[test]
fn mounts_are_restricted_mapped_and_taken_from_images_as_asked() {
    let mut case = case();
    let mount = |container_path: &str| Mount {
        container_path: container_path.to_owned(),
        host_path: "/srv".into(),
        ..Mount::default()
    };
    let line = IdMapping { container_id: 0, host_id: 65_536, length: 65_536 };
    case.container.mounts = vec![
        Mount { readonly: true, recursive_readonly: true, ..mount("/rro") },
        Mount {
            options: vec![MountOption::NoExec, MountOption::NoDev, MountOption::NoSuid],
            ..mount("/restricted")
        },
        Mount { uid_mappings: vec![line], gid_mappings: vec![line], ..mount("/mapped") },
        Mount {
            image: Some(ImageVolume { image: "x".to_owned(), ..ImageVolume::default() }),
            readonly: true,
            ..mount("/image")
        },
    ];
    let spec = spec(&case).expect("a spec");
    let text = shown(&spec);
    for line in [
        "mount bind /srv at /rro (rbind,rprivate,rro)",
        "mount bind /srv at /restricted (rbind,rprivate,rw,rnoexec,rnodev,rnosuid)",
        "mount bind /srv at /mapped (rbind,rprivate,rw)",
        "mount bind /s/pods/p/c/volumes/3 at /image (rbind,rprivate,ro,nodev,nosuid)",
    ] {
        assert!(text.contains(line), "no line {line} in\n{text}");
    }
    let value = serde_json::to_value(&spec).expect("JSON");
    let mapped = value["mounts"].as_array().expect("a list").iter().find(|m| m["destination"] == "/mapped");
    let mapped = mapped.expect("the mount");
    for map in ["uidMappings", "gidMappings"] {
        let line = serde_json::json!([{ "containerID": 0, "hostID": 65_536, "size": 65_536 }]);
        assert_eq!(mapped[map], line);
    }
}

fn in_user_namespace() -> Case {
    let mut case = case();
    let mapping = UserMapping { first_uid: 100_000, first_gid: 200_000, length: 65_536 };
    case.pod.namespaces.user = Some(UserMode::Pod(mapping));
    case.places.user = Some("/s/ns/p/user".into());
    case
}

#[test]
fn a_pod_with_a_user_namespace_has_its_mapping_and_nothing_is_hidden_that_was_not_asked_for() {
    let mut case = in_user_namespace();
    case.pod.privileged = true;
    case.container.security.privileged = true;
    let value = serde_json::to_value(spec(&case).expect("a spec")).expect("JSON");
    let line = |first: u32| serde_json::json!([{ "containerID": 0, "hostID": first, "size": 65_536 }]);
    assert_eq!(value["linux"]["uidMappings"], line(100_000));
    assert_eq!(value["linux"]["gidMappings"], line(200_000));
    case.container.security.privileged = false;
    let text = shown(&spec(&case).expect("a spec"));
    for line in [
        r#"namespace {"path":"/s/ns/p/user","type":"user"}"#,
        r#"namespace {"type":"cgroup"}"#,
        "mount sysfs sysfs at /sys (",
        "masked []",
    ] {
        assert!(text.contains(line), "no line {line} in\n{text}");
    }
    // In the node's network /sys cannot be made, and is bound before the container's own groups are shown in it.
    case.places = Places { net: None, uts: None, ..case.places };
    case.pod.namespaces.network = NsMode::Node;
    let text = shown(&spec(&case).expect("a spec"));
    let sys =
        text.find("mount bind /sys at /sys (rbind,rprivate,rro,rnosuid,rnoexec,rnodev)").expect("bound");
    assert!(sys < text.find("at /sys/fs/cgroup").expect("groups"), "{text}");
}

#[test]
fn a_container_asks_for_the_user_namespace_of_its_pod() {
    let ask = |pod: &dyn Fn() -> Case, user| {
        let mut case = pod();
        case.container.security.namespaces.user = user;
        spec(&case).map(drop).map_err(|error| error.field)
    };
    let own = in_user_namespace().pod.namespaces.user;
    for user in [None, Some(UserMode::Unmapped), own] {
        assert_eq!(ask(&in_user_namespace, user), Ok(()), "{user:?}");
    }
    for user in [None, Some(UserMode::Unmapped), Some(UserMode::Node)] {
        assert_eq!(ask(&case, user), Ok(()), "{user:?}");
    }
    const FIELD: &str = "config.linux.security_context.namespace_options.userns_options";
    let other = UserMode::Pod(UserMapping { first_uid: 1, first_gid: 1, length: 65_536 });
    assert_eq!(ask(&in_user_namespace, Some(other)), Err(FIELD));
    assert_eq!(ask(&in_user_namespace, Some(UserMode::Node)), Err(FIELD));
    assert_eq!(ask(&case, own), Err(FIELD));
    let mut unmapped = in_user_namespace();
    unmapped.user.uid = 65_536;
    let refused = spec(&unmapped).expect_err("nobody there");
    assert_eq!(refused.field, "config.linux.security_context.run_as_user");
}

#[test]
fn an_images_volumes_are_there_and_can_be_written_also_where_its_root_cannot() {
    let volumes = |readonly: bool| {
        let mut case = case();
        case.container.security.readonly_rootfs = readonly;
        case.image.volumes =
            ["/data/", "/data", "/asked/beneath", "/sys/fs/cgroup", "/dev/x", "/", "/etc/hosts"]
                .map(str::to_owned)
                .to_vec();
        case.container.mounts =
            vec![Mount { container_path: "/asked".to_owned(), host_path: "/srv".into(), ..Mount::default() }];
        let text = shown(&spec(&case).expect("a spec"));
        text.lines()
            .filter(|line| line.starts_with("mount bind rootfs"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for readonly in [false, true] {
        assert_eq!(volumes(readonly), ["mount bind rootfs/data at /data (rbind,rprivate,rw)"]);
    }
}

#[test]
fn what_cannot_be_said_in_a_spec_is_refused_by_name() {
    let mut bytes = case();
    bytes.container.envs = vec![("A".to_owned(), vec![0xff])];
    assert_eq!(spec(&bytes).expect_err("not UTF-8").field, "config.envs");
    let mut empty = case();
    empty.image = ImageDefaults::default();
    assert_eq!(spec(&empty).expect_err("no command").field, "config.command");
    let mut root = case();
    root.container.mounts =
        vec![Mount { container_path: "//".to_owned(), host_path: "/srv".into(), ..Mount::default() }];
    assert_eq!(spec(&root).expect_err("over the root").field, "config.mounts");
}

#[test]
fn a_volume_at_etc_does_not_hide_the_pods_files() {
    let mut case = case();
    let bind = |container_path: &str| Mount {
        container_path: container_path.to_owned(),
        host_path: "/srv".into(),
        ..Mount::default()
    };
    case.container.mounts = vec![bind("/etc/deep/er"), bind("/etc"), bind("/etc/hosts")];
    let text = shown(&spec(&case).expect("a spec"));
    let at: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("mount bind ")?.split(' ').nth(2))
        .filter(|at| at.starts_with("/etc"))
        .collect();
    assert_eq!(at, ["/etc", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts", "/etc/deep/er"]);
}
