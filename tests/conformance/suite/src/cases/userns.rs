//! User namespaces: pods whose root is nobody on the host.

use crate::{
    case::{Case, case, differs, has, is, refused, skip},
    host,
    story::{Config as _, ContainerWords as _, Pod, Test, number, own_pid},
};
use anyhow::{Context as _, Result};
use api::cri::{self, IdMapping, NamespaceMode, UserNamespace};

const SOURCE: &str = "KEP-127; CRI UserNamespace; critest UserNamespaces";
const FIRST: u32 = 100_000;
const LENGTH: u32 = 65_536;

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut all = vec![
        case(
            "userns: root inside is another user outside",
            SOURCE,
            "psc.namespace_options.userns_options.uids.host_id psc.namespace_options.userns_options.uids.length psc.namespace_options.userns_options.gids.host_id psc.namespace_options.userns_options.gids.length sc.namespace_options.userns_options.uids.host_id sc.namespace_options.userns_options.uids.length sc.namespace_options.userns_options.gids.host_id sc.namespace_options.userns_options.gids.length",
            mapped,
        ),
        case(
            "userns: containers of a pod share it",
            SOURCE,
            "psc.namespace_options.userns_options.uids.host_id",
            |t: Test| async move {
                let pod = pod(&t).await?;
                let (a, b) = (pod.run(|_| {}).await?.pid().await?, pod.run(|_| {}).await?.pid().await?);
                is("user", host::namespace(a, "user")?, host::namespace(b, "user")?)
            },
        ),
        case(
            "userns: another user inside is mapped too",
            SOURCE,
            "sc.run_as_user.value",
            |t: Test| async move {
                let c = pod(&t).await?.run(|c| c.sc().run_as_user = number(1000)).await?;
                is("inside", c.sh("id -u").await?, "1000")?;
                has("outside", &host::status_line(c.pid().await?, "Uid")?, &(FIRST + 1000).to_string())
            },
        ),
        case("userns: the image's files belong to the users inside", SOURCE, "", |t: Test| async move {
            let c = pod(&t).await?.run(|_| {}).await?;
            is("root's", c.sh("stat -c %u:%g /etc/passwd").await?, "0:0")?;
            is("hers", c.sh("stat -c %u:%g /home/alices").await?, "1000:1000")?;
            c.sh("touch /x && chown 1000 /x").await.map(|_| ())
        }),
        case(
            "userns: its root has no rights outside",
            "KEP-127",
            "sc.capabilities.add_capabilities",
            |t: Test| async move {
                let c = pod(&t)
                    .await?
                    .run(|c| {
                        c.sc().capabilities.get_or_insert_default().add_capabilities = vec!["ALL".to_owned()]
                    })
                    .await?;
                c.sh_fails("echo 1 >/proc/sys/kernel/panic").await?;
                c.sh_fails("mknod /tmp/null c 1 3 && : </tmp/null").await.map(|_| ())
            },
        ),
        case(
            "userns: a volume is idmapped",
            "KEP-127; CRI Mount.uidMappings, gidMappings",
            "c.mounts.uidMappings.host_id c.mounts.uidMappings.length c.mounts.gidMappings.host_id c.mounts.gidMappings.length cs.mounts.uidMappings.host_id cs.mounts.uidMappings.container_id cs.mounts.uidMappings.length cs.mounts.gidMappings.host_id cs.mounts.gidMappings.container_id cs.mounts.gidMappings.length",
            volume,
        ),
        case(
            "userns: a mapping of mounts names the inside too",
            "CRI Mount.uidMappings.container_id",
            "c.mounts.uidMappings.container_id c.mounts.gidMappings.container_id",
            |t: Test| async move {
                // Not the pod's mapping: either it is honoured, or refused; a runtime that ignores it shows root's file.
                let dir = t.host_dir("volume", &[("word", "x")])?;
                let pod = pod(&t).await?;
                let odd = vec![IdMapping { host_id: FIRST, container_id: 7, length: LENGTH }];
                let tried = pod
                    .try_run(|c| {
                        let mount = c.bind(&dir, "/volume");
                        mount.uid_mappings = odd.clone();
                        mount.gid_mappings = odd;
                    })
                    .await;
                match tried {
                    Err(_) => Ok(()),
                    Ok(c) => differs("root's file", c.sh("stat -c %u /volume/word").await?, "0".to_owned()),
                }
            },
        ),
        case(
            "userns: the pod's addresses and sysctls work",
            SOURCE,
            "psc.namespace_options.userns_options.uids.host_id",
            |t: Test| async move {
                let pod = pod(&t).await?;
                let c = pod.run(|_| {}).await?;
                has("ip addr", &c.sh("ip addr show eth0").await?, &pod.ip().await?)?;
                c.sh("grep -q ' /sys sysfs ' /proc/mounts && ls /dev/null /dev/pts/ptmx").await.map(|_| ())
            },
        ),
        case(
            "userns: NODE is the node's",
            SOURCE,
            "psc.namespace_options.userns_options.mode sc.namespace_options.userns_options.mode ps.linux.namespaces.options.userns_options.mode",
            |t: Test| async move {
                let options =
                    options(UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() });
                let pod = t.pod_with(|p| p.sc().namespace_options = Some(options)).await?;
                let c = pod.run(|_| {}).await?;
                is("user", host::namespace(c.pid().await?, "user")?, host::own_namespace("user")?)?;
                let told = told(&pod).await?;
                is("in the status", told.mode(), NamespaceMode::Node)
            },
        ),
        case(
            "userns: the mapping is in the status",
            "CRI LinuxPodSandboxStatus",
            "ps.linux.namespaces.options.userns_options.uids.host_id ps.linux.namespaces.options.userns_options.uids.length ps.linux.namespaces.options.userns_options.uids.container_id ps.linux.namespaces.options.userns_options.gids.host_id ps.linux.namespaces.options.userns_options.gids.length ps.linux.namespaces.options.userns_options.gids.container_id",
            |t: Test| async move {
                let pod = pod(&t).await?;
                is("in the status", told(&pod).await?, mapping())
            },
        ),
        case(
            "userns: in the node's network /sys is recursively read-only",
            "KEP-5607; CRI RuntimeFeatures.user_namespaces_host_network",
            "psc.namespace_options.network",
            host_network,
        ),
    ];
    type Change = fn(&mut UserNamespace);
    let refusals: [(&str, &str, Change); 10] = [
        ("mode CONTAINER", "mode", |u| u.mode = NamespaceMode::Container.into()),
        ("mode TARGET", "mode", |u| u.mode = NamespaceMode::Target.into()),
        ("two mappings", "uids.container_id", |u| {
            u.uids.push(IdMapping { host_id: 300_000, container_id: LENGTH, length: 10 });
            u.gids.push(IdMapping { host_id: 300_000, container_id: LENGTH, length: 10 });
        }),
        ("root unmapped", "uids.container_id", |u| (u.uids[0].container_id, u.gids[0].container_id) = (1, 1)),
        ("root's group unmapped", "gids.container_id", |u| u.gids[0].container_id = 1),
        ("no uids", "gids.host_id", |u| u.uids.clear()),
        ("no gids", "uids.host_id", |u| u.gids.clear()),
        ("users and groups of different lengths", "gids.length", |u| u.gids[0].length = 10),
        ("length 0", "uids.host_id", |u| (u.uids[0].length, u.gids[0].length) = (0, 0)),
        ("NODE with a mapping", "mode", |u| u.mode = NamespaceMode::Node.into()),
    ];
    for (name, field, change) in refusals {
        let field = format!("psc.namespace_options.userns_options.{field}");
        all.push(case(format!("userns: {name} is refused"), SOURCE, &field, move |t: Test| async move {
            let mut wrong = mapping();
            change(&mut wrong);
            refused("the pod", t.try_pod(|p| p.sc().namespace_options = Some(options(wrong))).await, &[])
                .map(|_| ())
        }));
    }
    all.push(case(
        "userns: a container with another mapping than its pod is refused",
        SOURCE,
        "sc.namespace_options.userns_options.uids.host_id sc.namespace_options.userns_options.uids.container_id sc.namespace_options.userns_options.gids.container_id",
        |t: Test| async move {
            let pod = pod(&t).await?;
            let mut other = mapping();
            (other.uids[0].host_id, other.uids[0].container_id) = (200_000, 1);
            (other.gids[0].host_id, other.gids[0].container_id) = (200_000, 1);
            let tried = pod.try_run(|c| c.sc().namespace_options = Some(options(other))).await;
            refused("the container", tried, &[]).map(|_| ())
        },
    ));
    all
}

