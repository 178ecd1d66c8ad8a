//! The ordinary life of pods and containers.

use super::*;
use crate::{EngineError, PodFilter, PodState, container::Reason};
use std::time::Duration;
use types::{
    Labels,
    pod::{Namespaces, NsMode},
};

#[tokio::test]
async fn a_pod_with_two_containers_lives_and_leaves_nothing() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let view = house.engine.pod(&pod_id).expect("is there");
    assert_eq!(view.state(), PodState::Ready);
    assert_eq!(view.ips()[0].to_string(), "10.0.0.2");
    assert!(view.shim_pid().is_some() && view.pause_pid().is_none());
    let app = house.running(&pod_id, "app", "forever").await;
    let job = house.running(&pod_id, "job", "exit 3").await;
    assert!(house.view(&app).pid().is_some());
    let ended = house.until(&job, ContainerState::Exited).await;
    let ended = ended.ended().expect("ended");
    assert_eq!((ended.code, ended.reason), (3, Reason::Error));
    assert!(ended.started_at <= ended.finished_at && ended.started_at > Timestamp::NEVER);
    house.engine.stop_container(&app, Duration::from_secs(30)).await.expect("stops");
    assert_eq!(house.view(&app).ended().map(|ended| ended.code), Some(143));
    house.engine.remove_container(&app).await.expect("removed");
    assert!(matches!(house.engine.container(&app), Err(EngineError::NotFound { .. })));
    house.engine.stop_pod(&pod_id).await.expect("stops");
    let view = house.engine.pod(&pod_id).expect("is there");
    assert_eq!((view.state(), view.ips().len(), view.shim_pid()), (PodState::NotReady, 0, None));
    assert_eq!(house.view(&job).state(), ContainerState::Exited, "it is shown until it is removed");
    house.engine.remove_pod(&pod_id).await.expect("removed");
    house.assert_empty("after the pod's removal");
}

#[tokio::test]
async fn stop_and_remove_are_idempotent_and_unknown_ids_are_fine() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let app = house.running(&pod_id, "app", "forever").await;
    for _ in 0..2 {
        house.engine.stop_container(&app, Duration::ZERO).await.expect("stops");
    }
    for _ in 0..2 {
        house.engine.remove_container(&app).await.expect("removed");
    }
    for _ in 0..2 {
        house.engine.stop_pod(&pod_id).await.expect("stops");
    }
    for _ in 0..2 {
        house.engine.remove_pod(&pod_id).await.expect("removed");
    }
    for unknown in ["", "nonsense", "../..", &"f".repeat(64), &"x".repeat(100_000)] {
        house.engine.stop_container(unknown, Duration::ZERO).await.expect("is stopped");
        house.engine.remove_container(unknown).await.expect("is removed");
        house.engine.stop_pod(unknown).await.expect("is stopped");
        house.engine.remove_pod(unknown).await.expect("is removed");
        let not_found = [
            house.engine.pod(unknown).err(),
            house.engine.container(unknown).err(),
            house.engine.start_container(unknown).await.err(),
            house.engine.reopen_log(unknown).await.err(),
            house.engine.create_container(unknown, container("c", "forever")).await.err(),
            house.engine.exec_sync(unknown, vec!["echo".to_owned()], None).await.err(),
        ];
        for error in not_found {
            let error = error.expect("an error");
            assert!(matches!(error, EngineError::NotFound { .. }), "{error}");
            assert!(error.to_string().len() < 1000, "an error as long as the request");
        }
    }
    house.assert_empty("at the end");
}

#[tokio::test]
async fn removing_a_pod_forces_its_running_containers() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    house.running(&pod_id, "one", "stubborn").await;
    house.running(&pod_id, "two", "forever").await;
    house.engine.create_container(&pod_id, container("three", "forever")).await.expect("created");
    house.engine.remove_pod(&pod_id).await.expect("removed");
    house.assert_empty("after the removal");
}

