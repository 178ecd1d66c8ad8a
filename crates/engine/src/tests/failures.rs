//! A step fails, after it acted: nothing may be left behind, or what is left must be told.

use super::*;
use crate::{EngineError, PodState};
use std::time::Duration;
use store::Table;

fn records(house: &House) -> usize {
    // The engine's own handle on the store is the only way to look while it runs.
    house.engine.records(Table::PODS) + house.engine.records(Table::CONTAINERS)
}

#[tokio::test]
async fn a_pod_that_fails_at_any_step_leaves_nothing_behind() {
    const STEPS: usize = 5;
    for step in 1..=STEPS {
        let house = House::new().await;
        house.host.fail_at(step);
        let error = house.engine.run_pod(pod("a")).await.expect_err("a step fails");
        assert!(matches!(error, EngineError::Internal { .. }), "step {step}: {error:?}");
        house.assert_empty(&format!("step {step}"));
        assert_eq!(records(&house), 0, "step {step}");
        // Its name is free: the kubelet tries again with the same.
        house.pod("a").await;
    }
    let house = House::new().await;
    house.host.fail_at(STEPS + 1);
    house.engine.run_pod(pod("a")).await.expect("there is no sixth step; else raise STEPS");
}

#[tokio::test]
async fn a_container_that_fails_at_any_step_leaves_nothing_behind() {
    const STEPS: usize = 3;
    for step in 1..=STEPS {
        let house = House::new().await;
        let pod_id = house.pod("a").await;
        let before = house.host.owned();
        house.host.fail_at(step);
        let spec = container("c", "forever");
        let error = house.engine.create_container(&pod_id, spec.clone()).await.expect_err("a step fails");
        assert!(matches!(error, EngineError::Internal { .. }), "step {step}: {error:?}");
        assert_eq!(house.host.owned(), before, "step {step}");
        assert!(house.engine.containers(&Default::default()).is_empty(), "step {step}");
        assert_eq!(records(&house), 1, "step {step}");
        house.engine.create_container(&pod_id, spec).await.expect("its name is free");
    }
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    house.host.fail_at(STEPS + 1);
    let made = house.engine.create_container(&pod_id, container("c", "forever")).await;
    made.expect("there is no fourth step; else raise STEPS");
}

#[tokio::test]
async fn a_pod_that_cannot_be_torn_down_is_kept_until_stop_and_remove_finish_it() {
    for stuck in ["drop_shim", "detach", "drop_namespaces", "drop_pod_cgroup", "drop_pod_dirs"] {
        let house = House::new().await;
        house.host.stick(stuck);
        house.host.fail_at(5);
        house.engine.run_pod(pod("a")).await.expect_err("the shim does not start");
        let pods = house.engine.pods(&Default::default());
        let [kept] = pods.as_slice() else { panic!("{stuck}: {pods:?}") };
        assert_eq!(kept.state(), PodState::NotReady);
        assert!(kept.message().contains(stuck), "{stuck}: {}", kept.message());
        let id = kept.plan.id.to_string();
        // All the rest is gone all the same.
        assert_eq!(house.host.owned().len(), 1, "{stuck}: {:?}", house.host.owned());
        // The same request is not answered with a pod that never was ready.
        house.engine.run_pod(pod("a")).await.expect_err("it is not ready");
        house.engine.stop_pod(&id).await.expect_err("still stuck");
        house.engine.remove_pod(&id).await.expect_err("still stuck");
        let house = house.restart(|_| ()).await;
        house.engine.run_pod(pod("a")).await.expect_err("it is not ready");
        house.host.release();
        house.engine.stop_pod(&id).await.expect("stops");
        house.engine.remove_pod(&id).await.expect("removed");
        house.assert_empty(stuck);
        house.pod("a").await;
    }
}