fn mapping() -> UserNamespace {
    let line = vec![IdMapping { host_id: FIRST, container_id: 0, length: LENGTH }];
    UserNamespace { mode: NamespaceMode::Pod.into(), uids: line.clone(), gids: line }
}

fn options(userns: UserNamespace) -> cri::NamespaceOption {
    cri::NamespaceOption { userns_options: Some(userns), ..own_pid() }
}

async fn pod(t: &Test) -> Result<Pod> {
    if !t.world.handler.user_namespaces {
        return skip("the handler says that it has no user namespaces");
    }
    t.pod_with(|p| p.sc().namespace_options = Some(options(mapping()))).await
}

async fn told(pod: &Pod) -> Result<UserNamespace> {
    let linux = pod.status().await?.linux.context("no linux in the status")?;
    let options = linux.namespaces.and_then(|n| n.options).context("no options in the status")?;
    options.userns_options.context("no userns_options in the status")
}

async fn mapped(t: Test) -> Result<()> {
    let c = pod(&t).await?.run(|_| {}).await?;
    let pid = c.pid().await?;
    differs("the node's", host::namespace(pid, "user")?, host::own_namespace("user")?)?;
    is("inside", c.sh("id -u").await?, "0")?;
    has("outside", &host::status_line(pid, "Uid")?, &FIRST.to_string())?;
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for map in ["uid_map", "gid_map"] {
        is(map, words(host::proc_file(pid, map)?), ["0", "100000", "65536"].map(str::to_owned).to_vec())?;
    }
    Ok(())
}

