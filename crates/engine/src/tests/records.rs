//! What is on disk stays readable.

use super::*;
use crate::{
    container::{self, plan as container_plan},
    host::{ImageFacts, Limits, ShimUp},
    pod::{Phase, PodSize, PodUp, plan as pod_plan},
    record,
};
use store::Table;
use types::{ContainerId, PodId, container::Resources};

const POD_V1: &str = include_str!("testdata/pod-v1.json");
const CONTAINER_V1: &str = include_str!("testdata/container-v1.json");

fn pod_record() -> (pod_plan::PodPlan, Phase) {
    let facts = pod_plan::Facts { conflist: Some("{}".to_owned()), missing_groups: vec!["/g".to_owned()] };
    let id = PodId::from_random([0xab; 32]);
    let plan = pod_plan::plan(&config(), id, pod("a"), facts, Timestamp(5)).expect("a plan");
    let shim = ShimUp { pid: 7, pause_pid: None };
    (plan, Phase::Ready(PodUp { ips: vec![[10, 0, 0, 2].into()], shim }))
}

fn container_record() -> (container_plan::ContainerPlan, container::Phase) {
    let id = ContainerId::from_random([0xcd; 32]);
    let image =
        ImageFacts { id: "sha256:1".to_owned(), layers: vec!["/l/1".into()], ..ImageFacts::default() };
    let plan =
        container_plan::plan(&pod_record().0, id, super::container("c", "forever"), image, Timestamp(6));
    (plan.expect("a plan"), container::Phase::Running { pid: 9, started_at: Timestamp(8) })
}

#[test]
fn records_of_the_first_version_are_read() {
    let (plan, phase) = pod_record();
    assert_eq!(record::pod(POD_V1.trim().as_bytes()).expect("readable"), (plan, phase, None));
    let (plan, phase) = container_record();
    assert_eq!(record::container(CONTAINER_V1.trim().as_bytes()).expect("readable"), (plan, phase, None));
}

#[test]
fn records_are_written_so_that_they_are_read_again() {
    let (plan, phase) = pod_record();
    let size =
        PodSize { overhead: None, resources: Some(Resources { oom_score_adj: 3, ..Default::default() }) };
    let written = record::put_pod(&plan, &phase, Some(&size));
    assert_eq!(record::pod(&written.value.expect("bytes")).expect("readable"), (plan, phase, Some(size)));
    let (mut plan, phase) = container_record();
    plan.updated = Some(Resources { cpu_shares: Some(2), ..Default::default() });
    let undo =
        Limits { files: vec![("cpu".into(), "cpu.shares".into(), "1024".into())], oom_score_adj: Some(-7) };
    let written = record::put_container(&plan, &phase, Some(&undo));
    let read = record::container(&written.value.expect("bytes")).expect("readable");
    assert_eq!(read, (plan, phase, Some(undo)));
}

#[tokio::test]
async fn a_record_that_cannot_be_understood_is_left_alone_and_harms_no_other() {
    let house = House::new().await;
    let id = house.pod("a").await;
    let app = house.running(&id, "app", "forever").await;
    let House { engine, host, dir } = house;
    engine.shutdown().await;
    drop(engine);
    let store = loop {
        match Store::open(&dir.0.join("meta.redb")) {
            Err(store::OpenError::InUse { .. }) => tokio::task::yield_now().await,
            other => break other.expect("the store opens"),
        }
    };
    for bad in ["", "{}", "{\"9\":{}}", "null", "\u{0}"] {
        let change = |table| store::Change::put(table, format!("bad {bad}"), bad.as_bytes().to_vec());
        store.commit(vec![change(Table::PODS), change(Table::CONTAINERS)]).await.expect("commits");
    }
    drop(store);
    let house = House::on(dir, host).await;
    assert_eq!(house.view(&app).state(), ContainerState::Running);
    assert_eq!(house.engine.pods(&Default::default()).len(), 1);
    assert_eq!(house.engine.records(Table::PODS), 6);
    house.engine.remove_pod(&id).await.expect("removed");
    house.assert_empty("at the end");
}
