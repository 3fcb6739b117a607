//! What servers say to each other: the RPCs of Figures 2 and 13, the pre-vote (thesis §9.6), the leader's request to take
//! over (thesis §3.10) and the read index (thesis §6.4).

use bytes::Bytes;

use super::types::{Entry, LogIndex, LogPosition, NodeId, SnapshotMetadata, Term};

/// Replicates entries; without entries it is a heartbeat (§5.2, §5.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendEntriesRequest {
    /// The leader's term.
    pub term: Term,
    /// So that a follower can redirect clients.
    pub leader_id: NodeId,
    /// The entry just before the new ones.
    pub prev_log_index: LogIndex,
    /// Its term.
    pub prev_log_term: Term,
    /// Without gaps, from `prev_log_index + 1` on. Empty: a heartbeat.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub leader_commit: LogIndex,
    /// The leader's read round, repeated in the reply (thesis §6.4). 0: none yet.
    pub read_round: u64,
    /// Up to here the follower has acknowledged this leader's log. One whose log is shorter has lost part of its disk,
    /// and learns it by this (L08). 0: nothing yet.
    pub acknowledged: LogIndex,
}

/// The answer to [`AppendEntriesRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppendEntriesReply {
    /// The follower's term, for the leader to update itself.
    pub term: Term,
    /// Whether the follower had the entry at `prev_log_index`, and what it has now.
    pub outcome: AppendOutcome,
    /// The request's.
    pub read_round: u64,
}

/// What became of an [`AppendEntriesRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendOutcome {
    /// The logs agree; up to `match_index` the follower's copy is on its disk.
    Matched {
        /// Never beyond the request's last entry, never beyond what is durable.
        match_index: LogIndex,
    },
    /// The follower's entry at `prev_log_index` is missing or of another term.
    Conflict {
        /// Its term there; 0 where its log is too short.
        conflict_term: Term,
        /// The first index it has of that term, or one past its log (§5.3, "by skipping a term at a time").
        conflict_index: LogIndex,
    },
    /// The request came from a deposed leader (`term` says why).
    Stale,
    /// The follower's disk lost entries that it had acknowledged; it has these, and gives up (L08).
    Lost {
        /// Its last entry.
        last_index: LogIndex,
    },
}

/// Asks for a vote (§5.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestVoteRequest {
    /// The candidate's term.
    pub term: Term,
    /// Who asks.
    pub candidate_id: NodeId,
    /// The candidate's last log entry (§5.4.1).
    pub last_log: LogPosition,
    /// The leader asked for this election; a live leader is then no reason to refuse (thesis §4.2.3).
    pub leadership_transfer: bool,
}

/// The answer to [`RequestVoteRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestVoteReply {
    /// The voter's term, for the candidate to update itself.
    pub term: Term,
    /// Whether the candidate got the vote.
    pub vote_granted: bool,
}

/// Asks whether a vote would be granted (thesis §9.6). Changes nothing at the receiver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreVoteRequest {
    /// The term the sender would campaign in.
    pub term: Term,
    /// Who asks.
    pub candidate_id: NodeId,
    /// The sender's last log entry.
    pub last_log: LogPosition,
}

/// The answer to [`PreVoteRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreVoteReply {
    /// The answerer's current term, also in a refusal: a sender that is behind learns it.
    pub term: Term,
    /// Whether it would vote for the sender.
    pub vote_granted: bool,
}

/// "Start an election now" (thesis §3.10).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimeoutNowRequest {
    /// The leader's term.
    pub term: Term,
    /// Who hands over.
    pub leader_id: NodeId,
}

/// The answer to [`TimeoutNowRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimeoutNowReply {
    /// The answerer's term.
    pub term: Term,
}

/// Asks the leader for the index at which a linearizable read may be served (thesis §6.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadIndexRequest {
    /// The follower's term.
    pub term: Term,
}

/// The answer to [`ReadIndexRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadIndexReply {
    /// The answerer's term.
    pub term: Term,
    /// `None`: the answerer does not lead, or could not show that it does.
    pub read_index: Option<LogIndex>,
}

