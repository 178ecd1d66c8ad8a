//! The process that unpacks one layer: standard input is the compressed archive, standard output takes
//! the [`Report`], the working directory is where the files go, and standard error is a pipe whose other
//! end lives as long as the daemon wants the layer.

use super::{
    apply::Applier,
    confine, inflate,
    report::{Report, Unpacked},
};
use crate::tarball::Reader;
use std::{convert::Infallible, error::Error, io::Read as _, process::ExitCode};
use sys::{
    clone::{self, Clone},
    pidfd,
    root::RootFd,
    rustix::{
        event::{PollFd, PollFlags, poll},
        fd::{AsRawFd as _, OwnedFd},
        fs::{self, FlockOperation, Mode, OFlags},
        io::{Errno, retry_on_intr},
        process::{Signal, set_parent_process_death_signal},
        stdio,
        thread::UnshareFlags,
    },
};

/// The whole program of `peapod unpack-layer`. It must be called before the process has a second thread.
///
/// It runs the work in a child of its own, which is in new namespaces from its first instruction on, and
/// lasts as long as that.
#[must_use]
pub fn child_main() -> ExitCode {
    // Held until both processes are gone: a daemon that starts anew waits for it before it sweeps the
    // directory of a layer that its predecessor left half-done.
    let lock = fs::open(".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|dir| retry_on_intr(|| fs::flock(&dir, FlockOperation::LockExclusive)).map(|()| dir));
    let lock = match lock {
        Ok(lock) => lock,
        Err(error) => {
            tell(&Report::Failed(format!("cannot lock the layer's directory: {error}")));
            return ExitCode::FAILURE;
        }
    };
    let wanted = Clone {
        flags: UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWPID,
        cgroup: None,
        keep: &[lock.as_raw_fd()],
        sibling: false,
    };
    match clone::clone(&wanted, inner).and_then(|child| watch(&child.pidfd)) {
        Ok(exit) => ExitCode::from(u8::try_from(exit.code()).unwrap_or(1)),
        Err(error) => {
            tell(&Report::Failed(format!("cannot start the unpacking in its namespaces: {error}")));
            ExitCode::FAILURE
        }
    }
}

/// Waits for the inner process, and kills it when the daemon lets go of the other end of standard error:
/// it wants no more, or it is gone. So the inner one is always reaped here and nobody's orphan.
fn watch(inner: &OwnedFd) -> Result<pidfd::Exit, Errno> {
    let mut polled =
        [PollFd::new(inner, PollFlags::IN), PollFd::from_borrowed_fd(stdio::stderr(), PollFlags::empty())];
    retry_on_intr(|| poll(&mut polled, None))?;
    if polled[0].revents().is_empty() {
        pidfd::send_signal(inner, Signal::KILL)?;
    }
    pidfd::wait(inner)
}

fn inner() -> Infallible {
    // Whoever is killed, the daemon sees the end of the report only when both are gone.
    let report = match set_parent_process_death_signal(Some(Signal::KILL)) {
        Ok(()) => unpack().unwrap_or_else(|error| Report::Failed(chain(error.as_ref()))),
        Err(error) => Report::Failed(format!("cannot bind the unpacking to its parent: {error}")),
    };
    tell(&report);
    clone::leave(i32::from(matches!(report, Report::Failed(_))))
}

fn unpack() -> Result<Report, Box<dyn Error>> {
    confine::confine()?;
    let source = stdio::stdin().try_clone_to_owned()?;
    let (mut chunks, pump) = inflate(std::fs::File::from(source));
    let applier = Applier::new(RootFd::open("/")?);
    std::thread::scope(|scope| {
        let pumping = scope.spawn(pump);
        let applied = apply(applier, &mut chunks);
        drop(chunks);
        let hashed = pumping.join().map_err(|_| "the decoder panicked")?;
        let mut facts = applied?;
        facts.diff_id = Some(hashed?);
        Ok(Report::Done(facts))
    })
}

/// Applies the archive and reads what follows its end, which is part of the digest.
fn apply(applier: Applier, chunks: &mut inflate::Chunks) -> Result<Unpacked, Box<dyn Error>> {
    let mut tar = Reader::new(chunks);
    let facts = applier.run(&mut tar)?;
    std::io::copy(&mut tar.into_inner().by_ref(), &mut std::io::sink())?;
    Ok(facts)
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn tell(report: &Report) {
    let bytes = serde_json::to_vec(report).expect("a report is plain data");
    let mut left = bytes.as_slice();
    while !left.is_empty() {
        match sys::rustix::io::write(stdio::stdout(), left) {
            Ok(written) => left = &left[written..],
            Err(Errno::INTR) => {}
            // The daemon is gone; it will sweep the directory.
            Err(_) => return,
        }
    }
}
