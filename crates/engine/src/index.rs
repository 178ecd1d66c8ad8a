//! Which pods and containers there are: names, handles of the tasks that own them, and the
//! snapshots that readers get. One lock, held for look-ups and replacements only.

use crate::{
    container,
    error::EngineError,
    names::{ContainerName, Fingerprint, PodName},
    pod::{self, plan::PodPlan},
    view::{ContainerFilter, ContainerView, PodFilter, PodView},
};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::{mpsc, watch};
use types::{ContainerId, PodId};

/// `None` until it is decided whether the object lives.
pub(crate) type Born = watch::Receiver<Option<Result<(), EngineError>>>;

/// Waits until an object lives, for all who asked for it.
pub(crate) async fn born(mut born: Born, what: &'static str) -> Result<(), EngineError> {
    match born.wait_for(Option::is_some).await {
        Ok(decided) => decided.clone().unwrap_or_else(|| Err(EngineError::task_died(what))),
        Err(_) => Err(EngineError::task_died(what)),
    }
}

/// The way to a pod's task.
#[derive(Clone, Debug)]
pub(crate) struct PodHandle {
    pub(crate) id: PodId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) task: mpsc::Sender<pod::task::Ask>,
    pub(crate) born: Born,
}

/// The way to a container's task.
#[derive(Clone, Debug)]
pub(crate) struct ContainerHandle {
    pub(crate) id: ContainerId,
    pub(crate) name: ContainerName,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) task: mpsc::Sender<container::task::Ask>,
    pub(crate) born: Born,
}

/// What a pod's task and those of its containers share.
#[derive(Debug)]
pub(crate) struct PodShared {
    pub(crate) plan: Arc<PodPlan>,
    children: Mutex<BTreeMap<ContainerId, ContainerHandle>>,
}

impl PodShared {
    pub(crate) fn new(plan: Arc<PodPlan>) -> Self {
        PodShared { plan, children: Mutex::default() }
    }

    pub(crate) fn child(&self, id: &ContainerId) -> Option<ContainerHandle> {
        self.lock().get(id).cloned()
    }

    pub(crate) fn children(&self) -> Vec<ContainerHandle> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn named(&self, name: &ContainerName) -> Option<ContainerHandle> {
        self.lock().values().find(|child| child.name == *name).cloned()
    }

    pub(crate) fn add(&self, child: ContainerHandle) {
        self.lock().insert(child.id.clone(), child);
    }

    pub(crate) fn remove(&self, id: &ContainerId) {
        self.lock().remove(id);
    }

    pub(crate) fn replace_task(&self, id: &ContainerId, task: &mpsc::Sender<container::task::Ask>) {
        if let Some(child) = self.lock().get_mut(id) {
            child.task = task.clone();
        }
    }

    /// Lets go of the containers' tasks: each ends when it has done what it was asked.
    pub(crate) fn let_go(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, ContainerHandle>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a name led to.
#[derive(Debug)]
pub(crate) enum Claim<T> {
    /// Nobody had it: the task was made.
    New(T),
    /// An identical request had it.
    Same(T),
}

/// Why a text leads to no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSuch {
    /// No id begins so.
    Unknown,
    /// Several do.
    Ambiguous,
}

#[derive(Debug, Default)]
pub(crate) struct Index(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<String, PodEntry>,
    names: HashMap<PodName, PodId>,
    containers: BTreeMap<String, ContainerEntry>,
}

#[derive(Debug)]
struct PodEntry {
    handle: PodHandle,
    name: PodName,
    view: Option<Arc<PodView>>,
}

#[derive(Debug)]
struct ContainerEntry {
    handle: ContainerHandle,
    view: Option<Arc<ContainerView>>,
}

impl Index {
    /// Takes the name, or finds who has it. `make` starts the task; it must not block.
    ///
    /// # Errors
    /// `AlreadyExists` for another configuration, `ResourceExhausted` beyond `most` pods.
    pub(crate) fn claim_pod(
        &self,
        name: PodName,
        fingerprint: Fingerprint,
        most: usize,
        random: impl Fn() -> [u8; 32],
        make: impl FnOnce(PodId) -> PodHandle,
    ) -> Result<Claim<PodHandle>, EngineError> {
        let mut inner = self.write();
        if let Some(entry) = inner.names.get(&name).and_then(|id| inner.pods.get(id.as_str())) {
            return match entry.handle.fingerprint == fingerprint {
                true => Ok(Claim::Same(entry.handle.clone())),
                false => Err(EngineError::AlreadyExists {
                    what: "pod sandbox",
                    name: name.to_string(),
                    id: entry.handle.id.to_string(),
                }),
            };
        }
        if inner.pods.len() >= most {
            return Err(EngineError::exhausted(format!("there are {most} pod sandboxes, the most allowed")));
        }
        let id = unused_pod(&inner.pods, random);
        let handle = make(id);
        inner.add_pod(handle.clone(), name);
        Ok(Claim::New(handle))
    }

    /// Adds a pod that was found in the store. `false`: its id or name is taken.
    pub(crate) fn add_pod(&self, handle: PodHandle, name: PodName) -> bool {
        let mut inner = self.write();
        let free = !inner.pods.contains_key(handle.id.as_str()) && !inner.names.contains_key(&name);
        if free {
            inner.add_pod(handle, name);
        }
        free
    }

    /// Draws an id for a container and adds the handle that `make` gives it.
    pub(crate) fn add_container(
        &self,
        random: impl Fn() -> [u8; 32],
        make: impl FnOnce(ContainerId) -> ContainerHandle,
    ) -> ContainerHandle {
        let mut inner = self.write();
        let handle = make(ContainerId::from_random(unused(&inner.containers, random)));
        inner.add_container(handle.clone());
        handle
    }

