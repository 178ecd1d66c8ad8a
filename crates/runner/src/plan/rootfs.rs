//! The root file system: an overlay, or a directory of the host.

use super::{
    layers::Layers,
    options::{Options, text},
};
use crate::{RootMount, RunnerError};
use std::{
    ffi::CString,
    path::{Path, PathBuf},
};
use sys::libc;

/// mount(2) takes one page of options, with its NUL.
const MOST_DATA: usize = 4095;

/// How the root is made, in the child's own mount namespace.
#[derive(Debug)]
pub(crate) struct RootPlan {
    /// Where it is mounted until it becomes the root: a directory that must exist.
    pub(crate) at: CString,
    pub(crate) kind: RootKind,
    pub(crate) readonly: bool,
    /// `MS_*` propagation of the finished root, and whether it goes for all mounts beneath.
    pub(crate) propagation: Option<(u64, bool)>,
}

/// What the root is.
#[derive(Debug)]
pub(crate) enum RootKind {
    /// mount(2) of a file system.
    Mount {
        kind: CString,
        source: CString,
        flags: u64,
        data: CString,
        /// Directory that the relative paths in `data` start from.
        from: Option<CString>,
    },
    /// An overlay of layers with mapped ids.
    Layers { source: CString, flags: u64, layers: Box<Layers> },
    /// A directory of the host.
    Bind { source: CString, options: Options },
}

impl RootPlan {
    /// The last of `mounts`, or `path` when there is none.
    pub(crate) fn new(
        mounts: &[RootMount],
        bundle: &Path,
        path: Option<&Path>,
        readonly: bool,
        propagation: Option<&str>,
    ) -> Result<Self, RunnerError> {
        // Where hooks look for it; a bundle without such a directory is covered itself.
        let named = path.filter(|path| !path.as_os_str().is_empty()).map(|path| bundle.join(path));
        let at = named.filter(|path| path.is_dir()).unwrap_or_else(|| bundle.to_owned());
        let at = text("bundle", at.into_os_string().into_encoded_bytes())?;
        let kind = match mounts {
            [] => {
                let path = path.ok_or_else(|| RunnerError::invalid("root.path", "it is empty"))?;
                let source = text("root.path", bundle.join(path).into_os_string().into_encoded_bytes())?;
                RootKind::Bind { source, options: Options::default() }
            }
            [mount] => root_mount(mount)?,
            [..] => return Err(RunnerError::unsupported("rootfs", "more than one mount for the root")),
        };
        Ok(RootPlan { at, kind, readonly, propagation: root_propagation(propagation)? })
    }
}

impl RootPlan {
    /// Drops the namespace that stands for the mapping of the layers, once they are mounted.
    pub(crate) fn forget_map(&mut self) {
        if let RootKind::Layers { layers, .. } = &mut self.kind {
            layers.map.userns = None;
        }
    }
}

fn root_propagation(word: Option<&str>) -> Result<Option<(u64, bool)>, RunnerError> {
    let field = "linux.rootfsPropagation";
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(None) };
    match Options::parse(field, &[word.to_owned()])?.propagation {
        // One that would let the container's mounts appear on the host through its root has no use here:
        // a shared root is shared with the container's own children only, as with other runtimes.
        Some(found) => Ok(Some(found)),
        None => Err(RunnerError::invalid(field, format!("`{word}` is no propagation"))),
    }
}

fn root_mount(mount: &RootMount) -> Result<RootKind, RunnerError> {
    let options = Options::parse("rootfs.options", &mount.options)?;
    let source = |text_of: &Path| text("rootfs.source", text_of.as_os_str().as_encoded_bytes());
    if mount.kind == "bind" || options.bind.is_some() {
        return Ok(RootKind::Bind { source: source(&mount.source)?, options });
    }
    let mut flags = 0;
    for (attribute, flag) in [
        (sys::mount::RDONLY, libc::MS_RDONLY),
        (sys::mount::NOSUID, libc::MS_NOSUID),
        (sys::mount::NODEV, libc::MS_NODEV),
        (sys::mount::NOEXEC, libc::MS_NOEXEC),
        (sys::mount::NOATIME, libc::MS_NOATIME),
    ] {
        if options.own.set & attribute == attribute {
            flags |= flag;
        }
    }
    let source = source(&mount.source)?;
    if mount.kind == "overlay"
        && let Some(layers) = Layers::new(&options)?
    {
        return Ok(RootKind::Layers { source, flags, layers: Box::new(layers) });
    }
    let (data, from) = data(&options)?;
    Ok(RootKind::Mount { kind: text("rootfs.type", mount.kind.as_str())?, source, flags, data, from })
}

