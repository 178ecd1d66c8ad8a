//! Volumes: of the host and of images, seen from inside, from the host and in the status.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::disallowed_methods, reason = "a test looks at paths that it made itself")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Client, Daemon, pod, shell, story};
use sha2::{Digest as _, Sha256};
use std::{
    os::unix::fs::{MetadataExt as _, chown, symlink},
    path::{Path, PathBuf},
};
use sys::rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use tonic::{Code, Status};

const DATA: &str = "docker.io/library/data:test";
const VOLUMES: &str = "docker.io/library/volumes:test";

/// What a layer has at a path.
enum Entry {
    File(&'static str),
    Dir,
    Link(&'static str),
}

/// A docker-archive of an image with these layers, the lowest first.
fn archive(name: &str, config: serde_json::Value, layers: &[&[(&str, Entry)]]) -> Vec<u8> {
    let tars: Vec<Vec<u8>> = layers.iter().map(|entries| layer(entries)).collect();
    let digest = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
    let diff_ids: Vec<String> = tars.iter().map(|tar| format!("sha256:{}", digest(tar))).collect();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux", "config": config, "history": [],
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let names: Vec<String> = (0..tars.len()).map(|number| format!("{number}.tar")).collect();
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]);
    let mut archive = tar::Builder::new(Vec::new());
    put(&mut archive, &config_name, config.as_bytes(), 0o644);
    for (name, tar) in names.iter().zip(&tars) {
        put(&mut archive, name, tar, 0o644);
    }
    put(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644);
    archive.into_inner().expect("written to memory")
}

fn layer(entries: &[(&str, Entry)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(0);
        header.set_size(0);
        match entry {
            Entry::File(text) => put(&mut tar, path, text.as_bytes(), 0o755),
            Entry::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, path, std::io::empty()).expect("written to memory");
            }
            Entry::Link(to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, to).expect("written to memory");
            }
        }
    }
    tar.into_inner().expect("written to memory")
}

fn put(tar: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    tar.append_data(&mut header, path, data).expect("written to memory");
}

/// Two layers: the upper one removes a file of the lower, and has links that would lead out.
fn data_image() -> Vec<u8> {
    archive(
        DATA,
        serde_json::json!({}),
        &[
            &[
                ("dir/", Entry::Dir),
                ("dir/lower", Entry::File("lower\n")),
                ("dir/gone", Entry::File("gone\n")),
                ("dir/prog", Entry::File("#!/bin/sh\necho ran\n")),
            ],
            &[
                ("dir/upper", Entry::File("upper\n")),
                ("dir/.wh.gone", Entry::File("")),
                ("out", Entry::Link("/etc")),
                ("up", Entry::Link("../../../../../../etc")),
                ("in", Entry::Link("/dir")),
            ],
        ],
    )
}

/// A pod for one test, with a directory of the host's that is taken away again.
struct Case {
    daemon: Daemon,
    client: Client,
    config: cri::PodSandboxConfig,
    pod: String,
    mounted: Vec<PathBuf>,
}

impl Case {
    async fn new(name: &str) -> Case {
        let daemon = Daemon::start(name).await;
        let client = daemon.client();
        client.load(pods::busybox_archive()).await.expect("loaded");
        let config = pod(name, &daemon.cgroup(), &daemon.logs(name));
        let pod = client.run_pod(&config).await.expect("a pod");
        Case { daemon, client, config, pod, mounted: Vec::new() }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.daemon.dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    /// A tmpfs at a directory of the host's.
    fn tmpfs(&mut self, name: &str) -> PathBuf {
        let dir = self.dir(name);
        mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        self.mounted.push(dir.clone());
        dir
    }

    async fn try_run(&self, name: &str, mounts: Vec<cri::Mount>) -> Result<String, Status> {
        let mut container = shell(name, "sleep 1000");
        container.mounts = mounts;
        self.client.run(&self.pod, &self.config, &container).await
    }

    async fn run(&self, name: &str, mounts: Vec<cri::Mount>) -> String {
        self.try_run(name, mounts).await.expect("runs")
    }

    async fn refused(&self, mounts: Vec<cri::Mount>, code: Code, text: &str) {
        let error = self.try_run("refused", mounts).await.expect_err(text);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(text), "{text}: {error}");
    }

