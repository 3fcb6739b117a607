//! What stands in the journal: one prost message a record, since a log outlives the program's version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use prost::{Message, Oneof};
use ractor_raft::{
    raft::{self, Base, HardState, LogPosition, NodeId, Payload},
    storage::{Bootstrap, Identity},
};

/// One record.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    #[prost(oneof = "What", tags = "1, 2, 3, 4, 5")]
    pub what: Option<What>,
}

/// What a record says.
#[derive(Clone, PartialEq, Oneof)]
pub enum What {
    /// The first of all.
    #[prost(message, tag = "1")]
    Created(Created),
    #[prost(message, tag = "2")]
    Write(Write),
    /// A snapshot of the node's own state, whole.
    #[prost(message, tag = "3")]
    Taken(Chunk),
    /// A piece of a snapshot that a leader sent.
    #[prost(message, tag = "4")]
    Stored(Chunk),
    /// The node lost entries; nobody opens this store again.
    #[prost(message, tag = "5")]
    Condemned(Condemned),
}

#[derive(Clone, PartialEq, Message)]
pub struct Created {
    #[prost(fixed64, tag = "1")]
    pub cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub node_id: NodeId,
    #[prost(fixed64, tag = "3")]
    pub incarnation: u64,
    #[prost(message, optional, tag = "4")]
    pub membership: Option<Membership>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Write {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(uint64, optional, tag = "2")]
    pub truncate_from: Option<u64>,
    /// What the log stands on.
    #[prost(message, optional, tag = "3")]
    pub base: Option<Point>,
    #[prost(message, repeated, tag = "4")]
    pub entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Vote {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, optional, tag = "2")]
    pub voted_for: Option<NodeId>,
}

