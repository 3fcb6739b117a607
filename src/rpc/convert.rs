//! Messages of `proto/raft/v1` as the core's words, and back.
//!
//! What comes from the network is checked here once: a field that is missing, 0 where a number counts from 1, out of
//! range, or at odds with its neighbour is [`Malformed`], and its name is told. No input panics, here or further on:
//! terms and indexes beyond [`LARGEST`] are refused, so that nobody behind this door has to fear an overflow.
//!
//! Payloads are copied out of the receive buffer, once: a slice of it, however small, would keep all of it in memory
//! for as long as the entry is in the log.

mod entry;
mod flow;
mod node;
mod snapshot;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::pb;
use crate::{
    flow::TraceId,
    raft::{
        AppendEntriesReply, AppendEntriesRequest, AppendOutcome, LogIndex, LogPosition, NodeId, PreVoteReply,
        PreVoteRequest, ReadIndexReply, ReadIndexRequest, RequestVoteReply, RequestVoteRequest, SessionCommand, Term,
        TimeoutNowReply, TimeoutNowRequest,
    },
};

pub use flow::{
    FlowNames, FlowPart, FlowReader, KeptIncident, RemoteActor, Tree, actor_to_pb, incident_to_pb, incidents_from_pb,
    status_to_text, tree_from_pb,
};
pub use node::{event_to_pb, flow_clock, status_from_pb, status_to_pb};
pub use snapshot::{
    BackupHead, backup_head_from_pb, backup_head_to_pb, install_reply_from_pb, install_reply_to_pb,
    install_snapshot_from_pb, install_snapshot_to_pb, snapshot_from_pb, snapshot_to_pb,
};

pub use crate::raft::LARGEST;

/// A message that says something it cannot mean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Malformed {
    /// The field, with the way to it: `entries[3].payload`.
    pub field: String,
    /// What is wrong with it: "is missing", …
    pub problem: String,
}

impl Malformed {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Malformed { field: field.into(), problem: problem.into() }
    }

    pub(super) fn within(mut self, outer: impl std::fmt::Display) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

/// A number that may be 0.
fn number(field: &str, value: u64) -> Result<u64, Malformed> {
    if value > LARGEST {
        return Err(Malformed::new(field, format!("is {value}, beyond {LARGEST}")));
    }
    Ok(value)
}

/// A command of a session, as a client sends it. What the log cannot carry is refused with the field's name.
pub fn session_command_from_pb(session: pb::Session, command: Bytes) -> Result<SessionCommand, Malformed> {
    let pb::Session { id, sequence, first_unanswered } = session;
    let within = |error: Malformed| error.within("session");
    let sequence = counted("sequence", sequence).map_err(within)?;
    if first_unanswered > sequence {
        let problem = format!("is {first_unanswered}, beyond the sequence {sequence}");
        return Err(within(Malformed::new("first_unanswered", problem)));
    }
    Ok(SessionCommand { session: id, sequence, first_unanswered, command })
}

/// A number that counts from 1.
fn counted(field: &str, value: u64) -> Result<u64, Malformed> {
    if value == 0 {
        return Err(Malformed::new(field, "is 0"));
    }
    number(field, value)
}

/// A server's number.
pub(super) fn check_id(field: &str, id: NodeId) -> Result<NodeId, Malformed> {
    counted(field, id)
}

/// An index and its term, which are 0 together or not at all.
fn position(name: &str, index: LogIndex, term: Term) -> Result<LogPosition, Malformed> {
    number(&format!("{name}_index"), index)?;
    number(&format!("{name}_term"), term)?;
    if (index == 0) != (term == 0) {
        let problem = format!("is {term}, while {name}_index is {index}");
        return Err(Malformed::new(format!("{name}_term"), problem));
    }
    Ok(LogPosition { term, index })
}

/// The sender names itself twice; both must agree.
fn sender(field: &str, named: NodeId, from: NodeId) -> Result<NodeId, Malformed> {
    if named != from {
        return Err(Malformed::new(field, format!("is {named}, while header.from is {from}")));
    }
    Ok(named)
}

