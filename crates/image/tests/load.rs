//! Archives: OCI image layouts and docker-archives, honest and not.

#![allow(clippy::tests_outside_test_module, reason = "cargo builds this whole file for tests only")]
#![allow(clippy::disallowed_methods, reason = "tests read and remove their own directories by path")]

mod support;

use image::ErrorKind;
use serde_json::{Value, json};
use support::{
    Place,
    build::{Image, OCI_INDEX, OCI_MANIFEST, Tar, gzip},
    shape,
};

fn image() -> Image {
    Image::new(&[Tar::new().file("low", "1").end(), Tar::new().file("high", "2").end()], gzip)
}

fn member(tar: Tar, name: &str, bytes: &[u8]) -> Tar {
    tar.raw(b'0', name.as_bytes(), b"", bytes, |_| ())
}

fn layout_with(image: &Image, index: &Value) -> Tar {
    let mut tar = member(Tar::new(), "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    for (digest, bytes) in &image.blobs {
        tar = member(tar, &format!("blobs/sha256/{}", &digest["sha256:".len()..]), bytes);
    }
    tar = member(tar, &format!("blobs/sha256/{}", image.digest().hex()), &image.manifest);
    member(tar, "index.json", index.to_string().as_bytes())
}

fn index(image: &Image, annotations: &Value) -> Value {
    json!({"schemaVersion": 2, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": image.digest(), "size": image.manifest.len(), "annotations": annotations}]})
}

fn layout(image: &Image) -> Tar {
    layout_with(image, &index(image, &json!({"org.opencontainers.image.ref.name": "myapp:latest"})))
}

/// As old `docker save` writes it: plain layers, one of them a link.
fn docker(image: &Image, tags: &Value, layers: &[Vec<u8>]) -> Tar {
    let config = format!("{}.json", image.id.hex());
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": ["aa/layer.tar", "bb/layer.tar"]}]);
    let tar = member(Tar::new().dir("aa/"), "aa/layer.tar", &layers[0]);
    let tar = member(tar.dir("bb/"), "real.tar", &layers[1]).symlink("bb/layer.tar", "../real.tar");
    member(
        member(tar, &config, &image.blobs[image.id.as_str()]),
        "manifest.json",
        manifest.to_string().as_bytes(),
    )
}

#[tokio::test]
async fn an_oci_layout_is_loaded_under_its_name() {
    let place = Place::new();
    let images = place.open().await;
    let image = image();
    let loaded = images.load(layout(&image).end().as_slice()).await.expect("loaded");
    assert_eq!(loaded.len(), 1);
    assert_eq!(
        (&loaded[0].id, loaded[0].names.as_slice()),
        (&image.id, &["docker.io/library/myapp:latest".to_owned()][..])
    );
    let resolved = images.resolve("myapp").expect("by its short name");
    assert_eq!(resolved.image_ref, format!("docker.io/library/myapp@{}", image.digest()));
    assert_eq!(shape(&resolved.layers[1]), ["high file `2` x1 644 0:0 @10.0"]);
    images.settled().await;
    assert_eq!(place.layers().len(), 2, "nothing of the archive itself stays");
    // Again: the same image.
    images.load(layout(&image).end().as_slice()).await.expect("loaded");
    assert_eq!((images.list(None).len(), place.layers().len()), (1, 2));
}

#[tokio::test]
async fn the_full_name_wins_and_a_bare_tag_is_none() {
    let place = Place::new();
    let images = place.open().await;
    let image = image();
    let both = json!({"io.containerd.image.name": "docker.io/user/full:2", "org.opencontainers.image.ref.name": "2"});
    let loaded =
        images.load(layout_with(&image, &index(&image, &both)).end().as_slice()).await.expect("loaded");
    assert_eq!(loaded[0].names, ["docker.io/user/full:2"]);
    let bare = json!({"org.opencontainers.image.ref.name": "latest"});
    let loaded =
        images.load(layout_with(&image, &index(&image, &bare)).end().as_slice()).await.expect("loaded");
    assert_eq!((loaded[0].names.len(), &loaded[0].id), (0, &image.id));
}

#[tokio::test]
async fn a_nested_index_is_followed_and_foreign_platforms_are_left_out() {
    let place = Place::new();
    let images = place.open().await;
    let image = image();
    let nested = image.index();
    let digest = support::build::digest(&nested);
    let top = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": format!("sha256:{}", "00".repeat(32)), "size": 1,
         "platform": {"os": "linux", "architecture": "mips"}},
        {"mediaType": OCI_INDEX, "digest": digest, "size": nested.len(),
         "annotations": {"org.opencontainers.image.ref.name": "x.example/a:1"}}]});
    let tar = member(layout_with(&image, &top), &format!("blobs/sha256/{}", digest.hex()), &nested);
    let loaded = images.load(tar.end().as_slice()).await.expect("loaded");
    assert_eq!((loaded.len(), &loaded[0].id), (1, &image.id));
    assert_eq!(images.list(None)[0].repo_digests, [format!("x.example/a@{digest}")]);
}

