//! The sources of bind mounts on the host.

use super::blocking::failed;
use engine::host::{ContainerPlan, Fault, HostError, Result};
use std::{fs, os::unix::fs::DirBuilderExt as _, path::Path};
use sys::rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use types::container::{Mount, Propagation};

/// Makes what is missing, if it shall, and checks what propagation asks for.
pub(super) fn prepare(plan: &ContainerPlan, make_missing: bool) -> Result<()> {
    for mount in plan.spec.mounts.iter().filter(|mount| mount.image.is_none()) {
        find(&mount.host_path, make_missing)?;
        check_propagation(mount)?;
    }
    Ok(())
}

/// A missing source becomes a directory: kubelets and users count on it, as with the peers. Where the
/// administrator does not want that (`container.create_missing_mount_sources`), it is an error.
fn find(source: &Path, make_missing: bool) -> Result<()> {
    match fs::metadata(source) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !make_missing => {
            Err(HostError::because(
                format!("the mount source {} is not there", source.display()),
                Fault::Invalid("config.mounts.host_path"),
                error,
            ))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(source)
            .map_err(failed(format!("cannot make the mount source {}", source.display()))),
        Err(error) => Err(failed(format!("cannot look at {}", source.display()))(error)),
    }
}

/// Mount events reach a container only through a mount that passes them on; both directions need a shared
/// one (mount_namespaces(7)). Without it the container would wait for mounts in vain.
fn check_propagation(mount: &Mount) -> Result<()> {
    let source = &mount.host_path;
    let wanted = match mount.propagation {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => "a shared or slave mount",
        Propagation::Bidirectional => "a shared mount",
    };
    let found = of_mount(source).map_err(failed(format!("cannot find the mount of {}", source.display())))?;
    let fine = match mount.propagation {
        Propagation::Private => true,
        Propagation::HostToContainer => found.shared || found.slave,
        Propagation::Bidirectional => found.shared,
    };
    if fine {
        return Ok(());
    }
    Err(HostError::new(
        format!(
            "{} (mounted at {}) is not on {wanted}: mount --make-rshared {} makes it one",
            source.display(),
            mount.container_path,
            found.point
        ),
        Fault::Invalid("config.mounts.propagation"),
    ))
}

/// What a line of proc_pid_mountinfo(5) says of propagation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    point: String,
    shared: bool,
    slave: bool,
}

/// The mount that a path is on, links followed: by its number, so that nothing is guessed from names.
fn of_mount(path: &Path) -> std::io::Result<Found> {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    line_of(&mounts, stat.stx_mnt_id)
        .ok_or_else(|| std::io::Error::other("it is on no mount of this namespace"))
}

fn line_of(mounts: &str, id: u64) -> Option<Found> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(&id.to_string()))?;
    let mut words = line.split(' ').skip(4);
    let point = words.next()?.to_owned();
    let optional: Vec<&str> = words.skip(1).take_while(|word| *word != "-").collect();
    Some(Found {
        point,
        shared: optional.iter().any(|word| word.starts_with("shared:")),
        slave: optional.iter().any(|word| word.starts_with("master:")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_tells_what_a_mount_passes_on() {
        let mounts = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            22 21 0:20 / /p rw - tmpfs tmpfs rw\n\
            23 21 0:21 / /s rw shared:2 master:1 - tmpfs tmpfs rw\n\
            24 21 0:22 / /m rw master:7 propagate_from:1 - tmpfs shared:x rw\n";
        let told = |id| line_of(mounts, id).map(|found| (found.point, found.shared, found.slave));
        assert_eq!(told(21), Some(("/".to_owned(), true, false)));
        assert_eq!(told(22), Some(("/p".to_owned(), false, false)));
        assert_eq!(told(23), Some(("/s".to_owned(), true, true)));
        assert_eq!(told(24), Some(("/m".to_owned(), false, true)));
        assert_eq!(told(2), None);
    }
}
