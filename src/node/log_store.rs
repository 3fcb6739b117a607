//! Keeps term, vote and log on disk.
//!
//! Parent: node. Restart: with the other keepers. Runs on a thread of its own if the storage blocks.
//! Hears: ReportTo, Persist, StoreChunk; ReadChunk from the transport; Tidy from itself.
//! Says: Persisted, ChunkStored to consensus; DiskFailed to node.
//! Lost in a crash: the write in flight. Whether it is on disk shows when the store is opened again.
//!
//! A disk error is final. The log store lets go of the store, says so once, and answers nothing any more; the node stops.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use ractor::ActorProcessingErr;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    flow::{self, Actor, Context},
    node::{
        alarm::Alarm,
        messages::{ConsensusMessage, LogStoreMessage, NodeMessage},
        shared::Shared,
    },
    raft::{CallId, Recovered, SnapshotMetadata, Write},
    storage::{Bootstrap, Received, Snapshots, Storage, StorageError, Store},
};

/// After so long without a write it is quiet enough for housekeeping.
const QUIET: Duration = Duration::from_millis(50);

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
}

impl Actor for LogStore {
    type Message = LogStoreMessage;
    type Arguments = LogStoreArguments;

    async fn start(arguments: LogStoreArguments, _: &mut Context<LogStoreMessage>) -> Result<Self, ActorProcessingErr> {
        let LogStoreArguments { shared, storage, bootstrap, root, opened } = arguments;
        match storage.open(&bootstrap) {
            Ok((store, found)) => {
                let _ = opened.send(Ok(found.recovered));
                let (last_write, tidy) = (Instant::now(), Alarm::default());
                let snapshots = storage.snapshots();
                Ok(LogStore { shared, store: Some(store), snapshots, root, consensus: None, last_write, tidy })
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
        match message {
            LogStoreMessage::ReportTo(consensus) => self.consensus = Some(consensus),
            LogStoreMessage::Persist { seq, write } => self.persist(seq, &write, context),
            LogStoreMessage::StoreChunk { call, snapshot, offset, data } => {
                self.store_chunk(call, snapshot, offset, &data, context);
            }
            LogStoreMessage::ReadChunk { snapshot, offset, length, port } => {
                self.read_chunk(&snapshot, offset, length, port, context);
            }
            LogStoreMessage::Tidy => self.tidy(context),
            LogStoreMessage::Crash => panic!("the log store was told to crash"),
        }
        Ok(())
    }
}

impl LogStore {
    fn persist(&mut self, seq: u64, write: &Write, context: &Context<LogStoreMessage>) {
        let Some(store) = &mut self.store else { return };
        if let Err(error) = store.persist(write) {
            return self.fail(error, context);
        }
        self.shared.progress.log_writes.fetch_add(1, Relaxed);
        let index = write.entries.last().map_or(0, |entry| entry.index);
        if let Some(consensus) = &self.consensus {
            let _ = consensus.send(context.origin(), ConsensusMessage::Persisted { seq, index });
        }
        self.last_write = Instant::now();
        if self.tidy.deadline().is_none() {
            self.tidy_later(self.last_write + QUIET, context);
        }
    }

    fn store_chunk(
        &mut self,
        call: CallId,
        snapshot: SnapshotMetadata,
        offset: u64,
        data: &[u8],
        context: &Context<LogStoreMessage>,
    ) {
        if self.store.is_none() {
            return;
        }
        let Received { stored, complete } = match self.snapshots.store(&snapshot, offset, data) {
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
        offset: u64,
        length: usize,
        port: oneshot::Sender<Option<Bytes>>,
        context: &Context<LogStoreMessage>,
    ) {
        if self.store.is_none() || port.is_closed() {
            return;
        }
        match self.snapshots.chunk(snapshot, offset, length) {
            Ok(chunk) => {
                // Whoever asked may have been told to stop.
                let _ = port.send(chunk);
            }
            Err(error) => self.fail(error, context),
        }
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
            Ok(false) => {}
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
        let _ = self.shared.disk_failure.set(error.clone());
        let _ = self.root.send(context.origin(), NodeMessage::DiskFailed(error));
    }
}
