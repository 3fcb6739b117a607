//! Everything that goes into the core and comes out of it. Inputs are reports, in the past tense; effects are orders.
//!
//! Their [`Display`] is one line each: what a log shows is what the golden scripts in `tests/scripts` read.

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    message::{AppendOutcome, InstallOutcome, InstallSnapshotRequest, Reply, Request},
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
    /// A peer was heard, and has this disk.
    Met {
        /// The peer.
        peer: NodeId,
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

impl Write {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.truncate_from.is_none() && self.base.is_none() && self.entries.is_empty()
    }
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
    /// The leadership stays: the other server did not catch up, or did not win, within an election timeout.
    TransferFailed {
        /// Who should have led. 0: there was nobody in touch.
        to: NodeId,
    },
    /// The snapshot was given up: there was no room for it, or nothing to take one of.
    SnapshotFailed,
}

impl Display for Input {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Input::Timeout { epoch } => write!(f, "Timeout epoch={epoch}"),
            Input::Propose { call, payload } => write!(f, "Propose call={call} {payload}"),
            Input::Read { call, lease } => write!(f, "Read call={call}{}", if *lease { " lease" } else { "" }),
            Input::ChangeMembership { call, change } => write!(f, "ChangeMembership call={call} {change}"),
            Input::TransferLeadership { call, to } => write!(f, "TransferLeadership call={call} to={}", Node(*to)),
            Input::TakeSnapshot { call } => write!(f, "TakeSnapshot call={call}"),
            Input::Request { call, from, request } => write!(f, "Request call={call} from=n{from} {request}"),
            Input::Response { from, session, reply } => write!(f, "Response from=n{from} session={session} {reply}"),
            Input::Undelivered { peer } => write!(f, "Undelivered peer=n{peer}"),
            Input::Persisted { seq } => write!(f, "Persisted seq={seq}"),
            Input::Applied { index } => write!(f, "Applied index={index}"),
            Input::SnapshotWritten { snapshot } => write!(f, "SnapshotWritten {snapshot}"),
            Input::SnapshotFailed => write!(f, "SnapshotFailed"),
            Input::ChunkStored { call, stored, complete } => {
                write!(f, "ChunkStored call={call} stored={stored}{}", if *complete { " complete" } else { "" })
            }
            Input::Restored { index } => write!(f, "Restored index={index}"),
            Input::Met { peer, incarnation } => write!(f, "Met peer=n{peer} incarnation={incarnation}"),
            Input::ToldRemoved => write!(f, "ToldRemoved"),
            Input::ToldWiped => write!(f, "ToldWiped"),
            Input::DiskFull => write!(f, "DiskFull"),
            Input::DiskFreed => write!(f, "DiskFreed"),
            Input::Lost(courier) => write!(f, "Lost {courier}"),
        }
    }
}

impl Display for Courier {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Courier::ElectionTimer => write!(f, "election timer"),
            Courier::Replicator(peer) => write!(f, "replicator n{peer}"),
            Courier::Snapshotter => write!(f, "snapshotter"),
        }
    }
}

