//! The words that systemd waits for, sd_notify(3): a datagram to the socket in `NOTIFY_SOCKET`.

use std::os::{
    linux::net::SocketAddrExt as _,
    unix::net::{SocketAddr, UnixDatagram},
};

/// Says `READY=1`, `STOPPING=1`, ... if somebody listens; a lost word is no trouble of the daemon's.
pub(crate) fn tell(words: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&path, words) {
        tracing::warn!(%error, words, "cannot tell the service manager");
    }
}

fn send(path: &std::ffi::OsStr, words: &str) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_arrives_at_a_path_and_at_an_abstract_name() {
        let name = format!("peapod-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let file = UnixDatagram::bind(&path).expect("bound");
        let hidden = SocketAddr::from_abstract_name(&name).expect("a name");
        let hidden = UnixDatagram::bind_addr(&hidden).expect("bound");
        for (socket, to) in [(&file, path.clone().into_os_string()), (&hidden, format!("@{name}").into())] {
            send(&to, "READY=1").expect("sent");
            let mut got = [0; 16];
            let n = socket.recv(&mut got).expect("received");
            assert_eq!(&got[..n], b"READY=1");
        }
        std::fs::remove_file(path).expect("removed");
    }
}
