//! Keeps term, vote and log on disk.
//!
//! Parent: node. Restart: with the other keepers. Runs on a thread of its own if the storage blocks.
//! Hears: ReportTo, Persist, Condemn, StoreChunk; ReadChunk from the transport; TryAgain, Tidy from itself.
//! Says: Persisted, ChunkStored, DiskFull, DiskFreed to consensus; DiskFailed, Happened to node.
//! Lost in a crash: the write in flight. Whether it is on disk shows when the store is opened again.
//!
//! A disk without room is none: the write is kept and tried again until there is room, and consensus is told of both (D05).
//! Any other disk error is final. The log store lets go of the store, says so once, and answers nothing any more; the node stops.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use ractor::ActorProcessingErr;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    flow::{self, Actor, Context},
    node::{
        NodeEvent,
        alarm::Alarm,
        messages::{ChunkRead, ConsensusMessage, LogStoreMessage, NodeMessage},
        shared::Shared,
    },
    raft::{CallId, LogIndex, Recovered, SnapshotMetadata, Write},
    storage::{Bootstrap, Received, SnapshotReader, Snapshots, Storage, StorageError, Store},
};

/// After so long without a write it is quiet enough for housekeeping.
const QUIET: Duration = Duration::from_millis(50);

/// How often a write that found no room is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Why it does not start where the root did not wait for it: whatever was opened is closed again.
const GIVEN_UP: &str = "nobody waits for this opening any more";

pub(crate) struct LogStoreArguments {
    pub shared: Arc<Shared>,
    pub storage: Arc<dyn Storage>,
    pub bootstrap: Bootstrap,
    pub root: flow::Address<NodeMessage>,
    /// Told what the opening found, or why it failed.
    pub opened: oneshot::Sender<Result<Recovered, StorageError>>,
}

pub(crate) struct LogStore {
    shared: Arc<Shared>,
    /// `None` once the disk has failed.
    store: Option<Box<dyn Store>>,
    snapshots: Arc<dyn Snapshots>,
    root: flow::Address<NodeMessage>,
    consensus: Option<flow::Address<ConsensusMessage>>,
    last_write: Instant,
    tidy: Alarm,
    /// The write that found no room.
    unwritten: Option<(u64, Write)>,
    try_again: Alarm,
    storage: Arc<dyn Storage>,
    bootstrap: Bootstrap,
}

impl Actor for LogStore {
    type Message = LogStoreMessage;
    type Arguments = LogStoreArguments;

    async fn start(arguments: LogStoreArguments, _: &mut Context<LogStoreMessage>) -> Result<Self, ActorProcessingErr> {
        let LogStoreArguments { shared, storage, bootstrap, root, mut opened } = arguments;
        tokio::select! {
            biased;
            () = opened.closed() => return Err(GIVEN_UP.into()),
            () = pace(&storage) => {}
        }
        match storage.open(&bootstrap) {
            Ok((store, found)) => {
                shared.incarnation.store(found.incarnation, Relaxed);
                shared.troubles.disk_full.store(false, Relaxed);
                opened.send(Ok(found.recovered)).map_err(|_| GIVEN_UP)?;
                Ok(LogStore {
                    shared,
                    store: Some(store),
                    snapshots: storage.snapshots(),
                    root,
                    consensus: None,
                    last_write: Instant::now(),
                    tidy: Alarm::default(),
                    unwritten: None,
                    try_again: Alarm::default(),
                    storage,
                    bootstrap,
                })
            }
            Err(error) => {
                let _ = opened.send(Err(error.clone()));
                Err(error.into())
            }
        }
    }

    async fn handle(
        &mut self,
        message: LogStoreMessage,
        context: &mut Context<LogStoreMessage>,
    ) -> Result<(), ActorProcessingErr> {
        pace(&self.storage).await;
        match message {
            LogStoreMessage::ReportTo(consensus) => self.consensus = Some(consensus),
            LogStoreMessage::StoreChunk { call, snapshot, offset, data } => {
                if self.store.is_some() {
                    let stored = self.snapshots.store(&snapshot, offset, &data);
                    pace(&self.storage).await;
                    self.stored(call, snapshot, offset, stored, context);
                }
            }
            LogStoreMessage::ReadChunk { snapshot, reader, offset, length, port } => {
                self.read_chunk(&snapshot, reader, offset..offset + length as u64, port, context);
            }
            LogStoreMessage::Persist { seq, write } => self.persist(seq, write, context).await,
            LogStoreMessage::TryAgain => {
                if let Some((seq, write)) = self.unwritten.take() {
                    self.persist(seq, write, context).await;
                }
            }
            LogStoreMessage::Condemn { acknowledged, last } => self.condemn(acknowledged, last, context),
            LogStoreMessage::Tidy => self.tidy(context),
            LogStoreMessage::Crash => panic!("the log store was told to crash"),
        }
        Ok(())
    }
}

impl LogStore {
    async fn persist(&mut self, seq: u64, write: Write, context: &mut Context<LogStoreMessage>) {
        let Some(store) = &mut self.store else { return };
        let began = Instant::now();
        let persisted = store.persist(&write);
        pace(&self.storage).await;
        if persisted.is_ok() {
            self.shared.progress.fsync_times.add_shared(began.elapsed());
        }
        match persisted {
            Ok(()) => self.persisted(seq, &write, context),
            Err(StorageError::Full { path, call }) => {
                self.set_full(true, context);
                tracing::debug!(path = %path.display(), call, "no room; it is tried again");
                self.unwritten = Some((seq, write));
                let (myself, origin) = (context.myself().clone(), context.origin());
                self.try_again.set(Instant::now() + TRY_AGAIN, move || {
                    let _ = myself.send(origin, LogStoreMessage::TryAgain);
                });
            }
            Err(error) => self.fail(error, context),
        }
    }

