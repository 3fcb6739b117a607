//! Writes a snapshot's file from its first byte to its last, and never a byte twice.

use std::{io, mem};

use super::format::{self, BLOCK, HEADER, Kind};
use crate::{raft::SnapshotMetadata, storage::sqlite::files::File};

/// After so many bytes a sync is made, so that no later one is a long one: a commit of the log may have to wait for it.
const SYNC_BYTES: usize = 1 << 20;

/// A file that a snapshot is written to. Uses no more memory than a block.
pub(super) struct Appending {
    file: Box<dyn File>,
    /// Where the next record begins in the file.
    end: u64,
    /// Bytes of the snapshot that are in the file.
    size: u64,
    /// Over those bytes.
    hasher: crc32fast::Hasher,
    /// Bytes in the file that were not synced.
    unsynced: usize,
    /// The next record: room for its header, then what is not in the file yet.
    record: Vec<u8>,
}

impl Appending {
    /// Begins a file, with its head.
    pub(super) fn begin(mut file: Box<dyn File>, snapshot: Option<&SnapshotMetadata>) -> io::Result<Appending> {
        let head = format::head(snapshot);
        file.write_at(0, &head)?;
        Ok(Appending::resume(file, head.len() as u64, 0, crc32fast::Hasher::new()))
    }

    /// Goes on with a file which has so many bytes of the snapshot, durably, and ends at `end`.
    pub(super) fn resume(file: Box<dyn File>, end: u64, size: u64, hasher: crc32fast::Hasher) -> Appending {
        Appending { file, end, size, hasher, unsynced: 0, record: vec![0; HEADER] }
    }

    /// Bytes of the snapshot that are in the file, in whole blocks.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The checksum of those bytes.
    pub(super) fn checksum(&self) -> u32 {
        self.hasher.clone().finalize()
    }

    /// Adds bytes of the snapshot. Those of the last block, which may still grow, are kept back.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = HEADER + BLOCK - self.record.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.record.extend_from_slice(now);
            bytes = later;
            if self.record.len() == HEADER + BLOCK {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// Writes what was kept back.
    pub(super) fn end_block(&mut self) -> io::Result<()> {
        if self.record.len() == HEADER {
            return Ok(());
        }
        let mut record = mem::take(&mut self.record);
        format::seal(&mut record, Kind::Data, self.size);
        self.file.write_at(self.end, &record)?;
        self.hasher.update(&record[HEADER..]);
        self.size += (record.len() - HEADER) as u64;
        self.end += record.len() as u64;
        self.unsynced += record.len();
        record.truncate(HEADER);
        self.record = record;
        if self.unsynced >= SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    /// Makes all blocks durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.file.sync()
    }

    /// Writes the tail, and makes the file durable.
    pub(super) fn end(&mut self, snapshot: &SnapshotMetadata) -> io::Result<()> {
        self.file.write_at(self.end, &format::tail(snapshot))?;
        self.sync()
    }
}
