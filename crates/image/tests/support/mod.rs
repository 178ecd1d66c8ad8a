//! A scripted registry on 127.0.0.1, images made on the spot, and a place for them.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each suite uses its part of this")]

pub mod build;
pub mod server;
pub mod tar;

use image::{Images, Patience, Setup, Unpacker};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use store::Store;

/// A root of its own, with a canary beside it that nothing may touch.
pub struct Place {
    pub dir: PathBuf,
    canary: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("peapod-test-image-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).expect("a fresh directory");
        for sub in ["root", "certs.d", "canary", "canary/d"] {
            std::fs::create_dir(dir.join(sub)).expect("mkdir");
        }
        put(&dir.join("canary/secret"), b"secret");
        let mut place = Place { dir, canary: String::new() };
        place.canary = tree(&place.dir.join("canary"));
        place
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    pub fn canary(&self) -> PathBuf {
        self.dir.join("canary")
    }

    pub fn setup(&self) -> Setup {
        Setup {
            root: self.root(),
            hosts_dir: Some(self.dir.join("certs.d")),
            unpacker: Unpacker::program(env!("CARGO_BIN_EXE_peapod-unpack"), []),
            patience: Patience { pause: Duration::from_millis(1), ..Patience::default() },
            points: image::Points::default(),
        }
    }

    pub async fn open(&self) -> Images {
        let store = Store::open(&self.root().join("meta.redb")).expect("a store");
        Images::open(store, self.setup()).await.expect("images")
    }

    /// Writes `certs.d/<host>/hosts.toml`.
    pub fn hosts(&self, host: &str, text: &str) {
        let dir = self.dir.join("certs.d").join(host);
        std::fs::create_dir_all(&dir).expect("mkdir");
        put(&dir.join("hosts.toml"), text.as_bytes());
    }

    /// Names beneath `layers/`.
    pub fn layers(&self) -> BTreeSet<String> {
        std::fs::read_dir(self.root().join("layers"))
            .expect("layers")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
            .collect()
    }

    pub fn assert_canary(&self) {
        assert_eq!(tree(&self.canary()), self.canary, "something outside the root was touched");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_canary();
        }
        std::fs::remove_dir_all(&self.dir).expect("the test's directory goes");
    }
}

pub fn put(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    std::fs::File::create(path).and_then(|mut file| file.write_all(bytes)).expect("write");
}

/// A directory as text: each name with its type, mode, owner, size, time, links, attributes, content.
pub fn tree(dir: &Path) -> String {
    let mut lines = Vec::new();
    walk(dir, Path::new(""), &mut lines, true);
    lines.sort();
    lines.join("\n")
}

/// As [`tree`], without what is not the same on every run (times of directories made on the way).
pub fn shape(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    walk(dir, Path::new(""), &mut lines, false);
    lines.sort();
    lines
}

fn walk(base: &Path, beneath: &Path, lines: &mut Vec<String>, times: bool) {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    for entry in std::fs::read_dir(base.join(beneath)).expect("list") {
        let entry = entry.expect("entry");
        let name = beneath.join(entry.file_name());
        let path = base.join(&name);
        let meta = path.symlink_metadata().expect("stat");
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).expect("link").display())
        } else if kind.is_char_device() || kind.is_block_device() {
            let number = meta.rdev();
            let letter = if kind.is_char_device() { 'c' } else { 'b' };
            format!("{letter} {}:{}", number >> 8, number & 0xff)
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            let text = std::fs::read(&path).expect("read");
            let shown = if text.len() > 40 {
                format!("{} bytes", text.len())
            } else {
                String::from_utf8_lossy(&text).into_owned()
            };
            format!("file `{shown}` x{}", meta.nlink())
        };
        let time = if times || !kind.is_dir() {
            format!(" @{}.{}", meta.mtime(), meta.mtime_nsec())
        } else {
            String::new()
        };
        lines.push(format!(
            "{} {what} {:o} {}:{}{time}{}",
            name.display(),
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            attributes(&path)
        ));
        if kind.is_dir() {
            walk(base, &name, lines, times);
        }
    }
}

fn attributes(path: &Path) -> String {
    use sys::rustix::fs::{lgetxattr, llistxattr};
    let mut names = vec![0_u8; 4096];
    let Ok(length) = llistxattr(path, &mut names) else { return String::new() };
    let mut all: Vec<String> = names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = String::from_utf8_lossy(name).into_owned();
            let mut value = vec![0_u8; 4096];
            let length = lgetxattr(path, name.as_str(), &mut value).expect("a listed attribute");
            format!(" {name}={:?}", String::from_utf8_lossy(&value[..length]))
        })
        .collect();
    all.sort();
    all.concat()
}
