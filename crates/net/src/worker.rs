//! One thread that does everything with netlink: it blocks, for microseconds, and nothing else waits.
//!
//! The thread stays in the network namespace in which it was started and visits a pod's only inside
//! [`inside`]. Should a job panic, the thread ends and the next call starts another.

use crate::{
    builtin::{BuiltinError, errno, hostlocal::Leases},
    firewall::Firewall,
    session::Session,
};
use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};
use sys::{
    netlink::Subsystem,
    rustix::{
        fd::{AsFd, OwnedFd},
        fs::{self, CWD, Mode, OFlags},
        thread::LinkNameSpaceType,
    },
};

/// What the thread keeps from job to job.
#[derive(Debug)]
pub(crate) struct Hands {
    pub(crate) route: Session,
    pub(crate) firewall: Firewall,
    pub(crate) leases: Leases,
    /// Where it is noted which sysctls of the host were switched on.
    pub(crate) switched_on: PathBuf,
}

type Job = Box<dyn FnOnce(&mut Hands) + Send>;

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The job ran and failed.
    #[error(transparent)]
    Failed(#[from] BuiltinError),
    /// The thread could not be started, or its sockets not opened.
    #[error("the network thread cannot start")]
    Start(#[source] std::io::Error),
    /// The job panicked.
    #[error("the network thread ended without an answer")]
    Died,
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Worker {
    table: String,
    mark: String,
    switched_on: PathBuf,
    way: Mutex<Option<Sender<Job>>>,
}

impl Worker {
    pub(crate) fn new(table: String, mark: String, switched_on: PathBuf) -> Self {
        Self { table, mark, switched_on, way: Mutex::new(None) }
    }

    /// Starts the thread in the caller's network namespace.
    pub(crate) fn start(&self) -> Result<(), WorkerError> {
        let started = self.spawn().map_err(WorkerError::Start)?;
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<Sender<Job>> {
        let mut hands = Hands {
            route: Session::open(Subsystem::Route)?,
            firewall: Firewall::open(&self.table)?,
            leases: Leases::new(&self.mark),
            switched_on: self.switched_on.clone(),
        };
        let (way, jobs): (Sender<Job>, Receiver<Job>) = channel();
        std::thread::Builder::new().name("network".to_owned()).spawn(move || {
            for job in jobs {
                job(&mut hands);
            }
        })?;
        Ok(way)
    }

    /// Runs a job on the thread. The job is done even if the caller leaves.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Hands) -> Result<T, BuiltinError> + Send + 'static,
    ) -> Result<T, WorkerError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.hand_over(Box::new(move |hands| {
            let _ = tell.send(work(hands)); // the caller may have left
        }))?;
        Ok(told.await.map_err(|_| WorkerError::Died)??)
    }

    fn hand_over(&self, job: Job) -> Result<(), WorkerError> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match way.as_ref().map(|way| way.send(job)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(back)) => back.0,
            None => return Err(WorkerError::Died),
        };
        // The thread is gone with a job that panicked.
        let again = self.spawn().map_err(WorkerError::Start)?;
        again.send(job).map_err(|_| WorkerError::Died)?;
        *way = Some(again);
        Ok(())
    }
}

/// Takes the thread home when it is dropped.
struct Home(OwnedFd);

impl Drop for Home {
    fn drop(&mut self) {
        // A thread that cannot go home must not do another job; this ends it.
        sys::namespace::join(self.0.as_fd(), LinkNameSpaceType::Network).expect("the way home is open");
    }
}

/// Runs `work` with the calling thread in that network namespace, and comes back.
pub(crate) fn inside<T>(netns: &OwnedFd, work: impl FnOnce() -> T) -> Result<T, BuiltinError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let home = fs::openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty())
        .map_err(errno("cannot hold the host's network namespace"))?;
    sys::namespace::join(netns, LinkNameSpaceType::Network)
        .map_err(errno("cannot join the pod's network namespace"))?;
    let _home = Home(home);
    Ok(work())
}
