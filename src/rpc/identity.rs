//! Who speaks to whom: the [`Header`](pb::Header) of every message between nodes, checked at both ends.
//!
//! Two nodes whose addresses were swapped, or a node of another cluster behind a reused address, would otherwise vote
//! and acknowledge in someone else's name (SAFETY: M11).
//!
//! A sender need not belong to the membership that this node knows: a node that lags behind has to follow a leader
//! that was added meanwhile (§6).

use super::{convert::Malformed, pb};
use crate::{error::Code, raft::NodeId, storage::Identity};

/// The other end is not who it should be.
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
}

impl WrongPeer {
    /// Its number.
    pub fn code(&self) -> Code {
        Code(match self {
            WrongPeer::Cluster { .. } => 4,
            WrongPeer::Addressee { .. } | WrongPeer::Sender { .. } => 5,
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
        }
    }
}

/// What heads a request, and with the ends swapped its reply.
pub(super) fn header(from: &Identity, to: NodeId, session: u64) -> pb::Header {
    pb::Header { cluster_id: from.cluster_id, from: from.node_id, to, session }
}

/// Why a header was not accepted.
pub(super) enum Refused {
    Malformed(Malformed),
    WrongPeer(WrongPeer),
}

/// Checks a request's header at its receiver. Returns who sent it.
pub(super) fn check_request(own: &Identity, header: Option<pb::Header>) -> Result<pb::Header, Refused> {
    let header = check(own, header)?;
    if header.from == 0 {
        return Err(Refused::Malformed(Malformed::new("header.from", "is 0, which is no node")));
    }
    if header.from == own.node_id {
        let wrong = WrongPeer::Sender { node: own.node_id, expected: 0, found: header.from };
        return Err(Refused::WrongPeer(wrong));
    }
    Ok(header)
}

/// Checks a reply's header at the node that asked `expected`. Returns the session it answers.
pub(super) fn check_reply(own: &Identity, expected: NodeId, header: Option<pb::Header>) -> Result<u64, Refused> {
    let header = check(own, header)?;
    if header.from != expected {
        let wrong = WrongPeer::Sender { node: own.node_id, expected, found: header.from };
        return Err(Refused::WrongPeer(wrong));
    }
    Ok(header.session)
}

fn check(own: &Identity, header: Option<pb::Header>) -> Result<pb::Header, Refused> {
    let Some(header) = header else {
        return Err(Refused::Malformed(Malformed::new("header", "is missing")));
    };
    if header.cluster_id != own.cluster_id {
        let wrong = WrongPeer::Cluster { node: own.node_id, cluster: own.cluster_id, found: header.cluster_id };
        return Err(Refused::WrongPeer(wrong));
    }
    if header.to != own.node_id {
        return Err(Refused::WrongPeer(WrongPeer::Addressee { node: own.node_id, found: header.to }));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Identity = Identity { cluster_id: 7, node_id: 1 };

    fn code(result: Result<impl Sized, Refused>) -> Option<u16> {
        match result {
            Ok(_) | Err(Refused::Malformed(_)) => None,
            Err(Refused::WrongPeer(wrong)) => Some(wrong.code().0),
        }
    }

    // Fails when: either comparison is left out of `check` or `check_request`.
    #[test]
    fn a_request_for_another_node_or_cluster_is_refused() {
        let good = pb::Header { cluster_id: 7, from: 2, to: 1, session: 3 };
        assert!(check_request(&OWN, Some(good)).is_ok());
        assert_eq!(code(check_request(&OWN, Some(pb::Header { cluster_id: 8, ..good }))), Some(4));
        assert_eq!(code(check_request(&OWN, Some(pb::Header { to: 3, ..good }))), Some(5));
        assert_eq!(code(check_request(&OWN, Some(pb::Header { from: 1, ..good }))), Some(5));
        assert!(matches!(check_request(&OWN, None), Err(Refused::Malformed(_))));
        assert!(matches!(check_request(&OWN, Some(pb::Header { from: 0, ..good })), Err(Refused::Malformed(_))));
    }

    // Fails when: `check_reply` does not compare `from` with the node that was asked.
    #[test]
    fn a_reply_of_another_node_or_cluster_is_refused() {
        let good = pb::Header { cluster_id: 7, from: 2, to: 1, session: 3 };
        assert_eq!(check_reply(&OWN, 2, Some(good)).ok(), Some(3));
        assert_eq!(code(check_reply(&OWN, 3, Some(good))), Some(5));
        assert_eq!(code(check_reply(&OWN, 2, Some(pb::Header { cluster_id: 8, ..good }))), Some(4));
        assert_eq!(code(check_reply(&OWN, 2, Some(pb::Header { to: 3, ..good }))), Some(5));
    }
}
