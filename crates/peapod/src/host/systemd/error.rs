//! What can go wrong between us and systemd.

use std::io;

/// An error of the bus, or systemd's answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::host) enum BusError {
    /// There is no bus.
    #[error("the system bus at {path} does not answer")]
    Connect {
        /// Its socket.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bus does not let us in.
    #[error("the system bus refuses us: {0:?}")]
    Denied(String),
    /// The connection broke.
    #[error("the connection to the system bus")]
    Io(#[source] io::Error),
    /// No answer in time.
    #[error("systemd does not answer within {0} s")]
    Deadline(u64),
    /// What came is not D-Bus.
    #[error("the system bus sends {0}")]
    Protocol(&'static str),
    /// systemd's answer is an error.
    #[error("{name}: {message}")]
    Refused {
        /// Name of the error.
        name: String,
        /// What it says.
        message: String,
    },
    /// The job was begun and came to another end than done.
    #[error("systemd's job for {unit} ended as {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// `canceled`, `timeout`, `failed`, `dependency`, `skipped`.
        result: String,
    },
}

impl BusError {
    /// systemd does not know the unit.
    pub(super) fn is_no_such_unit(&self) -> bool {
        self.has_name("org.freedesktop.systemd1.NoSuchUnit")
    }

    /// systemd has the unit already.
    pub(super) fn is_unit_exists(&self) -> bool {
        self.has_name("org.freedesktop.systemd1.UnitExists")
    }

    fn has_name(&self, wanted: &str) -> bool {
        matches!(self, BusError::Refused { name, .. } if name == wanted)
    }
}

impl From<io::Error> for BusError {
    fn from(error: io::Error) -> BusError {
        BusError::Io(error)
    }
}
