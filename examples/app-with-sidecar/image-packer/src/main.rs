//! `image-packer OUTDIR NAME=PROGRAM...`: packs each static program into an OCI image archive
//! `OUTDIR/NAME.tar` (image layout, one gzip layer), whose entrypoint is the program.
//!
//! Sources: OCI image-spec image-layout.md, manifest.md, config.md, layer.md.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program that tells what it made")]

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{fs, io::Write as _, path::Path};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let out = args.next().context("usage: image-packer OUTDIR NAME=PROGRAM...")?;
    fs::create_dir_all(&out).with_context(|| format!("cannot make {out}"))?;
    for image in args {
        let (name, program) = image.split_once('=').context("want NAME=PROGRAM")?;
        ensure!(!name.contains('/'), "`{name}` is to be a plain name");
        let binary = fs::read(program).with_context(|| format!("cannot read {program}"))?;
        let archive = Path::new(&out).join(format!("{name}.tar"));
        let half_done = archive.with_extension("new");
        fs::File::create(&half_done)?.write_all(&pack(name, &binary)?)?;
        fs::rename(&half_done, &archive)?;
        println!("{}", archive.display());
    }
    Ok(())
}

/// The whole archive of one image.
fn pack(name: &str, binary: &[u8]) -> anyhow::Result<Vec<u8>> {
    let layer = layer(name, binary)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&layer)?;
    let gzip = gzip.finish()?;
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{name}")],
            "Env": ["PATH=/"],
            "WorkingDir": "/",
            "Labels": { "org.opencontainers.image.title": name },
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created_by": "image-packer" }],
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &gzip)],
    }))?;
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": "latest",
        "io.containerd.image.name": format!("docker.io/library/{name}:latest"),
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add(&mut archive, "index.json", &index, 0o644)?;
    for blob in [&config, &manifest, &gzip] {
        let path = format!("blobs/{}", digest(blob).replace(':', "/"));
        add(&mut archive, &path, blob, 0o644)?;
    }
    Ok(archive.into_inner()?)
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A root file system with the program, the directories that a container expects, and a user list.
fn layer(name: &str, binary: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["dev/", "etc/", "proc/", "sys/", "tmp/", "var/", "var/log/", "var/log/app/"] {
        let mut header = header(0, if dir == "tmp/" { 0o1777 } else { 0o755 });
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, dir, std::io::empty())?;
    }
    add(&mut tar, "etc/passwd", b"root:x:0:0:root:/:/sbin/nologin\n", 0o644)?;
    add(&mut tar, "etc/group", b"root:x:0:\n", 0o644)?;
    add(&mut tar, "etc/nsswitch.conf", b"hosts: files dns\n", 0o644)?;
    add(&mut tar, name, binary, 0o755)?;
    Ok(tar.into_inner()?)
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8], mode: u32) -> anyhow::Result<()> {
    Ok(tar.append_data(&mut header(data.len() as u64, mode), path, data)?)
}

/// Owned by root, at the start of time: the same program gives the same image.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(blob))
}