impl Display for Effect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Effect::SetTimer { epoch, alarm, since } => write!(f, "SetTimer epoch={epoch} {alarm:?} since={since:?}"),
            Effect::Send { to, session, request } => write!(f, "Send to=n{to} session={session} {request}"),
            Effect::SendSnapshot { to, session, request } => {
                write!(f, "SendSnapshot to=n{to} session={session} term={} {}", request.term, request.snapshot)
            }
            Effect::Persist { seq, write, then } => {
                write!(f, "Persist seq={seq}{write}")?;
                then.iter().try_for_each(|effect| write!(f, " then {{{effect}}}"))
            }
            Effect::Apply { entries, calls } => {
                write!(f, "Apply {}", Entries(entries))?;
                calls.iter().try_for_each(|(index, call)| write!(f, " {index}=>call {call}"))
            }
            Effect::AnswerRead { call, read_index, lease_until } => {
                write!(f, "AnswerRead call={call} read_index={read_index}")?;
                lease_until.iter().try_for_each(|until| write!(f, " lease_until={until:?}"))
            }
            Effect::AnswerChange { call, index } => write!(f, "AnswerChange call={call} index={index}"),
            Effect::AnswerTransfer { call } => write!(f, "AnswerTransfer call={call}"),
            Effect::AnswerSnapshot { call, index } => write!(f, "AnswerSnapshot call={call} index={index}"),
            Effect::Reply { call, reply } => write!(f, "Reply call={call} {reply}"),
            Effect::Refuse { call, refusal } => write!(f, "Refuse call={call} {refusal}"),
            Effect::TakeSnapshot { last_included, membership } => {
                write!(f, "TakeSnapshot last_included={last_included} {membership}")
            }
            Effect::StoreChunk { call, snapshot, offset, data } => {
                write!(f, "StoreChunk call={call} {snapshot} offset={offset} {} bytes", data.len())
            }
            Effect::Restore { snapshot } => write!(f, "Restore {snapshot}"),
            Effect::Forget { peer } => write!(f, "Forget peer=n{peer}"),
            Effect::PeerLostData { peer } => write!(f, "PeerLostData peer=n{peer}"),
            Effect::Condemn { acknowledged, last } => write!(f, "Condemn acknowledged={acknowledged} last={last}"),
            Effect::RoleChanged { role, term, leader } => {
                write!(f, "RoleChanged {role} term={term} leader={}", Node(*leader))
            }
            Effect::MembershipChanged(membership) => write!(f, "MembershipChanged {membership}"),
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotLeader { leader } => write!(f, "NotLeader leader={}", Node(*leader)),
            Refusal::Unknown => write!(f, "Unknown"),
            Refusal::NotReady => write!(f, "NotReady"),
            Refusal::DiskFull => write!(f, "DiskFull"),
            Refusal::ChangeUnderWay { index } => write!(f, "ChangeUnderWay index={index}"),
            Refusal::NotCaughtUp { id, match_index } => write!(f, "NotCaughtUp n{id} match={match_index}"),
            Refusal::WouldStop { in_touch, needed } => write!(f, "WouldStop in_touch={in_touch} needed={needed}"),
            Refusal::IdRemoved { id } => write!(f, "IdRemoved n{id}"),
            Refusal::NoSuchServer { id } => write!(f, "NoSuchServer n{id}"),
            Refusal::AlreadyThere { id } => write!(f, "AlreadyThere n{id}"),
            Refusal::TransferFailed { to } => write!(f, "TransferFailed to=n{to}"),
            Refusal::SnapshotFailed => write!(f, "SnapshotFailed"),
        }
    }
}

