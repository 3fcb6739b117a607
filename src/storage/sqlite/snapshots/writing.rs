//! A snapshot of the node's own state, on its way to the disk.

use std::{
    io::{self, Write},
    sync::Arc,
};

use super::{Shelf, WRITING, appending::Appending};
use crate::{
    raft::{LogPosition, Membership, SnapshotMetadata},
    storage::{SnapshotWriter, StorageError, to_io},
};

const CALL: &str = "snapshot";

/// Writes `snapshot.writing`, which goes with it if it is dropped.
pub(super) struct Writing {
    shelf: Shelf,
    /// Its place among those that were begun: only the last one can be finished.
    number: u64,
    /// `None` once it is given up or finished.
    file: Option<Appending>,
    /// Why it was given up.
    error: Option<StorageError>,
}

impl Writing {
    pub(super) fn begin(shelf: &Shelf) -> Result<Writing, StorageError> {
        shelf.expect_sound()?;
        let number = shelf.begin_number();
        let mut writing = Writing { shelf: shelf.clone(), number, file: None, error: None };
        let begun = shelf.files.create(WRITING).and_then(|file| Appending::begin(file, None));
        match begun {
            Ok(file) => writing.file = Some(file),
            Err(error) => return Err(writing.give_up(&error)),
        }
        Ok(writing)
    }

    /// Ends it after a failure; without room, nothing is left of it.
    fn give_up(&mut self, error: &io::Error) -> StorageError {
        self.file = None;
        let error = self.shelf.fail(WRITING, CALL, error);
        self.error.insert(error).clone()
    }

    fn is_last(&self) -> bool {
        self.shelf.is_last(self.number)
    }

    fn expect_last(&mut self) -> Result<&mut Appending, StorageError> {
        self.shelf.expect_sound()?;
        if self.error.is_none() && !self.is_last() {
            let cause = "another one was begun".to_owned();
            self.error = Some(StorageError::Failed { path: self.shelf.path(WRITING), call: CALL, cause });
        }
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(self.file.as_mut().expect("it is there until an error or the end")),
        }
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.expect_last().map_err(to_io)?.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => Err(to_io(self.give_up(&error))),
        }
    }

    /// What is on disk counts only when it is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for Writing {
    fn finish(
        mut self: Box<Self>,
        last_included: LogPosition,
        membership: Arc<Membership>,
    ) -> Result<SnapshotMetadata, StorageError> {
        let end = |file: &mut Appending| {
            file.end_block()?;
            let (size, checksum) = (file.size(), file.checksum());
            let snapshot = SnapshotMetadata { last_included, membership, size, checksum };
            file.end(&snapshot).map(|()| snapshot)
        };
        let ended = end(self.expect_last()?);
        let snapshot = ended.map_err(|error| self.give_up(&error))?;
        let (shelf, number) = (self.shelf.clone(), self.number);
        shelf.replace(WRITING, &snapshot, || shelf.is_last(number))?;
        self.file = None;
        Ok(snapshot)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.file.take().is_some() && self.is_last() && self.shelf.expect_sound().is_ok() {
            // If that fails, the next one, or the next opening, will take it away.
            let _ = self.shelf.files.remove(WRITING);
        }
    }
}
