//! The daemon's socket and the lock that keeps a second daemon away.

use anyhow::{Context as _, bail};
use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::{
        fs::{
            DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
        },
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};
use sys::rustix::{
    fs::{FlockOperation, Gid, chown, flock},
    io::Errno,
    process::geteuid,
};

/// Held as long as the daemon lives; the kernel drops it with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Makes a directory of the daemon's own with exactly this mode, or checks the one that is there.
///
/// # Errors
/// It cannot be made, or it is not a directory of the daemon's user.
pub(crate) fn own_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(mode).create(path) {
        Ok(()) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
    let found =
        std::fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if !found.is_dir() {
        bail!("{} is not a directory", path.display());
    }
    if found.uid() != geteuid().as_raw() {
        bail!("{} belongs to user {}; it must belong to the daemon's own", path.display(), found.uid());
    }
    if found.mode() & 0o7777 != mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    }
    Ok(())
}

/// Takes `<state>/peapod.pid` and writes our pid into it.
///
/// # Errors
/// Another daemon holds it: the error names its pid.
pub(crate) fn lock(state: &Path) -> anyhow::Result<Lock> {
    let path = state.join("peapod.pid");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            (&file).take(32).read_to_string(&mut pid).context("cannot read the pid of the other daemon")?;
            bail!(
                "another peapod (pid {}) serves {}: stop it first, or give this one --state, --root and --listen of its own",
                pid.trim(),
                state.display()
            );
        }
        Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Lock { _file: file })
}

/// Binds the socket, mode 0660. A stale one (nobody answers) is replaced.
///
/// # Errors
/// Somebody answers there, or the path is something else than a socket.
pub(crate) fn bind(path: &Path, group: Option<u32>) -> anyhow::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} is there and is not a socket", path.display())
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("another program serves {}: choose another --listen", path.display())
        }
        Ok(_) => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale {}", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
    // Bound under a name of its own and renamed, so that nobody meets it before its mode is set.
    let half_done = half_done(path);
    match std::fs::remove_file(&half_done) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", half_done.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&half_done).with_context(|| {
        format!("cannot listen on {} (a socket's path has at most 107 bytes)", path.display())
    })?;
    std::fs::set_permissions(&half_done, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    if let Some(group) = group {
        chown(&half_done, None, Some(Gid::from_raw(group)))
            .with_context(|| format!("cannot give {} to group {group}", path.display()))?;
    }
    std::fs::rename(&half_done, path).with_context(|| format!("cannot put {} in place", path.display()))?;
    listener.set_nonblocking(true).context("cannot make the socket non-blocking")?;
    Ok(listener)
}

fn half_done(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("~");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("peapod-listen-{}-{name}", std::process::id()));
        own_dir(&dir, 0o750).expect("a directory");
        dir
    }

    #[test]
    fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
        let dir = dir("lock");
        let first = lock(&dir).expect("the first");
        let error = lock(&dir).expect_err("the second").to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        lock(&dir).expect("free again");
        sys::tree::remove_path(&dir).expect("removed");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = dir("bind");
        let path = dir.join("s.sock");
        drop(UnixListener::bind(&path).expect("a socket that nobody serves"));
        let living = bind(&path, None).expect("the stale one goes");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o660);
        let error = bind(&path, None).expect_err("a living one stays").to_string();
        assert!(error.contains("another program serves"), "{error}");
        drop(living);
        sys::tree::remove_path(&dir).expect("removed");
    }

    #[test]
    fn a_file_in_the_sockets_place_is_left_alone() {
        let dir = dir("file");
        let path = dir.join("s.sock");
        File::create(&path).expect("a file");
        assert!(bind(&path, None).is_err());
        assert!(path.try_exists().expect("looked"), "it is still there");
        sys::tree::remove_path(&dir).expect("removed");
    }
}
