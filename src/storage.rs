//! Where a node keeps what it must not forget: term, vote, log and snapshots.
//!
//! A [`Storage`] is the disk: it outlives the actors and can be opened again after a crash of the tree. A [`Store`] is
//! one opening of it, owned by the log-store actor, synchronous and without actors: whoever calls it waits for the disk.
//!
//! Rules for every implementation, held by the conformance suite in `tests/storage.rs`:
//! - [`Store::persist`] returns `Ok` only when the write would survive a power cut, all of it or nothing.
//! - After an error other than [`StorageError::Full`] the store is poisoned: every later call fails with the first
//!   error, whatever the disk says now. A failed fsync that is retried "succeeds" and the data is gone.
//! - What [`Storage::open`] returns is durable and has been verified, entry by entry. The bytes of a snapshot are verified
//!   when they are read.
//!
//! *Architecture invariant: nothing here knows of actors, and nothing here retries.*

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::raft::{Entry, Incarnation, LogIndex, LogPosition, Membership, NodeId, Recovered, SnapshotMetadata, Write};

pub mod memory;
mod restoration;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use memory::MemoryStorage;
#[cfg(feature = "sqlite")]
pub(crate) use restoration::RESTORED;
pub use restoration::Restoration;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStorage;

/// Whose data it is. Written when a store is created and compared ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, so that two clusters on one network never mix.
    pub cluster_id: u64,
    /// The server in it.
    pub node_id: NodeId,
}

impl Identity {
    /// Compares the identity found in a store with that of its opener.
    fn expect_same(&self, opener: &Identity, path: &Path) -> Result<(), StorageError> {
        if self == opener {
            return Ok(());
        }
        Err(StorageError::Foreign {
            path: path.to_owned(),
            node: opener.node_id,
            cluster: opener.cluster_id,
            found_node: self.node_id,
            found_cluster: self.cluster_id,
        })
    }
}

/// What a store that is opened for the first time is created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Whose store it becomes; an existing one must have the same.
    pub identity: Identity,
    /// Drawn anew for each opening, kept only by a creation: tells a wiped disk from the one before.
    pub incarnation: Incarnation,
    /// The cluster's first members, the same on each of them.
    pub membership: Membership,
}

/// What an opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Drawn when the store was created.
    pub incarnation: Incarnation,
    /// Term, vote, log and membership.
    pub recovered: Recovered,
}

/// A disk, or what stands for one.
pub trait Storage: Send + Sync + 'static {
    /// Whose store it is, without opening it for use. `None`: it was never created, or cannot tell, and then a node that
    /// [joins](crate::node::Builder::join) has to ask the members at every start. May block for the disk.
    ///
    /// # Errors
    /// As for [`open`](Storage::open).
    fn owner(&self) -> Result<Option<Identity>, StorageError> {
        Ok(None)
    }

    /// Opens the store, creating it if there is none. May block for as long as the log takes to read and verify.
    ///
    /// # Errors
    /// Another process or node has it, it is damaged, or the disk fails.
    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError>;

    /// The snapshots beside the log. To be used only while a store of this disk is open.
    fn snapshots(&self) -> Arc<dyn Snapshots>;

    /// For which cluster the store was made out of a backup, if it was. Asked before it is opened.
    ///
    /// # Errors
    /// The disk fails, or what it says cannot be read.
    fn restoration(&self) -> Result<Option<Restoration>, StorageError> {
        Ok(None)
    }

    /// Whether its calls block for a disk, so that the log store needs a thread of its own. Simulated disks do not.
    fn blocks(&self) -> bool {
        true
    }

    /// What the log store awaits before and after each of its calls. `None`, as on every real disk: nothing. A simulated
    /// disk that is slow, or hangs, says so here instead of holding up a thread.
    fn pace(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// One opening of a [`Storage`]. Dropping it releases the disk for the next opening.
pub trait Store: Send {
    /// Makes `write` durable: the hard state, then the truncation, then the base, then the entries, as one transaction.
    /// What a new base replaces need not be deleted at once: a few rows a call, the rest when it is [tidied](Store::tidy).
    ///
    /// # Errors
    /// [`StorageError::Full`] leaves the store as it was and usable; any other error is final.
    ///
    /// # Panics
    /// If the entries would leave a gap, or the truncation would reach below the log's base: that is a bug in the caller.
    fn persist(&mut self, write: &Write) -> Result<(), StorageError>;

    /// Marks the disk as one that lost entries: it had `acknowledged` so many and has `last`. From then on nobody opens it:
    /// each opening is [`StorageError::LostEntries`].
    ///
    /// # Errors
    /// As for [`persist`](Store::persist).
    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex) -> Result<(), StorageError>;

    /// Housekeeping in a bounded step (a checkpoint, a few rows that a new base left), for when nothing waits. Returns
    /// whether there is more to do.
    ///
    /// # Errors
    /// As for [`persist`](Store::persist).
    fn tidy(&mut self) -> Result<bool, StorageError>;
}

