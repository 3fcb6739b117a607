//! Why a snapshot was not taken, or not handed out.

use std::time::Duration;

use super::{Code, fix_unavailable};
use crate::raft::{LogIndex, NodeId};

/// Why a snapshot was not taken, or not handed out.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// R016. Nothing changed: the snapshot before is still there.
    #[error("node {node} could not take a snapshot: there was no room for it, or nothing is applied yet")]
    Failed {
        /// Who was asked.
        node: NodeId,
    },
    /// There is no snapshot yet.
    #[error("node {node} has no snapshot yet")]
    Absent {
        /// Who was asked.
        node: NodeId,
    },
    /// A later snapshot took its place while it was handed out.
    #[error("node {node} has a later snapshot now than the one of entry {index}")]
    Replaced {
        /// Who was asked.
        node: NodeId,
        /// The last entry of the one that is gone.
        index: LogIndex,
    },
    /// It was not taken for so long that the node does not keep it any more for whoever asked.
    #[error("node {node} gave up handing out its snapshot of entry {index}: nothing of it was taken for {waited:?}")]
    Stalled {
        /// Who was asked.
        node: NodeId,
        /// The last entry of the one that was on its way.
        index: LogIndex,
        /// For how long.
        waited: Duration,
    },
    /// The node has stopped or is starting its actors anew.
    #[error("node {node} is not running")]
    Unavailable {
        /// Who was asked.
        node: NodeId,
    },
}

impl SnapshotError {
    /// Its number.
    pub fn code(&self) -> Code {
        Code(match self {
            SnapshotError::Unavailable { .. }
            | SnapshotError::Absent { .. }
            | SnapshotError::Replaced { .. }
            | SnapshotError::Stalled { .. } => 2,
            SnapshotError::Failed { .. } => 16,
        })
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            SnapshotError::Failed { node } => {
                format!("see in the log of node {node} why, make room on its disk if it is full, and try again")
            }
            SnapshotError::Absent { node } => format!("let node {node} take one: `raftkv snapshot take`"),
            SnapshotError::Replaced { .. } => "try again, and get the later one".to_owned(),
            SnapshotError::Stalled { waited, .. } => {
                format!(
                    "see what held up its reader (a full or slow disk, a slow network) for {waited:?}, and begin anew"
                )
            }
            SnapshotError::Unavailable { node } => fix_unavailable(*node),
        }
    }
}
