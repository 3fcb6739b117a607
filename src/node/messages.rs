//! Every word that the actors of a node say to each other, on one page.
//!
//! Orders are imperative (`Persist`, `Apply`, `Deliver`), reports are past tense (`Persisted`, `Applied`, `Delivered`):
//! an arrow shows its direction by its name.
//!
//! ```text
//! outside ──────────── Propose, OpenSession, ProposeInSession, Read, Request ─▶ consensus
//! outside ──────────── ChangeMembership, TransferLeadership, TakeSnapshot ────▶ consensus
//! consensus ────────── Persist, Condemn ───────────────────▶ log store ───── Persisted, DiskFull, DiskFreed ▶ consensus
//! consensus ────────── Apply ──────────────────────────────▶ applier ─────── Applied ─────────────────▶ consensus
//! consensus ────────── SetTimer ───────────────────────────▶ election timer ─ Timeout ────────────────▶ consensus
//! consensus ────────── Deliver, DeliverSnapshot ───────────▶ replicator n ── Delivered, Undelivered ──▶ consensus
//! transport ────────── Answered, Broken ───────────────────▶ replicator n
//! outside ──────────── Query ──────────────────────────────▶ applier
//! consensus ────────── RoleChanged, MembershipChanged, CourierRestarted, Happened ──▶ node
//! transport ────────── ToldWiped ──────────────────────────▶ consensus
//! log store, snapshotter ─ DiskFailed; RestoreFailed ──────▶ node
//! outside ──────────── Subscribe, Shutdown ────────────────▶ node
//! ```
//! Snapshots go round: one is taken, one is received, one is restored, one is sent.
//! ```text
//! consensus ─ TakeSnapshot ─▶ applier ─ Write ─▶ snapshotter ─ SnapshotWritten, SnapshotFailed ─▶ consensus
//! consensus ─ StoreChunk ─▶ log store ─ ChunkStored ─▶ consensus
//! consensus ─ Restore ─▶ snapshotter ─ Install ─▶ applier ─ Restored ─▶ consensus
//!                                                applier ─ Discard ─▶ snapshotter
//! consensus ─ DeliverSnapshot ─▶ replicator n ─▶ transport ─ ReadChunk ─▶ log store
//! ```
//!
//! Every actor also hears `Crash`, which makes it panic: demonstrations and tests of the supervision say it.

mod words;

#[cfg(any(test, feature = "testing"))]
pub use words::vocabulary;
pub(crate) use words::{of_reply, reply_word};

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    error::NodeError,
    flow::{self, Mark, Message, TraceId},
    node::{
        applier::Query,
        events::{NodeEvent, Subscriber},
        ports::{ChangePort, ProposePort, ReadPort, SnapshotPort},
        snapshot_bytes::{Rebuilt, Taken},
    },
    raft::{
        Alarm, CallId, Change, Entry, Incarnation, InstallSnapshotRequest, LogIndex, LogPosition, Membership, NodeId,
        Reply, Request, Role, SessionCommand, SnapshotMetadata, Term, Write,
    },
    storage::{SnapshotReader, StorageError},
    transport::Breach,
};