    fn persisted(&mut self, seq: u64, write: &Write, context: &Context<LogStoreMessage>) {
        self.shared.progress.log_writes.fetch_add(1, Relaxed);
        let index = write.entries.last().map_or(0, |entry| entry.index);
        self.report(ConsensusMessage::Persisted { seq, index }, context);
        // Afterwards: a write that waited for room must not pass for one that hangs.
        self.set_full(false, context);
        self.last_write = Instant::now();
        if self.tidy.deadline().is_none() {
            self.tidy_later(self.last_write + QUIET, context);
        }
    }

    fn stored(
        &mut self,
        call: CallId,
        snapshot: SnapshotMetadata,
        offset: u64,
        stored: Result<Received, StorageError>,
        context: &Context<LogStoreMessage>,
    ) {
        let Received { stored, complete } = match stored {
            Ok(received) => received,
            Err(error @ StorageError::Full { .. }) => {
                // The sender sees that it does not get on, and tries again later; what is there shows then.
                tracing::warn!(%error, offset, "there is no room for a snapshot that is being received");
                Received { stored: offset, complete: false }
            }
            Err(error) => return self.fail(error, context),
        };
        if complete {
            self.shared.finished(&snapshot);
        }
        if let Some(consensus) = &self.consensus {
            let report = ConsensusMessage::ChunkStored { call, snapshot, stored, complete };
            let _ = consensus.send(context.origin(), report);
        }
    }

    fn read_chunk(
        &mut self,
        snapshot: &SnapshotMetadata,
        reader: Option<Box<dyn SnapshotReader>>,
        bytes: Range<u64>,
        port: oneshot::Sender<Option<ChunkRead>>,
        context: &Context<LogStoreMessage>,
    ) {
        if self.store.is_none() || port.is_closed() {
            return;
        }
        let opened = reader.map_or_else(|| self.snapshots.open(snapshot), |reader| Ok(Some(reader)));
        let read = opened.and_then(|reader| {
            let Some(mut reader) = reader else { return Ok(None) };
            let chunk = reader.chunk(bytes.start, (bytes.end - bytes.start) as usize)?;
            Ok(Some(ChunkRead { chunk, reader }))
        });
        match read {
            Ok(read) => {
                // Whoever asked may have been told to stop.
                let _ = port.send(read);
            }
            Err(error) => self.fail(error, context),
        }
    }

    /// Tells of it once, and once when it is over.
    fn set_full(&mut self, full: bool, context: &Context<LogStoreMessage>) {
        // Read first: this stands on the path of every write.
        if self.shared.troubles.disk_full.load(Relaxed) == full {
            return;
        }
        self.shared.troubles.disk_full.store(full, Relaxed);
        if full {
            tracing::warn!(code = "R016", "the disk is full; writes wait, reads go on");
        } else {
            tracing::info!("the disk has room again");
        }
        self.report(if full { ConsensusMessage::DiskFull } else { ConsensusMessage::DiskFreed }, context);
        let _ = self.root.send(context.origin(), NodeMessage::Happened(NodeEvent::DiskFull { full }));
    }

    fn report(&self, message: ConsensusMessage, context: &Context<LogStoreMessage>) {
        if let Some(consensus) = &self.consensus {
            let _ = consensus.send(context.origin(), message);
        }
    }

    /// From here on nobody opens this disk. What the next one would hear who tried is what the node ends with.
    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex, context: &Context<LogStoreMessage>) {
        let Some(mut store) = self.store.take() else { return };
        self.unwritten = None;
        self.try_again.stop();
        let condemned = store.condemn(acknowledged, last);
        drop(store);
        let error = match condemned.and_then(|()| self.storage.open(&self.bootstrap)) {
            Err(error) => error,
            Ok(_) => StorageError::LostEntries { path: "the log".into(), acknowledged, last },
        };
        self.fail(error, context);
    }

    /// Housekeeping keeps off the path of the writes: it waits for a quiet moment, and goes step by step, each behind what
    /// is queued by then.
    fn tidy(&mut self, context: &Context<LogStoreMessage>) {
        self.tidy.stop();
        let Some(store) = &mut self.store else { return };
        let quiet_from = self.last_write + QUIET;
        if Instant::now() < quiet_from {
            return self.tidy_later(quiet_from, context);
        }
        match store.tidy() {
            Ok(true) => {
                let _ = context.myself().send(context.origin(), LogStoreMessage::Tidy);
            }
            // What it would free is freed some other time.
            Ok(false) | Err(StorageError::Full { .. }) => {}
            Err(error) => self.fail(error, context),
        }
    }

    fn tidy_later(&mut self, at: Instant, context: &Context<LogStoreMessage>) {
        let (myself, origin) = (context.myself().clone(), context.origin());
        self.tidy.set(at, move || {
            let _ = myself.send(origin, LogStoreMessage::Tidy);
        });
    }

    fn fail(&mut self, error: StorageError, context: &Context<LogStoreMessage>) {
        tracing::error!(%error, "the disk failed");
        self.store = None;
        self.tidy.stop();
        self.try_again.stop();
        let _ = self.shared.disk_failure.set(error.clone());
        let _ = self.root.send(context.origin(), NodeMessage::DiskFailed(error));
    }
}

/// What a simulated disk takes. A real one has taken it already.
fn pace(storage: &Arc<dyn Storage>) -> impl Future<Output = ()> + Send + use<> {
    let pace = storage.pace();
    async {
        if let Some(pace) = pace {
            pace.await;
        }
    }
}
