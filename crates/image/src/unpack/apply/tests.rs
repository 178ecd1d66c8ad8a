//! Archives of friends and enemies, applied without the child's confinement: the paths alone must
//! keep them inside. As root.

use super::*;
use crate::{scratch::Scratch, tarball::Reader};
use std::{
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt, symlink},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};
use sys::rustix::fs::lgetxattr;

/// The same tar builder as the suites'.
#[path = "../../../tests/support/tar.rs"]
mod tar;
use tar::Tar;

struct Ground {
    scratch: Scratch,
}

impl Ground {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(&format!("apply-{name}"));
        for dir in ["layer", "canary", "canary/d"] {
            std::fs::create_dir(scratch.path().join(dir)).expect("mkdir");
        }
        std::fs::File::create(scratch.path().join("canary/f")).expect("file");
        std::fs::set_permissions(scratch.path().join("canary/f"), PermissionsExt::from_mode(0o640))
            .expect("chmod");
        Self { scratch }
    }

    fn layer(&self) -> PathBuf {
        self.scratch.path().join("layer")
    }

    fn canary(&self) -> String {
        self.scratch.path().join("canary").display().to_string()
    }

    fn apply(&self, tar: &Tar) -> Result<Unpacked, ApplyError> {
        let bytes = tar.end();
        let root = RootFd::open(self.layer()).expect("open");
        let done = Applier::new(root).run(&mut Reader::new(bytes.as_slice()));
        self.check_canary();
        done
    }

    fn check_canary(&self) {
        let canary = self.scratch.path().join("canary");
        let mut names: Vec<_> =
            std::fs::read_dir(&canary).expect("list").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["d", "f"]);
        assert_eq!(std::fs::read_dir(canary.join("d")).expect("list").count(), 0);
        let file = canary.join("f").metadata().expect("stat");
        assert_eq!((file.mode() & 0o7777, file.len(), file.nlink()), (0o640, 0, 1));
        assert_eq!(canary.join("d").metadata().expect("stat").mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read_dir(self.scratch.path()).expect("list").count(), 2);
    }

    fn stat(&self, name: &str) -> std::fs::Metadata {
        self.layer().join(name).symlink_metadata().expect(name)
    }
}

fn is_whiteout(stat: &std::fs::Metadata) -> bool {
    stat.file_type().is_char_device() && stat.rdev() == 0
}

#[test]
fn kinds_modes_owners_times_and_links_are_as_declared() {
    let ground = Ground::new("kinds");
    let tar = Tar::new()
        .dir("./")
        .mode(b'5', "d/", 0o2775)
        .owned(b'0', "d/setuid", 0o4755, 1000, 2000)
        .hard_link("d/hard", "d/setuid")
        .symlink("d/link", "/anywhere/else")
        .device(b'3', "d/null", 1, 3)
        .device(b'4', "d/disk", 8, 1)
        .mode(b'6', "d/pipe", 0o620)
        .mode(b'5', "t/", 0o1777)
        .pax(&[("mtime", b"5.000000007"), ("uid", b"70000"), ("gid", b"80000")])
        .file("late", "content");
    let facts = ground.apply(&tar).expect("good");
    assert_eq!((facts.entries, facts.dropped), (10, 0));
    let setuid = ground.stat("d/setuid");
    assert_eq!((setuid.mode() & 0o7777, setuid.uid(), setuid.gid(), setuid.nlink()), (0o4755, 1000, 2000, 2));
    assert_eq!(ground.stat("d/hard").ino(), setuid.ino());
    assert_eq!(ground.stat("d").mode() & 0o7777, 0o2775);
    assert_eq!(ground.stat("d").mtime(), 10, "the time of a directory is set after its content");
    assert_eq!(ground.stat("t").mode() & 0o7777, 0o1777);
    assert_eq!(
        std::fs::read_link(ground.layer().join("d/link")).expect("link"),
        PathBuf::from("/anywhere/else")
    );
    let (null, disk) = (ground.stat("d/null"), ground.stat("d/disk"));
    assert!(null.file_type().is_char_device() && null.rdev() == fs::makedev(1, 3));
    assert!(disk.file_type().is_block_device() && disk.rdev() == fs::makedev(8, 1));
    assert!(ground.stat("d/pipe").file_type().is_fifo());
    let late = ground.stat("late");
    assert_eq!((late.uid(), late.gid(), late.mtime(), late.mtime_nsec()), (70000, 80000, 5, 7));
    assert_eq!(late.mode() & 0o7777, 0o644, "neither umask nor a set-gid parent changes it");
}

