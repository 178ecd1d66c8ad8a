//! Registries and images that lie: refused, with nothing left behind, and an honest pull works after.

#![allow(clippy::tests_outside_test_module, reason = "cargo builds this whole file for tests only")]
#![allow(clippy::disallowed_methods, reason = "tests read and remove their own directories by path")]

mod support;

use image::{ErrorKind, ImageError, Images, Patience};
use serde_json::{Value, json};
use std::{error::Error as _, time::Duration};
use store::Store;
use support::{
    Place,
    build::{Image, OCI_INDEX, OCI_MANIFEST, Tar, digest, gzip, zstd},
    server::{Server, broken_after, endless, ok, stalled_after, status, with},
};
use types::ImageRef;

fn reference(server: &Server, rest: &str) -> ImageRef {
    ImageRef::parse(&format!("{}/{rest}", server.host())).expect("a reference")
}

fn honest() -> Image {
    Image::new(&[Tar::new().file("f", "content").end()], gzip)
}

/// The error with its causes.
fn chain(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

async fn refused(place: &Place, images: &Images, name: &ImageRef) -> (ErrorKind, String) {
    let error = images.pull(name, None).done().await.expect_err("it lies");
    images.settled().await;
    assert_eq!(images.list(None), [], "listed after {error}");
    assert!(place.layers().is_empty(), "left after {error}");
    place.assert_canary();
    (error.kind(), chain(&error))
}

async fn works(images: &Images, server: &Server) {
    server.script(|_, _| None);
    server.put("honest", "1", &honest());
    images.pull(&reference(server, "honest:1"), None).done().await.expect("an honest pull");
    images.remove(honest().id.as_str()).await.expect("removed");
    images.settled().await;
}

#[tokio::test]
async fn manifests_that_lie_are_refused() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let cases: Vec<(&str, Image, &str)> = vec![
        ("both kinds", honest().changed(|m| m["manifests"] = json!([])), OCI_MANIFEST),
        ("sent as an index", honest(), OCI_INDEX),
        ("null layers", honest().changed(|m| m["layers"] = Value::Null), OCI_MANIFEST),
        ("negative size", honest().changed(|m| m["layers"][0]["size"] = json!(-1)), OCI_MANIFEST),
        (
            "size 2^63",
            honest().changed(|m| m["layers"][0]["size"] = json!(9_223_372_036_854_775_808_u64)),
            OCI_MANIFEST,
        ),
        ("traversal", honest().changed(|m| m["layers"][0]["digest"] = json!("sha256:../../x")), OCI_MANIFEST),
        ("other algorithm", honest().changed(|m| m["config"]["digest"] = json!("md5:00")), OCI_MANIFEST),
        (
            "one layer more",
            honest().changed(|m| {
                let l = m["layers"][0].clone();
                m["layers"] = json!([l, l]);
            }),
            OCI_MANIFEST,
        ),
        ("no layer", honest().changed(|m| m["layers"] = json!([])), OCI_MANIFEST),
        (
            "encrypted",
            honest().changed(|m| {
                m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
            }),
            OCI_MANIFEST,
        ),
        ("huge config", honest().changed(|m| m["config"]["size"] = json!(1_u64 << 40)), OCI_MANIFEST),
        (
            "schema 1",
            honest().changed(|m| {
                m["schemaVersion"] = json!(1);
                m["fsLayers"] = json!([]);
            }),
            OCI_MANIFEST,
        ),
    ];
    for (name, image, media_type) in cases {
        server.put_manifest("a", "1", media_type, &image.manifest);
        server.put("blobs", "1", &image);
        let (kind, text) = refused(&place, &images, &reference(&server, "a:1")).await;
        let wanted = if name == "size 2^63" {
            [ErrorKind::Refused, ErrorKind::NotFound]
        } else {
            [ErrorKind::Refused; 2]
        };
        assert!(wanted.contains(&kind), "{name}: {text}");
    }
    works(&images, &server).await;
}

