//! Majorities (§5.2, §5.3), also of joint configurations (§6). Nothing else in the core counts voters.
//!
//! In a joint configuration whatever takes a majority takes one of C_old *and* one of C_new (§6).
//!
//! A vote is a promise that rests on what the disk remembers. An empty disk in the place of another has forgotten what that one
//! acknowledged and whom it voted for (M06), and a candidate that lags may not know that there was another one. So a vote counts
//! only where the disk is *settled*: the candidate's own log names it, in an entry that is known to be committed. Why that is
//! enough: whoever acknowledged an entry and votes with another disk than it did so was named anew behind that entry, and the
//! candidate's log has both. A name that is not known to be committed would not do: a leader that was deposed and does not know
//! it yet may name an empty disk after its cluster went on without it.
//!
//! A cluster begins with disks that nobody knows, and until the log names one, all count. The first leader names those that
//! elected it, or would have, with the entry that opens its term, and until that is known to be committed they count, and
//! nobody else: also their acknowledgments. Any vote may have helped to depose that leader, also of a disk that nobody knew; an
//! empty one in its place has forgotten it, and would acknowledge what the deposed leader sends. For the same reason nobody is
//! named who denied its vote. Later ones are deposed by known disks.
//!
//! The price: where a leader falls before it ever heard of some first member, those left must be a majority without that one.
//!
//! Invariant: any two quorums of one configuration share a server, and so do a quorum of a configuration and one of the
//! joint configuration on either side of it.
//!
//! *Architecture invariant: nothing here waits, fails, reads a clock or draws a random number.*

use std::collections::BTreeMap;

use super::types::{Address, LogIndex, Membership, NodeId};

type Voters = BTreeMap<NodeId, Address>;

/// How many voters make a majority; in a joint configuration, of the new ones. 1 where there are none: nobody must win an
/// empty cluster.
pub fn majority(membership: &Membership) -> usize {
    majority_of(&membership.voters)
}

/// Whether the voters for whom `agrees` holds are a majority, whatever disks they have.
pub fn reached(membership: &Membership, agrees: impl Fn(NodeId) -> bool) -> bool {
    let reached = |voters: &Voters| voters.keys().filter(|id| agrees(**id)).count() >= majority_of(voters);
    reached(&membership.voters) && (membership.outgoing.is_empty() || reached(&membership.outgoing))
}

/// Whether those that `granted` their votes elect a leader (§5.2).
pub fn elected(membership: &Membership, granted: impl Fn(NodeId) -> bool) -> bool {
    let counted = Counted::of(membership);
    reached(membership, |id| counted.has(membership, id) && granted(id))
}

/// The highest value that a majority has reached: of `match_index`, the index that may be committed (§5.3).
/// 0 where there is no voter.
pub fn reached_value(membership: &Membership, value: impl Fn(NodeId) -> u64) -> LogIndex {
    let reached = reached_value_of(&membership.voters, &value);
    if membership.outgoing.is_empty() { reached } else { reached.min(reached_value_of(&membership.outgoing, &value)) }
}

/// The index that may be committed, of everyone's `match_index` (§5.3). Until the first names are settled, those that are named
/// decide about them alone.
pub fn committed(membership: &Membership, match_index: impl Fn(NodeId) -> LogIndex) -> LogIndex {
    let counts = |id| Counted::of(membership) != Counted::Named || Counted::Named.has(membership, id);
    reached_value(membership, |id| if counts(id) { match_index(id) } else { 0 })
}

/// Whether `id` votes and its vote counts, by a log whose last configuration is `membership`.
pub fn has_vote(membership: &Membership, id: NodeId) -> bool {
    membership.is_voter(id) && Counted::of(membership).has(membership, id)
}

/// Whether `membership` names the disks of a majority, so that they can elect a leader without the others.
pub fn names_majority(membership: &Membership) -> bool {
    reached(membership, |id| membership.incarnations.contains_key(&id))
}

/// Whose votes count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// No voter's disk is named.
    All,
    /// None is settled: they are those that elected the first leader.
    Named,
    Settled,
}

impl Counted {
    fn of(membership: &Membership) -> Counted {
        let any = |counted: Counted| {
            let has = |voters: &Voters| voters.keys().any(|id| counted.has(membership, *id));
            has(&membership.voters) || has(&membership.outgoing)
        };
        [Counted::Settled, Counted::Named].into_iter().find(|counted| any(*counted)).unwrap_or(Counted::All)
    }

