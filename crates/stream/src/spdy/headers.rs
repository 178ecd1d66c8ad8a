//! Header blocks: names and values, in one zlib stream per direction of a connection, which begins with
//! a dictionary that both know.
//!
//! What we send is not compressed: stored blocks are valid in a zlib stream and need no state, where a
//! compressor would hold 256 KiB for a connection's whole life to save a few bytes.

use flate2::{Decompress, FlushDecompress, Status};
use std::sync::OnceLock;

/// Longest block that is taken, inflated. Kubernetes' own have below 200 bytes.
pub const BYTES_MAX: usize = 16 << 10;
/// Most headers that are taken in a block.
pub const PAIRS_MAX: usize = 64;

/// Adler-32 of the dictionary.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;
/// RFC 1950: deflate with a window of 32 KiB; a dictionary follows; checked by being a multiple of 31.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x20];

/// The headers of a stream, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header, by its name in lower case; of several values the first.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.split('\0').next()
    }
}

/// What is wrong with a header block; no later one can be read any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not zlib, or with another dictionary, or at its end.
    #[error("the headers are no zlib stream with SPDY's dictionary")]
    Zlib,
    /// More than [`BYTES_MAX`].
    #[error("the headers have more than {BYTES_MAX} bytes")]
    Bytes,
    /// More than [`PAIRS_MAX`].
    #[error("{0} headers, more than {PAIRS_MAX}")]
    Pairs(u32),
    /// A length points beyond the end, or something is left.
    #[error("the headers' lengths do not fit their block")]
    Lengths,
    /// A name or value that is not text.
    #[error("a header is not UTF-8")]
    Text,
    /// A name that is empty, not in lower case, or there twice.
    #[error("a header's name is empty, not in lower case, or there twice")]
    Name,
}

/// Reads the blocks of one direction of a connection. Holds 48 KiB.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Inflater {
        Inflater(Decompress::new(true))
    }
}

impl Inflater {
    /// The headers in the connection's next block.
    ///
    /// # Errors
    /// [`HeaderError`]; this inflater is of no use then.
    pub fn headers(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        pairs(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let step = self.0.decompress(block, &mut chunk, FlushDecompress::Sync);
            let (read, written) = (self.0.total_in() - read, self.0.total_out() - written);
            let read = usize::try_from(read).map_err(|_| HeaderError::Zlib)?;
            let written = usize::try_from(written).map_err(|_| HeaderError::Zlib)?;
            block = block.get(read..).ok_or(HeaderError::Zlib)?;
            out.extend_from_slice(chunk.get(..written).ok_or(HeaderError::Zlib)?);
            if out.len() > BYTES_MAX {
                return Err(HeaderError::Bytes);
            }
            match step {
                // A chunk that is not full means that nothing more is to be had.
                Ok(Status::Ok | Status::BufError) if block.is_empty() && written < chunk.len() => {
                    return Ok(out);
                }
                Ok(Status::Ok | Status::BufError) if read > 0 || written > 0 => {}
                Ok(Status::Ok | Status::BufError | Status::StreamEnd) => return Err(HeaderError::Zlib),
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ID) => {
                    self.0.set_dictionary(dictionary()).map_err(|_| HeaderError::Zlib)?;
                }
                Err(_) => return Err(HeaderError::Zlib),
            }
        }
    }
}

/// Reads `count, (length, name, length, value)...` with numbers of 32 bits.
fn pairs(mut bytes: &[u8]) -> Result<Headers, HeaderError> {
    let count = number(&mut bytes)?;
    if usize::try_from(count).is_ok_and(|count| count > PAIRS_MAX) {
        return Err(HeaderError::Pairs(count));
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for _ in 0..count {
        let (name, value) = (text(&mut bytes)?, text(&mut bytes)?);
        let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        if name.is_empty() || !is_lower || headers.iter().any(|(known, _)| *known == name) {
            return Err(HeaderError::Name);
        }
        headers.push((name, value));
    }
    if bytes.is_empty() { Ok(Headers(headers)) } else { Err(HeaderError::Lengths) }
}

fn number(bytes: &mut &[u8]) -> Result<u32, HeaderError> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(HeaderError::Lengths)?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*number))
}

fn text(bytes: &mut &[u8]) -> Result<String, HeaderError> {
    let length = usize::try_from(number(bytes)?).map_err(|_| HeaderError::Lengths)?;
    let (text, rest) = bytes.split_at_checked(length).ok_or(HeaderError::Lengths)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Text)
}

/// Writes the blocks of one direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    begun: bool,
}

impl Writer {
    /// The connection's next block; the pairs have fewer than 60 KB together.
    pub(crate) fn block(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut content = length(pairs.len()).to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            content.extend(length(text.len()));
            content.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(content.len() + 16);
        if !self.begun {
            self.begun = true;
            block.extend(ZLIB_HEAD);
            block.extend(DICTIONARY_ID.to_be_bytes());
        }
        // RFC 1951, 3.2.4: not the last block, stored, its length, that inverted.
        let length = u16::try_from(content.len()).expect("headers of ours are short");
        block.push(0);
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(content);
        // An empty one, as a compressor's flush: Go's reader gives nothing out before it (compress/flate).
        block.extend([0, 0, 0, 0xff, 0xff]);
        block
    }
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("headers of ours are short").to_be_bytes()
}

