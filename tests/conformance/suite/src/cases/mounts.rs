//! Mounts: binds, propagation, read-only ones, image volumes, options, and what the runtime mounts by itself.

use crate::{
    case::{Case, case, has, holds, is, lacks, refused},
    host,
    story::{Config as _, Container, ContainerWords as _, Pod, PodWords as _, Test, number, words},
};
use anyhow::{Context as _, Result};
use api::cri::{self, MountPropagation};

/// The cases.
pub fn cases() -> Vec<Case> {
    [binds(), read_only(), propagation(), images(), options(), usual()].concat()
}

const MOUNT: &str = "CRI Mount; critest Container volume";

fn binds() -> Vec<Case> {
    vec![
        case(
            "mounts: a directory is bound, both ways",
            MOUNT,
            "c.mounts.container_path c.mounts.host_path cs.mounts.container_path cs.mounts.host_path cs.mounts.readonly",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[("word", "from the host")])?;
                let c = t.container(|c| _ = c.bind(&dir, "/volume")).await?;
                is("inside", c.sh("cat /volume/word").await?, "from the host")?;
                c.sh("echo back >/volume/answer").await?;
                is("outside", std::fs::read_to_string(format!("{dir}/answer"))?, "back\n")?;
                let mount = told(&c, "/volume").await?;
                is("host_path in the status", mount.host_path, dir)?;
                is("readonly in the status", mount.readonly, false)
            },
        ),
        case("mounts: a file is bound", MOUNT, "c.mounts.container_path", |t: Test| async move {
            let dir = t.host_dir("volume", &[("file", "of the host")])?;
            let c = t.container(|c| _ = c.bind(&format!("{dir}/file"), "/etc/made/for/it")).await?;
            is("inside", c.sh("cat /etc/made/for/it").await?, "of the host")
        }),
        case(
            "mounts: a bind hides what the image has",
            MOUNT,
            "c.mounts.container_path",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[("only", "this")])?;
                let c = t.container(|c| _ = c.bind(&dir, "/home")).await?;
                is("inside", c.sh("ls /home").await?, "only")
            },
        ),
        case(
            "mounts: a symbolic link on the host is followed",
            "CRI Mount.host_path; critest symlinked host path",
            "c.mounts.host_path",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[("word", "behind the link")])?;
                let link = t.dir().join("link");
                std::os::unix::fs::symlink(&dir, &link)?;
                let c = t.container(|c| _ = c.bind(&link.to_string_lossy(), "/volume")).await?;
                is("inside", c.sh("cat /volume/word").await?, "behind the link")
            },
        ),
        case(
            "mounts: a link of the image does not lead out of it",
            "safety: mount targets are resolved inside the root",
            "c.mounts.container_path",
            |t: Test| async move {
                // /etc/passwd of that image leads to /nix/step and on to /nix/store/passwd.
                let before = std::fs::read("/etc/passwd")?;
                let dir = t.host_dir("volume", &[("passwd", "mounted:x:1:1:::\n")])?;
                let id = crate::cases::images::kept(&t, "links:1").await?;
                let c = t
                    .container(|c| {
                        c.image.get_or_insert_default().image = id;
                        c.bind(&format!("{dir}/passwd"), "/etc/passwd");
                    })
                    .await?;
                is("inside", c.sh("cat /nix/store/passwd").await?, "mounted:x:1:1:::")?;
                is("the host's", std::fs::read("/etc/passwd")? == before, true)
            },
        ),
        case(
            "mounts: a missing source is refused, or made",
            "CRI Mount.host_path: must be an error; both peers make a directory, and users count on it",
            "c.mounts.host_path",
            |t: Test| async move {
                let missing = t.dir().join("missing").to_string_lossy().into_owned();
                let pod = t.pod().await?;
                let tried = pod.try_run(|c| _ = c.bind(&missing, "/volume")).await;
                match tried {
                    Err(_) => is("it is not there", std::fs::exists(&missing)?, false),
                    Ok(c) => {
                        c.sh("touch /volume/x").await?;
                        is("it was made", std::fs::exists(format!("{missing}/x"))?, true)
                    }
                }
            },
        ),
        case(
            "mounts: a parent after its child is mounted before it",
            "contract B.3; both peers sort by path",
            "c.mounts.container_path",
            |t: Test| async move {
                let parent = t.host_dir("parent", &[])?;
                std::fs::create_dir_all(format!("{parent}/child"))?;
                let child = t.host_dir("child", &[("word", "child")])?;
                let c = t
                    .container(|c| {
                        c.bind(&child, "/volume/child");
                        c.bind(&parent, "/volume");
                    })
                    .await?;
                is("inside", c.sh("cat /volume/child/word").await?, "child")
            },
        ),
        case("mounts: a hundred of them", MOUNT, "c.mounts.container_path", |t: Test| async move {
            let dir = t.host_dir("volume", &[("word", "x")])?;
            let c = t
                .container(|c| {
                    for n in 0..100 {
                        c.bind(&dir, &format!("/volumes/{n}"));
                    }
                })
                .await?;
            is("inside", c.sh("cat /volumes/*/word | wc -c").await?, "100")?;
            is(
                "in the status",
                c.status().await?.mounts.iter().filter(|m| m.container_path.starts_with("/volumes/")).count(),
                100,
            )
        }),
        case(
            "mounts: what is mounted beneath the source comes along",
            "mount(8) rbind; CRI MountPropagation PRIVATE",
            "c.mounts.host_path",
            |t: Test| async move {
                let dir = with_submount(&t, "volume")?;
                let c = t.container(|c| _ = c.bind(&dir, "/volume")).await?;
                is("inside", c.sh("cat /volume/sub/word").await?, "of the submount")
            },
        ),
        case(
            "mounts: selinux_relabel does no harm without SELinux",
            "CRI Mount.selinux_relabel",
            "c.mounts.selinux_relabel cs.mounts.selinux_relabel",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[("word", "x")])?;
                let c = t.container(|c| c.bind(&dir, "/volume").selinux_relabel = true).await?;
                is("inside", c.sh("cat /volume/word").await?, "x")?;
                is("in the status", told(&c, "/volume").await?.selinux_relabel, true)
            },
        ),
        case(
            "mounts: the host keeps nothing of a removed container",
            "contract G.4",
            "",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[])?;
                let c = t.container(|c| _ = c.bind(&dir, "/volume")).await?;
                c.stop(0).await?;
                c.remove().await?;
                let mounts = host::proc_file(std::process::id(), "mountinfo")?;
                lacks("the host's mounts", &mounts, &c.id)?;
                lacks("the host's mounts", &mounts, &dir)
            },
        ),
    ]
}