    async fn said(&self, container: &str, script: &str) -> String {
        self.client.exec(container, script, 10).await.expect("ran").0.trim().to_owned()
    }

    async fn fails(&self, container: &str, script: &str) -> bool {
        self.client.exec(container, script, 10).await.expect("ran").1 != 0
    }

    async fn end(self) {
        self.client.remove_all().await;
        self.unmount();
        self.daemon.end().await;
    }

    fn unmount(&self) {
        for dir in self.mounted.iter().rev() {
            unmount(dir, UnmountFlags::DETACH).expect("unmounted");
        }
    }
}

fn bind(host: &Path, container_path: &str) -> cri::Mount {
    cri::Mount {
        host_path: host.display().to_string(),
        container_path: container_path.to_owned(),
        ..Default::default()
    }
}

fn image(image: &str, sub_path: &str, container_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: container_path.to_owned(),
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            user_specified_image: "data".to_owned(),
            ..Default::default()
        }),
        image_sub_path: sub_path.to_owned(),
        readonly: true,
        ..Default::default()
    }
}

#[test]
fn a_recursive_read_only_mount_is_read_only_beneath_too() {
    story(async {
        let mut case = Case::new("rro").await;
        let volume = case.dir("volume");
        case.tmpfs("volume/beneath");
        let readonly = cri::Mount { readonly: true, ..bind(&volume, "/ro") };
        let recursive = cri::Mount { readonly: true, recursive_read_only: true, ..bind(&volume, "/rro") };
        let c = case.run("c", vec![readonly, recursive.clone()]).await;
        for (path, refused) in
            [("/ro/x", true), ("/ro/beneath/x", false), ("/rro/x", true), ("/rro/beneath/x", true)]
        {
            assert_eq!(case.fails(&c, &format!("touch {path}")).await, refused, "{path}");
        }
        let told = case.client.status(&c).await.expect("a status").mounts;
        assert_eq!((told[0].recursive_read_only, told[1].recursive_read_only), (false, true));
        let writable = cri::Mount { readonly: false, ..recursive.clone() };
        case.refused(vec![writable], Code::InvalidArgument, "recursive_read_only").await;
        let slave = cri::Mount { propagation: 1, ..recursive };
        case.refused(vec![slave], Code::InvalidArgument, "recursive_read_only").await;
        case.end().await;
    });
}

#[test]
fn mount_options_restrict_a_volume_and_all_beneath() {
    story(async {
        let mut case = Case::new("options").await;
        let volume = case.dir("volume");
        let beneath = case.tmpfs("volume/beneath");
        for dir in [&volume, &beneath] {
            std::fs::copy("/bin/busybox", dir.join("busybox")).expect("a program");
        }
        let with = |options: &[&str]| cri::Mount {
            mount_options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..bind(&volume, "/volume")
        };
        let script = "/volume/busybox true && /volume/beneath/busybox true";
        let plain = case.run("plain", vec![with(&[])]).await;
        assert!(!case.fails(&plain, script).await, "a volume without options lets programs run");
        let c = case.run("noexec", vec![with(&["noexec", "nodev", "nosuid"])]).await;
        for program in ["/volume/busybox", "/volume/beneath/busybox"] {
            assert!(case.fails(&c, &format!("{program} true")).await, "{program} runs");
        }
        let mounts = case.said(&c, "grep /volume /proc/mounts").await;
        for line in mounts.lines() {
            let options = line.split(' ').nth(3).unwrap_or_default().split(',').collect::<Vec<_>>();
            assert!(["noexec", "nodev", "nosuid", "rw"].iter().all(|o| options.contains(o)), "{line}");
        }
        assert_eq!(mounts.lines().count(), 2, "{mounts}");
        let told = case.client.status(&c).await.expect("a status").mounts;
        assert_eq!(told[0].mount_options, ["noexec", "nodev", "nosuid"]);
        case.refused(vec![with(&["suid"])], Code::InvalidArgument, "mount_options").await;
        case.end().await;
    });
}

