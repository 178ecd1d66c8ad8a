//! Records of a container's log: `RFC3339Nano stream P|F text`, one on each line.
//!
//! Source: the CRI's logging design (kubernetes/design-proposals-archive, node/kubelet-cri-logging.md): a
//! long line is written in parts that are tagged `P`, the last one `F`.

/// A line that is longer when its parts are put together is given out in pieces.
const MOST_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One record, as it lies in the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) time: &'a str,
    pub(crate) stream: Stream,
    /// More of the line follows.
    pub(crate) partial: bool,
    pub(crate) text: &'a [u8],
}

/// Reads a record without its newline; `None` for what is none.
pub(crate) fn parse(record: &[u8]) -> Option<Record<'_>> {
    let mut parts = record.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    if time.len() < 20 || !time.is_char_boundary(19) || !time.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Further tags may follow behind a colon.
    let partial = match parts.next()?.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Record { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// A line as the container wrote it, without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Of its first part. Empty for what was no record.
    pub(crate) time: String,
    pub(crate) stream: Stream,
    pub(crate) text: Vec<u8>,
}

impl Line {
    /// What sorts lines by time: second and padded fraction. All times of one host have one offset.
    pub(crate) fn key(&self) -> (String, String) {
        let (second, rest) = self.time.split_at_checked(19).unwrap_or_default();
        let fraction: String =
            rest.trim_start_matches('.').chars().take_while(char::is_ascii_digit).collect();
        (second.to_owned(), format!("{fraction:0<9}"))
    }
}

/// Puts the parts of lines together; stdout and stderr may be interleaved.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    stdout: Option<Line>,
    stderr: Option<Line>,
}

impl Joiner {
    /// Takes a record, and gives a line when it is whole.
    pub(crate) fn feed(&mut self, record: &[u8]) -> Option<Line> {
        let Some(record) = parse(record) else {
            // Shown as it is rather than swallowed.
            return Some(Line { time: String::new(), stream: Stream::Stdout, text: record.to_vec() });
        };
        let begun = match record.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let new = || Line { time: record.time.to_owned(), stream: record.stream, text: Vec::new() };
        let line = begun.get_or_insert_with(new);
        line.text.extend_from_slice(record.text);
        if record.partial && line.text.len() < MOST_BYTES { None } else { begun.take() }
    }

    /// What was begun and never ended, such as a prompt before the container was killed.
    pub(crate) fn rest(&mut self) -> impl Iterator<Item = Line> {
        [self.stdout.take(), self.stderr.take()].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_the_cri_writes_them() {
        let time = "2016-10-06T00:17:09.669794202Z";
        let record = |stream, partial, text| Some(Record { time, stream, partial, text });
        for (bytes, want) in [
            (format!("{time} stdout F hello world"), record(Stream::Stdout, false, &b"hello world"[..])),
            (format!("{time} stderr P  lead"), record(Stream::Stderr, true, b" lead")),
            (format!("{time} stdout F "), record(Stream::Stdout, false, b"")),
            (format!("{time} stdout F"), record(Stream::Stdout, false, b"")),
            (format!("{time} stdout P:x:y z"), record(Stream::Stdout, true, b"z")),
            (format!("{time} stdin F x"), None),
            (format!("{time} stdout Q x"), None),
            (format!("{time} stdout"), None),
            ("x stdout F x".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse(bytes.as_bytes()), want, "{bytes}");
        }
        let binary = [time.as_bytes(), b" stdout F \xff\0x"].concat();
        assert_eq!(parse(&binary).expect("any bytes are text").text, b"\xff\0x");
    }

    #[test]
    fn parts_are_joined_for_each_stream_by_itself() {
        let mut joiner = Joiner::default();
        let t = |n: u8| format!("2016-10-06T00:17:0{n}Z");
        assert_eq!(joiner.feed(format!("{} stdout P a", t(1)).as_bytes()), None);
        assert_eq!(joiner.feed(format!("{} stderr P x", t(2)).as_bytes()), None);
        assert_eq!(joiner.feed(format!("{} stdout P b", t(3)).as_bytes()), None);
        let line = |n, stream, text: &[u8]| Line { time: t(n), stream, text: text.to_vec() };
        let whole = joiner.feed(format!("{} stdout F c", t(4)).as_bytes());
        assert_eq!(whole, Some(line(1, Stream::Stdout, b"abc")));
        assert_eq!(joiner.rest().collect::<Vec<_>>(), [line(2, Stream::Stderr, b"x")]);
        assert_eq!(joiner.rest().count(), 0);
        assert_eq!(joiner.feed(b"what?").expect("shown").text, b"what?");
    }

    #[test]
    fn a_line_without_an_end_is_given_out_in_pieces() {
        let mut joiner = Joiner::default();
        let part = [&b"2016-10-06T00:17:09Z stdout P "[..], &vec![b'x'; 1 << 19]].concat();
        assert_eq!(joiner.feed(&part), None);
        assert_eq!(joiner.feed(&part).expect("a piece").text.len(), 1 << 20);
        assert_eq!(joiner.feed(&part), None);
    }

    #[test]
    fn times_sort_by_their_fraction_whatever_its_length() {
        let key = |time: &str| Line { time: time.to_owned(), stream: Stream::Stdout, text: Vec::new() }.key();
        assert!(key("2016-10-06T00:17:09.1Z") > key("2016-10-06T00:17:09.09999Z"));
        assert!(key("2016-10-06T00:17:09Z") < key("2016-10-06T00:17:09.000000001Z"));
        assert!(key("") < key("2016-10-06T00:17:09Z"));
    }
}
