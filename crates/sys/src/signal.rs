//! Signal masks and dispositions.

use rustix::io::Errno;
use std::mem::MaybeUninit;

/// The highest signal number of Linux.
pub const HIGHEST: i32 = 64;

/// Puts every signal back to its default and blocks none, as a program expects after exec.
///
/// exec(2) itself resets handlers, but neither what is ignored (the Rust runtime ignores SIGPIPE) nor the mask.
///
/// # Errors
/// Of sigprocmask(2).
pub fn reset_all() -> Result<(), Errno> {
    for number in 1..=HIGHEST {
        // SAFETY: the default disposition runs no code of ours; for KILL, STOP and the two that the C
        // library keeps it fails, which changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set before sigprocmask reads it, and both only get
    // the address of a set that lives across the calls.
    let returned = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    crate::check(returned.into()).map(drop)
}
