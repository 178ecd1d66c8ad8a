//! The first half of the child: compressed bytes in, hashed and uncompressed chunks out.
//!
//! It runs on a thread of its own, so that inflating and hashing overlap with writing. The buffers go
//! round between the two threads: a first touch of memory is dear on virtual machines.

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use std::{
    io::{self, BufRead, BufReader, Read},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
};
use types::Digest;

const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;
/// 2^27 = 128 MiB: what a decoder must hold at most, RFC 8878 section 3.1.1.1.2 leaves the bound to us.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The receiving end, a buffered reader of the uncompressed bytes.
#[derive(Debug)]
pub(crate) struct Chunks {
    full: Receiver<io::Result<Vec<u8>>>,
    spare: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

/// Reads `source` to its end on the calling thread's behalf: call the returned closure on a thread, it
/// gives the digest of all uncompressed bytes.
pub(crate) fn inflate<R: Read + Send>(source: R) -> (Chunks, impl FnOnce() -> io::Result<Digest> + Send) {
    let (full_to, full) = sync_channel(CHUNKS);
    let (spare, spare_from) = sync_channel(CHUNKS + 2);
    let chunks = Chunks { full, spare, current: Vec::new(), at: 0, ended: false };
    (chunks, move || match pump(source, &full_to, &spare_from) {
        Ok(digest) => Ok(digest),
        Err(error) => {
            let told = io::Error::new(error.kind(), error.to_string());
            // The reader may have given up already; then it has an error of its own.
            let _ = full_to.send(Err(error));
            Err(told)
        }
    })
}

fn pump<R: Read>(
    source: R,
    full: &SyncSender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) -> io::Result<Digest> {
    let mut decoder = decoder(BufReader::with_capacity(CHUNK, source))?;
    let mut hash = Sha256::new();
    loop {
        let mut chunk = match spare.try_recv() {
            Ok(used) => used,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => vec![0; CHUNK],
        };
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match decoder.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        chunk.truncate(filled);
        hash.update(&chunk);
        if filled > 0 && full.send(Ok(chunk)).is_err() {
            return Err(io::Error::other("nobody takes the archive any more"));
        }
        if filled < CHUNK {
            return Ok(Digest::of_sha256(&hash.finalize().into()));
        }
    }
}

/// Tells the compression by the first bytes: media types of real registries are often wrong, and the
/// digest of the uncompressed bytes decides in the end.
fn decoder<'a, R: Read + 'a>(mut source: BufReader<R>) -> io::Result<Box<dyn Read + 'a>> {
    // A pipe may give less than four bytes at first.
    let mut head = Vec::new();
    source.by_ref().take(4).read_to_end(&mut head)?;
    let start = io::Cursor::new(head.clone());
    let whole = start.chain(source);
    match head.as_slice() {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, whole)))),
        // A frame, or a frame to be skipped (RFC 8878 section 3.1.2).
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut zstd = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(CHUNK, whole))?;
            zstd.window_log_max(ZSTD_WINDOW_LOG)?;
            Ok(Box::new(zstd))
        }
        [0xfd, b'7', b'z', b'X'] | [b'B', b'Z', b'h', _] => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "its compression (xz or bzip2) is not supported: only gzip and zstd are",
        )),
        _ => Ok(Box::new(whole)),
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && !self.ended {
            if self.current.capacity() > 0 {
                // Full or gone: then the buffer is simply dropped.
                let _ = self.spare.try_send(std::mem::take(&mut self.current));
            }
            self.at = 0;
            match self.full.recv() {
                Ok(chunk) => self.current = chunk?,
                Err(_) => {
                    self.ended = true;
                    self.current = Vec::new();
                }
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.fill_buf()?.read(buf)?;
        self.consume(got);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn unpacked(bytes: &[u8]) -> io::Result<(Vec<u8>, Digest)> {
        let (mut chunks, pump) = inflate(bytes);
        std::thread::scope(|scope| {
            let pumping = scope.spawn(pump);
            let mut all = Vec::new();
            let read = chunks.read_to_end(&mut all);
            drop(chunks);
            let digest = pumping.join().expect("no panic");
            read?;
            Ok((all, digest?))
        })
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn gzip_zstd_and_plain_bytes_give_the_same_content_and_digest() {
        let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::of_sha256(&Sha256::digest(&content).into());
        let zstd = zstd::stream::encode_all(content.as_slice(), 1).expect("zstd");
        let two_members = [gzip(&content[..1000]), gzip(&content[1000..])].concat();
        let two_frames = [
            zstd::stream::encode_all(&content[..1000], 1).expect("zstd"),
            zstd::stream::encode_all(&content[1000..], 1).expect("zstd"),
        ]
        .concat();
        for bytes in [content.clone(), gzip(&content), zstd, two_members, two_frames] {
            let (all, found) = unpacked(&bytes).expect("good");
            assert!(all == content, "content differs");
            assert_eq!(found, digest);
        }
    }

    #[test]
    fn cut_or_garbled_streams_are_errors() {
        let content = vec![7; 100_000];
        let gz = gzip(&content);
        let zstd = zstd::stream::encode_all(content.as_slice(), 1).expect("zstd");
        let trailing = [gz.clone(), b"garbage".to_vec()].concat();
        let mut wide = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
        wide.extend_from_slice(&[0; 32]);
        let bad: [&[u8]; 6] =
            [&gz[..gz.len() - 1], &zstd[..zstd.len() - 1], &trailing, b"\xfd7zXZ\0", b"BZh91AY", &wide];
        for bytes in bad {
            assert!(unpacked(bytes).is_err(), "{:?}", &bytes[..4]);
        }
    }
}
