//! Directories that a layer needs but does not list.
//!
//! Some builders write `tmp/x` without `tmp`. The layer's own directory then covers the one beneath,
//! and `/tmp` would lose its 1777. As layers are unpacked each by itself, this is put right when all of
//! an image are here: such a directory takes over owner, mode and time of the one that it covers. A layer
//! that two images stack on different ones keeps what it got first.

use crate::{
    error::ImageError,
    images::Shared,
    record::{self, LayerRecord},
    stacked::Stacked,
    unpack::text_to_path,
};
use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use sys::{
    root::RootFd,
    rustix::{
        fs::{self, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
        io::Errno,
    },
};
use types::Digest;

const WHAT: &str = "hand down the modes of directories";

impl Shared {
    /// Lets the layers of an image (lowest first, all here and pinned) inherit. Durable when it returns.
    pub(crate) async fn inherit(self: &Arc<Self>, diff_ids: &[Digest]) -> Result<(), ImageError> {
        if self.stack(diff_ids).iter().all(|(_, layer)| layer.implied.is_empty()) {
            return Ok(());
        }
        let (shared, diff_ids) = (Arc::clone(self), diff_ids.to_vec());
        Self::to_its_end(WHAT, async move {
            let _writing = shared.writing.lock().await;
            let stack = shared.stack(&diff_ids);
            let paths: Vec<PathBuf> =
                stack.iter().map(|(_, layer)| shared.layers.path(layer.number)).collect();
            let implied: Vec<Vec<String>> = stack.iter().map(|(_, layer)| layer.implied.clone()).collect();
            let work = tokio::task::spawn_blocking(move || hand_down(&paths, &implied));
            let done = work.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            done.map_err(|source| ImageError::Disk { what: WHAT, source })?;
            let settled: Vec<(Digest, LayerRecord)> = stack
                .into_iter()
                .filter(|(_, layer)| !layer.implied.is_empty())
                .map(|(id, layer)| (id, LayerRecord { implied: Vec::new(), ..layer }))
                .collect();
            let changes = settled.iter().map(|(id, layer)| record::put_layer(id, layer)).collect();
            shared.store.commit(changes).await?;
            let mut state = shared.state();
            for (id, layer) in settled {
                state.put_layer(id, layer);
            }
            Ok(())
        })
        .await
    }

    fn stack(&self, diff_ids: &[Digest]) -> Vec<(Digest, LayerRecord)> {
        let state = self.state();
        diff_ids.iter().filter_map(|id| state.layer(id).map(|layer| (id.clone(), layer.clone()))).collect()
    }
}

fn hand_down(layers: &[PathBuf], implied: &[Vec<String>]) -> io::Result<()> {
    // From below: what a layer has inherited is what the next one finds.
    for (at, names) in implied.iter().enumerate().filter(|(at, names)| *at > 0 && !names.is_empty()) {
        let beneath = Stacked::open(&layers[..at]).map_err(io::Error::other)?;
        let layer = RootFd::open(&layers[at])?;
        for name in names {
            let path = text_to_path(name).ok_or(io::ErrorKind::InvalidData)?;
            inherit(&layer, &beneath, &path)?;
        }
    }
    let Some(any) = layers.first() else { return Ok(()) };
    Ok(fs::syncfs(fs::open(any, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)?)
}

fn inherit(layer: &RootFd, beneath: &Stacked, path: &[u8]) -> Result<(), Errno> {
    let covered = match beneath.directory(path) {
        Ok(Some(covered)) => covered,
        // Something else there, or a loop of links: nothing to take over.
        Ok(None) | Err(Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(topmost) = covered.first() else { return Ok(()) };
    let stat = fs::fstat(topmost)?;
    let own = layer.resolve_plain(Path::new(OsStr::from_bytes(path)), OFlags::RDONLY | OFlags::DIRECTORY)?;
    fs::fchown(&own, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fs::fchmod(&own, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0) };
    fs::futimens(&own, &Timestamps { last_access: time, last_modification: time })
}
