//! The new root: mounted, made the root, and the old one left behind.

use super::mounts::{attach, copy};
use crate::{
    failure::{Failure, Step},
    plan::rootfs::{RootKind, RootPlan},
};
use sys::{
    libc, mount,
    root::RootFd,
    rustix::{
        fd::AsFd,
        fs::{self, CWD, Mode, OFlags},
        io::Errno,
        mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
        process::{chdir, fchdir, pivot_root},
    },
};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Cuts this mount namespace off the host's and mounts the root in it.
pub(super) fn mount(plan: &RootPlan) -> Result<RootFd, Failure> {
    let bound = match &plan.kind {
        // As the volumes: before the host's mounts lose their peers.
        RootKind::Bind { source, .. } => Some(
            copy(CWD, source, true).step_with(|| format!("open the root {}", source.to_string_lossy()))?,
        ),
        RootKind::Mount { .. } => None,
    };
    mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .step("make all mounts private")?;
    match (&plan.kind, bound) {
        (RootKind::Mount { kind, source, flags, data, from }, _) => {
            if let Some(from) = from {
                chdir(from.as_c_str()).step_with(|| format!("enter {}", from.to_string_lossy()))?;
            }
            mount::mount(source, &plan.at, kind, *flags, data)
                .step_with(|| format!("mount the root ({}: {})", kind.to_string_lossy(), shown(data)))?;
        }
        (RootKind::Bind { options, .. }, Some(bound)) => {
            let at = fs::open(plan.at.as_c_str(), DIRECTORY, Mode::empty()).step("open the bundle")?;
            let bind = || -> Result<(), Errno> {
                let private = mount::Attributes { propagation: libc::MS_PRIVATE, ..Default::default() };
                mount::set_attributes(&bound, true, &private)?;
                if !options.own.is_empty() {
                    mount::set_attributes(&bound, false, &options.own)?;
                }
                attach(&bound, &at)
            };
            bind().step("mount the root")?;
        }
        (RootKind::Bind { .. }, None) => return Err(Errno::INVAL).step("mount the root"),
    }
    RootFd::open(plan.at.as_c_str()).step("open the new root")
}

/// The options for a message: of many layers the first and the directories that are written.
fn shown(data: &std::ffi::CStr) -> String {
    let text = data.to_string_lossy();
    if text.len() <= 400 {
        return text.into_owned();
    }
    let cut = |at: usize| (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{} ... {}", &text[..cut(200)], &text[cut(text.len() - 200)..])
}

/// Makes it the root of this mount namespace, in which nothing of the host is then left.
pub(super) fn pivot(root: &RootFd) -> Result<(), Failure> {
    let old = fs::open(c"/", DIRECTORY, Mode::empty()).step("open the old root")?;
    fchdir(root.as_fd()).step("enter the new root")?;
    // pivot_root(2) "pivot_root(".", ".")": the old root is then stacked on the new one.
    pivot_root(c".", c".").step("pivot_root")?;
    fchdir(&old).step("enter the old root")?;
    unmount(c".", UnmountFlags::DETACH).step("leave the old root")?;
    chdir(c"/").step("enter the root")
}

/// What would be in the way before: the root's own flags.
pub(super) fn finish(root: &RootFd, plan: &RootPlan) -> Result<(), Failure> {
    if let Some((propagation, recursive)) = plan.propagation {
        let wanted = mount::Attributes { propagation, ..Default::default() };
        mount::set_attributes(root, recursive, &wanted).step("set linux.rootfsPropagation")?;
    }
    if plan.readonly {
        let wanted = mount::Attributes { set: mount::RDONLY, ..Default::default() };
        mount::set_attributes(root, false, &wanted).step("make the root read-only")?;
    }
    Ok(())
}
