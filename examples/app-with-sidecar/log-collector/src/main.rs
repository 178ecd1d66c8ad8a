//! The example's sidecar: asks the app for its log over `localhost:8080`, which works because the
//! containers of a pod share one network, and keeps new lines in `/var/log/app/collected.log`, which
//! is a volume of the pod. `log-collector --show` prints what was kept.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its log is its standard output")]

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

const KEPT_IN: &str = "/var/log/app/collected.log";

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--show") {
        print!("{}", std::fs::read_to_string(KEPT_IN)?);
        return Ok(());
    }
    let end = on_sigterm()?;
    let mut file = OpenOptions::new().create(true).append(true).open(KEPT_IN)?;
    println!("log-collector writes to {KEPT_IN}");
    let mut last = 0;
    loop {
        match ask() {
            Ok(log) => last = keep(&mut file, &log, last)?,
            Err(error) => println!("the app does not answer yet: {error}"),
        }
        match end.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    println!("log-collector ends");
    Ok(())
}

/// One HTTP request; the answer's body.
fn ask() -> std::io::Result<String> {
    let mut stream =
        TcpStream::connect("localhost:8080").or_else(|_| TcpStream::connect("127.0.0.1:8080"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /log HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Appends the lines whose number is greater than `last`; a smaller one means that the app began anew.
fn keep(file: &mut File, log: &str, last: usize) -> std::io::Result<usize> {
    let numbered = |line: &str| line.split_once(' ').and_then(|(n, _)| n.parse::<usize>().ok());
    let newest = log.lines().filter_map(numbered).max().unwrap_or(0);
    let from = if newest < last { 0 } else { last };
    for line in log.lines().filter(|line| numbered(line).is_some_and(|n| n > from)) {
        writeln!(file, "{line}")?;
        println!("collected {line}");
    }
    Ok(newest)
}

fn on_sigterm() -> std::io::Result<Receiver<()>> {
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    let (tell, end) = channel();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // The main loop may have ended by itself.
            let _ = tell.send(());
        }
    });
    Ok(end)
}
