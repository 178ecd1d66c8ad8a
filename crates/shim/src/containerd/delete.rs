//! `delete`: containerd's connection to a container's shim is gone. Mostly because the container was
//! deleted and nothing is left; after the death of a shim, its processes are ended here, by their cgroup.
//!
//! Root file systems are mounted in the containers' own mount namespaces and go with them.

use super::{args::Target, read_small, socket_of};
use crate::framing::now_nanos;
use crate::reaper::KILLED;
use crate::task::timestamp;
use crate::wire::chain;
use cgroup::{Cgroup, CgroupPath, Mounts};
use containerd_shim_protos::api::DeleteResponse;
use prost::Message as _;
use protobuf::Message as _;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use types::shim::{EXIT_FILE, ExitRecord};

/// Ends and removes what is left, and tells how the container ended: as its record on disk says, else as
/// one that was killed, now.
///
/// # Errors
/// The text for containerd's log. What could not be removed is no error but a warning on standard error,
/// for then containerd would lose the exit.
pub(super) fn delete(target: &Target) -> Result<Vec<u8>, String> {
    let bundle = match &target.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(|e| format!("the bundle's directory: {e}"))?,
    };
    if let Err(warning) = end(&bundle) {
        crate::say(&format!("delete: {warning}\n"), std::process::ExitCode::SUCCESS);
    }
    remove_stale_socket(&bundle);
    let record = recorded(&bundle, &target.id);
    let (exit_status, at) =
        record.map_or_else(|| (KILLED, now_nanos()), |record| (record.code, record.exited_at));
    let response = DeleteResponse { exit_status, exited_at: timestamp(at), ..DeleteResponse::default() };
    response.write_to_bytes().map_err(|e| format!("encode the answer: {e}"))
}

/// Ends all processes of the container and removes their group.
fn end(bundle: &Path) -> Result<(), String> {
    let spec = crate::launch::read_spec(bundle).map_err(|refusal| refusal.message)?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    // Without one no container was made.
    let Some(path) = path.and_then(Path::to_str) else { return Ok(()) };
    let path = CgroupPath::parse(path).map_err(|e| format!("linux.cgroupsPath: {}", chain(&e)))?;
    let mounts = Mounts::detect().map_err(|e| format!("find the cgroup hierarchies: {}", chain(&e)))?;
    let group = Cgroup::at(&mounts, &path);
    group.kill().map_err(|e| format!("kill the processes: {}", chain(&e)))?;
    if group.processes().is_ok_and(|left| !left.is_empty()) {
        // A frozen one of v1 ends only when it is thawed; without a freezer there is nothing to thaw.
        let _ = group.thaw();
    }
    group.remove().map_err(|e| format!("remove the cgroup: {}", chain(&e)))
}

/// The container's exit record, if it is its own and whole.
fn recorded(bundle: &Path, id: &str) -> Option<ExitRecord> {
    let record = ExitRecord::decode(read_small(&bundle.join(EXIT_FILE))?.as_slice()).ok()?;
    (record.container_id == id).then_some(record)
}

/// Removes the socket of a shim that was killed: nobody listens there.
fn remove_stale_socket(bundle: &Path) {
    let Some(path) = socket_of(bundle) else { return };
    if UnixStream::connect(&path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        // Another call for the same pod may be faster.
        let _ = std::fs::remove_file(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;
    use std::os::unix::net::UnixListener;

    fn put(directory: &Directory, name: &str, bytes: &[u8]) {
        std::fs::File::create(directory.0.join(name))
            .and_then(|mut file| io::Write::write_all(&mut file, bytes))
            .expect("write");
    }

    fn told(directory: &Directory) -> DeleteResponse {
        let target = Target { id: "c".to_owned(), bundle: Some(directory.0.clone()), ..Target::default() };
        DeleteResponse::parse_from_bytes(&delete(&target).expect("an answer")).expect("decode")
    }

    #[test]
    fn the_exit_on_disk_is_told_and_another_ones_is_not() {
        let directory = Directory::new();
        let other = told(&directory);
        assert_eq!(other.exit_status, KILLED);
        assert!(other.exited_at.seconds > 1_600_000_000, "now");
        let mut record = ExitRecord {
            container_id: "c".to_owned(),
            code: 7,
            exited_at: 5_000_000_001,
            ..ExitRecord::default()
        };
        crate::exitfile::write(&directory.0, &record).expect("write");
        let response = told(&directory);
        assert_eq!((response.exit_status, response.exited_at.seconds, response.exited_at.nanos), (7, 5, 1));
        record.container_id = "d".to_owned();
        crate::exitfile::write(&directory.0, &record).expect("write");
        assert_eq!(told(&directory).exit_status, KILLED);
        put(&directory, EXIT_FILE, &[0xff; 20]);
        assert_eq!(told(&directory).exit_status, KILLED);
    }

    #[test]
    fn a_socket_goes_when_nobody_listens_there() {
        let directory = Directory::new();
        let path = directory.0.join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        put(
            &directory,
            "bootstrap.json",
            format!(r#"{{"version":3,"address":"unix://{}"}}"#, path.display()).as_bytes(),
        );
        told(&directory);
        assert!(path.try_exists().expect("stat"), "a living shim's");
        drop(listener);
        told(&directory);
        assert!(!path.try_exists().expect("stat"));
    }
}
