//! The words that everything else is said in: terms, indexes, entries, who belongs to the cluster.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use bytes::Bytes;

/// A server's number, unique in its cluster and never used twice. 0 is no server.
pub type NodeId = u64;

/// A period with at most one leader (§5.1). The first election is for term 1; 0 is before it.
pub type Term = u64;

/// A position in the log. The first entry stands at 1; 0 is before it.
pub type LogIndex = u64;

/// Stands inside the core for whoever waits for an answer; the actor around it keeps the reply port.
pub type CallId = u64;

/// Where a server's `host:port` for the other servers is written down.
pub type Address = String;

/// An entry's place and term. Two logs with the same entry here are equal up to here (Log Matching, §5.3).
///
/// Ordered as §5.4.1 compares logs: the later term is more up to date; in one term, the longer log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The entry's term. 0 only together with index 0.
    pub term: Term,
    /// The entry's index. 0 is the empty log.
    pub index: LogIndex,
}

impl Display for LogPosition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// What must be on disk before a server answers any RPC (Figure 2, "persistent state"), besides its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term this server has seen.
    pub current_term: Term,
    /// Whom it voted for in that term, if anyone.
    pub voted_for: Option<NodeId>,
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its position; entries stand without gaps.
    pub index: LogIndex,
    /// The term of the leader that appended it.
    pub term: Term,
    /// What it says.
    pub payload: Payload,
}

impl Entry {
    /// This entry's place and term.
    pub fn position(&self) -> LogPosition {
        LogPosition { term: self.term, index: self.index }
    }

    /// Bytes of payload, as the limits and windows count them.
    pub fn size(&self) -> usize {
        match &self.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len(),
            Payload::Membership(membership) => membership.addresses().map(|(_, address)| 8 + address.len()).sum(),
        }
    }
}

/// What an [`Entry`] says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// A new leader's first entry: once it is committed, so is all that stands before it (§8).
    Noop,
    /// A command of the state machine. Opaque here; shared, never copied.
    Command(Bytes),
    /// Who belongs to the cluster from this entry on, committed or not (§6).
    Membership(Membership),
}

/// The servers of a cluster: who votes and counts for quorums, and who only receives the log.
///
/// Only the module `quorum` may count voters, so that a joint configuration (§6) has one place to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Servers that vote, with the addresses the others reach them at.
    pub voters: BTreeMap<NodeId, Address>,
    /// Servers that receive the log and do not count (thesis §4.2.1).
    pub learners: BTreeMap<NodeId, Address>,
}

impl Membership {
    /// A cluster of these voters, without learners.
    pub fn of_voters(voters: impl IntoIterator<Item = (NodeId, impl Into<Address>)>) -> Self {
        let voters = voters.into_iter().map(|(id, address)| (id, address.into())).collect();
        Membership { voters, learners: BTreeMap::new() }
    }

    /// Whether `id` votes.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains_key(&id)
    }

    /// Whether `id` is a voter or a learner.
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains_key(&id)
    }

    /// Every server once, with its address, by rising id within voters and then learners.
    pub fn addresses(&self) -> impl Iterator<Item = (NodeId, &Address)> {
        self.voters.iter().chain(&self.learners).map(|(id, address)| (*id, address))
    }

    /// Where the others reach `id`; `None` if it does not belong to the cluster.
    pub fn address(&self, id: NodeId) -> Option<&Address> {
        self.voters.get(&id).or_else(|| self.learners.get(&id))
    }

    /// Everyone but `id`.
    pub fn peers_of(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.addresses().map(|(peer, _)| peer).filter(move |peer| *peer != id)
    }
}

/// What a server is at the moment (Figure 4, and thesis §9.6 for the pre-vote).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Answers leaders and candidates.
    Follower,
    /// Has heard no leader, and asks whether it could win before it raises its term.
    PreCandidate,
    /// Asks for votes in a new term.
    Candidate,
    /// Replicates its log.
    Leader,
}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Follower => "follower",
            Role::PreCandidate => "pre-candidate",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        })
    }
}
