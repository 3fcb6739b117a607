//! Backups: a node's snapshot as one file, and a new cluster's data directories out of it.
//!
//! ```text
//! "RaftBkup" │ format: u32 │ length of the head: u32 │ head │ CRC-32 of all of this: u32 │ the snapshot's bytes
//! ```
//! The numbers are little-endian; the head is a `raft.v1.BackupHead`, which has the length and the CRC-32 of the bytes
//! behind it. So each byte of the file is guarded by a checksum, and its length is known from its beginning.
//!
//! A backup has all that the state machine had at one entry, and the clients' sessions: a command that was retried before
//! the backup is still applied once after it was restored. What it has not is the cluster: who its members are is said
//! anew when it is restored, and the new cluster has an id of its own, so that no node of the old one and none of the new
//! one take each other for members (R004).

mod file;
#[cfg(feature = "sqlite")]
mod restore;

use std::{io, path::PathBuf};

pub use file::{Backup, Saving};
#[cfg(feature = "sqlite")]
pub use restore::{Restored, restored_cluster_id};

pub use crate::rpc::convert::BackupHead as Head;

use crate::{error::Code, raft::NodeId, storage::StorageError};

/// What can be wrong with a backup, or with the place it is restored to.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// R016.
    #[error("{} cannot be {call}: {cause}", path.display())]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// "opened", "read", "written", …
        call: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// R017.
    #[error("{} is no backup: {cause}", path.display())]
    NoBackup {
        /// Which file.
        path: PathBuf,
        /// How that shows.
        cause: String,
    },
    /// R017.
    #[error("{} is damaged: {cause}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        cause: String,
    },
    /// R017: written by a version of this program that this one does not know.
    #[error("{} has format {found}, this program knows up to {known}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// R006: a backup is never restored over data.
    #[error("{} is not empty", path.display())]
    Occupied {
        /// Which directory.
        path: PathBuf,
    },
    /// R003.
    #[error("node {id} is not among the new cluster's members")]
    NoMember {
        /// Whose data directory it is to be.
        id: NodeId,
    },
    /// The new store.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl BackupError {
    /// Its number.
    pub fn code(&self) -> Code {
        match self {
            BackupError::NoMember { .. } => Code(3),
            BackupError::Occupied { .. } => Code(6),
            BackupError::File { .. } => Code(16),
            BackupError::NoBackup { .. } | BackupError::Damaged { .. } | BackupError::Format { .. } => Code(17),
            BackupError::Storage(error) => error.code(),
        }
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            BackupError::File { path, .. } => {
                format!("check the disk, its room, and the permissions of {}", path.display())
            }
            BackupError::NoBackup { .. } => "give a file that `raftkv snapshot save` has written".to_owned(),
            BackupError::Damaged { path, .. } => {
                format!("use another copy of {}, or another backup; nothing of this one was restored", path.display())
            }
            BackupError::Format { found, .. } => {
                format!("restore it with a version of this program that knows format {found}")
            }
            BackupError::Occupied { path } => format!(
                "give a directory that does not exist yet; if the data in {} is not needed any more, move it away first",
                path.display()
            ),
            BackupError::NoMember { id } => format!("add node {id} with its address, the same on every node"),
            BackupError::Storage(error) => error.fix(),
        }
    }
}
