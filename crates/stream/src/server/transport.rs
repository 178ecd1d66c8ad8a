//! What a session's bytes travel on: TCP, or TLS over it.

use bytes::{Buf as _, Bytes};
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use sys::rustix::{
    event::{PollFd, PollFlags, poll},
    net::sockopt,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::server::TlsStream;

/// How often a session is looked after whose client may be gone while nobody reads from it.
const LOOK: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(30) };
/// A client that does not even answer the kernel is gone after a minute or two.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A client's connection.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Sets what sessions need; a socket that cannot have it works all the same.
pub(super) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEP_ALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE / 2);
    let _ = sockopt::set_tcp_keepcnt(stream, 4);
}

/// A look at a connection from outside. A session reads no further while its process does not take its
/// input, and would not learn then that the client has gone. (One whose kernel still holds bytes that do not
/// fit here is found when that gives up and the keep-alive notices, some minutes later.)
pub(super) struct Watch(Option<OwnedFd>);

impl Watch {
    pub(super) fn of(stream: &TcpStream) -> Watch {
        // Without, such a session ends with its process, or after the idle time.
        Watch(stream.as_fd().try_clone_to_owned().ok())
    }

    /// Waits until the client has hung up, for a while already: what it sent before was read by then, if
    /// anybody reads.
    pub(super) async fn hung_up(&self) {
        let mut times = 0;
        while times < 2 {
            sleep(LOOK).await;
            times = if self.is_hung_up() { times + 1 } else { 0 };
        }
    }

    fn is_hung_up(&self) -> bool {
        let Some(fd) = &self.0 else { return false };
        let mut fds = [PollFd::new(fd, PollFlags::RDHUP)];
        let now = sys::rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

/// A connection after its upgrade: first what was read too far.
pub(super) struct Link {
    early: Bytes,
    transport: Transport,
}

impl Link {
    /// None if that is no connection of ours.
    pub(super) fn of(upgraded: Upgraded) -> Option<Link> {
        let Parts { io, read_buf, .. } = upgraded.downcast::<TokioIo<Transport>>().ok()?;
        // Not the buffer itself: that is larger than what is in it.
        Some(Link { early: Bytes::copy_from_slice(&read_buf), transport: io.into_inner() })
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let link = self.get_mut();
        if link.early.is_empty() {
            return Pin::new(&mut link.transport).poll_read(cx, buf);
        }
        let length = link.early.len().min(buf.remaining());
        buf.put_slice(&link.early[..length]);
        link.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
