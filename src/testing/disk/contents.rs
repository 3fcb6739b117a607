//! What is on a simulated disk, and what only seems to be.
//!
//! *Architecture invariant: nothing here is unsafe or knows of SQLite; it is a model of a file system.*

use std::collections::BTreeMap;

use rand::{Rng, RngExt};

use super::Image;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Why an operation was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The machine has stopped, or the operation was to fail.
    Failed,
    /// There is no room.
    Full,
}

#[derive(Default)]
pub(super) struct Contents {
    files: BTreeMap<String, File>,
    /// Files whose deletion a power cut may undo.
    deleted: BTreeMap<String, File>,
    pub(super) operations: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    pub(super) failing_syncs: u32,
    pub(super) failing_syncs_of: BTreeMap<String, u32>,
    pub(super) failing_writes: u32,
    pub(super) full: bool,
    /// Who has the store open.
    pub(super) holder: Option<u64>,
}

#[derive(Clone, Default)]
struct File {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What leads from `durable` to `seen`, unless a sync failed.
    unsynced: Vec<Change>,
    /// Whether a power cut leaves the file's name in the directory.
    is_listed: bool,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

impl Contents {
    /// A disk with just these files, all durable.
    pub(super) fn of_image(image: &Image) -> Self {
        let files = image.iter().map(|(name, bytes)| {
            let file = File { seen: bytes.clone(), durable: bytes.clone(), unsynced: Vec::new(), is_listed: true };
            (name.clone(), file)
        });
        Contents { files: files.collect(), ..Contents::default() }
    }

    pub(super) fn image(&self) -> Image {
        self.files.iter().map(|(name, file)| (name.clone(), file.seen.clone())).collect()
    }

    pub(super) fn read(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|file| file.seen.as_slice())
    }

    pub(super) fn create(&mut self, name: &str) -> Result<(), Fault> {
        self.begin()?;
        self.files.entry(name.to_owned()).or_default();
        Ok(())
    }

    pub(super) fn write(&mut self, name: &str, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.begin()?;
        if self.failing_writes > 0 {
            self.failing_writes -= 1;
            return Err(Fault::Failed);
        }
        if self.full {
            return Err(Fault::Full);
        }
        self.change(name, Change::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub(super) fn truncate(&mut self, name: &str, length: usize) -> Result<(), Fault> {
        self.begin()?;
        self.change(name, Change::Truncate(length));
        Ok(())
    }

    pub(super) fn sync(&mut self, name: &str) -> Result<(), Fault> {
        self.begin()?;
        let file = self.files.entry(name.to_owned()).or_default();
        // If it fails, the changes are marked as clean all the same: no later sync will write them.
        let unsynced = std::mem::take(&mut file.unsynced);
        let failing_here = self.failing_syncs_of.get_mut(name).filter(|count| **count > 0);
        if let Some(count) = failing_here.or(Some(&mut self.failing_syncs).filter(|count| **count > 0)) {
            *count -= 1;
            return Err(Fault::Failed);
        }
        for change in &unsynced {
            change.apply(&mut file.durable);
        }
        file.is_listed = true;
        Ok(())
    }

    pub(super) fn sync_directory(&mut self) -> Result<(), Fault> {
        self.begin()?;
        if self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            return Err(Fault::Failed);
        }
        self.deleted.clear();
        self.files.values_mut().for_each(|file| file.is_listed = true);
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<(), Fault> {
        self.begin()?;
        if let Some(file) = self.files.remove(name) {
            self.deleted.insert(name.to_owned(), file);
        }
        Ok(())
    }

    pub(super) fn power_loss(&mut self, rng: &mut impl Rng) {
        for (name, file) in std::mem::take(&mut self.deleted) {
            if file.is_listed && rng.random_bool(0.5) {
                self.files.entry(name).or_insert(file);
            }
        }
        self.files.retain(|_, file| file.is_listed || rng.random_bool(0.5));
        for file in self.files.values_mut() {
            for change in std::mem::take(&mut file.unsynced) {
                match rng.random_range(0..3) {
                    0 => {}
                    1 => change.apply(&mut file.durable),
                    _ => change.apply_torn(&mut file.durable, rng),
                }
            }
            file.seen = file.durable.clone();
            file.is_listed = true;
        }
        self.process_crash();
    }

    pub(super) fn process_crash(&mut self) {
        let Contents { files, deleted, operations, .. } = std::mem::take(self);
        *self = Contents { files, deleted, operations, ..Contents::default() };
    }

    pub(super) fn flip_bit(&mut self, name: &str, bit: usize) {
        let file = self.files.get_mut(name).unwrap_or_else(|| panic!("there is no file {name}"));
        for bytes in [&mut file.seen, &mut file.durable] {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Counts an operation, and says whether it takes place.
    fn begin(&mut self) -> Result<(), Fault> {
        self.operations += 1;
        self.crashed |= self.crash_at == Some(self.operations);
        if self.crashed { Err(Fault::Failed) } else { Ok(()) }
    }

    fn change(&mut self, name: &str, change: Change) {
        let file = self.files.entry(name.to_owned()).or_default();
        change.apply(&mut file.seen);
        file.unsynced.push(change);
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes: written } => overwrite(bytes, *offset, written),
            Change::Truncate(length) => bytes.truncate(*length),
        }
    }

    /// Applies it to some sectors of the disk and not to others.
    fn apply_torn(&self, bytes: &mut Vec<u8>, rng: &mut impl Rng) {
        let Change::Write { offset, bytes: written } = self else { return };
        let mut start = 0;
        while start < written.len() {
            let end = (start + SECTOR - (offset + start) % SECTOR).min(written.len());
            if rng.random_bool(0.5) {
                overwrite(bytes, offset + start, &written[start..end]);
            }
            start = end;
        }
    }
}

/// Writes at `offset`, behind a hole of zeros if the file is shorter.
fn overwrite(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}
