//! Exec and attach.

use super::{
    client::{Session, Spdy, V4},
    *,
};
use crate::session::{Channel, Size};
use Channel::{Resize, Stderr, Stdin, Stdout};
use serde_json::json;
use sha1::{Digest as _, Sha1};

const BOTH: [Channel; 2] = [Stdout, Stderr];

#[tokio::test]
async fn output_and_exit_codes_are_told_in_each_version() {
    let rig = Rig::new().await;
    for (code, last_words) in [(0, None), (7, Some("exit status 7")), (255, Some("exit status 255"))] {
        let path = rig.exec(OUTPUT, &format!("echo out; echo err >&2; exit {code}"));
        let (out, err, word) = Session::new(&rig, &path, V4, &BOTH).await.end().await;
        assert_eq!((&out[..], &err[..]), (&b"out\n"[..], &b"err\n"[..]));
        let status: serde_json::Value = serde_json::from_slice(&word).expect("json");
        match last_words {
            None => assert_eq!(status, json!({ "metadata": {}, "status": "Success" })),
            Some(_) => {
                assert_eq!(status["reason"], "NonZeroExitCode");
                assert_eq!(status["details"]["causes"][0]["message"], code.to_string());
            }
        }
        for version in ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
            let path = rig.exec(OUTPUT, &format!("exit {code}"));
            let (_, _, word) = Session::new(&rig, &path, version, &BOTH).await.end().await;
            let word = String::from_utf8(word).expect("text");
            match last_words {
                None => assert_eq!(word, ""),
                Some(text) => assert!(word.ends_with(text), "{word}"),
            }
        }
    }
    rig.is_quiet().await;
}

#[tokio::test]
async fn a_signal_is_an_exit_code_above_128() {
    let rig = Rig::new().await;
    let path = rig.exec(OUTPUT, "kill -9 $$");
    let status = Session::new(&rig, &path, V4, &BOTH).await.status().await;
    assert_eq!(status["details"]["causes"][0]["message"], "137");
}

#[tokio::test]
async fn what_cannot_start_is_an_internal_error_and_only_then() {
    let rig = Rig::new().await;
    let path = rig.grant(Ticket::Exec(Exec {
        shim: "/s".into(),
        bundle: "/b".into(),
        container: "c".to_owned(),
        command: vec!["/no/such/program".to_owned()],
        streams: OUTPUT,
    }));
    let status = Session::new(&rig, &path, V4, &BOTH).await.status().await;
    assert_eq!(status["reason"], "InternalError");
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.starts_with("Internal error occurred: error executing command in container: No such file"),
        "{message}"
    );
    let ticket = Attach { shim: "/s".into(), container: "gone".to_owned(), streams: OUTPUT };
    let path = rig.grant(Ticket::Attach(ticket));
    let (_, _, word) = Session::new(&rig, &path, "v2.channel.k8s.io", &BOTH).await.end().await;
    assert_eq!(word, b"Internal error occurred: error attaching to container: no container gone");
}

