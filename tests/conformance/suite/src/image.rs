//! The suite's images: Debian's static busybox with users and groups, and the same with other configurations, names and
//! forms of manifest.

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, io::Write as _, sync::Arc};

/// Applets that cases use, as symbolic links to busybox.
const APPLETS: &[&str] = &[
    "sh", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env", "expr", "false", "grep",
    "head", "hostname", "id", "ip", "ipcs", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "nc",
    "nohup", "od", "ping", "printf", "ps", "pwd", "readlink", "rm", "rmdir", "sed", "seq", "setsid", "sleep",
    "sort", "stat", "stty", "sync", "tail", "test", "top", "touch", "tr", "true", "tty", "umount", "uname",
    "unshare", "usleep", "wc", "wget", "yes",
];

/// The digest of a document, as manifests name it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// What a registry serves under a path beneath a repository.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its media type.
    pub kind: &'static str,
    /// It.
    pub bytes: Arc<Vec<u8>>,
}

/// An OCI manifest's media type.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A layer, packed once.
#[derive(Clone, Debug)]
pub struct Layer {
    diff_id: String,
    gzip: Arc<Vec<u8>>,
}

/// One entry of a layer.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// A directory with its mode.
    Dir(&'a str, u32),
    /// A file with content and mode.
    File(&'a str, &'a [u8], u32),
    /// A file with content, mode and owner.
    Owned(&'a str, &'a [u8], u32, u64, u64),
    /// A symbolic link.
    Link(&'a str, &'a str),
    /// A hard link, with mode and owner of what it links to.
    Hard(&'a str, &'a str, u32, u64, u64),
}

/// Packs a layer.
///
/// # Panics
/// Never: it is written to memory.
#[must_use]
pub fn layer(entries: &[Entry<'_>]) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match entry {
            Entry::Dir(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                tar.append_data(&mut header, path, std::io::empty()).expect("written to memory");
            }
            Entry::File(path, data, mode) | Entry::Owned(path, data, mode, _, _) => {
                if let Entry::Owned(_, _, _, uid, gid) = entry {
                    header.set_uid(*uid);
                    header.set_gid(*gid);
                }
                header.set_mode(*mode);
                header.set_size(data.len() as u64);
                tar.append_data(&mut header, path, *data).expect("written to memory");
            }
            Entry::Hard(path, target, mode, uid, gid) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_mode(*mode);
                header.set_uid(*uid);
                header.set_gid(*gid);
                tar.append_link(&mut header, path, target).expect("written to memory");
            }
            Entry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target).expect("written to memory");
            }
        }
    }
    let bytes = tar.into_inner().expect("written to memory");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&bytes).expect("written to memory");
    Layer { diff_id: digest(&bytes), gzip: Arc::new(gzip.finish().expect("written to memory")) }
}

/// The layer of busybox with its users and groups.
///
/// # Panics
/// Without `/bin/busybox` (Debian's busybox-static).
#[must_use]
pub fn base() -> Layer {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let suid = effective_user();
    let links: Vec<String> = APPLETS.iter().map(|applet| format!("bin/{applet}")).collect();
    let mut entries = vec![
        Entry::Dir("bin/", 0o755),
        Entry::Dir("etc/", 0o755),
        Entry::Dir("tmp/", 0o1777),
        Entry::Dir("home/", 0o755),
        Entry::Dir("mnt/", 0o755),
        Entry::Dir("proc/", 0o755),
        Entry::Dir("sys/", 0o755),
        Entry::Dir("dev/", 0o755),
        Entry::File("etc/passwd", PASSWD, 0o644),
        Entry::File("etc/group", GROUP, 0o644),
        Entry::File("bin/busybox", &busybox, 0o755),
        Entry::File("bin/suid", &suid, 0o4755),
        Entry::Owned("home/alices", b"hers\n", 0o600, 1000, 1000),
    ];
    entries.extend(links.iter().map(|link| Entry::Link(link, "busybox")));
    layer(&entries)
}

