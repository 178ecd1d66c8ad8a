//! The new root: mounted, made the root, and the old one left behind.

use super::mounts::{attach, copy, detached};
use crate::{
    failure::{Failure, Step},
    plan::{
        layers::{Layers, Upper},
        rootfs::{RootKind, RootPlan},
    },
};
use std::ffi::{CStr, CString};
use sys::{
    fsids, libc, mount,
    root::RootFd,
    rustix::{
        fd::{AsFd, OwnedFd},
        fs::{self, CWD, Mode, OFlags},
        io::Errno,
        mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
        process::{chdir, fchdir, pivot_root},
    },
};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Cuts this mount namespace off the host's and mounts the root in it.
pub(super) fn mount(plan: &RootPlan) -> Result<RootFd, Failure> {
    let bound = open_bound(plan)?;
    make_private()?;
    match (&plan.kind, bound) {
        (RootKind::Bind { .. }, Some(bound)) => {
            let at = fs::open(plan.at.as_c_str(), DIRECTORY, Mode::empty()).step("open the bundle")?;
            change(&bound, plan).and_then(|()| attach(&bound, &at)).step("mount the root")?;
        }
        (RootKind::Mount { .. }, _) => mount_at(plan, &plan.at)?,
        // The plan wants a user namespace for them.
        (RootKind::Bind { .. } | RootKind::Layers { .. }, _) => {
            return Err(Errno::INVAL).step("mount the root");
        }
    }
    RootFd::open(plan.at.as_c_str()).step("open the new root")
}

/// A root that is a directory of the host: a copy of its mount, as of the volumes taken before the host's mounts
/// lose their peers.
pub(super) fn open_bound(plan: &RootPlan) -> Result<Option<OwnedFd>, Failure> {
    match &plan.kind {
        RootKind::Bind { source, .. } => copy(CWD, source, true)
            .map(Some)
            .step_with(|| format!("open the root {}", source.to_string_lossy())),
        RootKind::Mount { .. } | RootKind::Layers { .. } => Ok(None),
    }
}

pub(super) fn make_private() -> Result<(), Failure> {
    mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .step("make all mounts private")
}

/// The attributes of a copied mount, before it is attached.
fn change(bound: &OwnedFd, plan: &RootPlan) -> Result<(), Errno> {
    let RootKind::Bind { options, .. } = &plan.kind else { return Ok(()) };
    let private = mount::Attributes { propagation: libc::MS_PRIVATE, ..Default::default() };
    mount::set_attributes(bound, true, &private)?;
    if options.own.is_empty() { Ok(()) } else { mount::set_attributes(bound, false, &options.own) }
}

fn mount_at(plan: &RootPlan, at: &CStr) -> Result<(), Failure> {
    let RootKind::Mount { kind, source, flags, data, from } = &plan.kind else { return Ok(()) };
    if let Some(from) = from {
        chdir(from.as_c_str()).step_with(|| format!("enter {}", from.to_string_lossy()))?;
    }
    mount::mount(source, at, kind, *flags, data)
        .step_with(|| format!("mount the root ({}: {})", kind.to_string_lossy(), shown(data)))
}

/// The options for a message: of many layers the first and the directories that are written.
fn shown(data: &CStr) -> String {
    let text = data.to_string_lossy();
    if text.len() <= 400 {
        return text.into_owned();
    }
    let cut = |at: usize| (at..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{} ... {}", &text[..cut(200)], &text[cut(text.len() - 200)..])
}

/// A tmpfs of this mount namespace, where what has no other place is mounted until there are descriptors of it. It
/// lies where the root will, and is the working directory.
pub(super) struct Bench<'a> {
    at: &'a CStr,
    dir: OwnedFd,
}

impl<'a> Bench<'a> {
    pub(super) fn new(plan: &'a RootPlan) -> Result<Self, Failure> {
        let at = plan.at.as_c_str();
        let make = || -> Result<OwnedFd, Errno> {
            let bench = detached(c"tmpfs", c"peapod", &[(c"mode".into(), Some(c"700".into()))], 0)?;
            attach(&bench, fs::open(at, DIRECTORY, Mode::empty())?)?;
            chdir(at)?;
            Ok(bench)
        };
        Ok(Bench { at, dir: make().step("mount a place for what is prepared")? })
    }

    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// The root, attached nowhere.
    pub(super) fn root(&self, plan: &RootPlan, bound: Option<OwnedFd>) -> Result<OwnedFd, Failure> {
        if let Some(bound) = bound {
            change(&bound, plan).step("mount the root")?;
            return Ok(bound);
        }
        fs::mkdirat(&self.dir, c"root", Mode::from_raw_mode(0o700)).step("make a place for the root")?;
        if let RootKind::Layers { source, flags, layers } = &plan.kind {
            self.layers(source, *flags, layers)?;
        } else {
            let place = CString::new([self.at.to_bytes(), b"/root"].concat());
            mount_at(plan, &place.map_err(|_| Errno::INVAL).step("name the root's place")?)?;
            chdir(self.at).step("enter the place for what is prepared")?;
        }
        copy(self.dir.as_fd(), c"root", false).step("copy the root's mount")
    }

    /// An overlay of layers, each of which is a mount of its own that shows other ids.
    fn layers(&self, source: &CStr, flags: u64, layers: &Layers) -> Result<(), Failure> {
        let mut data = b"lowerdir=".to_vec();
        for (at, lower) in layers.lower.iter().enumerate() {
            let name = at.to_string();
            self.layer(&name, lower, Some(layers))?;
            if at > 0 {
                data.push(b':');
            }
            data.extend(name.bytes());
        }
        if let Some(Upper { parent, upper, work, mapped }) = &layers.upper {
            self.layer("own", parent, mapped.then_some(layers))?;
            for (key, name) in [(",upperdir=own/", upper), (",workdir=own/", work)] {
                data.extend(key.bytes());
                data.extend(name.as_bytes());
            }
        }
        for (key, value) in &layers.data {
            data.push(b',');
            data.extend(key.as_bytes());
            if let Some(value) = value {
                data.push(b'=');
                data.extend(value.as_bytes());
            }
        }
        let data = CString::new(data).map_err(|_| Errno::INVAL).step("name the layers")?;
        // Who mounts it makes what it needs in the working directory: as root of the mapping, since the host's has no
        // id there.
        let (uid, gid) = layers.owner;
        fsids::with(uid, gid, || mount::mount(source, c"root", c"overlay", flags, &data))
            .and_then(|mounted| mounted)
            .step_with(|| format!("mount the root (overlay: {})", shown(&data)))
    }

    /// Mounts a directory beneath this one, mapped or as it is.
    fn layer(&self, name: &str, path: &CStr, map: Option<&Layers>) -> Result<(), Failure> {
        let one = || -> Result<(), Errno> {
            let layer = copy(CWD, path, false)?;
            if let Some(layers) = map {
                mount::map_ids(&layer, false, layers.map.userns.as_ref().ok_or(Errno::INVAL)?)?;
            }
            fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o700))?;
            attach(&layer, fs::openat(&self.dir, name, DIRECTORY, Mode::empty())?)
        };
        one().step_with(|| {
            format!("map the ids of {} (EINVAL: its file system cannot)", path.to_string_lossy())
        })
    }

    /// Takes it away again; the working directory is what it was mounted on.
    pub(super) fn leave(self) -> Result<(), Failure> {
        chdir(c"/")
            .and_then(|()| unmount(self.at, UnmountFlags::DETACH))
            .and_then(|()| chdir(self.at))
            .step("leave the place for what is prepared")
    }
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
