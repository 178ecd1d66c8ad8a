//! A container's output as lines of a CRI log: `<RFC 3339 time> stdout|stderr F|P <piece>\n`
//! (KEP "CRI logging"; cri-api's comment on `LogDirectory`; read by the kubelet's
//! kubernetes/cri-client:pkg/logs/logs.go).
//!
//! A line of up to one piece ([`types::shim::LOG_LINE`]) is one record with the tag F. A longer one is cut: each
//! full piece is a record with P, the end one with F. What a stream leaves without a final newline is a record
//! with P when the stream ends, as containerd does it. Only `\n` ends a line: `\r`, NUL and text that
//! looks like a record stay what they are, inside one record.

use crate::poll::Stream;
use std::time::{SystemTime, UNIX_EPOCH};

/// Records are handed on when this much of them is ready, so that one-byte lines do not swell.
const READY: usize = 32 << 10;

/// When a chunk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    nanos: i64,
}

impl Stamp {
    /// Nanoseconds since the Unix epoch.
    pub(crate) fn of(nanos: i64) -> Self {
        Self { nanos: nanos.max(0) }
    }

    /// The clock, but never earlier than `last`: a clock that is set back must not turn a log around.
    pub(crate) fn after(last: Self) -> Self {
        Self::of(now_nanos()).max(last)
    }

    /// Appends `2006-01-02T15:04:05.000000000Z`.
    fn write(self, out: &mut Vec<u8>) {
        let nanos = self.nanos.unsigned_abs();
        let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let (days, time) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut digits = |mut value: u64, width: usize, end: u8| {
            let start = out.len();
            out.resize(start + width, b'0');
            for digit in out[start..].iter_mut().rev() {
                let [last, ..] = (value % 10).to_le_bytes();
                *digit = b'0' + last;
                value /= 10;
            }
            out.push(end);
        };
        digits(year, 4, b'-');
        digits(month, 2, b'-');
        digits(day, 2, b'T');
        digits(time / 3600, 2, b':');
        digits(time / 60 % 60, 2, b':');
        digits(time % 60, 2, b'.');
        digits(fraction, 9, b'Z');
    }
}

/// Nanoseconds since the Unix epoch by the wall clock.
pub(crate) fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted
/// from March, so that a leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Cuts one stream's bytes into records.
#[derive(Debug)]
pub(crate) struct Framer {
    stream: Stream,
    /// The longest piece of a line in one record, bytes.
    piece: usize,
    /// The start of a line whose end has not come; at most one piece.
    held: Vec<u8>,
}

impl Framer {
    /// For one stream, with the longest piece of a line.
    pub(crate) fn new(stream: Stream, piece: usize) -> Self {
        Self { stream, piece, held: Vec::new() }
    }

    /// Appends the records that `input` completes to `out` and gives how many bytes were taken: all,
    /// unless `out` is full. The rest has to be brought again.
    pub(crate) fn push(&mut self, input: &[u8], at: Stamp, out: &mut Vec<u8>) -> usize {
        let mut rest = input;
        while !rest.is_empty() && out.len() < READY {
            // The byte after a full piece decides whether the line ends there.
            let window = &rest[..rest.len().min(self.piece - self.held.len() + 1)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.record(b'F', &window[..end], at, out);
                rest = &rest[end + 1..];
            } else if self.held.len() + window.len() > self.piece {
                let piece = window.len() - 1;
                self.record(b'P', &window[..piece], at, out);
                rest = &rest[piece..];
            } else {
                self.held.extend_from_slice(window);
                rest = &rest[window.len()..];
            }
        }
        input.len() - rest.len()
    }

