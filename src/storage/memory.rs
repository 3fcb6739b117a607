//! A disk that is only memory: for tests, and for clusters that need not outlive their process.
//!
//! Its clones are one disk, so it outlives a crash of the tree: the next opening finds what was persisted. Every write is
//! durable at once and whole; there is nothing to lose in a power cut, and the simulated disk of `testing` is the place
//! for that. What can be tested here is how a node takes a write that fails and a disk without room.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    Bootstrap, Identity, Opened, Snapshots, Storage, StorageError, Store, assert_continues, assert_stands,
    expect_snapshot,
};
use crate::raft::{Base, LogIndex, Membership, Recovered, Write};
use snapshots::{MemorySnapshots, Shelf};

mod snapshots;

/// A disk in memory. Its clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    /// What is on it; `None` until a store is created.
    contents: Option<Contents>,
    /// Whether a store has it open.
    in_use: bool,
    /// How many of the next writes fail.
    failures: u32,
    /// How many of the next writes of snapshots fail.
    snapshot_failures: u32,
    /// Whether there is no room for a write.
    full: bool,
    /// The snapshots on it.
    shelf: Shelf,
}

#[derive(Debug)]
struct Contents {
    identity: Identity,
    /// Without snapshots: those are on the shelf.
    opened: Opened,
    /// What it had acknowledged and had, if it lost entries.
    condemned: Option<(LogIndex, LogIndex)>,
}

impl Disk {
    fn recovered(&self) -> Option<Recovered> {
        let recovered = self.contents.as_ref()?.opened.recovered.clone();
        Some(Recovered { snapshot: self.shelf.finished(), receiving: self.shelf.receiving(), ..recovered })
    }
}

impl MemoryStorage {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next `count` writes fail, as if the disk were broken. The first poisons the store that is open; the
    /// others wait for the stores opened after it. Nothing of a failed write is on the disk.
    pub fn fail_writes(&self, count: u32) {
        self.disk().failures = count;
    }

    /// Makes the next `count` writes of snapshots fail, as if the disk were broken there; each ends its snapshot.
    pub fn fail_snapshot_writes(&self, count: u32) {
        self.disk().snapshot_failures = count;
    }

    /// Makes every write fail for want of room, until told otherwise. The store stays usable.
    pub fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// What is on the disk now, whether or not a store is open; `None` if none was ever created.
    pub fn contents(&self) -> Option<Recovered> {
        self.disk().recovered()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Storage for MemoryStorage {
    fn owner(&self) -> Result<Option<Identity>, StorageError> {
        Ok(self.disk().contents.as_ref().map(|contents| contents.identity.clone()))
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        let mut disk = self.disk();
        if disk.in_use {
            return Err(StorageError::InUse { path: path(), owner: Some(std::process::id()) });
        }
        let contents = disk.contents.get_or_insert_with(|| Contents {
            identity: bootstrap.identity.clone(),
            opened: Opened {
                incarnation: bootstrap.incarnation,
                recovered: Recovered { membership: bootstrap.membership.clone(), ..Recovered::default() },
            },
            condemned: None,
        });
        contents.identity.expect_same(&bootstrap.identity, &path())?;
        if let Some((acknowledged, last)) = contents.condemned {
            return Err(StorageError::LostEntries { path: path(), acknowledged, last });
        }
        let incarnation = contents.opened.incarnation;
        let recovered = disk.recovered().expect("the contents were just looked at");
        expect_snapshot(recovered.base, recovered.snapshot.as_ref(), &path())?;
        let opened = Opened { incarnation, recovered };
        disk.in_use = true;
        drop(disk);
        Ok((Box::new(MemoryStore { storage: self.clone(), poison: None }), opened))
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(MemorySnapshots(self.clone()))
    }

    fn blocks(&self) -> bool {
        false
    }
}

struct MemoryStore {
    storage: MemoryStorage,
    /// The first error, for ever after.
    poison: Option<StorageError>,
}

impl Store for MemoryStore {
    fn persist(&mut self, write: &Write) -> Result<(), StorageError> {
        self.change("persist", |contents| apply(&mut contents.opened.recovered, write))
    }

    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex) -> Result<(), StorageError> {
        self.change("condemn", |contents| contents.condemned = Some((acknowledged, last)))
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        self.poison.clone().map_or(Ok(false), Err)
    }
}

impl MemoryStore {
    fn change(&mut self, call: &'static str, change: impl FnOnce(&mut Contents)) -> Result<(), StorageError> {
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        let mut disk = self.storage.disk();
        if disk.full {
            return Err(StorageError::Full { path: path(), call });
        }
        if disk.failures > 0 {
            disk.failures -= 1;
            return Err(self.poison.insert(asked_for(call)).clone());
        }
        change(disk.contents.as_mut().expect("an open store has contents"));
        Ok(())
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.storage.disk().in_use = false;
    }
}

/// The meaning of a write, as every store has it.
fn apply(recovered: &mut Recovered, write: &Write) {
    assert_stands(recovered.base.index, write);
    let base = recovered.base.index;
    let kept = write.truncate_from.map_or(usize::MAX, |from| (from - base - 1) as usize).min(recovered.entries.len());
    let end = base + kept as u64;
    // The log keeps what stands behind the new base if it has the base's entry; if it has not, nothing is known to fit.
    let fits = |base: &Base| recovered.entries[..kept].iter().any(|entry| entry.position() == base.position);
    match &write.base {
        Some(new) if !fits(new) => assert_continues(new.position.index, &write.entries),
        _ => assert_continues(end, &write.entries),
    }
    if let Some(hard_state) = write.hard_state {
        recovered.hard_state = hard_state;
    }
    recovered.entries.truncate(kept);
    if let Some(new) = &write.base {
        match recovered.entries.iter().position(|entry| entry.position() == new.position) {
            Some(at) => drop(recovered.entries.drain(..=at)),
            None => recovered.entries.clear(),
        }
        recovered.base = new.position;
        recovered.membership = Membership::clone(&new.membership);
    }
    recovered.entries.extend_from_slice(&write.entries);
}

/// The failure that a test asked for.
fn asked_for(call: &'static str) -> StorageError {
    StorageError::Failed { path: path(), call, cause: "this failure was asked for".to_owned() }
}

/// What its errors call it.
fn path() -> PathBuf {
    PathBuf::from("memory")
}
