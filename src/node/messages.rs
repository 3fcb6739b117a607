//! Every word that the actors of a node say to each other, on one page.
//!
//! Orders are imperative (`Persist`, `Apply`, `Deliver`), reports are past tense (`Persisted`, `Applied`, `Delivered`):
//! an arrow shows its direction by its name.
//!
//! ```text
//! outside ──────────── Propose, Read, ChangeMembership, TransferLeadership, Request ──▶ consensus
//! consensus ────────── Persist, Condemn ───────────────────▶ log store ───── Persisted, DiskFull, DiskFreed ▶ consensus
//! consensus ────────── Apply ──────────────────────────────▶ applier ─────── Applied ─────────────────▶ consensus
//! consensus ────────── SetTimer ───────────────────────────▶ election timer ─ Timeout ────────────────▶ consensus
//! consensus ────────── Deliver ────────────────────────────▶ replicator n ── Delivered, Undelivered ──▶ consensus
//! transport ────────── Answered, Broken ───────────────────▶ replicator n
//! outside ──────────── Query ──────────────────────────────▶ applier
//! consensus ────────── RoleChanged, MembershipChanged, CourierRestarted, Happened ──▶ node
//! transport ────────── ToldWiped ──────────────────────────▶ consensus
//! log store ────────── DiskFailed ─────────────────────────▶ node
//! outside ──────────── Subscribe, Shutdown ────────────────▶ node
//! ```
//!
//! Every actor also hears `Crash`, which makes it panic: demonstrations and tests of the supervision say it.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    flow::{self, Mark, Message, TraceId},
    node::{
        applier::Query,
        events::{NodeEvent, Subscriber},
        ports::{ChangePort, ProposePort, ReadPort},
    },
    raft::{Alarm, Change, Entry, Incarnation, LogIndex, Membership, NodeId, Reply, Request, Role, Term, Write},
    storage::StorageError,
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
    /// A client wants to know which index it must see for a linearizable read.
    Read {
        /// Whether the leader's lease will do.
        lease: bool,
        /// Always answered.
        port: ReadPort,
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
    /// Panic.
    Crash,
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
    /// Something else happened that subscribers are told.
    Happened(NodeEvent),
    /// The disk failed; the log store has given it up.
    DiskFailed(StorageError),
    /// Panic.
    Crash,
}

fn mark(term: Term, index: LogIndex) -> Mark {
    Mark { term, index }
}

fn of_entries(entries: &[Entry]) -> Mark {
    entries.last().map_or(Mark::default(), |entry| mark(entry.term, entry.index))
}

/// The term, and the last entry that a request carries or speaks of.
fn of_request(request: &Request) -> Mark {
    let index = match request {
        Request::AppendEntries(request) => request.prev_log_index + request.entries.len() as u64,
        Request::RequestVote(request) => request.last_log.index,
        Request::PreVote(request) => request.last_log.index,
        Request::InstallSnapshot(request) => request.snapshot.last_included.index,
        Request::TimeoutNow(_) | Request::ReadIndex(_) => 0,
    };
    mark(request.term(), index)
}

fn of_reply(reply: &Reply) -> Mark {
    use crate::raft::{AppendOutcome::Matched, InstallOutcome::Installed, InstallSnapshotReply};
    let index = match reply {
        Reply::AppendEntries(reply) => match reply.outcome {
            Matched { match_index } => match_index,
            _ => 0,
        },
        Reply::ReadIndex(reply) => reply.read_index.unwrap_or(0),
        Reply::InstallSnapshot(InstallSnapshotReply { outcome: Installed { match_index }, .. }) => *match_index,
        Reply::InstallSnapshot(_) | Reply::RequestVote(_) | Reply::PreVote(_) | Reply::TimeoutNow(_) => 0,
    };
    mark(reply.term(), index)
}

