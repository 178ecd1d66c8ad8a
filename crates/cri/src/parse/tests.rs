//! The table of what is taken and what is refused, by field.

use super::{Handlers, container, pod};
use api::cri;
use types::{container::SeccompProfile, signal::Signal};

fn good_pod() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        ..Default::default()
    }
}

fn good_container() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "app".to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: "busybox".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

/// Spoils a good pod and tells the field that the error names.
#[track_caller]
fn pod_refused(spoil: impl FnOnce(&mut cri::PodSandboxConfig), field: &str) {
    let mut config = good_pod();
    spoil(&mut config);
    let error = pod(Some(&config), "", &Handlers::default()).expect_err(field).to_string();
    assert!(error.starts_with(field), "want {field}, got: {error}");
}

#[track_caller]
fn container_refused(spoil: impl FnOnce(&mut cri::ContainerConfig), field: &str) {
    let mut config = good_container();
    spoil(&mut config);
    let error = container(Some(&config), &Handlers::default()).expect_err(field).to_string();
    assert!(error.starts_with(field), "want {field}, got: {error}");
}

fn security(
    spoil: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
) -> impl FnOnce(&mut cri::ContainerConfig) {
    |config| {
        let mut context = cri::LinuxContainerSecurityContext::default();
        spoil(&mut context);
        config.linux =
            Some(cri::LinuxContainerConfig { security_context: Some(context), ..Default::default() });
    }
}

fn limits(spoil: impl FnOnce(&mut cri::LinuxContainerResources)) -> impl FnOnce(&mut cri::ContainerConfig) {
    |config| {
        let mut resources = cri::LinuxContainerResources::default();
        spoil(&mut resources);
        config.linux = Some(cri::LinuxContainerConfig { resources: Some(resources), ..Default::default() });
    }
}

#[test]
fn the_smallest_pod_and_container_are_taken() {
    assert_eq!(pod(Some(&good_pod()), "", &Handlers::default()).expect("a good pod").name, "web");
    assert_eq!(
        container(Some(&good_container()), &Handlers::default()).expect("a good container").image,
        "busybox"
    );
}

#[test]
fn a_handler_is_one_of_our_own_names_or_a_configured_one_wherever_it_is_named() {
    let handlers = Handlers::new(["runc"].into_iter());
    for name in ["", "peapod", "runc"] {
        assert_eq!(pod(Some(&good_pod()), name, &handlers).expect(name).runtime_handler, name);
        let mut config = good_container();
        config.image.as_mut().expect("set").runtime_handler = name.to_owned();
        assert!(container(Some(&config), &handlers).is_ok(), "{name}");
    }
    let unknown = pod(Some(&good_pod()), "kata", &handlers).expect_err("unknown").to_string();
    assert_eq!(unknown, "runtime_handler: `kata` is not configured; this node has ``, `peapod`, `runc`");
}

