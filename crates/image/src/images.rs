//! The images of this host: the one place that changes their records.

use crate::{
    disk::LayersDir,
    error::ImageError,
    flight::Flights,
    image_config::ImageConfig,
    layer::Progress,
    points::Points,
    pull::PullKey,
    record::{self, ImageRecord},
    registry::Patience,
    state::State,
    unpack::Unpacker,
};
use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use store::Store;
use tokio::sync::{Semaphore, watch};
use types::{ContainerId, Digest, ImageRef, container::ImageDefaults, signal::Signal};

/// Children that unpack at the same time, of all pulls together.
const MAX_UNPACKING: usize = 16;

/// How to work.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The daemon's `--root`; layers go beneath `layers/` in it. It must exist.
    pub root: PathBuf,
    /// A tree of `<host>/hosts.toml`.
    pub hosts_dir: Option<PathBuf>,
    /// Starts the unpacking child.
    pub unpacker: Unpacker,
    /// Bounds of what registries can make us do.
    pub patience: Patience,
    /// For tests of crashes; else the default, which tells nobody.
    pub points: Points,
}

/// The images of this host. Clones are the same.
#[derive(Clone)]
pub struct Images(pub(crate) Arc<Shared>);

type PullOutcome = Result<Digest, Arc<ImageError>>;

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) setup: Setup,
    pub(crate) layers: Arc<LayersDir>,
    pub(crate) slots: Semaphore,
    pub(crate) layer_flights: Flights<Digest, Result<(), Arc<ImageError>>>,
    pub(crate) pull_flights: Flights<PullKey, PullOutcome, watch::Receiver<Progress>>,
    state: Mutex<State>,
    /// Held from deciding on a change of images until it is in memory.
    pub(crate) writing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Images")
    }
}

/// Who the image's USER says that it runs as; for the kubelet's runAsNonRoot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageUser {
    /// It says nothing: root.
    #[default]
    Unsaid,
    /// A number.
    Uid(u32),
    /// Anything else, as written: a name, or what is refused when a container is made.
    Name(String),
}

/// One image, as the CRI's `Image`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// `host/path:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// `host/path@digest`, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes, more than 0.
    pub size: u64,
    /// Of its USER.
    pub user: ImageUser,
}

/// What a container needs of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Digest of its configuration.
    pub id: Digest,
    /// A repository digest, else the id: CRI `ContainerStatus.image_ref`.
    pub image_ref: String,
    /// A tag, if it has one: CRI `ContainerStatus.image`.
    pub tag: Option<String>,
    /// What it says of the process.
    pub defaults: ImageDefaults,
    /// Directories for overlayfs, lowest first, each once.
    pub layers: Vec<PathBuf>,
    /// Diff IDs of the same, for [`Images::hold`].
    pub layer_ids: Vec<Digest>,
}

/// What the images take of the disk: CRI `ImageFsInfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsInfo {
    /// The directory of the layers.
    pub path: PathBuf,
    /// Bytes in whole blocks.
    pub used_bytes: u64,
    /// Files and directories.
    pub inodes_used: u64,
}

/// An image whose layers are all here.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

