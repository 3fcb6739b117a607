//! What the tests start from: stores of each kind, and writes to put in them.

use std::sync::Arc;

use bytes::Bytes;
use ractor_raft::{
    raft::{
        Base, Entry, HardState, LogIndex, LogPosition, Membership, NodeId, Payload, Recovered, SnapshotMetadata, Term,
        Write,
    },
    storage::{Bootstrap, Identity, MemoryStorage, Opened, Snapshots, Storage, StorageError, Store},
};

/// Makes tests, for each kind of store, of functions that take a disk. A new store is one more module here.
macro_rules! for_every_store {
    ($($test:ident)*) => {
        mod memory {
            $(#[test] fn $test() { super::$test(&crate::given::in_memory()); })*
        }
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(#[test] fn $test() { super::$test(&crate::given::on_real_files()); })*
        }
        #[cfg(all(feature = "sqlite", feature = "testing"))]
        mod sqlite_on_a_simulated_disk {
            $(#[test] fn $test() { super::$test(&crate::given::on_a_simulated_disk()); })*
        }
    };
}

/// A disk of some kind, with its faults where it has any.
pub struct Disk {
    pub storage: Box<dyn Storage>,
    /// Makes the next write fail.
    pub fail_next_write: Option<Box<dyn Fn()>>,
    /// Makes the next write of a snapshot fail.
    pub fail_next_snapshot_write: Option<Box<dyn Fn()>>,
    pub set_full: Option<Box<dyn Fn(bool)>>,
    /// Deleted at the end.
    _directory: Option<tempfile::TempDir>,
}

pub fn in_memory() -> Disk {
    let storage = MemoryStorage::new();
    let (failing, failing_snapshots, full) = (storage.clone(), storage.clone(), storage.clone());
    Disk {
        storage: Box::new(storage),
        fail_next_write: Some(Box::new(move || failing.fail_writes(1))),
        fail_next_snapshot_write: Some(Box::new(move || failing_snapshots.fail_snapshot_writes(1))),
        set_full: Some(Box::new(move |is_full| full.set_full(is_full))),
        _directory: None,
    }
}

#[cfg(feature = "sqlite")]
pub fn on_real_files() -> Disk {
    let directory = tempfile::tempdir().unwrap();
    let storage = ractor_raft::storage::SqliteStorage::new(directory.path().join("n1"));
    Disk {
        storage: Box::new(storage),
        fail_next_write: None,
        fail_next_snapshot_write: None,
        set_full: None,
        _directory: Some(directory),
    }
}

#[cfg(all(feature = "sqlite", feature = "testing"))]
pub fn on_a_simulated_disk() -> Disk {
    let disk = ractor_raft::testing::disk::SimulatedDisk::new();
    let (failing, failing_snapshots, full) = (disk.clone(), disk.clone(), disk.clone());
    Disk {
        storage: Box::new(disk.storage()),
        fail_next_write: Some(Box::new(move || failing.fail_writes(1))),
        fail_next_snapshot_write: Some(Box::new(move || failing_snapshots.fail_writes(1))),
        set_full: Some(Box::new(move |is_full| full.set_full(is_full))),
        _directory: None,
    }
}

pub fn bootstrap() -> Bootstrap {
    Bootstrap {
        identity: Identity { cluster_id: 0xfeed_0000_0000_0001, node_id: 1 },
        incarnation: 17,
        membership: Membership::of_voters([(1, "one:1"), (2, "two:1"), (3, "three:1")]),
    }
}

pub fn open(storage: &dyn Storage) -> (Box<dyn Store>, Opened) {
    try_open(storage).unwrap_or_else(|error| panic!("{error}"))
}

pub fn try_open(storage: &dyn Storage) -> Result<(Box<dyn Store>, Opened), StorageError> {
    storage.open(&bootstrap())
}

/// Opens it, looks, and leaves.
pub fn recover(storage: &dyn Storage) -> Recovered {
    open(storage).1.recovered
}

pub fn command(index: LogIndex, term: Term, command: impl Into<Bytes>) -> Entry {
    Entry { index, term, payload: Payload::Command(command.into()) }
}

/// Entries `from` to `to` of `term`, each with a command of its own.
pub fn commands(from: LogIndex, to: LogIndex, term: Term) -> Vec<Entry> {
    (from..=to).map(|index| command(index, term, format!("put {index} in {term}"))).collect()
}

pub fn append(entries: Vec<Entry>) -> Write {
    Write { entries, ..Write::default() }
}

pub fn vote(current_term: Term, voted_for: Option<NodeId>) -> Write {
    Write { hard_state: Some(HardState { current_term, voted_for }), ..Write::default() }
}

pub fn position(index: LogIndex, term: Term) -> LogPosition {
    LogPosition { term, index }
}

/// Who belongs to the cluster as of a snapshot at this index: told from others by an address.
pub fn membership_at(index: LogIndex) -> Arc<Membership> {
    Arc::new(Membership::of_voters([(1, format!("one:{index}"))]))
}

/// A write that lets the log stand on this entry.
pub fn stand_on(index: LogIndex, term: Term) -> Write {
    let base = Base { position: position(index, term), membership: membership_at(index) };
    Write { base: Some(base), ..Write::default() }
}

/// Bytes of a snapshot, told from others by `seed`; no two pieces of them are the same.
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 64);
    for number in 0.. {
        if bytes.len() >= size {
            break;
        }
        bytes.extend_from_slice(&[seed as u8; 48]);
        bytes.extend_from_slice(&u64::to_le_bytes(number));
        bytes.extend_from_slice(&u64::to_le_bytes(seed));
    }
    bytes.truncate(size);
    bytes
}

/// Takes a snapshot of these bytes.
pub fn take_snapshot(snapshots: &dyn Snapshots, index: LogIndex, term: Term, bytes: &[u8]) -> SnapshotMetadata {
    let mut writer = snapshots.create().unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish(position(index, term), membership_at(index)).unwrap()
}

/// What a snapshot of these bytes is, wherever it was taken.
pub fn metadata(index: LogIndex, term: Term, bytes: &[u8]) -> SnapshotMetadata {
    SnapshotMetadata {
        last_included: position(index, term),
        membership: membership_at(index),
        size: bytes.len() as u64,
        checksum: crc32fast::hash(bytes),
    }
}

/// All bytes of the finished snapshot.
pub fn read_snapshot(snapshots: &dyn Snapshots, snapshot: &SnapshotMetadata) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshots.read(snapshot).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// How many seeds a storm has: `STORAGE_SEEDS`, or as many as suit a quick run.
#[cfg(all(feature = "sqlite", feature = "testing"))]
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("STORAGE_SEEDS").ok().map_or(default, |seeds| seeds.parse().expect("a number of seeds"));
    match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("a seed"),
        Err(_) => 0..count,
    }
}

/// Of what should all be tried, a quick run takes every so manieth.
#[cfg(all(feature = "sqlite", feature = "testing"))]
pub fn stride() -> usize {
    if std::env::var_os("STORAGE_SEEDS").is_some() { 1 } else { 3 }
}