#[tokio::test]
async fn calls_in_the_wrong_state_are_refused_and_change_nothing() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let created = house.engine.create_container(&pod_id, container("c", "forever")).await.expect("created");
    let created = created.to_string();
    let refused = |result: Result<(), EngineError>| {
        assert!(matches!(result, Err(EngineError::FailedPrecondition { .. })), "{result:?}");
    };
    let exec = || async { house.engine.exec_sync(&created, vec!["echo".to_owned()], None).await.map(|_| ()) };
    refused(house.engine.reopen_log(&created).await);
    refused(exec().await);
    house.engine.start_container(&created).await.expect("starts");
    refused(house.engine.start_container(&created).await);
    house.engine.reopen_log(&created).await.expect("reopened");
    exec().await.expect("runs");
    house.engine.stop_container(&created, Duration::ZERO).await.expect("stops");
    refused(house.engine.start_container(&created).await);
    refused(house.engine.reopen_log(&created).await);
    refused(exec().await);
    house.engine.stop_pod(&pod_id).await.expect("stops");
    refused(house.engine.create_container(&pod_id, container("d", "forever")).await.map(|_| ()));
    assert_eq!(house.engine.containers(&Default::default()).len(), 1);
}

#[tokio::test]
async fn an_exec_answers_its_code_and_a_killed_one_is_an_error() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let app = house.running(&pod_id, "app", "forever").await;
    let exec = |words: &'static str, timeout| {
        let command = words.split(' ').map(str::to_owned).collect();
        house.engine.exec_sync(&app, command, timeout)
    };
    assert_eq!(exec("echo hello", None).await.expect("runs").stdout, b"hello");
    assert_eq!(exec("exit 7", None).await.expect("runs").exit_code, 7);
    let late = exec("forever", Some(Duration::from_secs(1))).await;
    assert!(matches!(late, Err(EngineError::DeadlineExceeded { .. })), "{late:?}");
    assert!(matches!(exec("nosuch", None).await, Err(EngineError::Internal { .. })));
    let empty = house.engine.exec_sync(&app, vec![], None).await;
    assert!(matches!(empty, Err(EngineError::InvalidArgument { field: "cmd", .. })), "{empty:?}");
}

#[tokio::test]
async fn an_oom_kill_is_told_in_the_words_of_the_cri() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let app = house.running(&pod_id, "app", "forever").await;
    house.host.exit(&types::ContainerId::parse(&app).expect("an id"), 137, true);
    let view = house.until(&app, ContainerState::Exited).await;
    let ended = view.ended().expect("ended");
    assert_eq!((ended.code, ended.reason.name()), (137, "OOMKilled"));
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_fails_the_start_and_exits_the_container() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let id = house.engine.create_container(&pod_id, container("c", "missing")).await.expect("created");
    let error = house.engine.start_container(id.as_str()).await.expect_err("no such program");
    assert!(matches!(error, EngineError::Internal { .. }), "{error:?}");
    let view = house.view(id.as_str());
    let ended = view.ended().expect("ended");
    assert_eq!((ended.code, ended.reason.name()), (128, "StartError"));
    assert!(ended.message.contains("no such file"), "{}", ended.message);
    house.engine.remove_pod(&pod_id).await.expect("removed");
    house.assert_empty("after the removal");
}

#[tokio::test]
async fn ids_may_be_cut_as_long_as_they_are_unique() {
    let house = House::new().await;
    let (a, b) = (house.pod("a").await, house.pod("b").await);
    assert_eq!(house.engine.pod(&a[..13]).expect("unique").plan.id.as_str(), a);
    // The counter that makes ids in these tests is spread over the first digits.
    let common = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    if common > 0 {
        let error = house.engine.stop_pod(&a[..common]).await.expect_err("ambiguous");
        assert!(matches!(error, EngineError::InvalidArgument { field: "id", .. }), "{error:?}");
    }
    house.engine.remove_pod(&b[..=common]).await.expect("removed");
    assert!(house.engine.pod(&b).is_err() && house.engine.pod(&a).is_ok());
}

