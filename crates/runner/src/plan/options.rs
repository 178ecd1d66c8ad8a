//! `mounts[].options`: flags of mount(8) and data of the file system, told apart.

use crate::RunnerError;
use std::ffi::CString;
use sys::{libc, mount as attr};

/// The options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `bind` or `rbind`; true = recursive.
    pub(crate) bind: Option<bool>,
    /// `idmap` or `ridmap`; true = recursive.
    pub(crate) idmap: Option<bool>,
    /// `MOUNT_ATTR_*` for this mount.
    pub(crate) own: attr::Attributes,
    /// `MOUNT_ATTR_*` for this mount and all beneath it (`rro` and its kind).
    pub(crate) all: attr::Attributes,
    /// Propagation, and whether it goes for the mounts beneath too.
    pub(crate) propagation: Option<(u64, bool)>,
    /// Keys of the file system, with or without a value.
    pub(crate) data: Vec<(CString, Option<CString>)>,
}

/// What one known word means.
enum Word {
    Set(u64),
    Clear(u64),
    Atime(u64),
    Nothing,
    Superblock,
    Bind(bool),
    Propagation(libc::c_ulong, bool),
}

fn known(word: &str) -> Option<Word> {
    Some(match word {
        "ro" => Word::Set(attr::RDONLY),
        "rw" => Word::Clear(attr::RDONLY),
        "nosuid" => Word::Set(attr::NOSUID),
        "suid" => Word::Clear(attr::NOSUID),
        "nodev" => Word::Set(attr::NODEV),
        "dev" => Word::Clear(attr::NODEV),
        "noexec" => Word::Set(attr::NOEXEC),
        "exec" => Word::Clear(attr::NOEXEC),
        "nosymfollow" => Word::Set(attr::NOSYMFOLLOW),
        "symfollow" => Word::Clear(attr::NOSYMFOLLOW),
        "nodiratime" => Word::Set(attr::NODIRATIME),
        "diratime" => Word::Clear(attr::NODIRATIME),
        "noatime" => Word::Atime(attr::NOATIME),
        "relatime" | "atime" | "nostrictatime" => Word::Atime(attr::RELATIME),
        "strictatime" | "norelatime" => Word::Atime(attr::STRICTATIME),
        "defaults" | "async" | "loud" | "silent" | "nomand" => Word::Nothing,
        "sync" | "dirsync" | "lazytime" => Word::Superblock,
        "bind" => Word::Bind(false),
        "rbind" => Word::Bind(true),
        "private" => Word::Propagation(libc::MS_PRIVATE, false),
        "rprivate" => Word::Propagation(libc::MS_PRIVATE, true),
        "slave" => Word::Propagation(libc::MS_SLAVE, false),
        "rslave" => Word::Propagation(libc::MS_SLAVE, true),
        "shared" => Word::Propagation(libc::MS_SHARED, false),
        "rshared" => Word::Propagation(libc::MS_SHARED, true),
        "unbindable" => Word::Propagation(libc::MS_UNBINDABLE, false),
        "runbindable" => Word::Propagation(libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

fn put(word: &Word, on: &mut attr::Attributes) -> bool {
    let (set, clear) = match *word {
        Word::Set(bit) => (bit, 0),
        Word::Clear(bit) => (0, bit),
        // The field has several bits: the kernel wants it cleared whole before one is set.
        Word::Atime(value) => (value, attr::ATIME_FIELD),
        Word::Nothing | Word::Superblock | Word::Bind(_) | Word::Propagation(..) => return false,
    };
    on.clear = (on.clear & !set) | clear;
    on.set = (on.set & !clear) | set;
    true
}

impl Options {
    /// Parses in order, so that a later word undoes an earlier one.
    pub(crate) fn parse(field: &str, words: &[String]) -> Result<Self, RunnerError> {
        let mut options = Options::default();
        for word in words {
            options.take(field, word)?;
        }
        Ok(options)
    }

    fn take(&mut self, field: &str, word: &str) -> Result<(), RunnerError> {
        if matches!(word, "idmap" | "ridmap") {
            self.idmap = Some(word == "ridmap");
            return Ok(());
        }
        if matches!(word, "remount" | "mand" | "tmpcopyup" | "copy-symlink")
            || word.starts_with("idmap=")
            || word.starts_with("ridmap=")
        {
            return Err(RunnerError::unsupported(format!("{field} `{word}`"), ""));
        }
        match known(word) {
            Some(Word::Bind(recursive)) => self.bind = Some(recursive),
            Some(Word::Propagation(kind, recursive)) => self.propagation = Some((kind, recursive)),
            Some(Word::Superblock) => self.data.push((text(field, word)?, None)),
            Some(known) => drop(put(&known, &mut self.own)),
            None => match word.strip_prefix('r').and_then(known) {
                Some(each) if put(&each, &mut self.all) => {}
                _ => self.data.push(match word.split_once('=') {
                    Some((key, value)) => (text(field, key)?, Some(text(field, value)?)),
                    None => (text(field, word)?, None),
                }),
            },
        }
        Ok(())
    }
}

/// A string for the kernel.
pub(crate) fn text(field: &str, value: impl Into<Vec<u8>>) -> Result<CString, RunnerError> {
    CString::new(value).map_err(|_| RunnerError::invalid(field, "it holds a NUL byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        Options::parse("options", &words).expect("fine")
    }

    #[test]
    fn flags_data_and_propagation_are_told_apart() {
        let found = parse(&["rbind", "rprivate", "ro", "nosuid", "size=64k", "newinstance"]);
        assert_eq!(found.bind, Some(true));
        assert_eq!(found.own.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(found.propagation, Some((libc::MS_PRIVATE, true)));
        assert_eq!(found.data, [(c"size".into(), Some(c"64k".into())), (c"newinstance".into(), None)]);
        assert!(found.all.is_empty());
    }

    #[test]
    fn a_later_word_undoes_an_earlier_one() {
        let found = parse(&["ro", "noatime", "rw", "strictatime"]);
        assert_eq!((found.own.set, found.own.clear), (attr::STRICTATIME, attr::RDONLY | attr::ATIME_FIELD));
    }

    #[test]
    fn a_word_with_r_in_front_goes_for_all_mounts_beneath() {
        let found = parse(&["rbind", "rro", "rnoexec"]);
        assert_eq!(found.all.set, attr::RDONLY | attr::NOEXEC);
        assert!(found.own.is_empty());
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for word in ["remount", "idmap=1", "ridmap=1", "tmpcopyup", "mand"] {
            let error = Options::parse("mounts[0].options", &[word.to_owned()]).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
