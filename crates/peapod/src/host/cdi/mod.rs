//! Devices that their vendors describe: the Container Device Interface (CDI specification 1.1.0; KEP-4009).
//!
//! Specification files are read when a container asks for a device, each as a whole or not at all. One that
//! cannot be read costs no device of another its use: it is named when a device is not found.

mod edit;
mod format;

use crate::host::blocking::failed;
use engine::host::{Fault, HostError, OciSpec, Result};
use format::{Description, Edits};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};
use sys::{
    bounded::Bounded,
    rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat},
};
use types::cdi::CdiName;

/// What the errors are about.
const FIELD: &str = "config.CDI_devices";
/// Largest file; those that describe each part of eight graphics cards have some 200 KiB.
const LARGEST: u64 = 8 << 20;
/// Files of one directory.
const MOST_FILES: usize = 1024;
/// Files that cannot be read are named up to this number.
const MOST_NAMED: usize = 3;

/// Gives a container the devices that it asks for. `dirs` are those of the specifications, the last one counts
/// most.
pub(super) fn give(dirs: &[PathBuf], asked: &[CdiName], spec: &mut OciSpec) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let library = Library::read(dirs)?;
    for edits in library.edits(asked)? {
        edit::apply(edits, spec)?;
    }
    Ok(())
}

fn invalid(doing: impl Into<String>) -> HostError {
    HostError::new(doing, Fault::Invalid(FIELD))
}

/// All that could be read, and what could not.
#[derive(Default)]
struct Library {
    files: Vec<Found>,
    /// Path and reason.
    unreadable: Vec<String>,
}

struct Found {
    path: PathBuf,
    /// The place of its directory.
    rank: usize,
    description: Description,
}

impl Library {
    fn read(dirs: &[PathBuf]) -> Result<Library> {
        let mut library = Library::default();
        for (rank, dir) in dirs.iter().enumerate() {
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    library.unreadable.push(format!("{}: {error}", dir.display()));
                    continue;
                }
            };
            let mut paths: Vec<PathBuf> = entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| matches!(extension(path), Some("json" | "yaml")))
                .take(MOST_FILES + 1)
                .collect();
            if paths.len() > MOST_FILES {
                return Err(HostError::new(
                    format!("{} has more than {MOST_FILES} CDI specifications", dir.display()),
                    Fault::Exhausted,
                ));
            }
            paths.sort();
            for path in paths {
                library.take(path, rank);
            }
        }
        Ok(library)
    }

    fn take(&mut self, path: PathBuf, rank: usize) {
        let text = match read(&path) {
            Ok(text) => text,
            // It went away between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.unreadable.push(format!("{}: {error}", path.display())),
        };
        let parsed = match extension(&path) {
            Some("json") => Description::from_json(&text),
            _ => Description::from_yaml(&text),
        };
        match parsed {
            Ok(description) => self.files.push(Found { path, rank, description }),
            Err(error) => self.unreadable.push(format!("{}: {error}", path.display())),
        }
    }

    /// What the devices change, in order: of each file first what holds for all of its devices, once.
    fn edits(&self, asked: &[CdiName]) -> Result<Vec<&Edits>> {
        let mut all = Vec::new();
        let mut used: Vec<&Path> = Vec::new();
        for name in asked {
            let found = self.find(name)?;
            if !used.contains(&found.path.as_path()) {
                used.push(&found.path);
                all.push(&found.description.edits);
            }
            all.extend(found.description.device(name));
        }
        Ok(all)
    }

    /// The file of the last directory that has the device; two of one directory contradict each other.
    fn find(&self, name: &CdiName) -> Result<&Found> {
        let all = || self.files.iter().filter(|found| found.description.device(name).is_some());
        let Some(rank) = all().map(|found| found.rank).max() else {
            return Err(invalid(self.unknown(name)));
        };
        let mut best = all().filter(|found| found.rank == rank);
        match (best.next(), best.next()) {
            (Some(first), Some(second)) => Err(invalid(format!(
                "the device {name} is described twice, in {} and {}",
                first.path.display(),
                second.path.display()
            ))),
            (Some(found), None) => Ok(found),
            (None, _) => Err(invalid(self.unknown(name))),
        }
    }

    fn unknown(&self, name: &CdiName) -> String {
        let mut text = format!("no specification has the device {name}");
        if !self.unreadable.is_empty() {
            let shown: Vec<_> = self.unreadable.iter().take(MOST_NAMED).map(String::as_str).collect();
            text = format!("{text}; not usable are {}: {}", self.unreadable.len(), shown.join("; "));
        }
        text
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str())
}

/// Links are followed: the directory is the administrator's.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO must not stop us before it is seen to be one.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Bounded::new(File::from(fd), LARGEST).read_all()
}

#[cfg(test)]
mod tests;
