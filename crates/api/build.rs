//! Turns `proto/` into Rust. `protox` reads the files, so building peapod needs no protoc.

use std::error::Error;
use std::path::Path;

/// One entry for each service family that this crate exposes, relative to `proto/`.
const FILES: [&str; 2] = ["cri/api.proto", "peapod/admin.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // As cargo says it now: a build directory may have been moved since this was compiled.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo names no manifest directory")?;
    let root = Path::new(&manifest).join("../../proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure()
        // Sorted maps encode the same message to the same bytes each time: stored records and
        // golden texts can be compared.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
