//! What a node says about itself to operators.

use super::{
    Malformed,
    entry::{any_membership_from_pb, members_from_pb, members_to_pb, membership_to_pb},
    pb,
};
use crate::{
    flow::Flow,
    node::{NodeEvent, PeerStatus, Status, Trouble},
    raft::{Membership, Role},
};

/// A node's status on its way out; without its clock, which is no part of it.
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
        membership: Some(membership_to_pb(&status.membership)),
        incarnation: status.incarnation,
        trouble: status.trouble.map(|trouble| trouble.to_string()).unwrap_or_default(),
        clock: None,
    }
}

/// What a node's clock shows.
pub fn flow_clock(flow: &Flow) -> pb::FlowClock {
    pb::FlowClock { life: flow.life(), now: flow.now().as_nanos() as u64 }
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
    let membership = match status.membership {
        Some(membership) => any_membership_from_pb(membership).map_err(|error| error.within("membership"))?,
        None => Membership {
            voters: members_from_pb("voters", status.voters)?,
            learners: members_from_pb("learners", status.learners)?,
            ..Membership::default()
        },
    };
    let troubles = [Trouble::DiskFull, Trouble::Removed, Trouble::Wiped];
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
        membership,
        incarnation: status.incarnation,
        // One that a later version knows is none to this one.
        trouble: troubles.into_iter().find(|trouble| trouble.to_string() == status.trouble),
        restarts: status.restarts,
        log_writes: status.log_writes,
        peers: status.peers.into_iter().map(peer).collect(),
    })
}

/// What happened to a node, on its way out.
pub fn event_to_pb(event: &NodeEvent) -> pb::Event {
    use pb::event::Event;
    let event = match event {
        NodeEvent::RoleChanged { role, term, leader } => {
            let (role, leader) = (role.to_string(), leader.unwrap_or(0));
            Event::RoleChanged(pb::RoleChanged { role, term: *term, leader })
        }
        NodeEvent::MembershipChanged(membership) => Event::MembershipChanged(membership_to_pb(membership)),
        NodeEvent::ActorRestarted { path, cause } => {
            Event::ActorRestarted(pb::ActorRestarted { path: path.clone(), cause: cause.clone() })
        }
        NodeEvent::PeerLostData { peer } => Event::PeerLostData(*peer),
        NodeEvent::Removed => Event::Removed(true),
        NodeEvent::Wiped => Event::Wiped(true),
        NodeEvent::DiskFull { full } => Event::DiskFull(*full),
        NodeEvent::SnapshotTaken { index } => Event::SnapshotTaken(*index),
        NodeEvent::SnapshotInstalled { index } => Event::SnapshotInstalled(*index),
        NodeEvent::Stopped { cause } => {
            let cause = cause.as_ref().map(ToString::to_string).unwrap_or_default();
            Event::Stopped(pb::Stopped { cause })
        }
    };
    pb::Event { event: Some(event) }
}