/// Begins with a space where there is anything to write.
impl Display for Write {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(HardState { current_term, voted_for }) = self.hard_state {
            write!(f, " current_term={current_term} voted_for={}", Node(voted_for))?;
        }
        if let Some(index) = self.truncate_from {
            write!(f, " truncate_from={index}")?;
        }
        if let Some(Base { position, membership }) = &self.base {
            write!(f, " base={position} {membership}")?;
        }
        if !self.entries.is_empty() {
            write!(f, " {}", Entries(&self.entries))?;
        }
        Ok(())
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} term={}", self.name(), self.term())?;
        match self {
            Request::AppendEntries(request) => {
                write!(f, " prev={}@{}", request.prev_log_index, request.prev_log_term)?;
                write!(f, " {} commit={}", Entries(&request.entries), request.leader_commit)?;
                if request.read_round > 0 {
                    write!(f, " round={}", request.read_round)?;
                }
                // As a rule it says nothing new, and a log line is long enough.
                let news = request.acknowledged > request.prev_log_index;
                if news { write!(f, " acknowledged={}", request.acknowledged) } else { Ok(()) }
            }
            Request::RequestVote(request) => {
                write!(f, " last={}", request.last_log)?;
                if request.leadership_transfer { write!(f, " leadership_transfer") } else { Ok(()) }
            }
            Request::PreVote(request) => write!(f, " last={}", request.last_log),
            Request::TimeoutNow(_) | Request::ReadIndex(_) => Ok(()),
            Request::InstallSnapshot(InstallSnapshotRequest { snapshot, offset, data, .. }) => {
                write!(f, " {snapshot} offset={offset} {} bytes", data.len())
            }
        }
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let term = self.term();
        match self {
            Reply::AppendEntries(reply) => {
                write!(f, "AppendEntriesReply term={term}")?;
                match reply.outcome {
                    AppendOutcome::Matched { match_index } => write!(f, " match={match_index}")?,
                    AppendOutcome::Conflict { conflict_term, conflict_index } => {
                        write!(f, " conflict={conflict_index}@{conflict_term}")?;
                    }
                    AppendOutcome::Stale => write!(f, " stale")?,
                    AppendOutcome::Lost { last_index } => write!(f, " lost last={last_index}")?,
                }
                if reply.read_round > 0 { write!(f, " round={}", reply.read_round) } else { Ok(()) }
            }
            Reply::RequestVote(reply) => write!(f, "RequestVoteReply term={term} {}", Vote(reply.vote_granted)),
            Reply::PreVote(reply) => write!(f, "PreVoteReply term={term} {}", Vote(reply.vote_granted)),
            Reply::TimeoutNow(_) => write!(f, "TimeoutNowReply term={term}"),
            Reply::ReadIndex(reply) => match reply.read_index {
                Some(index) => write!(f, "ReadIndexReply term={term} read_index={index}"),
                None => write!(f, "ReadIndexReply term={term} refused"),
            },
            Reply::InstallSnapshot(reply) => match reply.outcome {
                InstallOutcome::Stored { offset } => write!(f, "InstallSnapshotReply term={term} stored={offset}"),
                InstallOutcome::Installed { match_index } => {
                    write!(f, "InstallSnapshotReply term={term} match={match_index}")
                }
                InstallOutcome::Stale => write!(f, "InstallSnapshotReply term={term} stale"),
            },
        }
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.position(), self.payload)
    }
}

impl Display for Payload {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Noop => write!(f, "noop"),
            Payload::Command(command) => write!(f, "{}", Printable(command)),
            Payload::OpenSession => write!(f, "open session"),
            Payload::SessionCommand(call) => {
                write!(f, "{}#{} {}", call.session, call.sequence, Printable(&call.command))
            }
            Payload::Membership(membership) => write!(f, "{membership}"),
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add { id, promote, .. } => write!(f, "add n{id}{}", if *promote { " to vote" } else { "" }),
            Change::Promote { id } => write!(f, "promote n{id}"),
            Change::Remove { id } => write!(f, "remove n{id}"),
            Change::Replace { id, .. } => write!(f, "replace n{id}"),
        }
    }
}

impl Display for SnapshotMetadata {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot={} of {} bytes", self.last_included, self.size)
    }
}

impl Display for Membership {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fn ids<'a>(servers: impl Iterator<Item = &'a NodeId>) -> String {
            servers.map(|id| format!("n{id}")).collect::<Vec<_>>().join(",")
        }
        write!(f, "voters={}", ids(self.voters.keys()))?;
        let others = [
            ("outgoing", ids(self.outgoing.keys())),
            ("learners", ids(self.learners.keys())),
            ("staged", ids(self.staged.iter())),
            ("removed", ids(self.removed.iter())),
        ];
        others.iter().filter(|(_, ids)| !ids.is_empty()).try_for_each(|(name, ids)| write!(f, " {name}={ids}"))?;
        if self.incarnations.is_empty() { Ok(()) } else { write!(f, " known={}", ids(self.incarnations.keys())) }
    }
}

struct Entries<'a>(&'a [Entry]);

impl Display for Entries<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let entries = self.0.iter().map(|entry| entry.to_string()).collect::<Vec<_>>();
        write!(f, "[{}]", entries.join(", "))
    }
}

struct Node(Option<NodeId>);

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "n{id}"),
            None => write!(f, "none"),
        }
    }
}

struct Vote(bool);

impl Display for Vote {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "granted" } else { "refused" })
    }
}

/// Text where it is text, the size where it is not: a log line must stay a line.
struct Printable<'a>(&'a Bytes);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) if text.len() <= 40 && !text.chars().any(char::is_control) => write!(f, "{text:?}"),
            _ => write!(f, "{} bytes", self.0.len()),
        }
    }
}