/// The options in one string. When they do not fit into a page the lower directories are named from the
/// deepest directory that holds them all.
fn data(options: &Options) -> Result<(CString, Option<CString>), RunnerError> {
    let whole = join(options, None)?;
    if whole.as_bytes().len() <= MOST_DATA {
        return Ok((whole, None));
    }
    let lower = options.data.iter().find_map(|(key, value)| match value {
        Some(value) if key.as_c_str() == c"lowerdir" => value.to_str().ok(),
        Some(_) | None => None,
    });
    if let Some(base) = lower.and_then(common_parent) {
        let short = join(options, Some(&base))?;
        if short.as_bytes().len() <= MOST_DATA {
            return Ok((short, Some(text("rootfs.options", base.into_os_string().into_encoded_bytes())?)));
        }
    }
    Err(RunnerError::invalid(
        "rootfs.options",
        format!("they are longer than the {MOST_DATA} bytes that the kernel takes"),
    ))
}

fn join(options: &Options, base: Option<&Path>) -> Result<CString, RunnerError> {
    let mut all = Vec::new();
    for (key, value) in &options.data {
        if !all.is_empty() {
            all.push(b',');
        }
        all.extend(key.as_bytes());
        let Some(value) = value else { continue };
        all.push(b'=');
        match (base, value.to_str()) {
            (Some(base), Ok(lower)) if key.as_c_str() == c"lowerdir" => {
                let short = |dir: &str| {
                    Path::new(dir).strip_prefix(base).unwrap_or(Path::new(dir)).display().to_string()
                };
                all.extend(lower.split(':').map(short).collect::<Vec<_>>().join(":").into_bytes());
            }
            // Categories of a label; mount(2) would take what is behind the comma for a further option.
            _ if key.as_c_str() == c"context" => all.extend([b"\"", value.as_bytes(), b"\""].concat()),
            _ => all.extend(value.as_bytes()),
        }
    }
    text("rootfs.options", all)
}

/// The deepest directory above all of the list. A name with an escaped colon is left as it is.
fn common_parent(lower: &str) -> Option<PathBuf> {
    if lower.contains('\\') {
        return None;
    }
    let mut parents = lower.split(':').map(|dir| Path::new(dir).parent());
    let mut base = parents.next()??.to_owned();
    for parent in parents {
        let parent = parent?;
        while !parent.starts_with(&base) {
            base = base.parent()?.to_owned();
        }
    }
    base.is_absolute().then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(layers: usize, dir: &str) -> RootMount {
        let lower = (0..layers).map(|layer| format!("{dir}/{layer}/diff")).collect::<Vec<_>>().join(":");
        RootMount {
            kind: "overlay".to_owned(),
            source: "overlay".into(),
            options: vec![
                "nosuid".to_owned(),
                format!("lowerdir={lower}"),
                "upperdir=/u".to_owned(),
                "volatile".to_owned(),
            ],
        }
    }

    #[test]
    fn few_layers_are_named_in_full() {
        let RootKind::Mount { data, from: None, flags, .. } =
            root_mount(&overlay(2, "/var/l")).expect("fine")
        else {
            panic!("not in full")
        };
        assert_eq!(data.as_c_str(), c"lowerdir=/var/l/0/diff:/var/l/1/diff,upperdir=/u,volatile");
        assert_eq!(flags, libc::MS_NOSUID);
    }

    #[test]
    fn a_label_with_categories_stays_one_option() {
        let mut root = overlay(1, "/l");
        root.options.push("context=u:r:t:s0:c1,c2".to_owned());
        let RootKind::Mount { data, .. } = root_mount(&root).expect("fine") else { panic!("no mount") };
        assert!(data.as_bytes().ends_with(b"volatile,context=\"u:r:t:s0:c1,c2\""), "{data:?}");
    }

    #[test]
    fn many_layers_are_named_from_the_directory_that_holds_them() {
        let RootKind::Mount { data, from: Some(from), .. } =
            root_mount(&overlay(300, "/var/lib/peapod/layers")).expect("fine")
        else {
            panic!("not short")
        };
        assert_eq!(from.as_c_str(), c"/var/lib/peapod/layers");
        assert!(data.to_str().expect("text").starts_with("lowerdir=0/diff:1/diff:"));
        assert!(data.as_bytes().ends_with(b":299/diff,upperdir=/u,volatile"));
        assert!(matches!(root_mount(&overlay(1000, "/var")), Err(RunnerError::Invalid { .. })));
    }

    #[test]
    fn one_layer_elsewhere_moves_the_common_directory_up() {
        assert_eq!(common_parent("/a/b/1:/a/c/2"), Some("/a".into()));
        assert_eq!(common_parent("/a/b/1:/x"), Some("/".into()));
        assert_eq!(common_parent("a/b:c"), None);
    }

    #[test]
    fn a_propagation_that_is_none_is_refused() {
        assert_eq!(root_propagation(Some("rslave")).expect("fine"), Some((libc::MS_SLAVE, true)));
        assert_eq!(root_propagation(Some("")).expect("fine"), None);
        assert!(root_propagation(Some("ro")).is_err());
    }
}
