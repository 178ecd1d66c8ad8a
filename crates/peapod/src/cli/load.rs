//! `peapod load`.

use super::{
    client::{Client, told},
    output::{self, Progress},
};
use anyhow::{Context as _, bail};
use api::admin::{LoadImageRequest, LoadResult, load_image_response::Step};
use std::{
    fs::File,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};
use tokio::io::AsyncReadExt as _;

/// Load images from archives into the daemon's store
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod load myapp.tar\n  docker save web | peapod load -\n\n\
                        An archive is a tar of an OCI image layout, or what `docker save` writes.")]
pub(crate) struct Load {
    /// Tar files; `-` is standard input
    #[arg(required = true, value_name = "ARCHIVE")]
    archives: Vec<PathBuf>,
}

/// Bytes of an archive in one message.
const CHUNK: usize = 1 << 20;

pub(crate) async fn load(args: &Load, client: &mut Client) -> anyhow::Result<u8> {
    for archive in &args.archives {
        let result =
            one(client, archive).await.with_context(|| format!("cannot load {}", archive.display()))?;
        for image in result.images {
            if image.references.is_empty() {
                output::print(&format!("loaded {}\n", image.id))?;
            }
            for reference in &image.references {
                output::print(&format!("loaded {reference} ({})\n", output::short_id(&image.id)))?;
            }
        }
    }
    Ok(0)
}

async fn one(client: &mut Client, archive: &Path) -> anyhow::Result<LoadResult> {
    let file = if archive == Path::new("-") {
        File::from(std::io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        File::open(archive)?
    };
    if file.metadata()?.is_dir() {
        bail!("it is a directory; want a tar, such as `tar -C DIR -cf - . | peapod load -` makes");
    }
    let reader = tokio::fs::File::from_std(file);
    let (chunks, requests) = tokio::sync::mpsc::channel(2);
    // Reading goes on beside the call; the call ends first if the daemon refuses the archive.
    let reading = tokio::spawn(send(reader, chunks));
    let loaded = stream(client, archive, tokio_stream::wrappers::ReceiverStream::new(requests)).await;
    if loaded.is_ok() || reading.is_finished() {
        // What the daemon says of an archive that we could not read is not the cause.
        reading.await?.context("it cannot be read to its end")?;
    }
    loaded
}

async fn stream(
    client: &mut Client,
    archive: &Path,
    requests: tokio_stream::wrappers::ReceiverStream<LoadImageRequest>,
) -> anyhow::Result<LoadResult> {
    let mut steps = client.admin.load_image(requests).await.map_err(|s| told(&s))?.into_inner();
    let mut progress = Progress::new();
    let mut result = None;
    while let Some(message) = steps.message().await.map_err(|s| told(&s))? {
        match message.step {
            Some(Step::Progress(step)) => {
                progress.update(&format!(
                    "{}: {} {}",
                    archive.display(),
                    step.message,
                    output::bytes(step.bytes_read)
                ));
            }
            Some(Step::Result(loaded)) => result = Some(loaded),
            None => {}
        }
    }
    result.context("the daemon gave no result")
}

async fn send(
    mut reader: tokio::fs::File,
    chunks: tokio::sync::mpsc::Sender<LoadImageRequest>,
) -> std::io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut reader).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        if chunk.is_empty() || chunks.send(LoadImageRequest { chunk }).await.is_err() {
            return Ok(());
        }
    }
}