#[tokio::test]
async fn a_docker_archive_is_loaded_under_all_its_names() {
    let place = Place::new();
    let images = place.open().await;
    let layers = [Tar::new().file("low", "1").end(), Tar::new().file("high", "2").end()];
    let image = Image::new(&layers, <[u8]>::to_vec);
    let tar = docker(&image, &json!(["app:1", "x.example/app:2"]), &layers);
    let loaded = images.load(tar.end().as_slice()).await.expect("loaded");
    assert_eq!(loaded[0].names, ["docker.io/library/app:1", "x.example/app:2"]);
    let resolved = images.resolve("x.example/app:2").expect("resolved");
    assert_eq!((resolved.id, resolved.image_ref), (image.id.clone(), image.id.to_string()));
    let unnamed = docker(&image, &Value::Null, &layers);
    assert_eq!(images.load(unnamed.end().as_slice()).await.expect("loaded")[0].names.len(), 0);
}

#[tokio::test]
async fn archives_that_lie_are_refused_and_leave_nothing() {
    let place = Place::new();
    let images = place.open().await;
    let image = image();
    let layers = [Tar::new().file("low", "1").end(), Tar::new().file("high", "2").end()];
    let plain = Image::new(&layers, <[u8]>::to_vec);
    let named = |name: &str| layout_with(&image, &index(&image, &json!({"io.containerd.image.name": name})));
    let broken = |change: &dyn Fn(&mut Image)| {
        let mut changed = image.clone();
        change(&mut changed);
        layout_with(&changed, &index(&image, &json!({})))
    };
    let first = image.blobs.keys().next().expect("a blob").clone();
    let last = image.blobs.keys().last().expect("a blob").clone();
    let huge =
        Tar::new().file("oci-layout", "{}").raw(b'0', b"index.json", b"", &vec![b' '; 5 << 20], |_| ());
    let swapped = [layers[1].clone(), layers[0].clone()];
    let climbing = json!([{"Config": "../../etc/passwd", "RepoTags": null, "Layers": []}]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no image", Tar::new().file("x", "y").end()),
        ("compressed", gzip(&layout(&image).end())),
        ("cut", layout(&image).end()[..3000].to_vec()),
        ("malformed name", named("UPPER/x:1").end()),
        ("missing blob", broken(&|image| drop(image.blobs.remove(&first))).end()),
        ("flipped blob", broken(&|image| image.blobs.get_mut(&first).expect("there")[0] ^= 1).end()),
        ("flipped other", broken(&|image| image.blobs.get_mut(&last).expect("there")[0] ^= 1).end()),
        ("flipped manifest", broken(&|image| image.manifest.push(b' ')).end()),
        ("huge index", huge.end()),
        ("twice", layout(&image).file("index.json", "{}").end()),
        ("docker: layers swapped", docker(&plain, &json!(["a:1"]), &swapped).end()),
        ("docker: malformed tag", docker(&plain, &json!(["a b"]), &layers).end()),
        ("docker: climbs", member(Tar::new(), "manifest.json", climbing.to_string().as_bytes()).end()),
        ("docker: link loop", Tar::new().symlink("manifest.json", "manifest.json").end()),
    ];
    for (name, bytes) in cases {
        let error = images.load(bytes.as_slice()).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {error}");
        assert_eq!(images.list(None), [], "{name}");
        images.settled().await;
        images.collect().await.expect("collected");
        images.settled().await;
        assert!(place.layers().is_empty(), "{name}");
    }
    images.load(layout(&image).end().as_slice()).await.expect("an honest one");
}
