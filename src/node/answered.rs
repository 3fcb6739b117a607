//! What became of the proposals at one node: counted by result, and timed. Written without a lock, read by whoever measures.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    error::ProposeError,
    flow::{Counts, Histogram},
    node::Applied,
};

/// The results that are told apart.
const RESULTS: [&str; 14] = [
    "applied",
    "forwarded",
    "not_leader",
    "no_leader",
    "busy",
    "too_large",
    "rejected",
    "unknown",
    "session_expired",
    "answered_long_ago",
    "unavailable",
    "disk_full",
    "wiped",
    "removed",
];

/// Applied by this node's own core.
pub(crate) const APPLIED: &str = RESULTS[0];
/// Applied by another node, which counts it as `applied`.
pub(crate) const FORWARDED: &str = RESULTS[1];

/// Counts and times of the answers since the node was built.
#[derive(Default)]
pub(crate) struct Answered {
    results: [AtomicU64; RESULTS.len()],
    /// From admission to the answer, of what was applied by this node's own core.
    pub times: Histogram,
}

impl Answered {
    /// Counts one.
    pub(crate) fn count(&self, result: &'static str) {
        let place = RESULTS.iter().position(|known| *known == result).expect("every result is in the table");
        self.results[place].fetch_add(1, Relaxed);
    }

    /// So many by result; all results, also those that never were.
    pub(crate) fn results(&self) -> BTreeMap<&'static str, u64> {
        RESULTS.into_iter().zip(self.results.iter().map(|count| count.load(Relaxed))).collect()
    }
}

/// The name of an answer's result.
pub(crate) fn result(answer: &Result<Applied, ProposeError>) -> &'static str {
    match answer {
        Ok(_) => APPLIED,
        Err(ProposeError::NotLeader { .. }) => "not_leader",
        Err(ProposeError::NoLeader { .. }) => "no_leader",
        Err(ProposeError::Busy { .. }) => "busy",
        Err(ProposeError::TooLarge { .. }) => "too_large",
        Err(ProposeError::Rejected { .. }) => "rejected",
        Err(ProposeError::Unknown { .. }) => "unknown",
        Err(ProposeError::SessionExpired { .. }) => "session_expired",
        Err(ProposeError::AnsweredLongAgo { .. }) => "answered_long_ago",
        // Only a client over the network hears that another cluster is there.
        Err(ProposeError::Unavailable { .. } | ProposeError::WrongCluster { .. }) => "unavailable",
        Err(ProposeError::DiskFull { .. }) => "disk_full",
        Err(ProposeError::NodeWiped { .. }) => "wiped",
        Err(ProposeError::NodeRemoved { .. }) => "removed",
    }
}

/// What a node has counted and timed besides its [`Status`](super::Status), since it was built; no restart of an actor sets
/// any of it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Leaders that this node has learnt of; of each term one.
    pub leader_changes: u64,
    /// The answers to proposals at this node, by result: "applied", "forwarded" for what another node applied (which counts it
    /// as "applied"), "busy", "unknown", … All results that there are, also those that never were.
    pub proposals: BTreeMap<&'static str, u64>,
    /// From the admission of a command to its answer, of what this node applied as the leader.
    pub proposal_times: Counts,
    /// How long the log store took to make a batch durable.
    pub fsync_times: Counts,
    /// How long it took to write a snapshot to disk. It rests most of the time, to leave disk and cores to others.
    pub snapshot_times: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a result is counted under another one's name, or is not in the table.
    #[test]
    fn every_result_has_its_own_count() {
        let answered = Answered::default();
        let errors = [
            ProposeError::Unavailable { node: 1 },
            ProposeError::DiskFull { node: 1 },
            ProposeError::NodeWiped { node: 1 },
            ProposeError::NodeRemoved { node: 1 },
            ProposeError::Unknown { reason: String::new() },
            ProposeError::Rejected { reason: String::new() },
            ProposeError::TooLarge { size: 1, limit: 0 },
            ProposeError::SessionExpired { session: 1 },
            ProposeError::AnsweredLongAgo { session: 1, sequence: 1 },
            ProposeError::NoLeader { node: 1, unreachable: Vec::new(), needed: 2, voters: 3 },
            ProposeError::NotLeader { node: 1, leader: 2, address: "two".into() },
            ProposeError::Busy { node: 1, limit: String::new(), retry_after: std::time::Duration::ZERO },
        ];
        errors.into_iter().for_each(|error| answered.count(result(&Err(error))));
        answered.count(result(&Ok(Applied { output: Default::default(), index: 1 })));
        answered.count(FORWARDED);
        let results = answered.results();
        assert_eq!(results.len(), RESULTS.len());
        assert!(results.values().all(|count| *count == 1), "{results:?}");
    }
}