#[test]
fn each_bad_field_of_a_pod_is_named() {
    assert!(pod(None, "", &Handlers::default()).expect_err("no config").to_string().starts_with("config:"));
    assert!(
        pod(Some(&good_pod()), "kata", &Handlers::default())
            .expect_err("handler")
            .to_string()
            .starts_with("runtime_handler")
    );
    pod_refused(|c| c.metadata = None, "config.metadata");
    pod_refused(|c| c.metadata.as_mut().expect("set").name.clear(), "config.metadata.name");
    pod_refused(|c| c.metadata.as_mut().expect("set").uid = "a\nb".to_owned(), "config.metadata.uid");
    pod_refused(
        |c| c.metadata.as_mut().expect("set").namespace = "x".repeat(2000),
        "config.metadata.namespace",
    );
    pod_refused(|c| c.hostname = "a/../b".to_owned(), "config.hostname");
    pod_refused(|c| c.hostname = "a".repeat(65), "config.hostname");
    pod_refused(|c| c.log_directory = "relative".to_owned(), "config.log_directory");
    pod_refused(|c| c.log_directory = "/var/../etc".to_owned(), "config.log_directory");
    let dns = |servers: &[&str]| cri::DnsConfig {
        servers: servers.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    };
    pod_refused(|c| c.dns_config = Some(dns(&["1.1.1.1\nnameserver 6.6.6.6"])), "config.dns_config.servers");
    let port = |container_port, host_port, protocol, ip: &str| cri::PortMapping {
        protocol,
        container_port,
        host_port,
        host_ip: ip.to_owned(),
    };
    pod_refused(
        |c| c.port_mappings = vec![port(70_000, 80, 0, "")],
        "config.port_mappings[0].container_port",
    );
    pod_refused(|c| c.port_mappings = vec![port(0, 80, 0, "")], "config.port_mappings[0].container_port");
    pod_refused(|c| c.port_mappings = vec![port(80, -1, 0, "")], "config.port_mappings[0].host_port");
    pod_refused(|c| c.port_mappings = vec![port(80, 80, 9, "")], "config.port_mappings[0].protocol");
    pod_refused(|c| c.port_mappings = vec![port(80, 80, 0, "nowhere")], "config.port_mappings[0].host_ip");
    let linux = |spoil: fn(&mut cri::LinuxPodSandboxConfig)| {
        move |c: &mut cri::PodSandboxConfig| {
            let mut linux = cri::LinuxPodSandboxConfig::default();
            spoil(&mut linux);
            c.linux = Some(linux);
        }
    };
    pod_refused(linux(|l| l.cgroup_parent = "/a/../../b".to_owned()), "config.linux.cgroup_parent");
    pod_refused(linux(|l| l.cgroup_parent = "kubepods".to_owned()), "config.linux.cgroup_parent");
    pod_refused(linux(|l| l.cgroup_parent = "a\nb.slice".to_owned()), "config.linux.cgroup_parent");
    pod_refused(
        linux(|l| {
            l.sysctls.insert("kernel.shm_rmid_forced".to_owned(), "1\nkernel.core_pattern=x".to_owned());
        }),
        "config.linux.sysctls",
    );
    pod_refused(
        linux(|l| {
            l.sysctls.insert("net.ipv4..x".to_owned(), "1".to_owned());
        }),
        "config.linux.sysctls",
    );
    pod_refused(
        linux(|l| {
            l.security_context = Some(cri::LinuxSandboxSecurityContext {
                run_as_group: Some(cri::Int64Value { value: 1 }),
                ..Default::default()
            });
        }),
        "config.linux.security_context.run_as_group",
    );
    pod_refused(
        linux(|l| {
            l.security_context = Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    userns_options: Some(cri::UserNamespace { mode: 1, ..Default::default() }),
                    ..Default::default()
                }),
                ..Default::default()
            });
        }),
        "config.linux.security_context.namespace_options.userns_options",
    );
}

#[test]
fn a_user_namespace_is_the_nodes_or_one_line_from_id_0_on() {
    use types::pod::{UserMapping, UserMode};
    let line = |host_id, container_id, length| cri::IdMapping { host_id, container_id, length };
    let asked = |userns: Option<cri::UserNamespace>, change: &dyn Fn(&mut cri::NamespaceOption)| {
        let mut config = good_pod();
        let mut options = cri::NamespaceOption { userns_options: userns, ..Default::default() };
        change(&mut options);
        config.linux = Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        });
        pod(Some(&config), "", &Handlers::default()).map(|pod| pod.namespaces.user)
    };
    let of = |mode, uids: Vec<cri::IdMapping>, gids: Vec<cri::IdMapping>| {
        asked(Some(cri::UserNamespace { mode, uids, gids }), &|_| ())
    };
    let one = || vec![line(100_000, 0, 65_536)];
    assert_eq!(asked(None, &|_| ()).expect("fine"), None);
    assert_eq!(of(0, vec![], vec![]).expect("an old kubelet"), Some(UserMode::Unmapped));
    assert_eq!(of(2, vec![], vec![]).expect("fine"), Some(UserMode::Node));
    let mapping = UserMapping { first_uid: 100_000, first_gid: 200_000, length: 65_536 };
    let found = of(0, one(), vec![line(200_000, 0, 65_536)]).expect("fine");
    assert_eq!(found, Some(UserMode::Pod(mapping)));
    const FIELD: &str = "config.linux.security_context.namespace_options.userns_options";
    let two = || vec![line(100_000, 0, 10), line(300_000, 10, 10)];
    for (mode, uids, gids, field) in [
        (1, vec![], vec![], ".mode"),
        (3, one(), one(), ".mode"),
        (7, one(), one(), ".mode"),
        (2, one(), one(), ""),
        (0, two(), two(), ".uids"),
        (0, one(), two(), ".gids"),
        (0, vec![], one(), ".uids"),
        (0, one(), vec![], ".gids"),
        (0, vec![line(1, 1, 5)], one(), ".uids[0].container_id"),
        (0, one(), vec![line(1, 1, 5)], ".gids[0].container_id"),
        (0, vec![line(1, 0, 0)], one(), ".uids[0]"),
        (0, vec![line(u32::MAX, 0, 1)], one(), ".uids[0]"),
        (0, one(), vec![line(100_000, 0, 10)], ".gids[0].length"),
    ] {
        let error = of(mode, uids, gids).expect_err(field).to_string();
        assert!(error.starts_with(&format!("{FIELD}{field}")), "{field}: {error}");
    }
    // What belongs to the node's processes and queues is not theirs to see.
    type Change = fn(&mut cri::NamespaceOption);
    let others: [(Change, &str); 2] = [(|o| o.pid = 2, "pid"), (|o| o.ipc = 2, "ipc")];
    for (change, name) in others {
        let own = cri::UserNamespace { mode: 0, uids: one(), gids: one() };
        let error = asked(Some(own), &change).expect_err(name).to_string();
        assert!(error.contains(&format!("namespace_options.{name}")), "{error}");
    }
}

