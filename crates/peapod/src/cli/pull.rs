//! `peapod pull`, and pulling for `peapod run`.

use super::{
    client::{Client, told},
    output::{self, Progress},
};
use anyhow::Context as _;
use api::{
    admin::{PullProgressRequest, PullProgressResponse},
    cri::{ImageSpec, PullImageRequest},
};
use std::time::Duration;

/// Fetch an image from a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  peapod pull busybox\n  \
                        peapod pull registry.k8s.io/pause:3.9\n\n\
                        Prints the image's id. Mirrors and private registries are set in \
                        <registry-dir>/<host>/hosts.toml of the daemon.")]
pub(crate) struct Pull {
    /// A tag or a digest; `busybox` is docker.io/library/busybox:latest
    #[arg(value_name = "REF", value_parser = reference)]
    image: String,
}

fn reference(text: &str) -> Result<String, String> {
    types::ImageRef::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(crate) async fn pull(args: &Pull, client: &mut Client) -> anyhow::Result<u8> {
    let id = fetch(client, &args.image).await?;
    output::print(&format!("{id}\n"))?;
    Ok(0)
}

/// Pulls an image with its progress on standard error, and gives its id.
pub(crate) async fn fetch(client: &Client, image: &str) -> anyhow::Result<String> {
    let spec =
        ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() };
    let request = PullImageRequest { image: Some(spec), ..Default::default() };
    let mut images = client.images.clone();
    let mut progress = Progress::new();
    progress.update(&format!("{image}: resolving"));
    let pulled = tokio::select! {
        pulled = images.pull_image(request) => pulled,
        never = show(client.clone(), image, &mut progress) => match never {},
    };
    let id =
        pulled.map_err(|s| told(&s)).with_context(|| format!("cannot pull {image}"))?.into_inner().image_ref;
    progress.done(&format!("{image}: pulled"));
    Ok(id)
}

/// Shows the daemon's own account of the pull until it is dropped. A daemon that gives none is no error.
async fn show(mut client: Client, image: &str, progress: &mut Progress) -> std::convert::Infallible {
    loop {
        // The pull may not be under way yet.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let request = PullProgressRequest { image: image.to_owned() };
        let Ok(stream) = client.admin.pull_progress(request).await else { continue };
        let mut stream = stream.into_inner();
        while let Ok(Some(step)) = stream.message().await {
            progress.update(&format!("{image}: {}", line(&step)));
        }
    }
}

fn line(step: &PullProgressResponse) -> String {
    if step.bytes_total == 0 {
        return step.phase.clone();
    }
    format!(
        "{}, {} of {}, layers {} of {}",
        step.phase,
        output::bytes(step.bytes_done),
        output::bytes(step.bytes_total),
        step.layers_done,
        step.layers_total
    )
}
