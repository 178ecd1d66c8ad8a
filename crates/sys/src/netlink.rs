//! Netlink sockets: open, send, receive whole datagrams; netlink(7).

use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, send, socket_with, sockopt,
    },
};
use std::time::Duration;

/// What a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    /// Links, addresses, routes: rtnetlink(7).
    Route,
    /// nf_tables and conntrack.
    Netfilter,
}

/// A netlink socket of the network namespace in which the calling thread was when it opened it.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens, binds to an address of the kernel's choice, asks for error texts
    /// (`NETLINK_EXT_ACK`), errors without an echo of the request (`NETLINK_CAP_ACK`) and dumps that
    /// keep to their filter (`NETLINK_GET_STRICT_CHK`). A receive that takes longer than `patience`
    /// fails with EAGAIN.
    ///
    /// # Errors
    /// Of socket(2), bind(2), setsockopt(2).
    pub fn open(subsystem: Subsystem, patience: Duration) -> Result<Self, Errno> {
        let protocol: Option<Protocol> = match subsystem {
            Subsystem::Route => None, // NETLINK_ROUTE is 0
            Subsystem::Netfilter => Some(netlink::NETFILTER),
        };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(patience))?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            switch_on(fd.as_fd(), option)?;
        }
        Ok(Self(fd))
    }

    /// Sends one datagram of one or more messages to the kernel.
    ///
    /// # Errors
    /// Of send(2); `MSGSIZE` when not all of it was taken.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        let sent = rustix::io::retry_on_intr(|| send(&self.0, bytes, SendFlags::empty()))?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE) }
    }

    /// Receives one datagram into `buffer` and says how long it is.
    ///
    /// # Errors
    /// Of recv(2); `MSGSIZE` when the buffer is too small for it, EAGAIN when nothing comes in time.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let room = buffer.len();
        let (_, length) = rustix::io::retry_on_intr(|| recv(&self.0, &mut *buffer, RecvFlags::TRUNC))?;
        if length > room { Err(Errno::MSGSIZE) } else { Ok(length) }
    }
}

/// setsockopt(2) at level `SOL_NETLINK` with the value 1.
fn switch_on(socket: BorrowedFd<'_>, option: libc::c_int) -> Result<(), Errno> {
    let one: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of `one`, which lives across the call.
    let returned = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&one).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("4 fits"),
        )
    };
    crate::check(returned.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_the_loopback_link_is_answered() {
        let socket = Socket::open(Subsystem::Route, Duration::from_secs(10)).expect("open");
        // nlmsghdr {len 32, RTM_GETLINK, REQUEST, seq 7, pid 0} + ifinfomsg {index 1}
        let mut request = Vec::new();
        request.extend_from_slice(&32_u32.to_ne_bytes());
        request.extend_from_slice(&18_u16.to_ne_bytes());
        request.extend_from_slice(&1_u16.to_ne_bytes());
        request.extend_from_slice(&7_u32.to_ne_bytes());
        request.extend_from_slice(&0_u32.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(&1_i32.to_ne_bytes());
        request.extend_from_slice(&[0; 8]);
        socket.send(&request).expect("send");
        let mut answer = vec![0; 65536];
        let length = socket.receive(&mut answer).expect("receive");
        assert_eq!(answer[4..6], 16_u16.to_ne_bytes(), "RTM_NEWLINK");
        assert!(answer[..length].windows(3).any(|w| w == b"lo\0"));
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error() {
        let socket = Socket::open(Subsystem::Route, Duration::from_secs(10)).expect("open");
        let mut request = vec![0; 32];
        request[..4].copy_from_slice(&32_u32.to_ne_bytes());
        request[4..6].copy_from_slice(&18_u16.to_ne_bytes());
        request[6..8].copy_from_slice(&1_u16.to_ne_bytes());
        request[20..24].copy_from_slice(&1_i32.to_ne_bytes());
        socket.send(&request).expect("send");
        assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::MSGSIZE));
    }
}
