//! Why the cluster's servers, or its leader, were not changed as an operator wanted.

use std::time::Duration;

use super::{Code, fix_busy, fix_disk_full, fix_no_leader, fix_removed, fix_unavailable, fix_wiped, reach};
use crate::raft::{Address, LogIndex, NodeId};

/// Why a change of the membership or of the leadership was not made, or may not have been.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// R001. Not made.
    #[error("node {node} is not the leader; node {leader} at {address} is")]
    NotLeader {
        /// Who was asked.
        node: NodeId,
        /// Who leads.
        leader: NodeId,
        /// Where it is.
        address: Address,
    },
    /// R002. Not made.
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
    /// R002. Not made yet: the leader has only just been elected, and has committed nothing so far (M01).
    #[error("node {node} has only just become the leader")]
    NotReady {
        /// Who was asked.
        node: NodeId,
    },
    /// R002. Not made: the node has stopped, or is starting its actors anew, or cannot be reached.
    #[error("{}", not_running(*node))]
    Unavailable {
        /// Who was asked. 0: it is not known who that is.
        node: NodeId,
    },
    /// R004. Not made: the order was for another cluster.
    #[error("node {node} belongs to cluster {cluster:016x}, the order is for cluster {found:016x}")]
    WrongCluster {
        /// Who was asked.
        node: NodeId,
        /// Its cluster.
        cluster: u64,
        /// The order's.
        found: u64,
    },
    /// R007. A node with an empty disk wants to be one that has another disk.
    #[error("node {id} belongs to the cluster already, with another disk")]
    DiskReplaced {
        /// Who it wants to be.
        id: NodeId,
        /// Where that one is, as the cluster knows it.
        address: Address,
    },
    /// R008. The id was removed, for good.
    #[error("node {id} was removed from the cluster, and its id is never used again")]
    Removed {
        /// The id.
        id: NodeId,
    },
    /// R007. Not made: the cluster knows the node by another disk, so that it takes no part.
    #[error("the cluster knows node {node} by another disk, and it takes no part")]
    NodeWiped {
        /// Who was asked.
        node: NodeId,
    },
    /// R008. Not made: the node was removed from the cluster.
    #[error("node {node} was removed from the cluster")]
    NodeRemoved {
        /// Who was asked.
        node: NodeId,
    },
    /// R009. Not made: another change is.
    #[error("another change of the membership is under way, at entry {index}")]
    UnderWay {
        /// Its entry.
        index: LogIndex,
    },
    /// R010. The learner has not caught up. Where it was added to vote, it still will as soon as it has.
    #[error("node {id} has not caught up: it has the log up to {match_index}")]
    NotCaughtUp {
        /// The learner.
        id: NodeId,
        /// The last entry that it is known to have.
        match_index: LogIndex,
    },
    /// R011. After the change no majority would be there.
    #[error(
        "the change would stop the cluster: {in_touch} of the voters that would be left are in touch, and {}",
        needed_words(*needed)
    )]
    WouldStop {
        /// So many voters of what would be left are in touch with the leader.
        in_touch: usize,
        /// So many make a majority of it. 0: there would be no voter.
        needed: usize,
    },
    /// R012. Nobody could reach a server there.
    #[error("nobody can reach node {id} at {address:?}: {cause}")]
    Unroutable {
        /// The server.
        id: NodeId,
        /// As it was given.
        address: Address,
        /// What is wrong with it.
        cause: String,
    },
    /// R014. May have been made, or may still be.
    #[error("the outcome is unknown, the change may have been made: {reason}")]
    Unknown {
        /// What got lost.
        reason: String,
    },
    /// R016. Not made: the leader's disk has no room.
    #[error("the disk of node {node} is full")]
    DiskFull {
        /// Whose.
        node: NodeId,
    },
    /// R019. Not made.
    #[error("node {node} is busy: {limit}")]
    Busy {
        /// Who was asked.
        node: NodeId,
        /// Which limit, with its value.
        limit: String,
        /// When it is worth another try.
        retry_after: Duration,
    },
    /// R020. There is no such server, or it is not what the change needs it to be.
    #[error("node {id} is no server of the cluster, or not one that this can be done to")]
    NoSuchServer {
        /// The id.
        id: NodeId,
    },
    /// R020. Not made: the leader cannot be given another disk while it leads.
    #[error("node {id} leads, and its own log is what the others follow")]
    Leads {
        /// The leader.
        id: NodeId,
    },
    /// R020. Not made: a learner cannot lead.
    #[error("node {id} does not vote, and so it cannot lead")]
    DoesNotVote {
        /// The learner.
        id: NodeId,
    },
    /// R020. A server with this id or this address belongs to the cluster already.
    #[error("node {id} belongs to the cluster already, at {address}")]
    AlreadyThere {
        /// The one that does.
        id: NodeId,
        /// Where it is, as the cluster knows it.
        address: Address,
    },
    /// R023. The leadership stays where it was.
    #[error("the leadership stays: {}", not_taken_over(*to))]
    TransferFailed {
        /// Who should have led. 0: there was nobody in touch.
        to: NodeId,
    },
}

