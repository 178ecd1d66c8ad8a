//! Keys of `[container]` and `[cdi]`, seen from inside of containers.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Client, Daemon, pod, shell, story};
use tonic::Code;

/// A daemon with this configuration, and an image in it.
async fn with_config(name: &str, config: impl FnOnce(&Daemon) -> String) -> (Daemon, Client) {
    let mut daemon = Daemon::prepare(name);
    let file = daemon.dir().join("config.toml");
    std::fs::write(&file, config(&daemon)).expect("written");
    daemon.args.extend(["--config".to_owned(), file.display().to_string()]);
    daemon.up().await;
    let client = daemon.client();
    client.load(pods::busybox_archive()).await.expect("loaded");
    (daemon, client)
}

fn security(container: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    container.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("set")
}

fn profile(kind: cri::security_profile::ProfileType, path: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() })
}

#[test]
fn a_missing_source_is_an_error_where_the_administrator_wants_that() {
    story(async {
        let text = "[container]\ncreate_missing_mount_sources = false\n";
        let (daemon, client) = with_config("sources", |_| text.to_owned()).await;
        let config = pod("sources", &daemon.cgroup(), &daemon.logs("sources"));
        let id = client.run_pod(&config).await.expect("a pod");
        let missing = daemon.dir().join("missing");
        let mount = |at: &std::path::Path| cri::Mount {
            host_path: at.display().to_string(),
            container_path: "/v".to_owned(),
            ..Default::default()
        };
        let mut container = shell("refused", "true");
        container.mounts = vec![mount(&missing)];
        let error = client.create(&id, &config, &container).await.expect_err("it is not there");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains("config.mounts.host_path"), "{error}");
        assert!(!missing.exists(), "a refused container made it");
        let mut container = shell("fine", "sleep 1000");
        container.mounts = vec![mount(daemon.dir())];
        client.run(&id, &config, &container).await.expect("what is there is mounted");
        client.remove_all().await;
        daemon.end().await;
    });
}

#[test]
fn the_longest_piece_of_a_line_is_what_the_administrator_says_also_after_a_restart() {
    story(async {
        let text = "[container]\nmax_log_line = 256\n";
        let (mut daemon, client) = with_config("line", |_| text.to_owned()).await;
        let logs = daemon.logs("line");
        let config = pod("line", &daemon.cgroup(), &logs);
        let id = client.run_pod(&config).await.expect("a pod");
        let script = "printf '%0600d\\n' 0";
        for (name, restarted) in [("one", false), ("two", true)] {
            if restarted {
                daemon.kill();
                daemon.up().await;
            }
            let client = daemon.client();
            let c = client.run(&id, &config, &shell(name, script)).await.expect("runs");
            client.ended(&c).await;
            let log = std::fs::read_to_string(format!("{logs}/{name}.log")).expect("a log");
            let records: Vec<_> = log.lines().filter_map(|line| line.split_once(" stdout ")).collect();
            let told: Vec<_> = records.iter().map(|(_, rest)| (&rest[..1], rest.len() - 2)).collect();
            assert_eq!(told, [("P", 256), ("P", 256), ("F", 88)], "{name}");
        }
        daemon.client().remove_all().await;
        daemon.end().await;
    });
}

#[test]
fn a_seccomp_profile_of_the_administrators_is_the_default_one() {
    story(async {
        let (daemon, client) = with_config("default-profile", |daemon| {
            let path = daemon.dir().join("default.json");
            let text = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }
            ] }"#;
            std::fs::write(&path, text).expect("written");
            format!("[container]\nseccomp_profile = \"{}\"\n", path.display())
        })
        .await;
        let config = pod("profile", &daemon.cgroup(), &daemon.logs("profile"));
        let id = client.run_pod(&config).await.expect("a pod");
        use cri::security_profile::ProfileType::{RuntimeDefault, Unconfined};
        for (name, kind, refused) in [("default", RuntimeDefault, true), ("none", Unconfined, false)] {
            let mut container = shell(name, "sleep 1000");
            security(&mut container).seccomp = profile(kind, "");
            let c = client.run(&id, &config, &container).await.expect("runs");
            let (said, code) =
                client.exec(&c, "touch /tmp/x && chmod 700 /tmp/x 2>&1", 10).await.expect("ran");
            assert_eq!(code != 0, refused, "{name}: {said}");
        }
        client.remove_all().await;
        daemon.end().await;
    });
}