#[test]
fn missing_parents_are_made() {
    let ground = Ground::new("parents");
    ground.apply(&Tar::new().file("a/b/c/f", "x")).expect("good");
    assert_eq!(ground.stat("a/b").mode() & 0o7777, 0o755);
    assert_eq!(ground.stat("a/b").uid(), 0);
}

#[test]
fn names_that_lead_out_or_nowhere_are_refused() {
    for name in ["..", "../x", "a/../../x", "a/..", "", "/../x"] {
        let ground = Ground::new("names");
        let refused = ground.apply(&Tar::new().file(name, "x"));
        assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{name:?}: {refused:?}");
    }
    for root in [".", "./", "/", "././/"] {
        let ground = Ground::new("root");
        for tar in [
            Tar::new().symlink(root, &ground.canary()),
            Tar::new().hard_link(root, "x"),
            Tar::new().file(root, ""),
        ] {
            let refused = ground.apply(&tar);
            // A trailing slash makes a V7 file a directory; ours are ustar and stay what they are.
            assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{root:?}: {refused:?}");
        }
    }
    let ground = Ground::new("long");
    let deep = "d/".repeat(10_000);
    let refused = ground.apply(&Tar::new().pax(&[("path", deep.as_bytes())]).dir("x"));
    assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{refused:?}");
    let wide = "n".repeat(65_536);
    let refused = ground.apply(&Tar::new().pax(&[("path", wide.as_bytes())]).file("x", ""));
    assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{refused:?}");
    let odd = ground.apply(&Tar::new().raw(b'0', b"/abs/\xff\xfe name\n", b"", b"x", |_| ()));
    assert!(odd.is_ok(), "any bytes but NUL and slash are a name: {odd:?}");
}

#[test]
fn a_planted_link_never_redirects_what_comes_after_it() {
    let canary = |ground: &Ground| ground.canary();
    let ground = Ground::new("planted-dir");
    let target = canary(&ground);
    ground.apply(&Tar::new().symlink("d", &target).mode(b'5', "d", 0o777)).expect("replaced");
    assert!(ground.stat("d").is_dir());
    let ground = Ground::new("planted-file");
    let file = format!("{}/f", canary(&ground));
    ground.apply(&Tar::new().symlink("f", &file).file("f", "new").mode(b'0', "f", 0o777)).expect("replaced");
    assert!(ground.stat("f").is_file());
    // Through a link, a member lands where the link leads inside the layer.
    let ground = Ground::new("planted-parent");
    let target = canary(&ground);
    ground
        .apply(&Tar::new().symlink("l", &target).file("l/inside", "x").file("l/.wh.f", ""))
        .expect("confined");
    assert!(ground.layer().join(&target[1..]).join("inside").is_file());
    let ground = Ground::new("planted-up");
    ground.apply(&Tar::new().symlink("up", "../../../../canary").file("up/x", "x")).expect("confined");
    assert!(ground.layer().join("canary/x").is_file());
    let ground = Ground::new("planted-loop");
    let refused = ground.apply(&Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "x"));
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn a_hard_link_reaches_only_files_of_its_own_layer() {
    let ground = Ground::new("hard");
    let file = format!("{}/f", ground.canary());
    let up = format!("../../..{file}");
    std::fs::File::create(ground.layer().join("here")).expect("file");
    for target in [file.as_str(), &up, "../canary/f", "missing", "self", "", "dir", "link/f", "gone"] {
        let tar = Tar::new()
            .dir("dir")
            .symlink("link", &ground.canary())
            .file(".wh.gone", "")
            .hard_link("self", target);
        let refused = ground.apply(&tar);
        assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{target:?}: {refused:?}");
        sys::tree::remove_path(&ground.layer()).expect("clear");
        std::fs::create_dir(ground.layer()).expect("mkdir");
    }
    // A link to a link is a second name of the link itself.
    let tar = Tar::new().symlink("link", &file).hard_link("second", "link").mode(b'0', "second", 0o777);
    ground.apply(&tar).expect("confined");
}