#[tokio::test]
async fn lists_are_filtered_by_id_state_pod_and_labels_together() {
    let house = House::new().await;
    let label = |value: &str| Labels::from([("app".to_owned(), value.to_owned())]);
    let mut ids = Vec::new();
    for (name, value) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let spec = PodSpec { labels: label(value), ..pod(name) };
        ids.push(house.engine.run_pod(spec).await.expect("runs").to_string());
    }
    house.engine.stop_pod(&ids[1]).await.expect("stops");
    let count = |filter: PodFilter| house.engine.pods(&filter).len();
    let any = PodFilter::default;
    assert_eq!(count(any()), 3);
    assert_eq!(count(PodFilter { labels: label("x"), ..any() }), 2);
    assert_eq!(count(PodFilter { labels: label("x"), state: Some(PodState::Ready), ..any() }), 1);
    assert_eq!(count(PodFilter { state: Some(PodState::NotReady), ..any() }), 1);
    assert_eq!(count(PodFilter { id: Some(ids[2][..12].to_owned()), ..any() }), 1);
    assert_eq!(count(PodFilter { id: Some(ids[2].clone()), labels: label("x"), ..any() }), 0);
    assert_eq!(count(PodFilter { id: Some("zz".to_owned()), ..any() }), 0);
    for pod in [&ids[0], &ids[2]] {
        house.running(pod, "c", "forever").await;
    }
    let containers = |filter: crate::ContainerFilter| house.engine.containers(&filter).len();
    let any = crate::ContainerFilter::default;
    assert_eq!(containers(any()), 2);
    assert_eq!(containers(crate::ContainerFilter { pod: Some(ids[0].clone()), ..any() }), 1);
    assert_eq!(containers(crate::ContainerFilter { pod: Some(ids[1].clone()), ..any() }), 0);
    assert_eq!(containers(crate::ContainerFilter { state: Some(ContainerState::Running), ..any() }), 2);
    assert_eq!(containers(crate::ContainerFilter { labels: label("x"), ..any() }), 0);
}

#[tokio::test]
async fn bounds_are_kept_and_freed_again() {
    let house = House::new().await;
    let mut pods = Vec::new();
    for n in 0..50 {
        pods.push(house.pod(&format!("p{n}")).await);
    }
    let full = house.engine.run_pod(pod("more")).await;
    assert!(matches!(full, Err(EngineError::ResourceExhausted { .. })), "{full:?}");
    house.engine.remove_pod(&pods[7]).await.expect("removed");
    house.pod("more").await;
    for n in 0..5 {
        house.running(&pods[0], &format!("c{n}"), "forever").await;
    }
    let full = house.engine.create_container(&pods[0], container("more", "forever")).await;
    assert!(matches!(full, Err(EngineError::ResourceExhausted { .. })), "{full:?}");
}

#[tokio::test]
async fn the_nodes_network_needs_no_network_and_gets_no_address() {
    let house = House::new().await;
    house.host.stick("network_plan");
    let error = house.engine.run_pod(pod("a")).await.expect_err("no network");
    assert!(matches!(error, EngineError::FailedPrecondition { .. }), "{error:?}");
    house.assert_empty("after the refusal");
    let node = Namespaces { network: NsMode::Node, ..Namespaces::default() };
    let id = house.engine.run_pod(PodSpec { namespaces: node, ..pod("b") }).await.expect("runs");
    assert!(house.engine.pod(id.as_str()).expect("is there").ips().is_empty());
}

