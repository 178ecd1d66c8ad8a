//! Signals by name, as in an image's STOPSIGNAL and the CRI's `stop_signal`.

use serde::{Deserialize, Serialize};

/// A Linux signal, 1 to 64 (signal(7); RTMIN is 34 and RTMAX 64, as glibc counts), by the name that it was
/// asked for: SIGCLD is the number of SIGCHLD, and another word in a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Signal {
    number: u8,
    /// Its place in [`ALIASES`], for one of those.
    alias: Option<u8>,
}

/// In records: the number, and for an alias its name.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u8),
    Alias(String),
}

impl TryFrom<Written> for Signal {
    type Error = BadSignal;
    fn try_from(written: Written) -> Result<Self, BadSignal> {
        match written {
            Written::Number(number) => Signal::parse(&number.to_string()),
            Written::Alias(name) => Signal::parse(&name),
        }
    }
}

impl From<Signal> for Written {
    fn from(signal: Signal) -> Written {
        match signal.alias {
            Some(_) => Written::Alias(signal.name()),
            None => Written::Number(signal.number),
        }
    }
}

/// Text that names no signal.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` is not a signal: want a name such as SIGTERM or RTMIN+3, or a number from 1 to 64", .0.chars().take(40).flat_map(char::escape_default).collect::<String>())]
pub struct BadSignal(pub String);

/// Number and name of the signals below RTMIN on x86 and arm.
const NAMES: [(u8, &str); 31] = [
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
    (30, "PWR"),
    (31, "SYS"),
];

/// Second names of some.
const ALIASES: [(u8, &str); 3] = [(6, "IOT"), (17, "CLD"), (29, "POLL")];

impl Signal {
    /// SIGTERM.
    pub const TERM: Signal = Signal::plain(15);
    /// SIGKILL.
    pub const KILL: Signal = Signal::plain(9);

    const fn plain(number: u8) -> Signal {
        Signal { number, alias: None }
    }

    /// Parses `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-1` and the CRI's `SIGNAL_`-less
    /// enum names (`SIGRTMINPLUS3`, `SIGRTMAXMINUS1`).
    ///
    /// # Errors
    /// [`BadSignal`] for anything else.
    pub fn parse(text: &str) -> Result<Self, BadSignal> {
        let bad = || BadSignal(text.to_owned());
        if let Ok(number) = text.parse::<u8>() {
            return if (1..=64).contains(&number) { Ok(Signal::plain(number)) } else { Err(bad()) };
        }
        let upper = text.to_ascii_uppercase().replace("PLUS", "+").replace("MINUS", "-");
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(rest) = name.strip_prefix("RTMIN") {
            return match rest.strip_prefix('+').unwrap_or("0").parse::<u8>() {
                Ok(n) if n <= 30 && (rest.is_empty() || rest.starts_with('+')) => Ok(Signal::plain(34 + n)),
                _ => Err(bad()),
            };
        }
        if let Some(rest) = name.strip_prefix("RTMAX") {
            return match rest.strip_prefix('-').unwrap_or("0").parse::<u8>() {
                Ok(n) if n <= 30 && (rest.is_empty() || rest.starts_with('-')) => Ok(Signal::plain(64 - n)),
                _ => Err(bad()),
            };
        }
        if let Some((number, _)) = NAMES.iter().find(|(_, known)| *known == name) {
            return Ok(Signal::plain(*number));
        }
        let alias = (0..).zip(ALIASES).find(|(_, (_, known))| *known == name);
        alias.map(|(at, (number, _))| Signal { number, alias: Some(at) }).ok_or_else(bad)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.number)
    }

    /// Its name as it was asked for: `SIGTERM`, `SIGCLD`, `SIGRTMIN+3`.
    #[must_use]
    pub fn name(self) -> String {
        let alias = self.alias.and_then(|at| ALIASES.get(usize::from(at)));
        match alias.or(NAMES.iter().find(|(number, _)| *number == self.number)) {
            Some((_, name)) => format!("SIG{name}"),
            None => match self.number {
                34 => "SIGRTMIN".to_owned(),
                number @ 35..=49 => format!("SIGRTMIN+{}", number - 34),
                64 => "SIGRTMAX".to_owned(),
                number => format!("SIGRTMAX-{}", 64_u8.saturating_sub(number)),
            },
        }
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
        for number in (1..=31_u8).chain(34..=64) {
            let signal = Signal::parse(&number.to_string()).expect("a number");
            assert_eq!(Signal::parse(&signal.name()), Ok(signal), "{number}");
        }
        for bad in ["", "0", "65", "SIGFOO", "RTMIN-1", "RTMIN+31", "SIG", "-1"] {
            assert!(Signal::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_alias_keeps_its_name_also_in_a_record_and_old_records_have_numbers() {
        for (alias, plain) in [("SIGCLD", "SIGCHLD"), ("SIGIOT", "SIGABRT"), ("SIGPOLL", "SIGIO")] {
            let (asked, other) = (Signal::parse(alias).expect(alias), Signal::parse(plain).expect(plain));
            assert_eq!((asked.number(), asked.name().as_str()), (other.number(), alias));
            let kept = serde_json::to_string(&asked).expect("JSON");
            assert_eq!(serde_json::from_str::<Signal>(&kept).expect(&kept), asked);
        }
        assert_eq!(serde_json::to_string(&Signal::TERM).expect("JSON"), "15");
        assert_eq!(serde_json::from_str::<Signal>("15").expect("a number"), Signal::TERM);
        assert!(serde_json::from_str::<Signal>("65").is_err());
    }
}
