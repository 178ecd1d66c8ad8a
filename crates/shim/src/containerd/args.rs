//! The command line that containerd gives a shim (containerd:core/runtime/v2/command.go): flags as Go's
//! `flag` package reads them, then the action.

use std::ffi::OsString;
use std::path::PathBuf;

/// The longest id or namespace that is taken; containerd's own end at 76 (pkg/identifiers).
const LONGEST_NAME: usize = 128;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// `-v`, `-version`.
    Version,
    /// `-info`: what the runtime can do.
    Info,
    /// `start`: a shim for a container.
    Start(Target),
    /// `delete`: what is left of a container whose shim is gone.
    Delete(Target),
}

/// Whom it is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    /// The namespace of containerd, not of the kernel.
    pub(crate) namespace: String,
    /// The container.
    pub(crate) id: String,
    /// Its bundle; the working directory if it is not given.
    pub(crate) bundle: Option<PathBuf>,
    /// containerd's gRPC address.
    pub(crate) address: String,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// The text for whoever gave them.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Call, String> {
    let mut arguments = arguments.into_iter().peekable();
    let (mut target, mut version, mut info) = (Target::default(), false, false);
    while let Some(argument) = arguments.next_if(|argument| argument.as_encoded_bytes().starts_with(b"-")) {
        let text = argument.to_str().ok_or_else(|| format!("flag {}: want UTF-8", argument.display()))?;
        // One dash or two, the value behind an equals sign or in the next argument.
        let name = text.strip_prefix("--").or(text.strip_prefix('-')).unwrap_or_default();
        let (name, value) =
            name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value.to_owned())));
        match (name, &value) {
            ("v" | "version", None) => version = true,
            ("info", None) => info = true,
            // The log has one level; containerd filters nothing by it.
            ("debug", _) => {}
            _ => {
                let value = match value {
                    Some(value) => value,
                    None => {
                        let next =
                            arguments.next().ok_or_else(|| format!("flag -{name}: a value is missing"))?;
                        next.into_string().map_err(|_| format!("flag -{name}: want UTF-8"))?
                    }
                };
                match name {
                    "namespace" => target.namespace = value,
                    "id" => target.id = value,
                    "bundle" => target.bundle = Some(value.into()),
                    "address" => target.address = value,
                    // Events go over ttrpc, not through a program.
                    "publish-binary" => {}
                    _ => return Err(format!("unknown flag -{name}; see --help")),
                }
            }
        }
    }
    if version {
        return Ok(Call::Version);
    }
    if info {
        return Ok(Call::Info);
    }
    let action = arguments.next().ok_or("want an action: start or delete; see --help")?;
    if let Some(more) = arguments.next() {
        return Err(format!("unknown argument {}; see --help", more.display()));
    }
    for (flag, value) in [("-namespace", &target.namespace), ("-id", &target.id)] {
        if value.is_empty() || value.len() > LONGEST_NAME || value.contains(['/', '\0']) {
            return Err(format!("{flag}: want 1 to {LONGEST_NAME} bytes without a slash"));
        }
    }
    if target.bundle.as_ref().is_some_and(|bundle| !bundle.is_absolute()) {
        return Err("-bundle: want an absolute path".to_owned());
    }
    match action.to_str() {
        Some("start") => Ok(Call::Start(target)),
        Some("delete") => Ok(Call::Delete(target)),
        Some(_) | None => Err(format!("unknown action {}; want start or delete", action.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Call, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_flags_of_containerd_are_understood() {
        let target = Target {
            namespace: "k8s.io".to_owned(),
            id: "c1".to_owned(),
            bundle: None,
            address: "/run/c.sock".to_owned(),
        };
        let flags = "-namespace k8s.io -address /run/c.sock -publish-binary /bin/c -id c1";
        assert_eq!(words(&format!("{flags} start")), Ok(Call::Start(target.clone())));
        assert_eq!(words(&format!("{flags} -debug start")), Ok(Call::Start(target.clone())));
        let with = Target { bundle: Some("/b".into()), ..target };
        assert_eq!(words(&format!("{flags} -bundle=/b delete")), Ok(Call::Delete(with.clone())));
        assert_eq!(words(&format!("{flags} --bundle /b delete")), Ok(Call::Delete(with)));
        assert_eq!(words("-v"), Ok(Call::Version));
        assert_eq!(words("-info"), Ok(Call::Info));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fine = "-namespace n -id i";
        for (line, why) in [
            (fine.to_owned(), "want an action"),
            (format!("{fine} stop"), "unknown action stop"),
            (format!("{fine} start now"), "unknown argument now"),
            (format!("{fine} -socket /x start"), "-socket"),
            ("-namespace n start".to_owned(), "-id"),
            ("-namespace n -id a/b start".to_owned(), "-id"),
            ("-id i start".to_owned(), "-namespace"),
            (format!("{fine} -bundle b delete"), "-bundle"),
            ("-id".to_owned(), "-id: a value is missing"),
        ] {
            let error = words(&line).expect_err(&line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
