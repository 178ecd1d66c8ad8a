//! `mounts`, in order, each onto a descriptor of its target beneath the new root.

use crate::{
    failure::{Failure, Step},
    plan::{
        mounts::{Hierarchy, MountKind, MountPlan},
        options::Options,
    },
};
use std::{
    ffi::{CStr, CString},
    path::Path,
};
use sys::{
    libc, mount,
    root::RootFd,
    rustix::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        fs::{self, CWD, FileType, Mode, OFlags},
        io::Errno,
        mount::{
            FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
            fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
        },
    },
};

/// Magic numbers of linux/magic.h.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// The bind sources of one mount: copies of the host's mounts that are attached nowhere.
pub(super) enum Sources {
    None,
    Bind(OwnedFd),
    CgroupV1(Vec<OwnedFd>),
}

impl Sources {
    /// What must stay open.
    pub(super) fn descriptors(&self) -> &[OwnedFd] {
        match self {
            Sources::None => &[],
            Sources::Bind(copy) => std::slice::from_ref(copy),
            Sources::CgroupV1(copies) => copies,
        }
    }
}

/// Copies the sources of all binds, by the host's paths and while the copies still are peers of the host's
/// mounts: that is what lets a mount of the host show up later in a volume with `rslave`.
pub(super) fn open_sources(mounts: &[MountPlan]) -> Result<Vec<Sources>, Failure> {
    mounts
        .iter()
        .map(|mount| {
            let source = open_source(mount)
                .step_with(|| format!("mount {}: open the source{}", mount.target.display(), shown(mount)))?;
            if let (Sources::Bind(copy), Some(map)) = (&source, &mount.idmap) {
                let userns = map.userns.as_ref().ok_or(Errno::INVAL);
                userns.and_then(|userns| mount::map_ids(copy, map.recursive, userns)).step_with(|| {
                    format!("mount {}: map its ids (EINVAL: its file system cannot)", mount.target.display())
                })?;
            }
            Ok(source)
        })
        .collect()
}

/// Adds the sources that are directories of the new root, before anything is mounted over them.
pub(super) fn open_in_root(
    root: &RootFd,
    mounts: &[MountPlan],
    mut sources: Vec<Sources>,
) -> Result<Vec<Sources>, Failure> {
    for (mount, source) in mounts.iter().zip(&mut sources) {
        let MountKind::OfRoot(path) = &mount.kind else { continue };
        let open = || -> Result<OwnedFd, Errno> {
            let dir = root.make_dir(path.strip_prefix("/").unwrap_or(path), Mode::from_raw_mode(0o755))?;
            copy(dir.as_fd(), c"", true)
        };
        *source = Sources::Bind(open().step_with(|| format!("mount {}: open it", mount.target.display()))?);
    }
    Ok(sources)
}

fn shown(mount: &MountPlan) -> String {
    match &mount.kind {
        MountKind::Bind { source, .. } => format!(" {}", source.to_string_lossy()),
        MountKind::OfRoot(_) | MountKind::FileSystem { .. } | MountKind::CgroupV1(_) => String::new(),
    }
}

fn open_source(mount: &MountPlan) -> Result<Sources, Errno> {
    Ok(match &mount.kind {
        MountKind::Bind { source, recursive } => Sources::Bind(copy(CWD, source, *recursive)?),
        MountKind::OfRoot(_) | MountKind::FileSystem { .. } => Sources::None,
        MountKind::CgroupV1(hierarchies) => Sources::CgroupV1(
            hierarchies
                .iter()
                .map(|hierarchy| copy(CWD, &hierarchy.source, false))
                .collect::<Result<_, _>>()?,
        ),
    })
}

/// A copy of the mount at a path, with `recursive` of all mounts beneath it, attached nowhere.
pub(super) fn copy(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(dir, path, flags)
}

/// A new instance of a file system, attached nowhere. `attributes`: `MOUNT_ATTR_*`.
pub(super) fn detached(
    kind: &CStr,
    source: &CStr,
    data: &[(CString, Option<CString>)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !source.is_empty() {
        fsconfig_set_string(context.as_fd(), c"source", source)?;
    }
    for (key, value) in data {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), key.as_c_str(), value.as_c_str())?,
            None => fsconfig_set_flag(context.as_fd(), key.as_c_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).map_err(|_| Errno::INVAL)?);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Puts a mount that is attached nowhere onto what the descriptor stands for.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), c"", target.as_fd(), c"", flags)
}

/// Mounts all, in order.
pub(super) fn mount_all(root: &RootFd, mounts: &[MountPlan], sources: Vec<Sources>) -> Result<(), Failure> {
    for (mount, source) in mounts.iter().zip(sources) {
        one(root, mount, source)?;
    }
    Ok(())
}

