//! Whose disk is whose (M06): what the nodes refuse around their cores, as `src/node/trust.rs` and the replicators do.
//!
//! That a server which knows a candidate by another disk refuses it its vote is left out: more may happen here than there.

use ractor_raft::raft::*;

/// Whether `membership` names another disk of this server than this one: who asked refuses what it answers.
pub fn is_known_otherwise(membership: &Membership, id: NodeId, disk: Incarnation) -> bool {
    membership.incarnations.get(&id).is_some_and(|known| *known != disk)
}

/// The disk that a server with this membership means when it asks `id`. 0: whichever is there.
pub fn meant(membership: &Membership, id: NodeId) -> Incarnation {
    membership.incarnations.get(&id).copied().unwrap_or(0)
}

/// Whether a request is for this disk. Another one refuses it.
pub fn is_for(meant: Incarnation, disk: Incarnation) -> bool {
    meant == 0 || disk == 0 || meant == disk
}
