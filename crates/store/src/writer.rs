//! The one thread that writes. While it syncs, further commits queue up; it then takes all of them
//! into one transaction, so that ten concurrent calls cost about one sync and not ten.

use crate::Change;
use redb::Database;
use std::{
    sync::{Arc, OnceLock, mpsc},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

/// Longest key in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest value in bytes: above what one gRPC message (16 MiB) can make of a plan.
pub const MAX_VALUE: usize = 32 << 20;
/// Commits taken into one transaction at most, so that the first of a long queue does not wait for
/// the last one's bytes.
const MAX_GROUP: usize = 256;

/// Why a commit was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A key or a value is out of bounds. Nothing was changed.
    #[error("a record of table `{table}` is out of bounds: {what}")]
    OutOfBounds {
        /// Of which table.
        table: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file could not be written or synced. It is the first such error, and final: whether the
    /// changes are on disk is not known, and no later commit of this store will be tried.
    #[error("the store cannot be written")]
    Failed(#[source] Arc<redb::Error>),
    /// The writer's thread is gone (it panicked).
    #[error("the store's writer has ended")]
    Gone,
}

struct Job {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), CommitError>>,
}

/// The way to the writer. Dropping it waits until the queue is written and the file is closed.
pub(crate) struct Writer {
    /// Taken only by `drop`, which ends the thread.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<OnceLock<Arc<redb::Error>>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Writer {
    pub(crate) fn commit(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<(), CommitError>> + Send + 'static {
        let queued = self.queue(changes);
        async move { queued?.await.map_err(|_| CommitError::Gone)? }
    }

    pub(crate) fn failure(&self) -> Option<CommitError> {
        self.failure.get().map(|error| CommitError::Failed(Arc::clone(error)))
    }

    fn queue(&self, changes: Vec<Change>) -> Result<oneshot::Receiver<Result<(), CommitError>>, CommitError> {
        for change in &changes {
            let out_of_bounds = |what| CommitError::OutOfBounds { table: change.table.name(), what };
            if change.key.is_empty() || change.key.len() > MAX_KEY {
                return Err(out_of_bounds("a key has 1 to 1024 bytes"));
            }
            if change.value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
                return Err(out_of_bounds("a value has at most 32 MiB"));
            }
        }
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let (done, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(CommitError::Gone)?;
        jobs.send(Job { changes, done }).map_err(|_| CommitError::Gone)?;
        Ok(answer)
    }
}

pub(crate) fn start(db: Arc<Database>) -> std::io::Result<Writer> {
    let (jobs, queue) = mpsc::channel();
    let failure = Arc::new(OnceLock::new());
    let thread = std::thread::Builder::new().name("store".to_owned()).spawn({
        let failure = Arc::clone(&failure);
        move || serve(&db, &queue, &failure)
    })?;
    Ok(Writer { jobs: Some(jobs), thread: Some(thread), failure })
}

fn serve(db: &Database, queue: &mpsc::Receiver<Job>, failure: &OnceLock<Arc<redb::Error>>) {
    while let Ok(first) = queue.recv() {
        let group: Vec<Job> = std::iter::once(first).chain(queue.try_iter().take(MAX_GROUP - 1)).collect();
        let result = match failure.get() {
            Some(error) => Err(CommitError::Failed(Arc::clone(error))),
            None => write(db, &group).map_err(|error| {
                tracing::error!(error = %error, "the store cannot be written: restart when the disk is well");
                CommitError::Failed(Arc::clone(failure.get_or_init(|| Arc::new(error))))
            }),
        };
        for job in group {
            // Who asked may have left: the work is done all the same.
            let _ = job.done.send(result.clone());
        }
    }
}

fn write(db: &Database, group: &[Job]) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?; // Durability::Immediate is redb's default
    for change in group.iter().flat_map(|job| &job.changes) {
        let mut table = transaction.open_table(change.table.definition())?;
        match &change.value {
            Some(value) => drop(table.insert(change.key.as_str(), value.as_slice())?),
            None => drop(table.remove(change.key.as_str())?),
        }
    }
    transaction.commit()?;
    Ok(())
}
