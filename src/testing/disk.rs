//! A disk in memory that behaves as badly as real ones, under the real SQLite store.
//!
//! What is written can be read at once and is durable only when it was synced. [`SimulatedDisk::power_loss`] takes away
//! what was not: each such write, sector by sector, is there or is not. A sync that fails marks its writes as clean, as
//! Linux does: the next one succeeds and they are still not on the disk. New files, deletions and renamings are subject
//! to all that too: each is undone by a power cut, or is not, until its directory was synced.
//!
//! Everything is decided by the calls made and by the generator that the test passes in; one seed gives one run.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

use crate::storage::{
    SqliteStorage, StorageError,
    sqlite::files::{File, Files, Lock},
};
use contents::{Contents, Failing, Fault, FileId};
use vfs::Registration;

mod contents;
mod vfs;

/// The whole contents of a disk, by file name: what a process on it would read.
pub type Image = BTreeMap<String, Vec<u8>>;

/// A disk in memory for one node. Its clones are the same disk, which lives as long as a clone or a store on it.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Disk>);

struct Disk {
    /// Dropped first: it points to the contents.
    registration: Registration,
    contents: Arc<Mutex<Contents>>,
}

impl SimulatedDisk {
    /// An empty disk.
    #[expect(clippy::new_without_default, reason = "it registers itself with SQLite; that should show")]
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let name = format!("simulated-disk-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let contents = Arc::new(Mutex::new(Contents::default()));
        SimulatedDisk(Arc::new(Disk { registration: Registration::new(&name, contents.clone()), contents }))
    }

    /// The real SQLite store, on this disk.
    pub fn storage(&self) -> SqliteStorage {
        SqliteStorage::on(Arc::new(self.clone()))
    }

    /// Stops the machine: everything that was not synced is lost, kept, or kept in part, and whoever had the disk open has
    /// not any more. Ends all faults.
    pub fn power_loss(&self, rng: &mut impl Rng) {
        self.contents().power_loss(rng);
    }

    /// Stops the process alone: what it wrote is there, synced or not. Ends all faults.
    pub fn process_crash(&self) {
        self.contents().process_crash();
    }

    /// How many operations there were that change something: opening, writing, truncating, syncing, deleting, renaming.
    pub fn operations(&self) -> u64 {
        self.contents().operations
    }

    /// The `operation`th operation that changes something from now on is not carried out, and nothing after it, until
    /// [`power_loss`](Self::power_loss) or [`process_crash`](Self::process_crash). 1 is the next one.
    pub fn crash_at(&self, operation: u64) {
        let mut contents = self.contents();
        contents.crash_at = Some(contents.operations + operation);
    }

    /// Whether [`crash_at`](Self::crash_at) has happened.
    pub fn has_crashed(&self) -> bool {
        self.contents().crashed
    }

    /// The next `count` syncs fail, and lose what they were to sync.
    pub fn fail_syncs(&self, count: u32) {
        self.contents().failing_syncs = count;
    }

    /// The next `count` syncs of this file fail, and lose what they were to sync.
    pub fn fail_syncs_of(&self, file: &str, count: u32) {
        self.contents().failing_syncs_of.insert(file.to_owned(), count);
    }

    /// The next `count` writes fail.
    pub fn fail_writes(&self, count: u32) {
        self.contents().failing_writes = count;
    }

    /// The `operation`th operation that changes something from now on fails, and is not carried out: a sync loses what it
    /// was to sync. 1 is the next one.
    pub fn fail_at(&self, operation: u64) {
        let mut contents = self.contents();
        contents.fail_at = Some(contents.operations + operation);
    }

    /// Of a thousand operations that change something, so many fail, as drawn from `seed`. 0 ends that.
    pub fn set_failures(&self, of_a_thousand: u32, seed: u64) {
        let failing = Failing { random: SmallRng::seed_from_u64(seed), rate: of_a_thousand };
        self.contents().failing = Some(failing).filter(|failing| failing.rate > 0);
    }

    /// Whether there is no room for any write, in place or not.
    pub fn set_full(&self, full: bool) {
        self.contents().full = full;
    }

    /// Ends all faults, and what was to come of them. What a failed sync has lost stays lost.
    pub fn recover(&self) {
        self.contents().recover();
    }

    /// Flips a bit of what is durably there. Bits are counted from the lowest of byte 0.
    ///
    /// # Panics
    /// If the file is shorter.
    pub fn flip_bit(&self, file: &str, bit: usize) {
        self.contents().flip_bit(file, bit);
    }

    /// Flips one of all bits that are durably there, and says which: of which file, counted as by
    /// [`flip_bit`](Self::flip_bit). `None`: there is none. A node that runs may not read it before its next start.
    pub fn flip_any_bit(&self, rng: &mut impl Rng) -> Option<(String, usize)> {
        let mut contents = self.contents();
        let files = contents.bits();
        let all: usize = files.iter().map(|(_, bits)| bits).sum();
        let mut bit = rng.random_range(0..all.max(1));
        let (file, _) = files.into_iter().find(|(_, bits)| {
            let here = bit < *bits;
            bit -= if here { 0 } else { *bits };
            here
        })?;
        contents.flip_bit(&file, bit);
        Some((file, bit))
    }

