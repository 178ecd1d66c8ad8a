//! Session keyrings, keyctl(2).

use rustix::io::Errno;

/// Gives the calling thread a new, empty session keyring, so that it does not hold its parent's keys.
///
/// # Errors
/// Of keyctl(2): EDQUOT when the user has too many keys, ENOSYS on a kernel without keys.
pub fn join_new_session() -> Result<(), Errno> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is touched.
    let returned = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0_usize) };
    crate::check(returned).map(drop)
}