/// An AppendEntries as it came from node `from`, and which of its entries belong to which trace.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn append_entries_from_pb(
    from: NodeId,
    request: pb::AppendEntriesRequest,
) -> Result<(AppendEntriesRequest, Vec<(LogIndex, TraceId)>), Malformed> {
    let term = counted("term", request.term)?;
    let leader_id = sender("leader_id", request.leader_id, from)?;
    let prev = position("prev_log", request.prev_log_index, request.prev_log_term)?;
    if prev.term > term {
        return Err(Malformed::new("prev_log_term", format!("is {}, after the leader's term {term}", prev.term)));
    }
    let entries = entry::entries_from_pb(prev, term, request.entries)?;
    let leader_commit = number("leader_commit", request.leader_commit)?;
    let acknowledged = number("acknowledged", request.acknowledged)?;
    // A leader never asks about an entry that it knows to match. A server that believed more would give its disk up (L08).
    if acknowledged > prev.index {
        let problem = format!("is {acknowledged}, beyond prev_log_index {}", prev.index);
        return Err(Malformed::new("acknowledged", problem));
    }
    // About entries of this message, or, under index 0, about the message; what else they say would only take up room.
    let is_told = |index: &LogIndex| *index == 0 || entries.binary_search_by_key(index, |entry| entry.index).is_ok();
    let traces = request.traces.into_iter().filter(|trace| trace.trace_id != 0 && is_told(&trace.index));
    let traces = traces.map(|trace| (trace.index, trace.trace_id)).collect();
    let request = AppendEntriesRequest {
        term,
        leader_id,
        prev_log_index: prev.index,
        prev_log_term: prev.term,
        entries,
        leader_commit,
        read_round: request.read_round,
        acknowledged,
    };
    Ok((request, traces))
}

/// An AppendEntries on its way out.
pub fn append_entries_to_pb(
    header: pb::Header,
    request: AppendEntriesRequest,
    traces: Vec<(LogIndex, TraceId)>,
) -> pb::AppendEntriesRequest {
    pb::AppendEntriesRequest {
        header: Some(header),
        term: request.term,
        leader_id: request.leader_id,
        prev_log_index: request.prev_log_index,
        prev_log_term: request.prev_log_term,
        entries: request.entries.into_iter().map(entry::entry_to_pb).collect(),
        leader_commit: request.leader_commit,
        read_round: request.read_round,
        acknowledged: request.acknowledged,
        traces: traces.into_iter().map(|(index, trace_id)| pb::Trace { index, trace_id }).collect(),
    }
}

/// The answer to an AppendEntries.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn append_reply_from_pb(reply: &pb::AppendEntriesReply) -> Result<AppendEntriesReply, Malformed> {
    let term = counted("term", reply.term)?;
    let lost = reply.lost_last_index.map(|index| number("lost_last_index", index)).transpose()?;
    let outcome = match (reply.success, number("conflict_index", reply.conflict_index)?) {
        (false, _) if lost.is_some() => AppendOutcome::Lost { last_index: lost.unwrap_or(0) },
        (true, _) => AppendOutcome::Matched { match_index: number("match_index", reply.match_index)? },
        (false, 0) => AppendOutcome::Stale,
        (false, conflict_index) => {
            AppendOutcome::Conflict { conflict_term: number("conflict_term", reply.conflict_term)?, conflict_index }
        }
    };
    Ok(AppendEntriesReply { term, outcome, read_round: reply.read_round })
}

/// The answer to an AppendEntries on its way out. A `Stale` one is a refusal without a conflict.
pub fn append_reply_to_pb(header: pb::Header, reply: &AppendEntriesReply) -> pb::AppendEntriesReply {
    let mut message = pb::AppendEntriesReply {
        header: Some(header),
        term: reply.term,
        read_round: reply.read_round,
        ..Default::default()
    };
    match reply.outcome {
        AppendOutcome::Matched { match_index } => {
            message.success = true;
            message.match_index = match_index;
        }
        AppendOutcome::Conflict { conflict_term, conflict_index } => {
            message.conflict_term = conflict_term;
            message.conflict_index = conflict_index;
        }
        AppendOutcome::Stale => {}
        AppendOutcome::Lost { last_index } => message.lost_last_index = Some(last_index),
    }
    message
}

/// A RequestVote as it came from node `from`.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn request_vote_from_pb(from: NodeId, request: pb::RequestVoteRequest) -> Result<RequestVoteRequest, Malformed> {
    Ok(RequestVoteRequest {
        term: counted("term", request.term)?,
        candidate_id: sender("candidate_id", request.candidate_id, from)?,
        last_log: position("last_log", request.last_log_index, request.last_log_term)?,
        leadership_transfer: request.leadership_transfer,
    })
}