fn one(root: &RootFd, mount: &MountPlan, source: Sources) -> Result<(), Failure> {
    let named = |step: &'static str| move || format!("mount {}: {step}", mount.target.display());
    let (made, is_dir) = match (&mount.kind, source) {
        (MountKind::Bind { .. } | MountKind::OfRoot(_), Sources::Bind(copy)) => {
            let is_dir = is_directory(&copy).step_with(named("stat the source"))?;
            if mount.plain {
                check_own_file_system(mount, &copy)?;
            }
            change(&copy, &mount.options, false).step_with(named("set its attributes"))?;
            (copy, is_dir)
        }
        (MountKind::FileSystem { kind, source }, _) => {
            let options = &mount.options;
            let made = detached(kind, source, &options.data, options.own.set)
                .step_with(|| format!("mount {}: {}", mount.target.display(), kind.to_string_lossy()))?;
            change(&made, options, true).step_with(named("set its attributes"))?;
            (made, true)
        }
        (MountKind::CgroupV1(hierarchies), Sources::CgroupV1(copies)) => {
            return cgroup_v1(root, mount, hierarchies, copies);
        }
        (MountKind::Bind { .. } | MountKind::OfRoot(_) | MountKind::CgroupV1(_), _) => {
            return Err(Errno::INVAL).step_with(named("it has no source"));
        }
    };
    let target = open_target(root, mount, is_dir).step_with(named("open the target"))?;
    attach(&made, &target).step_with(named("attach"))
}

/// The target beneath the root, made if missing. What lies in a procfs is only taken where the plan allowed
/// that very path: a link to /proc is no way around.
fn open_target(root: &RootFd, mount: &MountPlan, is_dir: bool) -> Result<OwnedFd, Errno> {
    let path = mount.target.strip_prefix("/").unwrap_or(&mount.target);
    let mode = Mode::from_raw_mode(if is_dir { 0o755 } else { 0o644 });
    let target = if mount.plain {
        match root.resolve_plain(path, OFlags::PATH | OFlags::DIRECTORY) {
            // Its parent is the root itself, so that nothing but the name can be wrong.
            Err(Errno::NOENT) => {
                root.make_dir(path, mode)?;
                root.resolve_plain(path, OFlags::PATH | OFlags::DIRECTORY)?
            }
            found => found?,
        }
    } else if is_dir {
        root.make_dir(path, mode)?
    } else {
        root.make_file(path, mode)?
    };
    if is_on(&target, PROC_SUPER_MAGIC)? && !mount.target.starts_with("/proc") {
        return Err(Errno::PERM);
    }
    Ok(target)
}

/// What is bound over /proc must be a procfs, else the runtime's and the workload's own writes to it would
/// go where the image wants.
fn check_own_file_system(mount: &MountPlan, copy: &OwnedFd) -> Result<(), Failure> {
    let proc = is_on(copy, PROC_SUPER_MAGIC).step("statfs")?;
    if mount.target == Path::new("/proc") && !proc {
        return Err(Errno::INVAL).step("mount /proc: the source is no procfs");
    }
    Ok(())
}

pub(super) fn is_on(fd: impl AsFd, magic: u64) -> Result<bool, Errno> {
    Ok(u64::try_from(fs::fstatfs(fd)?.f_type).ok() == Some(magic))
}

fn is_directory(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// Attributes and propagation of a mount before it is attached. A propagation that is not asked for is
/// private: nothing that is mounted later crosses the border of the container.
fn change(made: &OwnedFd, options: &Options, is_new: bool) -> Result<(), Errno> {
    let (kind, recursive) = options.propagation.unwrap_or((libc::MS_PRIVATE, true));
    if options.propagation.is_some_and(|(_, recursive)| !recursive) {
        // The mounts beneath are copies of shared ones as well.
        mount::set_attributes(
            made,
            true,
            &mount::Attributes { propagation: libc::MS_PRIVATE, ..Default::default() },
        )?;
    }
    if !(is_new && kind == libc::MS_PRIVATE) {
        mount::set_attributes(
            made,
            recursive,
            &mount::Attributes { propagation: kind, ..Default::default() },
        )?;
    }
    if !is_new && !options.own.is_empty() {
        mount::set_attributes(made, false, &options.own)?;
    }
    if !options.all.is_empty() {
        mount::set_attributes(made, true, &options.all)?;
    }
    Ok(())
}

/// A tmpfs with a directory for each hierarchy, onto which the container's own group is bound.
fn cgroup_v1(
    root: &RootFd,
    mount: &MountPlan,
    hierarchies: &[Hierarchy],
    copies: Vec<OwnedFd>,
) -> Result<(), Failure> {
    let named = |step: &'static str| move || format!("mount {}: {step}", mount.target.display());
    let data = [(c"mode".into(), Some(c"755".into()))];
    let own = mount.options.own.set & !mount::RDONLY;
    let view = detached(c"tmpfs", c"cgroup", &data, own).step_with(named("tmpfs"))?;
    let target = open_target(root, mount, true).step_with(named("open the target"))?;
    attach(&view, &target).step_with(named("attach"))?;
    for (hierarchy, copy) in hierarchies.iter().zip(copies) {
        let bind = || -> Result<(), Errno> {
            change(&copy, &mount.options, false)?;
            fs::mkdirat(&view, &hierarchy.name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            attach(&copy, fs::openat(&view, &hierarchy.name, flags, Mode::empty())?)?;
            for link in &hierarchy.links {
                fs::symlinkat(&hierarchy.name, &view, link)?;
            }
            Ok(())
        };
        bind().step_with(|| format!("mount {}/{}", mount.target.display(), hierarchy.name))?;
    }
    let rest = mount::Attributes { set: mount.options.own.set, ..Default::default() };
    mount::set_attributes(&view, false, &rest).step_with(named("set its attributes"))
}
