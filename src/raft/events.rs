//! Everything that goes into the core and comes out of it. Inputs are reports, in the past tense; effects are orders.
//!
//! Their `Display` stands in `display`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    message::{InstallSnapshotRequest, Reply, Request},
    types::{
        CallId, Change, Entry, HardState, Incarnation, LogIndex, LogPosition, Membership, NodeId, Payload, Role,
        SnapshotMetadata, Term,
    },
};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The alarm of this epoch rang. An alarm of an earlier epoch is ignored (E12).
    Timeout {
        /// From [`Effect::SetTimer`].
        epoch: u64,
    },
    /// A client wants a command replicated, or a session opened.
    Propose {
        /// Answered by [`Effect::Apply`] or [`Effect::Refuse`].
        call: CallId,
        /// A command, with or without a session, or the opening of one.
        payload: Payload,
    },
    /// A client wants to read what is committed now, linearizably.
    Read {
        /// Answered by [`Effect::AnswerRead`] or [`Effect::Refuse`].
        call: CallId,
        /// Whether the leader's lease will do where it has one (thesis §6.4.1).
        lease: bool,
    },
    /// An operator wants the cluster's servers changed (§6).
    ChangeMembership {
        /// Answered by [`Effect::AnswerChange`] or [`Effect::Refuse`].
        call: CallId,
        /// How.
        change: Change,
    },
    /// An operator, or this server's shutdown, wants another leader (thesis §3.10).
    TransferLeadership {
        /// Answered by [`Effect::AnswerTransfer`] or [`Effect::Refuse`].
        call: CallId,
        /// Who. `None`: whoever has most of the log.
        to: Option<NodeId>,
    },
    /// An operator wants a snapshot of this server.
    TakeSnapshot {
        /// Answered by [`Effect::AnswerSnapshot`] or [`Effect::Refuse`].
        call: CallId,
    },
    /// Another server asks something.
    Request {
        /// Answered by [`Effect::Reply`].
        call: CallId,
        /// The asking server.
        from: NodeId,
        /// What it asks.
        request: Request,
    },
    /// Another server answered.
    Response {
        /// The answering server.
        from: NodeId,
        /// From the [`Effect::Send`] that it answers.
        session: u64,
        /// The answer.
        reply: Reply,
    },
    /// Requests to `peer` got lost, or may have been: its connection broke.
    Undelivered {
        /// The server that cannot be reached.
        peer: NodeId,
    },
    /// The write of this sequence number is on disk.
    Persisted {
        /// From [`Effect::Persist`].
        seq: u64,
    },
    /// The state machine has applied the log up to here.
    Applied {
        /// The last entry applied.
        index: LogIndex,
    },
    /// The snapshot that was ordered is finished and on disk.
    SnapshotWritten {
        /// What it became.
        snapshot: SnapshotMetadata,
    },
    /// The snapshot that was ordered was given up: there was no room for it.
    SnapshotFailed,
    /// A chunk is on disk, or was of no use.
    ChunkStored {
        /// From [`Effect::StoreChunk`].
        call: CallId,
        /// So many bytes of the snapshot are there. 0: what came did not fit its checksum, and is gone.
        stored: u64,
        /// The snapshot is whole, has been verified, and took the place of the one before.
        complete: bool,
    },
    /// The state machine stands at the snapshot that was ordered to be restored.
    Restored {
        /// Its last entry.
        index: LogIndex,
    },
    /// A peer has answered, with this disk.
    Met {
        /// The peer.
        peer: NodeId,
        /// The request's. An answer of an earlier session may be another disk's (L06).
        session: u64,
        /// Its disk's number.
        incarnation: Incarnation,
    },
    /// A peer says that this server was removed from the cluster (M05).
    ToldRemoved,
    /// A peer says that the cluster knows this server by another disk (M06).
    ToldWiped,
    /// There is no room for the write in flight; it is tried again until there is (D05).
    DiskFull,
    /// There is room again; the write in flight has gone through.
    DiskFreed,
    /// A courier died and was started again; what it carried is lost.
    Lost(Courier),
}

/// The actors that may die alone, because Raft itself recovers what they carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Courier {
    /// Holds the one alarm.
    ElectionTimer,
    /// Delivers requests to this peer.
    Replicator(NodeId),
    /// Turns states into bytes and back.
    Snapshotter,
}

/// Which of its two alarms the core wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// A random time within the election timeout.
    Election,
    /// The heartbeat interval.
    Heartbeat,
    /// A tenth of the heartbeat interval: by then, followers without new entries are told what is committed.
    Notice,
}

