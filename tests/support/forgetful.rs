//! A disk that has less at its next opening than it had acknowledged.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use ractor_raft::{
    raft::Write,
    storage::{Bootstrap, Identity, MemoryStorage, Opened, Snapshots, Storage, StorageError, Store},
};

/// A disk in memory, which can be full and break as any of those, and can be made to forget its last entries.
#[derive(Clone, Default)]
pub struct ForgetfulDisk {
    pub storage: MemoryStorage,
    forgets: Arc<AtomicU64>,
}

impl ForgetfulDisk {
    /// So many of its last entries will be gone at its next opening; all of them, if there are no more.
    pub fn forget(&self, entries: u64) {
        self.forgets.store(entries, SeqCst);
    }
}

impl Storage for ForgetfulDisk {
    fn owner(&self) -> Result<Option<Identity>, StorageError> {
        self.storage.owner()
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        let (mut store, mut opened) = self.storage.open(bootstrap)?;
        let forgets = self.forgets.swap(0, SeqCst) as usize;
        if forgets > 0 {
            let entries = &mut opened.recovered.entries;
            entries.truncate(entries.len().saturating_sub(forgets));
            let truncate_from = Some(opened.recovered.base.index + entries.len() as u64 + 1);
            store.persist(&Write { truncate_from, ..Write::default() })?;
        }
        Ok((store, opened))
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        self.storage.snapshots()
    }

    fn blocks(&self) -> bool {
        false
    }
}
