//! Snapshots, in files beside the database.
//!
//! Not in it: SQLite would write each byte twice, into its log and into the database, on the one connection whose commits
//! are the write path. And snapshots have two users on different threads, the snapshotter and the log store, which have
//! to wait for each other only where one of them replaces the finished snapshot. With the same calls, on a virtual disk
//! with ext4, 100 MiB were:
//!
//! ```text
//! blobs of 64 KiB, a MiB a commit       213 MB written, 96 MB/s, the connection taken for up to 88 ms at a time
//! a file, synced after each MiB         105 MB written, 120 to 270 MB/s; of the log's commits meanwhile, 99 in 100
//!                                       within 14 ms, as without it
//! a file, synced once, at its end       105 MB written, 250 to 490 MB/s; 99 commits in 100 within 41 ms
//! ```
//!
//! ```text
//! snapshot-<index>-<term>-<checksum>   the finished one
//! snapshot.writing                     of the node's own state; removed by an opening
//! snapshot.receiving                   from elsewhere; resumed by an opening as far as it fits its checksums
//! ```
//! A file is whole and synced before it is renamed to its last name, and the directory is synced before the one that it
//! replaces is removed. So at any moment a file of that name is whole, and the one of the highest index counts. What a
//! file consists of stands in `snapshots/format.rs`.
//!
//! *Architecture invariant: nothing here knows of SQLite's connection, and no lock is held while data is read or, except
//! from other chunks, while it is written.*

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use super::{failure::corrupt, files::Files};
use crate::{
    raft::{LogPosition, SnapshotMetadata},
    storage::{Received, SnapshotReader, SnapshotWriter, Snapshots, StorageError, expect_snapshot},
};
use reading::{Blocks, Chunks, Reading, read_tail};
use receiving::Receiving;
use writing::Writing;

mod appending;
mod format;
mod reading;
mod receiving;
mod writing;

const WRITING: &str = "snapshot.writing";
const RECEIVING: &str = "snapshot.receiving";
const FINISHED: &str = "snapshot-";

/// The snapshots in a directory. Its clones are the same.
#[derive(Clone)]
pub(super) struct Shelf(Arc<Inner>);

pub(super) struct Inner {
    files: Arc<dyn Files>,
    /// Taken for a moment.
    state: Mutex<State>,
    /// Taken while a chunk is stored.
    receiving: Mutex<Option<Receiving>>,
    /// Taken by who replaces the finished snapshot.
    turn: Mutex<()>,
}

#[derive(Default)]
struct State {
    finished: Option<Finished>,
    /// Counts the snapshots of the node's own that were begun.
    begun: u64,
    /// The first error of a write, for ever after, until the store is opened again.
    poison: Option<StorageError>,
}

/// The finished snapshot.
struct Finished {
    snapshot: SnapshotMetadata,
    name: String,
    /// Where its data begins in the file.
    start: u64,
}

impl std::ops::Deref for Shelf {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Shelf {
    pub(super) fn new(files: Arc<dyn Files>) -> Shelf {
        Shelf(Arc::new(Inner { files, state: Mutex::default(), receiving: Mutex::default(), turn: Mutex::default() }))
    }

    /// What is there as the store is opened, whose log stands on `base`. What is of no use is removed.
    pub(super) fn recover(&self, base: LogPosition) -> Result<Found, StorageError> {
        let turn = lock(&self.turn);
        let names = self.files.list().map_err(|error| failed(&self.directory(), "open", &error))?;
        let finished = self.find_finished(&names, base)?;
        let is_kept = |name: &String| finished.as_ref().is_some_and(|finished| finished.name == *name);
        for name in names.iter().filter(|name| (position(name).is_some() && !is_kept(name)) || *name == WRITING) {
            self.files.remove(name).map_err(|error| failed(&self.path(name), "open", &error))?;
        }
        {
            let mut state = self.state();
            let begun = state.begun + 1;
            *state = State { finished, begun, poison: None };
        }
        drop(turn);
        let receiving = self.recover_receiving()?;
        Ok(Found { snapshot: self.finished(), receiving })
    }