async fn told(c: &Container, path: &str) -> Result<cri::Mount> {
    let mounts = c.status().await?.mounts;
    let found = mounts.iter().find(|mount| mount.container_path == path);
    Ok(found.with_context(|| format!("no {path} in the status's mounts: {mounts:?}"))?.clone())
}

/// A directory that is a mount of its own, with a tmpfs beneath it.
fn with_submount(t: &Test, name: &str) -> Result<String> {
    let dir = t.host_dir(name, &[])?;
    t.mount(&["--bind", &dir], &dir)?;
    host::command("mount", &["--make-private", &dir])?;
    std::fs::create_dir_all(format!("{dir}/sub"))?;
    t.mount(&["-t", "tmpfs", "none"], &format!("{dir}/sub"))?;
    crate::story::put(std::path::Path::new(&format!("{dir}/sub/word")), "of the submount")?;
    Ok(dir)
}

fn read_only() -> Vec<Case> {
    const RRO: &str = "KEP-3857; CRI Mount.recursive_read_only; critest Mount readonly";
    let refuses = |name: &'static str, fields: &'static str, change: fn(&mut cri::Mount)| {
        case(name, RRO, fields, move |t: Test| async move {
            let dir = shared_dir(&t, "volume")?;
            let pod = t.pod().await?;
            let tried = pod
                .try_run(|c| {
                    let mount = c.bind(&dir, "/volume");
                    mount.recursive_read_only = true;
                    change(mount);
                })
                .await;
            refused("the container", tried, &[]).map(|_| ())
        })
    };
    vec![
        case(
            "mounts: a read-only one cannot be written",
            MOUNT,
            "c.mounts.readonly cs.mounts.readonly",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[("word", "x")])?;
                let c = t.container(|c| c.bind(&dir, "/volume").readonly = true).await?;
                has("touch", &c.sh_fails("touch /volume/y").await?, "Read-only")?;
                is("reading", c.sh("cat /volume/word").await?, "x")?;
                is("readonly in the status", told(&c, "/volume").await?.readonly, true)
            },
        ),
        case(
            "mounts: readonly alone leaves what is beneath it",
            RRO,
            "c.mounts.readonly cs.mounts.recursive_read_only",
            |t: Test| async move {
                let dir = with_submount(&t, "volume")?;
                let c = t.container(|c| c.bind(&dir, "/volume").readonly = true).await?;
                c.sh_fails("touch /volume/y").await?;
                c.sh("touch /volume/sub/y").await?;
                is("in the status", told(&c, "/volume").await?.recursive_read_only, false)
            },
        ),
        case(
            "mounts: recursively read-only is so all the way down",
            RRO,
            "c.mounts.recursive_read_only c.mounts.readonly cs.mounts.recursive_read_only",
            |t: Test| async move {
                let dir = with_submount(&t, "volume")?;
                let c = t
                    .container(|c| {
                        let mount = c.bind(&dir, "/volume");
                        (mount.readonly, mount.recursive_read_only) = (true, true);
                    })
                    .await?;
                c.sh_fails("touch /volume/y").await?;
                has("touch", &c.sh_fails("touch /volume/sub/y").await?, "Read-only")?;
                is("in the status", told(&c, "/volume").await?.recursive_read_only, true)
            },
        ),
        refuses(
            "mounts: recursively read-only without readonly is refused",
            "c.mounts.recursive_read_only",
            |_| {},
        ),
        refuses(
            "mounts: recursively read-only with HOST_TO_CONTAINER is refused",
            "c.mounts.recursive_read_only c.mounts.propagation",
            |m| {
                m.readonly = true;
                m.propagation = MountPropagation::PropagationHostToContainer.into();
            },
        ),
        refuses(
            "mounts: recursively read-only with BIDIRECTIONAL is refused",
            "c.mounts.recursive_read_only c.mounts.propagation",
            |m| {
                m.readonly = true;
                m.propagation = MountPropagation::PropagationBidirectional.into();
            },
        ),
    ]
}

