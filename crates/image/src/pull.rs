//! PullImage: from a reference to a recorded image.
//!
//! ```text
//! manifest or index -> manifest of this platform -> configuration -> layers (3 at a time) -> record
//! ```
//! Callers who ask for the same share one pull; it ends when the last of them leaves, and takes its
//! unfinished layers with it. Finished ones stay for the next try until a collection.

use crate::{
    error::ImageError,
    image_config::ImageConfig,
    images::{Images, NewImage, Pins, Shared},
    layer::{self, Progress, Source, Wanted},
    manifest::{Descriptor, Document, MAX_DEPTH, MAX_MANIFEST, Manifest, ManifestError, is_manifest_type},
    record,
    registry::{Credentials, RegistryError, Session},
};
use std::{collections::HashSet, sync::Arc};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use types::{Digest, ImageRef};

/// Layers of one image that are fetched and unpacked at the same time.
pub(crate) const AT_ONCE: usize = 3;

/// Two calls with the same key are one pull. Other credentials are another pull: who may not have an
/// image does not get it by asking while another one does.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct PullKey {
    image: String,
    credentials: Option<Credentials>,
}

/// A caller's share of a pull. Dropping it is leaving.
pub struct Pulling {
    ticket: crate::flight::Ticket<Result<Digest, Arc<ImageError>>, watch::Receiver<Progress>>,
    image: String,
}

impl std::fmt::Debug for Pulling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pulling({})", self.image)
    }
}

impl Pulling {
    /// How far it is, from now on.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.ticket.attached().clone()
    }

    /// The id of the image, which is listed from now on.
    ///
    /// # Errors
    /// [`ImageError`]; nothing is left of the image then.
    pub async fn done(self) -> Result<Digest, ImageError> {
        match self.ticket.outcome().await {
            Some(Ok(id)) => Ok(id),
            Some(Err(error)) => Err(ImageError::Shared(error)),
            None => Err(ImageError::BrokenOff(self.image)),
        }
    }
}

impl Images {
    /// Pulls an image, or joins the pull of it.
    #[must_use]
    pub fn pull(&self, image: &ImageRef, credentials: Option<Credentials>) -> Pulling {
        let key = PullKey { image: image.to_string(), credentials: credentials.clone() };
        let ticket = self.0.pull_flights.join(key, || {
            let (progress, seen) = watch::channel(Progress::default());
            let (shared, image) = (Arc::clone(&self.0), image.clone());
            let work = async move { pull(&shared, &image, credentials, progress).await.map_err(Arc::new) };
            (seen, work)
        });
        Pulling { ticket, image: image.to_string() }
    }
}

async fn pull(
    shared: &Arc<Shared>,
    image: &ImageRef,
    credentials: Option<Credentials>,
    progress: watch::Sender<Progress>,
) -> Result<Digest, ImageError> {
    let name = image.to_string();
    let fetching = |source: RegistryError| ImageError::Registry { image: name.clone(), source };
    let refused = |source: ManifestError| ImageError::Manifest { image: name.clone(), source };
    let hosts = shared.setup.hosts_dir.as_deref();
    let session = Session::open(hosts, image, credentials, shared.setup.patience).map_err(fetching)?;
    let session = Arc::new(session);
    let top = session.manifest(image).await.map_err(fetching)?;
    let document = Document::parse(&top.bytes, top.media_type.as_deref()).map_err(refused)?;
    let manifest = descend(&session, document, &name).await?;
    let id = manifest.config.digest.clone();
    let bytes = match record::read_config(&shared.store, &id)? {
        Some(bytes) => bytes,
        None => session.blob(&manifest.config).await.map_err(fetching)?,
    };
    let config = ImageConfig::parse(&bytes, manifest.layers.len()).map_err(refused)?;
    let _pins = Pins::new(shared, &config.diff_ids);
    let source = |blob| Source::Registry { session: Arc::clone(&session), blob, image: name.clone() };
    let layers = config.diff_ids.iter().cloned().zip(manifest.layers.into_iter().map(|blob| {
        let size = blob.size;
        (size, source(blob))
    }));
    fetch_layers(shared, layers.collect(), &progress).await?;
    shared.inherit(&config.diff_ids).await?;
    let tag = image.digest().is_none().then(|| image.to_string());
    let digest = Some(image.with_digest(&top.digest));
    // The buffers of the transfer are not needed again soon.
    sys::heap::trim();
    shared.add_image(NewImage { id: id.clone(), config, config_bytes: bytes, tag, digest }).await?;
    Ok(id)
}

