//! Limits of containers and sizes of pods that change.

use super::*;
use crate::{EngineError, pod::PodSize};
use types::{ContainerId, container::Resources};

fn asked() -> Resources {
    Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(20_000),
        memory_limit: Some(1 << 20),
        oom_score_adj: 9,
        ..Resources::default()
    }
}

/// The files that [`asked`] writes, in this order.
const FILES: [&str; 4] = ["shares", "quota", "memory", "oom_score_adj"];

fn written(house: &House, container: &str) -> Vec<Option<String>> {
    let id = ContainerId::parse(container).expect("an id");
    FILES.iter().map(|file| house.host.limit(&id, file).filter(|content| content != "unset")).collect()
}

fn all() -> Vec<Option<String>> {
    ["512", "20000", "1048576", "9"].map(|content| Some(content.to_owned())).into()
}

#[tokio::test]
async fn created_and_running_containers_are_updated_and_keep_it() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let spec = container("c", "forever");
    let created = house.engine.create_container(&pod, spec.clone()).await.expect("created").to_string();
    let running = house.running(&pod, "r", "forever").await;
    for id in [&created, &running] {
        house.engine.update_container(id, asked()).await.expect("updated");
        assert_eq!(written(&house, id), all());
        assert_eq!(house.view(id).plan.resources(), &asked());
    }
    let house = house.restart(|_| ()).await;
    assert_eq!(house.view(&created).plan.resources(), &asked());
    // What is not asked for stays.
    let more = Resources { cpu_quota: Some(-1), ..Resources::default() };
    house.engine.update_container(&running, more).await.expect("updated");
    assert_eq!(house.view(&running).plan.resources(), &Resources { cpu_quota: Some(-1), ..asked() });
    // A retry of CreateContainer is still known by what was asked for then.
    let again = house.engine.create_container(&pod, spec).await.expect("the same").to_string();
    assert_eq!(again, created);
}

#[tokio::test]
async fn a_write_that_fails_leaves_all_limits_as_they_were() {
    for failing in 1..=FILES.len() {
        let house = House::new().await;
        let pod = house.pod("a").await;
        let app = house.running(&pod, "app", "forever").await;
        house.host.fail_at(failing);
        let error = house.engine.update_container(&app, asked()).await.expect_err("a write failed");
        assert!(matches!(error, EngineError::Internal { .. }), "{error}");
        assert_eq!(written(&house, &app), vec![None; FILES.len()], "failed at {failing}");
        assert_eq!(house.view(&app).plan.resources(), &Resources::default());
        house.engine.update_container(&app, asked()).await.expect("updated");
        assert_eq!(written(&house, &app), all());
    }
}

#[tokio::test]
async fn limits_that_could_not_be_taken_back_are_taken_back_later() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    house.host.stick("restore_limits");
    house.host.fail_at(2);
    assert!(house.engine.update_container(&app, asked()).await.is_err());
    assert_eq!(written(&house, &app)[0].as_deref(), Some("512"), "half of it is set");
    let refused = house.engine.update_container(&app, asked()).await.expect_err("not yet");
    assert!(matches!(refused, EngineError::FailedPrecondition { .. }), "{refused}");
    let house = house.restart(super::FakeHost::release).await;
    assert_eq!(written(&house, &app), vec![None; FILES.len()]);
    house.engine.update_container(&app, asked()).await.expect("updated");
    assert_eq!(written(&house, &app), all());
}

/// A life of the daemon that ends at `point` of an update; the container's id.
fn life_until(point: &'static str, dir: &Dir, host: &FakeHost) -> String {
    let (crash, mut crashed) = tokio::sync::mpsc::unbounded_channel();
    let probe = Probe::new(move |passed| {
        if passed != point {
            return Go::On;
        }
        let _ = crash.send(());
        Go::Never
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // With the runtime all tasks end where they are, as at a SIGKILL.
    runtime.block_on(async {
        let engine = Engine::start(parts(dir.store(), host, probe)).await.expect("starts");
        let pod = engine.run_pod(pod("a")).await.expect("runs");
        let made = engine.create_container(pod.as_str(), container("app", "forever")).await.expect("created");
        engine.start_container(made.as_str()).await.expect("starts");
        tokio::select! {
            biased;
            _ = crashed.recv() => {}
            _ = engine.update_container(made.as_str(), asked()) => panic!("{point} was not passed"),
        }
        made.to_string()
    })
}

#[test]
fn a_crash_at_any_point_of_an_update_leaves_all_or_nothing() {
    for point in ["container.update_planned", "container.set_limits", "container.updated"] {
        let (dir, host) = (Dir::new(), FakeHost::new());
        let app = life_until(point, &dir, &host);
        let (limits, want) = match point {
            "container.updated" => (all(), asked()),
            _ => (vec![None; FILES.len()], Resources::default()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let house = House::on(dir, host).await;
            assert_eq!(written(&house, &app), limits, "{point}");
            assert_eq!(house.view(&app).plan.resources(), &want, "{point}");
        });
    }
}

#[tokio::test]
async fn an_ended_or_unknown_container_is_refused() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "exit 0").await;
    house.until(&app, ContainerState::Exited).await;
    let error = house.engine.update_container(&app, asked()).await.expect_err("it has ended");
    assert!(matches!(error, EngineError::FailedPrecondition { .. }), "{error}");
    let error = house.engine.update_container("nobody", asked()).await.expect_err("no such");
    assert!(matches!(error, EngineError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_pods_size_is_kept_and_what_is_not_told_stays() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let first = PodSize { overhead: Some(asked()), resources: Some(asked()) };
    house.engine.resize_pod(&pod, first).await.expect("kept");
    let more = Resources { cpu_shares: Some(7), ..Resources::default() };
    let told = PodSize { overhead: None, resources: Some(more.clone()) };
    house.engine.resize_pod(&pod, told).await.expect("kept");
    let house = house.restart(|_| ()).await;
    let size = house.engine.pod(&pod).expect("is there").size.clone().expect("a size");
    assert_eq!(*size, PodSize { overhead: Some(asked()), resources: Some(more) });
    let error = house.engine.resize_pod("nobody", PodSize::default()).await.expect_err("no such");
    assert!(matches!(error, EngineError::NotFound { .. }), "{error}");
}