#[test]
fn a_port_without_host_port_maps_nothing() {
    let mut config = good_pod();
    config.port_mappings = vec![cri::PortMapping { container_port: 80, ..Default::default() }];
    assert_eq!(pod(Some(&config), "", &Handlers::default()).expect("taken").port_mappings, []);
}

#[test]
fn each_bad_field_of_a_container_is_named() {
    assert!(container(None, &Handlers::default()).expect_err("no config").to_string().starts_with("config:"));
    container_refused(|c| c.metadata = None, "config.metadata");
    container_refused(|c| c.image = None, "config.image.image");
    container_refused(|c| c.command = vec!["a\0b".to_owned()], "config.command");
    container_refused(|c| c.working_dir = "var".to_owned(), "config.working_dir");
    container_refused(|c| c.log_path = "../../x".to_owned(), "config.log_path");
    container_refused(|c| c.log_path = "/x".to_owned(), "config.log_path");
    container_refused(|c| c.stop_signal = 999, "config.stop_signal");
    container_refused(
        |c| c.cdi_devices = vec![cri::CdiDevice { name: "v/c".to_owned() }],
        "config.CDI_devices[0].name",
    );
    container_refused(
        |c| c.envs = vec![cri::KeyValue { key: "A=B".to_owned(), value: vec![] }],
        "config.envs[0].key",
    );
    container_refused(
        |c| c.envs = vec![cri::KeyValue { key: "A".to_owned(), value: vec![0] }],
        "config.envs[0].value",
    );
    let mount = |spoil: fn(&mut cri::Mount)| {
        move |c: &mut cri::ContainerConfig| {
            let mut mount = cri::Mount {
                container_path: "/data".to_owned(),
                host_path: "/srv".to_owned(),
                ..Default::default()
            };
            spoil(&mut mount);
            c.mounts = vec![mount];
        }
    };
    container_refused(mount(|m| m.container_path = "data".to_owned()), "config.mounts[0].container_path");
    container_refused(mount(|m| m.host_path.clear()), "config.mounts[0].host_path");
    container_refused(mount(|m| m.propagation = 7), "config.mounts[0].propagation");
    let at = |name: &str| format!("config.mounts[0].{name}");
    container_refused(mount(|m| m.recursive_read_only = true), &at("recursive_read_only"));
    container_refused(
        mount(|m| {
            m.recursive_read_only = true;
            m.readonly = true;
            m.propagation = 1;
        }),
        &at("recursive_read_only"),
    );
    for option in ["ro", "exec", "", "noexec,nodev", "NOEXEC"] {
        container_refused(
            |c| {
                mount(|_| ())(c);
                c.mounts[0].mount_options = vec![option.to_owned()];
            },
            &at("mount_options"),
        );
    }
    container_refused(mount(|m| m.image = Some(cri::ImageSpec::default())), &at("host_path"));
    let image = |spoil: fn(&mut cri::Mount)| {
        move |c: &mut cri::ContainerConfig| {
            mount(|m| {
                m.host_path.clear();
                m.readonly = true;
                m.image = Some(cri::ImageSpec { image: "busybox".to_owned(), ..Default::default() });
            })(c);
            spoil(&mut c.mounts[0]);
        }
    };
    container_refused(image(|m| m.image = Some(cri::ImageSpec::default())), &at("image.image"));
    container_refused(image(|m| m.image_sub_path = "../x".to_owned()), &at("image_sub_path"));
    container_refused(image(|m| m.image_sub_path = "/x".to_owned()), &at("image_sub_path"));
    container_refused(image(|m| m.propagation = 1), &at("propagation"));
    container_refused(image(|m| m.readonly = false), &at("readonly"));
    container_refused(mount(|m| m.image_sub_path = "x".to_owned()), &at("image_sub_path"));
    let line = |container_id, host_id, length| cri::IdMapping { host_id, container_id, length };
    for (lines, place) in [
        (vec![line(0, 1, 0)], "uidMappings[0]"),
        (vec![line(0, u32::MAX, 1)], "uidMappings[0]"),
        (vec![line(5, 1, u32::MAX)], "uidMappings[0]"),
        (vec![line(0, 100, 10), line(5, 200, 10)], "uidMappings[1]"),
        (vec![line(0, 100, 10), line(50, 105, 10)], "uidMappings[1]"),
        (vec![line(0, 100, 10)], "uidMappings"),
        ((0..400).map(|n| line(n, n, 1)).collect(), "uidMappings"),
    ] {
        container_refused(
            |c| {
                mount(|_| ())(c);
                c.mounts[0].uid_mappings = lines;
            },
            &at(place),
        );
    }
    container_refused(
        |c| c.devices = vec![cri::Device { host_path: "/dev/null".to_owned(), ..Default::default() }],
        "config.devices[0].permissions",
    );
    container_refused(
        limits(|r| r.memory_limit_in_bytes = -5),
        "config.linux.resources.memory_limit_in_bytes",
    );
    container_refused(limits(|r| r.cpu_shares = -1), "config.linux.resources.cpu_shares");
    container_refused(limits(|r| r.oom_score_adj = 1001), "config.linux.resources.oom_score_adj");
    container_refused(limits(|r| r.cpuset_cpus = "0-".to_owned()), "config.linux.resources.cpuset_cpus");
    container_refused(
        limits(|r| {
            r.unified.insert("../memory.max".to_owned(), "1".to_owned());
        }),
        "config.linux.resources.unified",
    );
    let at = "config.linux.security_context";
    let value = |value| Some(cri::Int64Value { value });
    container_refused(security(|s| s.run_as_group = value(1)), &format!("{at}.run_as_group"));
    container_refused(security(|s| s.run_as_user = value(-1)), &format!("{at}.run_as_user"));
    container_refused(security(|s| s.run_as_user = value(1 << 32)), &format!("{at}.run_as_user"));
    container_refused(
        security(|s| s.supplemental_groups_policy = 2),
        &format!("{at}.supplemental_groups_policy"),
    );
    container_refused(security(|s| s.masked_paths = vec!["proc".to_owned()]), &format!("{at}.masked_paths"));
    container_refused(
        security(|s| {
            s.seccomp = Some(cri::SecurityProfile { profile_type: 2, localhost_ref: String::new() });
        }),
        &format!("{at}.seccomp.localhost_ref"),
    );
    for path in ["localhost/", "localhost/p.json", "localhost//a/../p.json", "/p.json", "Unconfined"] {
        #[expect(deprecated, reason = "older clients send it")]
        let spoil = security(|s| s.seccomp_profile_path = path.to_owned());
        container_refused(spoil, &format!("{at}.seccomp_profile_path"));
    }
    let apparmor = |name: &str| {
        let profile = cri::SecurityProfile { profile_type: 2, localhost_ref: name.to_owned() };
        security(|s| s.apparmor = Some(profile))
    };
    for name in ["", "localhost/", "unconfined", "a\nb"] {
        container_refused(apparmor(name), &format!("{at}.apparmor.localhost_ref"));
    }
    for name in ["x", "localhost/", "Unconfined"] {
        #[expect(deprecated, reason = "older clients send it")]
        let spoil = security(|s| s.apparmor_profile = name.to_owned());
        container_refused(spoil, &format!("{at}.apparmor_profile"));
    }
    for level in ["s0:c1,c2\n", "s0 c1", "s0\"", &"c".repeat(300)] {
        let label = cri::SeLinuxOption { level: level.to_owned(), ..Default::default() };
        container_refused(
            security(|s| s.selinux_options = Some(label)),
            &format!("{at}.selinux_options.level"),
        );
    }
    let label = cri::SeLinuxOption { user: "a:b".to_owned(), ..Default::default() };
    container_refused(security(|s| s.selinux_options = Some(label)), &format!("{at}.selinux_options.user"));
    container_refused(
        security(|s| {
            s.namespace_options = Some(cri::NamespaceOption { pid: 3, ..Default::default() });
        }),
        &format!("{at}.namespace_options.target_id"),
    );
    for (network, ipc, field) in [(1, 0, "network"), (3, 0, "network"), (0, 1, "ipc"), (0, 9, "ipc")] {
        container_refused(
            security(|s| {
                s.namespace_options = Some(cri::NamespaceOption { network, ipc, ..Default::default() });
            }),
            &format!("{at}.namespace_options.{field}"),
        );
    }
}

