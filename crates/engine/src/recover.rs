//! After a start: every record becomes a task again, and every task brings its object to a state that
//! is true. It runs before the first call is served, within a bound: what takes longer (a shim that
//! does not answer) goes on beside the calls.

use crate::{
    core::Core,
    error::EngineError,
    host::Host,
    index::born,
    pod,
    record::{self, FoundContainer},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use store::Table;
use tokio::time::timeout;
use types::PodId;

/// How long the first call may have to wait: this, and [`PER_POD`] for each pod.
const BOUND: Duration = Duration::from_secs(2);
const PER_POD: Duration = Duration::from_millis(5);

type Containers = BTreeMap<PodId, Vec<FoundContainer>>;

/// # Errors
/// If the store cannot be read. A record that cannot be understood is left alone and told in the
/// log: one bad record does not keep the others from being served.
pub(crate) async fn recover<H: Host>(core: &Arc<Core<H>>) -> Result<(), EngineError> {
    let mut containers = containers(core)?;
    let mut pods = Vec::new();
    for (key, bytes) in scan(core, Table::PODS)? {
        match record::pod(&bytes) {
            Ok(found) => {
                let own = containers.remove(&found.0.id).unwrap_or_default();
                match pod::found(core, found, own) {
                    Some(handle) => pods.push(handle),
                    None => tracing::error!(pod = key, "two records have one name: this one is left alone"),
                }
            }
            Err(error) => {
                tracing::error!(pod = key, %error, "a record cannot be understood: it is left alone")
            }
        }
    }
    for orphan in containers.values().flatten() {
        tracing::error!(container = %orphan.0.id, pod = %orphan.0.pod, "a container without a pod's record");
    }
    let bound = BOUND + PER_POD * u32::try_from(pods.len()).unwrap_or(u32::MAX);
    let settled = async {
        for pod in pods {
            // Its failure is its own: it is told to who asks for it.
            let _ = born(pod.born, "pod sandbox").await;
        }
    };
    if timeout(bound, settled).await.is_err() {
        tracing::warn!("some pods are not settled yet: serving the others");
    }
    Ok(())
}

fn containers<H: Host>(core: &Core<H>) -> Result<Containers, EngineError> {
    let mut all = Containers::new();
    for (key, bytes) in scan(core, Table::CONTAINERS)? {
        match record::container(&bytes) {
            Ok(found) => all.entry(found.0.pod.clone()).or_default().push(found),
            Err(error) => {
                tracing::error!(container = key, %error, "a record cannot be understood: it is left alone");
            }
        }
    }
    Ok(all)
}

fn scan<H: Host>(core: &Core<H>, table: Table) -> Result<Vec<(String, Vec<u8>)>, EngineError> {
    core.store().scan(table).map_err(|error| EngineError::internal("cannot read the records", error))
}
