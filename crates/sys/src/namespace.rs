//! Namespaces of the calling thread.

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    io::Errno,
    thread::{self, LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags},
};

/// unshare(2) for namespaces and `FS`.
///
/// # Errors
/// EINVAL for `FILES`: a thread with a descriptor table of its own would break the ownership that
/// [`std::os::fd::OwnedFd`] stands for. Else those of unshare(2).
pub fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(Errno::INVAL);
    }
    // SAFETY: without CLONE_FILES the thread keeps sharing its descriptors with the others.
    unsafe { thread::unshare_unsafe(flags) }
}

/// setns(2) with a namespace's own descriptor; EINVAL when it is of another kind.
///
/// # Errors
/// Of setns(2).
pub fn join(namespace: impl AsFd, kind: LinkNameSpaceType) -> Result<(), Errno> {
    thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
}

/// setns(2) with a pidfd: joins those namespaces of that process, all or none.
///
/// # Errors
/// Of setns(2); ESRCH when the process has ended.
pub fn join_process(pidfd: BorrowedFd<'_>, kinds: ThreadNameSpaceType) -> Result<(), Errno> {
    thread::move_into_thread_name_spaces(pidfd, kinds)
}

/// `NS_GET_USERNS`, ioctl_ns(2).
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// The user namespace that owns a namespace.
///
/// # Errors
/// Of ioctl(2): EPERM when it is outside of the caller's own.
pub fn owner(namespace: impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: this request takes no argument and returns a new descriptor.
    let returned = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) };
    crate::check(returned.into())?;
    // SAFETY: it is the new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(returned) })
}
