//! Majorities (§5.2, §5.3). Nothing else in the core counts voters, so that joint configurations (§6) get one home.
//!
//! Invariant: any two quorums of one configuration share a server.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use super::types::{LogIndex, Membership, NodeId};

/// How many voters make a majority. 1 where there are none: nobody must win an empty cluster.
pub fn majority(membership: &Membership) -> usize {
    membership.voters.len() / 2 + 1
}

/// Whether the voters for whom `agrees` holds are a majority.
pub fn reached(membership: &Membership, agrees: impl Fn(NodeId) -> bool) -> bool {
    membership.voters.keys().filter(|id| agrees(**id)).count() >= majority(membership)
}

/// The highest value that a majority has reached: of `match_index`, the index that may be committed (§5.3).
/// 0 where there is no voter.
pub fn reached_value(membership: &Membership, value: impl Fn(NodeId) -> u64) -> LogIndex {
    // Seven voters and fewer stay on the stack: this runs at every acknowledgement.
    let mut few = [0; 7];
    let mut many = Vec::new();
    let count = membership.voters.len();
    let values = if count <= few.len() {
        &mut few[..count]
    } else {
        many.resize(count, 0);
        &mut many[..]
    };
    for (slot, id) in values.iter_mut().zip(membership.voters.keys()) {
        *slot = value(*id);
    }
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(majority(membership) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster(size: u64) -> Membership {
        Membership::of_voters((1..=size).map(|id| (id, "")))
    }

    proptest! {
        /// The naive model: try every value from the highest down and count who has reached it.
        #[test]
        fn reached_value_is_the_highest_that_a_majority_has(values in prop::collection::vec(0_u64..20, 1..12)) {
            let membership = cluster(values.len() as u64);
            let has = |id: NodeId| values[id as usize - 1];
            let naive = (0..20).rev().find(|goal| values.iter().filter(|value| *value >= goal).count() * 2 > values.len());
            prop_assert_eq!(reached_value(&membership, has), naive.unwrap_or(0));
        }

        #[test]
        fn two_quorums_always_share_a_voter(size in 1_u64..10, one in any::<u16>(), other in any::<u16>()) {
            let membership = cluster(size);
            let in_one = |id: NodeId| one >> id & 1 == 1;
            let in_other = |id: NodeId| other >> id & 1 == 1;
            if reached(&membership, in_one) && reached(&membership, in_other) {
                prop_assert!((1..=size).any(|id| in_one(id) && in_other(id)));
            }
        }
    }

    #[test]
    fn nobody_wins_a_cluster_without_voters() {
        assert!(!reached(&Membership::default(), |_| true));
        assert_eq!(reached_value(&Membership::default(), |_| 9), 0);
    }
}
