//! A disk that is only memory: for tests, and for clusters that need not outlive their process.
//!
//! Its clones are one disk, so it outlives a crash of the tree: the next opening finds what was persisted. Every write is
//! durable at once and whole; there is nothing to lose in a power cut, and the simulated disk of `testing` is the place
//! for that. What can be tested here is how a node takes a write that fails and a disk without room.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{Bootstrap, Identity, Opened, Snapshots, Storage, StorageError, Store, assert_continues};
use crate::raft::{LogIndex, Recovered, Write};

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
    /// Whether there is no room for a write.
    full: bool,
}

#[derive(Debug)]
struct Contents {
    identity: Identity,
    opened: Opened,
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

    /// Makes every write fail for want of room, until told otherwise. The store stays usable.
    pub fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// What is on the disk now, whether or not a store is open; `None` if none was ever created.
    pub fn contents(&self) -> Option<Recovered> {
        self.disk().contents.as_ref().map(|contents| contents.opened.recovered.clone())
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
        });
        contents.identity.expect_same(&bootstrap.identity, &path())?;
        let opened = contents.opened.clone();
        disk.in_use = true;
        drop(disk);
        Ok((Box::new(MemoryStore { storage: self.clone(), poison: None }), opened))
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        todo!("the storage branch brings them")
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
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        let mut disk = self.storage.disk();
        if disk.full {
            return Err(StorageError::Full { path: path(), call: "persist" });
        }
        if disk.failures > 0 {
            disk.failures -= 1;
            let error =
                StorageError::Failed { path: path(), call: "persist", cause: "this failure was asked for".to_owned() };
            return Err(self.poison.insert(error).clone());
        }
        let contents = disk.contents.as_mut().expect("an open store has contents");
        apply(&mut contents.opened.recovered, write);
        Ok(())
    }

    fn condemn(&mut self, _acknowledged: LogIndex, _last: LogIndex) -> Result<(), StorageError> {
        todo!("the storage branch brings it")
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        self.poison.clone().map_or(Ok(false), Err)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.storage.disk().in_use = false;
    }
}

/// The meaning of a write, as every store has it.
fn apply(recovered: &mut Recovered, write: &Write) {
    let base = recovered.base.index;
    assert_continues(base, base + recovered.entries.len() as u64, write);
    if let Some(hard_state) = write.hard_state {
        recovered.hard_state = hard_state;
    }
    if let Some(from) = write.truncate_from {
        recovered.entries.truncate((from - base - 1) as usize);
    }
    recovered.entries.extend_from_slice(&write.entries);
}

/// What its errors call it.
fn path() -> PathBuf {
    PathBuf::from("memory")
}