fn not_running(node: NodeId) -> String {
    if node == 0 { "no node answers".to_owned() } else { format!("node {node} is not running") }
}

fn needed_words(needed: usize) -> String {
    if needed == 0 { "none would be left".to_owned() } else { format!("{needed} are needed") }
}

fn not_taken_over(to: NodeId) -> String {
    if to == 0 {
        return "no other voter is in touch".to_owned();
    }
    format!("node {to} did not catch up and take over within an election timeout")
}

impl ChangeError {
    /// Whether it may have been made all the same.
    pub fn may_have_been_made(&self) -> bool {
        matches!(self, ChangeError::Unknown { .. })
    }

    /// Whether the same may succeed in a moment, without anybody doing anything.
    pub(crate) fn may_pass(&self) -> bool {
        use ChangeError::{NoLeader, NotLeader, NotReady, Unavailable, UnderWay};
        matches!(self, NotLeader { .. } | NoLeader { .. } | NotReady { .. } | Unavailable { .. } | UnderWay { .. })
    }

    /// Its number.
    pub fn code(&self) -> Code {
        Code(match self {
            ChangeError::NotLeader { .. } => 1,
            ChangeError::NoLeader { .. } | ChangeError::NotReady { .. } | ChangeError::Unavailable { .. } => 2,
            ChangeError::WrongCluster { .. } => 4,
            ChangeError::DiskReplaced { .. } | ChangeError::NodeWiped { .. } => 7,
            ChangeError::Removed { .. } | ChangeError::NodeRemoved { .. } => 8,
            ChangeError::UnderWay { .. } => 9,
            ChangeError::NotCaughtUp { .. } => 10,
            ChangeError::WouldStop { .. } => 11,
            ChangeError::Unroutable { .. } => 12,
            ChangeError::Unknown { .. } => 14,
            ChangeError::DiskFull { .. } => 16,
            ChangeError::Busy { .. } => 19,
            ChangeError::NoSuchServer { .. }
            | ChangeError::Leads { .. }
            | ChangeError::DoesNotVote { .. }
            | ChangeError::AlreadyThere { .. } => 20,
            ChangeError::TransferFailed { .. } => 23,
        })
    }

    /// What to do about it, with the values at hand.
    pub fn fix(&self) -> String {
        match self {
            ChangeError::NotLeader { leader, address, .. } => {
                format!("ask node {leader} at {address}, or without raft-no-forward, and it is forwarded")
            }
            ChangeError::NoLeader { unreachable, needed, .. } => fix_no_leader(unreachable, *needed),
            ChangeError::NotReady { .. } => "try again in a moment".to_owned(),
            ChangeError::Unavailable { node: 0 } => "start the node, or ask another one".to_owned(),
            ChangeError::Unavailable { node } => fix_unavailable(*node),
            ChangeError::WrongCluster { .. } => "name a node of the cluster that is meant".to_owned(),
            ChangeError::DiskReplaced { id, address } => format!(
                "if its disk is gone for good, say so first: `raftkv member replace {id} ADDR` (it is known at \
                 {address}); or start this one under an id that was never used"
            ),
            ChangeError::Removed { id } => format!("start it with an empty directory, under another id than {id}"),
            ChangeError::NodeWiped { node } => fix_wiped(*node),
            ChangeError::NodeRemoved { node } => fix_removed(*node),
            ChangeError::UnderWay { .. } => {
                "wait until it is done (`raftkv member list` shows it), then try again".to_owned()
            }
            ChangeError::NotCaughtUp { id, .. } => {
                format!("see that node {id} runs and can be reached (`raftkv status`), and wait until it has caught up")
            }
            ChangeError::WouldStop { .. } => {
                "start the voters that are down, or add others, before you remove this one".to_owned()
            }
            ChangeError::Unroutable { id, .. } => {
                format!("give the host and the port at which the other servers reach node {id}: HOST:PORT")
            }
            ChangeError::Unknown { .. } => {
                "see with `raftkv member list` whether it was made; asking for the same again does no harm".to_owned()
            }
            ChangeError::DiskFull { node } => fix_disk_full(*node),
            ChangeError::Busy { retry_after, .. } => fix_busy(*retry_after),
            ChangeError::NoSuchServer { .. } => "see who belongs to the cluster: `raftkv member list`".to_owned(),
            ChangeError::Leads { .. } => "transfer the leadership first: `raftkv leader transfer`".to_owned(),
            ChangeError::DoesNotVote { id } => {
                format!("name a voter, or let it vote first: `raftkv member promote {id}`")
            }
            ChangeError::AlreadyThere { id, .. } => format!(
                "give another id and address; to move node {id} or to give it another disk: \
                 `raftkv member replace {id} ADDR`"
            ),
            ChangeError::TransferFailed { to: 0 } => "start another voter first".to_owned(),
            ChangeError::TransferFailed { to } => {
                format!("see with `raftkv status` whether node {to} is reached and keeps up, or name another one")
            }
        }
    }
}