#[test]
#[expect(deprecated, reason = "older clients send the profile as a string")]
fn a_seccomp_profile_is_taken_in_both_of_its_spellings() {
    let taken = |spoil: fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = good_container();
        security(spoil)(&mut config);
        container(Some(&config), &Handlers::default()).expect("taken").security.seccomp
    };
    let localhost = SeccompProfile::Localhost("/p.json".into());
    let profile = |profile_type| cri::SecurityProfile { profile_type, localhost_ref: "/p.json".to_owned() };
    assert_eq!(taken(|_| {}), SeccompProfile::Unconfined);
    assert_eq!(taken(|s| s.seccomp_profile_path = "unconfined".to_owned()), SeccompProfile::Unconfined);
    for path in ["runtime/default", "docker/default"] {
        let mut config = good_container();
        security(|s| s.seccomp_profile_path = path.to_owned())(&mut config);
        let taken = container(Some(&config), &Handlers::default()).expect("taken").security.seccomp;
        assert_eq!(taken, SeccompProfile::RuntimeDefault, "{path}");
    }
    assert_eq!(taken(|s| s.seccomp_profile_path = "localhost//p.json".to_owned()), localhost);
    let mut config = good_container();
    security(|s| {
        s.seccomp = Some(profile(2));
        s.seccomp_profile_path = "unconfined".to_owned();
    })(&mut config);
    assert_eq!(
        container(Some(&config), &Handlers::default()).expect("taken").security.seccomp,
        localhost,
        "the message wins"
    );
    let mut config = good_container();
    security(|s| {
        s.seccomp = Some(profile(2));
        s.privileged = true;
    })(&mut config);
    let taken = container(Some(&config), &Handlers::default()).expect("taken").security.seccomp;
    assert_eq!(taken, SeccompProfile::Unconfined, "a privileged container has no filter");
}

