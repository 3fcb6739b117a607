//! M06: whose vote counts, where disks tell who they are (`src/raft/quorum.rs`).

use ractor_raft::raft::*;

use crate::fixture::{Fixture, entries};

/// n1 to n3, and whose disks are named and unsettled.
fn three(named: &[NodeId], unsettled: &[NodeId]) -> Membership {
    Membership {
        incarnations: named.iter().map(|id| (*id, 11 * id)).collect(),
        unsettled: unsettled.iter().copied().collect(),
        ..Membership::of_voters((1..=3).map(|id| (id, "")))
    }
}

/// n1, whose disk tells who it is.
fn n1_in(membership: Membership) -> Fixture {
    let recovered = Recovered { membership, ..Recovered::default() };
    Fixture::start_with(recovered, |settings| settings.incarnation = 11)
}

/// A candidate of the first term, of which these have been met.
fn candidate(membership: Membership, met: &[NodeId]) -> Fixture {
    let mut n1 = n1_in(membership);
    n1.alarm();
    for peer in met {
        n1.met(*peer, 11 * peer);
    }
    for peer in [2, 3] {
        let reply = PreVoteReply { term: 0, vote_granted: true };
        n1.reply_from(peer, Reply::PreVote(reply));
    }
    n1.persisted();
    assert_eq!(n1.raft.role(), Role::Candidate);
    n1
}

/// An empty disk in the place of another has forgotten what it promised. Whether there was another, only a log can say that names it
/// in an entry that is committed.
///
/// Fails when: `count_votes` or `count_pre_votes` asks `quorum::reached`, `Counted::has` does not look at `unsettled`, or
/// `Counted::of` finds those that are named before those that are settled.
#[test]
fn the_vote_of_a_disk_counts_once_the_log_says_that_it_is_settled() {
    for (named, unsettled) in [(&[1, 2][..], &[][..]), (&[1, 2, 3], &[3])] {
        let mut n1 = candidate(three(named, unsettled), &[]);
        n1.granted(3);
        assert_eq!(n1.raft.role(), Role::Candidate, "named: {named:?}, unsettled: {unsettled:?}");
        n1.granted(2);
        assert_eq!(n1.raft.role(), Role::Leader);

        let mut n1 = n1_in(three(named, unsettled));
        n1.alarm();
        let granted = Reply::PreVote(PreVoteReply { term: 0, vote_granted: true });
        n1.reply_from(3, granted.clone());
        assert_eq!(n1.raft.role(), Role::PreCandidate, "named: {named:?}, unsettled: {unsettled:?}");
        n1.reply_from(2, granted).persisted();
        assert_eq!(n1.raft.role(), Role::Candidate);
    }
}

/// A server whose vote does not count does not stand: elected by the votes of others and emptied, it might be elected once more in the
/// same term, since they have voted for its id, and two leaders of one term would append different entries at one place.
///
/// Fails when: `may_campaign` asks only whether it is a voter, or counts what was in force before anyone was named.
#[test]
fn a_server_whose_vote_does_not_count_does_not_stand() {
    let log =
        |membership: Membership| vec![Entry { index: 1, term: 1, payload: Payload::Membership(membership.into()) }];
    for (named, unsettled, stands) in [
        (&[2, 3][..], &[][..], false),
        (&[1, 2, 3], &[1], false),
        (&[1, 2], &[1, 2], true),
        (&[1, 2], &[], true),
        (&[], &[], true),
    ] {
        let hard_state = HardState { current_term: 1, voted_for: None };
        let entries = log(three(named, unsettled));
        let recovered = Recovered { hard_state, membership: three(&[], &[]), entries, ..Recovered::default() };
        let mut n1 = Fixture::start_with(recovered, |settings| settings.incarnation = 11);
        n1.alarm();
        assert_eq!(n1.raft.role() == Role::PreCandidate, stands, "named: {named:?}, unsettled: {unsettled:?}");
        n1.append(1, (1, 1), &[], 0);
        n1.request(2, Request::TimeoutNow(TimeoutNowRequest { term: 1, leader_id: 2 }));
        assert_eq!(n1.raft.role() == Role::Candidate, stands, "named: {named:?}, unsettled: {unsettled:?}");
    }
}

/// n1 was elected by n3, and does not know that n3 leads a later term by the vote of n2, and has committed another first entry with
/// it. n2's disk is lost; the empty one has forgotten that it voted, and acknowledges what n1 sends.
///
/// Fails when: `committed` takes any acknowledgment before the first names are settled.
#[test]
fn the_first_names_are_committed_by_those_that_are_named() {
    let mut n1 = candidate(three(&[], &[]), &[3]);
    n1.granted(3);
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n3 unsettled=n1,n3");
    n1.persisted();
    n1.matched(2, 0).matched(2, 1);
    assert_eq!(n1.raft.commit_index(), 0, "n2 is not named");
    n1.matched(3, 0).matched(3, 1);
    assert_eq!(n1.raft.commit_index(), 1);
    n1.persisted().matched(2, 2);
    assert_eq!(
        (n1.raft.commit_index(), n1.raft.last_index()),
        (2, 2),
        "now they are settled, and any acknowledgment counts"
    );
}