/// A RequestVote on its way out.
pub fn request_vote_to_pb(header: pb::Header, request: &RequestVoteRequest) -> pb::RequestVoteRequest {
    pb::RequestVoteRequest {
        header: Some(header),
        term: request.term,
        candidate_id: request.candidate_id,
        last_log_index: request.last_log.index,
        last_log_term: request.last_log.term,
        leadership_transfer: request.leadership_transfer,
    }
}

/// A PreVote as it came from node `from`.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn pre_vote_from_pb(from: NodeId, request: pb::PreVoteRequest) -> Result<PreVoteRequest, Malformed> {
    Ok(PreVoteRequest {
        term: counted("term", request.term)?,
        candidate_id: sender("candidate_id", request.candidate_id, from)?,
        last_log: position("last_log", request.last_log_index, request.last_log_term)?,
    })
}

/// A PreVote on its way out.
pub fn pre_vote_to_pb(header: pb::Header, request: &PreVoteRequest) -> pb::PreVoteRequest {
    pb::PreVoteRequest {
        header: Some(header),
        term: request.term,
        candidate_id: request.candidate_id,
        last_log_index: request.last_log.index,
        last_log_term: request.last_log.term,
    }
}

/// A TimeoutNow as it came from node `from`.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn timeout_now_from_pb(from: NodeId, request: pb::TimeoutNowRequest) -> Result<TimeoutNowRequest, Malformed> {
    let leader_id = sender("leader_id", request.leader_id, from)?;
    Ok(TimeoutNowRequest { term: counted("term", request.term)?, leader_id })
}

/// A TimeoutNow on its way out.
pub fn timeout_now_to_pb(header: pb::Header, request: &TimeoutNowRequest) -> pb::TimeoutNowRequest {
    pb::TimeoutNowRequest { header: Some(header), term: request.term, leader_id: request.leader_id }
}

/// A ReadIndex as it came.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn read_index_from_pb(request: pb::ReadIndexRequest) -> Result<ReadIndexRequest, Malformed> {
    Ok(ReadIndexRequest { term: counted("term", request.term)? })
}

/// A ReadIndex on its way out.
pub fn read_index_to_pb(header: pb::Header, request: &ReadIndexRequest) -> pb::ReadIndexRequest {
    pb::ReadIndexRequest { header: Some(header), term: request.term }
}

/// The answer to a RequestVote. Its term may be 0: a voter that has seen no term yet refuses so.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn request_vote_reply_from_pb(reply: &pb::RequestVoteReply) -> Result<RequestVoteReply, Malformed> {
    Ok(RequestVoteReply { term: number("term", reply.term)?, vote_granted: reply.vote_granted })
}

/// The answer to a RequestVote on its way out.
pub fn request_vote_reply_to_pb(header: pb::Header, reply: &RequestVoteReply) -> pb::RequestVoteReply {
    pb::RequestVoteReply { header: Some(header), term: reply.term, vote_granted: reply.vote_granted }
}

/// The answer to a PreVote. Its term is 0 at the first election.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn pre_vote_reply_from_pb(reply: &pb::PreVoteReply) -> Result<PreVoteReply, Malformed> {
    Ok(PreVoteReply { term: number("term", reply.term)?, vote_granted: reply.vote_granted })
}

/// The answer to a PreVote on its way out.
pub fn pre_vote_reply_to_pb(header: pb::Header, reply: &PreVoteReply) -> pb::PreVoteReply {
    pb::PreVoteReply { header: Some(header), term: reply.term, vote_granted: reply.vote_granted }
}

/// The answer to a TimeoutNow.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn timeout_now_reply_from_pb(reply: &pb::TimeoutNowReply) -> Result<TimeoutNowReply, Malformed> {
    Ok(TimeoutNowReply { term: number("term", reply.term)? })
}

/// The answer to a TimeoutNow on its way out.
pub fn timeout_now_reply_to_pb(header: pb::Header, reply: &TimeoutNowReply) -> pb::TimeoutNowReply {
    pb::TimeoutNowReply { header: Some(header), term: reply.term }
}

/// The answer to a ReadIndex.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn read_index_reply_from_pb(reply: &pb::ReadIndexReply) -> Result<ReadIndexReply, Malformed> {
    let read_index = reply.read_index.map(|index| number("read_index", index)).transpose()?;
    Ok(ReadIndexReply { term: number("term", reply.term)?, read_index })
}

/// The answer to a ReadIndex on its way out.
pub fn read_index_reply_to_pb(header: pb::Header, reply: &ReadIndexReply) -> pb::ReadIndexReply {
    pb::ReadIndexReply { header: Some(header), term: reply.term, read_index: reply.read_index }
}
