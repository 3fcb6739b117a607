//! Why a command was not applied, or may not have been.

use std::time::Duration;

use super::{Code, fix_busy, fix_disk_full, fix_no_leader, fix_removed, fix_unavailable, fix_wiped, reach};
use crate::raft::{Address, NodeId};

/// Why a proposal was not applied, or may not have been.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// R001. Not applied.
    #[error("node {node} is not the leader; node {leader} at {address} is")]
    NotLeader {
        /// Who was asked.
        node: NodeId,
        /// Who leads.
        leader: NodeId,
        /// Where it is.
        address: Address,
    },
    /// R002. Not applied.
    #[error(
        "there is no leader: {needed} of {voters} voters are needed, and {}",
        reach(*node, unreachable)
    )]
    NoLeader {
        /// Who was asked.
        node: NodeId,
        /// Voters it has lately failed to reach.
        unreachable: Vec<NodeId>,
        /// A majority.
        needed: usize,
        /// Of so many.
        voters: usize,
    },
    /// R019. Not applied.
    #[error("node {node} is busy: {limit}")]
    Busy {
        /// Who was asked.
        node: NodeId,
        /// Which limit, with its value.
        limit: String,
        /// When it is worth another try.
        retry_after: Duration,
    },
    /// R018. Not applied.
    #[error("the command has {size} bytes; the limit is {limit} (max_entry_bytes)")]
    TooLarge {
        /// Bytes encoded.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not applied: it is not a command of this state machine.
    #[error("the state machine cannot read the command: {reason}")]
    Rejected {
        /// What did not fit.
        reason: String,
    },
    /// R014. May have been applied; a retry may apply it twice.
    #[error("the outcome is unknown, the command may have been applied: {reason}")]
    Unknown {
        /// What got lost.
        reason: String,
    },
    /// R021. Not applied: the session was never opened, or is gone because it was not used for long.
    #[error("there is no session {session}: it was never opened, or it expired")]
    SessionExpired {
        /// The id that was given.
        session: u64,
    },
    /// R014. Not applied now; it may have been applied earlier, when its client said that it has the answer, or sent so
    /// many commands after it that the answer is not kept any more.
    #[error("command {sequence} of session {session} was answered long ago; its answer is not kept any more")]
    AnsweredLongAgo {
        /// The session.
        session: u64,
        /// The command's number in it.
        sequence: u64,
    },
    /// Not applied: the node has stopped or is starting its actors anew.
    #[error("node {node} is not running")]
    Unavailable {
        /// Who was asked.
        node: NodeId,
    },
    /// R016. Not applied: the leader's disk has no room. Reads go on.
    #[error("the disk of node {node} is full")]
    DiskFull {
        /// Whose.
        node: NodeId,
    },
    /// R007. Not applied: the cluster knows the node by another disk, so that it takes no part.
    #[error("the cluster knows node {node} by another disk, and it takes no part")]
    NodeWiped {
        /// Who was asked.
        node: NodeId,
    },
    /// R008. Not applied: the node was removed from the cluster.
    #[error("node {node} was removed from the cluster")]
    NodeRemoved {
        /// Who was asked.
        node: NodeId,
    },
    /// R004. Not applied: it is for the cluster that answered before, and another one is at that address now.
    #[error("node {node} belongs to cluster {cluster:016x}, not to {found:016x}")]
    WrongCluster {
        /// Who was asked.
        node: NodeId,
        /// Its cluster.
        cluster: u64,
        /// The one that was meant.
        found: u64,
    },
}

impl ProposeError {
    /// Whether the command may have been applied all the same.
    pub fn may_have_been_applied(&self) -> bool {
        matches!(self, ProposeError::Unknown { .. } | ProposeError::AnsweredLongAgo { .. })
    }

    /// Its number.
    pub fn code(&self) -> Code {
        Code(match self {
            ProposeError::NotLeader { .. } => 1,
            ProposeError::NoLeader { .. } | ProposeError::Unavailable { .. } => 2,
            ProposeError::WrongCluster { .. } => 4,
            ProposeError::Unknown { .. } | ProposeError::AnsweredLongAgo { .. } => 14,
            ProposeError::NodeWiped { .. } => 7,
            ProposeError::NodeRemoved { .. } => 8,
            ProposeError::DiskFull { .. } => 16,
            ProposeError::TooLarge { .. } => 18,
            ProposeError::Busy { .. } => 19,
            ProposeError::Rejected { .. } => 20,
            ProposeError::SessionExpired { .. } => 21,
        })
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            ProposeError::NotLeader { leader, address, .. } => {
                format!("send it to node {leader} at {address}, or without raft-no-forward, and it is forwarded")
            }
            ProposeError::NoLeader { unreachable, needed, .. } => fix_no_leader(unreachable, *needed),
            ProposeError::Busy { retry_after, .. } => fix_busy(*retry_after),
            ProposeError::TooLarge { size, .. } => {
                format!("split the command, or set max_entry_bytes to at least {size} on every node")
            }
            ProposeError::Rejected { .. } => {
                "send a command of the state machine that the cluster runs, encoded as its version expects".to_owned()
            }
            ProposeError::Unknown { .. } => {
                "read the state to see whether it was applied; a retry may apply it a second time, unless it is one of the \
                 same session and sequence"
                    .to_owned()
            }
            ProposeError::SessionExpired { .. } => {
                "open another session; a command that was sent under this one before may have been applied".to_owned()
            }
            ProposeError::AnsweredLongAgo { .. } => {
                "give each command of a session a sequence of its own, and repeat only what was not answered".to_owned()
            }
            ProposeError::Unavailable { node } => fix_unavailable(*node),
            ProposeError::NodeWiped { node } => fix_wiped(*node),
            ProposeError::NodeRemoved { node } => fix_removed(*node),
            ProposeError::WrongCluster { .. } => {
                "name a node of the cluster that is meant, or begin anew with the one that is there".to_owned()
            }
            ProposeError::DiskFull { node } => fix_disk_full(*node),
        }
    }
}
