//! Binds with restrictions, and with ids that are mapped.

use crate::bundle::Bundle;
use serde_json::json;
use std::{fs, os::unix::fs::chown, path::PathBuf};
use sys::rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A directory with a tmpfs mounted in it, taken away at the end.
struct Nested(PathBuf);

impl Nested {
    fn new(bundle: &Bundle) -> Nested {
        let volume = bundle.dir.join("volume");
        fs::create_dir_all(volume.join("beneath")).expect("mkdir");
        mount("tmpfs", volume.join("beneath"), "tmpfs", MountFlags::empty(), None).expect("mount");
        Nested(volume)
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        unmount(self.0.join("beneath"), UnmountFlags::DETACH).expect("unmount");
    }
}

#[test]
fn ids_on_disk_are_seen_as_the_mapping_says() {
    let mut bundle = Bundle::sh("stat -c '%n %u:%g' /volume/*; touch /volume/new");
    let volume = bundle.dir.join("volume");
    fs::create_dir(&volume).expect("mkdir");
    chown(&volume, Some(1000), Some(2000)).expect("chown");
    for (name, uid, gid) in [("a", 1000, 2000), ("b", 1001, 2001), ("c", 5, 5)] {
        fs::File::create(volume.join(name)).expect("create");
        chown(volume.join(name), Some(uid), Some(gid)).expect("chown");
    }
    let line = |inside: u32| json!([{ "containerID": inside, "hostID": 0, "size": 2 }]);
    bundle.mount(json!({
        "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"],
        "uidMappings": line(1000), "gidMappings": line(2000)
    }));
    // 65534 is what cannot be said.
    assert_eq!(bundle.run_well().out, "/volume/a 0:0\n/volume/b 1:1\n/volume/c 65534:65534\n");
    let made = fs::metadata(volume.join("new")).expect("stat");
    use std::os::unix::fs::MetadataExt;
    assert_eq!((made.uid(), made.gid()), (1000, 2000), "what root makes inside has the mapped owner");
}

#[test]
fn a_restriction_with_r_holds_for_the_mounts_beneath_too() {
    let mut bundle = Bundle::sh("touch /ro/x; touch /ro/beneath/x; touch /rro/x; touch /rro/beneath/x; true");
    let volume = Nested::new(&bundle);
    for (at, option) in [("/ro", "ro"), ("/rro", "rro")] {
        bundle.mount(
            json!({ "destination": at, "type": "bind", "source": volume.0, "options": ["rbind", option] }),
        );
    }
    let said = bundle.run_well().err;
    for (path, refused) in
        [("/ro/x", true), ("/ro/beneath/x", false), ("/rro/x", true), ("/rro/beneath/x", true)]
    {
        assert_eq!(
            said.contains(&format!("touch: {path}: Read-only file system")),
            refused,
            "{path}: {said}"
        );
    }
    let mut bundle = Bundle::sh("/volume/prog; /volume/beneath/prog; test $? = 126");
    drop(volume);
    let volume = Nested::new(&bundle);
    for dir in [volume.0.clone(), volume.0.join("beneath")] {
        fs::copy("/bin/busybox", dir.join("prog")).expect("copy");
    }
    bundle.mount(
        json!({ "destination": "/volume", "type": "bind", "source": volume.0, "options": ["rbind", "rnoexec"] }),
    );
    let said = bundle.run_well().err;
    assert_eq!(said.matches("Permission denied").count(), 2, "{said}");
}

#[test]
fn a_mapping_that_cannot_be_is_an_error_by_name_and_leaves_nothing() {
    let mut bundle = Bundle::sh("true");
    bundle.mount(json!({
        "destination": "/sysfs", "type": "bind", "source": "/sys/kernel", "options": ["bind"],
        "uidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }],
        "gidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }]
    }));
    let refused = bundle.run();
    assert!(refused.code != 0 && refused.err.contains("mount /sysfs: map its ids"), "{}", refused.err);
    assert_eq!(bundle.leftovers(), [] as [PathBuf; 0]);
    let last = bundle.spec["mounts"].as_array().expect("mounts").len() - 1;
    // Twice the same id inside.
    bundle.spec["mounts"][last]["uidMappings"] =
        json!([{ "containerID": 0, "hostID": 1, "size": 1 }, { "containerID": 0, "hostID": 9, "size": 1 }]);
    let refused = bundle.run();
    assert!(refused.code != 0 && refused.err.contains("make a user namespace"), "{}", refused.err);
}
