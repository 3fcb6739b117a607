//! What is on a simulated disk, and what only seems to be.
//!
//! As in a Unix file system, a name stands for a file and is not the file: one that was deleted or renamed can still be
//! read by whoever has it open.
//!
//! *Architecture invariant: nothing here is unsafe or knows of SQLite; it is a model of a file system.*

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{Rng, RngExt, rngs::SmallRng};

use super::Image;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Tells a file from others that had, have or will have its name.
pub(super) type FileId = u64;

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
    /// All files that have a name, may have one after a power cut, or are open.
    files: BTreeMap<FileId, File>,
    /// The directory as it is seen.
    names: BTreeMap<String, FileId>,
    /// What a power cut leaves of the directory for certain.
    durable_names: BTreeMap<String, FileId>,
    /// What leads from `durable_names` to `names`.
    unsynced: Vec<Renaming>,
    pub(super) operations: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    pub(super) failing_syncs: u32,
    pub(super) failing_syncs_of: BTreeMap<String, u32>,
    pub(super) failing_writes: u32,
    /// The operation that fails, by its number.
    pub(super) fail_at: Option<u64>,
    /// By which operations fail by chance.
    pub(super) failing: Option<Failing>,
    pub(super) full: bool,
    /// Who has the store open.
    pub(super) holder: Option<u64>,
    /// Counts the crashes: what was opened before one is closed after it.
    pub(super) crashes: u64,
    last_id: FileId,
}

/// Chance, and how much of it.
pub(super) struct Failing {
    pub random: SmallRng,
    /// Of a thousand operations.
    pub rate: u32,
}

#[derive(Clone, Default)]
struct File {
    /// What a reader sees.
    seen: Arc<Vec<u8>>,
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What leads from `durable` to `seen`, unless a sync failed.
    unsynced: Vec<Change>,
    /// How many have it open by its id.
    readers: u32,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// A change of the directory: whole or not at all, and apart from the others.
#[derive(Clone)]
enum Renaming {
    Create { name: String, id: FileId },
    Rename { from: String, to: String, id: FileId },
    Delete { name: String, id: FileId },
}

impl Contents {
    /// A disk with just these files, all durable.
    pub(super) fn of_image(image: &Image) -> Self {
        let mut contents = Contents::default();
        for (id, (name, bytes)) in (1..).zip(image) {
            let file = File { seen: Arc::new(bytes.clone()), durable: bytes.clone(), ..File::default() };
            contents.files.insert(id, file);
            contents.names.insert(name.clone(), id);
            contents.last_id = id;
        }
        contents.durable_names = contents.names.clone();
        contents
    }

    pub(super) fn image(&self) -> Image {
        self.names.iter().map(|(name, id)| (name.clone(), self.files[id].seen.to_vec())).collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn read(&self, name: &str) -> Option<&[u8]> {
        self.names.get(name).map(|id| self.files[id].seen.as_slice())
    }

    /// What can be read of a file whatever happens to its name.
    pub(super) fn bytes(&self, id: FileId) -> Arc<Vec<u8>> {
        self.files[&id].seen.clone()
    }

    /// Keeps the file `name` until it is [closed](Self::close).
    pub(super) fn open(&mut self, name: &str) -> Option<FileId> {
        let id = *self.names.get(name)?;
        self.files.get_mut(&id).expect("a name stands for a file").readers += 1;
        Some(id)
    }

    pub(super) fn close(&mut self, id: FileId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.readers = file.readers.saturating_sub(1);
        }
        self.forget_files();
    }

    pub(super) fn create(&mut self, name: &str) -> Result<(), Fault> {
        self.begin()?;
        self.find_or_create(name);
        Ok(())
    }