#[test]
fn whiteouts_become_devices_and_opaque_marks_and_spare_this_layer() {
    let ground = Ground::new("whiteouts");
    let tar = Tar::new()
        .file("d/.wh.gone", "")
        .file("d/kept", "x")
        .file("d/.wh.kept", "")
        .file("d/.wh.back", "")
        .file("d/back", "x")
        .dir("own")
        .file("d2/.wh..wh..opq", "")
        .file("d2/x", "")
        .file(".wh.own", "")
        .file(".wh.dir", "")
        .file("dir/new", "")
        .dir("again")
        .file("e/.wh.f", "")
        .dir("e/f");
    let facts = ground.apply(&tar).expect("good");
    assert!(is_whiteout(&ground.stat("d/gone")));
    assert!(ground.stat("d/kept").is_file() && ground.stat("d/back").is_file());
    assert!(ground.stat("dir/new").is_file() && ground.stat("e/f").is_dir());
    let mut opaque: Vec<Vec<u8>> =
        facts.opaque.iter().map(|text| super::super::report::text_to_path(text).expect("base64")).collect();
    opaque.sort();
    assert_eq!(opaque, [b"d2".to_vec(), b"dir".to_vec(), b"e/f".to_vec(), b"own".to_vec()]);
    assert!(!facts.opaque_root);
    let facts = Ground::new("opaque-root").apply(&Tar::new().file(".wh..wh..opq", "")).expect("good");
    assert!(facts.opaque_root && facts.opaque.is_empty());
}

#[test]
fn whiteouts_of_the_root_or_of_nothing_are_refused_and_aufs_names_left_out() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh..."] {
        let refused = Ground::new("bad-whiteout").apply(&Tar::new().file(name, ""));
        assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{name}: {refused:?}");
    }
    let ground = Ground::new("aufs");
    let facts = ground.apply(&Tar::new().dir(".wh..wh.plnk").file(".wh..wh.aufs", "")).expect("left out");
    assert_eq!((facts.dropped, std::fs::read_dir(ground.layer()).expect("list").count()), (2, 0));
    let ground = Ground::new("whiteout-through-link");
    let tar = Tar::new().symlink("etc", &ground.canary()).file("etc/.wh.f", "").file("etc/.wh..wh..opq", "");
    ground.apply(&tar).expect("confined");
}

#[test]
fn overlayfs_control_data_of_an_image_is_never_applied() {
    let ground = Ground::new("overlay");
    let records: [(&str, &[u8]); 7] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/canary"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.mine", b"kept\0whole"),
        (
            "SCHILY.xattr.security.capability",
            b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        ),
    ];
    let tar = Tar::new()
        .pax(&records)
        .owned(b'0', "f", 0o755, 5, 5)
        .device(b'3', "whiteout", 0, 0)
        .dir("d")
        .device(b'3', "d/whiteout", 0, 0);
    let facts = ground.apply(&tar).expect("good");
    assert_eq!(facts.dropped, 5 + 2);
    assert!(!ground.layer().join("whiteout").try_exists().expect("stat"));
    let mut value = [0; 64];
    let file = ground.layer().join("f");
    let length = lgetxattr(&file, "user.mine", &mut value).expect("kept");
    assert_eq!(&value[..length], b"kept\0whole");
    assert_eq!(lgetxattr(&file, "security.capability", &mut value).expect("set after chown"), 20);
    for gone in ["trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque"] {
        assert!(lgetxattr(&file, gone, &mut value).is_err(), "{gone}");
    }
}