#[tokio::test]
async fn indexes_that_lead_nowhere_are_refused() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let architecture = support::build::architecture();
    let entry = |digest: &str, size: usize, media_type: &str| {
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            {"mediaType": media_type, "digest": digest, "size": size,
             "platform": {"os": "linux", "architecture": architecture}}]})
        .to_string()
        .into_bytes()
    };
    let image = honest();
    server.put("a", "inner", &image);
    // Sizes, types and depth that contradict.
    let wrong_size = entry(image.digest().as_str(), image.manifest.len() + 1, OCI_MANIFEST);
    let wrong_type = entry(image.digest().as_str(), image.manifest.len(), OCI_INDEX);
    let other = entry(
        image.digest().as_str(),
        image.manifest.len(),
        "application/vnd.docker.distribution.manifest.v2+json",
    );
    let large = entry(image.digest().as_str(), 5 << 20, OCI_MANIFEST);
    let empty = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string().into_bytes();
    let mut nested = image.index();
    for level in 0..5 {
        server.put_manifest("a", &format!("level{level}"), OCI_INDEX, &nested);
        nested = entry(digest(&nested).as_str(), nested.len(), OCI_INDEX);
    }
    for (name, index) in [
        ("size", wrong_size),
        ("type", wrong_type),
        ("other type", other),
        ("large", large),
        ("empty", empty),
        ("nested", nested),
    ] {
        server.put_manifest("a", "1", OCI_INDEX, &index);
        let (kind, text) = refused(&place, &images, &reference(&server, "a:1")).await;
        assert_eq!(kind, ErrorKind::Refused, "{name}: {text}");
    }
    works(&images, &server).await;
}

#[tokio::test]
async fn content_that_is_not_what_was_promised_is_refused() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let image = Image::new(&[Tar::new().file("f", &"content ".repeat(10_000)).end()], <[u8]>::to_vec);
    let layer = image.diff_ids[0].to_string();
    let blob = image.blobs[&layer].clone();
    server.put("a", "1", &image);
    let by_digest = reference(&server, &format!("a@{}", image.digest()));
    let by_tag = reference(&server, "a:1");
    let mut flipped = blob.clone();
    flipped[50_000] ^= 1;
    let longer = [blob.clone(), vec![0]].concat();
    let shorter = blob[..blob.len() - 512].to_vec();
    for (name, bytes) in [
        ("flipped", flipped),
        ("longer", longer),
        ("shorter", shorter),
        ("empty", Vec::new()),
        ("other", b"<html>".to_vec()),
    ] {
        let path = format!("/blobs/{layer}");
        server.script(move |seen, _| seen.path.ends_with(&path).then(|| ok(bytes.clone())));
        let (kind, text) = refused(&place, &images, &by_tag).await;
        assert_eq!(kind, ErrorKind::Refused, "{name}: {text}");
    }
    // Without an announced length, and without an end.
    let path = format!("/blobs/{layer}");
    server.script(move |seen, _| seen.path.ends_with(&path).then(|| endless(vec![7; 65_536])));
    assert_eq!(refused(&place, &images, &by_tag).await.0, ErrorKind::Refused);
    let config = image.id.to_string();
    server.script(move |seen, _| seen.path.ends_with(&config).then(|| endless(vec![b' '; 65_536])));
    assert_eq!(refused(&place, &images, &by_tag).await.0, ErrorKind::Refused);
    server.script(|seen, _| seen.path.contains("/manifests/").then(|| endless(vec![b' '; 65_536])));
    assert_eq!(refused(&place, &images, &by_tag).await.0, ErrorKind::Refused);
    let other = honest().manifest;
    server.script(move |seen, _| seen.path.contains("/manifests/").then(|| ok(other.clone())));
    assert_eq!(refused(&place, &images, &by_digest).await.0, ErrorKind::Refused);
    let own = image.manifest.clone();
    server.script(move |seen, _| {
        let lie = format!("sha256:{}", "00".repeat(32));
        seen.path
            .contains("/manifests/")
            .then(|| with(with(ok(own.clone()), "docker-content-digest", &lie), "content-type", OCI_MANIFEST))
    });
    assert_eq!(refused(&place, &images, &by_tag).await.0, ErrorKind::Refused);
    server.script(|_, _| None);
    images.pull(&by_tag, None).done().await.expect("an honest pull");
}

