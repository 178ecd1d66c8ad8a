//! The example's app: an HTTP server on 8080 that greets, and tells at `/log` what it served.
//!
//! It is the first process of its container, so it must handle SIGTERM by itself: the kernel gives
//! PID 1 no default action, and a pod whose app ignores SIGTERM stops only after its grace period.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its log is its standard output")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Lines kept for `/log`; older ones are forgotten.
const KEPT: usize = 1000;

fn main() -> std::io::Result<()> {
    end_on_sigterm()?;
    // A dual-stack socket answers IPv4 too; where IPv6 is off, IPv4 alone.
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080)))
        .or_else(|_| TcpListener::bind("0.0.0.0:8080"))?;
    println!("myapp listens on {}", listener.local_addr()?);
    let served = Arc::new(Mutex::new(Served::default()));
    for stream in listener.incoming().flatten() {
        let served = Arc::clone(&served);
        std::thread::spawn(move || answer(&stream, &served));
    }
    Ok(())
}

/// What was served: a counted list.
#[derive(Default)]
struct Served {
    count: usize,
    lines: Vec<String>,
}

impl Served {
    fn note(&mut self, request: &str) {
        self.count += 1;
        self.lines.push(format!("{} {request}", self.count));
        println!("request {} {request}", self.count);
        if self.lines.len() > KEPT {
            self.lines.remove(0);
        }
    }
}

fn answer(mut stream: &TcpStream, served: &Mutex<Served>) {
    let patience = Some(Duration::from_secs(5));
    if stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).is_err() {
        return;
    }
    let mut first = String::new();
    let mut head = BufReader::new(stream.take(8192));
    if head.read_line(&mut first).is_err() {
        return;
    }
    // The rest of the head is read, so that closing the socket does not reset the connection.
    let mut line = String::new();
    while head.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    let path = first.split_whitespace().nth(1).unwrap_or("/");
    let Ok(mut served) = served.lock() else { return };
    let body = if path == "/log" {
        served.lines.join("\n") + "\n"
    } else {
        served.note(first.trim());
        format!("hello from myapp, request {}\n", served.count)
    };
    drop(served);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A client that has gone away is no trouble of ours.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn end_on_sigterm() -> std::io::Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            println!("myapp ends");
            #[allow(clippy::exit, reason = "the accept loop cannot be interrupted otherwise")]
            std::process::exit(0);
        }
    });
    Ok(())
}
