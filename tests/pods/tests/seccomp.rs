//! Seccomp profiles of the host, seen from inside a container that runs under them.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Daemon, pod, shell, story};
use tonic::Code;

/// Refuses chmod, and personality(2) with one value; x86's own socket calls are no matter here.
const NO_CHMOD: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "syscalls": [
        { "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
        { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] }
    ]
}"#;

fn with_profile(config: &mut cri::ContainerConfig, path: &str) {
    let context = config.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
    context.seccomp = Some(cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::Localhost.into(),
        localhost_ref: path.to_owned(),
    });
}

#[test]
fn a_localhost_profile_is_in_force_for_the_container_and_for_what_is_executed_in_it() {
    story(async {
        let daemon = Daemon::start("seccomp").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let profile = daemon.dir().join("no-chmod.json");
        std::fs::write(&profile, NO_CHMOD).expect("written");
        let config = pod("seccomp", &daemon.cgroup(), &daemon.logs("seccomp"));
        let id = client.run_pod(&config).await.expect("a pod");
        // Signal 10 is SIGUSR1 on both architectures; 0 asks only whether the process is there.
        let script = "touch /tmp/x; chmod 700 /tmp/x 2>&1; grep Seccomp: /proc/self/status;
            kill -0 $$ && echo asked; kill -10 $$ 2>&1 || echo refused; sleep 1000";
        let mut container = shell("message", script);
        with_profile(&mut container, &profile.display().to_string());
        let first = client.run(&id, &config, &container).await.expect("runs");
        let log = daemon.dir().join("logs/seccomp/message.log");
        let text = pods::until("what it says", || async {
            std::fs::read_to_string(&log).ok().filter(|text| text.contains("refused"))
        })
        .await;
        for said in ["Operation not supported", "Seccomp:\t2", "asked", "Operation not permitted"] {
            assert!(text.contains(said), "no {said} in:\n{text}");
        }
        let (said, code) = client.exec(&first, "chmod 700 /tmp/x 2>&1", 10).await.expect("ran");
        assert!(code != 0 && said.contains("not supported"), "an exec is not filtered: {said}");

        let mut container = shell("string", "sleep 1000");
        let context = container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set");
        context.seccomp = None;
        #[expect(deprecated, reason = "older clients send the profile as a string")]
        {
            context.seccomp_profile_path = format!("localhost/{}", profile.display());
        }
        let second = client.run(&id, &config, &container).await.expect("runs");
        let (said, code) = client.exec(&second, "chmod 700 /tmp 2>&1", 10).await.expect("ran");
        assert!(code != 0 && said.contains("not supported"), "the string is not obeyed: {said}");
        daemon.end().await;
    });
}

#[test]
fn a_profile_that_cannot_be_used_is_an_error_and_never_no_filter() {
    story(async {
        let daemon = Daemon::start("badseccomp").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod("badseccomp", &daemon.cgroup(), &daemon.logs("badseccomp"));
        let id = client.run_pod(&config).await.expect("a pod");
        let file = |name: &str, text: &str| {
            let path = daemon.dir().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let notify = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        for (path, why) in [
            (String::new(), "localhost_ref"),
            ("profiles/p.json".to_owned(), "localhost_ref"),
            (format!("{}/../x.json", daemon.dir().display()), "localhost_ref"),
            ("/no/such/profile.json".to_owned(), "No such file"),
            (daemon.dir().display().to_string(), "no regular file"),
            ("/dev/zero".to_owned(), "no regular file"),
            (file("empty.json", ""), "EOF"),
            (file("text.json", "unconfined"), "expected value"),
            (file("action.json", r#"{"defaultAction":"ALLOW"}"#), "ALLOW"),
            (file("notify.json", notify), "SCMP_ACT_NOTIFY is not supported"),
        ] {
            let mut container = shell("c", "sleep 1000");
            with_profile(&mut container, &path);
            let error = client.create(&id, &config, &container).await.expect_err(&path);
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            let named = error.message().starts_with("config.linux.security_context.seccomp.localhost_ref:");
            assert!(named && error.message().contains(why), "{path}: {error}");
        }
        assert!(client.containers().await.expect("a list").is_empty(), "a refused container is there");
        daemon.end().await;
    });
}