    /// What a process on this disk would read.
    pub fn image(&self) -> Image {
        self.contents().image()
    }

    /// Replaces everything on the disk, durably. No store may be open.
    pub fn restore(&self, image: &Image) {
        let mut contents = self.contents();
        let crashes = contents.crashes + 1;
        *contents = Contents::of_image(image);
        contents.crashes = crashes;
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        lock(&self.0.contents)
    }

    fn running(&self) -> io::Result<MutexGuard<'_, Contents>> {
        let contents = self.contents();
        if contents.crashed { Err(io::Error::other("the machine has stopped")) } else { Ok(contents) }
    }

    fn opened(&self, contents: &mut Contents, name: &str) -> Option<Box<dyn File>> {
        let (id, name, crashes) = (contents.open(name)?, name.to_owned(), contents.crashes);
        Some(Box::new(SimulatedFile { disk: self.clone(), id, name, crashes }))
    }
}

/// A panic in a test leaves the contents as they were between two operations.
fn lock(contents: &Mutex<Contents>) -> MutexGuard<'_, Contents> {
    contents.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const LOCK: &str = "LOCK";

/// No file is lengthened beyond this.
const SIMULATED_LENGTH: usize = 64 << 10;

impl Files for SimulatedDisk {
    fn database(&self) -> PathBuf {
        PathBuf::from("raft.db")
    }

    fn vfs(&self) -> Option<&str> {
        Some(self.0.registration.name())
    }

    fn lock(&self) -> Result<Box<dyn Lock>, StorageError> {
        let mut contents = self.contents();
        if contents.holder.is_some() {
            return Err(StorageError::InUse { path: PathBuf::from(LOCK), owner: Some(std::process::id()) });
        }
        let found = contents.read(LOCK).map(<[u8]>::to_vec).unwrap_or_default();
        let holder = contents.operations;
        contents.holder = Some(holder);
        Ok(Box::new(SimulatedLock { disk: self.clone(), holder, found }))
    }

    fn read(&self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let contents = self.running()?;
        Ok(contents.read(name).map(|bytes| bytes[..limit.min(bytes.len())].to_vec()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.contents().sync_directory().map_err(error)
    }

    /// Not as far as on a real disk: it is for the zeros behind SQLite's log, not for speed.
    fn lengthen(&self, name: &str, size: u64) -> io::Result<()> {
        let mut contents = self.contents();
        let before = contents.read(name).map_or(0, <[u8]>::len);
        let zeros = vec![0; (size as usize).min(SIMULATED_LENGTH).saturating_sub(before)];
        let lengthened = contents.sync(name).and_then(|()| contents.write(name, before, &zeros));
        lengthened.and_then(|()| contents.sync(name)).map_err(error)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.running()?.names())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut contents = self.contents();
        contents.delete(name).and_then(|()| contents.create(name)).map_err(error)?;
        Ok(self.opened(&mut contents, name).expect("it was just created"))
    }

    fn open(&self, name: &str) -> io::Result<Option<Box<dyn File>>> {
        let mut contents = self.running()?;
        Ok(self.opened(&mut contents, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.contents().rename(from, to).map_err(error)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.contents().delete(name).map_err(error)
    }
}

/// What an operation that was not carried out looks like.
fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Full => io::ErrorKind::StorageFull.into(),
        Fault::Failed => io::Error::other("the operation was to fail"),
    }
}

/// A file that is open until the next crash.
struct SimulatedFile {
    disk: SimulatedDisk,
    id: FileId,
    name: String,
    /// How many crashes there had been.
    crashes: u64,
}

impl SimulatedFile {
    fn contents(&self) -> io::Result<MutexGuard<'_, Contents>> {
        let contents = self.disk.running()?;
        if contents.crashes == self.crashes { Ok(contents) } else { Err(io::Error::other("a crash closed the file")) }
    }
}

impl File for SimulatedFile {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.contents()?.bytes(self.id).len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.contents()?.bytes(self.id);
        let there = bytes.get(offset as usize..).unwrap_or_default();
        let read = there.len().min(buffer.len());
        buffer[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.contents()?;
        contents.write_to(self.id, offset as usize, bytes).map_err(error)
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        let mut contents = self.contents()?;
        contents.truncate_opened(self.id, size as usize).map_err(error)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut contents = self.contents()?;
        contents.sync_opened(self.id, &self.name).map_err(error)
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut contents = self.disk.contents();
        if contents.crashes == self.crashes {
            contents.close(self.id);
        }
    }
}

struct SimulatedLock {
    disk: SimulatedDisk,
    /// Tells this lock from those after a crash, which ends all locks.
    holder: u64,
    found: Vec<u8>,
}

impl Lock for SimulatedLock {
    fn found(&self) -> &[u8] {
        &self.found
    }

    fn note(&mut self, line: &[u8]) -> io::Result<()> {
        self.disk.contents().write(LOCK, 0, line).map_err(|_| io::Error::other("the write was to fail"))
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut contents = self.disk.contents();
        if contents.holder == Some(self.holder) {
            contents.holder = None;
        }
    }
}
