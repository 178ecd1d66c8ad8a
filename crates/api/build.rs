//! Turns `proto/` into Rust. `protox` reads the files, so building peapod needs no protoc.

use std::error::Error;
use std::path::Path;

/// One entry for each service family that this crate exposes, relative to `proto/`.
const FILES: [&str; 2] = ["cri/api.proto", "peapod/admin.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
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
