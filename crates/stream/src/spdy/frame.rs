//! SPDY/3.1 frames, to and from bytes; nothing here reads or writes.
//!
//! ```text
//! control: 1 | version 15 | type 16     data: 0 | stream 31
//!          flags 8 | length 24                flags 8 | length 24
//! ```

/// Bytes of a frame's head.
pub const HEAD: usize = 8;
/// Longest control frame that is taken; the draft asks for at least 8 KiB.
pub const CONTROL_MAX: usize = 16 << 10;
/// Longest data frame there is: 24 bits.
pub const DATA_MAX: usize = (1 << 24) - 1;

const CONTROL: u16 = 1 << 15;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const ID: u32 = u32::MAX >> 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// The first eight bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// So many bytes of a stream follow.
    Data {
        /// Not zero.
        stream: u32,
        /// They are its last.
        fin: bool,
        /// Up to [`DATA_MAX`].
        length: usize,
    },
    /// The rest of a control frame follows: up to [`CONTROL_MAX`] bytes for [`parse`].
    Control {
        /// Its type.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// Bytes that follow.
        length: usize,
    },
}

/// A control frame. Header blocks are as they came: see [`super::headers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// Opens a stream.
    SynStream {
        /// Not zero.
        stream: u32,
        /// The opener sends nothing on it.
        fin: bool,
        /// Compressed headers.
        block: &'a [u8],
    },
    /// Takes a stream.
    SynReply {
        /// Not zero.
        stream: u32,
        /// The taker sends nothing on it.
        fin: bool,
        /// Compressed headers.
        block: &'a [u8],
    },
    /// Ends a stream at once.
    RstStream {
        /// Not zero.
        stream: u32,
        /// Not zero; see [`Status`].
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Not zero.
        stream: u32,
        /// The sender sends nothing more on it.
        fin: bool,
        /// Compressed headers.
        block: &'a [u8],
    },
    /// To be echoed by who did not begin it.
    Ping(u32),
    /// No new streams are taken.
    GoAway {
        /// The last stream that was.
        last: u32,
        /// Why; zero is a normal end.
        status: u32,
    },
    /// Settings, window updates and types of no known meaning: to be ignored.
    Ignored,
}

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// The peer did what it must not.
    Protocol = 1,
    /// It is not wanted.
    Refused = 3,
    /// It is not needed any more.
    Cancel = 5,
}