impl Message for ConsensusMessage {
    fn name(&self) -> &'static str {
        match self {
            ConsensusMessage::Propose { .. } => "Propose",
            ConsensusMessage::Read { .. } => "Read",
            ConsensusMessage::ChangeMembership { .. } => "ChangeMembership",
            ConsensusMessage::TransferLeadership { .. } => "TransferLeadership",
            ConsensusMessage::CallsWaiting => "CallsWaiting",
            ConsensusMessage::ToldWiped { .. } => "ToldWiped",
            ConsensusMessage::DiskFull => "DiskFull",
            ConsensusMessage::DiskFreed => "DiskFreed",
            ConsensusMessage::Request { request, .. } => request.name(),
            ConsensusMessage::Timeout { .. } => "Timeout",
            ConsensusMessage::Delivered { .. } => "Delivered",
            ConsensusMessage::Undelivered { .. } => "Undelivered",
            ConsensusMessage::Persisted { .. } => "Persisted",
            ConsensusMessage::Applied { .. } => "Applied",
            ConsensusMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            ConsensusMessage::Request { request, .. } => of_request(request),
            ConsensusMessage::Delivered { reply, .. } => of_reply(reply),
            ConsensusMessage::Persisted { index, .. } | ConsensusMessage::Applied { index } => mark(0, *index),
            _ => Mark::default(),
        }
    }
}

impl Message for LogStoreMessage {
    fn name(&self) -> &'static str {
        match self {
            LogStoreMessage::ReportTo(_) => "ReportTo",
            LogStoreMessage::Persist { .. } => "Persist",
            LogStoreMessage::TryAgain => "TryAgain",
            LogStoreMessage::Condemn { .. } => "Condemn",
            LogStoreMessage::Tidy => "Tidy",
            LogStoreMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            LogStoreMessage::Persist { write, .. } => match (write.entries.last(), write.hard_state) {
                (Some(entry), _) => mark(entry.term, entry.index),
                (None, Some(hard_state)) => mark(hard_state.current_term, 0),
                (None, None) => Mark::default(),
            },
            _ => Mark::default(),
        }
    }
}

impl Message for ApplierMessage {
    fn name(&self) -> &'static str {
        match self {
            ApplierMessage::ReportTo(_) => "ReportTo",
            ApplierMessage::Apply { .. } => "Apply",
            ApplierMessage::Query(_) => "Query",
            ApplierMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            ApplierMessage::Apply { entries, .. } => of_entries(entries),
            ApplierMessage::Query(query) => mark(0, query.at_least()),
            _ => Mark::default(),
        }
    }
}

impl Message for ElectionTimerMessage {
    fn name(&self) -> &'static str {
        match self {
            ElectionTimerMessage::SetTimer { .. } => "SetTimer",
            ElectionTimerMessage::Woke => "Woke",
            ElectionTimerMessage::Crash => "Crash",
        }
    }
}

impl Message for ReplicatorMessage {
    fn name(&self) -> &'static str {
        match self {
            ReplicatorMessage::Deliver { .. } => "Deliver",
            ReplicatorMessage::Answered { .. } => "Answered",
            ReplicatorMessage::Broken { .. } => "Broken",
            ReplicatorMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            ReplicatorMessage::Deliver { request, .. } => of_request(request),
            ReplicatorMessage::Answered { reply, .. } => of_reply(reply),
            _ => Mark::default(),
        }
    }
}

impl Message for ServerMessage {
    fn name(&self) -> &'static str {
        match self {
            ServerMessage::Crash => "Crash",
        }
    }
}

impl Message for NodeMessage {
    fn name(&self) -> &'static str {
        match self {
            NodeMessage::Shutdown => "Shutdown",
            NodeMessage::Subscribe(_) => "Subscribe",
            NodeMessage::RoleChanged { .. } => "RoleChanged",
            NodeMessage::MembershipChanged(_) => "MembershipChanged",
            NodeMessage::CourierRestarted { .. } => "CourierRestarted",
            NodeMessage::Happened(_) => "Happened",
            NodeMessage::DiskFailed(_) => "DiskFailed",
            NodeMessage::Crash => "Crash",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            NodeMessage::RoleChanged { term, .. } => mark(*term, 0),
            _ => Mark::default(),
        }
    }
}
