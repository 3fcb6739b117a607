//! What consensus has to do with snapshots: orders to those who carry the bytes, and their reports.
//!
//! The bytes themselves never come by here, but for a chunk that the leader sent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use bytes::Bytes;

use super::{Call, Consensus, is_current};
use crate::{
    error::SnapshotError,
    flow::{Context, Origin},
    node::{
        NodeEvent,
        messages::{
            ApplierMessage, ConsensusMessage, LogStoreMessage, NodeMessage, ReplicatorMessage, SnapshotterMessage,
        },
        ports::SnapshotPort,
    },
    raft::{CallId, Input, InstallSnapshotRequest, LogIndex, LogPosition, Membership, NodeId, SnapshotMetadata},
};

/// Tells the snapshotter, which may be in the middle of a gigabyte, that the node stops. Said at the latest when
/// consensus is gone, however it went.
pub(super) struct Stopping(pub Arc<AtomicBool>);

impl Stopping {
    pub(super) fn say(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        self.say();
    }
}

/// Orders.
impl Consensus {
    pub(super) fn take_snapshot(&self, last_included: LogPosition, membership: Arc<Membership>, origin: Origin) {
        let snapshotter = self.snapshotter.address.clone();
        let order = ApplierMessage::TakeSnapshot { last_included, membership, snapshotter };
        let _ = self.applier.send(origin, order);
    }

    pub(super) fn store_chunk(
        &self,
        call: CallId,
        snapshot: SnapshotMetadata,
        offset: u64,
        data: Bytes,
        origin: Origin,
    ) {
        let _ = self.log_store.send(origin, LogStoreMessage::StoreChunk { call, snapshot, offset, data });
    }

    pub(super) fn restore(&self, snapshot: SnapshotMetadata, origin: Origin) {
        self.snapshotter.send(origin, SnapshotterMessage::Restore { snapshot });
    }

    pub(super) fn deliver_snapshot(&self, to: NodeId, session: u64, request: InstallSnapshotRequest, origin: Origin) {
        // As for any request: a peer that has only just been added has no replicator yet.
        if let Some(replicator) = self.replicators.get(&to) {
            replicator.send(origin, ReplicatorMessage::DeliverSnapshot { session, request });
        }
    }

    pub(super) fn answer_snapshot(&mut self, call: CallId, index: LogIndex) {
        if let Some(Call::TakeSnapshot(port)) = self.calls.remove(&call) {
            port.answer(Ok(index));
        }
    }

    pub(super) fn refuse_snapshot(&self, port: SnapshotPort) {
        port.answer(Err(SnapshotError::Failed { node: self.shared.id() }));
    }
}

/// Reports, and the operator's call.
impl Consensus {
    pub(super) fn snapshot_asked(&mut self, mut port: SnapshotPort, context: &mut Context<ConsensusMessage>) {
        port.take(self.shared.id());
        let call = self.wait(Call::TakeSnapshot(port));
        self.step(Input::TakeSnapshot { call }, context);
    }

    pub(super) fn snapshot_written(&mut self, snapshot: SnapshotMetadata, context: &mut Context<ConsensusMessage>) {
        if is_current(self.snapshotter.sender(), context) {
            let index = snapshot.last_included.index;
            let _ = context.send(&self.root, NodeMessage::Happened(NodeEvent::SnapshotTaken { index }));
            self.step(Input::SnapshotWritten { snapshot }, context);
        }
    }

    pub(super) fn snapshot_failed(&mut self, context: &mut Context<ConsensusMessage>) {
        if is_current(self.snapshotter.sender(), context) {
            self.step(Input::SnapshotFailed, context);
        }
    }

    pub(super) fn chunk_stored(
        &mut self,
        call: CallId,
        snapshot: &SnapshotMetadata,
        stored: u64,
        complete: bool,
        context: &mut Context<ConsensusMessage>,
    ) {
        if is_current(self.log_store.identity(), context) {
            if complete {
                self.received = Some(snapshot.last_included.index);
            }
            self.step(Input::ChunkStored { call, stored, complete }, context);
        }
    }

    pub(super) fn restored(&mut self, index: LogIndex, context: &mut Context<ConsensusMessage>) {
        if is_current(self.applier.identity(), context) {
            // After a start it is this server's own that is restored.
            if self.received.take_if(|received| *received == index).is_some() {
                let _ = context.send(&self.root, NodeMessage::Happened(NodeEvent::SnapshotInstalled { index }));
            }
            self.traces.forget_up_to(index);
            self.step(Input::Restored { index }, context);
        }
    }
}
