//! A node: a supervision tree of actors around the rules in [`raft`](crate::raft).
//!
//! **`raft` decides, `node` does.** The files are the tree:
//!
//! ```text
//! the application's supervisor
//! └─ node                      root                supervision.rs    restarts, budget, orders of start and stop
//!    ├─ log store              KEEPER              log_store.rs      term, vote and log on disk
//!    ├─ applier                KEEPER              applier.rs        the state machine; answers clients
//!    ├─ consensus              KEEPER              consensus.rs      drives raft::Raft
//!    │  ├─ election timer      COURIER             consensus/election_timer.rs
//!    │  ├─ replicator n        COURIER, one a peer consensus/replicator.rs
//!    │  └─ snapshotter         COURIER             consensus/snapshotter.rs
//!    └─ server                 COURIER             server.rs         keeps the address open
//! ```
//!
//! What they say to each other stands in `node/messages.rs`, all on one page. Around the tree: `admission` lets calls in,
//! `trust` lets peers in, `calls` is the caller's side of a proposal and a read, `changes` that of an operator's order,
//! [`sessions`] what makes a repeated command count once, [`Builder`] makes the tree and `joining` gets it into a cluster, [`Node`] and [`NodeRef`] are what the application holds.
//!
//! The contract of supervision:
//! - A **courier** that dies is started again alone. Raft recovers what it carried. One that does not start takes consensus
//!   with it. What does not start has died once more, for the budget.
//! - **Keepers fall together** and start anew from disk. Who waits is answered: `Unknown`, where a command may have been
//!   applied, else `Unavailable`. Calls that were not yet taken up are served by the next consensus.
//! - A **disk error** is never retried: the node stops with [`NodeError::Storage`](crate::error::NodeError::Storage).
//! - A **snapshot that cannot be restored** is final, too: damaged bytes are a
//!   [`NodeError::Storage`](crate::error::NodeError::Storage), a state machine that does not take them a
//!   [`NodeError::Restore`](crate::error::NodeError::Restore).
//! - A **poison entry**, at which the state machine panics again after a rebuild, stops the node with
//!   [`NodeError::PoisonEntry`](crate::error::NodeError::PoisonEntry).
//! - A **keeper that does not stop**, because a disk or an `apply` does not return, stops the node, after 20 seconds, with
//!   [`NodeError::Start`](crate::error::NodeError::Start).
//! - Past the **budget** ([`RestartPolicy`]) the node stops with
//!   [`NodeError::BudgetSpent`](crate::error::NodeError::BudgetSpent).
//! - When the node stops by itself, its root fails with the `NodeError`: the application's supervisor gets `ActorFailed`
//!   with it, and [`NodeRef::stopped`] returns it. A root that was killed, or panicked, is an error there too.

use bytes::Bytes;

pub use crate::flow::Crash;
use crate::raft::{Address, Incarnation, LogIndex, Membership, NodeId, Role, Term};

mod admission;
mod alarm;
mod answered;
mod applied;
mod applier;
mod builder;
mod calls;
mod changes;
mod child;
mod consensus;
mod crash;
mod events;
mod former_disk;
mod handle;
mod joining;
mod log_store;
mod messages;
#[cfg(any(test, feature = "testing"))]
mod observer;
mod ports;
mod request;
mod server;
pub mod sessions;
mod shared;
mod snapshot_bytes;
mod snapshot_calls;
mod supervision;
mod traces;
mod trust;

pub use self::{
    answered::Figures,
    applier::Query,
    builder::Builder,
    events::{NodeEvent, Subscriber},
    handle::{Node, NodeRef},
    ports::{Answer, ChangePort, Port, ProposePort, ReadPort, SnapshotPort},
    request::NodeRequest,
    snapshot_calls::SavedSnapshot,
};
#[cfg(any(test, feature = "testing"))]
pub use self::{
    messages::vocabulary,
    observer::{Observed, Observer},
};
#[cfg(all(feature = "grpc", feature = "sqlite"))]
pub(crate) use builder::{cluster_id, fnv};

/// A command's result, and where in the log it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What the state machine returned, encoded.
    pub output: Bytes,
    /// The command's place in the log.
    pub index: LogIndex,
}

/// How fresh a read must be.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was answered before the read began (ReadIndex, on any node).
    Linearizable,
    /// As `Linearizable`, and on a leader that was confirmed less than an election timeout ago without asking anyone
    /// (thesis §6.4.1). It rests on what cannot be checked: that no clock runs a tenth faster than another, that no machine is
    /// suspended (its clock would stand still), and that no node has a shorter `election_timeout_min` than the leader: give
    /// all nodes the same. On other nodes than the leader it is `Linearizable`.
    Lease,
    /// Sees at least this index.
    AtLeast(LogIndex),
    /// Whatever this node has applied.
    Stale,
}

/// What a read must see, and for how long that is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// A state machine that has applied this may serve the read.
    pub index: LogIndex,
    /// Where it rests on the leader's lease: until when, on the node's clock. The state has to be looked at before.
    pub lease_until: Option<std::time::Duration>,
}

/// What a node is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub id: NodeId,
    /// Where the others reach it.
    pub address: Address,
    /// Its cluster.
    pub cluster_id: u64,
    /// What it is.
    pub role: Role,
    /// The latest term it has seen.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// The highest entry that it knows to be committed.
    pub commit_index: LogIndex,
    /// The highest entry that its state machine has applied.
    pub applied_index: LogIndex,
    /// The last entry of its log.
    pub last_index: LogIndex,
    /// The last entry in its snapshot; 0: there is none.
    pub snapshot_index: LogIndex,
    /// Who belongs to the cluster, as its log says.
    pub membership: Membership,
    /// The number of its disk, drawn when it was created. 0: it was not opened yet.
    pub incarnation: Incarnation,
    /// What keeps it from its work.
    pub trouble: Option<Trouble>,
    /// How often its supervisors restarted an actor.
    pub restarts: u64,
    /// Transactions that its log store has made durable since the node was built.
    pub log_writes: u64,
    /// The leader's view of the others; empty elsewhere.
    pub peers: Vec<PeerStatus>,
}

/// What keeps a node from its work.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// R016. Its disk has no room. It takes no writes, serves reads, and goes on by itself once there is room.
    DiskFull,
    /// R008. It was removed from the cluster.
    Removed,
    /// R007. The cluster knows it by another disk: it must be replaced.
    Wiped,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Trouble::DiskFull => "disk full",
            Trouble::Removed => "removed",
            Trouble::Wiped => "wiped",
        })
    }
}

/// How a leader sees a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its number.
    pub id: NodeId,
    /// The highest entry that is known to be on its disk.
    pub match_index: LogIndex,
    /// Whether it has answered since its connection last broke.
    pub reachable: bool,
}

/// How many failures a child may have before the node gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// So many within the window are healed; one more stops the node. Counted for each place in the tree.
    pub budget: usize,
    /// How far back failures count.
    pub window: std::time::Duration,
}
