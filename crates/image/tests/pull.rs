//! Pulls from a registry that keeps to the rules, and what is on the disk after them.

#![allow(clippy::tests_outside_test_module, reason = "cargo builds this whole file for tests only")]
#![allow(clippy::disallowed_methods, reason = "tests read and remove their own directories by path")]

mod support;

use image::{ErrorKind, ImageUser, Images, Progress};
use serde_json::json;
use std::{collections::BTreeSet, path::Path, time::Duration};
use support::{
    Place,
    build::{Image, OCI_INDEX, Tar, gzip, zstd},
    server::{Server, stalled_after},
    shape,
};
use types::{ContainerId, ImageRef};

fn reference(server: &Server, rest: &str) -> ImageRef {
    ImageRef::parse(&format!("{}/{rest}", server.host())).expect("a reference")
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![
        Tar::new().dir("etc/").file("etc/a", "low").file("etc/gone", "x").end(),
        Tar::new().dir("etc/").file("etc/a", "high").file("etc/.wh.gone", "").end(),
    ]
}

/// A layer of one file, whose blob is long enough to come in pieces.
fn large(name: &str) -> Vec<u8> {
    let noise: String =
        (0..200_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    Tar::new().file(name, &noise).end()
}

async fn pulled(images: &Images, name: &ImageRef) -> types::Digest {
    images.pull(name, None).done().await.expect("pulled")
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_listed_found_and_removed() {
    let place = Place::new();
    let server = Server::start().await;
    let image = Image::new(&two_layers(), gzip);
    server.put("a/b", "1", &image);
    let images = place.open().await;
    let name = reference(&server, "a/b:1");
    let id = pulled(&images, &name).await;
    assert_eq!(id, image.id);
    let listed = images.list(None);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags, [name.to_string()]);
    let by_digest = format!("{}/a/b@{}", server.host(), image.digest());
    assert_eq!(listed[0].repo_digests, [by_digest.as_str()]);
    assert!(listed[0].size > 0);
    for text in [id.as_str(), id.hex(), &id.hex()[..12], &name.to_string(), &by_digest] {
        assert_eq!(images.status(text).expect(text).as_ref(), Some(&listed[0]), "{text}");
        assert_eq!(images.list(Some(text)), listed, "{text}");
    }
    assert_eq!(images.list(Some(&format!("{}/a/b", server.host()))), listed);
    assert_eq!(images.list(Some("other")), []);
    assert_eq!(images.config(&id).expect("read").as_ref(), image.blobs.get(id.as_str()));
    let resolved = images.resolve(&name.to_string()).expect("resolved");
    assert_eq!(resolved.image_ref, by_digest);
    assert_eq!(
        shape(&resolved.layers[0]),
        ["etc dir 755 0:0", "etc/a file `low` x1 644 0:0 @10.0", "etc/gone file `x` x1 644 0:0 @10.0"]
    );
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

#[tokio::test]
async fn annotations_of_layers_change_nothing() {
    // Keys that other runtimes' stores and snapshotters obey.
    const KEYS: [&str; 6] = [
        "containerd.io/snapshot/uidmapping",
        "containerd.io/snapshot/gidmapping",
        "containerd.io/snapshot/overlay.opaque",
        "containerd.io/uncompressed",
        "containerd.io/distribution.source.example.com",
        "org.opencontainers.image.ref.name",
    ];
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let layer = Tar::new().dir("etc/").owned(b'0', "etc/a", 0o4755, 1, 2).end();
    let plain = Image::new(std::slice::from_ref(&layer), gzip);
    let annotated = Image::new(&[layer], zstd).changed(|manifest| {
        for key in KEYS {
            manifest["layers"][0]["annotations"][key] = json!("0:100000:65536");
            manifest["annotations"][key] = json!("0:100000:65536");
            manifest["config"]["annotations"][key] = json!("0:100000:65536");
        }
    });
    let mut shapes = Vec::new();
    for (tag, image) in [("plain", &plain), ("annotated", &annotated)] {
        server.put("a", tag, image);
        let name = reference(&server, &format!("a:{tag}"));
        pulled(&images, &name).await;
        let resolved = images.resolve(&name.to_string()).expect("resolved");
        shapes.push(shape(&resolved.layers[0]));
        // Each is unpacked for itself.
        images.remove(&name.to_string()).await.expect("removed");
        images.settled().await;
    }
    assert!(shapes[0].iter().any(|line| line.starts_with("etc/a file") && line.contains(" 4755 1:2")));
    assert_eq!(shapes[0], shapes[1]);
}

#[tokio::test]
async fn indexes_docker_manifests_and_all_compressions_are_taken() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let plain: fn(&[u8]) -> Vec<u8> = <[u8]>::to_vec;
    for (tag, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd), ("plain", plain)] {
        let image = Image::new(&two_layers(), compress);
        server.put("a", tag, &image);
        assert_eq!(pulled(&images, &reference(&server, &format!("a:{tag}"))).await, image.id);
    }
    assert_eq!(images.list(None).len(), 1, "the same configuration is the same image");
    let image = Image::new(&[Tar::new().file("x", "index").end()], gzip);
    server.put("b", "inner", &image);
    server.put_manifest("b", "latest", OCI_INDEX, &image.index());
    assert_eq!(pulled(&images, &reference(&server, "b")).await, image.id);
    let status = images.status(&reference(&server, "b").to_string()).expect("a name").expect("an image");
    let digest = support::build::digest(&image.index());
    assert_eq!(status.repo_digests, [format!("{}/b@{digest}", server.host())]);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let mut image = Image::new(&[Tar::new().file("x", "docker").end()], gzip).changed(|manifest| {
        manifest["mediaType"] = json!(docker);
        manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
        manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    });
    image.media_type = docker;
    server.put("c", "1", &image);
    assert_eq!(pulled(&images, &reference(&server, "c:1")).await, image.id);
}