/// As long as the names that the first leader wrote down are not known to be committed, those that it named elect, and nobody else:
/// another log may begin with other names.
///
/// Fails when: `Counted::of` goes from `Settled` to `All`.
#[test]
fn until_the_first_names_are_settled_those_that_are_named_elect() {
    let mut n1 = candidate(three(&[1, 2], &[1, 2]), &[]);
    n1.granted(3);
    assert_eq!(n1.raft.role(), Role::Candidate);
    n1.granted(2);
    assert_eq!(n1.raft.role(), Role::Leader);
}

/// The entry that opens the term of a cluster's first leader names the disks that elected it, and whoever else would have. Once it
/// is committed, the next configuration says so.
///
/// Fails when: `first_names` names nobody, `followed_by` leaves them settled, or `advance_membership` appends nothing more.
#[test]
fn the_first_leader_opens_its_term_with_the_names_of_those_that_elected_it() {
    for (met, named) in [(&[2][..], "n1,n2"), (&[2, 3], "n1,n2,n3")] {
        let mut n1 = candidate(three(&[], &[]), met);
        n1.granted(2);
        assert_eq!(n1.raft.last_index(), 1);
        assert_eq!(n1.raft.membership().to_string(), format!("voters=n1,n2,n3 known={named} unsettled={named}"));
        n1.persisted();
        n1.matched(2, 0).matched(2, 1);
        assert_eq!((n1.raft.commit_index(), n1.raft.last_index()), (1, 2));
        assert_eq!(n1.raft.membership().to_string(), format!("voters=n1,n2,n3 known={named}"));
        n1.persisted().matched(2, 2).persisted();
        assert_eq!((n1.raft.commit_index(), n1.raft.last_index()), (2, 2), "and nothing more");
    }
}

/// n3 denies n1 its vote: it may have elected another leader, and have lost the disk that knew it. Of five servers, n4 voted for n5
/// in the term after n1's, and the empty disk in its place would be the third to acknowledge what n1 sends, with n2.
///
/// Fails when: `denied` does nothing, or one of the two replies does not call it.
#[test]
fn who_denied_its_vote_is_not_among_the_first_names() {
    let vote = Reply::RequestVote(RequestVoteReply { term: 1, vote_granted: false });
    let pre_vote = Reply::PreVote(PreVoteReply { term: 0, vote_granted: false });
    for denial in [vote, pre_vote] {
        let mut n1 = candidate(three(&[], &[]), &[2, 3]);
        n1.reply_from(3, denial).granted(2);
        assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n2 unsettled=n1,n2");
        n1.met(3, 33).persisted();
        n1.matched(3, 0).matched(3, 1);
        assert_eq!(n1.raft.commit_index(), 0);
        n1.matched(2, 0).matched(2, 1);
        assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n2,n3 unsettled=n3");
    }
}

/// Whoever would not stand is not waited for.
///
/// Fails when: `transfer_leadership` asks only whether it is a voter.
#[test]
fn a_transfer_to_one_whose_vote_does_not_count_is_refused_at_once() {
    let mut n1 = candidate(three(&[1, 2], &[]), &[]);
    n1.granted(2).persisted();
    n1.step(Input::TransferLeadership { call: 6, to: Some(3) });
    assert_eq!(n1.told(), ["Refuse call=6 TransferFailed to=n3"]);
    n1.step(Input::TransferLeadership { call: 7, to: Some(2) });
    assert_eq!(n1.told(), [""; 0]);
}

/// Those that are named first elect without the others: where they were no majority, nobody could ever be elected.
///
/// Fails when: `with_names` does not ask for a majority.
#[test]
fn fewer_than_a_majority_are_not_named() {
    let mut n1 = candidate(three(&[], &[]), &[]);
    n1.granted(2);
    assert_eq!(n1.raft.entry(1).map(|entry| &entry.payload), Some(&Payload::Noop), "n2 did not tell");
    n1.persisted().matched(2, 0).matched(2, 1);
    assert_eq!((n1.raft.commit_index(), n1.raft.last_index()), (1, 1));
    n1.met(3, 33);
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n3 unsettled=n1,n3");
}