/// What is to be done. Effects of one step are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ring `alarm`'s interval after `since` (at once, if that has passed). Replaces the alarm set before.
    SetTimer {
        /// Comes back in [`Input::Timeout`].
        epoch: u64,
        /// How long.
        alarm: Alarm,
        /// On the clock of `now`.
        since: Duration,
    },
    /// Deliver `request` to `to`, behind what was sent to it before.
    Send {
        /// The addressee.
        to: NodeId,
        /// Comes back in [`Input::Response`]; an answer to another session counts for nothing.
        session: u64,
        /// What to say.
        request: Request,
    },
    /// Stream a snapshot to `to`: this server's finished one, from where the addressee's copy ends.
    SendSnapshot {
        /// The addressee.
        to: NodeId,
        /// Comes back in [`Input::Response`].
        session: u64,
        /// Its first message: it carries no bytes and asks how much is there.
        request: InstallSnapshotRequest,
    },
    /// Make `write` durable, report [`Input::Persisted`], and only then carry out `then`.
    Persist {
        /// Rises for ever, one by one. There is never more than one in flight.
        seq: u64,
        /// One transaction.
        write: Write,
        /// What must not happen before the write is on disk: replies, requests for votes.
        then: Vec<Effect>,
    },
    /// Apply these committed entries, in order.
    Apply {
        /// Without gaps behind the last ones.
        entries: Vec<Entry>,
        /// Who waits for which of them, by rising index.
        calls: Vec<(LogIndex, CallId)>,
    },
    /// The read may be served by a state machine that has applied `read_index`.
    AnswerRead {
        /// From [`Input::Read`].
        call: CallId,
        /// What was committed when the read was asked for, at least.
        read_index: LogIndex,
        /// Where it rests on the leader's lease: the answer counts only if it is ready before this moment (R04).
        lease_until: Option<Duration>,
    },
    /// The membership is as was asked for.
    AnswerChange {
        /// From [`Input::ChangeMembership`].
        call: CallId,
        /// The entry that made it so, or before which it was so already.
        index: LogIndex,
    },
    /// Another server leads, as was asked for, or is about to.
    AnswerTransfer {
        /// From [`Input::TransferLeadership`].
        call: CallId,
    },
    /// The snapshot that was asked for is there.
    AnswerSnapshot {
        /// From [`Input::TakeSnapshot`].
        call: CallId,
        /// Its last entry.
        index: LogIndex,
    },
    /// Answer another server.
    Reply {
        /// From [`Input::Request`].
        call: CallId,
        /// What to say.
        reply: Reply,
    },
    /// Tell a client that there is no success to report.
    Refuse {
        /// From [`Input::Propose`] or [`Input::Read`].
        call: CallId,
        /// Why.
        refusal: Refusal,
    },
    /// Take a snapshot of the state machine as it is once everything ordered so far is applied; then report
    /// [`Input::SnapshotWritten`] or [`Input::SnapshotFailed`]. Applying goes on meanwhile.
    TakeSnapshot {
        /// The last entry ordered so far.
        last_included: LogPosition,
        /// Who belongs to the cluster as of that entry.
        membership: Arc<Membership>,
    },
    /// Put a received chunk on disk; then report [`Input::ChunkStored`]. There is never more than one in flight.
    StoreChunk {
        /// Comes back in the report.
        call: CallId,
        /// Which snapshot. Another one than before takes its place.
        snapshot: SnapshotMetadata,
        /// Where `data` begins.
        offset: u64,
        /// Bytes of it.
        data: Bytes,
    },
    /// Put the state machine at the finished snapshot, then report [`Input::Restored`]. Nothing is applied meanwhile.
    Restore {
        /// Which.
        snapshot: SnapshotMetadata,
    },
    /// A removed server has been told, or could not be: nothing more is sent to it.
    Forget {
        /// The server.
        peer: NodeId,
    },
    /// A peer's disk lost entries that it had acknowledged; it gets no more until it is replaced (L08).
    PeerLostData {
        /// The peer.
        peer: NodeId,
    },
    /// This server's disk lost entries that it had acknowledged: it must not vote again. Mark the disk, and stop (L08).
    Condemn {
        /// What it had acknowledged.
        acknowledged: LogIndex,
        /// What it has.
        last: LogIndex,
    },
    /// This server's role, term or known leader changed.
    RoleChanged {
        /// What it is now.
        role: Role,
        /// In which term.
        term: Term,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
    /// The servers of the cluster changed, also back to what they were (§6).
    MembershipChanged(Arc<Membership>),
}

/// One transaction of the log store: first the hard state, then the truncation, then the base, then the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Write {
    /// The new term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Remove all entries from this index on.
    pub truncate_from: Option<LogIndex>,
    /// Let the log stand on this instead: the entries up to it go. Where the log does not reach so far, it is empty then.
    pub base: Option<Base>,
    /// Append these, without a gap behind what is left.
    pub entries: Vec<Entry>,
}

/// What a log stands on: the last entry that it does not have any more, because a snapshot replaced it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Base {
    /// That entry.
    pub position: LogPosition,
    /// Who belonged to the cluster as of it.
    pub membership: Arc<Membership>,
}

/// Why a client's call had no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not applied: another server leads, or none is known.
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// May have been applied: this server lost the entry's fate from sight.
    Unknown,
    /// Not applied: the leader has not yet committed an entry of its term (M01). Soon it will have.
    NotReady,
    /// Not applied: this server's disk has no room (D05).
    DiskFull,
    /// Another change of the membership is under way (M03).
    ChangeUnderWay {
        /// Its entry.
        index: LogIndex,
    },
    /// The learner has not caught up (M10).
    NotCaughtUp {
        /// The learner.
        id: NodeId,
        /// The last entry that it is known to have.
        match_index: LogIndex,
    },
    /// After the change there would be no majority that this leader is in touch with (M09).
    WouldStop {
        /// So many voters of the new configuration are in touch.
        in_touch: usize,
        /// So many make a majority of it; 0: it would have no voter.
        needed: usize,
    },
    /// The id was removed from the cluster, for good.
    IdRemoved {
        /// The id.
        id: NodeId,
    },
    /// No such server belongs to the cluster, or it is not what the change needs it to be.
    NoSuchServer {
        /// The id.
        id: NodeId,
    },
    /// A server with this id, or with this address, belongs to the cluster already.
    AlreadyThere {
        /// The one that does.
        id: NodeId,
    },
    /// The leadership stays: the other server did not catch up, or did not win, within an election timeout, or would not stand.
    TransferFailed {
        /// Who should have led. 0: there was nobody in touch.
        to: NodeId,
    },
    /// The snapshot was given up: there was no room for it, or nothing to take one of.
    SnapshotFailed,
}
