//! Compiled programs on disk.
//!
//! A file is named by what it is compiled from, and says how long it is and what its checksum is: one
//! that was cut or changed is compiled anew. Losing the directory costs time only, so nothing is synced.

use crate::{Program, SeccompError, arch::Machine, compile};
use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};
use sys::rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, unlinkat},
    io::Errno,
};

/// Changes whenever the compiler makes another program of the same profile.
const COMPILER: &str = "peapod-seccomp-1";
/// Begins each file; its last byte is the version of the format.
const MAGIC: &[u8; 8] = b"ppdbpf\0\x01";
/// Bytes before the program: magic, checksum.
const HEADER: usize = 8 + 32;
/// A program has at most 4096 instructions of 8 bytes.
const MAX_PROGRAM: usize = 4096 * 8;

/// The program of a profile: from `dir` if it is there whole, else compiled and put there. `dir` must
/// exist and be writable by root alone; if it cannot be written to, the program is given all the same.
///
/// # Errors
/// Those of [`crate::compile()`], and [`SeccompError::Cache`] if `dir` cannot be opened.
pub fn cached(dir: &Path, profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    let name = name(profile)?;
    let cannot = |source: Errno| SeccompError::Cache { path: dir.to_owned(), source: source.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, dir, flags, Mode::empty()).map_err(cannot)?;
    if let Some(program) = read(&directory, &name) {
        return Ok(program);
    }
    let program = compile(profile)?;
    // Next time it is compiled again, that is all.
    let _ = write(&directory, &name, &program);
    Ok(program)
}

/// The file name: a hash of all that the program depends on. The capabilities are in the profile.
fn name(profile: &LinuxSeccomp) -> Result<String, SeccompError> {
    let text = serde_json::to_vec(profile).map_err(|error| SeccompError::BadValue {
        field: "linux.seccomp".to_owned(),
        why: format!("cannot be written as JSON: {error}"),
    })?;
    let mut hash = Sha256::new();
    for part in [COMPILER.as_bytes(), Machine::native().name().as_bytes(), &text] {
        hash.update(part);
        hash.update([0]);
    }
    let mut name = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(name)
}

/// A whole and unchanged program.
fn read(dir: &OwnedFd, name: &str) -> Option<Program> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = openat(dir, name, flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(HEADER + MAX_PROGRAM + 1).ok()?;
    std::fs::File::from(fd).take(limit).read_to_end(&mut bytes).ok()?;
    let (header, program) = bytes.split_at_checked(HEADER)?;
    let (magic, checksum) = header.split_at(MAGIC.len());
    let whole = magic == MAGIC
        && !program.is_empty()
        && program.len() <= MAX_PROGRAM
        && program.len().is_multiple_of(8)
        && checksum == Sha256::digest(program).as_slice();
    whole.then(|| Program::from_bytes(program.to_vec()))
}

/// Puts a program there: written without a name, then given one, so that a reader never sees a part and
/// a killed writer leaves nothing.
fn write(dir: &OwnedFd, name: &str, program: &Program) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(dir, ".", flags, Mode::from_raw_mode(0o600))?);
    let mut bytes = Vec::with_capacity(HEADER + program.bytes().len());
    bytes.extend(MAGIC);
    bytes.extend(Sha256::digest(program.bytes()));
    bytes.extend(program.bytes());
    file.write_all(&bytes)?;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(CWD, source.as_str(), dir, name, AtFlags::SYMLINK_FOLLOW) {
        // What is there is damaged, or somebody was faster, whose program is the same.
        Err(Errno::EXIST) => {
            unlinkat(dir, name, AtFlags::empty())?;
            linkat(CWD, source.as_str(), dir, name, AtFlags::SYMLINK_FOLLOW)?;
            Ok(())
        }
        result => Ok(result?),
    }
}
