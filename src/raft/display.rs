//! Inputs, effects and what they carry in one line each: what a log shows is what the golden scripts in `tests/scripts` read.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::fmt::{self, Display, Formatter};

use bytes::Bytes;

use super::{events::*, message::*, types::*};

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
            Input::Met { peer, session, incarnation } => {
                write!(f, "Met peer=n{peer} session={session} incarnation={incarnation}")
            }
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
            ("known", ids(self.incarnations.keys())),
            ("unsettled", ids(self.unsettled.iter())),
        ];
        others.iter().filter(|(_, ids)| !ids.is_empty()).try_for_each(|(name, ids)| write!(f, " {name}={ids}"))
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