/// The draft's dictionary: names with their lengths, then text.
fn dictionary() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let names =
            DICTIONARY_NAMES.iter().flat_map(|name| length(name.len()).into_iter().chain(name.bytes()));
        names.chain(DICTIONARY_TEXT.bytes()).collect()
    })
}

const DICTIONARY_NAMES: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const DICTIONARY_TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415\
416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,\
text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn deflated(compress: &mut Compress, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(content.len() + 1024);
        compress.compress_vec(content, &mut out, FlushCompress::Sync).expect("deflate");
        out
    }

    fn compressor() -> Compress {
        let mut compress = Compress::new(Compression::best(), true);
        assert_eq!(compress.set_dictionary(dictionary()).ok(), Some(DICTIONARY_ID));
        compress
    }

    fn content(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = Writer { begun: true };
        let mut block = writer.block(pairs);
        block.truncate(block.len() - 5);
        block.split_off(5)
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        assert_eq!(dictionary().len(), 1423);
        // RFC 1950, 8.2.
        let (a, b) = dictionary().iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        assert_eq!(b << 16 | a, DICTIONARY_ID);
    }

    #[test]
    fn blocks_of_a_compressor_are_read_one_after_the_other() {
        let (mut compress, mut inflater) = (compressor(), Inflater::default());
        for stream in ["error", "stdin", "stdout", "stderr", "resize"] {
            let block = deflated(&mut compress, &content(&[("streamtype", stream), ("x", "")]));
            let headers = inflater.headers(&block).expect("headers");
            assert_eq!(headers.get("streamtype"), Some(stream));
            assert_eq!((headers.get("x"), headers.get("y")), (Some(""), None));
        }
    }

    #[test]
    fn what_we_write_is_a_zlib_stream_with_the_dictionary() {
        let (mut writer, mut inflater) = (Writer::default(), Inflater::default());
        let first = writer.block(&[]);
        assert_eq!(first[..6], [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
        assert_eq!(first[6..], [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(inflater.headers(&first), Ok(Headers::default()));
        for port in ["80", "443"] {
            let headers = inflater.headers(&writer.block(&[("port", port)])).expect("headers");
            assert_eq!(headers.get("port"), Some(port));
        }
    }

    #[test]
    fn of_several_values_the_first_is_taken() {
        let headers = pairs(&content(&[("port", "80\x0081")])).expect("headers");
        assert_eq!(headers.get("port"), Some("80"));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_inflated() {
        let zeros = vec![0; 64 << 20];
        let block = deflated(&mut compressor(), &zeros);
        assert!(block.len() < 100_000);
        assert_eq!(Inflater::default().headers(&block), Err(HeaderError::Bytes));
    }

    #[test]
    fn wrong_streams_are_refused() {
        assert_eq!(Inflater::default().headers(b""), Err(HeaderError::Lengths));
        assert_eq!(Inflater::default().headers(b"no zlib"), Err(HeaderError::Zlib));
        let mut plain = Compress::new(Compression::best(), true);
        plain.set_dictionary(b"another dictionary").expect("dictionary");
        let block = deflated(&mut plain, &content(&[]));
        assert_eq!(Inflater::default().headers(&block), Err(HeaderError::Zlib));
        let mut last = Vec::with_capacity(100);
        compressor().compress_vec(&content(&[]), &mut last, FlushCompress::Finish).expect("deflate");
        assert_eq!(Inflater::default().headers(&last), Err(HeaderError::Zlib));
    }

    #[test]
    fn wrong_pairs_are_refused_by_name() {
        let many: Vec<String> = (0..=PAIRS_MAX).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(pairs(&content(&many)), Err(HeaderError::Pairs(65)));
        assert_eq!(pairs(&content(&[("a", ""), ("a", "")])), Err(HeaderError::Name));
        assert_eq!(pairs(&content(&[("A", "")])), Err(HeaderError::Name));
        assert_eq!(pairs(&content(&[("", "")])), Err(HeaderError::Name));
        assert_eq!(pairs(b"\xff\xff\xff\xff"), Err(HeaderError::Pairs(u32::MAX)));
        assert_eq!(pairs(b"\x00\x00\x00\x01\xff\xff\xff\xff"), Err(HeaderError::Lengths));
        assert_eq!(pairs(b"\x00\x00\x00\x01\x00\x00\x00\x01a\x00\x00\x00\x01\xff"), Err(HeaderError::Text));
        assert_eq!(pairs(b"\x00\x00\x00\x00\x00"), Err(HeaderError::Lengths));
        assert_eq!(pairs(b"\x00"), Err(HeaderError::Lengths));
    }
}