/// From an index to the manifest for this host.
async fn descend(session: &Session, mut document: Document, name: &str) -> Result<Manifest, ImageError> {
    let fetching = |source: RegistryError| ImageError::Registry { image: name.to_owned(), source };
    let refused = |source: ManifestError| ImageError::Manifest { image: name.to_owned(), source };
    for _ in 0..=MAX_DEPTH {
        let index = match document {
            Document::Manifest(manifest) => return Ok(manifest),
            Document::Index(index) => index,
        };
        let chosen = index.choose().map_err(refused)?;
        if chosen.size > MAX_MANIFEST {
            return Err(refused(ManifestError::Contradiction("a manifest of more than 4 MiB")));
        }
        let found = session.manifest_by_digest(&chosen.digest).await.map_err(fetching)?;
        document = linked(&chosen, &found.bytes, found.media_type.as_deref()).map_err(refused)?;
    }
    Err(refused(ManifestError::Unsupported("an index of indexes of indexes".to_owned())))
}

/// Reads a document that an index points to: index, registry and document must agree.
pub(crate) fn linked(
    from: &Descriptor,
    bytes: &[u8],
    sent_as: Option<&str>,
) -> Result<Document, ManifestError> {
    if bytes.len() as u64 != from.size {
        return Err(ManifestError::Contradiction("a manifest has another size than its index says"));
    }
    if sent_as.is_some_and(|sent| is_manifest_type(sent) && sent != from.media_type) {
        return Err(ManifestError::Ambiguous("its media type is not the one that its index names"));
    }
    Document::parse(bytes, Some(&from.media_type))
}

/// Has all layers unpacked and recorded. The first failure ends the others.
pub(crate) async fn fetch_layers(
    shared: &Arc<Shared>,
    layers: Vec<(Digest, (u64, Source))>,
    progress: &watch::Sender<Progress>,
) -> Result<(), ImageError> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut waiting = JoinSet::new();
    let mut seen = HashSet::new();
    progress.send_modify(|p| p.layers = layers.len());
    let mut here = 0;
    for (diff_id, (size, source)) in layers {
        if !seen.insert(diff_id.clone()) || shared.state().layer(&diff_id).is_some() {
            here += 1;
            continue;
        }
        progress.send_modify(|p| p.bytes += size);
        let wanted = Wanted {
            diff_id: diff_id.clone(),
            source,
            progress: progress.clone(),
            slots: Arc::clone(&slots),
        };
        let for_flight = Arc::clone(shared);
        let ticket = shared.layer_flights.join(diff_id.clone(), || {
            ((), async move { layer::ensure(for_flight, wanted).await.map_err(Arc::new) })
        });
        waiting.spawn(async move {
            match ticket.outcome().await {
                Some(Ok(())) => Ok(()),
                Some(Err(error)) => Err(ImageError::Shared(error)),
                None => Err(ImageError::BrokenOff(diff_id.to_string())),
            }
        });
    }
    progress.send_modify(|p| p.layers_done = here);
    while let Some(done) = waiting.join_next().await {
        done.unwrap_or_else(|_| Err(ImageError::BrokenOff("a layer".to_owned())))?;
        progress.send_modify(|p| p.layers_done += 1);
    }
    Ok(())
}
