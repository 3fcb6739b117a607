//! Who speaks to whom: the [`Header`](pb::Header) of every message between nodes, checked at both ends.
//!
//! Two nodes whose addresses were swapped, or a node of another cluster behind a reused address, would otherwise vote
//! and acknowledge in someone else's name (SAFETY: M11).
//!
//! A sender need not belong to the membership that this node knows: a node that lags behind has to follow a leader
//! that was added meanwhile (§6).

use super::{convert::Malformed, pb};
pub use crate::transport::WrongPeer;
use crate::{
    raft::Incarnation,
    storage::Identity,
    transport::{Caller, Link},
};

/// What heads a request.
pub(super) fn header(link: &Link, session: u64) -> pb::Header {
    let Caller { id, incarnation, knows } = link.caller();
    pb::Header {
        cluster_id: link.from.cluster_id,
        from: id,
        to: link.to,
        session,
        from_incarnation: incarnation,
        to_incarnation: knows,
    }
}

/// What heads the reply to a request that came with this header, from the node with this disk.
pub(super) fn reply_header(request: pb::Header, incarnation: Incarnation) -> pb::Header {
    pb::Header {
        from: request.to,
        to: request.from,
        from_incarnation: incarnation,
        to_incarnation: request.from_incarnation,
        ..request
    }
}

/// Who sent a request with this header.
pub(super) fn caller(header: &pb::Header) -> Caller {
    Caller { id: header.from, incarnation: header.from_incarnation, knows: header.to_incarnation }
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

/// Checks a reply's header at the node that asked over `link`. Returns the session it answers, and the answerer's disk.
pub(super) fn check_reply(link: &Link, header: Option<pb::Header>) -> Result<(u64, Incarnation), Refused> {
    let header = check(&link.from, header)?;
    if header.from != link.to {
        let wrong = WrongPeer::Sender { node: link.from.node_id, expected: link.to, found: header.from };
        return Err(Refused::WrongPeer(wrong));
    }
    link.check_answer(header.from_incarnation).map_err(Refused::WrongPeer)?;
    Ok((header.session, header.from_incarnation))
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
    use std::sync::{Arc, atomic::AtomicU64};

    use super::*;

    const OWN: Identity = Identity { cluster_id: 7, node_id: 1 };
    const GOOD: pb::Header =
        pb::Header { cluster_id: 7, from: 2, to: 1, session: 3, from_incarnation: 22, to_incarnation: 0 };

    fn code(result: Result<impl Sized, Refused>) -> Option<u16> {
        match result {
            Ok(_) | Err(Refused::Malformed(_)) => None,
            Err(Refused::WrongPeer(wrong)) => Some(wrong.code().0),
        }
    }

    fn link(to: u64, to_incarnation: u64) -> Link {
        let to_incarnation = Arc::new(AtomicU64::new(to_incarnation));
        let (address, heard) = (String::new(), Arc::new(|_| {}));
        let snapshot_timeout = std::time::Duration::from_secs(10);
        Link { from: OWN, to, address, from_incarnation: 11, to_incarnation, snapshot_timeout, heard }
    }

    // Fails when: either comparison is left out of `check` or `check_request`.
    #[test]
    fn a_request_for_another_node_or_cluster_is_refused() {
        assert!(check_request(&OWN, Some(GOOD)).is_ok());
        assert_eq!(code(check_request(&OWN, Some(pb::Header { cluster_id: 8, ..GOOD }))), Some(4));
        assert_eq!(code(check_request(&OWN, Some(pb::Header { to: 3, ..GOOD }))), Some(5));
        assert_eq!(code(check_request(&OWN, Some(pb::Header { from: 1, ..GOOD }))), Some(5));
        assert!(matches!(check_request(&OWN, None), Err(Refused::Malformed(_))));
        assert!(matches!(check_request(&OWN, Some(pb::Header { from: 0, ..GOOD })), Err(Refused::Malformed(_))));
    }

    // Fails when: `check_reply` does not compare `from` with the node that was asked, or the disk with the known one.
    #[test]
    fn a_reply_of_another_node_cluster_or_disk_is_refused() {
        assert_eq!(check_reply(&link(2, 0), Some(GOOD)).ok(), Some((3, 22)));
        assert_eq!(check_reply(&link(2, 22), Some(GOOD)).ok(), Some((3, 22)));
        assert_eq!(code(check_reply(&link(2, 23), Some(GOOD))), Some(7));
        assert_eq!(code(check_reply(&link(3, 0), Some(GOOD))), Some(5));
        assert_eq!(code(check_reply(&link(2, 0), Some(pb::Header { cluster_id: 8, ..GOOD }))), Some(4));
        assert_eq!(code(check_reply(&link(2, 0), Some(pb::Header { to: 3, ..GOOD }))), Some(5));
    }
}
