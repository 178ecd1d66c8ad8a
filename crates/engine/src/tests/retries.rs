//! The same request again: it joins the work, or gets the same id; another one is refused.

use super::*;
use crate::EngineError;
use std::sync::Mutex;
use tokio::sync::Semaphore;

#[tokio::test]
async fn an_identical_retry_gets_the_same_id_as_long_as_the_pod_lives() {
    let house = House::new().await;
    let id = house.pod("a").await;
    assert_eq!(house.pod("a").await, id);
    house.engine.stop_pod(&id).await.expect("stops");
    assert_eq!(house.pod("a").await, id);
    let house = house.restart(|_| ()).await;
    assert_eq!(house.pod("a").await, id);
    let next = PodSpec { attempt: 1, ..pod("a") };
    assert_ne!(house.engine.run_pod(next).await.expect("another one").to_string(), id);
    house.engine.remove_pod(&id).await.expect("removed");
    assert_ne!(house.pod("a").await, id);
}

#[tokio::test]
async fn an_identical_retry_gets_the_same_container_as_long_as_it_lives() {
    let house = House::new().await;
    let pod_id = house.pod("a").await;
    let create = |house: &House, spec| {
        let (engine, pod_id) = (house.engine.clone(), pod_id.clone());
        async move { engine.create_container(&pod_id, spec).await }
    };
    let id = create(&house, container("c", "forever")).await.expect("created");
    assert_eq!(create(&house, container("c", "forever")).await.expect("the same"), id);
    let house = house.restart(|_| ()).await;
    assert_eq!(create(&house, container("c", "forever")).await.expect("the same"), id);
    let taken = create(&house, container("c", "exit 1")).await.expect_err("another configuration");
    assert!(matches!(taken, EngineError::AlreadyExists { what: "container", .. }), "{taken:?}");
    let other = house.pod("b").await;
    let there = house.engine.create_container(&other, container("c", "forever")).await;
    assert_ne!(there.expect("another pod"), id);
    house.engine.remove_container(id.as_str()).await.expect("removed");
    assert_ne!(create(&house, container("c", "exit 1")).await.expect("the name is free"), id);
}

#[tokio::test]
async fn another_configuration_under_the_same_name_is_refused() {
    let house = House::new().await;
    let id = house.pod("a").await;
    let other = PodSpec { hostname: "else".to_owned(), ..pod("a") };
    match house.engine.run_pod(other).await {
        Err(EngineError::AlreadyExists { what: "pod sandbox", id: has, .. }) => assert_eq!(has, id),
        wrong => panic!("{wrong:?}"),
    }
}

/// An engine that stops at one point until it is let go.
async fn held_at(point: &'static str) -> (House, Arc<Semaphore>) {
    let reached = Arc::new(Semaphore::new(0));
    let told = Arc::clone(&reached);
    let once = Mutex::new(true);
    let hook = move |passed: &'static str| {
        let first = passed == point && std::mem::take(&mut *once.lock().expect("not poisoned"));
        if first {
            told.add_permits(1);
            return Go::Never;
        }
        on(passed)
    };
    let (dir, host) = (Dir::new(), FakeHost::new());
    let engine = Engine::start(parts(dir.store(), &host, Probe::new(hook))).await.expect("starts");
    (House { engine, host, dir }, reached)
}

#[tokio::test]
async fn retries_that_come_together_make_one_pod_and_all_get_it() {
    let house = House::new().await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let engine = house.engine.clone();
            tokio::spawn(async move { engine.run_pod(pod("a")).await.expect("runs") })
        })
        .collect();
    let mut ids = Vec::new();
    for call in calls {
        ids.push(call.await.expect("no panic"));
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(house.engine.pods(&Default::default()).len(), 1);
    assert_eq!(house.host.done().iter().filter(|verb| **verb == "start_shim").count(), 1);
}

#[tokio::test]
async fn retries_that_come_together_share_one_failure_and_leave_nothing() {
    let house = House::new().await;
    house.host.stick("attach");
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let engine = house.engine.clone();
            tokio::spawn(async move { engine.run_pod(pod("a")).await.map(|_| ()) })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect_err("no network");
    }
    house.assert_empty("after the failures");
}

#[tokio::test]
async fn the_work_goes_on_when_the_caller_leaves() {
    let house = House::new().await;
    let engine = house.engine.clone();
    let caller = tokio::spawn(async move { engine.run_pod(pod("a")).await.map(|_| ()) });
    // The call has begun when its pod is planned; then its caller is taken away.
    while house.host.done().is_empty() {
        tokio::task::yield_now().await;
    }
    caller.abort();
    let pods = loop {
        let pods = house.engine.pods(&Default::default());
        if !pods.is_empty() {
            break pods;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(house.pod("a").await, pods[0].plan.id.to_string());
}

#[tokio::test]
async fn a_pod_that_is_stuck_keeps_no_reader_and_no_other_pod_waiting() {
    let (house, reached) = held_at("pod.attach").await;
    let engine = house.engine.clone();
    let stuck = tokio::spawn(async move { engine.run_pod(pod("stuck")).await.map(|_| ()) });
    reached.acquire().await.expect("open").forget();
    let id = house.pod("b").await;
    house.running(&id, "c", "forever").await;
    assert_eq!(house.engine.pods(&Default::default()).len(), 1);
    house.engine.remove_pod(&id).await.expect("removed");
    stuck.abort();
}