#[tokio::test]
async fn the_same_image_by_several_names_is_one_and_goes_as_one() {
    let place = Place::new();
    let (one, two) = (Server::start().await, Server::start().await);
    let image = Image::new(&two_layers(), gzip);
    one.put("a", "1", &image);
    one.put("a", "2", &image);
    two.put("b", "1", &image);
    let images = place.open().await;
    let by_digest = reference(&two, &format!("b@{}", image.digest()));
    for name in [reference(&one, "a:1"), reference(&one, "a:2"), by_digest] {
        assert_eq!(pulled(&images, &name).await, image.id);
    }
    let listed = images.list(None);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags, [reference(&one, "a:1").to_string(), reference(&one, "a:2").to_string()]);
    assert_eq!(listed[0].repo_digests.len(), 2);
    assert_eq!(two.count("/blobs/"), 0, "the content was here");
    images.remove(&reference(&one, "a:2").to_string()).await.expect("removed");
    assert_eq!(images.list(None), []);
    assert!(images.status(&reference(&one, "a:1").to_string()).expect("a name").is_none());
}

#[tokio::test]
async fn a_tag_moves_to_the_image_that_it_names_now() {
    let place = Place::new();
    let server = Server::start().await;
    let (old, new) = (Image::new(&two_layers(), gzip), Image::new(&two_layers()[..1], gzip));
    let images = place.open().await;
    let name = reference(&server, "a:1");
    server.put("a", "1", &old);
    pulled(&images, &name).await;
    server.put("a", "1", &new);
    assert_eq!(pulled(&images, &name).await, new.id);
    let before = images.status(old.id.as_str()).expect("an id").expect("still here");
    assert_eq!((before.repo_tags.len(), before.repo_digests.len()), (0, 1));
    assert_eq!(images.resolve(&name.to_string()).expect("resolved").id, new.id);
    drop(images);
    let images = place.open().await;
    assert_eq!(images.resolve(&name.to_string()).expect("resolved").id, new.id);
    images.remove(new.id.as_str()).await.expect("removed");
    assert_eq!(images.list(None).len(), 1);
}