    /// The newest of the finished files that is whole. While the log has all entries, it can do without.
    fn find_finished(&self, names: &[String], base: LogPosition) -> Result<Option<Finished>, StorageError> {
        let mut named: Vec<_> = names.iter().filter_map(|name| Some((position(name)?, name))).collect();
        named.sort_by_key(|(position, name)| (std::cmp::Reverse(position.index), *name));
        let mut damage = None;
        for (_, name) in named {
            match self.look(name) {
                Ok(finished) if finished.snapshot.last_included.index >= base.index => return Ok(Some(finished)),
                Ok(finished) => {
                    let found = expect_snapshot(base, Some(&finished.snapshot), &self.path(name));
                    return Err(damage.unwrap_or(found.expect_err("it does not reach to the base")));
                }
                Err(error @ StorageError::Corrupt { .. }) => damage = damage.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match expect_snapshot(base, None, &self.directory()) {
            Ok(()) => Ok(None),
            Err(error) => Err(damage.unwrap_or(error)),
        }
    }

    fn look(&self, name: &str) -> Result<Finished, StorageError> {
        let path = self.path(name);
        let file = self.files.open(name).map_err(|error| failed(&path, "open", &error))?;
        let mut file = file.ok_or_else(|| corrupt(&path, "the snapshot", "it is not there"))?;
        let (snapshot, start) = read_tail(&mut *file, &path)?;
        if name_of(&snapshot) != name {
            let cause = format!("the file's name is not that of {snapshot}");
            return Err(corrupt(&path, "the snapshot's tail", cause));
        }
        Ok(Finished { snapshot, name: name.to_owned(), start })
    }

    /// What was being received goes on; if nothing is missing, it is finished now.
    fn recover_receiving(&self) -> Result<Option<(SnapshotMetadata, u64)>, StorageError> {
        let mut slot = self.receiving();
        *slot = None;
        let newest = self.finished().map_or(0, |finished| finished.last_included.index);
        let recovered = match Receiving::recover(self) {
            // No room to make it durable: it is given up.
            Err(StorageError::Full { .. }) => None,
            recovered => recovered?.filter(|receiving| receiving.snapshot.last_included.index > newest),
        };
        let Some(receiving) = recovered else {
            self.files.remove(RECEIVING).map_err(|error| failed(&self.path(RECEIVING), "open", &error))?;
            return Ok(None);
        };
        if receiving.stored() == receiving.snapshot.size {
            return match self.complete(receiving) {
                Ok(_) | Err(StorageError::Full { .. }) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let found = (receiving.snapshot.clone(), receiving.stored());
        *slot = Some(receiving);
        Ok(Some(found))
    }

    /// Lets the whole and synced file `name` become the finished snapshot, and removes the one before; one of a higher
    /// index stays, since the log may stand on it. Not where `may` says that it has no right to any more.
    fn replace(&self, name: &str, snapshot: &SnapshotMetadata, may: impl Fn() -> bool) -> Result<(), StorageError> {
        let _turn = lock(&self.turn);
        if !may() {
            let cause = "another one was begun".to_owned();
            return Err(StorageError::Failed { path: self.path(name), call: "snapshot", cause });
        }
        let before = self.state().finished.as_ref().map(|before| (before.snapshot.last_included, before.name.clone()));
        if before.as_ref().is_some_and(|(position, _)| position.index > snapshot.last_included.index) {
            return self.files.remove(name).map_err(|error| self.end(name, "removal of a snapshot", &error));
        }
        let new_name = name_of(snapshot);
        let renamed = self.files.rename(name, &new_name).and_then(|()| self.files.sync_directory());
        renamed.map_err(|error| self.end(&new_name, "renaming of a snapshot", &error))?;
        let finished = self.look(&new_name).map_err(|error| self.poison(error))?;
        self.state().finished = Some(finished);
        match before {
            Some((position, old_name)) if old_name != new_name => {
                let mut removed = self.files.remove(&old_name);
                if position.index == snapshot.last_included.index {
                    // One of a lower index may come back after a power cut, and does not count; this one would.
                    removed = removed.and_then(|()| self.files.sync_directory());
                }
                removed.map_err(|error| self.end(&old_name, "removal of a snapshot", &error))
            }
            _ => Ok(()),
        }
    }

    /// The blocks of `snapshot`. `None` if it is not the finished one.
    fn blocks(&self, snapshot: &SnapshotMetadata) -> Result<Option<Blocks>, StorageError> {
        let (name, start) = {
            let state = self.state();
            let Some(finished) = state.finished.as_ref().filter(|finished| finished.snapshot == *snapshot) else {
                return Ok(None);
            };
            (finished.name.clone(), finished.start)
        };
        let path = self.path(&name);
        let file = self.files.open(&name).map_err(|error| failed(&path, "reading of a snapshot", &error))?;
        let Some(file) = file else {
            // It has just been replaced, or somebody took it away.
            let is_finished = self.finished().as_ref() == Some(snapshot);
            return if is_finished { Err(corrupt(&path, "the snapshot", "it is not there")) } else { Ok(None) };
        };
        Ok(Some(Blocks::new(file, path, start, 0)))
    }

    fn finished(&self) -> Option<SnapshotMetadata> {
        self.state().finished.as_ref().map(|finished| finished.snapshot.clone())
    }

    fn receiving(&self) -> MutexGuard<'_, Option<Receiving>> {
        lock(&self.receiving)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn begin_number(&self) -> u64 {
        let mut state = self.state();
        state.begun += 1;
        state.begun
    }

    fn is_last(&self, number: u64) -> bool {
        self.state().begun == number
    }

    fn expect_sound(&self) -> Result<(), StorageError> {
        self.state().poison.clone().map_or(Ok(()), Err)
    }

    /// What a failed write of an unfinished file means: without room the file goes and all is well, else it is final.
    fn fail(&self, name: &str, call: &'static str, error: &io::Error) -> StorageError {
        let error = failed(&self.path(name), call, error);
        if !matches!(error, StorageError::Full { .. }) {
            return self.poison(error);
        }
        match self.files.remove(name) {
            Ok(()) => error,
            Err(error) => self.end(name, "removal of a snapshot", &error),
        }
    }

    /// Whatever the error is, it is final.
    fn end(&self, name: &str, call: &'static str, error: &io::Error) -> StorageError {
        self.poison(StorageError::Failed { path: self.path(name), call, cause: error.to_string() })
    }

    fn poison(&self, error: StorageError) -> StorageError {
        self.state().poison.get_or_insert(error).clone()
    }

    fn directory(&self) -> PathBuf {
        self.files.database().parent().unwrap_or(Path::new("")).to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.database().with_file_name(name)
    }
}

/// What an opening found.
pub(super) struct Found {
    pub(super) snapshot: Option<SnapshotMetadata>,
    pub(super) receiving: Option<(SnapshotMetadata, u64)>,
}

impl Snapshots for Shelf {
    fn create(&self) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        Ok(Box::new(Writing::begin(self)?))
    }

    fn read(&self, snapshot: &SnapshotMetadata) -> Result<Box<dyn Read + Send>, StorageError> {
        match self.blocks(snapshot)? {
            Some(blocks) => Ok(Box::new(Reading::new(blocks, snapshot.clone()))),
            None => {
                let cause = format!("{snapshot} is not the finished one");
                Err(StorageError::Failed { path: self.directory(), call: "reading of a snapshot", cause })
            }
        }
    }

    fn open(&self, snapshot: &SnapshotMetadata) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        let blocks = self.blocks(snapshot)?;
        Ok(blocks.map(|blocks| Box::new(Chunks::new(blocks, snapshot.size)) as Box<dyn SnapshotReader>))
    }

    fn store(&self, snapshot: &SnapshotMetadata, offset: u64, data: &[u8]) -> Result<Received, StorageError> {
        self.store_chunk(snapshot, offset, data)
    }
}

/// The last name of a snapshot's file. Two of the same place whose bytes differ have different names.
fn name_of(snapshot: &SnapshotMetadata) -> String {
    let LogPosition { index, term } = snapshot.last_included;
    format!("{FINISHED}{index:020}-{term}-{:08x}", snapshot.checksum)
}

/// Up to where a file of this name reaches; `None` if it is no finished snapshot.
fn position(name: &str) -> Option<LogPosition> {
    let mut parts = name.strip_prefix(FINISHED)?.split('-');
    let (index, term, checksum) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || u32::from_str_radix(checksum, 16).is_err() {
        return None;
    }
    Some(LogPosition { index: index.parse().ok()?, term: term.parse().ok()? })
}

/// What an error of the file system means.
fn failed(path: &Path, call: &'static str, error: &io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path: path.to_owned(), call },
        _ => StorageError::Failed { path: path.to_owned(), call, cause: error.to_string() },
    }
}

/// A panic elsewhere leaves what is locked here as it was between two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