/// What consensus hears. Of this, [`NodeRef::actor`](crate::node::NodeRef::actor) can be sent what is a
/// [`NodeRequest`](crate::node::NodeRequest).
pub(crate) enum ConsensusMessage {
    /// A client wants `command` replicated.
    Propose {
        /// Encoded.
        command: Bytes,
        /// Always answered, also when the node falls.
        port: ProposePort,
    },
    /// A client wants a session. Its id is the index in the answer (thesis §6.3).
    OpenSession {
        /// Always answered.
        port: ProposePort,
    },
    /// Clients want these commands of their sessions replicated, each applied once. They go to the log together.
    ProposeInSession {
        /// Each with its port, which is always answered.
        commands: Vec<(SessionCommand, ProposePort)>,
    },
    /// A client wants to know which index it must see for a linearizable read.
    Read {
        /// Whether the leader's lease will do.
        lease: bool,
        /// Always answered.
        port: ReadPort,
    },
    /// An operator wants a snapshot of this server.
    TakeSnapshot {
        /// Always answered.
        port: SnapshotPort,
    },
    /// An operator wants the cluster's servers changed.
    ChangeMembership {
        /// How.
        change: Change,
        /// Always answered, once the change is committed or refused.
        port: ChangePort,
    },
    /// An operator, or this node's shutdown, wants another leader.
    TransferLeadership {
        /// Who. `None`: whoever has most of the log.
        to: Option<NodeId>,
        /// Always answered.
        port: ChangePort,
    },
    /// The admission queue is not empty. One is under way at most.
    CallsWaiting,
    /// Another server asks something.
    Request {
        /// The asking server; its identity has been checked.
        from: NodeId,
        /// What it asks.
        request: Request,
        /// Which of its entries belong to which trace.
        traces: Vec<(LogIndex, TraceId)>,
        /// Dropped unanswered if consensus falls.
        port: oneshot::Sender<Reply>,
    },
    /// The alarm of this epoch rang.
    Timeout {
        /// From [`ElectionTimerMessage::SetTimer`].
        epoch: u64,
    },
    /// A peer answered a request.
    Delivered {
        /// Who.
        peer: NodeId,
        /// The request's.
        session: u64,
        /// The peer's disk. 0: it does not say.
        incarnation: Incarnation,
        /// The answer.
        reply: Reply,
    },
    /// Requests to a peer got lost, or may have been.
    Undelivered {
        /// Whom it was for.
        peer: NodeId,
        /// Why, in words.
        cause: String,
        /// Why, for those who decide.
        why: Breach,
    },
    /// A peer knows this node by another disk: `known`.
    ToldWiped {
        /// Which peer.
        peer: NodeId,
        /// The disk it knows. 0: it does not say.
        known: Incarnation,
    },
    /// There is no room for the write in flight. It is tried again and again.
    DiskFull,
    /// There is room again: the write has gone through.
    DiskFreed,
    /// A write is on disk.
    Persisted {
        /// From [`LogStoreMessage::Persist`].
        seq: u64,
        /// The last entry written; 0 if there was none.
        index: LogIndex,
    },
    /// The state machine has applied the log up to here.
    Applied {
        /// The last entry applied.
        index: LogIndex,
    },
    /// The snapshot that was ordered is on disk.
    SnapshotWritten {
        /// What it became.
        snapshot: SnapshotMetadata,
    },
    /// The snapshot that was ordered was given up.
    SnapshotFailed,
    /// A received chunk is on disk, or was of no use.
    ChunkStored {
        /// From [`LogStoreMessage::StoreChunk`].
        call: CallId,
        /// Which snapshot.
        snapshot: SnapshotMetadata,
        /// So many bytes of it are there.
        stored: u64,
        /// It is whole, and the finished one.
        complete: bool,
    },
    /// The state machine stands at the snapshot that was to be restored.
    Restored {
        /// Its last entry.
        index: LogIndex,
    },
    /// Panic.
    Crash,
}

/// A part of a snapshot, and what reads the next one.
pub(crate) struct ChunkRead {
    pub chunk: Bytes,
    pub reader: Box<dyn SnapshotReader>,
}

/// What the log store hears.
pub(crate) enum LogStoreMessage {
    /// The first message: where reports go.
    ReportTo(flow::Address<ConsensusMessage>),
    /// Make this durable, then report [`ConsensusMessage::Persisted`].
    Persist {
        /// Comes back in the report.
        seq: u64,
        /// One transaction.
        write: Write,
    },
    /// Put a received chunk on disk, then report [`ConsensusMessage::ChunkStored`].
    StoreChunk {
        /// Comes back in the report.
        call: CallId,
        /// Which snapshot it belongs to.
        snapshot: SnapshotMetadata,
        /// Where `data` begins.
        offset: u64,
        /// Bytes of it.
        data: Bytes,
    },
    /// Read a part of the finished snapshot, or of one that is open.
    ReadChunk {
        /// Which it should be.
        snapshot: SnapshotMetadata,
        /// `None`: open it first.
        reader: Option<Box<dyn SnapshotReader>>,
        /// From where on.
        offset: u64,
        /// So many bytes at most.
        length: usize,
        /// `None`: it was to be opened, and is not the finished one any more. Dropped unanswered if the disk fails.
        port: oneshot::Sender<Option<ChunkRead>>,
    },
    /// To itself, while there is no room: try the write again.
    TryAgain,
    /// Mark the disk as one that lost entries, let go of it, and say so.
    Condemn {
        /// What it had acknowledged.
        acknowledged: LogIndex,
        /// What it has.
        last: LogIndex,
    },
    /// To itself, when nothing was written for a while: one bounded step of housekeeping.
    Tidy,
    /// Panic.
    Crash,
}

