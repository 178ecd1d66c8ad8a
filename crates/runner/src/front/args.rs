//! Words of the command line, as runc takes them: options first, `--name value` or `--name=value`.

use super::FrontError;
use std::{collections::VecDeque, ffi::OsString};

/// What is left of the command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    left: VecDeque<String>,
    /// The value of `--name=value` until it is asked for.
    value: Option<String>,
}

impl Arguments {
    /// Leaves the program's name out.
    pub(crate) fn new(args: Vec<OsString>) -> Result<Self, FrontError> {
        let text = |word: OsString| {
            word.into_string().map_err(|word| FrontError::Usage(format!("{} is not UTF-8", word.display())))
        };
        Ok(Arguments { left: args.into_iter().skip(1).map(text).collect::<Result<_, _>>()?, value: None })
    }

    /// Takes a first word that is one of these.
    pub(crate) fn flag(&mut self, names: &[&str]) -> bool {
        let found = self.left.front().is_some_and(|word| names.contains(&word.as_str()));
        if found {
            self.left.pop_front();
        }
        found
    }

    /// The next option, without its value; `--` ends the options.
    pub(crate) fn next_option(&mut self) -> Option<String> {
        let word = self.left.front()?;
        if !word.starts_with('-') || word == "-" {
            return None;
        }
        let word = self.left.pop_front()?;
        if word == "--" {
            return None;
        }
        match word.split_once('=') {
            Some((name, value)) => {
                self.value = Some(value.to_owned());
                Some(name.to_owned())
            }
            None => Some(word),
        }
    }

    /// The value of the option that was taken last.
    pub(crate) fn value(&mut self, option: &str) -> Result<String, FrontError> {
        match self.value.take() {
            Some(value) => Ok(value),
            None => self.word(&format!("a value for {option}")),
        }
    }

    /// The next word.
    pub(crate) fn word(&mut self, what: &str) -> Result<String, FrontError> {
        self.left.pop_front().ok_or_else(|| FrontError::Usage(format!("{what} is missing")))
    }

    /// The next word, if there is one.
    pub(crate) fn optional(&mut self) -> Option<String> {
        self.left.pop_front()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Vec<String> {
        self.left.into()
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), FrontError> {
        match self.left.front() {
            None => Ok(()),
            Some(word) => Err(FrontError::Usage(format!("`{word}` is too much"))),
        }
    }
}

/// An option that is known and not done.
pub(crate) fn not_supported(option: &str) -> FrontError {
    FrontError::Usage(format!("the option {option} is not supported"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Arguments {
        Arguments::new(words.iter().map(OsString::from).collect()).expect("UTF-8")
    }

    #[test]
    fn a_value_follows_its_option_in_both_ways() {
        let mut args = args(&["x", "--root=/a=b", "--log", "/c", "create", "-b", "d"]);
        assert_eq!(args.next_option().as_deref(), Some("--root"));
        assert_eq!(args.value("--root").expect("value"), "/a=b");
        assert_eq!(args.next_option().as_deref(), Some("--log"));
        assert_eq!(args.value("--log").expect("value"), "/c");
        assert_eq!(args.next_option(), None);
        assert_eq!(args.word("a command").expect("word"), "create");
        assert_eq!(args.rest(), ["-b", "d"]);
    }

    #[test]
    fn two_dashes_end_the_options() {
        let mut args = args(&["x", "--", "--not-an-option"]);
        assert_eq!(args.next_option(), None);
        assert_eq!(args.word("id").expect("word"), "--not-an-option");
        args.end().expect("nothing left");
    }
}
