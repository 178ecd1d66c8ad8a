//! The daemon's log: lines on stderr, for a terminal, a file or the journal.

use config::LogLevel;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Starts it. Our crates say what the level asks for; libraries only what is odd.
pub(crate) fn start(level: LogLevel) {
    let rooms = [
        "api", "cgroup", "config", "cri", "engine", "image", "net", "peapod", "seccomp", "shimlink", "spec",
        "stats", "store", "stream", "sys", "types",
    ];
    let asked = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // By name alone: the filter of directives brings an engine of regular expressions, for values that nobody asks for.
    let filter = Targets::new().with_default(LevelFilter::WARN).with_targets(rooms.map(|room| (room, asked)));
    // A daemon whose log cannot be written goes on without it.
    let lines = fmt::layer().with_writer(Forgiving).with_ansi(false).with_target(true);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// stderr that may be closed, or a pipe without a reader: a lost line of the log must not end the
/// daemon, as `eprintln!` would.
#[derive(Clone, Copy, Debug)]
struct Forgiving;

impl std::io::Write for Forgiving {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match std::io::stderr().write(bytes) {
            Ok(written) => Ok(written),
            Err(_) => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> fmt::MakeWriter<'a> for Forgiving {
    type Writer = Forgiving;
    fn make_writer(&'a self) -> Forgiving {
        Forgiving
    }
}
