//! One layer from its source to its record, once for all who wait for it.

use crate::{
    archive::ArchiveBlob,
    disk::NewDir,
    error::ImageError,
    images::Shared,
    manifest::Descriptor,
    record::{self, LayerRecord},
    registry::{BlobStream, Session},
    unpack::{UnpackError, Unpacking},
};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use types::Digest;

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers of the image; 0 until its manifest is known.
    pub layers: usize,
    /// Layers that are here.
    pub layers_done: usize,
    /// Compressed bytes of the layers that have to be fetched.
    pub bytes: u64,
    /// Of these, received.
    pub bytes_done: u64,
}

/// Where a layer's bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    Registry { session: Arc<Session>, blob: Descriptor, image: String },
    Archive(ArchiveBlob),
}

/// One layer to be had.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) diff_id: Digest,
    pub(crate) source: Source,
    pub(crate) progress: watch::Sender<Progress>,
    /// How many of one image are fetched at a time.
    pub(crate) slots: Arc<Semaphore>,
}

/// A child at work in a directory that is not recorded yet. Dropped half-way, both are taken back.
#[derive(Debug)]
struct AtWork {
    dir: Option<NewDir>,
    unpacking: Option<Unpacking>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        match (self.dir.take(), self.unpacking.take()) {
            (Some(dir), Some(unpacking)) => dir.remove_after(unpacking.abort()),
            (dir, _) => drop(dir),
        }
    }
}

/// Fetches, unpacks and records a layer, unless it is here.
pub(crate) async fn ensure(shared: Arc<Shared>, wanted: Wanted) -> Result<(), ImageError> {
    // The first to be made is the last to be dropped: all traces of the work are gone by then.
    let _busy = shared.layers.busy();
    let broken_off = || ImageError::BrokenOff(wanted.diff_id.to_string());
    let _slot = wanted.slots.acquire().await.map_err(|_| broken_off())?;
    let _all = shared.slots.acquire().await.map_err(|_| broken_off())?;
    if shared.state().layer(&wanted.diff_id).is_some() {
        return Ok(());
    }
    let mut work = start(&shared, &wanted.diff_id).await?;
    let unpacking = work.unpacking.as_mut().expect("it was just started");
    let failed = |source| ImageError::Layer { layer: wanted.diff_id.clone(), source };
    let verified = match &wanted.source {
        Source::Registry { session, blob, image } => {
            let mut stream = BlobStream::new(session, blob);
            loop {
                let next = tokio::select! {
                    next = stream.next() => next,
                    () = unpacking.reports() => break false,
                };
                let fetching = |source| ImageError::Registry { image: image.clone(), source };
                let Some(piece) = next.map_err(fetching)? else { break true };
                if !feed(unpacking, &piece, &wanted.progress).await.map_err(failed)? {
                    break false;
                }
            }
        }
        Source::Archive(blob) => {
            let mut pieces = blob.pieces();
            loop {
                let Some(piece) = pieces.next().await.map_err(ImageError::Archive)? else { break true };
                if !feed(unpacking, &piece, &wanted.progress).await.map_err(failed)? {
                    break false;
                }
            }
        }
    };
    let facts = unpacking.finish(&wanted.diff_id).await.map_err(failed)?;
    if !verified {
        return Err(failed(UnpackError::Unverified));
    }
    if facts.dropped > 0 {
        tracing::debug!(layer = %wanted.diff_id, dropped = facts.dropped, "members or attributes were left out");
    }
    let dir = work.dir.take().expect("it is taken here only");
    let record = LayerRecord {
        number: dir.number,
        bytes: facts.bytes,
        disk: facts.disk,
        inodes: facts.inodes,
        opaque_root: facts.opaque_root,
        implied: facts.implied,
    };
    let diff_id = wanted.diff_id.clone();
    // On a task of its own: a caller that leaves now must not leave a record without its memory.
    let recorder = Arc::clone(&shared);
    let recording = tokio::spawn(async move {
        recorder.setup.points.passed("layer.unpacked");
        recorder.store.commit(vec![record::put_layer(&diff_id, &record)]).await?;
        recorder.setup.points.passed("layer.recorded");
        recorder.state().put_layer(diff_id, record);
        dir.keep();
        Ok(())
    });
    recording.await.unwrap_or_else(|_| Err(broken_off()))
}

async fn start(shared: &Arc<Shared>, diff_id: &Digest) -> Result<AtWork, ImageError> {
    let (layers, unpacker) = (Arc::clone(&shared.layers), shared.setup.unpacker.clone());
    let layer = diff_id.clone();
    let busy = shared.layers.busy();
    let starting = tokio::task::spawn_blocking(move || {
        let _busy = busy;
        let (dir, fd) = layers.make()?;
        let mut work = AtWork { dir: Some(dir), unpacking: None };
        let started = unpacker.start(fd);
        work.unpacking = Some(started.map_err(|source| ImageError::Layer { layer, source })?);
        Ok(work)
    });
    starting.await.unwrap_or_else(|_| Err(ImageError::BrokenOff(diff_id.to_string())))
}

async fn feed(
    unpacking: &mut Unpacking,
    piece: &Bytes,
    progress: &watch::Sender<Progress>,
) -> Result<bool, UnpackError> {
    progress.send_modify(|progress| progress.bytes_done += piece.len() as u64);
    unpacking.feed(piece).await
}
