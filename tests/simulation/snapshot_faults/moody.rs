//! A disk and a state machine that do with snapshots what they are told, and else as they should.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor_raft::{
    raft::{LogIndex, LogPosition, Membership, SnapshotMetadata},
    state_machine::{RestoreError, Snapshot, StateMachine},
    storage::{
        Bootstrap, MemoryStorage, Opened, Received, SnapshotReader, SnapshotWriter, Snapshots, Storage, StorageError,
        Store,
    },
    testing::{Cluster, ClusterBuilder, Ledger, Line, Written},
};

/// What is wrong at the moment. Clones are the same.
#[derive(Clone, Default)]
pub struct Trouble(pub Arc<Troubles>);

#[derive(Default)]
pub struct Troubles {
    /// Snapshots are written, restored and stored on threads of their own.
    pub threads: AtomicBool,
    /// Who writes or begins to read a snapshot waits.
    gate: (Mutex<bool>, Condvar),
    /// So many wait there.
    pub waiting: AtomicU64,
    /// A snapshot has no end; its bytes are only counted.
    pub endless: AtomicBool,
    pub written: AtomicU64,
    pub full: AtomicBool,
    pub damaged: AtomicBool,
    pub refuses: AtomicBool,
    pub fails: AtomicBool,
    /// Once.
    pub panics: AtomicBool,
    /// What is done, once, when a state is written, restored or dropped.
    hook: Mutex<Option<(Moment, Hook)>>,
}

type Hook = Box<dyn FnOnce() + Send>;

/// When a snapshotter is in the middle of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Write,
    Restore,
    Discard,
}

impl Trouble {
    pub fn set_gate(&self, closed: bool) {
        *self.0.gate.0.lock().expect("nobody panics in there") = closed;
        self.0.gate.1.notify_all();
    }

    fn pass(&self) {
        let gate = self.0.gate.0.lock().expect("nobody panics in there");
        if *gate {
            self.0.waiting.fetch_add(1, SeqCst);
            let patience = Duration::from_secs(30);
            let waited = self.0.gate.1.wait_timeout_while(gate, patience, |closed| *closed);
            *waited.expect("nobody panics in there").0 = false;
        }
    }

    fn reached(&self, moment: Moment) {
        let mut hook = self.0.hook.lock().expect("nobody panics in there");
        if let Some((_, hook)) = hook.take_if(|(wanted, _)| *wanted == moment) {
            hook();
        }
    }

    pub fn at(&self, moment: Moment, hook: impl FnOnce() + Send + 'static) {
        *self.0.hook.lock().expect("nobody panics in there") = Some((moment, Box::new(hook)));
    }

    pub fn cluster(&self, nodes: u64, seed: u64) -> ClusterBuilder<Moody> {
        let (disks, machines) = (self.clone(), self.clone());
        Cluster::builder(move || Moody { ledger: Ledger::default(), trouble: machines.clone() })
            .nodes(nodes)
            .seed(seed)
            .storage(move |_| TroubledDisk { disk: MemoryStorage::new(), trouble: disks.clone() })
    }
}

#[derive(Clone)]
struct TroubledDisk {
    disk: MemoryStorage,
    trouble: Trouble,
}

impl Storage for TroubledDisk {
    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        self.disk.open(bootstrap)
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(TroubledSnapshots { snapshots: self.disk.snapshots(), trouble: self.trouble.clone() })
    }

    fn blocks(&self) -> bool {
        self.trouble.0.threads.load(SeqCst)
    }
}

struct TroubledSnapshots {
    snapshots: Arc<dyn Snapshots>,
    trouble: Trouble,
}

impl Snapshots for TroubledSnapshots {
    fn create(&self) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        if self.trouble.0.full.load(SeqCst) {
            return Err(StorageError::Full { path: "a small disk".into(), call: "snapshot" });
        }
        Ok(Box::new(TroubledWriter { writer: self.snapshots.create()?, trouble: self.trouble.clone() }))
    }

    fn read(&self, snapshot: &SnapshotMetadata) -> Result<Box<dyn Read + Send>, StorageError> {
        self.trouble.pass();
        let bytes = self.snapshots.read(snapshot)?;
        if !self.trouble.0.damaged.load(SeqCst) {
            return Ok(bytes);
        }
        Ok(Box::new(bytes.take(snapshot.size / 2).chain(Damage)))
    }

    fn open(&self, snapshot: &SnapshotMetadata) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        self.snapshots.open(snapshot)
    }

    fn store(&self, snapshot: &SnapshotMetadata, offset: u64, data: &[u8]) -> Result<Received, StorageError> {
        self.snapshots.store(snapshot, offset, data)
    }
}

struct Damage;

impl Read for Damage {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::InvalidData, "block 3 does not fit its checksum"))
    }
}

struct TroubledWriter {
    writer: Box<dyn SnapshotWriter>,
    trouble: Trouble,
}

impl Write for TroubledWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.trouble.pass();
        if self.trouble.0.endless.load(SeqCst) {
            self.trouble.0.written.fetch_add(bytes.len() as u64, SeqCst);
            return Ok(bytes.len());
        }
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl SnapshotWriter for TroubledWriter {
    fn finish(
        self: Box<Self>,
        last_included: LogPosition,
        membership: Arc<Membership>,
    ) -> Result<SnapshotMetadata, StorageError> {
        self.writer.finish(last_included, membership)
    }
}

/// A ledger that does as it is told, and else as it likes.
pub struct Moody {
    pub ledger: Ledger,
    trouble: Trouble,
}

pub const POISON: &str = "poison";

impl StateMachine for Moody {
    type Command = Line;
    type Output = Written;

    fn apply(&mut self, at: LogIndex, line: Line) -> Written {
        assert_ne!(line.text, POISON, "that hurts");
        self.ledger.apply(at, line)
    }

    fn snapshot(&self) -> impl Snapshot {
        MoodySnapshot(self.ledger.clone(), self.trouble.clone())
    }

    fn restore(&mut self, bytes: impl Read) -> Result<(), RestoreError> {
        if self.trouble.0.refuses.load(SeqCst) {
            return Err(RestoreError("I do not like it".to_owned()));
        }
        self.trouble.reached(Moment::Restore);
        self.ledger.restore(bytes)
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        // One that is dropped empty was never in use.
        if !self.ledger.is_empty() {
            self.trouble.reached(Moment::Discard);
        }
    }
}

struct MoodySnapshot(Ledger, Trouble);

impl Snapshot for MoodySnapshot {
    fn write(self, to: &mut dyn Write) -> io::Result<()> {
        let MoodySnapshot(ledger, trouble) = self;
        trouble.reached(Moment::Write);
        assert!(!trouble.0.panics.swap(false, SeqCst), "no mood for writing");
        if trouble.0.fails.load(SeqCst) {
            return Err(io::Error::other("no words"));
        }
        while trouble.0.endless.load(SeqCst) {
            to.write_all(&[0; 1 << 16])?;
        }
        ledger.snapshot().write(to)
    }
}
