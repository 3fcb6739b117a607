//! The words that everything else is said in: terms, indexes, entries, who belongs to the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use bytes::Bytes;

/// A server's number, unique in its cluster and never used twice. 0 is no server.
pub type NodeId = u64;

/// A period with at most one leader (§5.1). The first election is for term 1; 0 is before it.
pub type Term = u64;

/// A position in the log. The first entry stands at 1; 0 is before it.
pub type LogIndex = u64;

/// The largest term, index or sequence that a server takes from anyone else. A log that grows by a million entries a
/// second reaches it after 146,000 years. What a server makes of it itself, one more at a time, still fits SQLite's 64-bit
/// integers, which go twice as far: so no lie can make anything overflow.
pub const LARGEST: u64 = 1 << 62;

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
            Payload::OpenSession => 0,
            Payload::SessionCommand(call) => call.command.len(),
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
    /// Opens a client's session, whose id is this entry's index (thesis §6.3).
    OpenSession,
    /// A command that is applied once, however often it is in the log (thesis §6.3).
    SessionCommand(SessionCommand),
    /// Who belongs to the cluster from this entry on, committed or not (§6).
    Membership(Arc<Membership>),
}

/// A command under a client's session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionCommand {
    /// The index of the entry that opened the session.
    pub session: u64,
    /// The client's own number for this command; from 1 on, each once. Several may be in flight.
    pub sequence: u64,
    /// The client has the answers of all its commands below this one, so that nobody need keep them. 0: it does not say.
    pub first_unanswered: u64,
    /// Opaque; shared, never copied.
    pub command: Bytes,
}

/// A disk's number, drawn when it is created: tells a node's disk from the empty one that took its place. 0 is none.
pub type Incarnation = u64;

/// The servers of a cluster: who votes and counts for quorums, and who only receives the log.
///
/// Only the module `quorum` counts voters: while `outgoing` is not empty the configuration is joint, and what takes a
/// majority takes one of `voters` and one of `outgoing` (§6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Servers that vote, with the addresses the others reach them at. In a joint configuration those of C_new.
    pub voters: BTreeMap<NodeId, Address>,
    /// In a joint configuration the voters of C_old; else empty.
    pub outgoing: BTreeMap<NodeId, Address>,
    /// Servers that receive the log and do not count (thesis §4.2.1). None of them is in `voters`.
    pub learners: BTreeMap<NodeId, Address>,
    /// Learners that are to vote as soon as they have caught up (thesis §4.2.1).
    pub staged: BTreeSet<NodeId>,
    /// Servers that were removed. Their ids are never used again.
    pub removed: BTreeSet<NodeId>,
    /// The disks of the servers, as far as they are known: another disk under a known id is refused.
    pub incarnations: BTreeMap<NodeId, Incarnation>,
    /// Servers whose disks this very configuration is the first to name: that it is committed cannot be seen in the log yet, and
    /// their votes do not count (`quorum`). Each of them is in `incarnations`.
    pub unsettled: BTreeSet<NodeId>,
}

impl Membership {
    /// A cluster of these voters, without learners.
    pub fn of_voters(voters: impl IntoIterator<Item = (NodeId, impl Into<Address>)>) -> Self {
        let voters = voters.into_iter().map(|(id, address)| (id, address.into())).collect();
        Membership { voters, ..Membership::default() }
    }

    /// Whether `id` votes, in either half of a joint configuration.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains_key(&id) || self.outgoing.contains_key(&id)
    }

    /// Whether a change is half done: C_old,new (§6).
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` is a voter or a learner.
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains_key(&id)
    }

    /// Every server once, with its address, by rising id within voters, then learners, then those that only
    /// belong to C_old.
    pub fn addresses(&self) -> impl Iterator<Item = (NodeId, &Address)> {
        let leaving = |id: &NodeId| !self.voters.contains_key(id) && !self.learners.contains_key(id);
        let leaving = self.outgoing.iter().filter(move |(id, _)| leaving(id));
        self.voters.iter().chain(&self.learners).chain(leaving).map(|(id, address)| (*id, address))
    }

    /// Where the others reach `id`; `None` if it does not belong to the cluster.
    pub fn address(&self, id: NodeId) -> Option<&Address> {
        self.voters.get(&id).or_else(|| self.learners.get(&id)).or_else(|| self.outgoing.get(&id))
    }

    /// Whether the disk of `id` is named; also where nobody's is.
    pub(crate) fn has_known_disk(&self, id: NodeId) -> bool {
        self.incarnations.is_empty() || self.incarnations.contains_key(&id)
    }

    /// What follows on this configuration, which is committed: the disks that `next` names and this one does not are
    /// unsettled in it, and no others.
    pub(crate) fn followed_by(&self, next: Membership) -> Membership {
        let is_new = |(id, disk): &(&NodeId, &Incarnation)| self.incarnations.get(id) != Some(*disk);
        let unsettled = next.incarnations.iter().filter(is_new).map(|(id, _)| *id).collect();
        Membership { unsettled, ..next }
    }

    /// Everyone but `id`.
    pub fn peers_of(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.addresses().map(|(peer, _)| peer).filter(move |peer| *peer != id)
    }
}

/// A change of the cluster's servers (§6; thesis §4). Any that touches the voters goes through a joint configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Adds a learner. With `promote` it becomes a voter by itself as soon as it has caught up.
    Add {
        /// A number that was never used in this cluster.
        id: NodeId,
        /// Where the others reach it.
        address: Address,
        /// Whether it is to vote.
        promote: bool,
    },
    /// Makes a learner that has caught up a voter.
    Promote {
        /// The learner.
        id: NodeId,
    },
    /// Removes a voter or learner, for good.
    Remove {
        /// Never used again.
        id: NodeId,
    },
    /// Gives an id to another disk, and perhaps another address: the server leaves the voters and comes back as a learner
    /// of an unknown incarnation, which is promoted once it has caught up (if it voted before). Nothing, where that is so
    /// already. The disk that is heard of next is the one that is meant: one that has come already comes back.
    Replace {
        /// Whose disk is gone.
        id: NodeId,
        /// Where the new one is.
        address: Address,
    },
}

/// What a snapshot is, apart from its bytes. Two that are equal have the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotMetadata {
    /// The last entry it replaces (Figure 13, `last_included_index` and `last_included_term`).
    pub last_included: LogPosition,
    /// Who belonged to the cluster as of that entry (N04).
    pub membership: Arc<Membership>,
    /// Bytes.
    pub size: u64,
    /// CRC-32 of the bytes.
    pub checksum: u32,
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