#[test]
fn ids_of_a_mount_are_mapped_as_asked() {
    story(async {
        let case = Case::new("idmap").await;
        let volume = case.dir("volume");
        for (name, uid) in [("a", 1000), ("b", 5)] {
            std::fs::write(volume.join(name), "").expect("a file");
            chown(volume.join(name), Some(uid), Some(uid)).expect("an owner");
        }
        chown(&volume, Some(1000), Some(1000)).expect("an owner");
        let line = cri::IdMapping { container_id: 1000, host_id: 0, length: 10 };
        let mapped =
            cri::Mount { uid_mappings: vec![line], gid_mappings: vec![line], ..bind(&volume, "/volume") };
        let c = case.run("c", vec![mapped.clone()]).await;
        assert_eq!(case.said(&c, "stat -c %u:%g /volume/a /volume/b").await, "0:0\n65534:65534");
        case.said(&c, "touch /volume/new").await;
        let made = std::fs::metadata(volume.join("new")).expect("made");
        assert_eq!((made.uid(), made.gid()), (1000, 1000));
        let told = case.client.status(&c).await.expect("a status").mounts;
        assert_eq!((told[0].uid_mappings.clone(), told[0].gid_mappings.clone()), (vec![line], vec![line]));
        let half = cri::Mount { gid_mappings: vec![], ..mapped };
        case.refused(vec![half], Code::InvalidArgument, "uidMappings").await;
        case.end().await;
    });
}