#[test]
fn what_a_default_kubelet_always_sends_passes() {
    let mut config = good_container();
    limits(|r| {
        r.hugepage_limits = vec![cri::HugepageLimit { page_size: "2MB".to_owned(), limit: 0 }];
        r.unified = [("memory.oom.group", "1"), ("memory.min", "0")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        r.oom_score_adj = 1000;
    })(&mut config);
    let taken = container(Some(&config), &Handlers::default()).expect("taken");
    assert!(taken.resources.hugepage_limits.is_empty());
    assert_eq!(taken.resources.unified.len(), 2);
}

#[test]
fn each_signal_of_the_cri_has_a_number() {
    for number in 0..200 {
        let Ok(signal) = cri::Signal::try_from(number) else { continue };
        let mut config = good_container();
        config.stop_signal = number;
        let taken = container(Some(&config), &Handlers::default())
            .unwrap_or_else(|error| panic!("{}: {error}", signal.as_str_name()));
        assert_eq!(taken.stop_signal.is_none(), number == 0, "{}", signal.as_str_name());
    }
    let mut config = good_container();
    config.stop_signal = cri::Signal::Sigrtminplus3.into();
    assert_eq!(
        container(Some(&config), &Handlers::default()).expect("taken").stop_signal.map(Signal::number),
        Some(37)
    );
}