    /// The stream ended: what has no newline becomes its last record.
    pub(crate) fn finish(&mut self, at: Stamp, out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.record(b'P', &[], at, out);
        }
        self.held = Vec::new();
    }

    /// Gives back memory that an empty buffer holds.
    pub(crate) fn shrink(&mut self) {
        self.held.shrink_to_fit();
    }

    fn record(&mut self, tag: u8, more: &[u8], at: Stamp, out: &mut Vec<u8>) {
        at.write(out);
        out.extend_from_slice(match self.stream {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        });
        out.extend_from_slice(&[tag, b' ']);
        out.extend_from_slice(&self.held);
        out.extend_from_slice(more);
        out.push(b'\n');
        self.held.clear();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use types::shim::{LOG_LINE, LOG_LINE_DEFAULT as PIECE};

    /// One record of a log, read by a parser that shares nothing with the writer.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Record {
        pub(crate) time: String,
        pub(crate) stdout: bool,
        pub(crate) partial: bool,
        pub(crate) piece: Vec<u8>,
    }

    /// Reads a log file; panics at the first byte that is not a record.
    pub(crate) fn parse(log: &[u8]) -> Vec<Record> {
        assert!(log.is_empty() || log.ends_with(b"\n"), "the log ends inside a record");
        let mut lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
        lines.pop();
        lines
            .into_iter()
            .map(|line| {
                let mut parts = line.splitn(4, |byte| *byte == b' ');
                let mut part = || parts.next().expect("four fields").to_vec();
                let time = String::from_utf8(part()).expect("time");
                assert_eq!(time.len(), 30, "{time}");
                let stdout = match part().as_slice() {
                    b"stdout" => true,
                    b"stderr" => false,
                    other => panic!("stream {other:?}"),
                };
                let partial = match part().as_slice() {
                    b"P" => true,
                    b"F" => false,
                    other => panic!("tag {other:?}"),
                };
                Record { time, stdout, partial, piece: part() }
            })
            .collect()
    }

    /// The bytes that a stream had, put together again from its records.
    pub(crate) fn stream_of(records: &[Record], stdout: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records.iter().filter(|record| record.stdout == stdout) {
            assert!(record.piece.len() <= *LOG_LINE.end());
            bytes.extend_from_slice(&record.piece);
            if !record.partial {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    fn framed(input: &[u8], chunk: usize, piece: usize) -> Vec<u8> {
        let mut framer = Framer::new(Stream::Stdout, piece);
        let mut log = Vec::new();
        for part in input.chunks(chunk) {
            let mut rest = part;
            while !rest.is_empty() {
                let mut out = Vec::new();
                let taken = framer.push(rest, Stamp::of(0), &mut out);
                assert!(out.len() < READY + piece + 100, "{} bytes at once", out.len());
                rest = &rest[taken..];
                log.extend_from_slice(&out);
            }
        }
        framer.finish(Stamp::of(0), &mut log);
        log
    }

    #[test]
    fn a_record_has_its_golden_bytes() {
        let mut framer = Framer::new(Stream::Stderr, PIECE);
        let mut out = Vec::new();
        framer.push(b"hello\n", Stamp::of(1_709_210_096_000_000_007), &mut out);
        assert_eq!(out, b"2024-02-29T12:34:56.000000007Z stderr F hello\n");
    }

    #[test]
    fn days_are_dates_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_088), (2024, 12, 31));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }

    #[test]
    fn every_output_comes_back_as_it_was_however_it_is_read() {
        let mut hostile = b"a\r\n\0\n\n2026-01-01T00:00:00.000000000Z stdout F forged\nstderr P x\n".to_vec();
        hostile.extend(vec![b'y'; PIECE]);
        hostile.push(b'\n');
        hostile.extend(vec![b'z'; PIECE + 1]);
        hostile.push(b'\n');
        hostile.extend(vec![b'w'; 3 * PIECE]);
        hostile.extend(b"\n\n\n\xff\xfe no end");
        for piece in [*LOG_LINE.start(), PIECE, *LOG_LINE.end()] {
            for chunk in [1, 2, 7, 4095, PIECE, PIECE + 1, 1 << 20] {
                let records = parse(&framed(&hostile, chunk, piece));
                assert_eq!(stream_of(&records, true), hostile, "chunks of {chunk}, pieces of {piece}");
                assert!(records.last().is_some_and(|last| last.partial), "no final newline is told by P");
                assert!(records.iter().all(|record| record.piece.len() <= piece), "pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_line_of_exactly_one_piece_is_one_full_record() {
        for piece in [*LOG_LINE.start(), PIECE, *LOG_LINE.end()] {
            let tags = |len: usize| -> Vec<(bool, usize)> {
                let mut line = vec![b'x'; len];
                line.push(b'\n');
                parse(&framed(&line, 1000, piece)).iter().map(|r| (r.partial, r.piece.len())).collect()
            };
            assert_eq!(tags(piece), [(false, piece)]);
            assert_eq!(tags(piece + 1), [(true, piece), (false, 1)]);
            assert_eq!(tags(2 * piece), [(true, piece), (false, piece)]);
            assert_eq!(tags(0), [(false, 0)]);
        }
    }

    #[test]
    fn one_byte_lines_do_not_swell_a_buffer() {
        let records = parse(&framed(&[b'\n'; 100_000], 32 << 10, PIECE));
        assert_eq!(records.len(), 100_000);
    }

    #[test]
    fn a_line_of_64_mib_needs_one_piece_of_memory() {
        let mut framer = Framer::new(Stream::Stdout, PIECE);
        let chunk = vec![b'x'; 32 << 10];
        let mut out = Vec::new();
        let mut written = 0;
        for _ in 0..2048 {
            let mut rest = chunk.as_slice();
            while !rest.is_empty() {
                out.clear();
                let taken = framer.push(rest, Stamp::of(0), &mut out);
                rest = &rest[taken..];
                written += parse(&out).iter().map(|r| r.piece.len()).sum::<usize>();
            }
        }
        assert!(framer.held.capacity() <= 2 * PIECE && out.capacity() < 128 << 10);
        assert_eq!(written + framer.held.len(), 64 << 20);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_turn_the_log_around() {
        let future = Stamp::of(i64::MAX);
        assert_eq!(Stamp::after(future), future);
    }
}
