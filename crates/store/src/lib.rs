//! Versioned records in redb behind one group-commit writer.
//!
//! A [`Store`] is a set of tables of text key to bytes. It knows no room: what the bytes mean, and
//! which version of a record they are, is their owner's business. Readers see the last commit and
//! wait for nobody; all writes go through one thread (`writer.rs`), where the commits that wait
//! share one durable transaction.
//!
//! Invariants:
//! - A commit that answered `Ok` is on disk, whole; one that did not answer is there whole or not
//!   at all.
//! - A failed write is final: the kernel may have dropped the pages that it could not write, so
//!   nothing that is said afterwards could be trusted. Every later commit answers the first error
//!   until the store is opened anew.
//!
//! Chosen by measuring (`cargo run --release -p store --example repair`; ext4, 2 cores, medians of one
//! run; records of 4 KiB):
//!
//! | records | commit | commit, quick-repair | open after `kill -9` | with quick-repair |
//! |---|---|---|---|---|
//! | 100 | 0.09 ms | 0.15 ms | 1.5 ms | 0.5 ms |
//! | 1 000 | 0.09 ms | 0.18 ms | 7.6 ms | 0.5 ms |
//! | 10 000 | 0.10 ms | 0.19 ms | 54 ms | 0.8 ms |
//!
//! Quick-repair writes the allocator's state with each commit and syncs twice. Each RunPodSandbox
//! waits for two commits; a crash is rare, and even 10 000 records keep the start well within its
//! bound of 2 s. So it is off.
#![forbid(unsafe_code)]

mod reader;
mod writer;

use redb::{Builder, Database, ReadableDatabase as _, TableDefinition};
use std::{fmt, path::Path, sync::Arc};

pub use reader::ReadError;
use writer::Writer;
pub use writer::{CommitError, MAX_KEY, MAX_VALUE};

/// Version of the layout of tables. A store with a smaller one is read (and then marked with this
/// one), a greater one is refused.
pub const SCHEMA: u32 = 1;

/// Pages that redb keeps in memory: its own default is 1 GiB. The records of a full node fit.
const CACHE_BYTES: usize = 4 << 20;

const SCHEMA_KEY: &str = "schema";

/// A table's name. A table that nobody wrote to is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table(&'static str);

impl Table {
    /// Pod sandboxes, by id.
    pub const PODS: Table = Table("pods");
    /// Containers, by id.
    pub const CONTAINERS: Table = Table("containers");
    /// Images, by the image room's key.
    pub const IMAGES: Table = Table("images");
    /// Layers, by the image room's key.
    pub const LAYERS: Table = Table("layers");
    /// The schema version and other single records.
    pub const META: Table = Table("meta");

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }

    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.0)
    }
}

/// One record to be put or removed.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub table: Table,
    /// At most [`MAX_KEY`] bytes, not empty.
    pub key: String,
    /// At most [`MAX_VALUE`] bytes; `None` removes the record, which may be absent.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// Puts or replaces a record.
    #[must_use]
    pub fn put(table: Table, key: impl Into<String>, value: Vec<u8>) -> Self {
        Change { table, key: key.into(), value: Some(value) }
    }

    /// Removes a record, if it is there.
    #[must_use]
    pub fn remove(table: Table, key: impl Into<String>) -> Self {
        Change { table, key: key.into(), value: None }
    }
}

impl fmt::Debug for Change {
    /// Without the bytes: a record may be large, and may hold what a log must not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.value.as_ref().map(Vec::len);
        write!(f, "Change({}/{}, {size:?} bytes)", self.table.name(), self.key)
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store {path} is in use by another process")]
    InUse {
        /// The store's file.
        path: String,
    },
    /// It was written by a newer release.
    #[error("the store {path} has schema {found}, this release reads up to {SCHEMA}: use the newer release")]
    Newer {
        /// The store's file.
        path: String,
        /// The version found.
        found: u32,
    },
    /// Its schema record is no number, so it is not a store of ours.
    #[error("the store {path} has no readable schema record: it was not written by peapod")]
    Foreign {
        /// The store's file.
        path: String,
    },
    /// The file cannot be read or written.
    #[error("cannot open the store {path}")]
    Io {
        /// The store's file.
        path: String,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
    /// The writer's thread cannot be started.
    #[error("cannot start the store's writer")]
    Writer(#[source] std::io::Error),
}

/// The open store. Clones are the same store; dropping the last one waits until the commits that
/// were asked for are done and the file is closed.
#[derive(Clone)]
pub struct Store {
    db: Arc<Database>,
    writer: Arc<Writer>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens or makes the store. The directory must exist and be closed to other users.
    ///
    /// # Errors
    /// [`OpenError`]; a store of a newer release is left as it was.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        let shown = path.display().to_string();
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        Self::opened(builder.create(path), shown)
    }

    fn opened(db: Result<Database, redb::DatabaseError>, path: String) -> Result<Store, OpenError> {
        let db = match db {
            Ok(db) => db,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err(OpenError::InUse { path }),
            Err(other) => return Err(OpenError::Io { path, source: Box::new(other.into()) }),
        };
        check_schema(&db, &path)?;
        let db = Arc::new(db);
        let writer = Arc::new(writer::start(Arc::clone(&db)).map_err(OpenError::Writer)?);
        Ok(Store { db, writer })
    }

    /// Writes all changes or none of them, durably. They are queued when this is called (so two
    /// calls of one task keep their order), and done also if the future is dropped.
    ///
    /// # Errors
    /// [`CommitError::OutOfBounds`] changes nothing and harms no other commit;
    /// [`CommitError::Failed`] is final for this store.
    pub fn commit(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<(), CommitError>> + Send + 'static {
        self.writer.commit(changes)
    }

    /// One record.
    ///
    /// # Errors
    /// [`ReadError`] if the file cannot be read.
    pub fn get(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, ReadError> {
        reader::get(&self.db, table, key)
    }

    /// All records of a table, by key.
    ///
    /// # Errors
    /// [`ReadError`] if the file cannot be read.
    pub fn scan(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        reader::scan(&self.db, table)
    }

    /// The error that stopped all writing, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<CommitError> {
        self.writer.failure()
    }
}

/// Reads the schema's version and writes ours if it is older or absent.
fn check_schema(db: &Database, path: &str) -> Result<(), OpenError> {
    let io = |source: redb::Error| OpenError::Io { path: path.to_owned(), source: Box::new(source) };
    let found = match schema_of(db).map_err(io)? {
        None => None,
        Some(bytes) => {
            let text = std::str::from_utf8(&bytes).ok();
            let number = text.and_then(|text| text.parse::<u32>().ok());
            Some(number.ok_or_else(|| OpenError::Foreign { path: path.to_owned() })?)
        }
    };
    match found {
        Some(found) if found > SCHEMA => Err(OpenError::Newer { path: path.to_owned(), found }),
        Some(SCHEMA) => Ok(()),
        Some(_) | None => mark_schema(db).map_err(io),
    }
}

fn schema_of(db: &Database) -> Result<Option<Vec<u8>>, redb::Error> {
    match db.begin_read()?.open_table(Table::META.definition()) {
        Ok(table) => Ok(table.get(SCHEMA_KEY)?.map(|value| value.value().to_vec())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

fn mark_schema(db: &Database) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    transaction.open_table(Table::META.definition())?.insert(SCHEMA_KEY, SCHEMA.to_string().as_bytes())?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