/// A directory of the host that is a shared mount.
fn shared_dir(t: &Test, name: &str) -> Result<String> {
    let dir = t.host_dir(name, &[])?;
    t.mount(&["--bind", &dir], &dir)?;
    host::command("mount", &["--make-private", &dir])?;
    host::command("mount", &["--make-shared", &dir])?;
    std::fs::create_dir_all(format!("{dir}/late"))?;
    std::fs::create_dir_all(format!("{dir}/inner"))?;
    Ok(dir)
}

fn propagation() -> Vec<Case> {
    const SOURCE: &str = "CRI MountPropagation; critest Mount propagation";
    let mut all: Vec<_> = [
        (MountPropagation::PropagationPrivate, false, false),
        (MountPropagation::PropagationHostToContainer, true, false),
        (MountPropagation::PropagationBidirectional, true, true),
    ]
    .into_iter()
    .map(|(mode, inward, outward)| {
        let fields =
            if inward { "c.mounts.propagation cs.mounts.propagation" } else { "cs.mounts.propagation" };
        case(
            format!("mounts: {} propagates so", mode.as_str_name()),
            SOURCE,
            fields,
            move |t: Test| async move {
                let dir = shared_dir(&t, "volume")?;
                let c = t
                    .both(
                        |p| p.sc().privileged = true,
                        |c| {
                            c.sc().privileged = true;
                            c.bind(&dir, "/volume").propagation = mode.into();
                        },
                    )
                    .await?;
                t.mount(&["-t", "tmpfs", "none"], &format!("{dir}/late"))?;
                crate::story::put(std::path::Path::new(&format!("{dir}/late/word")), "late")?;
                is(
                    "the host's later mount inside",
                    c.sh("ls /volume/late").await?,
                    if inward { "word" } else { "" },
                )?;
                c.sh("mount -t tmpfs none /volume/inner && touch /volume/inner/word").await?;
                let seen = std::fs::exists(format!("{dir}/inner/word"))?;
                is("the container's mount outside", seen, outward)?;
                c.sh("umount /volume/inner").await?;
                is("in the status", told(&c, "/volume").await?.propagation(), mode)
            },
        )
    })
    .collect();
    for mode in [MountPropagation::PropagationHostToContainer, MountPropagation::PropagationBidirectional] {
        all.push(case(
            format!("mounts: {} of a private source is refused", mode.as_str_name()),
            "CRI MountPropagation: the source must be shared (or slave)",
            "c.mounts.propagation",
            move |t: Test| async move {
                let dir = shared_dir(&t, "volume")?;
                host::command("mount", &["--make-private", &dir])?;
                let pod = t.pod_with(|p| p.sc().privileged = true).await?;
                let tried = pod
                    .try_run(|c| {
                        c.sc().privileged = true;
                        c.bind(&dir, "/volume").propagation = mode.into();
                    })
                    .await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ));
    }
    all
}

fn images() -> Vec<Case> {
    const SOURCE: &str = "KEP-4639; CRI Mount.image; critest main Image Volume";
    let escape = |name: &'static str, path: &'static str| {
        case(
            name,
            "KEP-4639: a sub path stays inside the image",
            "c.mounts.image_sub_path",
            move |t: Test| async move {
                let tried = image_volume(&t, |m| m.image_sub_path = path.to_owned()).await?;
                match tried {
                    Err(_) => Ok(()),
                    Ok(c) => lacks(
                        "what is mounted",
                        &c.sh("ls /volume; cat /volume/hostname /volume/debian_version 2>&1; true").await?,
                        "debian_version\n",
                    ),
                }
            },
        )
    };
    vec![
        case(
            "mounts: an image is a volume, read-only",
            SOURCE,
            "c.mounts.image.image cs.mounts.image.image cs.mounts.readonly",
            |t: Test| async move {
                let c = image_volume(&t, |_| {}).await??;
                is("inside", c.sh("cat /volume/top /volume/dir/sub/deep").await?, "of the volume\ndeeper")?;
                has("touch", &c.sh_fails("touch /volume/x").await?, "Read-only")?;
                let mount = told(&c, "/volume").await?;
                is("readonly in the status", mount.readonly, true)?;
                is(
                    "the image in the status",
                    mount.image.unwrap_or_default().image,
                    t.world.registry.id("volume:1")?,
                )
            },
        ),
        case(
            "mounts: a part of an image is a volume",
            SOURCE,
            "c.mounts.image_sub_path cs.mounts.image_sub_path",
            |t: Test| async move {
                let c = image_volume(&t, |m| m.image_sub_path = "dir/sub".to_owned()).await??;
                is("inside", c.sh("ls /volume").await?, "deep")?;
                is("in the status", told(&c, "/volume").await?.image_sub_path, "dir/sub")
            },
        ),
        case(
            "mounts: a part of an image that is not there is refused",
            SOURCE,
            "c.mounts.image_sub_path",
            |t: Test| async move {
                let tried = image_volume(&t, |m| m.image_sub_path = "dir/missing".to_owned()).await?;
                let text = refused("the container", tried, &[])?;
                has("the error", &text, "ImageVolumeMountFailed")
            },
        ),
        escape("mounts: a part of an image does not lead out by ..", "../../../../../etc"),
        escape("mounts: a part of an image does not lead out by an absolute link", "out"),
        escape("mounts: a part of an image does not lead out by a relative link", "up"),
        case(
            "mounts: an image that is not there is refused as a volume",
            SOURCE,
            "c.mounts.image.image",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod.try_run(|c| image_mount(c, &format!("sha256:{}", "0".repeat(64)))).await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "mounts: an image with a host path is refused as a volume",
            "CRI Mount.image: host_path must be empty",
            "c.mounts.image.image c.mounts.host_path",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[])?;
                let tried = image_volume(&t, |m| m.host_path = dir).await?;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "mounts: an image that may be written to is refused as a volume",
            "critest main Image Volume; containerd container_image_mount.go",
            "c.mounts.image.image",
            |t: Test| async move {
                let tried = image_volume(&t, |m| m.readonly = false).await?;
                has("the error", &refused("the container", tried, &[])?, "readonly")
            },
        ),
        case(
            "mounts: two containers share an image's volume",
            "contract B.3: one mount, no race",
            "c.mounts.image.image",
            |t: Test| async move {
                let id = crate::cases::images::kept(&t, "volume:1").await?;
                let pod = t.pod().await?;
                let change = |c: &mut cri::ContainerConfig| image_mount(c, &id);
                let (a, b, d) = tokio::join!(pod.run(change), pod.run(change), pod.run(change));
                for c in [a?, b?, d?] {
                    is("inside", c.sh("cat /volume/top").await?, "of the volume")?;
                    c.remove().await?;
                }
                let mounts = host::proc_file(std::process::id(), "mountinfo")?;
                lacks("the host's mounts", &mounts, &pod.id).or_else(|_| holds("the pod still runs", true))
            },
        ),
        case(
            "mounts: the reference of an image's volume is in the status",
            "KEP-5365; CRI ImageSpec.image_ref",
            "c.mounts.image.image c.mounts.image.user_specified_image cs.mounts.image.image_ref cs.mounts.image.user_specified_image",
            |t: Test| async move {
                let named = t.spec("volume:1").image;
                let change = |m: &mut cri::Mount| {
                    m.image.get_or_insert_default().user_specified_image = named.clone();
                };
                let c = image_volume(&t, change).await??;
                let told = told(&c, "/volume").await?.image.unwrap_or_default();
                is("user_specified_image in the status", &told.user_specified_image, &named)?;
                let digest = t.world.registry.digest("volume", "1")?;
                let known = [
                    t.world.registry.id("volume:1")?,
                    format!("{}@{digest}", t.spec("volume").image),
                    digest,
                ];
                holds(
                    &format!("image_ref {:?} is one of {known:?}", told.image_ref),
                    known.contains(&told.image_ref),
                )
            },
        ),
        case(
            "mounts: an image's volume for a handler and with annotations",
            "KEP-4216; CRI ImageSpec",
            "c.mounts.image.runtime_handler c.mounts.image.annotations c.mounts.image.image_ref",
            |t: Test| async move {
                let handler =
                    t.world.handlers.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
                let digest = t.world.registry.digest("volume", "1")?;
                let c = image_volume(&t, |m| {
                    let image = m.image.get_or_insert_default();
                    image.runtime_handler = handler;
                    image.annotations = crate::story::map(&[("note", "x")]);
                    image.image_ref = digest;
                })
                .await??;
                is("inside", c.sh("cat /volume/top").await?, "of the volume")
            },
        ),
    ]
}

