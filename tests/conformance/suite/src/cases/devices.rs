//! Devices: of the host, and by CDI.

use crate::{
    case::{Case, case, has, holds, is, refused},
    host,
    story::{Config as _, ContainerWords as _, Test, number, put},
};
use anyhow::Result;
use api::cri;
use serde_json::json;
use std::path::{Path, PathBuf};

/// The cases.
pub fn cases() -> Vec<Case> {
    [host_devices(), cdi()].concat()
}

fn device(c: &mut cri::ContainerConfig, host: &str, container: &str, permissions: &str) {
    c.devices.push(cri::Device {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        permissions: permissions.to_owned(),
    });
}

/// A character device of the case's own: /dev/zero by another name.
fn zero(t: &Test, dir: &str, name: &str) -> Result<String> {
    let dir = t.host_dir(dir, &[])?;
    let path = format!("{dir}/{name}");
    host::command("mknod", &["-m", "666", &path, "c", "1", "5"])?;
    Ok(path)
}

/// A device of the case's own that no container has unless it asks, and its minor number.
fn odd(t: &Test) -> Result<(String, u32)> {
    let number = host::odd_device()?;
    let path = format!("{}/odd", t.host_dir("devices", &[])?);
    host::command("mknod", &["-m", "666", &path, "c", "10", &number.to_string()])?;
    Ok((path, number))
}

