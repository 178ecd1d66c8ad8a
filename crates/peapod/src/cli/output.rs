//! Writing to the terminal, and saying how far things are.

use std::io::{self, IsTerminal as _, Write as _};

/// How a list is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Writes to standard output, whole or with the error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    write(text.as_bytes())
}

/// The same for bytes that need not be text.
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// A value as JSON, for `-o json`.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// A line on standard error. Nobody can be told of a standard error that is broken.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(broken)
}

/// Says on standard error how far a long work is: one changing line on a terminal, else only [`Progress::done`].
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    /// The line on the terminal has something on it.
    dirty: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), dirty: false }
    }

    /// Replaces the changing line.
    pub(crate) fn update(&mut self, line: &str) {
        if self.terminal {
            // Erase to the end of the line, ECMA-48 EL.
            let _ = write!(io::stderr(), "\r{}\x1b[K", line.chars().take(100).collect::<String>());
            self.dirty = true;
        }
    }

    /// A line that stays.
    pub(crate) fn done(&mut self, line: &str) {
        self.clear();
        complain(line);
    }

    /// Takes the changing line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.dirty) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Bytes for people: `12.3 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut unit = 1_000_u64;
    if count < unit {
        return format!("{count} B");
    }
    for name in ["kB", "MB", "GB", "TB"] {
        if count < unit.saturating_mul(1_000) || name == "TB" {
            return format!("{}.{} {name}", count / unit, count % unit * 10 / unit);
        }
        unit *= 1_000;
    }
    String::new()
}

/// A duration for people: `42s`, `5m`, `3h`, `12d`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        days => format!("{}d", days / 86_400),
    }
}

/// How long ago a time of the CRI (nanoseconds since 1970) was.
pub(crate) fn ago(nanoseconds: i64) -> String {
    let then = std::time::Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    duration(now.saturating_sub(then).as_secs())
}

/// An image id, or a reference with a digest, for people: `sha256:` and 12 digits.
pub(crate) fn short_id(id: &str) -> String {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_the_unit_that_fits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_249_999, "1.2 MB"),
            (5_000_000_000, "5.0 GB"),
            (7_600_000_000_000_000, "7600.0 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