/// An entry's place, and who belonged to the cluster as of it.
#[derive(Clone, PartialEq, Message)]
pub struct Point {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(message, optional, tag = "3")]
    pub membership: Option<Membership>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(oneof = "EntryKind", tags = "3, 4, 5, 6, 7")]
    pub kind: Option<EntryKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum EntryKind {
    #[prost(bool, tag = "3")]
    Noop(bool),
    #[prost(bytes = "bytes", tag = "4")]
    Command(Bytes),
    #[prost(bool, tag = "5")]
    OpenSession(bool),
    #[prost(message, tag = "6")]
    SessionCommand(SessionCommand),
    #[prost(message, tag = "7")]
    Membership(Membership),
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionCommand {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    #[prost(uint64, tag = "3")]
    pub first_unanswered: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub command: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct Membership {
    #[prost(btree_map = "uint64, string", tag = "1")]
    pub voters: BTreeMap<NodeId, String>,
    #[prost(btree_map = "uint64, string", tag = "2")]
    pub outgoing: BTreeMap<NodeId, String>,
    #[prost(btree_map = "uint64, string", tag = "3")]
    pub learners: BTreeMap<NodeId, String>,
    #[prost(uint64, repeated, tag = "4")]
    pub staged: Vec<NodeId>,
    #[prost(uint64, repeated, tag = "5")]
    pub removed: Vec<NodeId>,
    #[prost(btree_map = "uint64, fixed64", tag = "6")]
    pub incarnations: BTreeMap<NodeId, u64>,
    #[prost(uint64, repeated, tag = "7")]
    pub unsettled: Vec<NodeId>,
}

/// Bytes of a snapshot, and what that is.
#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    #[prost(message, optional, tag = "1")]
    pub last_included: Option<Point>,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(fixed32, tag = "3")]
    pub checksum: u32,
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct Condemned {
    #[prost(uint64, tag = "1")]
    pub acknowledged: u64,
    #[prost(uint64, tag = "2")]
    pub last: u64,
}

impl From<&Bootstrap> for Created {
    fn from(Bootstrap { identity, incarnation, membership }: &Bootstrap) -> Self {
        let Identity { cluster_id, node_id } = *identity;
        Created { cluster_id, node_id, incarnation: *incarnation, membership: Some(membership.into()) }
    }
}

impl From<Created> for Bootstrap {
    fn from(Created { cluster_id, node_id, incarnation, membership }: Created) -> Self {
        let identity = Identity { cluster_id, node_id };
        Bootstrap { identity, incarnation, membership: membership.unwrap_or_default().into() }
    }
}

impl From<&raft::Write> for Write {
    fn from(raft::Write { hard_state, truncate_from, base, entries }: &raft::Write) -> Self {
        let vote = |state: &HardState| Vote { term: state.current_term, voted_for: state.voted_for };
        Write {
            vote: hard_state.as_ref().map(vote),
            truncate_from: *truncate_from,
            base: base.as_ref().map(|base| Point::new(base.position, &base.membership)),
            entries: entries.iter().map(Entry::from).collect(),
        }
    }
}

impl Write {
    /// `None`: an entry says nothing that this program knows.
    pub fn decoded(self) -> Option<raft::Write> {
        let hard_state = |vote: Vote| HardState { current_term: vote.term, voted_for: vote.voted_for };
        Some(raft::Write {
            hard_state: self.vote.map(hard_state),
            truncate_from: self.truncate_from,
            base: self.base.map(|base| Base { position: base.position(), membership: base.membership() }),
            entries: self.entries.into_iter().map(Entry::decoded).collect::<Option<_>>()?,
        })
    }
}

impl Point {
    pub fn new(LogPosition { index, term }: LogPosition, membership: &raft::Membership) -> Self {
        Point { index, term, membership: Some(membership.into()) }
    }

    pub fn position(&self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }

    pub fn membership(&self) -> Arc<raft::Membership> {
        Arc::new(self.membership.clone().unwrap_or_default().into())
    }
}

impl From<&raft::Entry> for Entry {
    fn from(raft::Entry { index, term, payload }: &raft::Entry) -> Self {
        let kind = match payload {
            Payload::Noop => EntryKind::Noop(true),
            Payload::Command(command) => EntryKind::Command(command.clone()),
            Payload::OpenSession => EntryKind::OpenSession(true),
            Payload::SessionCommand(call) => EntryKind::SessionCommand(SessionCommand {
                session: call.session,
                sequence: call.sequence,
                first_unanswered: call.first_unanswered,
                command: call.command.clone(),
            }),
            Payload::Membership(membership) => EntryKind::Membership((&**membership).into()),
        };
        Entry { index: *index, term: *term, kind: Some(kind) }
    }
}

impl Entry {
    fn decoded(self) -> Option<raft::Entry> {
        let payload = match self.kind? {
            EntryKind::Noop(_) => Payload::Noop,
            EntryKind::Command(command) => Payload::Command(command),
            EntryKind::OpenSession(_) => Payload::OpenSession,
            EntryKind::SessionCommand(call) => Payload::SessionCommand(raft::SessionCommand {
                session: call.session,
                sequence: call.sequence,
                first_unanswered: call.first_unanswered,
                command: call.command,
            }),
            EntryKind::Membership(membership) => Payload::Membership(Arc::new(membership.into())),
        };
        Some(raft::Entry { index: self.index, term: self.term, payload })
    }
}

impl From<&raft::Membership> for Membership {
    fn from(membership: &raft::Membership) -> Self {
        let raft::Membership { voters, outgoing, learners, staged, removed, incarnations, unsettled } =
            membership.clone();
        let list = |ids: BTreeSet<NodeId>| ids.into_iter().collect::<Vec<_>>();
        let (staged, removed, unsettled) = (list(staged), list(removed), list(unsettled));
        Membership { voters, outgoing, learners, staged, removed, incarnations, unsettled }
    }
}

impl From<Membership> for raft::Membership {
    fn from(membership: Membership) -> Self {
        let Membership { voters, outgoing, learners, staged, removed, incarnations, unsettled } = membership;
        let set = |ids: Vec<NodeId>| ids.into_iter().collect::<BTreeSet<_>>();
        let (staged, removed, unsettled) = (set(staged), set(removed), set(unsettled));
        raft::Membership { voters, outgoing, learners, staged, removed, incarnations, unsettled }
    }
}
