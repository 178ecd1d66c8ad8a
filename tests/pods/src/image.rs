//! The one image that most tests need, packed from Debian's static busybox.

use sha2::{Digest as _, Sha256};
use std::io::Write as _;

/// The reference under which [`busybox_archive`] is loaded.
pub const BUSYBOX: &str = "docker.io/library/busybox:test";

/// Applets that tests use, as symbolic links to busybox.
const APPLETS: &[&str] = &[
    "sh", "cat", "cp", "date", "dd", "echo", "env", "false", "grep", "head", "hostname", "httpd", "id", "ip",
    "kill", "ln", "ls", "mkdir", "mount", "nc", "nohup", "ping", "ps", "readlink", "rm", "seq", "setsid",
    "sleep", "sort", "stat", "sync", "tail", "test", "top", "touch", "true", "tty", "umount", "uname",
    "usleep", "wc", "wget", "yes", "df", "chmod", "trap",
];

/// A docker-archive of busybox under [`BUSYBOX`].
///
/// # Panics
/// Without `/bin/busybox` (Debian's busybox-static).
#[must_use]
pub fn busybox_archive() -> Vec<u8> {
    archive(&busybox())
}

/// The same with these labels.
///
/// # Panics
/// As [`busybox_archive`].
#[must_use]
pub fn archive_with_labels(labels: &[(&str, &str)]) -> Vec<u8> {
    let (config, layer) = busybox();
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("written here");
    for (name, value) in labels {
        config["config"]["Labels"][*name] = (*value).into();
    }
    archive(&(config.to_string().into_bytes(), layer))
}

/// The same, but each program beside busybox itself is a script that notes its name in `/marks`, also those that such
/// images do not have.
///
/// # Panics
/// As [`busybox_archive`].
#[must_use]
pub fn archive_of_traps() -> Vec<u8> {
    const MORE: &[&str] =
        &["bash", "nsenter", "mountpoint", "stty", "find", "du", "tar", "ss", "nft", "iptables", "newuidmap"];
    let names = APPLETS.iter().chain(MORE).map(|name| format!("bin/{name}"));
    let programs: Vec<_> = names.map(|name| (name, Program::Trap)).collect();
    archive(&image(&programs))
}

fn archive((config, layer): &(Vec<u8>, Vec<u8>)) -> Vec<u8> {
    let name = format!("{:x}.json", Sha256::digest(config));
    let manifest =
        serde_json::json!([{ "Config": name, "RepoTags": [BUSYBOX], "Layers": ["layer.tar"] }]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, &name, config, 0o644);
    add(&mut archive, "layer.tar", layer, 0o644);
    add(&mut archive, "manifest.json", manifest.as_bytes(), 0o644);
    archive.into_inner().expect("written to memory")
}

/// Configuration and layer of the image.
pub(crate) fn busybox() -> (Vec<u8>, Vec<u8>) {
    let programs: Vec<_> = APPLETS.iter().map(|name| (format!("bin/{name}"), Program::Busybox)).collect();
    image(&programs)
}

/// What a program beside busybox is.
#[derive(Clone, Copy)]
enum Program {
    /// A link to it.
    Busybox,
    /// A script that notes that it was run.
    Trap,
}

fn image(programs: &[(String, Program)]) -> (Vec<u8>, Vec<u8>) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let layer = layer(&busybox, programs);
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{:x}", Sha256::digest(&layer))] },
        "history": [],
    })
    .to_string();
    (config.into_bytes(), layer)
}

fn layer(busybox: &[u8], programs: &[(String, Program)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "tmp/", "var/", "proc/", "sys/", "dev/"] {
        let mut header = header(0, if dir == "tmp/" { 0o1777 } else { 0o755 });
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, dir, std::io::empty()).expect("written to memory");
    }
    add(&mut tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nalice:x:1000:1000::/tmp:/bin/sh\n", 0o644);
    add(&mut tar, "etc/group", b"root:x:0:\nalice:x:1000:\nfriends:x:2000:alice\n", 0o644);
    add(&mut tar, "bin/busybox", busybox, 0o755);
    for (path, program) in programs {
        match program {
            Program::Busybox => {
                let mut header = header(0, 0o777);
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, "busybox").expect("written to memory");
            }
            Program::Trap => {
                add(&mut tar, path, b"#!/bin/busybox sh\necho \"$0 $*\" >>/marks\n", 0o755);
            }
        }
    }
    let mut bytes = tar.into_inner().expect("written to memory");
    bytes.flush().expect("memory");
    bytes
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8], mode: u32) {
    tar.append_data(&mut header(data.len() as u64, mode), path, data).expect("written to memory");
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