#[tokio::test]
async fn pulls_of_one_image_and_of_one_layer_are_done_once() {
    let place = Place::new();
    let server = Server::start().await;
    let shared = large("shared");
    let image = Image::new(&[shared.clone(), Tar::new().file("a", "a").end()], gzip);
    let other = Image::new(&[shared, Tar::new().file("b", "b").end()], gzip);
    server.put("a", "1", &image);
    server.put("b", "1", &other);
    let images = place.open().await;
    let pulls: Vec<_> = (0..20)
        .map(|n| images.pull(&reference(&server, if n % 2 == 0 { "a:1" } else { "b:1" }), None))
        .collect();
    for (n, pull) in pulls.into_iter().enumerate() {
        assert_eq!(
            pull.done().await.expect("pulled"),
            if n % 2 == 0 { image.id.clone() } else { other.id.clone() }
        );
    }
    let log = server.log();
    let blobs: Vec<&str> =
        log.iter().map(|seen| seen.path.as_str()).filter(|path| path.contains("/blobs/")).collect();
    let shared_blob = serde_json::from_slice::<serde_json::Value>(&image.manifest).expect("JSON")["layers"]
        [0]["digest"]
        .clone();
    let shared_count =
        blobs.iter().filter(|path| path.ends_with(shared_blob.as_str().expect("text"))).count();
    assert_eq!((blobs.len(), shared_count), (5, 1), "{blobs:?}");
    assert_eq!(server.count("/manifests/"), 2);
    images.remove(image.id.as_str()).await.expect("removed");
    images.settled().await;
    assert_eq!(place.layers().len(), 2);
    for layer in images.resolve(other.id.as_str()).expect("whole").layers {
        assert!(layer.is_dir(), "{layer:?}");
    }
}

#[tokio::test]
async fn layers_that_a_container_holds_outlive_their_image_and_a_restart() {
    let place = Place::new();
    let server = Server::start().await;
    let image = Image::new(&two_layers(), gzip);
    server.put("a", "1", &image);
    let images = place.open().await;
    pulled(&images, &reference(&server, "a:1")).await;
    let container = ContainerId::from_random([3; 32]);
    let resolved = images.resolve_and_hold(image.id.as_str(), &container).expect("resolved");
    images.remove(image.id.as_str()).await.expect("removed");
    images.settled().await;
    assert_eq!(place.layers().len(), 2);
    drop(images);
    let images = place.open().await;
    images.hold(&container, &resolved.layer_ids);
    images.collect().await.expect("collected");
    images.settled().await;
    assert_eq!(place.layers().len(), 2);
    images.release(&container);
    images.collect().await.expect("collected");
    images.settled().await;
    assert!(place.layers().is_empty());
}

#[tokio::test]
async fn a_restart_sweeps_what_has_no_record_and_forgets_what_has_no_directory() {
    let place = Place::new();
    let server = Server::start().await;
    let (kept, lost) = (Image::new(&two_layers()[..1], gzip), Image::new(&[large("x")], gzip));
    server.put("kept", "1", &kept);
    server.put("lost", "1", &lost);
    let images = place.open().await;
    pulled(&images, &reference(&server, "kept:1")).await;
    pulled(&images, &reference(&server, "lost:1")).await;
    let gone = images.resolve(lost.id.as_str()).expect("resolved").layers.remove(0);
    let stays = images.resolve(kept.id.as_str()).expect("resolved").layers.remove(0);
    drop(images);
    std::fs::remove_dir_all(gone).expect("lost");
    let layers = place.root().join("layers");
    std::fs::create_dir_all(layers.join("77/half/done")).expect("mkdir");
    support::put(&layers.join("spool-3"), b"rest");
    let images = place.open().await;
    images.settled().await;
    assert_eq!(images.list(None).iter().map(|image| image.id.clone()).collect::<Vec<_>>(), [kept.id]);
    let name = stays.file_name().expect("a number").to_str().expect("text").to_owned();
    assert_eq!(place.layers(), BTreeSet::from([name]));
    assert_eq!(pulled(&images, &reference(&server, "lost:1")).await, lost.id, "a new pull repairs");
    assert!(place.layers().contains("78"), "no number comes twice: {:?}", place.layers());
}

#[tokio::test]
async fn opaque_directories_carry_their_mark_and_an_opaque_root_cuts_the_stack() {
    use sys::rustix::fs::lgetxattr;
    let place = Place::new();
    let server = Server::start().await;
    let layers = [
        Tar::new().file("low", "x").end(),
        Tar::new().file(".wh..wh..opq", "").file("d/.wh..wh..opq", "").file("d/x", "").end(),
        Tar::new().file("low", "x").end(),
    ];
    let image = Image::new(&layers, gzip);
    server.put("a", "1", &image);
    let images = place.open().await;
    pulled(&images, &reference(&server, "a:1")).await;
    let resolved = images.resolve(image.id.as_str()).expect("resolved");
    assert_eq!(resolved.layer_ids, [image.diff_ids[1].clone(), image.diff_ids[2].clone()]);
    let mut value = [0; 8];
    let length =
        lgetxattr(resolved.layers[0].join("d"), "trusted.overlay.opaque", &mut value).expect("marked");
    assert_eq!(&value[..length], b"y");
}

