//! SELinux: which labels a container's processes and files have, and giving a volume its label.
//!
//! A pod has a pair of categories of its own, so that no pod reaches another's files; its containers share it,
//! unless the request names a level. What the request leaves out comes from the host's policy
//! (`lxc_contexts`, as with the peers). A privileged container has no label (CRI comment). On a host without
//! SELinux labels are taken and mean nothing.

use super::blocking::failed;
use engine::host::{ContainerPlan, Fault, HostError, OciSpec, PodPlan, Result};
use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};
use sys::{
    label,
    rustix::{fd::BorrowedFd, io::Errno},
};
use types::container::SelinuxLabel;

const FIELD: &str = "config.linux.security_context.selinux_options";
/// What the policy of container-selinux has, for a host whose policy says nothing.
const PROCESS: &str = "system_u:system_r:container_t:s0";
const FILES: &str = "system_u:object_r:container_file_t:s0";
/// Files of the policy, at most.
const LARGEST: u64 = 1 << 20;
/// What whole systems lie in: nobody means one of them by a volume (containers/selinux refuses the same).
const NEVER: [&str; 20] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var",
];

/// What a container's things are labelled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    /// Processes.
    pub(super) process: String,
    /// Its root, its own mounts, and volumes that are to be relabelled.
    pub(super) files: String,
}

/// The SELinux of a machine; another root than `/` is a test's.
#[derive(Clone, Debug)]
pub(super) struct Selinux {
    root: PathBuf,
}

impl Selinux {
    /// That of this machine.
    pub(super) fn of_the_host() -> Selinux {
        Selinux { root: PathBuf::from("/") }
    }

    /// Whether labels mean anything here.
    fn is_on(&self) -> bool {
        fs::symlink_metadata(self.root.join("sys/fs/selinux/enforce")).is_ok()
    }

    /// Those of what a pod's containers share; `None` without SELinux.
    pub(super) fn of_pod(&self, pod: &PodPlan) -> Result<Option<Labels>> {
        self.labels(pod, pod.spec.security.selinux.as_ref())
    }

    /// Those of a container, which are its pod's if it asks for none; `None` without SELinux.
    pub(super) fn of_container(&self, pod: &PodPlan, plan: &ContainerPlan) -> Result<Option<Labels>> {
        let security = &plan.spec.security;
        if security.privileged {
            return Ok(None);
        }
        self.labels(pod, security.selinux.as_ref().or(pod.spec.security.selinux.as_ref()))
    }

    fn labels(&self, pod: &PodPlan, asked: Option<&SelinuxLabel>) -> Result<Option<Labels>> {
        if !self.is_on() {
            return Ok(None);
        }
        let asked = asked.cloned().unwrap_or_default();
        let pods = pod.spec.security.selinux.as_ref().map_or("", |label| &label.level);
        let (first, second) = pod.id.categories();
        let level = [asked.level.as_str(), pods]
            .into_iter()
            .find(|level| !level.is_empty())
            .map_or_else(|| format!("s0:c{first},c{second}"), str::to_owned);
        let defaults = self.defaults()?;
        let [user, role, kind, _] = parts(&defaults.process)?;
        let [_, files_role, files_kind, _] = parts(&defaults.files)?;
        let or =
            |asked: &str, default: &str| if asked.is_empty() { default.to_owned() } else { asked.to_owned() };
        let user = or(&asked.user, user);
        let (role, kind) = (or(&asked.role, role), or(&asked.kind, kind));
        let labels = Labels {
            process: format!("{user}:{role}:{kind}:{level}"),
            files: format!("{user}:{files_role}:{files_kind}:{level}"),
        };
        self.check(&labels.process)?;
        self.check(&labels.files)?;
        Ok(Some(labels))
    }

    /// The kernel says whether its policy knows a label.
    fn check(&self, label: &str) -> Result<()> {
        let known = fs::OpenOptions::new()
            .write(true)
            .open(self.root.join("sys/fs/selinux/context"))
            .and_then(|mut file| file.write_all(label.as_bytes()));
        known.map_err(|error| {
            let doing = format!("the host's SELinux policy does not have the label {label}");
            HostError::because(doing, Fault::Invalid(FIELD), error)
        })
    }

    /// `lxc_contexts` of the policy in force: `process = "..."`, `file = "..."`.
    fn defaults(&self) -> Result<Labels> {
        let config = self.text("etc/selinux/config")?;
        let policy = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        if policy.contains('/') || policy.starts_with('.') {
            return Err(HostError::new(
                format!("/etc/selinux/config: SELINUXTYPE `{policy}` is no name"),
                Fault::Internal,
            ));
        }
        let contexts = self.text(&format!("etc/selinux/{policy}/contexts/lxc_contexts"))?;
        let of = |key: &str, default: &str| value(&contexts, key).unwrap_or(default).to_owned();
        Ok(Labels { process: of("process", PROCESS), files: of("file", FILES) })
    }

    /// An absent file is empty.
    fn text(&self, path: &str) -> Result<String> {
        let path = self.root.join(path);
        let mut text = String::new();
        match fs::File::open(&path).and_then(|file| file.take(LARGEST).read_to_string(&mut text)) {
            Ok(_) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(failed(format!("cannot read {}", path.display()))(error)),
        }
    }
}

/// Of `key = value` and `key = "value"`; comments begin with `#`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

/// user, role, type, level.
fn parts(label: &str) -> Result<[&str; 4]> {
    let all: Vec<&str> = label.splitn(4, ':').collect();
    <[&str; 4]>::try_from(all).map_err(|_| {
        HostError::new(format!("lxc_contexts: `{label}` is no label of four parts"), Fault::Internal)
    })
}

/// Has the container's processes and file systems be labelled.
pub(super) fn name(labels: &Labels, spec: &mut OciSpec) {
    if let Some(process) = spec.process_mut() {
        process.set_selinux_label(Some(labels.process.clone()));
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_mount_label(Some(labels.files.clone()));
    }
}

/// Gives the sources of mounts that ask for it the container's label.
pub(super) fn relabel(plan: &ContainerPlan, labels: &Labels) -> Result<()> {
    relabel_with(plan, &mut |file| label::set(file, &labels.files))
}

fn relabel_with(
    plan: &ContainerPlan,
    set: &mut dyn FnMut(BorrowedFd<'_>) -> std::result::Result<(), Errno>,
) -> Result<()> {
    let asked = plan.spec.mounts.iter().filter(|mount| mount.selinux_relabel && mount.image.is_none());
    for mount in asked {
        let source = &mount.host_path;
        let doing = || format!("cannot relabel {}", source.display());
        let tree = label::Tree::open(source).map_err(|error| failed(doing())(error))?;
        if NEVER.iter().any(|never| tree.path() == Path::new(never)) {
            return Err(HostError::new(
                format!("{}: {} is a part of the system", doing(), tree.path().display()),
                Fault::Invalid("config.mounts.selinux_relabel"),
            ));
        }
        tree.each(set).map_err(|error| failed(doing())(error))?;
    }
    Ok(())
}

/// Gives a file of the pod's own its label.
pub(super) fn relabel_file(path: &Path, labels: &Labels) -> Result<()> {
    let doing = || format!("cannot label {}", path.display());
    let tree = label::Tree::open(path).map_err(|error| failed(doing())(error))?;
    tree.each(&mut |file| label::set(file, &labels.files)).map_err(|error| failed(doing())(error))
}

#[cfg(test)]
mod tests;