fn host_devices() -> Vec<Case> {
    const SOURCE: &str = "CRI Device";
    vec![
        case(
            "devices: one of the host is there under its new name",
            SOURCE,
            "c.devices.container_path c.devices.host_path c.devices.permissions",
            |t: Test| async move {
                // Not among the usual ones, so the cgroup must let it through.
                let (path, number) = odd(&t)?;
                let c = t.container(|c| device(c, &path, "/dev/of-the-host", "rw")).await?;
                is("its number", c.sh("stat -c %t:%T /dev/of-the-host").await?, format!("a:{number:x}"))?;
                c.sh(": </dev/of-the-host && : >/dev/of-the-host").await.map(|_| ())
            },
        ),
        case(
            "devices: permissions hold in the device cgroup",
            SOURCE,
            "c.devices.permissions",
            |t: Test| async move {
                let (path, number) = odd(&t)?;
                let c = t.container(|c| device(c, &path, "/dev/odd", "r")).await?;
                c.sh(": </dev/odd").await?;
                has("writing", &c.sh_fails(": >/dev/odd").await?, "not permitted")?;
                // A node can be made, as of any number; it gives no more.
                c.sh_fails(&format!("mknod /tmp/odd c 10 {number} && : >/tmp/odd")).await.map(|_| ())
            },
        ),
        case("devices: m lets a node be made", SOURCE, "c.devices.permissions", |t: Test| async move {
            let (path, number) = odd(&t)?;
            let c = t.container(|c| device(c, &path, "/dev/odd", "rm")).await?;
            c.sh(&format!("mknod /tmp/odd c 10 {number} && : </tmp/odd")).await.map(|_| ())
        }),
        case(
            "devices: all in a directory of the host",
            "CRI Device; contract B.2: host_path may be a directory",
            "c.devices.host_path",
            |t: Test| async move {
                let first = zero(&t, "devices", "first")?;
                zero(&t, "devices", "second")?;
                let dir = Path::new(&first)
                    .parent()
                    .map(|dir| dir.to_string_lossy().into_owned())
                    .unwrap_or_default();
                let c = t.container(|c| device(c, &dir, "/dev/many", "rwm")).await?;
                is(
                    "both",
                    c.sh("head -c 3 /dev/many/first /dev/many/second | wc -c && ls /dev/many | tr '\\n' ' '")
                        .await?
                        .contains("first second"),
                    true,
                )
            },
        ),
        case(
            "devices: a link on the host is followed",
            "contract B.3: symlinked sources",
            "c.devices.host_path",
            |t: Test| async move {
                let path = zero(&t, "devices", "real")?;
                let link = format!("{path}-link");
                std::os::unix::fs::symlink(&path, &link)?;
                let c = t.container(|c| device(c, &link, "/dev/linked", "rwm")).await?;
                is("its number", c.sh("stat -c %t:%T /dev/linked").await?, "1:5")
            },
        ),
        case(
            "devices: one that is not there is refused",
            SOURCE,
            "c.devices.host_path",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod.try_run(|c| device(c, "/dev/no-such-device", "/dev/x", "rwm")).await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "devices: a file that is no device is refused",
            SOURCE,
            "c.devices.host_path",
            |t: Test| async move {
                let dir = t.host_dir("devices", &[("file", "x")])?;
                let pod = t.pod().await?;
                let tried = pod.try_run(|c| device(c, &format!("{dir}/file"), "/dev/x", "rwm")).await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "devices: unknown permissions are refused",
            SOURCE,
            "c.devices.permissions",
            |t: Test| async move {
                let pod = t.pod().await?;
                let tried = pod.try_run(|c| device(c, "/dev/null", "/dev/x", "rwx")).await;
                refused("the container", tried, &[]).map(|_| ())
            },
        ),
        case(
            "devices: a user other than root reaches what its mode allows",
            SOURCE,
            "c.devices.container_path sc.run_as_user.value",
            |t: Test| async move {
                let path = zero(&t, "devices", "open")?;
                let c = t
                    .container(|c| {
                        device(c, &path, "/dev/open", "rwm");
                        c.sc().run_as_user = number(1000);
                    })
                    .await?;
                is("bytes", c.sh("head -c 3 /dev/open | wc -c").await?, "3")
            },
        ),
    ]
}

/// A CDI specification in the machine's directory for the length of a case.
struct Spec {
    path: PathBuf,
    kind: String,
}

impl Spec {
    fn write(t: &Test, version: &str, extra: serde_json::Value) -> Result<Spec> {
        let name = t.unique("peapodtest");
        let kind = format!("{name}.example/thing");
        let mut spec = json!({
            "cdiVersion": version,
            "kind": kind,
            "devices": [
                { "name": "one", "containerEdits": { "env": ["CDI_ONE=yes"] } },
                { "name": "two", "containerEdits": { "env": ["CDI_TWO=yes"] } },
            ],
            "containerEdits": { "env": ["CDI_ALL=yes"] },
        });
        if let (Some(spec), serde_json::Value::Object(extra)) = (spec.as_object_mut(), extra) {
            spec.extend(extra);
        }
        let dir = Path::new("/var/run/cdi");
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{name}.json"));
        // Complete at once: the runtime may watch the directory.
        let half = dir.join(format!(".{name}.new"));
        put(&half, &spec.to_string())?;
        std::fs::rename(&half, &path)?;
        Ok(Spec { path, kind })
    }

    fn device(&self, name: &str) -> cri::CdiDevice {
        cri::CdiDevice { name: format!("{}={name}", self.kind) }
    }
}

impl Drop for Spec {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        // The directory goes when it was made for this.
        let _ = std::fs::remove_dir("/var/run/cdi");
    }
}