#[tokio::test]
async fn directories_that_a_layer_does_not_list_keep_what_they_are_beneath() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new();
    let server = Server::start().await;
    let layers = [
        Tar::new()
            .mode(b'5', "tmp", 0o1777)
            .owned(b'5', "home", 0o750, 1000, 2000)
            .dir("home/d")
            .symlink("l", "home")
            .end(),
        Tar::new()
            .file("tmp/x", "")
            .file("home/d/x", "")
            .file("new/x", "")
            .file("l/x", "")
            .mode(b'5', "home/d", 0o711)
            .end(),
        Tar::new().file("home/y", "").file("tmp/.wh.x", "").end(),
    ];
    let image = Image::new(&layers, gzip);
    server.put("a", "1", &image);
    let images = place.open().await;
    pulled(&images, &reference(&server, "a:1")).await;
    let stack = images.resolve(image.id.as_str()).expect("resolved").layers;
    let found = |layer: usize, name: &str| {
        let stat = stack[layer].join(name).symlink_metadata().expect(name);
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    };
    for layer in [1, 2] {
        assert_eq!(found(layer, "tmp"), (0o1777, 0, 0));
        assert_eq!(found(layer, "home"), (0o750, 1000, 2000));
    }
    assert_eq!(found(1, "home/d"), (0o711, 0, 0), "it is listed");
    assert_eq!(found(1, "new"), (0o755, 0, 0));
    drop(images);
    let images = place.open().await;
    assert_eq!(images.list(None).len(), 1);
}

#[tokio::test]
async fn progress_and_the_images_user_are_told() {
    let place = Place::new();
    let server = Server::start().await;
    let image = Image::with_config(&[large("x"), two_layers().remove(0)], gzip, &json!({"User": "1002:5"}));
    server.put("a", "1", &image);
    let images = place.open().await;
    let pull = images.pull(&reference(&server, "a:1"), None);
    let progress = pull.progress();
    pull.done().await.expect("pulled");
    let Progress { layers, layers_done, bytes, bytes_done } = *progress.borrow();
    assert_eq!((layers, layers_done, bytes_done), (2, 2, bytes));
    assert!(bytes > 100_000, "{bytes}");
    assert_eq!(images.list(None)[0].user, ImageUser::Uid(1002));
}

#[tokio::test]
async fn names_that_are_not_here_are_told_as_such() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let error = images.pull(&reference(&server, "none:1"), None).done().await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(images.resolve("none").expect_err("none").kind(), ErrorKind::NotFound);
    assert_eq!(images.status("").expect_err("no name").kind(), ErrorKind::Invalid);
    images.remove("12345678-1234-1234-1234-123456789012").await.expect("idempotent");
    let nobody = ImageRef::parse("127.0.0.1:1/a").expect("a reference");
    let error = images.pull(&nobody, None).done().await.expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// A pull that has come to a stop in the middle of a layer, with the first file of it written.
async fn half_way(place: &Place, server: &Server, images: &Images) -> image::Pulling {
    let layer = [Tar::new().file("first", "written").end(), large("second")];
    let joined = [&layer[0][..1024], &layer[1]].concat();
    let image = Image::new(&[joined], <[u8]>::to_vec);
    server.put("half", "1", &image);
    let blob = image.blobs.get(image.diff_ids[0].as_str()).expect("plain").clone();
    let path = format!("/blobs/{}", image.diff_ids[0]);
    server
        .script(move |seen, _| seen.path.ends_with(&path).then(|| stalled_after(blob[..1_500_000].to_vec())));
    let pull = images.pull(&reference(server, "half:1"), None);
    let layers = place.root().join("layers");
    until(|| files(&layers).iter().any(|name| name.ends_with("first"))).await;
    pull
}