#[tokio::test]
async fn one_pid_namespace_needs_a_pause_process() {
    let house = House::new().await;
    let shared = Namespaces { pid: NsMode::Pod, ..Namespaces::default() };
    let id = house.engine.run_pod(PodSpec { namespaces: shared, ..pod("a") }).await.expect("runs");
    assert!(house.engine.pod(id.as_str()).expect("is there").pause_pid().is_some());
    let mut asks = container("c", "forever");
    asks.security.namespaces.pid = types::container::PidMode::Pod;
    house.engine.create_container(id.as_str(), asks.clone()).await.expect("created");
    let plain = house.pod("b").await;
    let error = house.engine.create_container(&plain, asks).await.expect_err("no such namespace");
    assert!(matches!(error, EngineError::InvalidArgument { .. }), "{error:?}");
}

#[tokio::test]
async fn a_target_is_a_running_container_of_the_same_pod() {
    let house = House::new().await;
    let (here, elsewhere) = (house.pod("a").await, house.pod("b").await);
    let target = house.running(&here, "app", "forever").await;
    let other = house.running(&elsewhere, "app", "forever").await;
    let waiting = house.engine.create_container(&here, container("waits", "forever")).await.expect("created");
    let debug = |name: &str, target: &str| {
        let mut asks = container(name, "forever");
        asks.security.namespaces.pid = types::container::PidMode::Target(target.to_owned());
        asks
    };
    house.engine.create_container(&here, debug("debug", target.as_str())).await.expect("created");
    for unknown in [other.as_str(), "nobody", &"f".repeat(64)] {
        let error = house.engine.create_container(&here, debug("x", unknown)).await.expect_err("refused");
        assert!(matches!(error, EngineError::InvalidArgument { .. }), "{error:?}");
    }
    let error = house.engine.create_container(&here, debug("x", waiting.as_str())).await.expect_err("waits");
    assert!(matches!(error, EngineError::FailedPrecondition { .. }), "{error:?}");
    assert!(error.to_string().contains("is created, and must be running"), "{error}");
}

#[tokio::test]
async fn bad_requests_name_the_field_and_leave_nothing() {
    let house = House::new().await;
    let slice = PodSpec { cgroup_parent: "a.slice".to_owned(), ..pod("a") };
    let error = house.engine.run_pod(slice).await.expect_err("refused");
    assert!(
        matches!(error, EngineError::InvalidArgument { field: "config.linux.cgroup_parent", .. }),
        "{error:?}"
    );
    house.assert_empty("after a bad pod");
    let pod_id = house.pod("a").await;
    let before = house.host.owned();
    let mut cases = vec![container("c", "forever"); 4];
    cases[0].image = "nowhere/none".to_owned();
    cases[1].log_path = "../../etc/shadow".to_owned();
    cases[2].security.privileged = true;
    cases[3].security.user = Some(types::container::RunAs::Name("nobody-here".to_owned()));
    for (number, case) in cases.into_iter().enumerate() {
        let error = house.engine.create_container(&pod_id, case).await.expect_err("refused");
        match number {
            0 => assert!(matches!(error, EngineError::NotFound { what: "image", .. }), "{error:?}"),
            _ => assert!(matches!(error, EngineError::InvalidArgument { .. }), "{number}: {error:?}"),
        }
        assert_eq!(house.host.owned(), before, "{number}");
        assert!(house.engine.containers(&Default::default()).is_empty());
    }
    // The name is free again.
    house.running(&pod_id, "c", "forever").await;
}

#[tokio::test]
async fn a_stopping_engine_refuses_work_and_readers_still_read() {
    let house = House::new().await;
    house.pod("a").await;
    let engine = house.engine.clone();
    house.engine.shutdown().await;
    assert!(matches!(engine.run_pod(pod("b")).await, Err(EngineError::Unavailable)));
    assert!(matches!(engine.stop_pod("x").await, Err(EngineError::Unavailable)));
    assert!(engine.pods(&Default::default()).is_empty());
    drop(engine);
    let house = house.restart(|_| ()).await;
    assert_eq!(house.engine.pods(&Default::default()).len(), 1);
}
