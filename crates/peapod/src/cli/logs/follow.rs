//! Several logs at once, printed as they grow.

use super::{
    line::{Joiner, Line, Stream},
    tail::Tail,
};
use std::{
    io::{self, Write as _},
    path::PathBuf,
};

/// Logs that are followed. It does nothing by itself: [`Follower::pump`] prints what is there.
#[derive(Debug)]
pub(crate) struct Follower {
    sources: Vec<Source>,
    timestamps: bool,
}

#[derive(Debug)]
struct Source {
    /// Printed before each line.
    name: Option<String>,
    tail: Tail,
    joiner: Joiner,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More may be written.
    Growing,
    /// The container has ended: what is there is all.
    Ended,
    /// And it was printed.
    Over,
}

impl Follower {
    pub(crate) fn new(timestamps: bool) -> Self {
        Self { sources: Vec::new(), timestamps }
    }

    /// Follows one more log, from its beginning; the result stands for it.
    pub(crate) fn add(&mut self, name: Option<String>, path: PathBuf) -> usize {
        let (tail, joiner) = (Tail::new(path), Joiner::default());
        self.sources.push(Source { name, tail, joiner, state: State::Growing });
        self.sources.len() - 1
    }

    /// Nothing more is written to this one.
    pub(crate) fn end(&mut self, source: usize) {
        if let Some(source) = self.sources.get_mut(source).filter(|source| source.state == State::Growing) {
            source.state = State::Ended;
        }
    }

    /// Whether each log was printed to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.sources.iter().all(|source| source.state == State::Over)
    }

    /// Prints what came since the last time, and says whether there was anything.
    pub(crate) fn pump(&mut self) -> io::Result<bool> {
        let mut something = false;
        for source in &mut self.sources {
            something |= source.pump(self.timestamps)?;
        }
        Ok(something)
    }
}

impl Source {
    fn pump(&mut self, timestamps: bool) -> io::Result<bool> {
        if self.state == State::Over {
            return Ok(false);
        }
        let mut lines = Vec::new();
        let joiner = &mut self.joiner;
        let mut take = |record: &[u8]| lines.extend(joiner.feed(record));
        let something = self.tail.read(&mut take)?;
        if !something && self.state == State::Ended {
            self.tail.rest(&mut take);
            lines.extend(self.joiner.rest());
            self.state = State::Over;
        }
        for line in &lines {
            print(self.name.as_deref(), line, timestamps)?;
        }
        Ok(something)
    }
}

/// One line, to the stream that the container wrote it to.
pub(super) fn print(name: Option<&str>, line: &Line, timestamps: bool) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(line.text.len() + 64);
    if let Some(name) = name {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b" | ");
    }
    if timestamps && !line.time.is_empty() {
        bytes.extend_from_slice(line.time.as_bytes());
        bytes.push(b' ');
    }
    bytes.extend_from_slice(&line.text);
    bytes.push(b'\n');
    match line.stream {
        Stream::Stdout => super::super::output::write(&bytes),
        Stream::Stderr => io::stderr().lock().write_all(&bytes),
    }
}
