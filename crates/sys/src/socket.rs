//! Messages with descriptors over unix sockets, unix(7) SCM_RIGHTS.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use std::mem::MaybeUninit;

/// The most descriptors in one message here.
const MOST_FDS: usize = 8;

/// Two connected sockets that keep message borders, close-on-exec.
///
/// # Errors
/// Of socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one message with descriptors (at most 8). A receiver that is gone is EPIPE, not a signal.
///
/// # Errors
/// Of sendmsg(2); EINVAL for more descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let slices = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &slices, &mut control, SendFlags::NOSIGNAL))
        .map(drop)
}

/// Takes one message: its bytes into `bytes`, its descriptors (close-on-exec) returned. 0 bytes = the
/// other end is closed.
///
/// # Errors
/// Of recvmsg(2); MSGSIZE when the message or its descriptors did not fit.
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(bytes)];
    let got = loop {
        match rustix::net::recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let cut = rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC;
    if got.flags.intersects(cut) { Err(Errno::MSGSIZE) } else { Ok((got.bytes, fds)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_descriptor_travels_with_its_message() {
        let (here, there) = pair().expect("pair");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        send(&here, b"take", &[writer.as_fd()]).expect("send");
        drop(writer);
        let mut bytes = [0; 16];
        let (got, fds) = receive(&there, &mut bytes).expect("receive");
        assert_eq!((&bytes[..got], fds.len()), (&b"take"[..], 1));
        for fd in fds {
            std::fs::File::from(fd).write_all(b"x").expect("write");
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
    }

    #[test]
    fn a_closed_end_reads_as_nothing_and_a_cut_message_is_an_error() {
        let (here, there) = pair().expect("pair");
        send(&here, &[1; 9], &[]).expect("send");
        assert_eq!(receive(&there, &mut [0; 4]).map(|(got, _)| got), Err(Errno::MSGSIZE));
        drop(here);
        assert_eq!(receive(&there, &mut [0; 4]).map(|(got, _)| got), Ok(0));
    }
}
