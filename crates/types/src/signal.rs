//! Signals by name, as in an image's STOPSIGNAL and the CRI's `stop_signal`.

use serde::{Deserialize, Serialize};

/// A Linux signal number, 1 to 64 (signal(7); RTMIN is 34 and RTMAX 64, as glibc counts).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(u8);

/// Text that names no signal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not a signal: want a name such as SIGTERM or RTMIN+3, or a number from 1 to 64", .0.chars().take(40).flat_map(char::escape_default).collect::<String>())]
pub struct BadSignal(pub String);

/// Number and name of the signals below RTMIN on x86 and arm.
const NAMES: [(u8, &str); 34] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (17, "CHLD"),
    (18, "CONT"),
    (19, "STOP"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (23, "URG"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (28, "WINCH"),
    (29, "IO"),
    (29, "POLL"),
    (30, "PWR"),
    (31, "SYS"),
    (6, "IOT"),
    (17, "CLD"),
];

impl Signal {
    /// SIGTERM.
    pub const TERM: Signal = Signal(15);
    /// SIGKILL.
    pub const KILL: Signal = Signal(9);

    /// Parses `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-1` and the CRI's `SIGNAL_`-less
    /// enum names (`SIGRTMINPLUS3`, `SIGRTMAXMINUS1`).
    ///
    /// # Errors
    /// [`BadSignal`] for anything else.
    pub fn parse(text: &str) -> Result<Self, BadSignal> {
        let bad = || BadSignal(text.to_owned());
        if let Ok(number) = text.parse::<u8>() {
            return if (1..=64).contains(&number) { Ok(Signal(number)) } else { Err(bad()) };
        }
        let upper = text.to_ascii_uppercase().replace("PLUS", "+").replace("MINUS", "-");
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(rest) = name.strip_prefix("RTMIN") {
            return match rest.strip_prefix('+').unwrap_or("0").parse::<u8>() {
                Ok(n) if n <= 30 && (rest.is_empty() || rest.starts_with('+')) => Ok(Signal(34 + n)),
                _ => Err(bad()),
            };
        }
        if let Some(rest) = name.strip_prefix("RTMAX") {
            return match rest.strip_prefix('-').unwrap_or("0").parse::<u8>() {
                Ok(n) if n <= 30 && (rest.is_empty() || rest.starts_with('-')) => Ok(Signal(64 - n)),
                _ => Err(bad()),
            };
        }
        NAMES.iter().find(|(_, known)| *known == name).map(|(number, _)| Signal(*number)).ok_or_else(bad)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_real_time_signals_parse() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMINPLUS15", 49),
            ("SIGRTMAXMINUS14", 50),
            ("RTMAX", 64),
        ] {
            assert_eq!(Signal::parse(text).map(Signal::number), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "SIGFOO", "RTMIN-1", "RTMIN+31", "SIG", "-1"] {
            assert!(Signal::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
