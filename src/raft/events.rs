//! Everything that goes into the core and comes out of it. Inputs are reports, in the past tense; effects are orders.
//!
//! Their [`Display`] is one line each: what a log shows is what the golden scripts in `tests/scripts` read.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use bytes::Bytes;

use super::{
    message::{AppendOutcome, Reply, Request},
    types::{CallId, Entry, HardState, LogIndex, Membership, NodeId, Payload, Role, Term},
};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The alarm of this epoch rang. An alarm of an earlier epoch is ignored (E12).
    Timeout {
        /// From [`Effect::SetTimer`].
        epoch: u64,
    },
    /// A client wants `command` replicated.
    Propose {
        /// Answered by [`Effect::Apply`] or [`Effect::Refuse`].
        call: CallId,
        /// Opaque.
        command: Bytes,
    },
    /// A client wants to read what is committed now, linearizably.
    Read {
        /// Answered by [`Effect::AnswerRead`] or [`Effect::Refuse`].
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
    MembershipChanged(Membership),
}

/// One transaction of the log store: first the hard state, then the truncation, then the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Write {
    /// The new term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Remove all entries from this index on.
    pub truncate_from: Option<LogIndex>,
    /// Append these, without a gap behind what is left.
    pub entries: Vec<Entry>,
}

impl Write {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.truncate_from.is_none() && self.entries.is_empty()
    }
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
}

impl Display for Input {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Input::Timeout { epoch } => write!(f, "Timeout epoch={epoch}"),
            Input::Propose { call, command } => write!(f, "Propose call={call} {}", Printable(command)),
            Input::Read { call } => write!(f, "Read call={call}"),
            Input::Request { call, from, request } => write!(f, "Request call={call} from=n{from} {request}"),
            Input::Response { from, session, reply } => write!(f, "Response from=n{from} session={session} {reply}"),
            Input::Undelivered { peer } => write!(f, "Undelivered peer=n{peer}"),
            Input::Persisted { seq } => write!(f, "Persisted seq={seq}"),
            Input::Applied { index } => write!(f, "Applied index={index}"),
            Input::Lost(courier) => write!(f, "Lost {courier}"),
        }
    }
}

impl Display for Courier {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Courier::ElectionTimer => write!(f, "election timer"),
            Courier::Replicator(peer) => write!(f, "replicator n{peer}"),
        }
    }
}

impl Display for Effect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Effect::SetTimer { epoch, alarm, since } => write!(f, "SetTimer epoch={epoch} {alarm:?} since={since:?}"),
            Effect::Send { to, session, request } => write!(f, "Send to=n{to} session={session} {request}"),
            Effect::Persist { seq, write, then } => {
                write!(f, "Persist seq={seq}{write}")?;
                then.iter().try_for_each(|effect| write!(f, " then {{{effect}}}"))
            }
            Effect::Apply { entries, calls } => {
                write!(f, "Apply {}", Entries(entries))?;
                calls.iter().try_for_each(|(index, call)| write!(f, " {index}=>call {call}"))
            }
            Effect::AnswerRead { call, read_index } => write!(f, "AnswerRead call={call} read_index={read_index}"),
            Effect::Reply { call, reply } => write!(f, "Reply call={call} {reply}"),
            Effect::Refuse { call, refusal } => write!(f, "Refuse call={call} {refusal}"),
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
                Ok(())
            }
            Request::RequestVote(request) => {
                write!(f, " last={}", request.last_log)?;
                if request.leadership_transfer { write!(f, " leadership_transfer") } else { Ok(()) }
            }
            Request::PreVote(request) => write!(f, " last={}", request.last_log),
            Request::TimeoutNow(_) | Request::ReadIndex(_) => Ok(()),
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
        }
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.position())?;
        match &self.payload {
            Payload::Noop => write!(f, "noop"),
            Payload::Command(command) => write!(f, "{}", Printable(command)),
            Payload::Membership(membership) => write!(f, "{membership}"),
        }
    }
}

impl Display for Membership {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ids = |servers: &std::collections::BTreeMap<NodeId, String>| {
            servers.keys().map(|id| format!("n{id}")).collect::<Vec<_>>().join(",")
        };
        write!(f, "voters={}", ids(&self.voters))?;
        if self.learners.is_empty() { Ok(()) } else { write!(f, " learners={}", ids(&self.learners)) }
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