fn image_mount(c: &mut cri::ContainerConfig, image: &str) {
    c.mounts.push(cri::Mount {
        container_path: "/volume".to_owned(),
        readonly: true,
        image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
        ..Default::default()
    });
}

async fn image_volume(
    t: &Test,
    change: impl FnOnce(&mut cri::Mount),
) -> Result<Result<Container, tonic::Status>> {
    let id = crate::cases::images::kept(t, "volume:1").await?;
    let pod = t.pod().await?;
    Ok(pod
        .try_run(|c| {
            image_mount(c, &id);
            change(&mut c.mounts[0]);
        })
        .await)
}

fn options() -> Vec<Case> {
    const SOURCE: &str = "KEP-5855; CRI Mount.mount_options";
    let mut all: Vec<_> = [
        ("noexec", "cp /bin/busybox /volume/sh; /volume/sh true"),
        ("nodev", "mknod /volume/null c 1 3 && echo x >/volume/null"),
        ("nosuid", "cp /bin/suid /volume/suid; chmod 4755 /volume/suid; grep -q ' /volume .*nosuid' /proc/mounts && false"),
    ]
    .into_iter()
    .map(|(option, attempt)| {
        case(
            format!("mounts: option {option}"),
            SOURCE,
            "c.mounts.mount_options cs.mounts.mount_options",
            move |t: Test| async move {
                let dir = t.host_dir("volume", &[])?;
                let plain = t.container(|c| _ = c.bind(&dir, "/volume")).await?;
                lacks("the mount without it", &plain.sh("grep ' /volume ' /proc/mounts").await?, option)?;
                let c = t.container(|c| c.bind(&dir, "/volume").mount_options = words(&[option])).await?;
                has("the mount", &c.sh("grep ' /volume ' /proc/mounts").await?, option)?;
                c.sh_fails(attempt).await?;
                is("in the status", told(&c, "/volume").await?.mount_options, words(&[option]))
            },
        )
    })
    .collect();
    for option in ["suid", "remount", "uid=0", ""] {
        all.push(case(
            format!("mounts: option {option:?} is refused"),
            SOURCE,
            "c.mounts.mount_options",
            move |t: Test| async move {
                let dir = t.host_dir("volume", &[])?;
                let pod = t.pod().await?;
                let tried = pod.try_run(|c| c.bind(&dir, "/volume").mount_options = words(&[option])).await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ));
    }
    all
}

fn usual() -> Vec<Case> {
    vec![
        case(
            "mounts: the kubelet's own /etc/hosts wins",
            "kubelet: /etc/hosts is a bind",
            "c.mounts.container_path",
            |t: Test| async move {
                let dir = t.host_dir("etc", &[("hosts", "10.0.0.9 of-the-kubelet\n")])?;
                let c = t.container(|c| _ = c.bind(&format!("{dir}/hosts"), "/etc/hosts")).await?;
                is("/etc/hosts", c.sh("cat /etc/hosts").await?, "10.0.0.9 of-the-kubelet")
            },
        ),
        case(
            "mounts: a volume over /dev/shm wins",
            "contract B.3: shadowed default mounts",
            "c.mounts.container_path",
            |t: Test| async move {
                let dir = t.host_dir("shm", &[("word", "mine")])?;
                let c = t.container(|c| _ = c.bind(&dir, "/dev/shm")).await?;
                is("/dev/shm", c.sh("cat /dev/shm/word").await?, "mine")
            },
        ),
        case(
            "mounts: a volume over /etc/resolv.conf wins",
            "contract B.3: shadowed default mounts",
            "c.mounts.container_path",
            |t: Test| async move {
                let dir = t.host_dir("etc", &[("resolv.conf", "nameserver 9.9.9.9\n")])?;
                let c =
                    t.container(|c| _ = c.bind(&format!("{dir}/resolv.conf"), "/etc/resolv.conf")).await?;
                is("/etc/resolv.conf", c.sh("cat /etc/resolv.conf").await?, "nameserver 9.9.9.9")
            },
        ),
        case(
            "mounts: without DNS configuration resolv.conf is the host's",
            "CRI DNSConfig; contract B.1: nil = copy the host's",
            "",
            |t: Test| async move {
                let c = t.both(|p| p.dns_config = None, |_| {}).await?;
                let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
                is("/etc/resolv.conf", c.sh("cat /etc/resolv.conf").await?, host.trim_end())
            },
        ),
        case(
            "mounts: a termination message is read from a bound file",
            "kubelet: /dev/termination-log",
            "c.mounts.host_path",
            |t: Test| async move {
                let dir = t.host_dir("termination", &[("message", "")])?;
                let c = t
                    .container(|c| {
                        c.bind(&format!("{dir}/message"), "/dev/termination-log");
                        c.script("echo why >/dev/termination-log; exit 3");
                    })
                    .await?;
                c.ended_with(3).await?;
                is("the message", std::fs::read_to_string(format!("{dir}/message"))?, "why\n")
            },
        ),
        case(
            "mounts: proc, sys, dev, mqueue and shm are there",
            "OCI runtime defaults",
            "",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mounts = c.sh("cut -d' ' -f2,3 /proc/mounts").await?;
                for line in [
                    "/proc proc",
                    "/sys sysfs",
                    "/dev tmpfs",
                    "/dev/pts devpts",
                    "/dev/mqueue mqueue",
                    "/dev/shm tmpfs",
                ] {
                    holds(&format!("{line} in {mounts:?}"), mounts.lines().any(|other| other == line))?;
                }
                Ok(())
            },
        ),
        case(
            "mounts: /sys/fs/cgroup is there and read-only",
            "OCI runtime defaults",
            "",
            |t: Test| async move {
                let c = t.container(|_| {}).await?;
                let mounts = c.sh("grep ' /sys/fs/cgroup' /proc/mounts").await?;
                // What is not a hierarchy is the container's own tmpfs.
                for line in mounts.lines().filter(|line| !line.contains(" tmpfs ")) {
                    let options = line.split(' ').nth(3).unwrap_or_default();
                    holds(&format!("read-only: {line}"), options.split(',').any(|option| option == "ro"))?;
                }
                Ok(())
            },
        ),
        case(
            "mounts: a volume of another user's is his inside",
            "CRI Mount",
            "sc.run_as_user.value",
            |t: Test| async move {
                let dir = t.host_dir("volume", &[("word", "his")])?;
                host::command("chown", &["-R", "1000:1000", &dir])?;
                host::command("chmod", &["700", &dir])?;
                let pod: Pod = t.pod_with(|p| p.linux().sysctls.clear()).await?;
                let c = pod
                    .run(|c| {
                        c.sc().run_as_user = number(1000);
                        c.bind(&dir, "/volume");
                    })
                    .await?;
                is("inside", c.sh("cat /volume/word && touch /volume/new").await?, "his")
            },
        ),
    ]
}
