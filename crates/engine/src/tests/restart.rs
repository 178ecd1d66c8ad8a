//! The daemon ends and starts again; the machine went on meanwhile.

use super::*;
use crate::{PodState, fake::FakeHost};
use types::{ContainerId, PodId};

fn container_id(text: &str) -> ContainerId {
    ContainerId::parse(text).expect("an id")
}

fn pod_id(text: &str) -> PodId {
    PodId::parse(text).expect("an id")
}

#[tokio::test]
async fn nothing_that_runs_notices_a_restart() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let created = house.engine.create_container(&pod, container("c", "forever")).await.expect("created");
    let (before, owned) = (house.view(&app), house.host.owned());
    let house = house.restart(|_| ()).await;
    assert_eq!(house.view(&app).phase, before.phase);
    assert_eq!(house.view(&app).plan, before.plan);
    assert_eq!(house.view(created.as_str()).state(), ContainerState::Created);
    assert_eq!(house.host.owned(), owned);
    let view = house.engine.pod(&pod).expect("is there");
    assert_eq!((view.state(), view.ips().len()), (PodState::Ready, 1));
    // And it is served as before.
    house.engine.start_container(created.as_str()).await.expect("starts");
    house.host.exit(&container_id(&app), 5, false);
    assert_eq!(house.until(&app, ContainerState::Exited).await.ended().map(|e| e.code), Some(5));
    house.engine.remove_pod(&pod).await.expect("removed");
    house.assert_empty("at the end");
}

#[tokio::test]
async fn an_exit_while_the_daemon_is_down_is_told_with_its_code_and_reason() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let oom = house.running(&pod, "oom", "forever").await;
    let created = house.engine.create_container(&pod, container("c", "forever")).await.expect("created");
    let house = house
        .restart(|host| {
            host.exit(&container_id(&app), 42, false);
            host.exit(&container_id(&oom), 137, true);
            host.exit(&created, 9, false);
        })
        .await;
    let told = |id: &str| {
        let view = house.view(id);
        let ended = view.ended().expect("ended").clone();
        (ended.code, ended.reason.name(), ended.started_at > Timestamp::NEVER)
    };
    assert_eq!(told(&app), (42, "Error", true));
    assert_eq!(told(&oom), (137, "OOMKilled", true));
    assert_eq!(told(created.as_str()), (9, "Error", false));
}

#[tokio::test]
async fn a_shim_that_died_meanwhile_left_what_it_recorded() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let done = house.running(&pod, "done", "forever").await;
    let house = house
        .restart(|host| {
            host.exit(&container_id(&done), 6, false);
            host.kill_shim(&pod_id(&pod));
        })
        .await;
    assert_eq!(house.view(&done).ended().map(|ended| ended.code), Some(6));
    let view = house.view(&app);
    let ended = view.ended().expect("ended");
    assert_eq!((ended.code, ended.reason.name()), (137, "Unknown"));
    assert_eq!(house.engine.pod(&pod).expect("kept").state(), PodState::NotReady);
    assert!(!house.host.owned().contains(&format!("process {}", &app[..12])), "its process lives on");
    house.engine.remove_pod(&pod).await.expect("removed");
    house.assert_empty("at the end");
}

#[tokio::test]
async fn after_a_reboot_all_is_shown_as_ended_and_can_be_removed() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let house = house.restart(FakeHost::reboot).await;
    assert_eq!(house.engine.pod(&pod).expect("kept").state(), PodState::NotReady);
    assert_eq!(house.view(&app).state(), ContainerState::Exited);
    house.engine.remove_pod(&pod).await.expect("removed");
    house.assert_empty("at the end");
}

#[tokio::test]
async fn a_shim_that_does_not_answer_hides_nothing_and_is_asked_again() {
    let house = House::new().await;
    let (frozen, well) = (house.pod("a").await, house.pod("b").await);
    let app = house.running(&frozen, "app", "forever").await;
    let house = house.restart(|host| host.freeze_shim(&pod_id(&frozen))).await;
    assert_eq!(house.engine.pod(&frozen).expect("is there").state(), PodState::Ready);
    assert_eq!(house.view(&app).state(), ContainerState::Running);
    house.running(&well, "c", "forever").await;
    house.host.kill_shim(&pod_id(&frozen));
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    house.until(&app, ContainerState::Exited).await;
    tokio::time::resume();
    house.engine.remove_pod(&frozen).await.expect("removed");
    house.engine.remove_pod(&well).await.expect("removed");
    house.assert_empty("at the end");
}

#[tokio::test]
async fn a_stopped_pod_stays_stopped() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "exit 0").await;
    house.until(&app, ContainerState::Exited).await;
    house.engine.stop_pod(&pod).await.expect("stops");
    let house = house.restart(|_| ()).await;
    assert_eq!(house.engine.pod(&pod).expect("kept").state(), PodState::NotReady);
    let view = house.view(&app);
    assert_eq!(view.ended().map(|ended| (ended.code, ended.reason.name())), Some((0, "Completed")));
}