/// One chunk of a snapshot, in order (Figure 13).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstallSnapshotRequest {
    /// The leader's term.
    pub term: Term,
    /// So that a follower can redirect clients.
    pub leader_id: NodeId,
    /// Which snapshot.
    pub snapshot: SnapshotMetadata,
    /// Where in it `data` begins.
    pub offset: u64,
    /// Bytes of it. None at `offset` 0: asks how much is there already, so that the rest alone need be sent.
    pub data: Bytes,
}

/// The answer to [`InstallSnapshotRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstallSnapshotReply {
    /// The follower's term, for the leader to update itself.
    pub term: Term,
    /// What it has now.
    pub outcome: InstallOutcome,
}

/// What became of an [`InstallSnapshotRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InstallOutcome {
    /// The follower has the snapshot's bytes before `offset` on its disk: send those from there on.
    Stored {
        /// Falls back to 0 where what had come did not fit its checksum.
        offset: u64,
    },
    /// The snapshot is installed, or was not needed: the follower's log agrees with the leader's up to here, on disk.
    Installed {
        /// May be beyond the snapshot (N06).
        match_index: LogIndex,
    },
    /// The request came from a deposed leader (`term` says why).
    Stale,
}

/// Any request between servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    #[expect(missing_docs, reason = "named after its only field")]
    AppendEntries(AppendEntriesRequest),
    #[expect(missing_docs, reason = "named after its only field")]
    RequestVote(RequestVoteRequest),
    #[expect(missing_docs, reason = "named after its only field")]
    PreVote(PreVoteRequest),
    #[expect(missing_docs, reason = "named after its only field")]
    TimeoutNow(TimeoutNowRequest),
    #[expect(missing_docs, reason = "named after its only field")]
    ReadIndex(ReadIndexRequest),
    #[expect(missing_docs, reason = "named after its only field")]
    InstallSnapshot(InstallSnapshotRequest),
}

/// Any answer between servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    #[expect(missing_docs, reason = "named after its only field")]
    AppendEntries(AppendEntriesReply),
    #[expect(missing_docs, reason = "named after its only field")]
    RequestVote(RequestVoteReply),
    #[expect(missing_docs, reason = "named after its only field")]
    PreVote(PreVoteReply),
    #[expect(missing_docs, reason = "named after its only field")]
    TimeoutNow(TimeoutNowReply),
    #[expect(missing_docs, reason = "named after its only field")]
    ReadIndex(ReadIndexReply),
    #[expect(missing_docs, reason = "named after its only field")]
    InstallSnapshot(InstallSnapshotReply),
}

impl Request {
    /// The sender's term; for a pre-vote the term it would campaign in.
    pub fn term(&self) -> Term {
        match self {
            Request::AppendEntries(request) => request.term,
            Request::RequestVote(request) => request.term,
            Request::PreVote(request) => request.term,
            Request::TimeoutNow(request) => request.term,
            Request::ReadIndex(request) => request.term,
            Request::InstallSnapshot(request) => request.term,
        }
    }

    /// The RPC's name, as in `raft.v1.Raft`.
    pub fn name(&self) -> &'static str {
        match self {
            Request::AppendEntries(_) => "AppendEntries",
            Request::RequestVote(_) => "RequestVote",
            Request::PreVote(_) => "PreVote",
            Request::TimeoutNow(_) => "TimeoutNow",
            Request::ReadIndex(_) => "ReadIndex",
            Request::InstallSnapshot(_) => "InstallSnapshot",
        }
    }
}

impl Reply {
    /// The answerer's term.
    pub fn term(&self) -> Term {
        match self {
            Reply::AppendEntries(reply) => reply.term,
            Reply::RequestVote(reply) => reply.term,
            Reply::PreVote(reply) => reply.term,
            Reply::TimeoutNow(reply) => reply.term,
            Reply::ReadIndex(reply) => reply.term,
            Reply::InstallSnapshot(reply) => reply.term,
        }
    }
}
