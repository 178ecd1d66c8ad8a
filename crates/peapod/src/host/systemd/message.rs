//! Messages of D-Bus, as far as systemd's manager needs them: method calls out; answers, errors and
//! signals in. D-Bus specification, "Marshaling" and "Message Protocol".
//!
//! Both ends are on one machine, so all numbers are in its own byte order.

use super::error::BusError;
use std::io::Read;

/// Largest message that is taken; systemd's answers are some hundred bytes.
const LARGEST: usize = 1 << 20;
/// Bytes before the header's fields.
const FIXED: usize = 16;
/// The flag of this machine's byte order.
const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

/// A method of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
    /// Of its arguments.
    pub(super) signature: &'static str,
}

/// A value within a variant.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    Numbers(Vec<u32>),
}

/// Bytes under the rules of alignment. A body begins at a multiple of 8, so it can be written alone.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_ne_bytes());
    }

    /// Lengths here are of our own making, far below 4 GiB.
    fn length(&mut self, value: usize) {
        self.number(u32::try_from(value).unwrap_or(u32::MAX));
    }

    pub(super) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array whose elements are aligned to `to`.
    pub(super) fn array(&mut self, to: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len() - 4;
        self.align(to);
        let from = self.0.len();
        elements(self);
        let length = u32::try_from(self.0.len() - from).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Flag(flag) => {
                self.signature("b");
                self.number(u32::from(*flag));
            }
            Value::Number(number) => {
                self.signature("t");
                self.align(8);
                self.0.extend(number.to_ne_bytes());
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |w| numbers.iter().for_each(|number| w.number(*number)));
            }
        }
    }

    /// `a(sv)`: properties of a unit.
    pub(super) fn properties(&mut self, properties: &[(&str, Value)]) {
        self.array(8, |w| {
            for (name, value) in properties {
                w.align(8);
                w.text(name);
                w.variant(value);
            }
        });
    }

    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
        if kind == "g" { self.signature(text) } else { self.text(text) }
    }
}

/// The bytes of a call; `serial` is not 0.
pub(super) fn call(serial: u32, method: Method, body: &Writer) -> Vec<u8> {
    let mut w = Writer(vec![ENDIAN, CALL, 0, 1]);
    w.length(body.0.len());
    w.number(serial);
    w.array(8, |w| {
        w.field(1, "o", method.path);
        w.field(2, "s", method.interface);
        w.field(3, "s", method.member);
        w.field(6, "s", method.destination);
        if !method.signature.is_empty() {
            w.field(8, "g", method.signature);
        }
    });
    w.align(8);
    w.0.extend(&body.0);
    w.0
}

const CALL: u8 = 1;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Error,
    Signal,
    /// A call to us, or what a later version of D-Bus has: of no meaning here.
    Other,
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The call that it answers.
    pub(super) reply_to: Option<u32>,
    pub(super) sender: String,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) signature: String,
    body: Vec<u8>,
}

impl Message {
    /// The arguments, which must be numbers (`u`) and texts (`s`, `o`); numbers as their digits.
    pub(super) fn arguments(&self) -> Result<Vec<String>, BusError> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        self.signature
            .bytes()
            .map(|kind| match kind {
                b's' | b'o' => reader.text(),
                b'u' => reader.number().map(|number| number.to_string()),
                _ => Err(BusError::Protocol("an argument of an unknown type")),
            })
            .collect()
    }
}

/// Reads one message.
pub(super) fn read(from: &mut impl Read) -> Result<Message, BusError> {
    let mut fixed = [0; FIXED];
    from.read_exact(&mut fixed)?;
    let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    if fixed[0] != ENDIAN || fixed[3] != 1 {
        return Err(BusError::Protocol("a message of another byte order or version"));
    }
    let length = |at: usize| {
        usize::try_from(word(at))
            .ok()
            .filter(|length| *length <= LARGEST)
            .ok_or(BusError::Protocol("a message that is too long"))
    };
    let (body, fields) = (length(4)?, length(12)?);
    let mut header = vec![0; fields.next_multiple_of(8)];
    from.read_exact(&mut header)?;
    let mut message = Message {
        kind: match fixed[1] {
            2 => Kind::Answer,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        },
        reply_to: None,
        sender: String::new(),
        member: String::new(),
        error: String::new(),
        signature: String::new(),
        body: vec![0; body],
    };
    from.read_exact(&mut message.body)?;
    message.take_fields(&header[..fields])?;
    Ok(message)
}

impl Message {
    fn take_fields(&mut self, header: &[u8]) -> Result<(), BusError> {
        let mut reader = Reader { bytes: header, at: 0 };
        loop {
            reader.align(8);
            if reader.at >= header.len() {
                return Ok(());
            }
            let code = reader.byte()?;
            match (code, reader.signature()?.as_str()) {
                (3, "s") => self.member = reader.text()?,
                (4, "s") => self.error = reader.text()?,
                (5, "u") => self.reply_to = Some(reader.number()?),
                (7, "s") => self.sender = reader.text()?,
                (8, "g") => self.signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "u") => drop(reader.number()?),
                (_, "g") => drop(reader.signature()?),
                _ => return Err(BusError::Protocol("a header field of an unknown type")),
            }
        }
    }
}