    fn has(self, membership: &Membership, id: NodeId) -> bool {
        let named = || membership.incarnations.contains_key(&id);
        match self {
            Counted::All => true,
            Counted::Named => named(),
            Counted::Settled => named() && !membership.unsettled.contains(&id),
        }
    }
}

fn majority_of(voters: &Voters) -> usize {
    voters.len() / 2 + 1
}

fn reached_value_of(voters: &Voters, value: impl Fn(NodeId) -> u64) -> LogIndex {
    // Seven voters and fewer stay on the stack: this runs at every acknowledgement.
    let mut few = [0; 7];
    let mut many = Vec::new();
    let values = if voters.len() <= few.len() {
        &mut few[..voters.len()]
    } else {
        many.resize(voters.len(), 0);
        &mut many[..]
    };
    for (slot, id) in values.iter_mut().zip(voters.keys()) {
        *slot = value(*id);
    }
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(majority_of(voters) - 1).copied().unwrap_or(0)
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

    proptest! {
        /// The naive oracle: a joint decision is one decision in each half, by listing every subset that would do.
        #[test]
        fn a_joint_quorum_is_a_quorum_of_both(old in 1_u32..128, new in 1_u32..128, agree in 0_u32..128) {
            let members = |bits: u32| (1..8_u64).filter(move |id| bits >> (id - 1) & 1 == 1);
            let of = |bits| Membership::of_voters(members(bits).map(|id| (id, "")));
            let joint = Membership { outgoing: of(old).voters, ..of(new) };
            let agrees = |id: NodeId| agree >> (id - 1) & 1 == 1;
            let naive = |bits: u32| (bits & agree).count_ones() * 2 > bits.count_ones();
            prop_assert_eq!(reached(&joint, agrees), naive(old) && naive(new));
            // Whoever has agreed has reached 1: so a majority has, exactly where the quorum is reached.
            prop_assert_eq!(reached_value(&joint, |id| u64::from(agrees(id))), u64::from(naive(old) && naive(new)));
        }

        /// Fails when: `reached` looks at one half only.
        #[test]
        fn a_joint_quorum_shares_a_voter_with_every_quorum_of_either_half(
            old in 1_u32..128, new in 1_u32..128, one in 0_u32..128, other in 0_u32..128,
        ) {
            let members = |bits: u32| (1..8_u64).filter(move |id| bits >> (id - 1) & 1 == 1);
            let of = |bits| Membership::of_voters(members(bits).map(|id| (id, "")));
            let joint = Membership { outgoing: of(old).voters, ..of(new) };
            let has = |bits: u32| move |id: NodeId| bits >> (id - 1) & 1 == 1;
            for half in [old, new] {
                if reached(&joint, has(one)) && reached(&of(half), has(other)) {
                    prop_assert!(members(half).any(|id| has(one)(id) && has(other)(id)));
                }
            }
        }
    }

    proptest! {
        /// The naive oracle: first who counts, then a majority of each half.
        ///
        /// Fails when: `Counted` looks at one half only, or takes those that are named before those that are settled.
        #[test]
        fn only_votes_of_settled_disks_elect_where_there_are_any(
            old in 0_u32..128, new in 1_u32..128, named in 0_u32..128, unsettled in 0_u32..128, votes in 0_u32..128,
        ) {
            let members = |bits: u32| (1..8_u64).filter(move |id| bits >> (id - 1) & 1 == 1);
            let of = |bits| Membership::of_voters(members(bits).map(|id| (id, "")));
            let membership = Membership {
                outgoing: of(old).voters,
                incarnations: members(named).map(|id| (id, 10 + id)).collect(),
                unsettled: members(unsettled & named).collect(),
                ..of(new)
            };
            let all = old | new;
            let counted = [all & named & !unsettled, all & named, all].into_iter().find(|counted| *counted != 0);
            let counted = votes & counted.expect("there are voters");
            let naive = |bits: u32| (bits & counted).count_ones() * 2 > bits.count_ones();
            let naive = naive(new) && (old == 0 || naive(old));
            prop_assert_eq!(elected(&membership, |id| votes >> (id - 1) & 1 == 1), naive);
        }
    }

    #[test]
    fn nobody_wins_a_cluster_without_voters() {
        assert!(!elected(&Membership::default(), |_| true));
        assert!(!reached(&Membership::default(), |_| true));
        assert_eq!(reached_value(&Membership::default(), |_| 9), 0);
    }
}