async fn volume(t: Test) -> Result<()> {
    let dir = t.host_dir("volume", &[("word", "x")])?;
    let c = pod(&t)
        .await?
        .run(|c| {
            let mount = c.bind(&dir, "/volume");
            mount.uid_mappings = mapping().uids;
            mount.gid_mappings = mapping().gids;
        })
        .await?;
    is("root's file inside", c.sh("stat -c %u:%g /volume/word").await?, "0:0")?;
    c.sh("touch /volume/made").await?;
    let made = host::command("stat", &["-c", "%u:%g", &format!("{dir}/made")])?;
    is("what it made, outside", made.trim(), "0:0")?;
    let told = c.status().await?.mounts.into_iter().next().context("no mount in the status")?;
    is("uidMappings in the status", told.uid_mappings, mapping().uids)?;
    is("gidMappings in the status", told.gid_mappings, mapping().gids)
}

async fn host_network(t: Test) -> Result<()> {
    if !t.world.features.user_namespaces_host_network {
        return skip("the runtime says that it does not");
    }
    let mut options = options(mapping());
    options.network = NamespaceMode::Node.into();
    let pod = t
        .pod_with(|p| {
            p.hostname = String::new();
            p.sc().namespace_options = Some(options);
        })
        .await?;
    let c = pod.run(|_| {}).await?;
    let pid = c.pid().await?;
    is("net", host::namespace(pid, "net")?, host::own_namespace("net")?)?;
    differs("user", host::namespace(pid, "user")?, host::own_namespace("user")?)?;
    // /sys/fs/cgroup is the container's own.
    let sys = c.sh("grep ' /sys' /proc/self/mountinfo | grep -v ' /sys/fs/cgroup' | cut -d' ' -f5,6").await?;
    for line in sys.lines() {
        has("beneath /sys", &format!("{line},"), " ro,")?;
    }
    Ok(())
}
