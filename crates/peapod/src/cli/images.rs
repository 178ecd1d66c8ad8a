//! `peapod images`.

use super::{
    client::{Client, told},
    output::{self, Format},
    table::table,
};
use api::cri::{Image, ListImagesRequest};

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct Images {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) async fn images(args: &Images, client: &mut Client) -> anyhow::Result<u8> {
    let answer = client.images.list_images(ListImagesRequest::default()).await.map_err(|s| told(&s))?;
    let mut images = answer.into_inner().images;
    images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
    match args.output {
        Format::Json => output::print_json(&images.iter().map(json).collect::<Vec<_>>())?,
        Format::Table => output::print(&text(&images))?,
    }
    Ok(0)
}

fn json(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "id": image.id,
        "tags": image.repo_tags,
        "digests": image.repo_digests,
        "size": image.size,
        "pinned": image.pinned,
    })
}

fn text(images: &[Image]) -> String {
    let mut rows = Vec::new();
    for image in images {
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        let (id, size) = (output::short_id(&image.id), output::bytes(image.size));
        if names.is_empty() {
            rows.push(["-".to_owned(), id.clone(), size.clone()]);
        }
        rows.extend(names.iter().map(|name| [name.clone(), id.clone(), size.clone()]));
    }
    table(["IMAGE", "ID", "SIZE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_line_for_each_tag() {
        let image = Image {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            repo_tags: vec!["docker.io/library/a:1".into(), "docker.io/library/a:latest".into()],
            size: 1_500_000,
            ..Default::default()
        };
        let nameless = Image { id: "sha256:ff".into(), size: 1, ..Default::default() };
        let want = "\
IMAGE                       ID            SIZE
docker.io/library/a:1       0123456789ab  1.5 MB
docker.io/library/a:latest  0123456789ab  1.5 MB
-                           ff            1 B
";
        assert_eq!(text(&[image, nameless]), want);
    }
}