/// What is wrong with a frame; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version than 3.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// A control frame above [`CONTROL_MAX`].
    #[error("a control frame of type {kind} with {length} bytes, more than {CONTROL_MAX}")]
    Long {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// The length is not that of its type.
    #[error("a control frame of type {kind} with {length} bytes")]
    Length {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A field that must not be zero.
    #[error("a frame of type {0} with a zero where none may be")]
    Zero(u16),
    /// Data for no stream.
    #[error("data for stream 0")]
    DataForNone,
}

/// Reads the head of a frame.
///
/// # Errors
/// [`FrameError`]: also for a control frame that is longer than any that is taken.
pub fn head(bytes: [u8; HEAD]) -> Result<Head, FrameError> {
    let [a, b, c, d, flags, e, f, g] = bytes;
    let word = u16::from_be_bytes([a, b]);
    // 24 bits fit everywhere that this is built for.
    let length = u32::from_be_bytes([0, e, f, g]) as usize;
    if word & CONTROL == 0 {
        let stream = u32::from_be_bytes([a, b, c, d]);
        if stream == 0 {
            return Err(FrameError::DataForNone);
        }
        return Ok(Head::Data { stream, fin: flags & FIN != 0, length });
    }
    let (version, kind) = (word & !CONTROL, u16::from_be_bytes([c, d]));
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if length > CONTROL_MAX {
        return Err(FrameError::Long { kind, length });
    }
    Ok(Head::Control { kind, flags, length })
}

/// Reads what follows the head of a control frame.
///
/// # Errors
/// [`FrameError`].
pub fn parse(kind: u16, flags: u8, body: &[u8]) -> Result<Control<'_>, FrameError> {
    let fin = flags & FIN != 0;
    let wrong = FrameError::Length { kind, length: body.len() };
    let not_zero = |number: u32| if number == 0 { Err(FrameError::Zero(kind)) } else { Ok(number) };
    match kind {
        SYN_STREAM => {
            // The associated stream, priority and slot mean nothing here.
            let (head, block) = body.split_first_chunk::<10>().ok_or(wrong)?;
            let stream = not_zero(word(head, 0) & ID)?;
            Ok(Control::SynStream { stream, fin, block })
        }
        SYN_REPLY | HEADERS => {
            let (head, block) = body.split_first_chunk::<4>().ok_or(wrong)?;
            let stream = not_zero(word(head, 0) & ID)?;
            Ok(if kind == SYN_REPLY {
                Control::SynReply { stream, fin, block }
            } else {
                Control::Headers { stream, fin, block }
            })
        }
        RST_STREAM => {
            let body: &[u8; 8] = body.try_into().map_err(|_| wrong)?;
            let (stream, status) = (not_zero(word(body, 0) & ID)?, not_zero(word(body, 4))?);
            Ok(Control::RstStream { stream, status })
        }
        PING => {
            let body: &[u8; 4] = body.try_into().map_err(|_| wrong)?;
            not_zero(word(body, 0)).map(Control::Ping)
        }
        GOAWAY => {
            let body: &[u8; 8] = body.try_into().map_err(|_| wrong)?;
            Ok(Control::GoAway { last: word(body, 0) & ID, status: word(body, 4) })
        }
        WINDOW_UPDATE if body.len() != 8 => Err(wrong),
        SETTINGS if body.len() < 4 || body.len() % 8 != 4 => Err(wrong),
        _ => Ok(Control::Ignored),
    }
}

/// Four bytes as a number; what is not there is zero.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.iter().skip(at).take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The head of a data frame; `length` is at most [`DATA_MAX`].
pub(crate) fn data(stream: u32, fin: bool, length: usize) -> [u8; HEAD] {
    let ([a, b, c, d], [e, f, g]) = ((stream & ID).to_be_bytes(), length24(length));
    [a, b, c, d, u8::from(fin), e, f, g]
}

#[cfg(test)]
pub(crate) fn syn_stream(stream: u32, block: &[u8]) -> Vec<u8> {
    // Associated to no stream, priority and slot 0.
    control(SYN_STREAM, &[&stream.to_be_bytes(), &[0; 6], block])
}

pub(crate) fn syn_reply(stream: u32, block: &[u8]) -> Vec<u8> {
    control(SYN_REPLY, &[&stream.to_be_bytes(), block])
}

pub(crate) fn rst_stream(stream: u32, status: Status) -> Vec<u8> {
    control(RST_STREAM, &[&stream.to_be_bytes(), &(status as u32).to_be_bytes()])
}

pub(crate) fn ping(id: u32) -> Vec<u8> {
    control(PING, &[&id.to_be_bytes()])
}

/// With `normal` false: because of a protocol error.
pub(crate) fn goaway(last: u32, normal: bool) -> Vec<u8> {
    control(GOAWAY, &[&last.to_be_bytes(), &u32::from(!normal).to_be_bytes()])
}

