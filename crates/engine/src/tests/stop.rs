//! Grace periods, in a time that goes on only when a test says so.

use super::*;
use crate::EngineError;
use std::time::Duration;
use tokio::{sync::oneshot, task::JoinHandle, time::advance};
use types::PodId;

/// Keeps the paused clock from jumping ahead while the store's thread works: tokio holds it as long
/// as a blocking task runs.
struct Still(Option<oneshot::Sender<()>>);

impl Still {
    fn new() -> Self {
        let (release, held) = oneshot::channel::<()>();
        tokio::task::spawn_blocking(move || drop(held.blocking_recv()));
        Still(Some(release))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

fn stop(house: &House, id: &str, grace: u64) -> JoinHandle<Result<(), EngineError>> {
    let (engine, id) = (house.engine.clone(), id.to_owned());
    tokio::spawn(async move { engine.stop_container(&id, Duration::from_secs(grace)).await })
}

/// Until the verb was done that often.
async fn until_done(house: &House, verb: &str, times: usize) {
    while house.host.done().iter().filter(|done| **done == verb).count() < times {
        tokio::task::yield_now().await;
    }
}

/// The container's task has taken all that came before.
async fn settled(house: &House, id: &str) {
    let _ = house.engine.start_container(id).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_on_its_signal_is_stopped_without_waiting() {
    let _still = Still::new();
    let house = House::new().await;
    let pod = house.pod("a").await;
    let id = house.running(&pod, "c", "forever").await;
    stop(&house, &id, 3600).await.expect("no panic").expect("stops");
    assert_eq!(house.view(&id).ended().map(|ended| ended.code), Some(143));
}

#[tokio::test(start_paused = true)]
async fn a_stubborn_container_is_killed_when_its_grace_is_over_and_not_before() {
    let _still = Still::new();
    let house = House::new().await;
    let pod = house.pod("a").await;
    let id = house.running(&pod, "c", "stubborn").await;
    let stopping = stop(&house, &id, 10);
    until_done(&house, "signal", 1).await;
    advance(Duration::from_millis(9_900)).await;
    settled(&house, &id).await;
    assert_eq!(house.view(&id).state(), ContainerState::Running);
    advance(Duration::from_millis(200)).await;
    stopping.await.expect("no panic").expect("stops");
    assert_eq!(house.view(&id).ended().map(|ended| ended.code), Some(137));
}

#[tokio::test(start_paused = true)]
async fn a_grace_blocks_no_other_call() {
    let _still = Still::new();
    let house = House::new().await;
    let pod = house.pod("a").await;
    let id = house.running(&pod, "c", "stubborn").await;
    let stopping = stop(&house, &id, 1000);
    until_done(&house, "signal", 1).await;
    // Neither for other containers of the pod nor for itself.
    let other = house.running(&pod, "d", "forever").await;
    house.engine.stop_container(&other, Duration::from_secs(1000)).await.expect("stops");
    house.engine.reopen_log(&id).await.expect("reopened");
    house.engine.exec_sync(&id, vec!["echo".to_owned()], None).await.expect("runs");
    assert!(!stopping.is_finished());
    house.engine.remove_container(&id).await.expect("removed");
    stopping.await.expect("no panic").expect("a removed container is stopped");
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_can_shorten_the_grace_and_not_lengthen_it() {
    let _still = Still::new();
    let house = House::new().await;
    let pod = house.pod("a").await;
    for (second, first_bound) in [(5_u64, 5_u64), (100, 50)] {
        let id = house.running(&pod, &format!("c{second}"), "stubborn").await;
        let signals = house.host.done().iter().filter(|verb| **verb == "signal").count();
        let first = stop(&house, &id, 50);
        until_done(&house, "signal", signals + 1).await;
        let again = stop(&house, &id, second);
        tokio::task::yield_now().await;
        settled(&house, &id).await;
        advance(Duration::from_secs(first_bound) - Duration::from_millis(1)).await;
        settled(&house, &id).await;
        assert_eq!(house.view(&id).state(), ContainerState::Running, "{second}");
        advance(Duration::from_millis(2)).await;
        first.await.expect("no panic").expect("stops");
        again.await.expect("no panic").expect("stops");
    }
    let id = house.running(&pod, "now", "stubborn").await;
    let first = stop(&house, &id, 50);
    stop(&house, &id, 0).await.expect("no panic").expect("is killed at once");
    first.await.expect("no panic").expect("stops");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_shim_keeps_no_stop_waiting() {
    let _still = Still::new();
    let house = House::new().await;
    let pod = house.pod("a").await;
    let id = house.running(&pod, "c", "forever").await;
    house.host.freeze_shim(&PodId::parse(&pod).expect("an id"));
    let stopping = stop(&house, &id, 30);
    // The signal fails at once on this machine; then the group is killed, and the shim gets a second.
    until_done(&house, "kill_group", 1).await;
    settled(&house, &id).await;
    advance(Duration::from_secs(2)).await;
    stopping.await.expect("no panic").expect("stops");
    let view = house.view(&id);
    let ended = view.ended().expect("ended");
    assert_eq!((ended.code, ended.reason.name()), (137, "Unknown"));
    house.engine.remove_pod(&pod).await.expect("removed");
    house.assert_empty("after a frozen shim");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_killed_is_told_so_and_harms_no_other() {
    let _still = Still::new();
    let house = House::new().await;
    let pod = house.pod("a").await;
    let id = house.running(&pod, "c", "forever").await;
    let other = house.running(&pod, "d", "forever").await;
    house.host.stick("signal");
    house.host.stick("kill_group");
    let stopping = stop(&house, &id, 30);
    let error = stopping.await.expect("no panic").expect_err("it lives");
    assert!(matches!(error, EngineError::Internal { .. }), "{error:?}");
    assert_eq!(house.view(&id).state(), ContainerState::Unknown);
    assert_eq!(house.view(&other).state(), ContainerState::Running);
    house.engine.stop_pod(&pod).await.expect_err("it still lives");
    house.host.release();
    house.engine.stop_pod(&pod).await.expect("stops");
    assert_eq!(house.view(&id).state(), ContainerState::Exited);
    house.engine.remove_pod(&pod).await.expect("removed");
    house.assert_empty("at the end");
}

#[tokio::test(start_paused = true)]
async fn a_grace_of_ages_is_no_overflow() {
    let _still = Still::new();
    let house = House::new().await;
    let pod = house.pod("a").await;
    let id = house.running(&pod, "c", "stubborn").await;
    let stopping = stop(&house, &id, u64::MAX);
    until_done(&house, "signal", 1).await;
    house.engine.stop_container(&id, Duration::ZERO).await.expect("is killed");
    stopping.await.expect("no panic").expect("stops");
}
