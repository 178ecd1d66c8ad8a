//! Clients that go at every point: nothing is left of their sessions.

use super::{
    client::{Session, Spdy, V4, request, upgrade},
    *,
};
use crate::session::Channel;
use Channel::{Stderr, Stdin, Stdout};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

const THREE: [Channel; 3] = [Stdin, Stdout, Stderr];

/// As the kernel does for a client that is killed: its descriptors are closed.
fn vanish(spdy: Spdy) {
    spdy.reading.abort();
}

#[tokio::test]
async fn before_and_while_the_streams_are_opened() {
    let rig = Rig::new().await;
    let mut stream = TcpStream::connect(rig.address).await.expect("connect");
    stream.write_all(b"POST /exec").await.expect("write");
    drop(stream);
    let (_, stream) = request(&rig, &upgrade(&rig.exec(ALL, "cat"), V4)).await;
    drop(stream);
    for channels in 0..4 {
        let mut spdy = Spdy::new(&rig, &rig.exec(ALL, "cat"), V4).await;
        for channel in [Channel::Error, Stdin, Stdout].iter().take(channels) {
            spdy.channel(*channel).await;
        }
        vanish(spdy);
    }
    rig.is_quiet().await;
    assert_eq!(rig.local.started(), 0);
}

#[tokio::test]
async fn while_the_process_is_silent_or_talks_or_is_talked_to() {
    let rig = Rig::new().await;
    for script in ["sleep 1000", "exec yes", "cat", "exec yes >&2", "exec >&- 2>&-; sleep 1000"] {
        let session = Session::new(&rig, &rig.exec(ALL, script), V4, &THREE).await;
        while rig.local.alive() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let _ = session.stdin.as_ref().expect("stdin").output.write(&[0; 1000]).await;
        drop((session.stdin, session.stdout, session.stderr, session.error));
        vanish(session.spdy);
        rig.is_quiet().await;
    }
}

#[tokio::test]
async fn while_nobody_reads_what_it_sends() {
    let rig = Rig::new().await;
    let (_, stream) = request(&rig, &upgrade(&rig.exec(ALL, "sleep 1000"), V4)).await;
    // Else its kernel would first wait to get rid of what it has not sent.
    sys::rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger");
    let session = Session::over(Spdy::over(stream), &THREE).await;
    let stdin = session.stdin.as_ref().expect("stdin").output.clone();
    // More than all buffers between here and the process hold.
    let pump = tokio::spawn(async move { while stdin.write(&[0; 65_536]).await.is_ok() {} });
    sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.count.now(), 1);
    pump.abort();
    drop((session.stdin, session.stdout, session.stderr, session.error));
    let _ = pump.await;
    vanish(session.spdy);
    rig.is_quiet().await;
}

#[tokio::test]
async fn while_it_does_not_read_the_output() {
    let rig = Rig::new().await;
    let (_, stream) = request(&rig, &upgrade(&rig.exec(OUTPUT, "exec yes"), V4)).await;
    let mut stream = stream;
    let mut headers = crate::spdy::headers::Writer::default();
    for (id, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
        let block = headers.block(&[("streamtype", kind)]);
        stream.write_all(&crate::spdy::frame::syn_stream(id, &block)).await.expect("write");
    }
    while rig.local.written() < 1 << 20 {
        sleep(Duration::from_millis(1)).await;
    }
    drop(stream);
    rig.is_quiet().await;
}

#[tokio::test]
async fn after_the_end_without_a_goodbye() {
    let rig = Rig::new().await;
    let mut session = Session::new(&rig, &rig.exec(ALL, "exit 3"), V4, &THREE).await;
    assert!(session.error.all().await.1);
    drop((session.stdin, session.stdout, session.stderr, session.error));
    vanish(session.spdy);
    rig.is_quiet().await;
}
