//! A connection to a port of a pod. The socket is made in the pod's network namespace, on a thread that
//! ends with it, and belongs to that namespace from then on (network_namespaces(7)): whoever connects it
//! need not be there.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use stream::BackendError;
use sys::rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::LinkNameSpaceType,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
};

/// Bytes: it makes two sockets and is done.
const STACK: usize = 128 << 10;
/// A port of loopback answers at once, if at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to `localhost:port` by IPv4, then by IPv6: most servers have the first, and some only one.
pub(super) async fn localhost(netns: Option<&Path>, port: u16) -> Result<TcpStream, BackendError> {
    let made = match netns {
        None => sockets(),
        Some(netns) => sockets_in(netns.to_owned()).await,
    };
    let Sockets { v4, v6 } = made.map_err(|e| {
        let gone = e.kind() == io::ErrorKind::NotFound;
        BackendError(match gone {
            true => "the pod has no network any more".to_owned(),
            false => format!("cannot enter the pod's network: {e}"),
        })
    })?;
    let first = match connect(v4, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let second = match v6 {
        Some(v6) => match connect(v6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error.to_string(),
        },
        None => "not known here".to_owned(),
    };
    let text = format!("cannot connect to localhost:{port} in the pod: {first} (by IPv6: {second})");
    Err(BackendError(text))
}

struct Sockets {
    v4: OwnedFd,
    /// None where the kernel has no IPv6.
    v6: Option<OwnedFd>,
}

fn sockets() -> io::Result<Sockets> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = |family| socket_with(family, SocketType::STREAM, flags, None);
    Ok(Sockets { v4: make(AddressFamily::INET)?, v6: make(AddressFamily::INET6).ok() })
}

async fn sockets_in(netns: PathBuf) -> io::Result<Sockets> {
    let (done, made) = oneshot::channel();
    let work = move || {
        let sockets = File::open(&netns).and_then(|namespace| {
            sys::namespace::join(&namespace, LinkNameSpaceType::Network)?;
            sockets()
        });
        // The client may have gone.
        let _ = done.send(sockets);
    };
    std::thread::Builder::new().name("dial".to_owned()).stack_size(STACK).spawn(work)?;
    made.await.map_err(|_| io::Error::other("the thread that makes sockets ended without an answer"))?
}

async fn connect(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let connected = tokio::time::timeout(PATIENCE, socket.connect(to)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    async fn answers(listener: TcpListener, netns: Option<&Path>) -> bool {
        let port = listener.local_addr().expect("address").port();
        let (mut near, far) = (localhost(netns, port).await.expect("connect"), listener.accept());
        let (mut far, _) = far.await.expect("accept");
        far.write_all(b"x").await.expect("write");
        near.read_u8().await.expect("read") == b'x'
    }

    #[tokio::test]
    async fn ipv4_is_tried_and_then_ipv6() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            assert!(answers(TcpListener::bind(address).await.expect("bind"), None).await, "{address}");
        }
    }

    #[tokio::test]
    async fn a_port_of_the_node_is_not_reached_from_a_pod() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let (told, pod) = oneshot::channel();
        let (_live, ended) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            sys::namespace::unshare(sys::rustix::thread::UnshareFlags::NEWNET).expect("root");
            let path = format!("/proc/self/task/{}/ns/net", sys::rustix::thread::gettid().as_raw_nonzero());
            told.send(PathBuf::from(path)).expect("asked");
            // Holds the namespace until the test is over.
            let _ = ended.recv();
        });
        let pod = pod.await.expect("a namespace");
        let error = localhost(Some(&pod), port).await.expect_err("not the node's");
        assert!(error.0.contains(&format!("localhost:{port}")), "{error}");
        // And this thread is where it was.
        assert!(answers(listener, None).await);
    }

    #[tokio::test]
    async fn a_pod_that_went_is_told_as_such() {
        let error = localhost(Some(Path::new("/nowhere/net")), 1).await.expect_err("gone");
        assert_eq!(error.0, "the pod has no network any more");
    }
}
