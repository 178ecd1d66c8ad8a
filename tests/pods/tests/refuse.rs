//! Bad input through the socket: the code, a message that names the field, nothing left behind.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Daemon, pod, shell, story};
use tonic::Code;

#[test]
fn malformed_requests_change_nothing() {
    story(async {
        let daemon = Daemon::start("refuse").await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let good = pod("refuse", &daemon.cgroup(), &daemon.logs("refuse"));

        let mut bad = good.clone();
        bad.metadata = None;
        let error = client.run_pod(&bad).await.expect_err("no metadata");
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("config.metadata"), "{error}");
        let mut bad = good.clone();
        bad.linux.as_mut().expect("set").sysctls.insert("kernel.core_pattern".to_owned(), "x".to_owned());
        let error = client.run_pod(&bad).await.expect_err("a sysctl of the host");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains("kernel.core_pattern"), "{error}");
        assert!(client.pods().await.expect("a list").is_empty(), "a refused pod is there");

        for id in ["", "../x", "/", "\0", &"f".repeat(64), &"a".repeat(70_000)] {
            for code in [
                client.pod_status(id).await.expect_err("unknown").code(),
                client.status(id).await.expect_err("unknown").code(),
                client.start(id).await.expect_err("unknown").code(),
                client.exec(id, "true", 1).await.expect_err("unknown").code(),
                client.create(id, &good, &shell("c", "true")).await.expect_err("unknown").code(),
            ] {
                assert!(matches!(code, Code::NotFound | Code::InvalidArgument), "{id:.10}: {code:?}");
            }
        }

        let id = client.run_pod(&good).await.expect("a pod");
        let mut container = shell("c", "true");
        container.image =
            Some(cri::ImageSpec { image: "docker.io/library/absent:1".to_owned(), ..Default::default() });
        let error = client.create(&id, &good, &container).await.expect_err("no such image");
        assert_eq!(error.code(), Code::NotFound, "{error}");
        let mut container = shell("c", "true");
        container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set").run_as_username =
            "nobody-knows".to_owned();
        let error = client.create(&id, &good, &container).await.expect_err("no such user");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains("nobody-knows"), "{error}");
        let mut container = shell("c", "true");
        container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set").privileged = true;
        let error = client.create(&id, &good, &container).await.expect_err("the pod is not privileged");
        assert!(matches!(error.code(), Code::InvalidArgument | Code::FailedPrecondition), "{error}");
        assert!(client.containers().await.expect("a list").is_empty(), "a refused container is there");

        client.stop_pod(&id).await.expect("stopped");
        let error = client.create(&id, &good, &shell("c", "true")).await.expect_err("not ready");
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        daemon.end().await;
    });
}

#[test]
fn what_is_not_there_yet_is_unimplemented_and_what_names_nothing_is_invalid() {
    story(async {
        let daemon = Daemon::start("unimplemented").await;
        let mut runtime = daemon.client().runtime();
        let code = |result: Result<(), tonic::Status>| result.expect_err("not there").code();
        assert_eq!(code(runtime.exec(cri::ExecRequest::default()).await.map(|_| ())), Code::InvalidArgument);
        let attach = runtime.attach(cri::AttachRequest::default()).await.map(|_| ());
        assert_eq!(code(attach), Code::InvalidArgument);
        let forward = runtime.port_forward(cri::PortForwardRequest::default()).await.map(|_| ());
        assert_eq!(code(forward), Code::InvalidArgument);
        let container = cri::CheckpointContainerRequest::default();
        assert_eq!(code(runtime.checkpoint_container(container).await.map(|_| ())), Code::Unimplemented);
        let pod = cri::CheckpointPodRequest::default();
        assert_eq!(code(runtime.checkpoint_pod(pod).await.map(|_| ())), Code::Unimplemented);
        let pod = cri::RestorePodRequest::default();
        assert_eq!(code(runtime.restore_pod(pod).await.map(|_| ())), Code::Unimplemented);
        daemon.end().await;
    });
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    story(async {
        let daemon = Daemon::start("second").await;
        let output = std::process::Command::new(pods::binary("peapod"))
            .arg("serve")
            .args(["--root", &daemon.dir().join("r").display().to_string()])
            .args(["--state", &daemon.dir().join("s").display().to_string()])
            .args(["--listen", &format!("unix://{}", daemon.socket().display())])
            .output()
            .expect("it runs");
        assert!(!output.status.success());
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("pid {}", daemon.pid())), "{said}");
        daemon.client().version().await.expect("the first one is untouched");
        daemon.end().await;
    });
}