/// A program whose exit code is its effective user, modulo 256. Busybox would give the rights of a setuid bit back.
fn effective_user() -> Vec<u8> {
    let (machine, code): (u16, &[u8]) = if cfg!(target_arch = "aarch64") {
        // mov x8, #175; svc #0; mov x8, #93; svc #0
        (183, &[0xe8, 0x15, 0x80, 0xd2, 1, 0, 0, 0xd4, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4])
    } else {
        // mov eax, 107; syscall; mov edi, eax; mov eax, 60; syscall
        (62, &[0xb8, 107, 0, 0, 0, 0x0f, 5, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 5])
    };
    const START: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let halves = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let words = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    // An executable of that machine, version 1.
    halves(&mut elf, &[2, machine, 1, 0]);
    words(&mut elf, &[START + HEADERS, 64, 0]);
    halves(&mut elf, &[0, 0, 64, 56, 1, 64, 0, 0]);
    // One segment to load, readable and executable: all of the file.
    halves(&mut elf, &[1, 0, 5, 0]);
    let size = HEADERS + code.len() as u64;
    words(&mut elf, &[0, START, START, size, size, 0x1000]);
    elf.extend_from_slice(code);
    elf
}

const PASSWD: &[u8] =
    b"root:x:0:0:root:/:/bin/sh\nalice:x:1000:1000::/tmp:/bin/sh\nbob:x:1001:2000::/tmp:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nalice:x:1000:\nfriends:x:2000:alice\nbigger:x:50000:alice,root\n";

/// How the manifest of an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI manifest.
    Oci,
    /// An OCI index with other platforms beside it.
    Index,
    /// Docker's manifest.
    Docker,
    /// Docker's list of manifests.
    DockerList,
}

/// The documents of one repository: `manifests/NAME` and `blobs/DIGEST`.
pub type Documents = BTreeMap<String, Document>;

/// The machine's name in manifests.
#[must_use]
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Writes an image under a tag into the repository's documents; its config's digest, which is its id.
pub fn add(documents: &mut Documents, tag: &str, form: Form, layers: &[Layer], config: &Value) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    add_with_diff_ids(documents, tag, form, layers, config, &diff_ids)
}

/// As [`add`], with the uncompressed layers' digests as one likes.
pub fn add_with_diff_ids(
    documents: &mut Documents,
    tag: &str,
    form: Form,
    layers: &[Layer],
    config: &Value,
    diff_ids: &[&str],
) -> String {
    let docker = matches!(form, Form::Docker | Form::DockerList);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [],
    })
    .to_string()
    .into_bytes();
    let described: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({
                "mediaType": if docker { DOCKER_LAYER } else { LAYER },
                "digest": digest(&layer.gzip),
                "size": layer.gzip.len(),
            })
        })
        .collect();
    let kind = if docker { DOCKER_MANIFEST } else { MANIFEST };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": if docker { DOCKER_CONFIG } else { CONFIG },
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": described,
    })
    .to_string()
    .into_bytes();
    let id = digest(&config);
    for layer in layers {
        blob(documents, &digest(&layer.gzip), Arc::clone(&layer.gzip));
    }
    blob(documents, &id, Arc::new(config));
    let top = put(documents, kind, manifest.clone());
    let top = match form {
        Form::Oci | Form::Docker => top,
        Form::Index | Form::DockerList => {
            let platform = |architecture: &str, digest: &str, size: usize| {
                json!({
                    "mediaType": kind, "digest": digest, "size": size,
                    "platform": { "architecture": architecture, "os": "linux" },
                })
            };
            let foreign = digest(b"of another machine");
            let kind = if docker { DOCKER_LIST } else { INDEX };
            let list = json!({
                "schemaVersion": 2,
                "mediaType": kind,
                "manifests": [platform("s390x", &foreign, 18), platform(architecture(), &top.0, manifest.len())],
            });
            put(documents, kind, list.to_string().into_bytes())
        }
    };
    documents.insert(format!("manifests/{tag}"), top.1);
    id
}

fn put(documents: &mut Documents, kind: &'static str, bytes: Vec<u8>) -> (String, Document) {
    let name = digest(&bytes);
    let document = Document { kind, bytes: Arc::new(bytes) };
    documents.insert(format!("manifests/{name}"), document.clone());
    (name, document)
}

fn blob(documents: &mut Documents, digest: &str, bytes: Arc<Vec<u8>>) {
    let document = Document { kind: "application/octet-stream", bytes };
    documents.insert(format!("blobs/{digest}"), document);
}

/// Replaces a blob's bytes by others of the same length: what a registry must not do.
pub fn corrupt(documents: &mut Documents, layer: &Layer) {
    let mut bytes = layer.gzip.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    blob(documents, &digest(&layer.gzip), Arc::new(bytes));
}
