//! What subscribers are told.

use super::*;
use crate::{EventKind, EventsEnded, Subscription, fake::FakeHost};
use types::{ContainerId, PodId};

fn container_id(text: &str) -> ContainerId {
    ContainerId::parse(text).expect("an id")
}

/// Kind and id of the next events.
async fn told(events: &mut Subscription, many: usize) -> Vec<(EventKind, String)> {
    let mut all = Vec::new();
    for _ in 0..many {
        let event = events.next().await.expect("an event");
        assert_eq!(event.pod.plan.spec.uid, "uid-a");
        all.push((event.kind, event.id.clone()));
    }
    all
}

#[tokio::test]
async fn a_whole_life_is_told_in_order_for_the_sandbox_too() {
    use EventKind::{Created, Deleted, Started, Stopped};
    let house = House::new().await;
    let mut events = house.engine.events();
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let broken = house.engine.create_container(&pod, container("b", "missing")).await.expect("created");
    assert!(house.engine.start_container(broken.as_str()).await.is_err());
    house.engine.stop_container(&app, std::time::Duration::ZERO).await.expect("stops");
    house.engine.remove_container(&app).await.expect("removed");
    house.engine.stop_pod(&pod).await.expect("stops");
    house.engine.remove_pod(&pod).await.expect("removed");
    let want = [
        (Created, &pod),
        (Started, &pod),
        (Created, &app),
        (Started, &app),
        (Created, &broken.to_string()),
        (Stopped, &broken.to_string()),
        (Stopped, &app),
        (Deleted, &app),
        (Stopped, &pod),
        (Deleted, &broken.to_string()),
        (Deleted, &pod),
    ];
    let want: Vec<_> = want.map(|(kind, id)| (kind, id.clone())).into();
    assert_eq!(told(&mut events, want.len()).await, want);
}

#[tokio::test]
async fn an_event_shows_pod_and_containers_just_after_it() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let other = house.running(&pod, "other", "forever").await;
    let mut events = house.engine.events();
    told(&mut events, 6).await;
    house.host.exit(&container_id(&app), 7, false);
    let event = events.next().await.expect("an event");
    assert_eq!((event.kind, &event.id), (EventKind::Stopped, &app));
    assert!(event.at > Timestamp::NEVER);
    assert_eq!(event.pod.ips().len(), 1);
    let mut states: Vec<_> = event
        .containers
        .iter()
        .map(|c| (c.plan.id.to_string(), c.state(), c.ended().map(|e| e.code)))
        .collect();
    let mut want =
        vec![(app.clone(), ContainerState::Exited, Some(7)), (other.clone(), ContainerState::Running, None)];
    states.sort_by(|a, b| a.0.cmp(&b.0));
    want.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(states, want);
    house.engine.remove_container(&app).await.expect("removed");
    let event = events.next().await.expect("an event");
    assert_eq!((event.kind, event.containers.len()), (EventKind::Deleted, 1));
}

#[tokio::test]
async fn an_end_while_the_daemon_was_away_is_told_to_who_comes_later() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let house = house.restart(|host| host.exit(&container_id(&app), 3, false)).await;
    let mut events = house.engine.events();
    assert_eq!(told(&mut events, 1).await, [(EventKind::Stopped, app.clone())]);
    house.engine.remove_container(&app).await.expect("removed");
    assert_eq!(told(&mut events, 1).await, [(EventKind::Deleted, app)], "and once only");
}

#[tokio::test]
async fn an_end_that_was_recorded_and_perhaps_not_told_is_told_again() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    house.host.exit(&container_id(&app), 3, false);
    house.until(&app, ContainerState::Exited).await;
    let house = house.restart(|_| ()).await;
    assert_eq!(told(&mut house.engine.events(), 1).await, [(EventKind::Stopped, app)]);
}

#[tokio::test]
async fn a_lost_shim_ends_its_containers_and_its_pod() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let mut events = house.engine.events();
    told(&mut events, 4).await;
    house.host.kill_shim(&PodId::parse(&pod).expect("an id"));
    let want = [(EventKind::Stopped, app), (EventKind::Stopped, pod)];
    assert_eq!(told(&mut events, 2).await, want);
}

#[tokio::test]
async fn after_a_reboot_every_end_is_told() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "forever").await;
    let house = house.restart(FakeHost::reboot).await;
    let want = [(EventKind::Stopped, app), (EventKind::Stopped, pod)];
    assert_eq!(told(&mut house.engine.events(), 2).await, want);
}

#[tokio::test]
async fn a_container_in_doubt_is_told_when_it_has_ended() {
    let house = House::new().await;
    let pod = house.pod("a").await;
    let app = house.running(&pod, "app", "stubborn").await;
    let mut events = house.engine.events();
    told(&mut events, 4).await;
    house.host.stick("signal");
    house.host.stick("kill_group");
    assert!(house.engine.stop_container(&app, std::time::Duration::ZERO).await.is_err());
    house.until(&app, ContainerState::Unknown).await;
    house.host.release();
    house.engine.stop_container(&app, std::time::Duration::ZERO).await.expect("stops");
    assert_eq!(told(&mut events, 1).await, [(EventKind::Stopped, app)]);
}

#[tokio::test]
async fn the_daemons_end_ends_the_stream() {
    let house = House::new().await;
    let mut events = house.engine.events();
    house.engine.end_events();
    assert_eq!(events.next().await.map(|_| ()), Err(EventsEnded::Stopping));
}
