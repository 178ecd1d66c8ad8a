//! Security contexts, seen from inside.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri::{self, LinuxContainerSecurityContext as Context};
use pods::{Client, Daemon, pod, shell, story};
use tonic::{Code, Status};

/// A pod for one test, and a container in it for each security context.
struct Case {
    daemon: Daemon,
    client: Client,
    config: cri::PodSandboxConfig,
    pod: String,
    count: u32,
}

impl Case {
    async fn new(name: &str) -> Case {
        let daemon = Daemon::start(name).await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod(name, &daemon.cgroup(), &daemon.logs(name));
        let pod = client.run_pod(&config).await.expect("a pod");
        Case { daemon, client, config, pod, count: 0 }
    }

    async fn try_run(&mut self, change: impl FnOnce(&mut Context)) -> Result<String, Status> {
        self.count += 1;
        let mut container = shell(&format!("c{}", self.count), "sleep 1000");
        change(container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set"));
        self.client.run(&self.pod, &self.config, &container).await
    }

    async fn run(&mut self, change: impl FnOnce(&mut Context)) -> String {
        self.try_run(change).await.expect("runs")
    }

    async fn said(&self, container: &str, script: &str) -> String {
        self.client.exec(container, script, 10).await.expect("ran").0.trim().to_owned()
    }

    async fn refused(&mut self, change: impl FnOnce(&mut Context), field: &str) {
        let error = self.try_run(change).await.expect_err(field);
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains(field), "{field}: {error}");
    }
}

fn number(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

#[test]
fn ambient_capabilities_are_in_all_five_sets_also_for_a_plain_user() {
    story(async {
        let mut case = Case::new("ambient").await;
        let c = case
            .run(|context| {
                context.run_as_user = number(1000);
                context.capabilities = Some(cri::Capability {
                    add_capabilities: vec![],
                    drop_capabilities: vec!["ALL".to_owned()],
                    add_ambient_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
                });
            })
            .await;
        // The first process, and one that is executed later.
        for process in ["1", "self"] {
            let sets = case.said(&c, &format!("grep ^Cap /proc/{process}/status")).await;
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert!(sets.contains(&format!("{set}:\t0000000000000400")), "{set} of {process} in\n{sets}");
            }
        }
        let plain = case.run(|context| context.run_as_user = number(1000)).await;
        let sets = case.said(&plain, "grep ^Cap /proc/1/status").await;
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(sets.contains(&format!("{set}:\t0000000000000000")), "{set} in\n{sets}");
        }
        let wrong = |context: &mut Context| {
            context.capabilities = Some(cri::Capability {
                add_ambient_capabilities: vec!["MAGIC".to_owned()],
                ..Default::default()
            });
        };
        case.refused(wrong, "capabilities.add_ambient_capabilities").await;
        case.daemon.end().await;
    });
}

#[test]
fn groups_are_merged_with_the_images_or_strictly_those_of_the_request() {
    story(async {
        let mut case = Case::new("groups").await;
        let merge = case
            .run(|context| {
                context.run_as_user = number(1000);
                context.supplemental_groups = vec![3000];
            })
            .await;
        let strict = case
            .run(|context| {
                context.run_as_user = number(1000);
                context.run_as_group = number(1000);
                context.supplemental_groups = vec![3000];
                context.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
            })
            .await;
        for (container, ids) in [(&merge, vec![1000, 2000, 3000]), (&strict, vec![1000, 3000])] {
            let text: Vec<String> = ids.iter().map(ToString::to_string).collect();
            assert_eq!(case.said(container, "id -G").await, text.join(" "));
            let user = case.client.status(container).await.expect("a status").user.and_then(|u| u.linux);
            let user = user.expect("told");
            assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1000, ids));
        }
        let at = "config.linux.security_context";
        case.refused(|c| c.supplemental_groups_policy = 7, &format!("{at}.supplemental_groups_policy")).await;
        case.refused(|context| context.run_as_group = number(5), &format!("{at}.run_as_group")).await;
        for bad in [-1, 4_294_967_295, 4_294_967_296] {
            case.refused(|context| context.run_as_user = number(bad), &format!("{at}.run_as_user")).await;
        }
        let last = case.run(|context| context.run_as_user = number(4_294_967_294)).await;
        assert_eq!(case.said(&last, "id -u").await, "4294967294");
        case.daemon.end().await;
    });
}

#[test]
fn a_file_that_a_group_is_denied_is_denied_to_its_members_as_the_policy_says() {
    story(async {
        let mut case = Case::new("negative").await;
        // Nobody but the group is denied (mode 0705): who is not in it, however that came, may read.
        let dir = case.daemon.dir().join("shared");
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(dir.join("f"), "read").expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode;
        std::fs::set_permissions(dir.join("f"), mode(0o705)).expect("a mode");
        std::os::unix::fs::chown(dir.join("f"), None, Some(2000)).expect("a group");
        for (policy, read) in
            [(cri::SupplementalGroupsPolicy::Merge, ""), (cri::SupplementalGroupsPolicy::Strict, "read")]
        {
            let mut container = shell(&format!("{policy:?}").to_lowercase(), "sleep 1000");
            container.mounts = vec![cri::Mount {
                container_path: "/shared".to_owned(),
                host_path: dir.display().to_string(),
                ..Default::default()
            }];
            let context = container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
            context.run_as_username = "alice".to_owned();
            context.supplemental_groups_policy = policy.into();
            let c = case.client.run(&case.pod, &case.config, &container).await.expect("runs");
            assert_eq!(case.said(&c, "cat /shared/f 2>/dev/null").await, read, "{policy:?}");
        }
        case.count += 1;
        case.daemon.end().await;
    });
}

