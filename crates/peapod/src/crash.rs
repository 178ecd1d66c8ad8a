//! Points at which a daemon under test kills itself, built in only with the feature `crash-points`.
//!
//! `PEAPOD_CRASH_AT=N`: SIGKILL when the N-th point is passed. `PEAPOD_CRASH_TRACE=FILE`: the name of
//! each point passed, a line each.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts the points that are passed.
#[derive(Debug, Default)]
pub(crate) struct CrashPoints {
    at: Option<usize>,
    trace: Option<Mutex<PathBuf>>,
    passed: AtomicUsize,
}

impl CrashPoints {
    /// As the environment says.
    pub(crate) fn from_env() -> CrashPoints {
        let number = std::env::var("PEAPOD_CRASH_AT").ok().and_then(|text| text.parse().ok());
        let trace = std::env::var_os("PEAPOD_CRASH_TRACE").map(|path| Mutex::new(PathBuf::from(path)));
        CrashPoints { at: number, trace, passed: AtomicUsize::new(0) }
    }

    /// A point is passed: the process may end here.
    pub(crate) fn passed(&self, point: &str) {
        let number = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(trace) = &self.trace {
            let path = trace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let line = format!("{point}\n");
            if let Err(error) = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&*path)
                .and_then(|mut f| f.write_all(line.as_bytes()))
            {
                tracing::error!(%error, "cannot write the trace of crash points");
            }
        }
        if self.at == Some(number) {
            let me = sys::rustix::process::getpid();
            // There is no way on from here: the signal cannot be caught.
            let _ = sys::rustix::process::kill_process(me, sys::rustix::process::Signal::KILL);
        }
    }
}
