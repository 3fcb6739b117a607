//! A [`Storage`] in one append-only file, and what a store has to get right.
//!
//! Each write is one record at the end of `journal` (`frames.rs`, `records.rs`), and returns when that is
//! synced: a write is whole or it is not there. At a start the records are read from the first to the last; what they amount to
//! is kept in a [`MemoryStorage`], which knows what each kind of write means. Once most of the file is of no use any more, it
//! is written anew beside itself and renamed.
//!
//! What it is not: fast (each byte is written twice in the end, and a snapshot is one record), or for states that do not fit
//! into memory twice. A full disk is final here ([`StorageError::Full`] would let the node go on); damage in the very last
//! record cannot be told from a write that a power cut tore, and is taken for that.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ractor_raft::{
    raft::{Base, LogIndex, LogPosition, Membership, Recovered, SnapshotMetadata, Write},
    storage::{
        Bootstrap, Identity, MemoryStorage, Opened, Received, SnapshotReader, SnapshotWriter, Snapshots, Storage,
        StorageError, Store,
    },
};

use super::{
    frames::{Journal, framed, read},
    records::{Chunk, Condemned, Created, Point, What},
};

/// A journal that has grown by this, and to twice its size, is written anew.
const GROWTH: u64 = 16 << 10;

/// A disk that is a directory with a journal in it.
pub struct JournalStorage {
    directory: PathBuf,
    disk: Shared,
}

/// `None` while no store is open.
type Shared = Arc<Mutex<Option<Disk>>>;

struct Disk {
    directory: PathBuf,
    file: File,
    length: u64,
    /// The journal's length when it was last written anew.
    rewritten: u64,
    created: Created,
    /// What the records amount to.
    memory: MemoryStorage,
    /// The first error, for ever after: a failed sync that is repeated "succeeds", and the data is gone.
    poison: Option<StorageError>,
    /// Held until it is dropped.
    _lock: File,
}

impl JournalStorage {
    /// In this directory, which need not be there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        JournalStorage { directory: directory.into(), disk: Shared::default() }
    }
}

impl Storage for JournalStorage {
    fn owner(&self) -> Result<Option<Identity>, StorageError> {
        let path = journal(&self.directory);
        let first = read(&path)?.records.into_iter().next();
        first
            .map(|first| created(first, &path))
            .transpose()
            .map(|created| created.map(|it| Bootstrap::from(it).identity))
    }

    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        let (directory, path) = (self.directory.clone(), journal(&self.directory));
        fs::create_dir_all(&directory).map_err(|cause| failed(&directory, "create", &cause))?;
        let lock = lock(&directory)?;
        let Journal { records, whole } = read(&path)?;
        let open = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = open.map_err(|cause| failed(&path, "open", &cause))?;
        // What a power cut tore was never acknowledged. What was read might be in the page cache only: a node that acted
        // on it could lose it again, so it is made durable before anybody sees it.
        let settled = file.set_len(whole).and_then(|()| file.sync_all()).and_then(|()| sync_directory(&directory));
        settled.map_err(|cause| failed(&path, "sync", &cause))?;
        let mut records = records.into_iter();
        let first = records.next();
        let is_new = first.is_none();
        let created = first.map_or_else(|| Ok(Created::from(bootstrap)), |first| created(first, &path))?;
        let memory = MemoryStorage::new();
        let recorded = Bootstrap::from(created.clone());
        expect_same(&recorded.identity, &bootstrap.identity, &path)?;
        replay(&memory, &recorded, records, &path)?;
        let (store, opened) = memory.open(&recorded)?;
        let (rewritten, poison) = (whole, None);
        let mut disk = Disk { directory, file, length: whole, rewritten, created, memory, poison, _lock: lock };
        if is_new {
            disk.append(What::Created(disk.created.clone()))?;
        }
        *locked(&self.disk) = Some(disk);
        Ok((Box::new(JournalStore { memory: store, disk: self.disk.clone() }), opened))
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(JournalSnapshots { directory: self.directory.clone(), disk: self.disk.clone() })
    }
}

