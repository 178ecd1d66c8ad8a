//! Reading: a snapshot of the last commit, which waits for no writer.

use crate::Table;
use redb::{Database, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _};

/// A table could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the store's table `{table}`")]
pub struct ReadError {
    /// Which.
    pub table: &'static str,
    /// What redb says.
    #[source]
    pub source: Box<redb::Error>,
}

pub(crate) fn get(db: &Database, table: Table, key: &str) -> Result<Option<Vec<u8>>, ReadError> {
    let read = || -> Result<_, redb::Error> {
        let Some(records) = open(db, table)? else { return Ok(None) };
        Ok(records.get(key)?.map(|value| value.value().to_vec()))
    };
    read().map_err(|source| ReadError { table: table.name(), source: Box::new(source) })
}

pub(crate) fn scan(db: &Database, table: Table) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let read = || -> Result<_, redb::Error> {
        let Some(records) = open(db, table)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for record in records.iter()? {
            let (key, value) = record?;
            all.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(all)
    };
    read().map_err(|source| ReadError { table: table.name(), source: Box::new(source) })
}

type Records = ReadOnlyTable<&'static str, &'static [u8]>;

/// `None` if nobody wrote to the table yet.
fn open(db: &Database, table: Table) -> Result<Option<Records>, redb::Error> {
    match db.begin_read()?.open_table(table.definition()) {
        Ok(records) => Ok(Some(records)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(other) => Err(other.into()),
    }
}