/// Values in bytes, which begin at a multiple of 8 in the message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BusError> {
        let end = self.at.checked_add(count).ok_or(SHORT)?;
        let taken = self.bytes.get(self.at..end).ok_or(SHORT)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u32, BusError> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| SHORT)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, BusError> {
        let length = usize::try_from(self.number()?).map_err(|_| SHORT)?;
        self.ended(length)
    }

    fn signature(&mut self) -> Result<String, BusError> {
        let length = usize::from(self.byte()?);
        self.ended(length)
    }

    /// A text and the NUL behind it.
    fn ended(&mut self, length: usize) -> Result<String, BusError> {
        let text = self.take(length)?.to_vec();
        match (self.byte()?, String::from_utf8(text)) {
            (0, Ok(text)) => Ok(text),
            (_, _) => Err(BusError::Protocol("a text that is none")),
        }
    }
}

const SHORT: BusError = BusError::Protocol("a message that is cut short");

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer, an error or a signal as systemd or the bus sends it.
    pub(in super::super) fn sent(kind: u8, fields: &[(u8, &str, &str)], body: &[&str]) -> Vec<u8> {
        let mut texts = Writer::default();
        let mut signature = String::new();
        for argument in body {
            match argument.parse() {
                Ok(number) => {
                    texts.number(number);
                    signature.push('u');
                }
                Err(_) => {
                    texts.text(argument);
                    signature.push(if argument.starts_with('/') { 'o' } else { 's' });
                }
            }
        }
        let mut w = Writer(vec![ENDIAN, kind, 1, 1]);
        w.length(texts.0.len());
        w.number(77);
        w.array(8, |w| {
            for (code, kind, text) in fields {
                if *kind == "u" {
                    w.align(8);
                    w.0.push(*code);
                    w.signature("u");
                    w.number(text.parse().expect("a number"));
                } else {
                    w.field(*code, kind, text);
                }
            }
            w.field(8, "g", &signature);
        });
        w.align(8);
        w.0.extend(texts.0);
        w.0
    }

    const METHOD: Method =
        Method { destination: "org.x", path: "/x", interface: "org.x.Y", member: "Do", signature: "sa(sv)" };

    #[test]
    fn a_call_is_written_as_the_specification_says() {
        if cfg!(target_endian = "big") {
            return;
        }
        let mut body = Writer::default();
        body.text("ab");
        body.properties(&[
            ("P", Value::Numbers(vec![7])),
            ("F", Value::Flag(true)),
            ("N", Value::Number(u64::MAX)),
            ("T", Value::Text("t".to_owned())),
        ]);
        // Counted by hand, from the specification's alignments.
        let lines: [&[u8]; 12] = [
            b"l\x01\x00\x01\x62\x00\x00\x00\x05\x00\x00\x00\x4c\x00\x00\x00",
            b"\x01\x01o\x00\x02\x00\x00\x00/x\x00\x00\x00\x00\x00\x00",
            b"\x02\x01s\x00\x07\x00\x00\x00org.x.Y\x00",
            b"\x03\x01s\x00\x02\x00\x00\x00Do\x00\x00\x00\x00\x00\x00",
            b"\x06\x01s\x00\x05\x00\x00\x00org.x\x00\x00\x00",
            b"\x08\x01g\x00\x06sa(sv)\x00\x00\x00\x00\x00",
            b"\x02\x00\x00\x00ab\x00\x00\x52\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00P\x00\x02au\x00\x00\x00\x04\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00F\x00\x01b\x00\x00\x00\x00\x01\x00\x00\x00",
            b"\x01\x00\x00\x00N\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\x00\x00\x00T\x00\x01s\x00\x00\x00\x00\x01\x00\x00\x00t\x00",
        ];
        assert_eq!(call(5, METHOD, &body), lines.concat());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = sent(
            4,
            &[(1, "o", "/m"), (2, "s", "i"), (3, "s", "JobRemoved"), (5, "u", "9"), (7, "s", ":1.0")],
            &["12", "/job/12", "a.scope", "done"],
        );
        let message = read(&mut bytes.as_slice()).expect("a message");
        assert_eq!((message.kind, message.reply_to), (Kind::Signal, Some(9)));
        assert_eq!((message.member.as_str(), message.sender.as_str()), ("JobRemoved", ":1.0"));
        assert_eq!(message.arguments().expect("arguments"), ["12", "/job/12", "a.scope", "done"]);
    }

    #[test]
    fn garbage_is_an_error_and_never_more() {
        let whole = sent(2, &[(5, "u", "1"), (7, "s", ":1.0")], &["/job/1"]);
        for end in 0..whole.len() {
            assert!(read(&mut &whole[..end]).is_err(), "cut at {end}");
        }
        // Every byte spoilt in turn: whatever it is taken for, it is taken for something.
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut spoilt = whole.clone();
                spoilt[at] = value;
                let _ = read(&mut spoilt.as_slice()).and_then(|message| message.arguments());
            }
        }
        let mut huge = whole.clone();
        huge[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(matches!(read(&mut huge.as_slice()), Err(BusError::Protocol(_))));
    }
}