/// Tells the memory everything that the journal says.
fn replay(
    memory: &MemoryStorage,
    recorded: &Bootstrap,
    records: impl Iterator<Item = What>,
    path: &Path,
) -> Result<(), StorageError> {
    let (mut store, _) = memory.open(recorded)?;
    let snapshots = memory.snapshots();
    for (place, what) in records.enumerate() {
        match what {
            What::Write(write) => {
                let unknown = || corrupt(path, place + 1, "it has an entry of an unknown kind");
                store.persist(&write.decoded().ok_or_else(unknown)?)?;
            }
            What::Taken(chunk) => {
                let (metadata, data) = chunk.decoded();
                let mut writer = snapshots.create()?;
                writer.write_all(&data).map_err(|cause| failed(path, "replay", &cause))?;
                writer.finish(metadata.last_included, metadata.membership)?;
            }
            What::Stored(chunk) => {
                let offset = chunk.offset;
                let (metadata, data) = chunk.decoded();
                snapshots.store(&metadata, offset, &data)?;
            }
            What::Condemned(Condemned { acknowledged, last }) => {
                return Err(StorageError::LostEntries { path: path.to_owned(), acknowledged, last });
            }
            What::Created(_) => return Err(corrupt(path, place + 1, "the journal begins a second time")),
        }
    }
    Ok(())
}

impl Disk {
    /// Makes a record durable.
    fn append(&mut self, what: What) -> Result<(), StorageError> {
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        let record = framed(what);
        let written = self.file.write_all(&record).and_then(|()| self.file.sync_data());
        self.length += record.len() as u64;
        written.map_err(|cause| self.give_up("append", &cause))
    }

    fn give_up(&mut self, call: &'static str, cause: &io::Error) -> StorageError {
        self.poison.insert(failed(&journal(&self.directory), call, cause)).clone()
    }

    /// Whether most of the journal is of no use. A snapshot that is being received is in many records: it is waited for.
    fn is_worth_rewriting(&self) -> bool {
        let has_grown = self.length >= 2 * self.rewritten && self.length >= self.rewritten + GROWTH;
        has_grown && self.memory.contents().is_some_and(|contents| contents.receiving.is_none())
    }

    /// Writes down what the records amount to, in place of the records.
    fn rewrite(&mut self) -> io::Result<()> {
        let Recovered { hard_state, base, membership, entries, snapshot, .. } =
            self.memory.contents().expect("a store is open");
        let mut bytes = framed(What::Created(self.created.clone()));
        if let Some(snapshot) = snapshot {
            let mut data = Vec::new();
            self.memory.snapshots().read(&snapshot).map_err(io::Error::other)?.read_to_end(&mut data)?;
            bytes.extend(framed(What::Taken(Chunk::new(&snapshot, 0, data.into()))));
        }
        let base = (base.index > 0).then(|| Base { position: base, membership: membership.into() });
        let write = Write { hard_state: Some(hard_state), base, entries, ..Write::default() };
        bytes.extend(framed(What::Write((&write).into())));
        let beside = self.directory.join("journal.new");
        let mut file = File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, journal(&self.directory))?;
        sync_directory(&self.directory)?;
        (self.file, self.length, self.rewritten) = (file, bytes.len() as u64, bytes.len() as u64);
        Ok(())
    }
}

/// The open journal, with the memory that says what a write means.
struct JournalStore {
    memory: Box<dyn Store>,
    disk: Shared,
}

impl JournalStore {
    /// The memory comes first: it refuses what makes no sense. Where the journal fails, it is not asked again.
    fn both(
        &mut self,
        change: impl FnOnce(&mut dyn Store) -> Result<(), StorageError>,
        what: What,
    ) -> Result<(), StorageError> {
        let mut disk = locked(&self.disk);
        let disk = disk.as_mut().expect("it is open until this store is dropped");
        if let Some(error) = &disk.poison {
            return Err(error.clone());
        }
        change(&mut *self.memory)?;
        disk.append(what)
    }
}

impl Store for JournalStore {
    fn persist(&mut self, write: &Write) -> Result<(), StorageError> {
        self.both(|memory| memory.persist(write), What::Write(write.into()))
    }

    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex) -> Result<(), StorageError> {
        self.both(|memory| memory.condemn(acknowledged, last), What::Condemned(Condemned { acknowledged, last }))
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        let mut disk = locked(&self.disk);
        let disk = disk.as_mut().expect("it is open until this store is dropped");
        if let Some(error) = &disk.poison {
            return Err(error.clone());
        }
        if disk.is_worth_rewriting()
            && let Err(cause) = disk.rewrite()
        {
            return Err(disk.give_up("rewrite", &cause));
        }
        Ok(false)
    }
}

impl Drop for JournalStore {
    fn drop(&mut self) {
        locked(&self.disk).take();
    }
}

struct JournalSnapshots {
    directory: PathBuf,
    disk: Shared,
}

