//! What a node says about itself to operators.

use super::{
    Malformed,
    entry::{members_from_pb, members_to_pb},
    pb,
};
use crate::{
    node::{PeerStatus, Status},
    raft::{Membership, Role},
};

/// A node's status on its way out.
pub fn status_to_pb(status: &Status) -> pb::StatusReply {
    let peer =
        |peer: &PeerStatus| pb::PeerStatus { id: peer.id, match_index: peer.match_index, reachable: peer.reachable };
    pb::StatusReply {
        id: status.id,
        address: status.address.clone(),
        role: status.role.to_string(),
        term: status.term,
        leader: status.leader.unwrap_or(0),
        commit: status.commit_index,
        applied: status.applied_index,
        last: status.last_index,
        snapshot: status.snapshot_index,
        voters: members_to_pb(&status.membership.voters),
        learners: members_to_pb(&status.membership.learners),
        restarts: status.restarts,
        cluster_id: status.cluster_id,
        peers: status.peers.iter().map(peer).collect(),
        log_writes: status.log_writes,
    }
}

/// A node's status as it came.
///
/// # Errors
/// [`Malformed`] names the first field that does not fit.
pub fn status_from_pb(status: pb::StatusReply) -> Result<Status, Malformed> {
    let roles = [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];
    let Some(role) = roles.into_iter().find(|role| role.to_string() == status.role) else {
        return Err(Malformed::new("role", format!("is {:?}", status.role)));
    };
    let peer =
        |peer: pb::PeerStatus| PeerStatus { id: peer.id, match_index: peer.match_index, reachable: peer.reachable };
    Ok(Status {
        id: status.id,
        address: status.address,
        cluster_id: status.cluster_id,
        role,
        term: status.term,
        leader: (status.leader != 0).then_some(status.leader),
        commit_index: status.commit,
        applied_index: status.applied,
        last_index: status.last,
        snapshot_index: status.snapshot,
        membership: Membership {
            voters: members_from_pb("voters", status.voters)?,
            learners: members_from_pb("learners", status.learners)?,
            ..Membership::default()
        },
        restarts: status.restarts,
        log_writes: status.log_writes,
        peers: status.peers.into_iter().map(peer).collect(),
    })
}
