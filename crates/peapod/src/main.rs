//! peapod: the daemon and its command line.
#![forbid(unsafe_code)]

mod app;
mod cli;
#[cfg(feature = "crash-points")]
mod crash;
mod host;
mod listen;
mod logging;
mod notify;
mod streamer;

use std::process::ExitCode;

/// The hidden command of the daemon's one-shot child.
const UNPACK: &str = "unpack-layer";

fn main() -> ExitCode {
    // It confines its one thread and drops what it may do: before any other thread exists.
    if std::env::args_os().nth(1).is_some_and(|word| word == UNPACK) {
        return image::unpack_child_main();
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == streamer::COMMAND) {
        return streamer::main(std::env::args_os().skip(2));
    }
    cli::main(|args| {
        let (file, flags) = args.into_parts();
        app::serve(file.as_deref(), &flags)
    })
}