fn control(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(HEAD + length);
    frame.extend((CONTROL | VERSION).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.push(0);
    frame.extend(length24(length));
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}

fn length24(length: usize) -> [u8; 3] {
    let bytes = length.to_be_bytes();
    let [.., e, f, g] = bytes;
    [e, f, g]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a whole control frame.
    fn whole(bytes: &[u8]) -> Result<Control<'_>, FrameError> {
        let (first, body) = bytes.split_first_chunk::<HEAD>().expect("a head");
        match head(*first)? {
            Head::Control { kind, flags, length } => {
                assert_eq!(length, body.len());
                parse(kind, flags, body)
            }
            Head::Data { .. } => panic!("data"),
        }
    }

    #[test]
    fn frames_have_the_bytes_of_the_draft() {
        assert_eq!(data(5, true, 0x01_02_03), [0, 0, 0, 5, 1, 1, 2, 3]);
        assert_eq!(rst_stream(7, Status::Cancel), [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 0, 5]);
        assert_eq!(ping(0x0102_0304), [0x80, 3, 0, 6, 0, 0, 0, 4, 1, 2, 3, 4]);
        assert_eq!(goaway(9, true), [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0]);
        assert_eq!(goaway(9, false)[15], 1);
        assert_eq!(syn_reply(3, b"xy"), [0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 3, b'x', b'y']);
        assert_eq!(
            syn_stream(3, b"xy"),
            [0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, b'x', b'y']
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(head(data(5, true, DATA_MAX)), Ok(Head::Data { stream: 5, fin: true, length: DATA_MAX }));
        assert_eq!(
            whole(&syn_stream(1, b"z")),
            Ok(Control::SynStream { stream: 1, fin: false, block: b"z" })
        );
        assert_eq!(whole(&syn_reply(1, b"z")), Ok(Control::SynReply { stream: 1, fin: false, block: b"z" }));
        assert_eq!(whole(&rst_stream(2, Status::Refused)), Ok(Control::RstStream { stream: 2, status: 3 }));
        assert_eq!(whole(&ping(77)), Ok(Control::Ping(77)));
        assert_eq!(whole(&goaway(4, false)), Ok(Control::GoAway { last: 4, status: 1 }));
        let mut last = syn_stream(1, b"");
        last[4] = FIN;
        assert_eq!(whole(&last), Ok(Control::SynStream { stream: 1, fin: true, block: b"" }));
        let headers = control(HEADERS, &[&9_u32.to_be_bytes(), b"z"]);
        assert_eq!(whole(&headers), Ok(Control::Headers { stream: 9, fin: false, block: b"z" }));
    }

    #[test]
    fn settings_windows_and_unknown_types_are_ignored() {
        for frame in [
            control(SETTINGS, &[&[0; 4]]),
            control(SETTINGS, &[&[1; 12]]),
            control(WINDOW_UPDATE, &[&[0xff; 8]]),
            control(10, &[b"credential"]),
            control(0xffff, &[]),
        ] {
            assert_eq!(whole(&frame), Ok(Control::Ignored));
        }
    }

    #[test]
    fn bad_frames_are_told_by_name() {
        assert_eq!(head([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(FrameError::Version(2)));
        assert_eq!(head([0xff; 8]), Err(FrameError::Version(0x7fff)));
        assert_eq!(
            head([0x80, 3, 0, 8, 0, 0xff, 0xff, 0xff]),
            Err(FrameError::Long { kind: 8, length: DATA_MAX })
        );
        assert_eq!(head([0, 0, 0, 0, 0, 0, 0, 1]), Err(FrameError::DataForNone));
        for (kind, length) in [
            (SYN_STREAM, 9),
            (SYN_REPLY, 3),
            (HEADERS, 0),
            (RST_STREAM, 7),
            (RST_STREAM, 9),
            (PING, 5),
            (GOAWAY, 4),
            (SETTINGS, 8),
            (WINDOW_UPDATE, 9),
        ] {
            assert_eq!(parse(kind, 0, &vec![1; length]), Err(FrameError::Length { kind, length }));
        }
        for (kind, length) in [(SYN_STREAM, 10), (SYN_REPLY, 4), (HEADERS, 4), (RST_STREAM, 8), (PING, 4)] {
            assert_eq!(parse(kind, 0, &vec![0; length]), Err(FrameError::Zero(kind)));
        }
        assert_eq!(parse(RST_STREAM, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), Err(FrameError::Zero(RST_STREAM)));
    }
}
