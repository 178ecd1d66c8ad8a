//! The images of a pod, there before anything of it is made.

use super::super::{
    client::{Client, told},
    manifest::{Container, PullPolicy},
    pull,
};
use anyhow::{Context as _, bail};
use api::cri::{Image, ImageSpec, ImageStatusRequest};

/// Makes sure that a container's image is there, by its pull policy.
///
/// # Errors
/// If it cannot be pulled, or is not there and may not be pulled.
pub(crate) async fn ensure(client: &Client, container: &Container) -> anyhow::Result<Image> {
    let name = &container.image;
    let there = match container.pull {
        PullPolicy::Always => None,
        PullPolicy::IfNotPresent | PullPolicy::Never => status(client, name).await?,
    };
    match there {
        Some(image) => Ok(image),
        None if container.pull == PullPolicy::Never => {
            bail!(
                "image {name} of container {} is not there, and its imagePullPolicy is Never",
                container.name
            )
        }
        None => {
            let id = pull::fetch(client, name).await?;
            status(client, &id).await?.with_context(|| format!("image {name} was pulled and is gone"))
        }
    }
}

async fn status(client: &Client, name: &str) -> anyhow::Result<Option<Image>> {
    let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image, verbose: false };
    let answer = client.images.clone().image_status(request).await.map_err(|s| told(&s));
    Ok(answer.with_context(|| format!("image {name}"))?.into_inner().image)
}