/// A name is only settled by a leader that knows it to be committed: another one may have gone on without it.
///
/// Fails when: `advance_membership` settles what is not committed.
#[test]
fn a_new_leader_settles_what_it_finds_once_that_is_committed() {
    let hard_state = HardState { current_term: 1, voted_for: None };
    let named = Payload::Membership(three(&[1, 2, 3], &[3]).into());
    let entries = vec![Entry { index: 1, term: 1, payload: named }];
    let recovered = Recovered { hard_state, membership: three(&[1, 2], &[]), entries, ..Recovered::default() };
    let mut n1 = Fixture::start_with(recovered, |settings| settings.incarnation = 11);
    n1.campaign();
    n1.granted(2);
    n1.persisted();
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n2,n3 unsettled=n3");
    assert_eq!(n1.raft.last_index(), 2);
    n1.matched(3, 1).matched(3, 2);
    assert_eq!((n1.raft.commit_index(), n1.raft.last_index()), (2, 3), "any acknowledgment counts");
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n2,n3");
}

/// Whoever answered an earlier campaign may have another disk by now.
///
/// Fails when: `start_pre_vote` or `become_follower` keeps who was met.
#[test]
fn who_was_met_in_an_earlier_campaign_is_not_named() {
    let mut n1 = n1_in(three(&[], &[]));
    n1.alarm();
    n1.met(3, 33);
    n1.alarm();
    n1.met(2, 22);
    n1.reply_from(2, Reply::PreVote(PreVoteReply { term: 0, vote_granted: true })).persisted();
    n1.granted(2);
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n2 unsettled=n1,n2");

    let mut n1 = candidate(three(&[], &[]), &[2, 3]);
    n1.append(1, (0, 0), &[], 0);
    n1.met(3, 33);
    n1.request(2, Request::TimeoutNow(TimeoutNowRequest { term: 1, leader_id: 2 })).persisted();
    n1.granted(2);
    assert_eq!(n1.raft.entry(1).map(|entry| &entry.payload), Some(&Payload::Noop), "nobody but itself was met");
}

/// Where a voter's vote did not count, the others might be no majority.
///
/// Fails when: `plan_promotion` does not ask whether the disk is known.
#[test]
fn a_learner_votes_only_when_its_disk_is_known() {
    let learners = Membership::of_voters([(3, "")]).voters;
    let membership = Membership { learners, staged: [3].into(), ..three(&[1, 2], &[]) };
    let membership = Membership { voters: Membership::of_voters([(1, ""), (2, "")]).voters, ..membership };
    let mut n1 = n1_in(membership);
    n1.campaign();
    n1.granted(2);
    n1.persisted();
    n1.matched(2, 0).matched(2, 1).persisted();
    n1.matched(3, 0).matched(3, 1);
    assert!(!n1.raft.membership().is_voter(3), "{}", n1.raft.membership());
    n1.change(5, Change::Promote { id: 3 });
    assert_eq!(n1.told(), ["Refuse call=5 NotCaughtUp n3 match=1"]);
    n1.met(3, 33);
    for index in 2..6 {
        n1.persisted();
        n1.matched(2, index).matched(3, index).persisted();
    }
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n2,n3");
}

/// M09. Those that are left must be able to elect a leader.
///
/// Fails when: `lost_majority` counts servers whose disks are not known.
#[test]
fn no_change_leaves_a_majority_whose_votes_do_not_count() {
    let mut n1 = n1_in(three(&[1, 2], &[]));
    n1.campaign();
    n1.granted(2);
    n1.persisted();
    for peer in [2, 3] {
        n1.matched(peer, 0).matched(peer, 1).persisted();
    }
    n1.change(5, Change::Remove { id: 2 });
    assert_eq!(n1.told(), ["Refuse call=5 WouldStop in_touch=1 needed=2"]);
}

/// M07. One that was promoted, and lacks the entries that say so, votes.
/// Where only two vote, nobody could else be elected in the place of a leader that fell.
///
/// Fails when: `is_as_up_to_date` refuses whoever knows no cluster.
#[test]
fn a_promoted_server_that_knows_no_cluster_yet_votes() {
    let hard_state = HardState { current_term: 1, voted_for: None };
    let joining = Recovered { hard_state, entries: entries(1, &[1, 1]), ..Recovered::default() };
    let mut n1 = Fixture::start_with(joining, |settings| settings.incarnation = 11);
    n1.pre_vote(2, 2, (9, 1));
    assert_eq!(n1.replies(), ["PreVoteReply term=1 granted"]);
    n1.request_vote(2, 2, (9, 1)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=2 granted"]);
}

/// M06. A first member whose disk is lost and that joins, as it is to be, does not help another one that has nothing either to
/// begin a cluster in the place of the one that they belonged to.
///
/// Fails when: `is_as_up_to_date` does not look at the candidate's index.
#[test]
fn a_server_that_joins_has_no_vote_for_an_empty_log() {
    let mut n1 = Fixture::start_with(Recovered::default(), |settings| settings.incarnation = 11);
    n1.pre_vote(2, 2, (0, 0));
    assert_eq!(n1.replies(), ["PreVoteReply term=0 refused"]);
    n1.request_vote(2, 2, (0, 0)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=2 refused"]);
}