#[tokio::test]
async fn answers_that_are_no_content_are_not_stored() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    server.put("a", "1", &honest());
    for (code, kind) in [
        (404, ErrorKind::NotFound),
        (403, ErrorKind::Denied),
        (401, ErrorKind::Denied),
        (500, ErrorKind::Unavailable),
        (418, ErrorKind::Unavailable),
        (204, ErrorKind::Unavailable),
    ] {
        for part in ["/manifests/", "/blobs/"] {
            server.script(move |seen, _| seen.path.contains(part).then(|| status(code)));
            let (found, text) = refused(&place, &images, &reference(&server, "a:1")).await;
            assert_eq!(found, kind, "{code} for {part}: {text}");
            assert!(!text.contains("html"), "{text}");
        }
    }
    works(&images, &server).await;
}

#[tokio::test]
async fn layers_that_are_no_layers_are_refused_and_leave_nothing() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let canary = place.canary().display().to_string();
    let climb = format!("../../../../../../../../../..{canary}/d/x");
    let tars: Vec<(&str, Vec<u8>)> = vec![
        ("climbs", Tar::new().file(&climb, "x").end()),
        ("root is a link", Tar::new().symlink(".", &canary).file("x", "x").end()),
        ("hard link out", Tar::new().hard_link("l", &format!("{canary}/secret")).end()),
        ("wide device", Tar::new().file("before", "x").device(b'3', "node", (1 << 32) + 1, 3).end()),
        ("sparse", Tar::new().raw(b'S', b"f", b"", b"", |_| ()).end()),
        ("cut", Tar::new().file("f", &"x".repeat(5000)).end()[..3000].to_vec()),
        ("garbage", vec![0xaa; 4096]),
        ("whiteout of the root", Tar::new().file(".wh..", "").end()),
        ("xz", b"\xfd7zXZ\0rest".to_vec()),
    ];
    for compress in [gzip as fn(&[u8]) -> Vec<u8>, zstd, <[u8]>::to_vec] {
        for (name, tar) in &tars {
            server.put("a", "1", &Image::new(&[Tar::new().file("fine", "x").end(), tar.clone()], compress));
            let error = images.pull(&reference(&server, "a:1"), None).done().await.expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {}", chain(&error));
            assert_eq!(images.list(None), []);
            images.settled().await;
            images.collect().await.expect("collected");
            images.settled().await;
            assert!(place.layers().is_empty(), "{name}");
            place.assert_canary();
        }
    }
    // The content is a good layer, but not the one that the configuration promises.
    let lie = honest();
    let other = Tar::new().file("f", "other").end();
    let blob = gzip(&other);
    let mut image = lie.changed(|m| {
        m["layers"][0]["digest"] = json!(digest(&blob));
        m["layers"][0]["size"] = json!(blob.len());
    });
    image.blobs.insert(digest(&blob).to_string(), blob);
    server.put("a", "1", &image);
    let (kind, text) = refused(&place, &images, &reference(&server, "a:1")).await;
    assert!(kind == ErrorKind::Refused && text.contains("promises"), "{text}");
    works(&images, &server).await;
}

#[tokio::test]
async fn the_layer_that_fails_fails_the_image_whichever_it_is() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let layers: Vec<Vec<u8>> = (0..5).map(|n| Tar::new().file("f", &n.to_string()).end()).collect();
    let image = Image::new(&layers, <[u8]>::to_vec);
    server.put("a", "1", &image);
    for broken in &image.diff_ids {
        let path = format!("/blobs/{broken}");
        server.script(move |seen, _| seen.path.ends_with(&path).then(|| status(404)));
        let error = images.pull(&reference(&server, "a:1"), None).done().await.expect_err("broken");
        assert_eq!((error.kind(), images.list(None)), (ErrorKind::NotFound, Vec::new()));
        images.settled().await;
        images.collect().await.expect("collected");
        images.settled().await;
        assert!(place.layers().is_empty());
    }
    works(&images, &server).await;
}