#[test]
fn a_sandboxs_profile_that_cannot_be_used_is_no_pod() {
    story(async {
        let daemon = Daemon::start("sandbox-profile").await;
        let client = daemon.client();
        let mut config = pod("profile", &daemon.cgroup(), &daemon.logs("profile"));
        let bad = daemon.dir().join("bad.json");
        std::fs::write(&bad, "{}").expect("written");
        for path in ["/no/such/profile.json".to_owned(), bad.display().to_string()] {
            let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            context.seccomp = profile(cri::security_profile::ProfileType::Localhost, &path);
            let error = client.run_pod(&config).await.expect_err("it cannot be used");
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains(&path) && error.message().contains("localhost_ref"), "{error}");
        }
        assert!(client.pods().await.expect("a list").is_empty(), "a refused pod is there");
        daemon.end().await;
    });
}

#[test]
fn devices_belong_to_the_security_context_where_the_administrator_wants_that() {
    story(async {
        for (own, told) in [(true, "1000 1001"), (false, "0 0")] {
            let text = format!("[container]\ndevice_ownership_from_security_context = {own}\n");
            let (daemon, client) = with_config("own", |_| text).await;
            let config = pod("own", &daemon.cgroup(), &daemon.logs("own"));
            let id = client.run_pod(&config).await.expect("a pod");
            let mut container = shell("own", "sleep 1000");
            container.devices = vec![cri::Device {
                host_path: "/dev/zero".to_owned(),
                container_path: "/dev/own".to_owned(),
                permissions: "rw".to_owned(),
            }];
            security(&mut container).run_as_user = Some(cri::Int64Value { value: 1000 });
            security(&mut container).run_as_group = Some(cri::Int64Value { value: 1001 });
            let c = client.run(&id, &config, &container).await.expect("runs");
            let (said, _) = client.exec(&c, "stat -c '%u %g' /dev/own", 10).await.expect("ran");
            assert_eq!(said.trim(), told, "own = {own}");
            client.remove_all().await;
            daemon.end().await;
        }
    });
}

#[test]
fn cdi_devices_come_from_the_directories_of_the_configuration() {
    story(async {
        let (daemon, client) = with_config("cdi", |daemon| {
            let dir = daemon.dir().join("cdi");
            std::fs::create_dir(&dir).expect("made");
            let text = "cdiVersion: 0.6.0\nkind: example.com/thing\ndevices:\n- name: one\n  containerEdits:\n    \
                env: [\"THING=one\"]\n    deviceNodes: [{path: /dev/thing, hostPath: /dev/zero}]\n";
            std::fs::write(dir.join("thing.yaml"), text).expect("written");
            std::fs::write(dir.join("broken.json"), "{").expect("written");
            format!("[cdi]\nspec_dirs = [\"{}\"]\n", dir.display())
        })
        .await;
        let config = pod("cdi", &daemon.cgroup(), &daemon.logs("cdi"));
        let id = client.run_pod(&config).await.expect("a pod");
        let named = |name: &str| cri::CdiDevice { name: name.to_owned() };
        let mut container = shell("one", "sleep 1000");
        container.cdi_devices = vec![named("example.com/thing=one"), named("example.com/thing=one")];
        let c = client.run(&id, &config, &container).await.expect("runs");
        let script = "echo $THING; head -c 3 /dev/thing | wc -c";
        assert_eq!(client.exec(&c, script, 10).await.expect("ran").0.trim(), "one\n3");
        let mut container = shell("two", "true");
        container.cdi_devices = vec![named("example.com/thing=two")];
        let error = client.create(&id, &config, &container).await.expect_err("there is none");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        for told in ["config.CDI_devices", "example.com/thing=two", "broken.json"] {
            assert!(error.message().contains(told), "no {told} in {error}");
        }
        client.remove_all().await;
        daemon.end().await;
    });
}
