//! The ids that this thread makes files with, setfsuid(2).

use crate::caps;
use rustix::io::Errno;

/// Runs `work` with these file-system ids and all capabilities that the thread has. The ids must be valid in its
/// user namespace. The thread has its own again afterwards, also when `work` panics.
///
/// The kernel has no error for the change itself, so it is looked at.
///
/// # Errors
/// EPERM when the ids could not be taken; of capget(2) and capset(2).
pub fn with<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T, Errno> {
    let before = caps::current()?;
    let own = Restored((set_uid(uid), set_gid(gid)), |(uid, gid)| {
        set_uid(uid);
        set_gid(gid);
        Ok(())
    });
    let taken = set_uid(uid) == uid && set_gid(gid) == gid;
    // The change from root to another took those of the file system out of force.
    set_caps(before)?;
    let done = taken.then(work);
    drop(own);
    done.ok_or(Errno::PERM)
}

/// Runs `work` as this user, for what asks who the caller is (`proc_sys_permission` of the kernel) and not for its
/// capabilities: none of them is in force meanwhile. For threads of root. The thread is its own user again
/// afterwards, also when `work` panics.
///
/// The process is as `fs.suid_dumpable` says from then on.
///
/// # Errors
/// Of setresuid(2), capget(2) and capset(2).
pub fn as_user<T>(uid: u32, work: impl FnOnce() -> T) -> Result<T, Errno> {
    use rustix::{process, thread};
    let before = caps::current()?;
    let (real, effective) = (process::getuid(), process::geteuid());
    thread::set_thread_res_uid(real, process::Uid::from_raw(uid), effective)?;
    // The saved one is still the thread's own: nothing refuses the way back.
    let own = Restored((real, effective, before), |(real, effective, before)| {
        thread::set_thread_res_uid(real, effective, effective)?;
        set_caps(before)
    });
    let done = work();
    own.now()?;
    Ok(done)
}

/// What a thread was, which it is again when this goes out of scope: at the end of the work, or by its panic.
struct Restored<S: Copy>(S, fn(S) -> Result<(), Errno>);

impl<S: Copy> Restored<S> {
    /// Restores it and tells whether that went well.
    fn now(self) -> Result<(), Errno> {
        (self.1)(self.0)
    }
}

impl<S: Copy> Drop for Restored<S> {
    fn drop(&mut self) {
        // After `now` it changes nothing; in a panic there is nobody to tell.
        let _ = (self.1)(self.0);
    }
}

fn set_caps(sets: rustix::thread::CapabilitySets) -> Result<(), Errno> {
    caps::set(sets.effective.bits(), sets.permitted.bits(), sets.inheritable.bits())
}

/// Returns the one before.
fn set_uid(uid: u32) -> u32 {
    // SAFETY: setfsuid takes any number, changes this thread only, and cannot fail in memory.
    unsafe { libc::setfsuid(uid) }.cast_unsigned()
}

/// Returns the one before.
fn set_gid(gid: u32) -> u32 {
    // SAFETY: as `set_uid`.
    unsafe { libc::setfsgid(gid) }.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_file_is_made_with_these_ids_by_one_who_keeps_all_rights_and_is_as_before_then() {
        let scratch = crate::tree::tests::Scratch::new("fsids");
        let before = caps::current().expect("caps");
        let make = |name: &str| {
            let path = scratch.path().join(name);
            std::fs::File::create(&path).and_then(|file| file.metadata()).expect("create")
        };
        // The directory is root's, 0755: only CAP_DAC_OVERRIDE lets another write there.
        let made = with(1234, 4321, || make("theirs")).expect("taken");
        assert_eq!((made.uid(), made.gid()), (1234, 4321));
        let made = make("ours");
        assert_eq!((made.uid(), made.gid()), (0, 0));
        assert_eq!(caps::current().expect("caps"), before);
    }

    #[test]
    fn work_as_another_user_is_refused_what_is_roots_and_all_is_as_before_then() {
        let before = caps::current().expect("caps");
        let open = || std::fs::OpenOptions::new().write(true).open("/proc/sys/kernel/hostname");
        let refused = as_user(1234, || open().map_err(|error| error.kind())).expect("root").map(drop);
        assert_eq!(refused, Err(std::io::ErrorKind::PermissionDenied));
        open().expect("root's again");
        assert_eq!(caps::current().expect("caps"), before);
    }

    #[test]
    fn a_panic_of_the_work_leaves_the_thread_as_it_was() {
        let before = caps::current().expect("caps");
        let ids = || (set_uid(u32::MAX), set_gid(u32::MAX));
        let own = ids();
        let works: [fn(); 2] = [
            || as_user(1234, || panic!("of a test")).expect("it does not come back"),
            || with(1234, 4321, || panic!("of a test")).expect("it does not come back"),
        ];
        for work in works {
            std::panic::catch_unwind(work).expect_err("it panics");
            assert_eq!(caps::current().expect("caps"), before);
            assert_eq!((rustix::process::geteuid().as_raw(), ids()), (0, own));
        }
    }
}