#[tokio::test]
async fn a_broken_blob_is_resumed_where_it_broke() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let image = Image::new(&[Tar::new().file("f", &"0123456789".repeat(50_000)).end()], <[u8]>::to_vec);
    let layer = image.diff_ids[0].to_string();
    let blob = image.blobs[&layer].clone();
    server.put("a", "1", &image);
    let (path, bytes) = (format!("/blobs/{layer}"), blob.clone());
    server.script(move |seen, before| {
        let here = seen.path.ends_with(&path);
        match before {
            0 if here => Some(broken_after(bytes[..100_000].to_vec(), bytes.len())),
            // Knows no ranges: all from the start, and broken again.
            1 if here => Some(broken_after(bytes[..200_000].to_vec(), bytes.len())),
            2 if here => Some(status(503)),
            _ => None,
        }
    });
    images.pull(&reference(&server, "a:1"), None).done().await.expect("resumed");
    let ranges: Vec<Option<String>> = server
        .log()
        .iter()
        .filter(|seen| seen.path.contains(&layer))
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges[0], None);
    assert!(
        ranges[1..].iter().all(|range| range.as_deref().is_some_and(|text| text.starts_with("bytes="))),
        "{ranges:?}"
    );
    images.remove(image.id.as_str()).await.expect("removed");
    images.settled().await;
    // A resumption that answers with another range than asked.
    let (path, bytes) = (format!("/blobs/{layer}"), blob);
    let asked = std::sync::atomic::AtomicUsize::new(0);
    server.script(move |seen, _| {
        if !seen.path.ends_with(&path) {
            return None;
        }
        let first = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let mut reply = if first {
            broken_after(bytes[..100_000].to_vec(), bytes.len())
        } else {
            ok(bytes[50_000..].to_vec())
        };
        if !first {
            *reply.status_mut() = http::StatusCode::PARTIAL_CONTENT;
            reply = with(reply, "content-range", &format!("bytes 50000-{}/{}", bytes.len() - 1, bytes.len()));
        }
        Some(reply)
    });
    assert_eq!(refused(&place, &images, &reference(&server, "a:1")).await.0, ErrorKind::Refused);
    works(&images, &server).await;
}

#[tokio::test]
async fn overload_is_waited_for_within_bounds() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    server.put("a", "1", &honest());
    server.script(|_, before| (before < 2).then(|| with(status(429), "retry-after", "0")));
    images.pull(&reference(&server, "a:1"), None).done().await.expect("third time");
    images.remove(honest().id.as_str()).await.expect("removed");
    images.settled().await;
    let asked = server.log().len();
    server.script(|_, _| Some(with(status(429), "retry-after", "86400")));
    assert_eq!(refused(&place, &images, &reference(&server, "a:1")).await.0, ErrorKind::Unavailable);
    assert_eq!(server.log().len(), asked + 1, "a day is not waited for");
    server.script(|_, _| Some(status(503)));
    assert_eq!(refused(&place, &images, &reference(&server, "a:1")).await.0, ErrorKind::Unavailable);
    assert_eq!(server.log().len(), asked + 1 + 5, "four more tries");
    works(&images, &server).await;
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up() {
    let place = Place::new();
    let server = Server::start().await;
    let mut setup = place.setup();
    let short = Duration::from_millis(200);
    setup.patience = Patience { response: short, progress: short, retries: 1, ..setup.patience };
    let store = Store::open(&place.root().join("meta.redb")).expect("a store");
    let images = Images::open(store, setup).await.expect("images");
    let image = honest();
    server.put("a", "1", &image);
    let layer: Value = serde_json::from_slice(&image.manifest).expect("JSON");
    let layer = layer["layers"][0]["digest"].as_str().expect("text").to_owned();
    for part in [layer, image.id.to_string(), "/manifests/1".to_owned()] {
        server.script(move |seen, _| seen.path.contains(&part).then(|| stalled_after(b"{".to_vec())));
        let (kind, text) = refused(&place, &images, &reference(&server, "a:1")).await;
        assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    }
    works(&images, &server).await;
}

#[tokio::test]
async fn a_bomb_ends_with_its_pull() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    // 4 GiB of zeros in a few MiB; the archive's own size is a lie, so that it never ends well.
    let mut tar = Tar::new().file("first", "x").end();
    tar.truncate(1024);
    let header =
        Tar::new().raw(b'0', b"bomb", b"", b"", |block| block[124..136].copy_from_slice(b"77777777777\0"));
    tar.extend_from_slice(&header.end()[..512]);
    tar.resize(256 << 20, 0);
    let image = Image::new(&[tar], gzip);
    server.put("a", "1", &image);
    let (kind, text) = refused(&place, &images, &reference(&server, "a:1")).await;
    assert!(kind == ErrorKind::Refused && text.contains("ends in the middle"), "{text}");
    works(&images, &server).await;
}
