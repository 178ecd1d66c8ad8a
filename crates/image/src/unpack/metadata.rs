//! Owners, times, attributes and device numbers of members: range-checked, never cut off.

use super::apply::Why;
use crate::tarball::Entry;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
use sys::rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{self, AtFlags, Gid, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

/// Largest numbers in the kernel's 32-bit device number: 12 bits of major, 20 of minor.
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// User and group of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// Refuses what is no user id; 2^32-1 means "unchanged" to chown(2).
    pub(super) fn of(entry: &Entry) -> Result<Self, &'static str> {
        let id = |number| u32::try_from(number).ok().filter(|id| *id != u32::MAX);
        match (id(entry.uid), id(entry.gid)) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err("has an owner outside 0 to 4294967294"),
        }
    }
}

pub(super) fn chown(file: impl AsFd, owner: Owner) -> Result<(), Errno> {
    fs::fchown(file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
}

/// Owner and time of what cannot be opened: links, devices, fifos.
pub(super) fn name_metadata(
    parent: impl AsFd,
    name: &OsStr,
    owner: Owner,
    time: (i64, u32),
) -> Result<(), Errno> {
    let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
    fs::chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    fs::utimensat(&parent, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn set_time(file: impl AsFd, time: (i64, u32)) -> Result<(), Errno> {
    fs::futimens(file, &times(time))
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The device number of a member.
pub(super) fn device((major, minor): (i64, i64)) -> Result<u64, Why> {
    if !(0..=MAX_MAJOR).contains(&major) || !(0..=MAX_MINOR).contains(&minor) {
        return Err(Why::Refused("is a device whose number does not fit 12 and 20 bits"));
    }
    let (major, minor) = (u32::try_from(major), u32::try_from(minor));
    Ok(fs::makedev(major.expect("12 bits fit"), minor.expect("20 bits fit")))
}

/// Sets an extended attribute; false when it is left out: overlayfs' own control data, namespaces that
/// only the host may write (`security.` but for capabilities, `trusted.`), or what the file system
/// does not have.
pub(super) fn set_attribute(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<bool, Why> {
    let wanted = match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    };
    if !wanted {
        return Ok(false);
    }
    match fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
