//! A snapshot from elsewhere, on its way to the disk chunk by chunk; a restart resumes it.

use std::io;

use super::{
    RECEIVING, Shelf,
    appending::Appending,
    failed,
    reading::{Blocks, read_head},
};
use crate::{
    raft::SnapshotMetadata,
    storage::{Received, StorageError, sqlite::files::File},
};

const CALL: &str = "storing of a snapshot";

/// Bytes of a file that one failed sync may have lost, at most: what is written between two, and a block.
const REWRITTEN: u64 = (1 << 20) + (128 << 10);

/// What `snapshot.receiving` holds.
pub(super) struct Receiving {
    pub(super) snapshot: SnapshotMetadata,
    file: Appending,
}

impl Receiving {
    /// Bytes of the snapshot that are there, for good.
    pub(super) fn stored(&self) -> u64 {
        self.file.size()
    }

    fn begin(shelf: &Shelf, snapshot: &SnapshotMetadata) -> io::Result<Receiving> {
        let file = shelf.files.create(RECEIVING)?;
        let mut file = Appending::begin(file, Some(snapshot))?;
        file.sync()?;
        shelf.files.sync_directory()?;
        Ok(Receiving { snapshot: snapshot.clone(), file })
    }

    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.push(data)?;
        self.file.end_block()?;
        self.file.sync()
    }

    /// What an opening finds: the blocks that fit, from the first on, made durable. `None` if there is nothing of use.
    pub(super) fn recover(shelf: &Shelf) -> Result<Option<Receiving>, StorageError> {
        let path = shelf.path(RECEIVING);
        let error = |error: io::Error| failed(&path, "open", &error);
        let Some(mut file) = shelf.files.open(RECEIVING).map_err(error)? else { return Ok(None) };
        let (snapshot, start) = match read_head(&mut *file, &path) {
            Ok((Some(snapshot), start)) => (snapshot, start),
            Ok((None, _)) | Err(StorageError::Corrupt { .. } | StorageError::Format { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut blocks = Blocks::new(file, path.clone(), start, 0);
        let mut hasher = crc32fast::Hasher::new();
        while blocks.place < snapshot.size {
            match blocks.next() {
                Ok(()) => hasher.update(blocks.bytes()),
                // Here it was cut off, by a power cut or before the first chunk.
                Err(StorageError::Corrupt { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let (end, size) = (blocks.at, blocks.place);
        let mut file = blocks.into_file();
        write_again(&mut *file, end).map_err(error)?;
        Ok(Some(Receiving { snapshot, file: Appending::resume(file, end, size, hasher) }))
    }
}

/// Makes the first `end` bytes of a file durable, and cuts off the others. The last of them may have been read from a
/// cache only, marked as clean by a sync that failed: they are written once more.
fn write_again(file: &mut dyn File, end: u64) -> io::Result<()> {
    let from = end.saturating_sub(REWRITTEN);
    let mut last = vec![0; (end - from) as usize];
    let read = file.read_at(from, &mut last)?;
    file.truncate(end)?;
    file.write_at(from, &last[..read])?;
    file.sync()
}

impl Shelf {
    pub(super) fn store_chunk(
        &self,
        snapshot: &SnapshotMetadata,
        offset: u64,
        data: &[u8],
    ) -> Result<Received, StorageError> {
        self.expect_sound()?;
        if self.finished().as_ref() == Some(snapshot) {
            return Ok(Received { stored: snapshot.size, complete: true });
        }
        let mut slot = self.receiving();
        if offset == 0 {
            *slot = None;
            *slot = Some(Receiving::begin(self, snapshot).map_err(|error| self.fail(RECEIVING, CALL, &error))?);
        }
        let Some(receiving) = slot.as_mut().filter(|receiving| receiving.snapshot == *snapshot) else {
            return Ok(Received { stored: 0, complete: false });
        };
        let stored = receiving.stored();
        if offset != stored || data.len() as u64 > snapshot.size - stored {
            return Ok(Received { stored, complete: false });
        }
        if let Err(error) = receiving.append(data) {
            *slot = None;
            return Err(self.fail(RECEIVING, CALL, &error));
        }
        let stored = receiving.stored();
        if stored < snapshot.size {
            return Ok(Received { stored, complete: false });
        }
        let receiving = slot.take().expect("it is being received");
        drop(slot);
        let complete = self.complete(receiving)?;
        Ok(Received { stored: if complete { stored } else { 0 }, complete })
    }

    /// Makes what was received the finished snapshot, if the whole of it fits.
    pub(super) fn complete(&self, mut receiving: Receiving) -> Result<bool, StorageError> {
        let Receiving { snapshot, file } = &mut receiving;
        if file.checksum() != snapshot.checksum {
            let removed = self.files.remove(RECEIVING);
            removed.map_err(|error| self.end(RECEIVING, CALL, &error))?;
            return Ok(false);
        }
        file.end(snapshot).map_err(|error| self.fail(RECEIVING, CALL, &error))?;
        self.replace(RECEIVING, snapshot, || true)?;
        Ok(true)
    }
}