#[tokio::test]
async fn a_ready_pod_whose_stop_fails_at_any_step_is_stopped_by_the_next() {
    for step in 1..=6 {
        let house = House::new().await;
        let id = house.pod("a").await;
        let app = house.running(&id, "app", "forever").await;
        house.host.fail_at(step);
        let first = house.engine.stop_pod(&id).await;
        // A shim that does not kill (the first step) is done without.
        assert_eq!(first.is_ok(), step == 1, "step {step}: {first:?}");
        house.engine.stop_pod(&id).await.expect("stops");
        assert_eq!(house.view(&app).ended().map(|ended| ended.code), Some(137), "step {step}");
        assert_eq!(house.engine.pod(&id).expect("kept").state(), PodState::NotReady);
        house.engine.remove_pod(&id).await.expect("removed");
        house.assert_empty(&format!("step {step}"));
    }
}

#[tokio::test]
async fn a_removal_that_fails_at_any_step_is_finished_by_the_next() {
    for step in 1..=8 {
        let house = House::new().await;
        let id = house.pod("a").await;
        house.running(&id, "app", "forever").await;
        house.host.fail_at(step);
        let first = house.engine.remove_pod(&id).await;
        assert_eq!(first.is_ok(), step == 1, "step {step}: {first:?}");
        house.engine.remove_pod(&id).await.expect("removed");
        house.assert_empty(&format!("step {step}"));
        assert_eq!(records(&house), 0);
    }
}

#[tokio::test]
async fn a_container_that_cannot_be_dropped_is_unknown_until_it_is_removed() {
    let house = House::new().await;
    let id = house.pod("a").await;
    house.host.stick("drop_container");
    house.host.fail_at(3);
    let spec = container("c", "forever");
    house.engine.create_container(&id, spec.clone()).await.expect_err("cannot be created");
    let containers = house.engine.containers(&Default::default());
    let [kept] = containers.as_slice() else { panic!("{containers:?}") };
    assert_eq!(kept.state(), ContainerState::Unknown);
    let kept = kept.plan.id.to_string();
    house.engine.create_container(&id, spec.clone()).await.expect_err("it is not created");
    let error = house.engine.start_container(&kept).await.expect_err("it cannot start");
    assert!(matches!(error, EngineError::FailedPrecondition { .. }), "{error:?}");
    house.engine.remove_container(&kept).await.expect_err("still stuck");
    house.host.release();
    house.engine.remove_container(&kept).await.expect("removed");
    house.engine.create_container(&id, spec).await.expect("its name is free");
}

#[tokio::test]
async fn a_container_whose_kill_is_not_sure_is_not_called_exited() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let id = house.engine.create_container(&pod_id, container("c", "missing")).await.expect("created");
    house.host.stick("kill_group");
    house.engine.start_container(id.as_str()).await.expect_err("no such program");
    // The shim's own report settles it.
    let view = house.until(id.as_str(), ContainerState::Exited).await;
    assert_eq!(view.ended().map(|ended| ended.code), Some(127));
}

#[tokio::test]
async fn a_shim_that_dies_ends_its_containers_and_the_pod_is_not_ready() {
    let house = House::new().await;
    let id = house.pod("a").await;
    let other = house.pod("b").await;
    let app = house.running(&id, "app", "forever").await;
    let done = house.running(&id, "done", "exit 4").await;
    house.until(&done, ContainerState::Exited).await;
    house.host.kill_shim(&types::PodId::parse(&id).expect("an id"));
    let view = house.until(&app, ContainerState::Exited).await;
    let ended = view.ended().expect("ended");
    assert_eq!((ended.code, ended.reason.name()), (137, "Unknown"));
    assert!(ended.message.contains("shim has died"), "{}", ended.message);
    assert!(!house.host.owned().contains(&format!("process {}", &app[..12])), "its process lives on");
    assert_eq!(house.view(&done).ended().map(|ended| ended.code), Some(4));
    while house.engine.pod(&id).expect("kept").state() == PodState::Ready {
        tokio::task::yield_now().await;
    }
    let refused = house.engine.create_container(&id, container("more", "forever")).await;
    assert!(matches!(refused, Err(EngineError::FailedPrecondition { .. })), "{refused:?}");
    assert_eq!(house.engine.pod(&other).expect("is there").state(), PodState::Ready);
    house.engine.stop_pod(&id).await.expect("stops");
    house.engine.remove_pod(&id).await.expect("removed");
    house.engine.remove_pod(&other).await.expect("removed");
    house.assert_empty("after a dead shim");
}

