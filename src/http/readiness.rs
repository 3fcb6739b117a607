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

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a node counts as ready that could not serve, or falls out of it under load.
    #[test]
    fn ready_is_a_known_leader_and_little_to_apply() {
        let status = |leader, commit_index, applied_index| Status { leader, commit_index, applied_index, ..starting() };
        assert!(readiness(&status(None, 5, 5), false).is_err(), "nobody leads");
        assert!(readiness(&status(Some(1), 0, 0), false).is_err(), "it has heard nothing yet");
        assert!(readiness(&status(Some(1), 5, 4), false).is_err(), "it has not caught up");
        assert!(readiness(&status(Some(1), 5, 5), false).is_ok());
        assert!(readiness(&status(Some(1), 500, 5), true).is_ok(), "there is always something under load");
        assert!(readiness(&status(Some(1), 5000, 5), true).is_err(), "it has fallen behind");
        let full = Status { trouble: Some(crate::node::Trouble::DiskFull), ..status(Some(1), 5, 5) };
        assert!(readiness(&full, true).is_err(), "it takes no writes");
    }

    fn starting() -> Status {
        Status {
            id: 1,
            address: "127.0.0.1:7001".to_owned(),
            cluster_id: 1,
            role: crate::raft::Role::Follower,
            term: 0,
            leader: None,
            commit_index: 0,
            applied_index: 0,
            last_index: 0,
            snapshot_index: 0,
            membership: Default::default(),
            incarnation: 0,
            trouble: None,
            restarts: 0,
            log_writes: 0,
            peers: Vec::new(),
        }
    }
}
