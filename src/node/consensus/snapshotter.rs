//! Turns states into snapshots and snapshots into states.
//!
//! Parent: consensus. Restart: alone (courier). Runs on a thread of its own if the storage blocks.
//! Hears: Write, Discard from the applier; Restore from consensus.
//! Says: SnapshotWritten, SnapshotFailed to consensus; Install to the applier; DiskFailed, RestoreFailed to node.
//! Lost in a crash: the snapshot that is being written, or the state that is being built; the core orders it anew.
//!
//! The bytes go straight through: beside the state, memory is needed for one block of them. Disk and cores are shared with
//! those whose writes somebody waits for: the snapshotter works for a tenth of the time, and rests for the others. (With a
//! million keys, and three nodes on two cores that take a snapshot at the same time, half of the time cost half of the
//! writes.)
//!
//! A panic of the user's `write` or `restore` is a courier's death. Bytes that are damaged, and a state machine that does
//! not take them, are final: the node stops and says which of the two it was.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor::ActorProcessingErr;
use tokio::time::Instant;

use crate::{
    error::NodeError,
    flow::{self, Actor, Context},
    node::{
        applier::Factory,
        messages::{ApplierMessage, ConsensusMessage, NodeMessage, SnapshotterMessage},
        shared::Shared,
        snapshot_bytes::{Rebuilt, Taken},
    },
    raft::{LogPosition, Membership, SnapshotMetadata},
    storage::{Snapshots, StorageError},
};

/// Between two blocks it is seen whether the node stops.
const BLOCK: usize = 64 << 10;
/// A rest is not taken before it is this long, so that it is not shorter than a thread can sleep.
const SHORTEST_REST: Duration = Duration::from_millis(1);
/// So many times as long as the work before it is a rest.
const RESTS: u32 = 9;
/// No rest is longer, so that a shutdown need not wait for it.
const LONGEST_REST: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(crate) struct SnapshotterArguments {
    pub shared: Arc<Shared>,
    pub snapshots: Arc<dyn Snapshots>,
    pub factory: Factory,
    /// Whether it has a thread of its own, which may sleep.
    pub own_thread: bool,
    /// Once it is set, what is under way is given up at the next block.
    pub stopping: Arc<AtomicBool>,
    pub root: flow::Address<NodeMessage>,
    pub consensus: flow::Address<ConsensusMessage>,
    pub applier: flow::Address<ApplierMessage>,
}

pub(crate) struct Snapshotter {
    told: SnapshotterArguments,
    /// The disk or a restore has failed: the node is about to stop.
    failed: bool,
}

impl Actor for Snapshotter {
    type Message = SnapshotterMessage;
    type Arguments = SnapshotterArguments;

    async fn start(
        arguments: SnapshotterArguments,
        _: &mut Context<SnapshotterMessage>,
    ) -> Result<Self, ActorProcessingErr> {
        Ok(Snapshotter { told: arguments, failed: false })
    }

    async fn handle(
        &mut self,
        message: SnapshotterMessage,
        context: &mut Context<SnapshotterMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SnapshotterMessage::Write { taken, last_included, membership } => {
                self.write(taken, last_included, membership, context);
            }
            SnapshotterMessage::Restore { snapshot } => self.restore(snapshot, context),
            SnapshotterMessage::Discard(rebuilt) => drop(rebuilt),
            SnapshotterMessage::Crash => panic!("the snapshotter was told to crash"),
        }
        Ok(())
    }
}

/// Why there is no snapshot.
enum WriteFailure {
    Disk(StorageError),
    /// The user's `write` returned an error of its own.
    Own(io::Error),
}

impl Snapshotter {
    fn write(
        &mut self,
        taken: Taken,
        last_included: LogPosition,
        membership: Arc<Membership>,
        context: &Context<SnapshotterMessage>,
    ) {
        if self.failed {
            return;
        }
        let (began, index) = (Instant::now(), last_included.index);
        let report = match self.try_write(taken, last_included, membership) {
            Ok(snapshot) => {
                let took = began.elapsed();
                tracing::info!(
                    node = self.told.shared.id(),
                    index,
                    bytes = snapshot.size,
                    ?took,
                    "a snapshot was taken"
                );
                self.told.shared.progress.snapshot_times.add_shared(took);
                self.told.shared.finished(&snapshot);
                ConsensusMessage::SnapshotWritten { snapshot }
            }
            Err(_) if self.stopping() => return,
            Err(WriteFailure::Disk(error @ StorageError::Full { .. })) => {
                tracing::warn!(index, %error, "the snapshot was given up");
                ConsensusMessage::SnapshotFailed
            }
            Err(WriteFailure::Disk(error)) => return self.fail(error.into(), context),
            Err(WriteFailure::Own(error)) => {
                tracing::error!(index, %error, "the state machine did not write its snapshot");
                ConsensusMessage::SnapshotFailed
            }
        };
        let _ = context.send(&self.told.consensus, report);
    }

