//! `linux.mountLabel`: the SELinux label of all that a container's own file systems hold.
//!
//! It is an option of the mount (`context=`), so that files need no label of their own. What only shows the
//! kernel's state (proc, sysfs, cgroup) keeps the labels of the policy, binds keep those of their files.

use super::process::one_line;
use crate::{RootMount, RunnerError};
use oci_spec::runtime::{Mount, Spec};

/// File systems that take the option.
const LABELLED: [&str; 5] = ["tmpfs", "devpts", "mqueue", "overlay", "ramfs"];

/// The specification and the root's mounts with the label as an option; `None` if there is no label.
pub(crate) fn apply(
    spec: &Spec,
    rootfs: &[RootMount],
) -> Result<Option<(Spec, Vec<RootMount>)>, RunnerError> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(None) };
    wants_selinux("linux.mountLabel")?;
    labelled(spec, rootfs, label).map(Some)
}

/// Without SELinux a label would be another module's to read, or nobody's.
pub(super) fn wants_selinux(field: &str) -> Result<(), RunnerError> {
    match sys::rustix::fs::stat("/sys/fs/selinux/enforce") {
        Ok(_) => Ok(()),
        Err(_) => Err(RunnerError::unsupported(field, "a label where the kernel has no SELinux")),
    }
}

fn labelled(spec: &Spec, rootfs: &[RootMount], label: &str) -> Result<(Spec, Vec<RootMount>), RunnerError> {
    let option = format!("context={}", one_line("linux.mountLabel", label)?);
    if option.contains(['"', '\\']) {
        return Err(RunnerError::invalid("linux.mountLabel", "it has a quote"));
    }
    let mut spec = spec.clone();
    if let Some(mounts) = spec.mounts_mut() {
        for mount in mounts.iter_mut().filter(|mount| is_labelled(mount)) {
            let mut options = mount.options().clone().unwrap_or_default();
            options.push(option.clone());
            mount.set_options(Some(options));
        }
    }
    let mut rootfs = rootfs.to_vec();
    for mount in rootfs.iter_mut().filter(|mount| LABELLED.contains(&mount.kind.as_str())) {
        mount.options.push(option.clone());
    }
    Ok((spec, rootfs))
}

/// One that asks for a context itself has that one.
fn is_labelled(mount: &Mount) -> bool {
    let own = mount.options().iter().flatten().any(|option| option.contains("context="));
    mount.typ().as_deref().is_some_and(|kind| LABELLED.contains(&kind)) && !own
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

    fn spec(label: &str) -> Spec {
        let text = serde_json::json!({
            "ociVersion": "1.2.0",
            "linux": { "mountLabel": label },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue" },
                { "destination": "/own", "type": "tmpfs", "source": "x", "options": ["context=a:b:c:s0"] },
                { "destination": "/v", "type": "bind", "source": "/v", "options": ["rbind"] },
            ],
        });
        serde_json::from_value(text).expect("a specification")
    }

    #[test]
    fn file_systems_of_the_containers_own_get_the_label_and_no_others() {
        let root = |kind: &str| RootMount {
            kind: kind.to_owned(),
            source: "overlay".into(),
            options: vec!["lowerdir=/l".to_owned()],
        };
        let (spec, rootfs) =
            super::labelled(&spec(LABEL), &[root("overlay"), root("bind")], LABEL).expect("fine");
        let labelled: Vec<_> = spec
            .mounts()
            .iter()
            .flatten()
            .filter(|mount| {
                mount.options().iter().flatten().any(|option| *option == format!("context={LABEL}"))
            })
            .map(|mount| mount.destination().display().to_string())
            .collect();
        assert_eq!(labelled, ["/dev", "/dev/mqueue"]);
        assert_eq!(rootfs[0].options, ["lowerdir=/l", &format!("context={LABEL}")]);
        assert_eq!(rootfs[1].options, ["lowerdir=/l"]);
    }

    #[test]
    fn no_label_changes_nothing_and_one_that_is_none_is_refused() {
        assert!(apply(&spec(""), &[]).expect("fine").is_none());
        for bad in ["a\nb", "a\"b", "a\0"] {
            let error = super::labelled(&spec(bad), &[], bad).expect_err("refused").to_string();
            assert!(error.starts_with("linux.mountLabel"), "{error}");
        }
    }
}
