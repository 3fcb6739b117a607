//! What can go wrong for a caller, each with its number, what, why and the fix.
//!
//! The same code stands in the Rust error, the gRPC `reason`, the JSON and the terminal.

use std::time::Duration;

use crate::{
    raft::{Address, LogIndex, NodeId},
    storage::StorageError,
};

mod change;

pub use change::ChangeError;

/// An error's number, `R001` to `R023`. Never reused, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "R{:03}", self.0)
    }
}

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
            ProposeError::DiskFull { node } => change::fix_disk_full(*node),
        }
    }
}

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

fn fix_no_leader(unreachable: &[NodeId], needed: usize) -> String {
    if unreachable.is_empty() {
        return "try again: an election takes a few hundred milliseconds; if it lasts, see with `raftkv status` who is up"
            .to_owned();
    }
    format!("start {} or repair the network, so that {needed} voters reach each other", list(unreachable))
}

fn fix_busy(retry_after: Duration) -> String {
    format!("try again after {retry_after:?}, with fewer calls at a time")
}

fn fix_unavailable(node: NodeId) -> String {
    format!("try again, or ask another node; if it lasts, start node {node}")
}

/// R007. Which of the two disks is the newer one, the node cannot tell.
pub(crate) fn fix_wiped(node: NodeId) -> String {
    format!(
        "if node {node} was started from a directory that was replaced, stop it and discard that directory; if its disk \
         was lost or exchanged: `raftkv member replace {node} ADDR`"
    )
}

/// R008.
pub(crate) fn fix_removed(node: NodeId) -> String {
    format!("stop node {node}, and ask another one; an empty one needs an id that was never used")
}

fn reach(node: NodeId, unreachable: &[NodeId]) -> String {
    if unreachable.is_empty() {
        return format!("no peer has failed to answer node {node}; it may not have found out yet");
    }
    format!("node {node} cannot reach {}", list(unreachable))
}

fn list(ids: &[NodeId]) -> String {
    ids.iter().map(|id| format!("node {id}")).collect::<Vec<_>>().join(", ")
}