    /// Adds a container that was found in the store.
    pub(crate) fn add_found(&self, handle: ContainerHandle) {
        self.write().add_container(handle);
    }

    pub(crate) fn remove_pod(&self, id: &PodId) {
        let mut inner = self.write();
        if let Some(entry) = inner.pods.remove(id.as_str()) {
            inner.names.remove(&entry.name);
        }
    }

    pub(crate) fn remove_container(&self, id: &ContainerId) {
        self.write().containers.remove(id.as_str());
    }

    /// Another task owns the pod now. `false`: it is gone.
    pub(crate) fn replace_pod_task(&self, id: &PodId, task: &mpsc::Sender<pod::task::Ask>) -> bool {
        let mut inner = self.write();
        let entry = inner.pods.get_mut(id.as_str());
        entry.map(|entry| entry.handle.task = task.clone()).is_some()
    }

    /// Another task owns the container now. `false`: it is gone.
    pub(crate) fn replace_container_task(
        &self,
        id: &ContainerId,
        task: &mpsc::Sender<container::task::Ask>,
    ) -> bool {
        let mut inner = self.write();
        let entry = inner.containers.get_mut(id.as_str());
        entry.map(|entry| entry.handle.task = task.clone()).is_some()
    }

    pub(crate) fn show_pod(&self, view: PodView) {
        if let Some(entry) = self.write().pods.get_mut(view.plan.id.as_str()) {
            entry.view = Some(Arc::new(view));
        }
    }

    pub(crate) fn show_container(&self, view: ContainerView) {
        if let Some(entry) = self.write().containers.get_mut(view.plan.id.as_str()) {
            entry.view = Some(Arc::new(view));
        }
    }

    /// The pod of that id, or of the only id that begins so.
    pub(crate) fn pod(&self, text: &str) -> Result<(PodHandle, Option<Arc<PodView>>), NoSuch> {
        let inner = self.read();
        let entry = only(&inner.pods, text)?;
        Ok((entry.handle.clone(), entry.view.clone()))
    }

    /// The container of that id, or of the only id that begins so.
    pub(crate) fn container(
        &self,
        text: &str,
    ) -> Result<(ContainerHandle, Option<Arc<ContainerView>>), NoSuch> {
        let inner = self.read();
        let entry = only(&inner.containers, text)?;
        Ok((entry.handle.clone(), entry.view.clone()))
    }

    /// A pod with all its containers, by id.
    pub(crate) fn pod_as_shown(&self, id: &PodId) -> Option<(Arc<PodView>, Vec<Arc<ContainerView>>)> {
        let inner = self.read();
        let pod = inner.pods.get(id.as_str())?.view.clone()?;
        let shown = inner.containers.values().filter_map(|entry| entry.view.as_ref());
        Some((pod, shown.filter(|view| view.plan.pod == *id).cloned().collect()))
    }

    pub(crate) fn pods(&self, filter: &PodFilter) -> Vec<Arc<PodView>> {
        let inner = self.read();
        let shown = starting(&inner.pods, filter.id.as_deref().unwrap_or("")).filter_map(|e| e.view.as_ref());
        shown.filter(|view| filter.takes(view)).cloned().collect()
    }

    pub(crate) fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerView>> {
        let inner = self.read();
        let all = starting(&inner.containers, filter.id.as_deref().unwrap_or(""));
        all.filter_map(|e| e.view.as_ref()).filter(|view| filter.takes(view)).cloned().collect()
    }

    /// Lets go of all tasks: each ends when it has done what it was asked.
    pub(crate) fn clear(&self) {
        *self.write() = Inner::default();
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add_pod(&mut self, handle: PodHandle, name: PodName) {
        let id = handle.id.clone();
        self.names.insert(name.clone(), id.clone());
        self.pods.insert(id.to_string(), PodEntry { handle, name, view: None });
    }

    fn add_container(&mut self, handle: ContainerHandle) {
        self.containers.insert(handle.id.to_string(), ContainerEntry { handle, view: None });
    }
}

/// Bytes whose short form nobody has: files are named by it.
fn unused<T>(entries: &BTreeMap<String, T>, random: impl Fn() -> [u8; 32]) -> [u8; 32] {
    loop {
        let bytes = random();
        let id = PodId::from_random(bytes);
        if starting(entries, id.short()).next().is_none() {
            return bytes;
        }
    }
}

/// An id with SELinux categories that no other pod has: no pod reaches another's files.
fn unused_pod(pods: &BTreeMap<String, PodEntry>, random: impl Fn() -> [u8; 32]) -> PodId {
    loop {
        let id = PodId::from_random(unused(pods, &random));
        if pods.values().all(|pod| pod.handle.id.categories() != id.categories()) {
            return id;
        }
    }
}

fn starting<'a, T>(entries: &'a BTreeMap<String, T>, start: &'a str) -> impl Iterator<Item = &'a T> {
    let from = (Bound::Included(start), Bound::Unbounded);
    entries.range::<str, _>(from).take_while(move |(id, _)| id.starts_with(start)).map(|(_, entry)| entry)
}

fn only<'a, T>(entries: &'a BTreeMap<String, T>, text: &'a str) -> Result<&'a T, NoSuch> {
    let mut found = starting(entries, text);
    match (text.is_empty(), found.next(), found.next()) {
        (true, _, _) | (false, None, _) => Err(NoSuch::Unknown),
        (false, Some(entry), None) => Ok(entry),
        (false, Some(_), Some(_)) => Err(NoSuch::Ambiguous),
    }
}
