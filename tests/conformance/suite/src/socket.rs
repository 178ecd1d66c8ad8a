//! A websocket of the Kubernetes streaming protocol, as far as the cases need it: RFC 6455 by hand, channels of
//! v4.channel.k8s.io.

use crate::story::patience;
use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Nothing takes longer here.
const PATIENCE: u64 = 15;

/// An open connection.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
}

impl Socket {
    /// Opens the URL of an answer.
    ///
    /// # Errors
    /// When the server does not switch to that protocol; its status line.
    pub async fn open(url: &str, protocol: &str) -> Result<Socket> {
        let rest = url.strip_prefix("http://").with_context(|| format!("not plain HTTP: {url}"))?;
        let (host, path) = rest.split_once('/').with_context(|| format!("no path: {url}"))?;
        let mut stream = TcpStream::connect(host).await.with_context(|| host.to_owned())?;
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 16 << 10 {
                bail!("a head without an end");
            }
            let byte = tokio::time::timeout(patience(PATIENCE), stream.read_u8())
                .await
                .context("no head in time")?;
            head.push(byte.context("the head")?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.lines().next().unwrap_or_default();
        if !status.contains(" 101 ") {
            bail!("{status}");
        }
        // Of the key that RFC 6455 itself has as an example.
        if !head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            bail!("the key's answer is wrong: {head}");
        }
        if !head.to_lowercase().contains(&format!("sec-websocket-protocol: {protocol}").to_lowercase()) {
            bail!("another protocol: {head}");
        }
        Ok(Socket { stream })
    }

    /// Sends data on a channel.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let mut payload = vec![channel];
        payload.extend_from_slice(data);
        // Final and binary; masked by zeros.
        let mut frame = vec![0x82];
        match u16::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | u8::try_from(length).unwrap_or(0)),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&payload);
        Ok(self.stream.write_all(&frame).await?)
    }

    /// The next message: its channel and data; none when the server has closed.
    ///
    /// # Errors
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        tokio::time::timeout(patience(PATIENCE), self.message()).await.context("no message in time")?
    }

    async fn message(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let mut whole = Vec::new();
        loop {
            let Ok(first) = self.stream.read_u8().await else { return Ok(None) };
            let second = self.stream.read_u8().await?;
            let length = match second & 0x7f {
                126 => u64::from(self.stream.read_u16().await?),
                127 => self.stream.read_u64().await?,
                short => u64::from(short),
            };
            if length > 32 << 20 {
                bail!("a message of {length} bytes");
            }
            let mut payload = vec![0; usize::try_from(length)?];
            self.stream.read_exact(&mut payload).await?;
            match first & 0x0f {
                8 => return Ok(None),
                9 | 10 => {}
                _data => {
                    whole.extend_from_slice(&payload);
                    if first & 0x80 != 0 && !whole.is_empty() {
                        let data = whole.split_off(1);
                        return Ok(Some((whole[0], data)));
                    }
                }
            }
        }
    }

    /// All that comes until the server closes, each channel apart.
    ///
    /// # Errors
    /// When it does not close in time.
    pub async fn all(&mut self) -> Result<[Vec<u8>; 5]> {
        let mut channels: [Vec<u8>; 5] = Default::default();
        while let Some((channel, data)) = self.next().await? {
            if let Some(kept) = channels.get_mut(usize::from(channel)) {
                kept.extend_from_slice(&data);
            }
        }
        Ok(channels)
    }

    /// What comes on a channel until it has that part.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn until(&mut self, channel: u8, part: &str) -> Result<String> {
        let mut text = String::new();
        while let Some((from, data)) = self.next().await? {
            if from == channel {
                text.push_str(&String::from_utf8_lossy(&data));
            }
            if text.contains(part) {
                return Ok(text);
            }
        }
        bail!("closed without {part:?}; it had {text:?}")
    }
}
