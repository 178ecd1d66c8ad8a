//! Reading a log file as it grows, over rotation.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

/// A record that is longer is cut: the longest piece of a line, with what stands before it.
pub(super) const MOST_RECORD: usize = *types::shim::LOG_LINE.end() + 256;
/// Read at most so much at a time, so that one busy container does not keep the others waiting.
const MOST_AT_ONCE: u64 = 1 << 20;

/// The reader's end of a log file. Rotation renames the file and makes a new one of the old name; a reader
/// that follows goes on with the new one when it has read the old one to its end.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a record whose end is not there yet.
    begun: Vec<u8>,
}

impl Tail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, begun: Vec::new() }
    }

    /// Gives each record that is there now and was not given before, and says whether there was anything.
    /// A file that does not exist yet has nothing.
    pub(crate) fn read(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        if self.file.is_none() {
            self.file = open(&self.path)?;
        }
        if self.drain(take)? {
            return Ok(true);
        }
        let Some(next) = self.next_file()? else { return Ok(false) };
        // The last bytes of the old one may have come between our read and the new file.
        while self.drain(take)? {}
        self.rest(take);
        self.file = Some(next);
        self.drain(take)?;
        Ok(true)
    }

    /// Gives a last record that has no newline: nobody will write its end.
    pub(crate) fn rest(&mut self, take: &mut impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            take(&std::mem::take(&mut self.begun));
        }
    }

    fn drain(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        // Somebody cut the file (copy and truncate): what comes next stands at its beginning.
        if file.metadata()?.len() < file.stream_position()? {
            file.rewind()?;
            self.begun.clear();
        }
        let mut bytes = Vec::new();
        file.take(MOST_AT_ONCE).read_to_end(&mut bytes)?;
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.last() == Some(&b'\n') {
                self.begun.pop();
                take(&self.begun);
                self.begun.clear();
            } else if self.begun.len() > MOST_RECORD {
                take(&std::mem::take(&mut self.begun));
            }
        }
        Ok(!bytes.is_empty())
    }

    /// The file that has our path now, if it is another than ours.
    fn next_file(&self) -> io::Result<Option<File>> {
        let (Some(old), Some(new)) = (&self.file, open(&self.path)?) else { return Ok(None) };
        let identity = |file: &File| file.metadata().map(|m| (m.dev(), m.ino()));
        Ok(if identity(old)? == identity(&new)? { None } else { Some(new) })
    }
}

fn open(path: &PathBuf) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    struct Log(PathBuf);

    impl Log {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("peapod-test-{}-{name}.log", std::process::id()));
            Log(path)
        }
        fn append(&self, text: &str) {
            let file = File::options().create(true).append(true).open(&self.0);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("append");
        }
        fn rotated(&self) -> PathBuf {
            self.0.with_extension("log.1")
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
            let _ = std::fs::remove_file(self.rotated());
        }
    }

    fn records(tail: &mut Tail) -> Vec<String> {
        let mut records = Vec::new();
        tail.read(&mut |record| records.push(String::from_utf8_lossy(record).into_owned())).expect("read");
        records
    }

    #[test]
    fn records_are_given_once_and_only_when_they_are_whole() {
        let log = Log::new("whole");
        let mut tail = Tail::new(log.0.clone());
        assert_eq!(records(&mut tail), [""; 0]);
        log.append("one\ntwo\nthr");
        assert_eq!(records(&mut tail), ["one", "two"]);
        assert_eq!(records(&mut tail), [""; 0]);
        log.append("ee\n\nfour");
        assert_eq!(records(&mut tail), ["three", ""]);
        let mut last = Vec::new();
        tail.rest(&mut |record| last.push(record.to_vec()));
        assert_eq!(last, [b"four"]);
    }

    #[test]
    fn a_rotated_file_is_read_to_its_end_before_the_new_one() {
        let log = Log::new("rotated");
        let mut tail = Tail::new(log.0.clone());
        log.append("one\n");
        assert_eq!(records(&mut tail), ["one"]);
        log.append("two\n");
        std::fs::rename(&log.0, log.rotated()).expect("rename");
        // The writer goes on with the old file until it reopens.
        assert_eq!(records(&mut tail), ["two"]);
        assert_eq!(records(&mut tail), [""; 0]);
        File::options()
            .append(true)
            .open(log.rotated())
            .and_then(|mut f| f.write_all(b"three\n"))
            .expect("append");
        log.append("four\n");
        assert_eq!(records(&mut tail), ["three"]);
        assert_eq!(records(&mut tail), ["four"]);
        log.append("five\n");
        assert_eq!(records(&mut tail), ["five"]);
    }

    #[test]
    fn a_file_that_was_cut_is_read_from_its_beginning() {
        let log = Log::new("cut");
        let mut tail = Tail::new(log.0.clone());
        log.append("one\ntwo\n");
        assert_eq!(records(&mut tail), ["one", "two"]);
        File::options().write(true).open(&log.0).and_then(|f| f.set_len(0)).expect("cut");
        log.append("x\n");
        assert_eq!(records(&mut tail), ["x"]);
    }
}