    fn try_write(
        &self,
        taken: Taken,
        last_included: LogPosition,
        membership: Arc<Membership>,
    ) -> Result<SnapshotMetadata, WriteFailure> {
        let mut writer = self.told.snapshots.create().map_err(WriteFailure::Disk)?;
        let mut paced = Paced {
            to: &mut *writer,
            stopping: &self.told.stopping,
            rests: self.told.own_thread,
            works_since: Instant::now(),
            failure: None,
        };
        let written = taken.write(&mut paced).and_then(|()| paced.flush());
        if let Some(error) = paced.failure {
            return Err(WriteFailure::Disk(error));
        }
        written.map_err(WriteFailure::Own)?;
        writer.finish(last_included, membership).map_err(WriteFailure::Disk)
    }

    fn restore(&mut self, mut snapshot: SnapshotMetadata, context: &Context<SnapshotterMessage>) {
        let began = Instant::now();
        while !self.failed && !self.stopping() {
            let index = snapshot.last_included.index;
            match self.try_restore(&snapshot) {
                Ok(rebuilt) => {
                    let (took, bytes) = (began.elapsed(), snapshot.size);
                    tracing::info!(node = self.told.shared.id(), index, bytes, ?took, "a snapshot was read");
                    let install = ApplierMessage::Install { rebuilt, index, snapshotter: context.myself().clone() };
                    let _ = context.send(&self.told.applier, install);
                    return;
                }
                Err(_) if self.stopping() => {}
                Err(error) => match self.replaced(&snapshot) {
                    Some(later) => snapshot = later,
                    None => self.fail(error, context),
                },
            }
        }
    }

    /// What took the place of a snapshot while it was read: a later one that came from the leader.
    fn replaced(&self, snapshot: &SnapshotMetadata) -> Option<SnapshotMetadata> {
        if !matches!(self.told.snapshots.open(snapshot), Ok(None)) {
            return None;
        }
        // The log store may have put it there, and be about to say so.
        let later = || self.told.shared.finished_snapshot().filter(|finished| finished != snapshot);
        for _ in 0..if self.told.own_thread { 100 } else { 0 } {
            if later().is_some() {
                break;
            }
            std::thread::sleep(SHORTEST_REST);
        }
        later()
    }

    fn try_restore(&self, snapshot: &SnapshotMetadata) -> Result<Rebuilt, NodeError> {
        let bytes = self.told.snapshots.read(snapshot)?;
        let mut watched = Watched { from: bytes, stopping: &self.told.stopping, failure: None };
        let rebuilt = Rebuilt::read((self.told.factory)(), &mut watched);
        if let Some(error) = watched.failure {
            return Err(error.into());
        }
        rebuilt.map_err(|refused| refused.describe(snapshot.last_included.index))
    }

    fn stopping(&self) -> bool {
        self.told.stopping.load(Relaxed)
    }

    fn fail(&mut self, error: NodeError, context: &Context<SnapshotterMessage>) {
        tracing::error!(%error, "a snapshot failed");
        self.failed = true;
        let message = match error {
            NodeError::Storage(error) => {
                let _ = self.told.shared.disk_failure.set(error.clone());
                NodeMessage::DiskFailed(error)
            }
            other => NodeMessage::RestoreFailed(other),
        };
        let _ = context.send(&self.told.root, message);
    }
}

/// A writer that leaves disk and cores to others most of the time, gives up when the node stops, and remembers what the disk
/// said, whatever the user's `write` makes of it.
struct Paced<'a, W: Write + ?Sized> {
    to: &'a mut W,
    stopping: &'a AtomicBool,
    rests: bool,
    /// Since the last rest.
    works_since: Instant,
    failure: Option<StorageError>,
}

impl<W: Write + ?Sized> Paced<'_, W> {
    fn rest(&mut self) {
        // What the state machine did to make the bytes counts as well.
        let worked = self.works_since.elapsed();
        if self.rests && worked >= SHORTEST_REST {
            std::thread::sleep((RESTS * worked).min(LONGEST_REST));
            self.works_since = Instant::now();
        }
    }

    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failure.get_or_insert_with(|| storage_error(error, "write"));
        }
        result
    }
}

impl<W: Write + ?Sized> Write for Paced<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        give_up_if(self.stopping)?;
        let written = self.to.write(&bytes[..bytes.len().min(BLOCK)]);
        self.rest();
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.to.flush();
        self.note(flushed)
    }
}

/// A reader that gives up when the node stops, and remembers what the disk said, whatever the user's `restore` makes of it.
struct Watched<'a, R> {
    from: R,
    stopping: &'a AtomicBool,
    failure: Option<StorageError>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        give_up_if(self.stopping)?;
        let read = self.from.read(bytes);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failure.get_or_insert_with(|| storage_error(error, "read"));
        }
        read
    }
}

fn give_up_if(stopping: &AtomicBool) -> io::Result<()> {
    if stopping.load(Relaxed) { Err(io::Error::other("the node stops")) } else { Ok(()) }
}

/// What a failed read or write of a snapshot means. The storage says it itself where it can.
fn storage_error(error: &io::Error, call: &'static str) -> StorageError {
    let own = error.get_ref().and_then(|inner| inner.downcast_ref::<StorageError>());
    own.cloned().unwrap_or_else(|| {
        let (path, cause) = (PathBuf::from("snapshot"), error.to_string());
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                StorageError::Corrupt { path, place: "the snapshot's bytes".to_owned(), cause }
            }
            _ => StorageError::Failed { path, call, cause },
        }
    })
}