#[test]
fn propagation_needs_a_mount_that_passes_events_on() {
    story(async {
        let mut case = Case::new("propagation").await;
        let volume = case.tmpfs("volume");
        mount_change(&volume, MountPropagationFlags::PRIVATE).expect("private");
        let with = |propagation: cri::MountPropagation| cri::Mount {
            propagation: propagation.into(),
            ..bind(&volume, "/volume")
        };
        let both = cri::MountPropagation::PropagationBidirectional;
        let slave = cri::MountPropagation::PropagationHostToContainer;
        case.refused(vec![with(slave)], Code::InvalidArgument, "a shared or slave mount").await;
        case.refused(vec![with(both)], Code::InvalidArgument, "a shared mount").await;
        mount_change(&volume, MountPropagationFlags::SHARED).expect("shared");
        let none = case.run("none", vec![with(cri::MountPropagation::PropagationPrivate)]).await;
        let slaves = case.run("slave", vec![with(slave)]).await;
        let shares = case.run("both", vec![with(both)]).await;
        let late = volume.join("late");
        std::fs::create_dir(&late).expect("a directory");
        mount("tmpfs", &late, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        for (container, sees) in [(&none, false), (&slaves, true), (&shares, true)] {
            let mounts = case.said(container, "cat /proc/mounts").await;
            assert_eq!(mounts.contains("/volume/late"), sees, "{mounts}");
        }
        unmount(&late, UnmountFlags::DETACH).expect("unmounted");
        case.end().await;
    });
}

#[test]
fn a_link_as_the_source_is_followed_and_a_missing_source_is_made() {
    story(async {
        let case = Case::new("sources").await;
        let volume = case.dir("volume");
        std::fs::write(volume.join("file"), "text").expect("a file");
        let link = case.daemon.dir().join("link");
        symlink("volume", &link).expect("a link");
        let file = case.daemon.dir().join("file");
        symlink("volume/file", &file).expect("a link");
        let missing = case.daemon.dir().join("missing/deep");
        let c = case
            .run("c", vec![bind(&link, "/link"), bind(&file, "/made/here"), bind(&missing, "/missing")])
            .await;
        assert_eq!(case.said(&c, "cat /link/file /made/here").await, "texttext");
        case.said(&c, "touch /missing/x").await;
        assert!(missing.join("x").is_file());
        case.end().await;
    });
}

#[test]
fn an_image_is_a_volume_with_its_layers_merged_and_nothing_can_be_written() {
    story(async {
        let case = Case::new("imagevolume").await;
        let loaded = case.client.load(data_image()).await.expect("loaded");
        let id = loaded[0].id.clone();
        let c = case
            .run("c", vec![image(DATA, "", "/data"), image(&id, "dir", "/sub"), image(&id, "in", "/in")])
            .await;
        assert_eq!(case.said(&c, "ls /data/dir").await, "lower\nprog\nupper");
        for place in ["/sub", "/in"] {
            assert_eq!(case.said(&c, &format!("cat {place}/lower {place}/upper")).await, "lower\nupper");
        }
        assert_eq!(case.said(&c, "/sub/prog").await, "ran");
        for path in ["/data/x", "/data/dir/lower", "/sub/x"] {
            assert!(case.fails(&c, &format!("touch {path}")).await, "{path} can be written");
        }
        let told = case.client.status(&c).await.expect("a status").mounts;
        let told_image = told[0].image.clone().expect("an image");
        assert_eq!((told_image.image.as_str(), told_image.user_specified_image.as_str()), (DATA, "data"));
        assert!(told_image.image_ref.contains("sha256:"), "{told_image:?}");
        assert_eq!((told[1].image_sub_path.as_str(), told[1].readonly), ("dir", true));
        // Nothing of it is mounted on the host any more.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read");
        let own = case.daemon.dir().display().to_string();
        // Other tests mount volumes of their own meanwhile.
        assert!(!mounts.lines().any(|line| line.contains(&own) && line.contains("/volumes/")), "{mounts}");
        // Its layers stay as long as the container is there, whatever becomes of the image.
        case.client.remove_image(&id).await.expect("removed");
        assert_eq!(case.said(&c, "cat /sub/lower").await, "lower");
        case.refused(vec![image(&id, "", "/data")], Code::InvalidArgument, "ImageVolumeMountFailed").await;
        case.end().await;
    });
}

#[test]
fn a_sub_path_stays_in_its_image() {
    story(async {
        let case = Case::new("subpath").await;
        case.client.load(data_image()).await.expect("loaded");
        for (sub_path, why) in [
            ("absent", "ImageVolumeMountFailed"),
            ("dir/lower/x", "ImageVolumeMountFailed"),
            ("dir/gone", "ImageVolumeMountFailed"),
            // Links of the image lead to its own /etc, which it has not.
            ("out", "ImageVolumeMountFailed"),
            ("up/passwd", "ImageVolumeMountFailed"),
            ("../dir", "image_sub_path"),
            ("/dir", "image_sub_path"),
        ] {
            case.refused(vec![image(DATA, sub_path, "/data")], Code::InvalidArgument, why).await;
        }
        case.refused(
            vec![image("docker.io/library/absent:1", "", "/data")],
            Code::InvalidArgument,
            "ImageVolume",
        )
        .await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read");
        let own = case.daemon.dir().display().to_string();
        // Other tests mount volumes of their own meanwhile.
        assert!(!mounts.lines().any(|line| line.contains(&own) && line.contains("/volumes/")), "{mounts}");
        assert!(case.client.containers().await.expect("a list").is_empty());
        case.end().await;
    });
}

#[test]
fn an_images_own_volumes_can_be_written_where_its_root_cannot() {
    story(async {
        let case = Case::new("volumes").await;
        let config = serde_json::json!({ "Volumes": { "/data": {}, "/new": {} }, "Env": ["PATH=/host"] });
        let layers: &[(&str, Entry)] = &[
            ("data/", Entry::Dir),
            ("data/file", Entry::File("of the image\n")),
            ("host/", Entry::Dir),
            ("etc/", Entry::Dir),
        ];
        case.client.load(archive(VOLUMES, config, &[layers])).await.expect("loaded");
        let programs = case.dir("programs");
        std::fs::copy("/bin/busybox", programs.join("busybox")).expect("a program");
        for applet in ["sh", "cat", "touch", "echo", "sleep", "ls"] {
            symlink("busybox", programs.join(applet)).expect("a link");
        }
        let mut container = pods::container("c", VOLUMES, &["/bin/sh", "-c", "sleep 1000"]);
        container.mounts = vec![bind(&programs, "/bin")];
        container.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("set").readonly_rootfs =
            true;
        let c = case.client.run(&case.pod, &case.config, &container).await.expect("runs");
        assert_eq!(case.said(&c, "/bin/cat /data/file").await, "of the image");
        assert_eq!(case.said(&c, "echo changed >/data/file; /bin/cat /data/file").await, "changed");
        assert!(!case.fails(&c, "/bin/touch /new/x").await, "a volume that the image lacks is made");
        for path in ["/x", "/host/x"] {
            assert!(case.fails(&c, &format!("/bin/touch {path}")).await, "{path} can be written");
        }
        // Another container of the image has volumes of its own.
        let mut other = container.clone();
        other.metadata = Some(cri::ContainerMetadata { name: "other".to_owned(), attempt: 0 });
        let other = case.client.run(&case.pod, &case.config, &other).await.expect("runs");
        assert_eq!(case.said(&other, "/bin/cat /data/file").await, "of the image");
        case.end().await;
    });
}
