//! An overlay of layers that are seen with other ids: overlay itself cannot be idmapped, its layers can.
//!
//! The options are containerd's: `uidmap=INSIDE:OUTSIDE:LENGTH[,...]` and `gidmap=` beside those of overlay, and the
//! lower layers are meant, since there the upper one belongs to the mapped ids on disk. With `idmap-upper` the
//! upper one is mapped too: what the container writes has the ids on disk that it has inside.

use super::{
    mounts::IdMap,
    options::{Options, text},
    userns,
};
use crate::RunnerError;
use std::{
    ffi::{CStr, CString},
    path::Path,
};
use sys::userns::Line;

const FIELD: &str = "rootfs.options";

/// The layers and how their ids are seen.
#[derive(Debug)]
pub(crate) struct Layers {
    /// Absolute, the highest first.
    pub(crate) lower: Vec<CString>,
    pub(crate) upper: Option<Upper>,
    /// The other options of overlay.
    pub(crate) data: Vec<(CString, Option<CString>)>,
    pub(crate) map: IdMap,
    /// Who the root of the mapping is outside.
    pub(crate) owner: (u32, u32),
}

/// The directory that is written to: overlay wants its two parts on one mount.
#[derive(Debug)]
pub(crate) struct Upper {
    /// Absolute; it holds both.
    pub(crate) parent: CString,
    pub(crate) upper: CString,
    pub(crate) work: CString,
    pub(crate) mapped: bool,
}

impl Layers {
    /// `None` for an overlay that is not mapped.
    pub(crate) fn new(options: &Options) -> Result<Option<Self>, RunnerError> {
        let (uids, gids) = (mapping(options, c"uidmap")?, mapping(options, c"gidmap")?);
        let (uids, gids) = match (uids, gids) {
            (None, None) => return Ok(None),
            (Some(uids), Some(gids)) => (uids, gids),
            (Some(_), None) | (None, Some(_)) => {
                return Err(RunnerError::invalid(
                    FIELD,
                    "uidmap and gidmap are given together or not at all",
                ));
            }
        };
        let (Some(uid), Some(gid)) = (userns::host(&uids, 0), userns::host(&gids, 0)) else {
            return Err(RunnerError::unsupported(FIELD, "a mapping without id 0"));
        };
        let lower = value(options, c"lowerdir")?.ok_or_else(|| RunnerError::invalid(FIELD, "no lowerdir"))?;
        let lower = split(lower)?.iter().map(|dir| absolute(dir)).collect::<Result<_, _>>()?;
        let known = [c"lowerdir", c"upperdir", c"workdir", c"uidmap", c"gidmap", c"idmap-upper"];
        Ok(Some(Layers {
            lower,
            upper: upper(options)?,
            data: options.data.iter().filter(|(key, _)| !known.contains(&key.as_c_str())).cloned().collect(),
            map: IdMap { uids, gids, recursive: false, userns: None },
            owner: (uid, gid),
        }))
    }
}

fn upper(options: &Options) -> Result<Option<Upper>, RunnerError> {
    let (Some(upper), Some(work)) = (value(options, c"upperdir")?, value(options, c"workdir")?) else {
        return Ok(None);
    };
    let parts = |path: &str| {
        let path = Path::new(path);
        Some((path.parent()?.to_str()?.to_owned(), path.file_name()?.to_str()?.to_owned()))
    };
    match (parts(upper), parts(work)) {
        (Some((parent, upper)), Some((other, work))) if parent == other => Ok(Some(Upper {
            parent: absolute(&parent)?,
            upper: text(FIELD, upper)?,
            work: text(FIELD, work)?,
            mapped: options.data.iter().any(|(key, _)| key.as_c_str() == c"idmap-upper"),
        })),
        _ => Err(RunnerError::unsupported(FIELD, "a mapped upperdir that is not beside its workdir")),
    }
}

fn value<'a>(options: &'a Options, name: &CStr) -> Result<Option<&'a str>, RunnerError> {
    let found =
        options.data.iter().find(|(key, _)| key.as_c_str() == name).and_then(|(_, value)| value.as_ref());
    found.map(|value| value.to_str().map_err(|_| RunnerError::invalid(FIELD, "it is not UTF-8"))).transpose()
}

/// The names in `lowerdir`; overlay lets a colon be escaped, which none of ours needs.
fn split(lower: &str) -> Result<Vec<String>, RunnerError> {
    if lower.contains('\\') || lower.contains("::") {
        return Err(RunnerError::unsupported(FIELD, "mapped layers with escaped or data-only names"));
    }
    Ok(lower.split(':').map(str::to_owned).collect())
}

fn absolute(path: &str) -> Result<CString, RunnerError> {
    let path = super::process::absolute(FIELD, Path::new(path))?;
    text(FIELD, path.into_os_string().into_encoded_bytes())
}

fn mapping(options: &Options, name: &CStr) -> Result<Option<Vec<Line>>, RunnerError> {
    let Some(text) = value(options, name)? else { return Ok(None) };
    let line = |line: &str| {
        let mut numbers = line.split(':').map(|number| number.parse::<u32>().ok());
        let line = Line { inside: numbers.next()??, outside: numbers.next()??, length: numbers.next()?? };
        numbers.next().is_none().then_some(line)
    };
    let lines: Option<Vec<_>> = text.split(',').map(line).collect();
    let bad = || RunnerError::invalid(FIELD, format!("`{text}` is no INSIDE:OUTSIDE:LENGTH[,...]"));
    lines.ok_or_else(bad).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str]) -> Result<Option<Layers>, String> {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        let options = Options::parse("o", &words).expect("options");
        Layers::new(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn layers_are_taken_apart() {
        let base = ["lowerdir=/l/2:/l/1", "upperdir=/c/upper", "workdir=/c/work", "volatile"];
        assert!(check(&base).expect("fine").is_none());
        let map = ["uidmap=0:1000:10,10:5000:1", "gidmap=0:2000:10", "idmap-upper"];
        let layers = check(&[&base[..], &map].concat()).expect("fine").expect("mapped");
        assert_eq!(layers.lower, [c"/l/2", c"/l/1"].map(CStr::to_owned));
        assert_eq!(layers.data, [(c"volatile".to_owned(), None)]);
        assert_eq!(layers.owner, (1000, 2000));
        assert_eq!(layers.map.uids.len(), 2);
        let upper = layers.upper.expect("an upper one");
        assert_eq!((upper.parent.as_c_str(), upper.upper.as_c_str()), (c"/c", c"upper"));
        assert!(upper.mapped);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        for (words, why) in [
            (vec!["lowerdir=/a", "uidmap=0:1:1"], "together"),
            (vec!["lowerdir=/a", "uidmap=0:1", "gidmap=0:1:1"], "no INSIDE"),
            (vec!["lowerdir=/a", "uidmap=1:1:1", "gidmap=0:1:1"], "without id 0"),
            (vec!["lowerdir=a", "uidmap=0:1:1", "gidmap=0:1:1"], "not an absolute path"),
            (
                vec!["lowerdir=/a", "upperdir=/b/u", "workdir=/c/w", "uidmap=0:1:1", "gidmap=0:1:1"],
                "not beside its workdir",
            ),
        ] {
            let error = check(&words).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }
}