#[test]
fn device_numbers_and_owners_that_do_not_fit_are_refused_before_anything_is_made() {
    let wide = 1_i64 << 32;
    for (major, minor) in
        [(wide + 1, 1), (1, wide + 1), (i64::MAX >> 8, 0), (-1, 0), (0, -1), (4096, 0), (1, 1 << 20)]
    {
        for flag in [b'3', b'4'] {
            let ground = Ground::new("device");
            let refused = ground.apply(&Tar::new().device(flag, "node", major, minor));
            assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{major}:{minor}: {refused:?}");
            assert_eq!(std::fs::read_dir(ground.layer()).expect("list").count(), 0);
        }
    }
    for id in ["4294967295", "4294967296", "9223372036854775807"] {
        for key in ["uid", "gid"] {
            let refused = Ground::new("owner").apply(&Tar::new().pax(&[(key, id.as_bytes())]).file("f", ""));
            assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{key} {id}: {refused:?}");
        }
    }
}

#[test]
fn members_that_come_twice_replace_and_directories_stay() {
    let ground = Ground::new("twice");
    let tar = Tar::new()
        .file("a", "first")
        .file("a", "second")
        .dir("d")
        .file("d/x", "x")
        .mode(b'5', "d", 0o700)
        .dir("gone")
        .file("gone/x", "x")
        .file("gone", "now a file")
        .file("parent/x", "x")
        .symlink("parent", "d")
        .file("parent/y", "y");
    ground.apply(&tar).expect("good");
    assert_eq!(std::fs::read_to_string(ground.layer().join("a")).expect("read"), "second");
    assert!(ground.stat("d/x").is_file() && ground.stat("gone").is_file());
    assert_eq!(ground.stat("d").mode() & 0o7777, 0o700);
    assert!(ground.stat("d/y").is_file(), "a stale directory was written to");
    let refused = Ground::new("under-file").apply(&Tar::new().file("f", "").file("f/x", ""));
    assert!(matches!(refused, Err(ApplyError::Refused { .. })), "{refused:?}");
}

#[test]
fn repeated_opaque_markers_cost_no_walks() {
    let ground = Ground::new("markers");
    let mut tar = Tar::new();
    for n in 0..10_000 {
        tar = tar.file(&format!("d/{n}"), "").file("d/.wh..wh..opq", "").file("d/s/.wh..wh..opq", "");
    }
    let facts = ground.apply(&tar).expect("good");
    assert_eq!((facts.entries, facts.opaque.len()), (30_000, 2));
    assert_eq!(std::fs::read_dir(ground.layer().join("d")).expect("list").count(), 10_001);
}

#[test]
fn a_directory_swapped_for_a_link_while_unpacking_leads_nowhere() {
    let ground = Ground::new("swap");
    let layer = ground.layer();
    std::fs::create_dir(layer.join("a")).expect("mkdir");
    symlink(ground.canary(), layer.join("b")).expect("link");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = RootFd::open(&layer).expect("open");
            while !done.load(Ordering::Relaxed) {
                // EXCHANGE needs both names; the unpacking may just have replaced one.
                let _ = fs::renameat_with(&dir, "a", &dir, "b", fs::RenameFlags::EXCHANGE);
            }
        });
        for round in 0..300 {
            let mut tar = Tar::new();
            for n in 0..20 {
                tar = tar
                    .file(&format!("a/{round}-{n}"), "x")
                    .file(&format!("b/.wh.{n}"), "")
                    .dir(&format!("b/d{n}"));
            }
            // Either outcome is fine; only the canary counts.
            let _ = ground.apply(&tar);
        }
        done.store(true, Ordering::Relaxed);
    });
}