#[tokio::test]
async fn a_stop_of_a_created_container_ends_it() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let id = house.engine.create_container(&pod_id, container("c", "forever")).await.expect("created");
    house.engine.stop_container(id.as_str(), Duration::from_secs(100)).await.expect("stops at once");
    assert_eq!(house.view(id.as_str()).ended().map(|ended| ended.code), Some(137));
}

#[tokio::test]
async fn a_panic_in_one_pods_task_harms_no_other_and_the_pod_can_be_removed() {
    for verb in ["attach", "drop_shim", "drop_pod_dirs"] {
        let house = House::new().await;
        let well = house.pod("well").await;
        let id = match verb {
            "attach" => {
                house.host.panic_in(verb);
                house.engine.run_pod(pod("a")).await.expect_err("its task panics");
                let kept = |pods: &[Arc<crate::PodView>]| {
                    pods.iter().find(|pod| pod.plan.spec.name == "a").map(|pod| pod.plan.id.to_string())
                };
                loop {
                    match kept(&house.engine.pods(&Default::default())) {
                        Some(id) => break id,
                        None => tokio::task::yield_now().await,
                    }
                }
            }
            _ => {
                let id = house.pod("a").await;
                house.running(&id, "c", "forever").await;
                house.host.panic_in(verb);
                house.engine.stop_pod(&id).await.expect_err("its task panics");
                id
            }
        };
        house.host.release();
        while house.engine.pod(&id).expect("kept").state() == PodState::Ready {
            tokio::task::yield_now().await;
        }
        let message = house.engine.pod(&id).expect("kept").message().to_owned();
        assert!(message.contains("panicked"), "{verb}: {message}");
        house.running(&well, "c", "forever").await;
        house.engine.stop_pod(&id).await.expect("stops");
        house.engine.remove_pod(&id).await.expect("removed");
        house.engine.remove_pod(&well).await.expect("removed");
        house.assert_empty(verb);
    }
}

#[tokio::test]
async fn a_panic_in_one_containers_task_harms_no_other_and_it_can_be_removed() {
    for verb in ["make_rootfs", "start", "drop_container"] {
        let house = House::new().await;
        let pod_id = house.pod("a").await;
        let well = house.running(&pod_id, "well", "forever").await;
        let spec = container("c", "forever");
        if verb == "make_rootfs" {
            house.host.panic_in(verb);
            house.engine.create_container(&pod_id, spec).await.expect_err("its task panics");
        } else {
            let id = house.engine.create_container(&pod_id, spec).await.expect("created");
            house.host.panic_in(verb);
            match verb {
                "start" => house.engine.start_container(id.as_str()).await.expect_err("its task panics"),
                _ => house.engine.remove_container(id.as_str()).await.expect_err("its task panics"),
            };
        }
        house.host.release();
        let id = loop {
            let unknown =
                crate::ContainerFilter { state: Some(ContainerState::Unknown), ..Default::default() };
            match house.engine.containers(&unknown).first() {
                Some(view) => break view.plan.id.to_string(),
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(house.view(&well).state(), ContainerState::Running);
        house.engine.stop_container(&id, Duration::ZERO).await.expect("stops");
        house.engine.remove_container(&id).await.expect("removed");
        house.engine.remove_pod(&pod_id).await.expect("removed");
        house.assert_empty(verb);
    }
}
