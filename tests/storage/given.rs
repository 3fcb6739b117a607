//! What the tests start from: stores of each kind, and writes to put in them.

use bytes::Bytes;
use ractor_raft::{
    raft::{Entry, HardState, LogIndex, Membership, NodeId, Payload, Recovered, Term, Write},
    storage::{Bootstrap, Identity, MemoryStorage, Opened, Storage, StorageError, Store},
};

/// A disk of some kind, with its faults where it has any.
pub struct Disk {
    pub storage: Box<dyn Storage>,
    /// Makes the next write fail.
    pub fail_next_write: Option<Box<dyn Fn()>>,
    pub set_full: Option<Box<dyn Fn(bool)>>,
    /// Deleted at the end.
    _directory: Option<tempfile::TempDir>,
}

pub fn in_memory() -> Disk {
    let storage = MemoryStorage::new();
    let (failing, full) = (storage.clone(), storage.clone());
    Disk {
        storage: Box::new(storage),
        fail_next_write: Some(Box::new(move || failing.fail_writes(1))),
        set_full: Some(Box::new(move |is_full| full.set_full(is_full))),
        _directory: None,
    }
}

#[cfg(feature = "sqlite")]
pub fn on_real_files() -> Disk {
    let directory = tempfile::tempdir().unwrap();
    let storage = ractor_raft::storage::SqliteStorage::new(directory.path().join("n1"));
    Disk { storage: Box::new(storage), fail_next_write: None, set_full: None, _directory: Some(directory) }
}

#[cfg(all(feature = "sqlite", feature = "testing"))]
pub fn on_a_simulated_disk() -> Disk {
    let disk = ractor_raft::testing::disk::SimulatedDisk::new();
    let (failing, full) = (disk.clone(), disk.clone());
    Disk {
        storage: Box::new(disk.storage()),
        fail_next_write: Some(Box::new(move || failing.fail_writes(1))),
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

/// How many seeds a storm has: `STORAGE_SEEDS`, or as many as suit a quick run.
#[cfg(all(feature = "sqlite", feature = "testing"))]
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("STORAGE_SEEDS").ok().map_or(default, |seeds| seeds.parse().expect("a number of seeds"));
    match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("a seed"),
        Err(_) => 0..count,
    }
}