#[tokio::test]
async fn the_process_starts_when_all_streams_are_there() {
    let rig = Rig::new().await;
    let path = rig.exec(ALL, "cat");
    let mut spdy = Spdy::new(&rig, &path, V4).await;
    for channel in [Channel::Error, Stdin, Stdout] {
        spdy.channel(channel).await;
    }
    assert_eq!(rig.local.started(), 0);
    spdy.channel(Stderr).await;
    while rig.local.started() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn streams_that_are_not_expected_are_refused_and_the_session_goes_on() {
    let rig = Rig::new().await;
    let path = rig.exec(OUTPUT, "echo fine");
    let mut spdy = Spdy::new(&rig, &path, V4).await;
    for wrong in ["stdin", "resize", "stdlog", ""] {
        assert!(spdy.open(&[("streamtype", wrong)]).await.is_err(), "{wrong}");
    }
    let mut error = spdy.channel(Channel::Error).await;
    assert!(spdy.open(&[("streamtype", "error")]).await.is_err());
    let mut stdout = spdy.channel(Stdout).await;
    let _stderr = spdy.channel(Stderr).await;
    assert_eq!(stdout.all().await, (b"fine\n".to_vec(), true));
    assert!(error.all().await.0.starts_with(b"{"));
}

#[tokio::test]
async fn a_client_that_does_not_open_its_streams_is_told_so() {
    let settings = Settings { creation: Duration::from_millis(100), ..Settings::default() };
    let rig = Rig::with(settings).await;
    let path = rig.exec(ALL, "cat");
    let status = Session::new(&rig, &path, V4, &BOTH).await.status().await;
    assert_eq!(status["reason"], "InternalError");
    assert!(status["message"].as_str().is_some_and(|text| text.contains("timed out waiting")));
    assert_eq!(rig.local.started(), 0);
    rig.is_quiet().await;
}

#[tokio::test]
async fn closed_input_is_the_end_of_input_and_output_goes_on() {
    let rig = Rig::new().await;
    for path in [rig.exec(ALL, "cat; echo after; exit 3"), rig.attach(ALL)] {
        let session = Session::new(&rig, &path, V4, &[Stdin, Stdout, Stderr]).await;
        let stdin = session.stdin.as_ref().expect("stdin");
        stdin.output.write(b"first ").await.expect("write");
        stdin.output.write(b"last\n").await.expect("write");
        stdin.output.close().await;
        let (out, _, _) = session.end().await;
        assert!(out.starts_with(b"first last\n"));
    }
    assert_eq!(rig.local.inputs_ended(), 2);
}

#[tokio::test]
async fn input_that_nobody_reads_any_more_does_not_hold_the_session() {
    let rig = Rig::new().await;
    let path = rig.exec(ALL, "exec <&-; echo closed; sleep 0.2; exit 4");
    let session = Session::new(&rig, &path, V4, &[Stdin, Stdout, Stderr]).await;
    let stdin = session.stdin.as_ref().expect("stdin").output.clone();
    let pump = tokio::spawn(async move { while stdin.write(&[0; 4096]).await.is_ok() {} });
    assert_eq!(session.status().await["details"]["causes"][0]["message"], "4");
    pump.await.expect("the pump ends");
}

/// Bytes of a size that no buffer has.
const BIG: usize = (48 << 20) + 12_345;

#[tokio::test]
async fn big_transfers_arrive_as_they_were() {
    let rig = Rig::new().await;
    let path = rig.exec(ALL, "tee /dev/stderr");
    let session = Session::new(&rig, &path, V4, &[Stdin, Stdout, Stderr]).await;
    let stdin = session.stdin.as_ref().expect("stdin").output.clone();
    let mut sent = Sha1::new();
    let block: Vec<u8> = (0..1_000_003_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let sending = tokio::spawn(async move {
        let mut left = BIG;
        while left > 0 {
            let part = &block[..left.min(block.len())];
            sent.update(part);
            stdin.write(part).await.expect("write");
            left -= part.len();
        }
        stdin.close().await;
        sent.finalize()
    });
    let (out, err, word) = session.end().await;
    assert!(word.ends_with(b"\"Success\"}"));
    let sent = sending.await.expect("sent");
    assert_eq!((out.len(), err.len()), (BIG, BIG));
    assert_eq!(Sha1::digest(&out), sent);
    assert_eq!(Sha1::digest(&err), sent);
}

#[tokio::test]
async fn a_slow_reader_holds_the_process_up_and_gets_everything() {
    let rig = Rig::new().await;
    let path = rig.exec(OUTPUT, "exec head -c 100000000 /dev/zero");
    let session = Session::new(&rig, &path, V4, &BOTH).await;
    // Until nothing moves any more.
    let (mut before, mut still) = (0, 0);
    while still < 10 {
        sleep(Duration::from_millis(20)).await;
        let now = rig.local.written();
        still = if now == before && now > 0 { still + 1 } else { 0 };
        before = now;
    }
    assert!(before < 32 << 20, "{before} bytes are somewhere");
    let (out, _, word) = session.end().await;
    assert_eq!(out.len(), 100_000_000);
    assert!(word.ends_with(b"\"Success\"}"));
}

#[tokio::test]
async fn sizes_reach_the_terminal_and_floods_do_not() {
    let rig = Rig::new().await;
    let path = rig.exec(TERMINAL, "read line; echo $line");
    let session = Session::new(&rig, &path, V4, &[Stdin, Stdout, Resize]).await;
    let (stdin, resize) = (session.stdin.as_ref(), session.resize.as_ref());
    let (stdin, resize) = (stdin.expect("stdin"), resize.expect("resize"));
    let mut flood = br#"{"Width":0,"Height":24}{"Width":80,"Height":0}"#.to_vec();
    for width in 1..=9999 {
        flood.extend(format!("{{\"Width\":{width},\"Height\":24}}\n").bytes());
    }
    resize.output.write(&flood).await.expect("write");
    let last = Size { width: 9999, height: 24 };
    while rig.local.sizes().last() != Some(&last) {
        sleep(Duration::from_millis(1)).await;
    }
    let sizes = rig.local.sizes();
    assert!(sizes.len() < 5000, "{} of 9999 sizes were set", sizes.len());
    assert!(sizes.iter().all(|size| size.width > 0 && size.height > 0));
    resize.output.write(b"no json at all {{{").await.expect("write");
    stdin.output.write(b"still here\n").await.expect("write");
    let (out, _, _) = session.end().await;
    assert_eq!(out, b"still here\n");
}

#[tokio::test]
async fn versions_without_resizing_need_no_stream_for_it() {
    let rig = Rig::new().await;
    for version in ["v2.channel.k8s.io", "channel.k8s.io"] {
        let path = rig.exec(TERMINAL, "echo fine");
        let (out, _, word) = Session::new(&rig, &path, version, &[Stdin, Stdout]).await.end().await;
        assert_eq!((&out[..], &word[..]), (&b"fine\n"[..], &b""[..]));
    }
}

#[tokio::test]
async fn children_that_keep_the_output_open_do_not_hold_the_session() {
    let settings = Settings { drain: Duration::from_millis(100), ..Settings::default() };
    let rig = Rig::with(settings).await;
    for child in ["sleep 5", "while sleep 0.02; do echo more; done"] {
        let path = rig.exec(OUTPUT, &format!("({child}) & echo done; echo $! >&2; exit 6"));
        let session = Session::new(&rig, &path, V4, &BOTH).await;
        let (out, err, word) = session.end().await;
        assert!(out.starts_with(b"done\n"));
        assert!(word.ends_with(br#""status":"Failure"}"#));
        let pid: i32 = String::from_utf8(err).expect("text").trim().parse().expect("a pid");
        let pid = sys::rustix::process::Pid::from_raw(pid).expect("a pid");
        let _ = sys::rustix::process::kill_process(pid, sys::rustix::process::Signal::KILL);
    }
}

#[tokio::test]
async fn a_session_without_any_frame_is_closed_and_pings_keep_it() {
    let settings = Settings { idle: Duration::from_millis(400), ..Settings::default() };
    let rig = Rig::with(settings).await;
    let path = rig.exec(ALL, "cat");
    let session = Session::new(&rig, &path, V4, &[Stdin, Stdout, Stderr]).await;
    let status = session.status().await;
    assert!(status["message"].as_str().is_some_and(|text| text.contains("nothing was sent")), "{status}");
    let path = rig.exec(ALL, "cat");
    let session = Session::new(&rig, &path, V4, &[Stdin, Stdout, Stderr]).await;
    for _ in 0..50 {
        sleep(Duration::from_millis(20)).await;
        session.spdy.connection.ping(1).await.expect("ping");
    }
    session.stdin.as_ref().expect("stdin").output.close().await;
    assert_eq!(session.status().await["status"], "Success");
    rig.is_quiet().await;
}

#[tokio::test]
async fn when_the_server_ends_sessions_are_cut_with_a_message() {
    let mut rig = Rig::new().await;
    let path = rig.exec(ALL, "cat");
    let session = Session::new(&rig, &path, V4, &[Stdin, Stdout, Stderr]).await;
    let waiting = Spdy::new(&rig, &rig.exec(ALL, "cat"), V4).await;
    while rig.local.started() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    rig.stop.take().expect("running").send(()).expect("running");
    let status = session.status().await;
    assert!(status["message"].as_str().is_some_and(|text| text.contains("is cut")), "{status}");
    waiting.ends().await;
    (&mut rig.served).await.expect("served");
    rig.is_quiet().await;
}

#[tokio::test]
async fn a_panic_ends_its_own_session_alone() {
    let rig = Rig::new().await;
    let other = Session::new(&rig, &rig.exec(ALL, "cat"), V4, &[Stdin, Stdout, Stderr]).await;
    let path = rig.exec(OUTPUT, "panic");
    let broken = Session::new(&rig, &path, V4, &BOTH).await;
    broken.spdy.ends().await;
    other.stdin.as_ref().expect("stdin").output.close().await;
    assert_eq!(other.status().await["status"], "Success");
    rig.is_quiet().await;
}
