//! Reading: the file, the drop-ins, the flags, and then one check of the whole.

use crate::{Config, Overrides};
use serde::Deserialize as _;
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// Read if no `--config` is given; it need not be there.
pub const DEFAULT_FILE: &str = "/etc/peapod/config.toml";

/// A file is longer than anybody writes: it is not a configuration.
const MAX_FILE: u64 = 1 << 20;
const MAX_DROP_INS: usize = 256;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not TOML, has an unknown key or a value of the wrong type.
    #[error("the configuration {} is wrong", .path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// The key, with line and column.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value cannot be.
    #[error("the configuration's `{key}` {why}")]
    Invalid {
        /// With its section: `exec.drain`.
        key: &'static str,
        /// What it should be.
        why: String,
    },
}

impl Config {
    /// Reads `file` (else [`DEFAULT_FILE`], if it is there), merges `conf.d/*.toml` beside it in the
    /// order of their names, applies the flags and checks the result.
    ///
    /// Tables are merged key by key; any other value, lists too, is replaced.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the key.
    pub fn load(file: Option<&Path>, flags: &Overrides) -> Result<Config, ConfigError> {
        let (main, must_be_there) = match file {
            Some(file) => (file, true),
            None => (Path::new(DEFAULT_FILE), false),
        };
        let mut merged = match parse(main) {
            Err(ConfigError::Read { source, .. })
                if !must_be_there && source.kind() == io::ErrorKind::NotFound =>
            {
                Table::new()
            }
            table => table?,
        };
        let beside = main.parent().unwrap_or(Path::new("/")).join("conf.d");
        for drop_in in drop_ins(&beside)? {
            merge(&mut merged, parse(&drop_in)?);
        }
        let parse_error = |source| ConfigError::Parse { path: main.to_owned(), source: Box::new(source) };
        let mut config = Config::deserialize(merged).map_err(parse_error)?;
        flags.apply(&mut config);
        config.check()?;
        Ok(config)
    }
}

impl Overrides {
    fn apply(&self, config: &mut Config) {
        fn set<T: Clone>(place: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                place.clone_from(value);
            }
        }
        let bin_dirs = self.cni_bin_dir.clone().map(|dir| vec![dir]);
        set(&mut config.root, self.root.as_ref());
        set(&mut config.state, self.state.as_ref());
        set(&mut config.listen, self.listen.as_ref());
        set(&mut config.network.conf_dir, self.cni_conf_dir.as_ref());
        set(&mut config.network.bin_dirs, bin_dirs.as_ref());
        set(&mut config.registry.dir, self.registry_dir.as_ref());
        set(&mut config.network.fallback, self.fallback_network.as_ref());
        set(&mut config.log_level, self.log_level.as_ref());
    }
}

/// One file, checked for itself, so that an error has its name and line.
fn parse(path: &Path) -> Result<Table, ConfigError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
        }
        Ok(text)
    };
    let text = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let parsed = toml::from_str::<Config>(&text).and_then(|_| toml::from_str::<Table>(&text));
    parsed.map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("toml")) {
                files.push(path);
            }
        }
        if files.len() > MAX_DROP_INS {
            return Err(io::Error::other("it has more than 256 files"));
        }
        files.sort();
        Ok(files)
    };
    list().map_err(|source| ConfigError::Read { path: dir.to_owned(), source })
}

fn merge(over: &mut Table, with: Table) {
    for (key, value) in with {
        match (over.get_mut(&key), value) {
            (Some(Value::Table(there)), Value::Table(more)) => merge(there, more),
            (_, value) => drop(over.insert(key, value)),
        }
    }
}