impl JournalSnapshots {
    /// Does something with the disk, if it is open and was not given up.
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T, StorageError>) -> Result<T, StorageError> {
        match &mut *locked(&self.disk) {
            Some(Disk { poison: Some(error), .. }) => Err(error.clone()),
            Some(disk) => act(disk),
            None => Err(failed(&journal(&self.directory), "snapshot", &io::Error::other("the store is closed"))),
        }
    }

    fn in_memory(&self) -> Result<Arc<dyn Snapshots>, StorageError> {
        match &*locked(&self.disk) {
            Some(disk) => Ok(disk.memory.snapshots()),
            None => Err(failed(&journal(&self.directory), "snapshot", &io::Error::other("the store is closed"))),
        }
    }
}

impl Snapshots for JournalSnapshots {
    fn create(&self) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let memory = self.with(|disk| disk.memory.snapshots().create())?;
        let this = JournalSnapshots { directory: self.directory.clone(), disk: self.disk.clone() };
        Ok(Box::new(JournalWriter { memory, snapshots: this, bytes: Vec::new() }))
    }

    fn read(&self, snapshot: &SnapshotMetadata) -> Result<Box<dyn Read + Send>, StorageError> {
        self.in_memory()?.read(snapshot)
    }

    fn open(&self, snapshot: &SnapshotMetadata) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        self.in_memory()?.open(snapshot)
    }

    fn store(&self, snapshot: &SnapshotMetadata, offset: u64, data: &[u8]) -> Result<Received, StorageError> {
        let chunk = Chunk::new(snapshot, offset, Bytes::copy_from_slice(data));
        self.with(|disk| {
            let received = disk.memory.snapshots().store(snapshot, offset, data)?;
            disk.append(What::Stored(chunk))?;
            Ok(received)
        })
    }
}

struct JournalWriter {
    memory: Box<dyn SnapshotWriter>,
    snapshots: JournalSnapshots,
    bytes: Vec<u8>,
}

impl io::Write for JournalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.memory.write_all(bytes)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter for JournalWriter {
    fn finish(
        self: Box<Self>,
        last_included: LogPosition,
        membership: Arc<Membership>,
    ) -> Result<SnapshotMetadata, StorageError> {
        let JournalWriter { memory, snapshots, bytes } = *self;
        snapshots.with(|disk| {
            let metadata = memory.finish(last_included, membership)?;
            disk.append(What::Taken(Chunk::new(&metadata, 0, bytes.into())))?;
            Ok(metadata)
        })
    }
}

impl Chunk {
    fn new(snapshot: &SnapshotMetadata, offset: u64, data: Bytes) -> Self {
        let SnapshotMetadata { last_included, membership, size, checksum } = snapshot;
        let last_included = Some(Point::new(*last_included, membership));
        Chunk { last_included, size: *size, checksum: *checksum, offset, data }
    }

    fn decoded(self) -> (SnapshotMetadata, Bytes) {
        let point = self.last_included.unwrap_or_default();
        let (last_included, membership) = (point.position(), point.membership());
        (SnapshotMetadata { last_included, membership, size: self.size, checksum: self.checksum }, self.data)
    }
}

fn created(first: What, path: &Path) -> Result<Created, StorageError> {
    match first {
        What::Created(created) => Ok(created),
        _ => Err(corrupt(path, 0, "it does not say whose journal this is")),
    }
}

fn expect_same(found: &Identity, opener: &Identity, path: &Path) -> Result<(), StorageError> {
    if found == opener {
        return Ok(());
    }
    let (path, node, cluster) = (path.to_owned(), opener.node_id, opener.cluster_id);
    Err(StorageError::Foreign { path, node, cluster, found_node: found.node_id, found_cluster: found.cluster_id })
}

/// Ends with the file that it returns, however the process ends. Whoever comes second reads there who was first.
fn lock(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|cause| failed(&path, "open", &cause))?;
    match file.try_lock() {
        Ok(()) => {
            let signed = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            signed.map(|()| file).map_err(|cause| failed(&path, "sign", &cause))
        }
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&path).ok().and_then(|pid| pid.parse().ok());
            Err(StorageError::InUse { path: directory.to_owned(), owner })
        }
        Err(TryLockError::Error(cause)) => Err(failed(&path, "lock", &cause)),
    }
}

/// A new name in a directory is durable when the directory is.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn journal(directory: &Path) -> PathBuf {
    directory.join("journal")
}

/// Nothing is half done in there when somebody panics: what came of it is in the file or not.
fn locked(disk: &Shared) -> MutexGuard<'_, Option<Disk>> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn failed(path: &Path, call: &'static str, cause: &io::Error) -> StorageError {
    StorageError::Failed { path: path.to_owned(), call, cause: cause.to_string() }
}

pub fn corrupt(path: &Path, record: usize, cause: &str) -> StorageError {
    StorageError::Corrupt { path: path.to_owned(), place: format!("record {record}"), cause: cause.to_owned() }
}
