//! What is wrong with who speaks to whom.

use crate::{
    error::{Code, fix_wiped},
    raft::{Incarnation, NodeId},
    transport::Breach,
};

/// The other end is not who it should be, or takes this one for someone else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPeer {
    /// R004.
    #[error("node {node} belongs to cluster {cluster:016x}, the message is of cluster {found:016x}")]
    Cluster {
        /// Who noticed.
        node: NodeId,
        /// Its cluster.
        cluster: u64,
        /// The message's.
        found: u64,
    },
    /// R005, at the receiver.
    #[error("this is node {node}, the message is for node {found}")]
    Addressee {
        /// Who noticed.
        node: NodeId,
        /// Whom the message was for.
        found: NodeId,
    },
    /// R005, at either end: an answer from someone else than the one that was asked, or a request in our own name.
    #[error("node {node} expected to hear node {expected}, and heard node {found}")]
    Sender {
        /// Who noticed.
        node: NodeId,
        /// Who should have spoken. 0: anyone else.
        expected: NodeId,
        /// Who did.
        found: NodeId,
    },
    /// R007, at the receiver: its disk is another than the sender knows it by, so it was wiped, or the sender lags behind.
    #[error("node {node} has disk {incarnation:016x}, the message is for its disk {known:016x}")]
    OwnDisk {
        /// Who noticed.
        node: NodeId,
        /// Its disk.
        incarnation: Incarnation,
        /// The one that the sender knows it by.
        known: Incarnation,
    },
    /// R007, at either end: the other one's disk is another than this one knows it by.
    #[error("node {node} knows node {peer} by disk {known:016x}, and heard disk {found:016x}")]
    Replaced {
        /// Who noticed.
        node: NodeId,
        /// Whose disk it is about.
        peer: NodeId,
        /// The one that the log knows.
        known: Incarnation,
        /// The one that spoke.
        found: Incarnation,
    },
    /// R008, at the receiver of a request.
    #[error("node {peer} was removed from the cluster")]
    Removed {
        /// Who noticed.
        node: NodeId,
        /// Who was removed, and still speaks.
        peer: NodeId,
    },
}

impl WrongPeer {
    /// Its number.
    pub fn code(&self) -> Code {
        Code(match self {
            WrongPeer::Cluster { .. } => 4,
            WrongPeer::Addressee { .. } | WrongPeer::Sender { .. } => 5,
            WrongPeer::OwnDisk { .. } | WrongPeer::Replaced { .. } => 7,
            WrongPeer::Removed { .. } => 8,
        })
    }

    /// What to do about it.
    pub fn fix(&self) -> String {
        match self {
            WrongPeer::Cluster { cluster, .. } => format!(
                "the address leads to another cluster's node; correct it in --cluster or --peer, or use another port \
                 than cluster {cluster:016x} does"
            ),
            WrongPeer::Addressee { node, found } => format!(
                "the address given for node {found} is that of node {node}; correct it in --cluster or --peer on every node"
            ),
            WrongPeer::Sender { expected, found, .. } => format!(
                "the address given for node {expected} leads to node {found}; give each node an address and an id of its own"
            ),
            WrongPeer::OwnDisk { node: lost, .. } | WrongPeer::Replaced { peer: lost, .. } => fix_wiped(*lost),
            WrongPeer::Removed { peer, .. } => {
                format!("stop node {peer}; to use the machine again, start it empty under an id that was never used")
            }
        }
    }

    /// What it means to the one whose request was refused for it.
    pub fn to_the_refused(&self) -> Breach {
        match self {
            WrongPeer::Cluster { .. } | WrongPeer::Addressee { .. } | WrongPeer::Sender { .. } => Breach::WrongPeer,
            WrongPeer::OwnDisk { .. } => Breach::PeerWiped,
            WrongPeer::Replaced { .. } => Breach::Wiped,
            WrongPeer::Removed { .. } => Breach::Removed,
        }
    }

    /// What it means to the one that noticed it, in an answer.
    pub fn to_the_noticing(&self) -> Breach {
        match self {
            WrongPeer::OwnDisk { .. } => Breach::Wiped,
            WrongPeer::Replaced { .. } => Breach::PeerWiped,
            _ => Breach::WrongPeer,
        }
    }

    /// In one line, with its number and its fix.
    pub fn in_words(&self) -> String {
        format!("{}: {self}; {}", self.code(), self.fix())
    }
}