/// The snapshots of one node: at most one that is finished, one that the node is writing, and one that it is receiving.
/// The finished one is replaced by the next in one step; it is never absent, and never half of one.
///
/// Bytes are guarded by checksums: what does not fit is found when it is read, never passed on.
///
/// A write without room ([`StorageError::Full`]) gives that one snapshot up and leaves nothing of it. After any other error
/// of a write, every later write fails with it until the store is opened anew; reading goes on. A snapshot whose
/// index is lower than the finished one's does not replace it, whether it was written or received: the log may stand on
/// the finished one.
pub trait Snapshots: Send + Sync + 'static {
    /// Begins a snapshot of the node's own state. An earlier one that was not finished goes.
    ///
    /// # Errors
    /// As for [`Store::persist`].
    fn create(&self) -> Result<Box<dyn SnapshotWriter>, StorageError>;

    /// The bytes of the finished snapshot, from the first on. Reading verifies them: damage is an
    /// [`io::ErrorKind::InvalidData`].
    ///
    /// # Errors
    /// `snapshot` is not the finished one (any more), it is damaged, or the disk fails.
    fn read(&self, snapshot: &SnapshotMetadata) -> Result<Box<dyn Read + Send>, StorageError>;

    /// Opens the finished snapshot, to be read in chunks. What is open stays readable when a later snapshot takes its place.
    /// `None`: `snapshot` is not the finished one (any more).
    ///
    /// # Errors
    /// It is damaged, or the disk fails.
    fn open(&self, snapshot: &SnapshotMetadata) -> Result<Option<Box<dyn SnapshotReader>>, StorageError>;

    /// Makes a chunk of a snapshot from elsewhere durable. It must begin where the last one of the same snapshot ended, or
    /// at 0; another snapshot than before, or one from 0 on, replaces what was being received. With the last byte the whole
    /// is verified and becomes the finished snapshot.
    ///
    /// # Errors
    /// As for [`Store::persist`].
    fn store(&self, snapshot: &SnapshotMetadata, offset: u64, data: &[u8]) -> Result<Received, StorageError>;
}

/// A finished snapshot that is open, and stays readable for as long.
pub trait SnapshotReader: Send {
    /// At most `length` bytes from `offset` on, verified; none at its end. Going on where the last chunk ended is the
    /// quickest.
    ///
    /// # Errors
    /// It is damaged, or the disk fails.
    fn chunk(&mut self, offset: u64, length: usize) -> Result<Bytes, StorageError>;
}

/// A snapshot on its way to the disk. Dropped unfinished, it is as if it had never been.
///
/// A failed write is an [`io::Error`] whose inner error is the [`StorageError`], where the disk is at fault.
pub trait SnapshotWriter: io::Write + Send {
    /// Makes it durable, and the finished one.
    ///
    /// # Errors
    /// As for [`Store::persist`].
    fn finish(
        self: Box<Self>,
        last_included: LogPosition,
        membership: Arc<Membership>,
    ) -> Result<SnapshotMetadata, StorageError>;
}

