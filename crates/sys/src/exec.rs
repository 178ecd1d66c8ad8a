//! execve(2) with strings that were made before, and a copy of a binary that nobody can write through.

use rustix::{
    fd::{AsRawFd, BorrowedFd, OwnedFd},
    fs::{self, CWD, Mode, OFlags, StatVfsMountFlags},
    io::Errno,
    mount::OpenTreeFlags,
};
use std::{ffi::CStr, ffi::CString, path::Path};

/// A list of strings as execve(2) takes it: pointers, ended by a null one.
#[derive(Debug)]
pub struct Strings {
    /// Into the heap blocks of `owned`, which do not move when the vector does.
    pointers: Vec<*const libc::c_char>,
    owned: Vec<CString>,
}

impl Strings {
    /// Takes the strings over.
    #[must_use]
    pub fn new(owned: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = owned.iter().map(|text| text.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { pointers, owned }
    }

    /// The strings.
    #[must_use]
    pub fn as_slice(&self) -> &[CString] {
        &self.owned
    }
}

/// Replaces the program. It returns only with the reason why it could not.
#[must_use]
pub fn execve(path: &CStr, argv: &Strings, env: &Strings) -> Errno {
    // SAFETY: `path` ends in NUL; both lists end in a null pointer and point to strings that end in
    // NUL, all of which live across the call.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    crate::last_errno()
}

/// Replaces the program by the file that `file` stands for.
#[must_use]
pub fn execve_file(file: BorrowedFd<'_>, argv: &Strings, env: &Strings) -> Errno {
    let empty = c"";
    // SAFETY: as in `execve`; the descriptor is open, as its borrow says.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            empty.as_ptr(),
            argv.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    crate::last_errno()
}

/// Marks every descriptor from `first` on close-on-exec, close_range(2).
///
/// # Errors
/// Of close_range(2).
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: it only sets a flag on descriptors; none is closed before an exec.
    let returned =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    crate::check(returned).map(drop)
}

/// The file at `path` on a read-only mount of its own that is attached nowhere.
///
/// A program that is started from it cannot be written through `/proc/PID/exe` (CVE-2019-5736): the
/// magic link leads through this mount, and nothing can remount it. Its pages stay shared with every
/// other process of that file, which a copy in a memfd would lose.
///
/// # Errors
/// Of open_tree(2) and mount_setattr(2).
pub fn read_only_file(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = rustix::mount::open_tree(CWD, path, flags)?;
    crate::mount::set_attributes(
        &file,
        false,
        &crate::mount::Attributes { set: crate::mount::RDONLY, ..Default::default() },
    )?;
    Ok(file)
}

/// Whether this process' own program lies on a mount that cannot be written.
///
/// # Errors
/// Of open(2) and fstatvfs(3) on /proc/self/exe.
pub fn own_program_is_read_only() -> Result<bool, Errno> {
    let exe = fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fstatvfs(&exe)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}
