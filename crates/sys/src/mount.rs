//! What rustix lacks of the mount interface: mount_setattr(2) and mount(2) with plain strings.

use rustix::{
    fd::{AsFd, AsRawFd},
    io::Errno,
};
use std::ffi::CStr;

/// `MOUNT_ATTR_RDONLY`, linux/mount.h.
pub const RDONLY: u64 = 0x01;
/// `MOUNT_ATTR_NOSUID`
pub const NOSUID: u64 = 0x02;
/// `MOUNT_ATTR_NODEV`
pub const NODEV: u64 = 0x04;
/// `MOUNT_ATTR_NOEXEC`
pub const NOEXEC: u64 = 0x08;
/// `MOUNT_ATTR__ATIME`: the bits of the field of the three that follow; to be cleared with any of them.
pub const ATIME_FIELD: u64 = 0x70;
/// `MOUNT_ATTR_RELATIME` (the default)
pub const RELATIME: u64 = 0x00;
/// `MOUNT_ATTR_NOATIME`
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`
pub const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`
pub const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_NOSYMFOLLOW`
pub const NOSYMFOLLOW: u64 = 0x0020_0000;

/// `MOUNT_ATTR_IDMAP`
const IDMAP: u64 = 0x0010_0000;

/// What mount_setattr(2) shall change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to put on.
    pub set: u64,
    /// `MOUNT_ATTR_*` to take away.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE` (libc), or 0 to leave it.
    pub propagation: u64,
}

impl Attributes {
    /// Whether this changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The kernel's `struct mount_attr`, version 0.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// mount_setattr(2) on the mount that `mount` stands for; `recursive` takes in every mount beneath it.
///
/// # Errors
/// Of mount_setattr(2).
pub fn set_attributes(mount: impl AsFd, recursive: bool, wanted: &Attributes) -> Result<(), Errno> {
    let attr = MountAttr {
        attr_set: wanted.set,
        attr_clr: wanted.clear,
        propagation: wanted.propagation,
        userns_fd: 0,
    };
    change(mount, recursive, &attr)
}

fn change(mount: impl AsFd, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty path ends in NUL, `attr` is of the size given, and both live across the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    crate::check(returned).map(drop)
}

/// Shows the mount that `mount` stands for with the ids as this user namespace maps them; `recursive`
/// takes in every mount beneath it.
///
/// # Errors
/// Of mount_setattr(2); EINVAL when the file system cannot do it, or the mount is attached somewhere.
pub fn map_ids(mount: impl AsFd, recursive: bool, userns: impl AsFd) -> Result<(), Errno> {
    let fd = userns.as_fd().as_raw_fd().unsigned_abs();
    change(
        mount,
        recursive,
        &MountAttr { attr_set: IDMAP, attr_clr: 0, propagation: 0, userns_fd: fd.into() },
    )
}

/// mount(2): the one form that takes overlay's options in one string of up to a page on every kernel.
///
/// # Errors
/// Of mount(2).
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Result<(), Errno> {
    // SAFETY: all four strings end in NUL and live across the call.
    let returned =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    crate::check(returned.into()).map(drop)
}