impl Images {
    /// Reads the records and compares them with the disk: a layer whose directory is gone, and every
    /// image that needs it, is forgotten; directories without a record are removed in the background.
    ///
    /// Layers that no image needs stay until [`Images::collect`], so that containers can
    /// [hold](Images::hold) theirs first.
    ///
    /// # Errors
    /// [`ImageError`] of the store or the disk.
    pub async fn open(store: Store, setup: Setup) -> Result<Self, ImageError> {
        let layers = Arc::new(LayersDir::open(&setup.root)?);
        let mut state = State::default();
        let mut forgotten = Vec::new();
        for (id, layer) in record::read_layers(&store)? {
            if layers.has(layer.number)? {
                state.put_layer(id, layer);
            } else {
                tracing::warn!(layer = %id, number = layer.number, "the directory of a layer is gone");
                forgotten.push(record::remove_layer(&id));
            }
        }
        for (id, image) in record::read_images(&store)? {
            if image.config.diff_ids.iter().all(|layer| state.layer(layer).is_some()) {
                state.put_image(&id, image);
            } else {
                tracing::warn!(image = %id, "an image misses a layer and has to be pulled again");
                forgotten.extend(record::remove_image(&id));
            }
        }
        if !forgotten.is_empty() {
            store.commit(forgotten).await?;
        }
        let recorded: HashSet<u64> = state.layers().map(|layer| layer.number).collect();
        let garbage = layers.garbage(&recorded)?;
        layers.sweep(garbage);
        Ok(Images(Arc::new(Shared {
            store,
            setup,
            layers,
            slots: Semaphore::new(MAX_UNPACKING),
            layer_flights: Flights::default(),
            pull_flights: Flights::default(),
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::new(()),
        })))
    }

    /// All images, or the one that `filter` names, or those of the repository that it names. Sorted by
    /// id.
    #[must_use]
    pub fn list(&self, filter: Option<&str>) -> Vec<Image> {
        let state = self.0.state();
        let Some(filter) = filter.filter(|text| !text.is_empty()) else {
            return state.images().map(|(id, record)| shown(id, record)).collect();
        };
        if let Ok(Some(id)) = state.find(filter) {
            return state.image(&id).map(|record| shown(&id, record)).into_iter().collect();
        }
        let Ok(wanted) = ImageRef::parse(filter) else { return Vec::new() };
        let named_alone =
            !filter.contains('@') && !filter.rsplit('/').next().is_some_and(|l| l.contains(':'));
        let of_repository = |name: &String| {
            ImageRef::parse(name).is_ok_and(|name| named_alone && name.repository() == wanted.repository())
        };
        state
            .images()
            .filter(|(_, record)| record.tags.iter().chain(&record.digests).any(of_repository))
            .map(|(id, record)| shown(id, record))
            .collect()
    }

    /// The image of an id, the start of an id, a tag or a repository digest.
    ///
    /// # Errors
    /// [`ImageError::Reference`] or [`ImageError::AmbiguousId`] when `text` cannot name one image.
    pub fn status(&self, text: &str) -> Result<Option<Image>, ImageError> {
        let state = self.0.state();
        let id = state.find(text)?;
        Ok(id.and_then(|id| state.image(&id).map(|record| shown(&id, record))))
    }

    /// The configuration of an image as the registry sent it, JSON.
    ///
    /// # Errors
    /// [`ImageError`] of the store.
    pub fn config(&self, id: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
        record::read_config(&self.0.store, id)
    }

    /// Removes the image that `text` names, with all its names. One that is not here is no error. Its
    /// layers go in the background, but for those that another image, a container or a pull needs.
    ///
    /// # Errors
    /// As [`Images::status`], and those of the store.
    pub async fn remove(&self, text: &str) -> Result<(), ImageError> {
        let (shared, text) = (Arc::clone(&self.0), text.to_owned());
        Shared::to_its_end("removal", async move {
            let _writing = shared.writing.lock().await;
            let changes = {
                let mut state = shared.state();
                let Some(id) = state.find(&text)? else { return Ok(()) };
                state.drop_image(&id);
                record::remove_image(&id).into()
            };
            shared.collect_with(changes).await
        })
        .await
    }

    /// Removes the layers that nobody needs. At a start, call it when the containers hold theirs.
    ///
    /// # Errors
    /// Of the store.
    pub async fn collect(&self) -> Result<(), ImageError> {
        let shared = Arc::clone(&self.0);
        Shared::to_its_end("collection", async move {
            let _writing = shared.writing.lock().await;
            shared.collect_with(Vec::new()).await
        })
        .await
    }