fn cdi() -> Vec<Case> {
    const SOURCE: &str = "KEP-4009; CRI CDIDevice; CDI specification";
    const FIELD: &str = "c.CDI_devices.name";
    vec![
        case("devices: CDI edits the environment", SOURCE, FIELD, |t: Test| async move {
            let spec = Spec::write(&t, "0.6.0", json!({}))?;
            let c = t.container(|c| c.cdi_devices = vec![spec.device("one")]).await?;
            let environment = host::proc_file(c.pid().await?, "environ")?;
            has("environment", &environment, "CDI_ONE=yes")?;
            has("environment", &environment, "CDI_ALL=yes")?;
            holds("the other device's is not there", !environment.contains("CDI_TWO"))
        }),
        case("devices: CDI gives two devices of one kind", SOURCE, FIELD, |t: Test| async move {
            let spec = Spec::write(&t, "0.6.0", json!({}))?;
            let c = t.container(|c| c.cdi_devices = vec![spec.device("one"), spec.device("two")]).await?;
            let environment = host::proc_file(c.pid().await?, "environ")?;
            has("environment", &environment, "CDI_ONE=yes")?;
            has("environment", &environment, "CDI_TWO=yes")
        }),
        case(
            "devices: the same CDI device twice is one",
            "contract B.2: kubelets sent it, k#140274",
            FIELD,
            |t: Test| async move {
                let spec = Spec::write(&t, "0.6.0", json!({}))?;
                let c = t.container(|c| c.cdi_devices = vec![spec.device("one"), spec.device("one")]).await?;
                has("environment", &host::proc_file(c.pid().await?, "environ")?, "CDI_ONE=yes")
            },
        ),
        case("devices: CDI makes device nodes", SOURCE, FIELD, |t: Test| async move {
            let (path, number) = odd(&t)?;
            let devices = json!([{ "name": "one", "containerEdits": { "deviceNodes": [
                { "path": "/dev/by-cdi", "hostPath": path, "permissions": "r" },
            ] } }]);
            let spec = Spec::write(&t, "0.6.0", json!({ "devices": devices }))?;
            let c = t.container(|c| c.cdi_devices = vec![spec.device("one")]).await?;
            is("its number", c.sh("stat -c %t:%T /dev/by-cdi").await?, format!("a:{number:x}"))?;
            c.sh(": </dev/by-cdi").await?;
            c.sh_fails(": >/dev/by-cdi").await.map(|_| ())
        }),
        case("devices: CDI mounts", SOURCE, FIELD, |t: Test| async move {
            let dir = t.host_dir("cdi", &[("word", "by CDI")])?;
            let devices = json!([{ "name": "one", "containerEdits": { "mounts": [
                { "hostPath": dir, "containerPath": "/by-cdi", "options": ["ro", "nosuid", "nodev", "bind"] },
            ] } }]);
            let spec = Spec::write(&t, "0.6.0", json!({ "devices": devices }))?;
            let c = t.container(|c| c.cdi_devices = vec![spec.device("one")]).await?;
            is("inside", c.sh("cat /by-cdi/word").await?, "by CDI")?;
            c.sh_fails("touch /by-cdi/x").await.map(|_| ())
        }),
        case("devices: CDI runs hooks", SOURCE, FIELD, |t: Test| async move {
            let dir = t.host_dir("cdi", &[])?;
            let devices = json!([{ "name": "one", "containerEdits": { "hooks": [
                { "hookName": "createRuntime", "path": "/bin/touch", "args": ["touch", format!("{dir}/ran")] },
            ] } }]);
            let spec = Spec::write(&t, "0.6.0", json!({ "devices": devices }))?;
            t.container(|c| c.cdi_devices = vec![spec.device("one")]).await?;
            is("the hook ran", std::fs::exists(format!("{dir}/ran"))?, true)
        }),
        case(
            "devices: CDI adds groups",
            "CDI specification 0.7: additionalGIDs",
            FIELD,
            |t: Test| async move {
                let devices = json!([{ "name": "one", "containerEdits": { "additionalGids": [7007] } }]);
                let spec = Spec::write(&t, "0.7.0", json!({ "devices": devices }))?;
                let c = t.container(|c| c.cdi_devices = vec![spec.device("one")]).await?;
                has("its groups", &host::status_line(c.pid().await?, "Groups")?, "7007")
            },
        ),
        case("devices: an unknown CDI device is refused", SOURCE, FIELD, |t: Test| async move {
            let spec = Spec::write(&t, "0.6.0", json!({}))?;
            let pod = t.pod().await?;
            let tried = pod.try_run(|c| c.cdi_devices = vec![spec.device("three")]).await;
            refused("the container", tried, &[]).map(|_| ())
        }),
        case("devices: a CDI name that is no name is refused", SOURCE, FIELD, |t: Test| async move {
            let pod = t.pod().await?;
            let tried = pod
                .try_run(|c| c.cdi_devices = vec![cri::CdiDevice { name: "not-qualified".to_owned() }])
                .await;
            refused("the container", tried, &[]).map(|_| ())
        }),
        case("devices: CDI and a script together", SOURCE, FIELD, |t: Test| async move {
            let spec = Spec::write(&t, "1.0.0", json!({}))?;
            let c = t
                .container(|c| {
                    c.cdi_devices = vec![spec.device("two")];
                    c.script("echo $CDI_TWO $CDI_ALL; sleep 1000; :");
                })
                .await?;
            c.logged("yes yes").await.map(|_| ())
        }),
    ]
}
