//! Why a node did not start, or stopped: what its supervisor is told. Its store is the most common cause.

use std::time::Duration;

use super::{ChangeError, Code};
use crate::{raft::LogIndex, storage::StorageError};

/// Why a node did not start, or stopped by itself. Its supervisor is told.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// R006, R007, R013, R016, R017.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// R015.
    #[error("the state machine panicked at entry {index}, again after a rebuild: {cause}")]
    PoisonEntry {
        /// The entry.
        index: LogIndex,
        /// The panic's message.
        cause: String,
    },
    /// R017. The snapshot's bytes are what was written, and the state machine does not take them.
    #[error("the state machine does not take the snapshot of entry {index}: {cause}")]
    Restore {
        /// The snapshot's last entry.
        index: LogIndex,
        /// What [`StateMachine::restore`](crate::StateMachine::restore) said.
        cause: String,
    },
    /// The restart budget is spent.
    #[error(
        "{actor} failed {failures} times within {window:?}, more than the budget of {budget}; the last cause: {cause}"
    )]
    BudgetSpent {
        /// Whose failure was one too many.
        actor: String,
        /// So many.
        failures: usize,
        /// Allowed.
        budget: usize,
        /// In so long.
        window: Duration,
        /// The last failure.
        cause: String,
    },
    /// R020.
    #[error("{key} is {value}: {fix}")]
    Config {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        fix: String,
    },
    /// R002, R003, R007, R008: the node was to join a cluster, and could not.
    #[error("{what}: {cause}")]
    Join {
        /// Which node, which cluster.
        what: String,
        /// Why.
        cause: ChangeError,
    },
    /// The address cannot be listened on, or an actor could not be spawned (a name that is taken).
    #[error("{what} could not start: {cause}")]
    Start {
        /// "server on 127.0.0.1:7001", …
        what: String,
        /// Why.
        cause: String,
    },
}

impl NodeError {
    /// Its number, where it has one.
    pub fn code(&self) -> Option<Code> {
        match self {
            NodeError::Storage(error) => Some(error.code()),
            NodeError::PoisonEntry { .. } => Some(Code(15)),
            NodeError::Restore { .. } => Some(Code(17)),
            // Without first members there is nothing to bootstrap.
            NodeError::Config { key: "cluster", .. } => Some(Code(3)),
            NodeError::Config { .. } => Some(Code(20)),
            // Without a member that answers there is nothing to join.
            NodeError::Join { cause: ChangeError::Unavailable { .. }, .. } => Some(Code(3)),
            NodeError::Join { cause, .. } => Some(cause.code()),
            NodeError::BudgetSpent { .. } | NodeError::Start { .. } => None,
        }
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            NodeError::Storage(error) => error.fix(),
            NodeError::PoisonEntry { index, .. } => format!(
                "make the state machine's apply accept entry {index} (every node has to, or they diverge) and start \
                 the node again; nothing of its data is lost"
            ),
            NodeError::Restore { index, .. } => format!(
                "make the state machine's restore accept what the snapshot of entry {index} holds (an earlier version of \
                 the program may have written it) and start the node again; nothing of its data is lost"
            ),
            NodeError::BudgetSpent { actor, .. } => {
                format!("remove the cause of the failures of {actor}, then start the node again")
            }
            NodeError::Config { fix, .. } => fix.clone(),
            NodeError::Join { cause: ChangeError::Unavailable { .. }, .. } => {
                "start the members, or name others with --join".to_owned()
            }
            NodeError::Join { cause, .. } => cause.fix(),
            NodeError::Start { what, cause } if cause.contains("in use") => {
                let address = what.strip_prefix("server on ").unwrap_or(what);
                format!("stop what listens on {address}, or give another --listen")
            }
            NodeError::Start { what, .. } => {
                format!("see that nothing else is in the place of {what}, and that the address is one of this machine")
            }
        }
    }
}

impl StorageError {
    /// Its number.
    pub fn code(&self) -> Code {
        Code(match self {
            StorageError::Foreign { .. } => 6,
            StorageError::LostEntries { .. } => 7,
            StorageError::InUse { .. } => 13,
            StorageError::Failed { .. } | StorageError::Full { .. } => 16,
            StorageError::Corrupt { .. } | StorageError::Format { .. } => 17,
        })
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            StorageError::Foreign { node, found_node, .. } if node != found_node => {
                format!("start node {found_node} with this directory, or give node {node} a directory of its own")
            }
            StorageError::Foreign { node, found_cluster, .. } => format!(
                "start node {node} with the --cluster list (and --cluster-name, if any) that this directory was made \
                 with: cluster {found_cluster:016x} is a hash of its first members' ids and addresses, or of its name, \
                 and addresses cannot change yet; or give node {node} a directory of its own"
            ),
            StorageError::InUse { owner: Some(pid), .. } => {
                format!("stop process {pid} first, or give this node a directory of its own")
            }
            StorageError::InUse { owner: None, .. } => {
                "stop the process that has it first, or give this node a directory of its own".to_owned()
            }
            StorageError::Failed { path, .. } => format!(
                "check the disk and the permissions of {}, then start the node again; what was acknowledged is on the \
                 disks of a majority",
                path.display()
            ),
            StorageError::Full { path, .. } => {
                format!("make room on the disk of {}; the node goes on by itself", path.display())
            }
            StorageError::Corrupt { path, .. } => format!(
                "keep {} aside for inspection and replace this node by a new one with an empty directory; do not \
                 delete single files",
                path.display()
            ),
            StorageError::LostEntries { path, .. } => format!(
                "move {} away and replace this node: `raftkv member replace ID ADDR`, then start it with an empty directory \
                 and --join",
                path.display()
            ),
            StorageError::Format { found, .. } => {
                format!("start a version of this program that knows format {found}")
            }
        }
    }
}