fn files(dir: &Path) -> Vec<String> {
    shape(dir).into_iter().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

/// Waits for something that no event tells.
async fn until(mut what: impl FnMut() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes to pass");
}

/// The two processes that unpack beneath `layers`: the outer one works there, the inner one is its child.
fn unpacking(layers: &Path) -> (Vec<u32>, Vec<u32>) {
    let all: Vec<u32> = std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let works_there =
        |pid: &u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(layers));
    let outer: Vec<u32> = all.iter().copied().filter(works_there).collect();
    let parent = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse::<u32>().ok()
    };
    let inner = all.into_iter().filter(|pid| parent(pid).is_some_and(|p| outer.contains(&p))).collect();
    (outer, inner)
}

#[tokio::test]
async fn the_unpacking_child_is_confined() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let pull = half_way(&place, &server, &images).await;
    let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("own namespace");
    let (_, confined) = unpacking(&place.root().join("layers"));
    assert_eq!(confined.len(), 1);
    let proc = format!("/proc/{}", confined[0]);
    for kind in ["mnt", "net", "ipc", "pid"] {
        assert_ne!(std::fs::read_link(format!("{proc}/ns/{kind}")).expect("namespace"), own(kind), "{kind}");
    }
    assert_eq!(std::fs::read_link(format!("{proc}/ns/user")).expect("namespace"), own("user"));
    let status = std::fs::read_to_string(format!("{proc}/status")).expect("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim_start_matches(':').trim().to_owned()
    };
    // CHOWN DAC_OVERRIDE FOWNER FSETID MKNOD SETFCAP
    let six = format!("{:016x}", 1_u64 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31);
    for (name, wanted) in [
        ("CapEff", six.as_str()),
        ("CapPrm", &six),
        ("CapBnd", &six),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(field(name), wanted, "{name}");
    }
    let mounts = std::fs::read_to_string(format!("{proc}/mountinfo")).expect("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "only the layer's directory is mounted: {mounts}");
    drop(pull);
}

#[tokio::test]
async fn a_pull_that_everybody_left_ends_and_takes_its_partial_layer_with_it() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let pull = half_way(&place, &server, &images).await;
    let second = images.pull(&reference(&server, "half:1"), None);
    drop(pull);
    assert_eq!(place.layers().len(), 1, "the second caller still waits");
    drop(second);
    until(|| place.layers().is_empty()).await;
    images.settled().await;
    assert_eq!(unpacking(&place.root().join("layers")), (Vec::new(), Vec::new()));
    assert_eq!(images.list(None), []);
}

#[tokio::test]
async fn a_sweep_waits_for_the_child_of_a_daemon_that_was_killed() {
    use sys::rustix::fs::{FlockOperation, flock};
    let place = Place::new();
    let layer = place.root().join("layers/7");
    std::fs::create_dir_all(&layer).expect("mkdir");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_peapod-unpack"))
        .current_dir(&layer)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a child");
    let dir = std::fs::File::open(&layer).expect("open");
    // Locked by the child: it is at work.
    until(|| {
        let free = flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free {
            flock(&dir, FlockOperation::Unlock).expect("unlock");
        }
        !free
    })
    .await;
    let images = place.open().await;
    assert_eq!(place.layers().len(), 1, "swept while the child was at work");
    drop(child.stdin.take());
    images.settled().await;
    assert!(place.layers().is_empty());
    child.wait().expect("reaped");
}

#[tokio::test]
async fn a_child_that_is_killed_leaves_nothing_listed() {
    let place = Place::new();
    let server = Server::start().await;
    let images = place.open().await;
    let pull = half_way(&place, &server, &images).await;
    let (outer, inner) = unpacking(&place.root().join("layers"));
    assert_eq!((outer.len(), inner.len()), (1, 1));
    for child in outer {
        let pid = i32::try_from(child).ok().and_then(sys::rustix::process::Pid::from_raw).expect("a pid");
        sys::rustix::process::kill_process(pid, sys::rustix::process::Signal::KILL).expect("killed");
    }
    let error = pull.done().await.expect_err("killed");
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    images.settled().await;
    assert!(place.layers().is_empty());
    server.script(|_, _| None);
    assert_eq!((images.list(None), images.fs_info().used_bytes), (Vec::new(), 0));
    pulled(&images, &reference(&server, "half:1")).await;
}
