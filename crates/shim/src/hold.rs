//! The process that keeps a pod's scope: systemd takes a scope away with its last process, and a pod may
//! have no container for a while. It does nothing, and ends when the scope is killed or stopped.
//!
//! ```text
//! daemon: start it ──> scope made, moved in ──> a byte ──> it stays
//!                  └──> the daemon died, or no scope: end of input ──> it ends
//! ```

use std::io::{self, Read as _};
use sys::rustix::fs::{Gid, Uid};
use sys::rustix::process::{DumpableBehavior, chdir, set_dumpable_behavior};
use sys::rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use sys::rustix::thread::{
    set_name, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// User and group of the process, those of Kubernetes' pause image.
const NOBODY: u32 = 65_535;

/// Waits for the word to stay, and then for ever. Without that word it returns.
///
/// # Errors
/// What it has and cannot give up.
pub(crate) fn hold() -> io::Result<()> {
    let mut word = [0];
    if io::stdin().read(&mut word)? == 0 {
        return Ok(());
    }
    let null = crate::logfile::null()?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    // By this name it is known beside the shims.
    set_name(c"peapod-hold")?;
    chdir("/")?;
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_res_gid(group, group, group)?;
    // From root to another user: the kernel clears the capabilities (capabilities(7)).
    set_thread_res_uid(user, user, user)?;
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    loop {
        sys::rustix::event::pause();
    }
}