/// What the applier hears.
pub(crate) enum ApplierMessage {
    /// The first message: where reports go.
    ReportTo(flow::Address<ConsensusMessage>),
    /// Apply these, answer who waits for them, then report [`ConsensusMessage::Applied`].
    Apply {
        /// Committed, without a gap behind the last ones.
        entries: Vec<Entry>,
        /// Who waits for which, by rising index.
        ports: Vec<(LogIndex, ProposePort)>,
    },
    /// Run this against the state machine as soon as it has applied enough.
    Query(Box<dyn Query>),
    /// Take the state as it is now, and let the snapshotter write it.
    TakeSnapshot {
        /// What must have been applied by now, and nothing behind it.
        last_included: LogPosition,
        /// As of that entry.
        membership: Arc<Membership>,
        /// Which life of the snapshotter.
        snapshotter: flow::Address<SnapshotterMessage>,
    },
    /// Go on with this state machine, unless what is here is ahead of it; then report [`ConsensusMessage::Restored`].
    Install {
        /// Restored from a snapshot.
        rebuilt: Rebuilt,
        /// The snapshot's last entry.
        index: LogIndex,
        /// Who takes the state machine that is not needed any more.
        snapshotter: flow::Address<SnapshotterMessage>,
    },
    /// Panic.
    Crash,
}

/// What the snapshotter hears.
pub enum SnapshotterMessage {
    /// Make a finished snapshot of this, then report [`ConsensusMessage::SnapshotWritten`].
    Write {
        /// The state, on its way to bytes.
        taken: Taken,
        /// The last entry that is in it.
        last_included: LogPosition,
        /// As of that entry.
        membership: Arc<Membership>,
    },
    /// Build a state machine from the finished snapshot, for the applier.
    Restore {
        /// Which it should be.
        snapshot: SnapshotMetadata,
    },
    /// Drop this here, where nobody waits: a large state takes long.
    Discard(Rebuilt),
    /// Panic.
    Crash,
}

/// What the election timer hears.
pub(crate) enum ElectionTimerMessage {
    /// Ring `alarm`'s interval after `since`. Replaces the alarm set before.
    SetTimer {
        /// Comes back in [`ConsensusMessage::Timeout`].
        epoch: u64,
        /// Which interval.
        alarm: Alarm,
        /// On the node's clock.
        since: std::time::Duration,
    },
    /// From its own sleep: see whether the alarm is due.
    Woke,
    /// Panic.
    Crash,
}

/// What a replicator hears.
pub(crate) enum ReplicatorMessage {
    /// Send this to the peer, behind what was sent before.
    Deliver {
        /// Comes back in [`ConsensusMessage::Delivered`].
        session: u64,
        /// What to say.
        request: Request,
        /// Which of its entries belong to which trace.
        traces: Vec<(LogIndex, TraceId)>,
    },
    /// Stream the finished snapshot to the peer, beside what is sent.
    DeliverSnapshot {
        /// Comes back in [`ConsensusMessage::Delivered`].
        session: u64,
        /// Its first message, without bytes.
        request: InstallSnapshotRequest,
    },
    /// From the transport: the peer answered.
    Answered {
        /// Which connection, counted from 1.
        connection: u64,
        /// The request's.
        session: u64,
        /// The peer's disk. 0: it does not say.
        incarnation: Incarnation,
        /// The answer.
        reply: Reply,
    },
    /// From the transport: the connection broke.
    Broken {
        /// Which connection, counted from 1.
        connection: u64,
        /// Why, in words.
        cause: String,
        /// Why, for those who decide.
        why: Breach,
    },
    /// Panic.
    Crash,
}

/// What the server hears. Its requests go from the transport straight to consensus.
pub(crate) enum ServerMessage {
    /// Panic.
    Crash,
}

/// What the root of the tree hears.
pub(crate) enum NodeMessage {
    /// Stop everything, in order.
    Shutdown,
    /// Tell this actor what happens from now on, and first what is.
    Subscribe(Subscriber),
    /// This server's role, term or known leader changed.
    RoleChanged {
        /// What it is now.
        role: Role,
        /// In which term.
        term: Term,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
    /// The servers of the cluster changed.
    MembershipChanged(Membership),
    /// Consensus started a courier again.
    CourierRestarted {
        /// Its place in the tree.
        path: String,
        /// Why it died.
        cause: String,
    },
    /// To itself, when the keepers have stopped: start them anew.
    StartKeepers {
        /// Which of them fell, and why; the first first.
        deaths: Vec<(&'static str, String)>,
    },
    /// Something else happened that subscribers are told.
    Happened(NodeEvent),
    /// The disk failed; whoever says it has given it up.
    DiskFailed(StorageError),
    /// The state machine cannot be put at the finished snapshot.
    RestoreFailed(NodeError),
    /// Panic.
    Crash,
}