    pub(super) fn write(&mut self, name: &str, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.expect_room()?;
        let id = self.find_or_create(name);
        self.change(id, Change::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub(super) fn write_to(&mut self, id: FileId, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.expect_room()?;
        self.change(id, Change::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub(super) fn truncate(&mut self, name: &str, length: usize) -> Result<(), Fault> {
        self.begin()?;
        let id = self.find_or_create(name);
        self.change(id, Change::Truncate(length));
        Ok(())
    }

    pub(super) fn truncate_opened(&mut self, id: FileId, length: usize) -> Result<(), Fault> {
        self.begin()?;
        self.change(id, Change::Truncate(length));
        Ok(())
    }

    pub(super) fn sync(&mut self, name: &str) -> Result<(), Fault> {
        self.count()?;
        let id = self.find_or_create(name);
        self.sync_file(id, name)
    }

    /// `name` is what it was opened as.
    pub(super) fn sync_opened(&mut self, id: FileId, name: &str) -> Result<(), Fault> {
        self.count()?;
        self.sync_file(id, name)
    }

    fn sync_file(&mut self, id: FileId, name: &str) -> Result<(), Fault> {
        let fails = self.fails_now();
        let file = self.files.get_mut(&id).expect("an open file is there");
        // If it fails, the changes are marked as clean all the same: no later sync will write them.
        let unsynced = std::mem::take(&mut file.unsynced);
        let failing_here = self.failing_syncs_of.get_mut(name).filter(|count| **count > 0);
        if let Some(count) = failing_here.or(Some(&mut self.failing_syncs).filter(|count| **count > 0)) {
            *count -= 1;
            return Err(Fault::Failed);
        }
        if fails {
            return Err(Fault::Failed);
        }
        for change in &unsynced {
            change.apply(&mut file.durable);
        }
        // A new file is in its directory once it was synced; to its later names that does not extend.
        let created = |renaming: &Renaming| matches!(renaming, Renaming::Create { id: created, .. } if *created == id);
        if let Some(at) = self.unsynced.iter().position(created) {
            self.unsynced.remove(at).apply(&mut self.durable_names);
        }
        Ok(())
    }

    pub(super) fn sync_directory(&mut self) -> Result<(), Fault> {
        self.begin()?;
        if self.failing_syncs > 0 {
            self.failing_syncs -= 1;
            return Err(Fault::Failed);
        }
        self.unsynced.clear();
        self.durable_names = self.names.clone();
        self.forget_files();
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<(), Fault> {
        self.begin()?;
        if let Some(id) = self.names.remove(name) {
            self.unsynced.push(Renaming::Delete { name: name.to_owned(), id });
        }
        Ok(())
    }

    /// Replaces what has the name `to`. Nothing happens if there is no `from`.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), Fault> {
        self.begin()?;
        if let Some(id) = self.names.remove(from) {
            self.names.insert(to.to_owned(), id);
            self.unsynced.push(Renaming::Rename { from: from.to_owned(), to: to.to_owned(), id });
        }
        Ok(())
    }

    pub(super) fn power_loss(&mut self, rng: &mut impl Rng) {
        for renaming in std::mem::take(&mut self.unsynced) {
            if rng.random_bool(0.5) {
                renaming.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        for file in self.files.values_mut() {
            for change in std::mem::take(&mut file.unsynced) {
                match rng.random_range(0..3) {
                    0 => {}
                    1 => change.apply(&mut file.durable),
                    _ => change.apply_torn(&mut file.durable, rng),
                }
            }
            file.seen = Arc::new(file.durable.clone());
        }
        self.process_crash();
    }

    pub(super) fn process_crash(&mut self) {
        let Contents { files, names, durable_names, unsynced, operations, crashes, last_id, .. } = std::mem::take(self);
        let crashes = crashes + 1;
        *self = Contents { files, names, durable_names, unsynced, operations, crashes, last_id, ..Contents::default() };
        self.files.values_mut().for_each(|file| file.readers = 0);
        self.forget_files();
    }

    /// Where the machine has stopped it stays so.
    pub(super) fn recover(&mut self) {
        (self.crash_at, self.fail_at, self.failing, self.full) = (None, None, None, false);
        (self.failing_syncs, self.failing_writes) = (0, 0);
        self.failing_syncs_of.clear();
    }

    pub(super) fn flip_bit(&mut self, name: &str, bit: usize) {
        let id = self.names.get(name).unwrap_or_else(|| panic!("there is no file {name}"));
        let file = self.files.get_mut(id).expect("a name stands for a file");
        for bytes in [Arc::make_mut(&mut file.seen), &mut file.durable] {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// How many bits each file has that a process on this disk would read, where it has any.
    pub(super) fn bits(&self) -> Vec<(String, usize)> {
        let bits = self.names.iter().map(|(name, id)| {
            let File { seen, durable, .. } = &self.files[id];
            (name.clone(), 8 * seen.len().min(durable.len()))
        });
        bits.filter(|(_, bits)| *bits > 0).collect()
    }

    /// Counts an operation, and says whether it takes place.
    fn begin(&mut self) -> Result<(), Fault> {
        self.count()?;
        if self.fails_now() { Err(Fault::Failed) } else { Ok(()) }
    }

    /// Counts an operation, and says whether the machine still runs.
    fn count(&mut self) -> Result<(), Fault> {
        self.operations += 1;
        self.crashed |= self.crash_at == Some(self.operations);
        if self.crashed { Err(Fault::Failed) } else { Ok(()) }
    }

    /// Whether the operation that was just counted is to fail.
    fn fails_now(&mut self) -> bool {
        let by_chance = |failing: &mut Failing| failing.random.random_range(0..1000) < failing.rate;
        self.fail_at == Some(self.operations) || self.failing.as_mut().is_some_and(by_chance)
    }

    /// Begins a write.
    fn expect_room(&mut self) -> Result<(), Fault> {
        self.begin()?;
        if self.failing_writes > 0 {
            self.failing_writes -= 1;
            return Err(Fault::Failed);
        }
        if self.full { Err(Fault::Full) } else { Ok(()) }
    }

    fn find_or_create(&mut self, name: &str) -> FileId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        self.last_id += 1;
        self.files.insert(self.last_id, File::default());
        self.names.insert(name.to_owned(), self.last_id);
        self.unsynced.push(Renaming::Create { name: name.to_owned(), id: self.last_id });
        self.last_id
    }

    fn change(&mut self, id: FileId, change: Change) {
        let file = self.files.get_mut(&id).expect("an open file is there");
        change.apply(Arc::make_mut(&mut file.seen));
        file.unsynced.push(change);
    }

    /// Files without a name, now and after any power cut, which nobody has open.
    fn forget_files(&mut self) {
        let named: BTreeSet<FileId> = self.names.values().chain(self.durable_names.values()).copied().collect();
        let renamed: BTreeSet<FileId> = self.unsynced.iter().map(Renaming::id).collect();
        self.files.retain(|id, file| named.contains(id) || renamed.contains(id) || file.readers > 0);
    }
}

impl Renaming {
    fn id(&self) -> FileId {
        match self {
            Renaming::Create { id, .. } | Renaming::Rename { id, .. } | Renaming::Delete { id, .. } => *id,
        }
    }

    /// What it makes of a directory in which those before it may not have taken place.
    fn apply(self, names: &mut BTreeMap<String, FileId>) {
        let take = |names: &mut BTreeMap<String, FileId>, name: &String, id: FileId| {
            if names.get(name) == Some(&id) {
                names.remove(name);
            }
        };
        match self {
            Renaming::Create { name, id } => drop(names.insert(name, id)),
            Renaming::Delete { name, id } => take(names, &name, id),
            Renaming::Rename { from, to, id } => {
                take(names, &from, id);
                names.insert(to, id);
            }
        }
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
