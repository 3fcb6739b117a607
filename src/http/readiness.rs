//! When a node is ready: the one rule for `/readyz` and for gRPC's health service.

use crate::node::Status;

/// A ready node stays ready while it has no more than this to apply: under load there is always something.
const MAX_BACKLOG: u64 = 1000;

/// Whether a node that was ready, or was not, is so now: a leader is known, and it has caught up.
///
/// # Errors
/// It is not, and why.
pub fn readiness(status: &Status, was_ready: bool) -> Result<(), String> {
    let backlog = status.commit_index.saturating_sub(status.applied_index);
    let allowed = if was_ready { MAX_BACKLOG } else { 0 };
    match (status.trouble, status.leader) {
        (Some(trouble), _) => Err(format!("node {} cannot do its work: {trouble}", status.id)),
        (None, None) => Err(format!("node {} knows no leader in term {}", status.id, status.term)),
        _ if status.commit_index == 0 => Err(format!("node {} has not heard of any committed entry", status.id)),
        _ if backlog > allowed => Err(format!("node {} has {backlog} committed entries to apply still", status.id)),
        _ => Ok(()),
    }
}
