//! Pulls from a registry that keeps to the rules.

#![allow(clippy::tests_outside_test_module, reason = "cargo builds this whole file for tests only")]
#![allow(clippy::disallowed_methods, reason = "tests read and remove their own directories by path")]

mod support;

use image::{ErrorKind, ImageError};
use support::{Place, build::{Image, Tar, gzip, zstd}, server::Server, shape};
use types::ImageRef;

fn reference(server: &Server, rest: &str) -> ImageRef {
    ImageRef::parse(&format!("{}/{rest}", server.host())).expect("a reference")
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![
        Tar::new().dir("etc/").file("etc/a", "low").file("etc/gone", "x").end(),
        Tar::new().dir("etc/").file("etc/a", "high").file("etc/.wh.gone", "").end(),
    ]
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_listed_found_and_removed() {
    let place = Place::new();
    let server = Server::start().await;
    let image = Image::new(&two_layers(), gzip);
    server.put("a/b", "1", &image);
    let images = place.open().await;
    let name = reference(&server, "a/b:1");
    let id = images.pull(&name, None).done().await.expect("pulled");
    assert_eq!(id, image.id);
    let listed = images.list(None);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags, [name.to_string()]);
    let by_digest = format!("{}/a/b@{}", server.host(), image.digest());
    assert_eq!(listed[0].repo_digests, [by_digest.clone()]);
    assert!(listed[0].size > 0);
    for text in [id.as_str(), id.hex(), &id.hex()[..12], &name.to_string(), &by_digest] {
        assert_eq!(images.status(text).expect(text).as_ref(), Some(&listed[0]), "{text}");
    }
    let resolved = images.resolve(&name.to_string()).expect("resolved");
    assert_eq!(resolved.layers.len(), 2);
    assert_eq!(shape(&resolved.layers[0]), ["etc dir 755 0:0", "etc/a file `low` x1 644 0:0 @10.0", "etc/gone file `x` x1 644 0:0 @10.0"]);
    let top = shape(&resolved.layers[1]);
    assert_eq!(top[1], "etc/a file `high` x1 644 0:0 @10.0");
    assert!(top[2].starts_with("etc/gone c 0:0 0 0:0"), "{top:?}");
    assert!(images.fs_info().used_bytes > 0 && images.fs_info().inodes_used >= 6);
    images.remove(&name.to_string()).await.expect("removed");
    images.remove(&name.to_string()).await.expect("again");
    assert_eq!(images.list(None), []);
    images.settled().await;
    assert!(place.layers().is_empty(), "{:?}", place.layers());
}