#[test]
fn what_tells_about_the_whole_machine_is_hidden_by_the_requests_lists() {
    story(async {
        let mut case = Case::new("hidden").await;
        let container = case
            .run(|context| {
                context.masked_paths = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]
                    .map(str::to_owned)
                    .to_vec();
                context.readonly_paths =
                    ["/proc/sys", "/proc/irq", "/proc/sysrq-trigger"].map(str::to_owned).to_vec();
            })
            .await;
        for file in ["interrupts", "kcore", "keys", "timer_list"] {
            let size = case.said(&container, &format!("head -c 1 /proc/{file} 2>/dev/null | wc -c")).await;
            assert_eq!(size, "0", "/proc/{file} can be read");
        }
        let script = "ls /sys/firmware /sys/devices/system/cpu/cpu*/thermal_throttle 2>/dev/null | grep -v :";
        assert_eq!(case.said(&container, script).await, "");
        for file in ["/proc/sys/kernel/shm_rmid_forced", "/proc/sysrq-trigger"] {
            let (_, code) = case.client.exec(&container, &format!("echo h >{file}"), 10).await.expect("ran");
            assert_ne!(code, 0, "{file} can be written");
        }
        case.daemon.end().await;
    });
}

#[test]
fn profiles_of_security_modules_are_in_force_or_an_error() {
    story(async {
        let mut case = Case::new("lsm").await;
        let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim() == "Y");
        let profile = |kind: cri::security_profile::ProfileType, name: &str| {
            Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
        };
        let default = profile(cri::security_profile::ProfileType::RuntimeDefault, "");
        let localhost = |name: &str| profile(cri::security_profile::ProfileType::Localhost, name);
        let own = case.run(|_| {}).await;
        let asked = case.run(|context| context.apparmor = default).await;
        let current = "cat /proc/1/attr/apparmor/current 2>/dev/null || cat /proc/1/attr/current 2>/dev/null";
        for container in [&own, &asked] {
            let said = case.said(container, current).await;
            assert_eq!(said.contains("peapod-default (enforce)"), apparmor, "{said}");
        }
        let at = "config.linux.security_context.apparmor.localhost_ref";
        case.refused(|context| context.apparmor = localhost("peapod-no-such-profile"), at).await;
        case.refused(|context| context.apparmor = localhost(""), at).await;
        #[expect(deprecated, reason = "older clients send the profile as a string")]
        let string = |context: &mut Context| context.apparmor_profile = "localhost/no-such".to_owned();
        case.refused(string, at).await;
        // A label means something on a node with SELinux only.
        if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            let labelled = |context: &mut Context| {
                context.selinux_options =
                    Some(cri::SeLinuxOption { level: "s0:c1,c2".to_owned(), ..Default::default() });
            };
            case.run(labelled).await;
        }
        case.daemon.end().await;
    });
}

#[test]
fn no_new_privs_is_as_asked() {
    story(async {
        let mut case = Case::new("nnp").await;
        for asked in [false, true] {
            let c = case.run(|context| context.no_new_privs = asked).await;
            let line = case.said(&c, "grep NoNewPrivs /proc/1/status").await;
            assert_eq!(line, format!("NoNewPrivs:\t{}", u8::from(asked)));
        }
        case.daemon.end().await;
    });
}

#[test]
fn a_sysctl_of_the_node_is_refused_and_stays_as_it_was() {
    story(async {
        let daemon = Daemon::start("sysctls").await;
        let client = daemon.client();
        let value = |path: &str| std::fs::read_to_string(format!("/proc/sys/{path}")).expect("a sysctl");
        let paths = ["kernel/core_pattern", "vm/swappiness", "kernel/shmmni", "net/ipv4/ip_local_port_range"];
        let before = paths.map(value);
        let node = cri::NamespaceMode::Node.into();
        let own = cri::NamespaceOption::default();
        let network = cri::NamespaceOption { network: node, ..Default::default() };
        let ipc = cri::NamespaceOption { ipc: node, ..Default::default() };
        for (key, text, namespaces) in [
            ("kernel.core_pattern", "|/x", &own),
            ("vm.swappiness", "1", &own),
            ("kernel.shmmni", "77+kernel.core_pattern=|/x", &own),
            ("kernel.shmmni", "77\nkernel.core_pattern=x", &own),
            ("kernel/core_pattern", "x", &own),
            ("net.ipv4.conf.eth0/../../../kernel.core_pattern", "x", &own),
            ("net.ipv4.ip_local_port_range=x", "1", &own),
            ("net.ipv4.ip_local_port_range", "2000 3000", &network),
            ("kernel.shmmni", "77", &ipc),
            ("fs.mqueue.msg_max", "77", &ipc),
        ] {
            let mut config = pod("sysctls", &daemon.cgroup(), &daemon.logs("sysctls"));
            let linux = config.linux.as_mut().expect("set");
            linux.sysctls.insert(key.to_owned(), text.to_owned());
            linux.security_context.as_mut().expect("set").namespace_options = Some(namespaces.clone());
            let error = client.run_pod(&config).await.expect_err(key);
            assert_eq!(error.code(), Code::InvalidArgument, "{key}={text}: {error}");
            assert!(error.message().contains("sysctls"), "{error}");
        }
        assert_eq!(paths.map(value), before, "a sysctl of the node was changed");
        assert!(client.pods().await.expect("a list").is_empty(), "a refused pod is there");
        daemon.end().await;
    });
}
