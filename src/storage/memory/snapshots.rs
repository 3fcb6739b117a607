//! The snapshots of a disk that is only memory.

use std::{
    io::{self, Cursor, Read, Write},
    sync::{Arc, MutexGuard},
};

use bytes::Bytes;

use super::{Disk, MemoryStorage, asked_for, path};
use crate::{
    raft::{LogIndex, LogPosition, Membership, SnapshotMetadata},
    storage::{Received, SnapshotReader, SnapshotWriter, Snapshots, StorageError, to_io},
};

/// What there is of snapshots.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    finished: Option<(SnapshotMetadata, Bytes)>,
    receiving: Option<(SnapshotMetadata, Vec<u8>)>,
    /// Counts the snapshots that were begun: only the last one can be finished.
    begun: u64,
}

impl Shelf {
    pub(super) fn finished(&self) -> Option<SnapshotMetadata> {
        self.finished.as_ref().map(|(snapshot, _)| snapshot.clone())
    }

    /// Unless it has become of no use.
    pub(super) fn receiving(&self) -> Option<(SnapshotMetadata, u64)> {
        let (snapshot, bytes) = self.receiving.as_ref()?;
        let is_newer = snapshot.last_included.index > self.newest();
        is_newer.then(|| (snapshot.clone(), bytes.len() as u64))
    }

    fn newest(&self) -> LogIndex {
        self.finished.as_ref().map_or(0, |(finished, _)| finished.last_included.index)
    }

    /// A newer one stays: the log may stand on it.
    fn finish(&mut self, snapshot: SnapshotMetadata, bytes: Bytes) {
        if snapshot.last_included.index >= self.newest() {
            self.finished = Some((snapshot, bytes));
        }
    }

    /// The bytes of `snapshot`, if it is the finished one.
    fn bytes(&self, snapshot: &SnapshotMetadata) -> Option<&Bytes> {
        self.finished.as_ref().filter(|(finished, _)| finished == snapshot).map(|(_, bytes)| bytes)
    }

    fn store(&mut self, snapshot: &SnapshotMetadata, offset: u64, data: &[u8]) -> Received {
        if self.bytes(snapshot).is_some() {
            return Received { stored: snapshot.size, complete: true };
        }
        if offset == 0 {
            self.receiving = Some((snapshot.clone(), Vec::new()));
        }
        let Some((_, bytes)) = self.receiving.as_mut().filter(|(receiving, _)| receiving == snapshot) else {
            return Received { stored: 0, complete: false };
        };
        let stored = bytes.len() as u64;
        if offset != stored || data.len() as u64 > snapshot.size - stored {
            return Received { stored, complete: false };
        }
        bytes.extend_from_slice(data);
        let stored = bytes.len() as u64;
        if stored < snapshot.size {
            return Received { stored, complete: false };
        }
        let bytes = std::mem::take(bytes);
        self.receiving = None;
        if crc32fast::hash(&bytes) != snapshot.checksum {
            return Received { stored: 0, complete: false };
        }
        self.finish(snapshot.clone(), bytes.into());
        Received { stored, complete: true }
    }
}

impl Disk {
    /// Whether a snapshot can be written to.
    fn expect_writable(&mut self, call: &'static str) -> Result<(), StorageError> {
        if self.full {
            return Err(StorageError::Full { path: path(), call });
        }
        if self.snapshot_failures > 0 {
            self.snapshot_failures -= 1;
            return Err(asked_for(call));
        }
        Ok(())
    }
}

pub(super) struct MemorySnapshots(pub(super) MemoryStorage);

impl Snapshots for MemorySnapshots {
    fn create(&self) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let mut disk = self.0.disk();
        disk.expect_writable("snapshot")?;
        disk.shelf.begun += 1;
        Ok(Box::new(MemoryWriter { storage: self.0.clone(), number: disk.shelf.begun, bytes: Vec::new() }))
    }

    fn read(&self, snapshot: &SnapshotMetadata) -> Result<Box<dyn Read + Send>, StorageError> {
        match self.0.disk().shelf.bytes(snapshot) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            None => {
                let cause = format!("{snapshot} is not the finished one");
                Err(StorageError::Failed { path: path(), call: "reading of a snapshot", cause })
            }
        }
    }

    fn open(&self, snapshot: &SnapshotMetadata) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        let disk = self.0.disk();
        Ok(disk.shelf.bytes(snapshot).map(|bytes| Box::new(MemoryReader(bytes.clone())) as Box<dyn SnapshotReader>))
    }

    fn store(&self, snapshot: &SnapshotMetadata, offset: u64, data: &[u8]) -> Result<Received, StorageError> {
        let mut disk = self.0.disk();
        if let Err(error) = disk.expect_writable("storing of a snapshot") {
            disk.shelf.receiving = None;
            return Err(error);
        }
        Ok(disk.shelf.store(snapshot, offset, data))
    }
}

struct MemoryReader(Bytes);

impl SnapshotReader for MemoryReader {
    fn chunk(&mut self, offset: u64, length: usize) -> Result<Bytes, StorageError> {
        let MemoryReader(bytes) = self;
        let start = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(bytes.slice(start..bytes.len().min(start.saturating_add(length))))
    }
}

struct MemoryWriter {
    storage: MemoryStorage,
    /// Its place among those that were begun.
    number: u64,
    bytes: Vec<u8>,
}

impl MemoryWriter {
    fn expect_writable(&self) -> Result<MutexGuard<'_, Disk>, StorageError> {
        let mut disk = self.storage.disk();
        disk.expect_writable("snapshot")?;
        if disk.shelf.begun != self.number {
            let cause = "another one was begun".to_owned();
            return Err(StorageError::Failed { path: path(), call: "snapshot", cause });
        }
        Ok(disk)
    }
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(self.expect_writable().map_err(to_io)?);
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for MemoryWriter {
    fn finish(
        mut self: Box<Self>,
        last_included: LogPosition,
        membership: Arc<Membership>,
    ) -> Result<SnapshotMetadata, StorageError> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let (size, checksum) = (bytes.len() as u64, crc32fast::hash(&bytes));
        let snapshot = SnapshotMetadata { last_included, membership, size, checksum };
        self.expect_writable()?.shelf.finish(snapshot.clone(), bytes);
        Ok(snapshot)
    }
}
