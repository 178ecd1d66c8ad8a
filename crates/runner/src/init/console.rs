//! Descriptors 0, 1 and 2, and the container's terminal.

use super::mounts::{attach, copy, is_on};
use crate::{
    Stdio,
    failure::{Failure, Step},
    plan::process::ProcessPlan,
};
use sys::{
    root::RootFd,
    rustix::{
        self,
        fd::{AsFd, OwnedFd},
        fs::{self, FileType, Mode, OFlags},
        io::Errno,
        pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
        termios::{Winsize, tcsetwinsize},
    },
};

const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Gives the pipes to the process' user, so that they can be opened again as /dev/stdout. With the host's rights
/// and ids.
pub(super) fn give_pipes(stdio: &Stdio, process: &ProcessPlan) -> Result<(), Failure> {
    let (Stdio::Files { stdin, stdout, stderr }, Some(owner)) = (stdio, process.pipes_owner) else {
        return Ok(());
    };
    for file in [stdin, stdout, stderr] {
        let is_pipe = fs::fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if is_pipe == Ok(true) {
            fs::fchown(file, Some(owner), None).step("give the pipes to the user")?;
        }
    }
    Ok(())
}

/// Makes these the process' descriptors 0 to 2.
pub(super) fn take_files(files: [&OwnedFd; 3]) -> Result<(), Failure> {
    become_stdio(files).step("take over stdin, stdout and stderr")
}

fn become_stdio([stdin, stdout, stderr]: [&OwnedFd; 3]) -> Result<(), Errno> {
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)
}

/// A new terminal of the container's own devpts; this process takes one end and returns the other.
///
/// The end is reached from the other by TIOCGPTPEER, never by its path (CVE-2025-52565).
pub(super) fn open(root: &RootFd, process: &ProcessPlan) -> Result<OwnedFd, Failure> {
    let open = || -> Result<OwnedFd, Errno> {
        let ptmx = root.resolve_plain("dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY)?;
        if !is_on(&ptmx, DEVPTS_SUPER_MAGIC)? {
            return Err(Errno::NOTTY);
        }
        unlockpt(&ptmx)?;
        let terminal =
            ioctl_tiocgptpeer(&ptmx, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        if let Some((rows, columns)) = process.console_size {
            tcsetwinsize(&terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        }
        fs::fchown(&terminal, Some(process.uid), None)?;
        become_stdio([&terminal, &terminal, &terminal])?;
        rustix::process::ioctl_tiocsctty(&terminal)?;
        Ok(ptmx)
    };
    open().step("make a terminal of the container's /dev/pts")
}

/// Makes the terminal, which is descriptor 0 now, appear as /dev/console.
pub(super) fn mount_console(root: &RootFd) -> Result<(), Failure> {
    let mount = || -> Result<(), Errno> {
        let dev = root.make_dir("dev", Mode::from_raw_mode(0o755))?;
        match fs::mknodat(&dev, "console", FileType::RegularFile, Mode::from_raw_mode(0o600), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let target =
            fs::openat(&dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if FileType::from_raw_mode(fs::fstat(&target)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        attach(copy(rustix::stdio::stdin().as_fd(), c"", false)?, target)
    };
    mount().step("mount /dev/console")
}
