//! Why a watch ended.

use super::{Code, ReadError};
use crate::raft::{LogIndex, NodeId};

/// Why a watch ended. Everything up to what was told last has been told.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// R022. The watcher was slower than the history of changes is long, or asked for what is too old.
    #[error("the changes from revision {from} on are compacted: node {node} remembers them from revision {oldest} on")]
    Compacted {
        /// Who was asked.
        node: NodeId,
        /// What was asked for.
        from: LogIndex,
        /// The first revision that can be asked for at this node now.
        oldest: LogIndex,
    },
    /// The node is stopping, or has heard of no leader for long. Another one may go on.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl WatchError {
    /// Its number.
    pub fn code(&self) -> Code {
        match self {
            WatchError::Compacted { .. } => Code(22),
            WatchError::Read(error) => error.code(),
        }
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            WatchError::Compacted { oldest, .. } => format!(
                "read the keys (scan) as they are now, and watch on from behind the applied index of that; revisions \
                 from {oldest} on can still be watched"
            ),
            WatchError::Read(error) => error.fix(),
        }
    }
}
