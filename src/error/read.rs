//! Why a read was not served.

use std::time::Duration;

use super::{Code, fix_busy, fix_no_leader, fix_removed, fix_unavailable, fix_wiped, reach};
use crate::raft::NodeId;

/// Why a read was not served. Nothing happened; it may be tried again.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// R002.
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
    /// Leadership changed, or no answer came in time.
    #[error("node {node} could not serve the read within {waited:?}")]
    TimedOut {
        /// Who was asked.
        node: NodeId,
        /// How long it tried.
        waited: Duration,
    },
    /// R019.
    #[error("node {node} is busy: {limit}")]
    Busy {
        /// Who was asked.
        node: NodeId,
        /// Which limit, with its value.
        limit: String,
        /// When it is worth another try.
        retry_after: Duration,
    },
    /// The node has stopped or is starting its actors anew.
    #[error("node {node} is not running")]
    Unavailable {
        /// Who was asked.
        node: NodeId,
    },
    /// R007. Not served: the cluster knows the node by another disk, so that it takes no part.
    #[error("the cluster knows node {node} by another disk, and it takes no part")]
    NodeWiped {
        /// Who was asked.
        node: NodeId,
    },
    /// R008. Not served: the node was removed from the cluster.
    #[error("node {node} was removed from the cluster")]
    NodeRemoved {
        /// Who was asked.
        node: NodeId,
    },
}

impl ReadError {
    /// Its number.
    pub fn code(&self) -> Code {
        Code(match self {
            ReadError::NoLeader { .. } | ReadError::TimedOut { .. } | ReadError::Unavailable { .. } => 2,
            ReadError::NodeWiped { .. } => 7,
            ReadError::NodeRemoved { .. } => 8,
            ReadError::Busy { .. } => 19,
        })
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            ReadError::NoLeader { unreachable, needed, .. } => fix_no_leader(unreachable, *needed),
            ReadError::TimedOut { node, .. } => {
                format!("try again; if it lasts, see with `raftkv status` whether node {node} reaches a majority")
            }
            ReadError::Busy { retry_after, .. } => fix_busy(*retry_after),
            ReadError::Unavailable { node } => fix_unavailable(*node),
            ReadError::NodeWiped { node } => fix_wiped(*node),
            ReadError::NodeRemoved { node } => fix_removed(*node),
        }
    }
}