    /// What a container needs of the image that `text` names, with its layers held for `container`
    /// until [`Images::release`].
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::StopSignal`], or as [`Images::status`].
    pub fn resolve_and_hold(&self, text: &str, container: &ContainerId) -> Result<Resolved, ImageError> {
        let mut state = self.0.state();
        let resolved = self.resolve_in(&state, text)?;
        state.hold(container.clone(), resolved.layer_ids.clone());
        Ok(resolved)
    }

    /// What a container would need of the image that `text` names, now.
    ///
    /// # Errors
    /// As [`Images::resolve_and_hold`].
    pub fn resolve(&self, text: &str) -> Result<Resolved, ImageError> {
        self.resolve_in(&self.0.state(), text)
    }

    /// Keeps layers for a container; again after a restart, from the container's own record.
    pub fn hold(&self, container: &ContainerId, layer_ids: &[Digest]) {
        self.0.state().hold(container.clone(), layer_ids.to_vec());
    }

    /// Keeps the layers that a container's own record names by their directories: its image may have
    /// been removed since.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] names a directory that is no layer's.
    pub fn hold_directories(&self, container: &ContainerId, layers: &[PathBuf]) -> Result<(), ImageError> {
        let mut state = self.0.state();
        let id_of = |path: &PathBuf| {
            let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            number
                .and_then(|number| state.numbered(number))
                .ok_or_else(|| ImageError::NotFound(path.display().to_string()))
        };
        let ids = layers.iter().map(id_of).collect::<Result<Vec<_>, _>>()?;
        state.hold(container.clone(), ids);
        Ok(())
    }

    /// The container is gone. Its layers go at the next collection, if nobody else needs them.
    pub fn release(&self, container: &ContainerId) {
        self.0.state().release(container);
    }

    /// What the layers take of the disk.
    #[must_use]
    pub fn fs_info(&self) -> FsInfo {
        let state = self.0.state();
        FsInfo {
            path: self.0.layers.root().to_owned(),
            used_bytes: state.layers().map(|layer| layer.disk).sum(),
            inodes_used: state.layers().map(|layer| layer.inodes).sum(),
        }
    }

    /// Waits until no layer is being unpacked or removed.
    pub async fn settled(&self) {
        self.0.layers.settled().await;
    }

    fn resolve_in(&self, state: &State, text: &str) -> Result<Resolved, ImageError> {
        let not_found = || ImageError::NotFound(text.chars().take(200).collect());
        let id = state.find(text)?.ok_or_else(not_found)?;
        let record = state.image(&id).ok_or_else(not_found)?;
        let mut layer_ids: Vec<Digest> = Vec::new();
        // From the top: overlayfs refuses a directory twice, and what comes again below adds nothing.
        for layer in record.config.diff_ids.iter().rev() {
            if !layer_ids.contains(layer) {
                layer_ids.push(layer.clone());
            }
            if state.layer(layer).is_some_and(|layer| layer.opaque_root) {
                break;
            }
        }
        layer_ids.reverse();
        let layers =
            layer_ids.iter().filter_map(|id| state.layer(id)).map(|l| self.0.layers.path(l.number)).collect();
        Ok(Resolved {
            image_ref: record.digests.first().cloned().unwrap_or_else(|| id.to_string()),
            tag: record.tags.first().cloned(),
            defaults: defaults(&id, &record.config)?,
            layers,
            layer_ids,
            id,
        })
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change on a task of its own: a caller that leaves half-way must not leave memory and disk
    /// apart.
    pub(crate) async fn to_its_end(
        what: &'static str,
        work: impl Future<Output = Result<(), ImageError>> + Send + 'static,
    ) -> Result<(), ImageError> {
        tokio::spawn(work).await.unwrap_or_else(|_| Err(ImageError::BrokenOff(what.to_owned())))
    }

    /// Commits `changes` together with the removal of all layers that nobody needs.
    async fn collect_with(&self, mut changes: Vec<store::Change>) -> Result<(), ImageError> {
        let (committed, garbage) = {
            let mut state = self.state();
            let unneeded = state.take_unneeded();
            changes.extend(unneeded.iter().map(|(id, _)| record::remove_layer(id)));
            let names: Vec<OsString> =
                unneeded.iter().map(|(_, layer)| layer.number.to_string().into()).collect();
            if changes.is_empty() {
                return Ok(());
            }
            // Queued while the lock is held: a layer that comes again is recorded after this.
            (self.store.commit(changes), names)
        };
        committed.await?;
        self.setup.points.passed("image.removed");
        self.layers.remove(garbage, || ());
        Ok(())
    }

    /// Records an image, or further names of one. Its layers must be pinned by the caller.
    pub(crate) async fn add_image(self: &Arc<Self>, new: NewImage) -> Result<(), ImageError> {
        let shared = Arc::clone(self);
        Self::to_its_end("recording", async move {
            let _writing = shared.writing.lock().await;
            let (changes, records) = shared.merged(&new);
            if !changes.is_empty() {
                shared.store.commit(changes).await?;
                shared.setup.points.passed("image.recorded");
            }
            let mut state = shared.state();
            for (id, record) in records {
                state.put_image(&id, record);
            }
            Ok(())
        })
        .await
    }

    /// The records after `new` has its names, which it may take from other images.
    fn merged(&self, new: &NewImage) -> (Vec<store::Change>, Vec<(Digest, ImageRecord)>) {
        let state = self.state();
        let mut records = Vec::new();
        let mut changes = Vec::new();
        let before = state.image(&new.id);
        let mut record = before.map_or_else(|| self.fresh(&state, new), |record| (**record).clone());
        record.tags.extend(new.tag.clone());
        record.digests.extend(new.digest.clone());
        for name in new.tag.iter().chain(&new.digest) {
            let Some(owner) = state.named(name).filter(|owner| **owner != new.id) else { continue };
            let Some(other) = state.image(owner) else { continue };
            let mut other = (**other).clone();
            other.tags.remove(name);
            other.digests.remove(name);
            changes.push(record::put_image(owner, &other));
            records.push((owner.clone(), other));
        }
        if before.is_none() {
            changes.push(record::put_config(&new.id, &new.config_bytes));
        }
        if before.is_none_or(|before| **before != record) {
            changes.push(record::put_image(&new.id, &record));
            // Last: then the names are its own.
            records.push((new.id.clone(), record));
        }
        (changes, records)
    }

    fn fresh(&self, state: &State, new: &NewImage) -> ImageRecord {
        let unique: BTreeSet<&Digest> = new.config.diff_ids.iter().collect();
        let layers: u64 = unique.iter().filter_map(|id| state.layer(id)).map(|layer| layer.bytes).sum();
        ImageRecord {
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            size: layers + new.config_bytes.len() as u64,
            config: new.config.clone(),
        }
    }
}

/// Counts on layers, so that they are not collected, until it is dropped.
pub(crate) struct Pins {
    shared: Arc<Shared>,
    layers: Vec<Digest>,
}

impl Pins {
    pub(crate) fn new(shared: &Arc<Shared>, layers: &[Digest]) -> Self {
        shared.state().pin(layers);
        Self { shared: Arc::clone(shared), layers: layers.to_vec() }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.shared.state().unpin(&self.layers);
    }
}

fn shown(id: &Digest, record: &ImageRecord) -> Image {
    Image {
        id: id.clone(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.size,
        user: crate::user::image_user(&record.config.user),
    }
}

fn defaults(id: &Digest, config: &ImageConfig) -> Result<ImageDefaults, ImageError> {
    let stop_signal = match config.stop_signal.as_str() {
        "" => None,
        text => Some(Signal::parse(text).map_err(|_| ImageError::StopSignal {
            image: id.clone(),
            signal: text.chars().take(40).flat_map(char::escape_default).collect(),
        })?),
    };
    Ok(ImageDefaults {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        stop_signal,
        volumes: config.volumes.clone(),
    })
}