/// What [`Snapshots::store`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes that are there, from the first on. 0 where the whole did not fit its checksum, and is gone.
    pub stored: u64,
    /// It is finished.
    pub complete: bool,
}

/// Panics unless truncation and base of `write` are for a log that stands on `base`.
fn assert_stands(base: LogIndex, write: &Write) {
    if let Some(from) = write.truncate_from {
        assert!(from > base, "the log is to be truncated from {from}, but it stands on {base}");
    }
    if let Some(new) = &write.base {
        assert!(new.position.index > base, "the log is to stand on {}, and stands on {base}", new.position);
    }
}

/// Panics if `entries` would leave a gap behind a log that ends at `end`.
fn assert_continues(mut end: LogIndex, entries: &[Entry]) {
    for entry in entries {
        assert!(entry.index == end + 1, "entry {} is to be appended behind entry {end}", entry.index);
        end = entry.index;
    }
}

/// Nothing but a snapshot stands in for the entries up to the base.
fn expect_snapshot(base: LogPosition, snapshot: Option<&SnapshotMetadata>, path: &Path) -> Result<(), StorageError> {
    if base.index == 0 || snapshot.is_some_and(|snapshot| snapshot.last_included.index >= base.index) {
        return Ok(());
    }
    let found =
        snapshot.map_or("there is none".to_owned(), |snapshot| format!("it ends at {}", snapshot.last_included));
    let cause = format!("the log begins behind entry {base}, which takes a snapshot up to there, and {found}");
    Err(StorageError::Corrupt { path: path.to_owned(), place: "the snapshot".to_owned(), cause })
}

/// For those who read and write a snapshot: the inner error is `error`.
fn to_io(error: StorageError) -> io::Error {
    let kind = match error {
        StorageError::Corrupt { .. } => io::ErrorKind::InvalidData,
        StorageError::Full { .. } => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// What can be wrong with a disk. Codes as in the crate's error list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// R006.
    #[error(
        "{path} belongs to node {found_node} of cluster {found_cluster:016x}, not to node {node} of cluster {cluster:016x}"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Who opened it.
        node: NodeId,
        /// With which cluster in mind.
        cluster: u64,
        /// Whose it is.
        found_node: NodeId,
        /// Of which cluster.
        found_cluster: u64,
    },
    /// R013.
    #[error("{path} is in use by {}", owner.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that has it, if it could be told.
        owner: Option<u32>,
    },
    /// R016. Final: the store is never used again.
    #[error("{call} failed on {path}: {cause}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// Which operation: "open", "persist", "checkpoint", …
        call: &'static str,
        /// What the disk or SQLite said, with its code.
        cause: String,
    },
    /// R016, and the store stays usable: nothing of the write is there, and there may be room later.
    #[error("no room for {call} on {path}")]
    Full {
        /// The file.
        path: PathBuf,
        /// Which operation.
        call: &'static str,
    },
    /// R017.
    #[error("{path} is damaged at {place}: {cause}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// "entry 17", "term and vote", "WAL frame 3", …
        place: String,
        /// What did not fit.
        cause: String,
    },
    /// R007: the node had acknowledged more than its disk has. It must not vote with what is left.
    #[error("{path} lost entries: it had acknowledged {acknowledged}, and had {last}")]
    LostEntries {
        /// The file.
        path: PathBuf,
        /// The last entry that it had acknowledged.
        acknowledged: LogIndex,
        /// The last entry that it had.
        last: LogIndex,
    },
    /// R017: written by a version of this program that this one does not know.
    #[error("{path} has format {found}, this program knows up to {known}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program reads.
        known: u32,
    },
}
