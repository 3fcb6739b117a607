//! Changes of the cluster's servers: §6, thesis §4.

use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN, Fixture, HEARTBEAT, entries, snapshot};

fn ids(ids: &[NodeId]) -> Membership {
    Membership::of_voters(ids.iter().map(|id| (*id, "")))
}

fn joint(new: &[NodeId], old: &[NodeId]) -> Membership {
    Membership { outgoing: ids(old).voters, ..ids(new) }
}

/// n1 as it starts in term 1, with a log of no-ops that ends with this membership.
fn with_membership(first: &[NodeId], noops: usize, last: &[Membership]) -> Fixture {
    let mut log = entries(1, &vec![1; noops]);
    for membership in last {
        let index = log.len() as LogIndex + 1;
        log.push(Entry { index, term: 1, payload: Payload::Membership(membership.clone().into()) });
    }
    let hard_state = HardState { current_term: 1, voted_for: None };
    Fixture::start(Recovered { hard_state, membership: ids(first), entries: log, ..Recovered::default() })
}

/// "Once a given server adds the new configuration entry to its log, it uses that configuration for all future decisions (a server
/// always uses the latest configuration in its log, regardless of whether the entry is committed)." (§6)
///
/// Fails when: `append` does not tell the history of configurations.
#[test]
fn the_latest_configuration_in_the_log_is_in_force() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Remove { id: 3 });
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2 outgoing=n1,n2,n3");
    assert_eq!(n1.raft.commit_index(), 1);
}

/// M02. "[It] falls back to the previous configuration in its log" where the entry is removed (thesis §4.1).
///
/// Fails when: `truncate_from` does not tell the history of configurations.
#[test]
fn a_truncated_configuration_is_in_force_no_more() {
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[1, 2], &[1, 2, 3])]);
    assert!(n1.raft.membership().is_joint());
    n1.append(2, (1, 1), &[2], 1);
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3");
}

/// M01. A leader changes nothing before it has committed an entry of its term (Ongaro, raft-dev 2015).
///
/// Fails when: `obstacle_to_changes` does not look at `first_index`.
#[test]
fn no_change_before_an_entry_of_the_term_is_committed() {
    let mut n1 = Fixture::leader_of(3, &[1, 1]);
    n1.matched(2, 2);
    n1.change(5, Change::Remove { id: 3 });
    assert_eq!(n1.told(), ["Refuse call=5 NotReady"]);
}

/// M03. One change at a time: while one is uncommitted, and while it is joint, a second is refused, and names the one under way.
///
/// Fails when: `obstacle_to_changes` looks only whether the configuration is joint, or only whether it is committed.
#[test]
fn one_change_at_a_time() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Add { id: 4, address: "n4".to_owned(), promote: false });
    n1.change(6, Change::Remove { id: 3 });
    assert_eq!(n1.told(), ["Refuse call=6 ChangeUnderWay index=2"]);
    n1.persisted().matched(2, 2);
    n1.change(7, Change::Remove { id: 3 }).persisted();
    n1.matched(2, 3);
    n1.change(8, Change::Remove { id: 4 });
    assert_eq!(n1.told(), ["Refuse call=8 ChangeUnderWay index=4"], "C_old,new is committed, C_new is not");
}

/// "Log entries are replicated to all servers in both configurations." (§6)
///
/// Fails when: `follow_membership` makes no progress for a new server, or drops it for one that leaves.
#[test]
fn entries_go_to_both_configurations() {
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[1, 2, 4], &[1, 2, 3])]);
    n1.campaign();
    n1.win();
    let addressees: Vec<_> = n1.sent().iter().map(|sent| sent[..2].to_owned()).collect();
    assert_eq!(addressees, ["n2", "n3", "n4"]);
}

/// "Agreement (for elections and entry commitment) requires separate majorities from both the old and new configurations" (§6): for
/// elections, of {1,2,3} and of {1,4,5}.
///
/// Fails when: a candidate asks only C_new (`other_voters`), or `reached` counts one half.
#[test]
fn an_election_takes_both_majorities() {
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[1, 4, 5], &[1, 2, 3])]);
    n1.alarm();
    let asked: Vec<_> = n1.sent().iter().map(|sent| sent[..2].to_owned()).collect();
    assert_eq!(asked, ["n4", "n5", "n2", "n3"]);
    for peer in [2, 3] {
        n1.reply_from(peer, Reply::PreVote(PreVoteReply { term: 1, vote_granted: true }));
    }
    assert_eq!(n1.raft.role(), Role::PreCandidate, "all of C_old, and nobody of C_new");
    n1.reply_from(4, Reply::PreVote(PreVoteReply { term: 1, vote_granted: true })).persisted();
    assert_eq!(n1.raft.role(), Role::Candidate);
    n1.granted(4).granted(5);
    assert_eq!(n1.raft.role(), Role::Candidate, "all of C_new, and nobody else of C_old");
    n1.granted(3);
    assert_eq!(n1.raft.role(), Role::Leader);
}

/// The same for commitment.
///
/// Fails when: `reached_value` counts one half.
#[test]
fn a_commitment_takes_both_majorities() {
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[1, 4, 5], &[1, 2, 3])]);
    n1.campaign();
    n1.win();
    n1.persisted();
    n1.matched(2, 3).matched(3, 3);
    assert_eq!(n1.raft.commit_index(), 0, "all of C_old");
    n1.matched(4, 3);
    assert_eq!(n1.raft.commit_index(), 3);
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[1, 4, 5], &[1, 2, 3])]);
    n1.campaign();
    n1.win();
    n1.persisted();
    n1.matched(4, 3).matched(5, 3);
    assert_eq!(n1.raft.commit_index(), 0, "all of C_new");
    n1.matched(2, 3);
    assert_eq!(n1.raft.commit_index(), 3);
}

/// M08. "Any server from either configuration may serve as leader" (§6), and whoever leads when C_old,new is committed creates C_new
/// (thesis §4.3).
///
/// Fails when: only the leader that began the change finishes it.
#[test]
fn the_next_leader_finishes_the_change() {
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[2, 3], &[1, 2, 3])]);
    n1.campaign();
    n1.win();
    n1.persisted().matched(2, 3).matched(3, 3);
    assert_eq!(n1.writing().as_deref(), Some("[4@2 voters=n2,n3 removed=n1]"), "n1 leads, of C_old only");
}

/// M04. "It replicates log entries but does not count itself in majorities" (§6), and steps down once C_new is committed.
///
/// Fails when: the leader counts itself, whoever votes; or leads on.
#[test]
fn a_leader_outside_c_new_does_not_count_itself_and_gives_way() {
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[2, 3], &[1, 2, 3])]);
    n1.campaign();
    n1.win();
    n1.persisted().matched(2, 3).matched(3, 3).persisted();
    n1.matched(2, 4);
    assert_eq!((n1.raft.commit_index(), n1.raft.role()), (3, Role::Leader), "n1 and n2 have it, n2 is half of C_new");
    n1.matched(3, 4);
    assert_eq!((n1.raft.commit_index(), n1.raft.role()), (4, Role::Follower));
    assert_eq!(n1.sent(), ["n2 TimeoutNow term=2"]);
}

/// Whoever waits for a leader that has removed itself is told that it is unknown: nobody replicates to it any more.
///
/// Fails when: `advance_membership` does not abandon the proposals.
#[test]
fn a_leader_that_has_removed_itself_leaves_nobody_waiting() {
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[2, 3], &[1, 2, 3])]);
    n1.campaign();
    n1.win();
    n1.persisted().matched(2, 3).matched(3, 3).persisted();
    n1.propose(9).persisted();
    n1.matched(2, 4).matched(3, 4);
    assert_eq!(n1.told(), ["Refuse call=9 Unknown", "Apply [4@2 voters=n2,n3 removed=n1]"]);
}

/// Thesis §4.2.2: "a server that is not part of its own latest configuration should still start new elections, as it might still
/// be needed until the C_new entry is committed"; once it is, "removed servers" do not.
///
/// Fails when: `may_campaign` looks at the latest configuration only; or at all that were ever there.
#[test]
fn a_server_outside_c_new_campaigns_until_that_is_committed() {
    let removed = Membership { removed: [1].into(), ..ids(&[2, 3]) };
    let mut n1 = with_membership(&[1, 2, 3], 1, &[joint(&[2, 3], &[1, 2, 3]), removed]);
    n1.alarm();
    assert_eq!(n1.sent(), ["n2 PreVote term=2 last=3@1", "n3 PreVote term=2 last=3@1"]);
    n1.append(1, (3, 1), &[], 3);
    n1.alarm().alarm();
    assert_eq!((n1.raft.role(), n1.sent()), (Role::Follower, vec![]));
}

/// M05. "Removed servers (those not in C_new) can disrupt the cluster" (§6): one that was told so campaigns no more, and leaves nobody
/// waiting for a leader.
///
/// Fails when: `may_campaign` does not look at `told_removed`; `is_told_removed` forgets who waits.
#[test]
fn a_server_that_was_told_that_it_was_removed_campaigns_no_more() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.step(Input::Read { call: 5, lease: false });
    n1.step(Input::ToldRemoved);
    assert_eq!(n1.told(), ["Refuse call=5 NotLeader leader=none"]);
    n1.alarm().alarm();
    assert_eq!((n1.raft.role(), n1.sent()), (Role::Follower, vec![]));
}

/// §6, third issue: "if a server receives a RequestVote RPC within the minimum election timeout of hearing from a current leader, it
/// does not update its term or grant its vote".
///
/// Fails when: `request_vote` adopts the term first.
#[test]
fn a_removed_server_does_not_depose_a_leader_that_is_heard() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.request_vote(9, 7, (9, 7));
    assert_eq!(n1.replies(), ["RequestVoteReply term=1 refused"]);
    n1.now += ELECTION_TIMEOUT_MIN;
    n1.request_vote(9, 7, (9, 7)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=7 granted"]);
}

/// M07. "Servers ... grant votes ... without consulting their own configuration" (thesis §4.1): a learner that was promoted does not
/// know it.
///
/// Fails when: `request_vote` asks whether this server votes.
#[test]
fn a_learner_grants_its_vote() {
    let learner = Membership { learners: ids(&[1]).voters, ..ids(&[2, 3]) };
    let mut n1 = with_membership(&[2, 3], 1, &[learner]);
    n1.alarm().alarm();
    assert_eq!(n1.raft.role(), Role::Follower, "it does not campaign");
    n1.request_vote(2, 2, (5, 1)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=2 granted"]);
}

/// M10. "New servers join the cluster as non-voting members (the leader replicates log entries to them, but they are not considered
/// for majorities)" (§6), and are promoted once "the last round lasts less than an election timeout" (thesis §4.2.1).
///
/// Fails when: a learner is promoted when it answers at all, or however long its round took.
#[test]
fn a_learner_is_promoted_when_a_round_took_less_than_an_election_timeout() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Add { id: 4, address: "n4".to_owned(), promote: true }).persisted();
    n1.now += ELECTION_TIMEOUT_MIN;
    n1.matched(2, 2).matched(3, 2).matched(4, 1);
    assert!(n1.raft.membership().staged.contains(&4), "that round took too long");
    n1.now += HEARTBEAT;
    n1.matched(4, 2);
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3,n4 outgoing=n1,n2,n3");
}

/// M10. Whoever lost its disk does not keep up.
///
/// Fails when: `has_caught_up` does not look whether it lost data.
#[test]
fn a_learner_that_lost_its_disk_is_not_promoted() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Add { id: 4, address: "n4".to_owned(), promote: false }).persisted();
    n1.matched(2, 2).matched(4, 2);
    let lost = AppendEntriesReply { term: 1, outcome: AppendOutcome::Lost { last_index: 0 }, read_round: 0 };
    n1.reply_from(4, Reply::AppendEntries(lost));
    n1.change(6, Change::Promote { id: 4 });
    assert_eq!(n1.told(), ["Refuse call=6 NotCaughtUp n4 match=0"]);
}

/// M09. There is a voter left, and a majority of voters that answer.
///
/// Fails when: `lost_majority` is not asked, or counts those that do not answer.
#[test]
fn no_change_may_stop_the_cluster() {
    let mut n1 = Fixture::settled_leader();
    n1.step(Input::Undelivered { peer: 2 });
    n1.change(5, Change::Remove { id: 3 });
    assert_eq!(n1.told(), ["Refuse call=5 WouldStop in_touch=1 needed=2"]);
    n1.now += ELECTION_TIMEOUT_MAX + HEARTBEAT;
    n1.change(5, Change::Remove { id: 2 });
    assert_eq!(n1.told(), ["Refuse call=5 WouldStop in_touch=1 needed=2"], "n3 has not answered for long");
    let mut n1 = Fixture::of(1);
    n1.persisted().persisted();
    n1.change(5, Change::Remove { id: 1 });
    assert_eq!(n1.told(), ["Refuse call=5 WouldStop in_touch=0 needed=0"]);
}

/// M09. A heartbeat's answer needs no disk: who answers, and whose disk does not get on, is none of the majority that a change
/// needs.
///
/// Fails when: `has_caught_up` does not look whether the round goes on, or `lost_majority` asks `is_in_touch`.
#[test]
fn a_server_whose_disk_hangs_is_none_of_the_majority() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5);
    n1.persisted();
    for _ in 0..7 {
        n1.now += HEARTBEAT;
        n1.matched(2, 2).matched(3, 1);
    }
    n1.change(6, Change::Remove { id: 2 });
    assert_eq!(n1.told(), ["Refuse call=6 WouldStop in_touch=1 needed=2"]);
    n1.matched(3, 2);
    n1.now += HEARTBEAT;
    n1.matched(3, 2).change(7, Change::Remove { id: 2 });
    assert!(n1.told().is_empty(), "its disk gets on again");
}

/// M10. A learner that kept up once, and whose disk hangs now, does not keep up.
///
/// Fails when: `has_caught_up` does not look whether the round goes on.
#[test]
fn a_learner_whose_disk_hangs_is_not_promoted() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Add { id: 4, address: "n4".to_owned(), promote: false }).persisted();
    n1.matched(2, 2).matched(3, 2).matched(4, 2).matched(4, 2);
    n1.propose(6);
    n1.persisted();
    for _ in 0..7 {
        n1.now += HEARTBEAT;
        n1.matched(2, 3).matched(3, 3).matched(4, 2);
    }
    n1.change(7, Change::Promote { id: 4 });
    assert_eq!(n1.told(), ["Refuse call=7 NotCaughtUp n4 match=2"]);
}

/// M09. Until C_new is committed it takes a majority of C_old, too, without the disk that is replaced: it is refused at once.
///
/// Fails when: `lost_majority` looks at C_new only, or counts the one that is replaced.
#[test]
fn no_disk_is_replaced_that_the_change_itself_needs() {
    let mut n1 = Fixture::leader_of(4, &[]);
    for peer in [2, 4] {
        n1.matched(peer, 0).matched(peer, 1);
    }
    n1.change(5, Change::Replace { id: 2, address: "elsewhere".to_owned() });
    assert_eq!(n1.told(), ["Refuse call=5 WouldStop in_touch=2 needed=3"], "n3 has never answered");
    n1.matched(3, 1);
    n1.change(6, Change::Replace { id: 2, address: "elsewhere".to_owned() });
    assert!(n1.told().is_empty(), "n1, n3 and n4 are a majority of C_old");
}

/// L08, M06. Nothing that the old disk acknowledged is expected of the one that takes its place, from the moment on that it may be
/// reached: it would be condemned for what it never had.
///
/// Fails when: `change_membership` keeps the progress of the old disk.
#[test]
fn a_disk_that_takes_anothers_place_is_not_held_to_its_word() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Replace { id: 3, address: "new".to_owned() });
    let request = n1.effects.iter().find_map(|effect| match effect {
        Effect::Send { to: 3, request: Request::AppendEntries(request), .. } => Some(request.acknowledged),
        _ => None,
    });
    assert_eq!(request, Some(0));
    n1.matched(3, 1);
    n1.propose(6).persisted();
    n1.matched(3, 3);
    assert_eq!(n1.raft.commit_index(), 1, "and it is not in C_new");
}

/// M06. The number of a disk that was met before it was replaced is not written down for the one that took its place.
///
/// Fails when: `forget_replaced` forgets nothing.
#[test]
fn a_disk_that_was_met_before_it_was_replaced_is_forgotten() {
    let mut n1 = Fixture::settled_leader_on(11);
    n1.change(5, Change::Replace { id: 3, address: "new".to_owned() }).persisted();
    n1.met(2, 22).met(3, 33);
    n1.matched(2, 2).persisted();
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2 learners=n3 staged=n3");
    n1.matched(2, 3).persisted();
    assert_eq!(n1.raft.membership().incarnations, [(1, 11), (2, 22)].into());
    n1.met(3, 34);
    n1.matched(2, 4).persisted();
    assert_eq!(n1.raft.membership().incarnations, [(1, 11), (2, 22), (3, 34)].into());
}

/// M06, L06. An answer of the replaced disk may come late, when it is known no more. It says nothing of the disk that took its
/// place, which would be refused for ever. (Found by a storm: seed 44043 of its day.)
///
/// Fails when: `Input::Met` is heard in any session (`is_current`).
#[test]
fn a_late_answer_of_a_replaced_disk_is_not_taken_for_the_new_ones() {
    let mut n1 = Fixture::settled_leader_on(11);
    n1.met(2, 22).met(3, 33);
    for index in 2..5 {
        n1.persisted().matched(2, index).matched(3, index);
    }
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 known=n1,n2,n3");
    let last = n1.raft.last_index();
    let asked_before = n1.session(3);
    n1.change(5, Change::Replace { id: 3, address: "new".to_owned() }).persisted();
    let asked_meanwhile = n1.session(3);
    n1.matched(2, last + 1).persisted();
    n1.matched(2, last + 2).persisted();
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2 learners=n3 staged=n3 known=n1,n2");
    for session in [asked_before, asked_meanwhile] {
        n1.step(Input::Met { peer: 3, session, incarnation: 33 });
    }
    assert_eq!(n1.raft.membership().incarnations, [(1, 11), (2, 22)].into());
    n1.met(3, 34);
    assert_eq!(n1.raft.membership().incarnations, [(1, 11), (2, 22), (3, 34)].into());
}

/// M06, E04. The same before there is a leader: who answered an earlier candidacy may have had another disk.
///
/// Fails when: `is_current` does not compare the sessions of a campaign.
#[test]
fn a_late_answer_to_an_earlier_candidacy_names_no_disk() {
    let recovered = Recovered { membership: ids(&[1, 2, 3]), ..Recovered::default() };
    let mut n1 = Fixture::start_with(recovered, |settings| settings.incarnation = 11);
    n1.alarm();
    let asked_before = n1.session(3);
    n1.alarm();
    n1.step(Input::Met { peer: 3, session: asked_before, incarnation: 33 });
    n1.met(2, 22).reply_from(2, Reply::PreVote(PreVoteReply { term: 0, vote_granted: true })).persisted();
    n1.step(Input::Met { peer: 3, session: asked_before, incarnation: 33 });
    n1.met(2, 22).granted(2).persisted();
    assert_eq!(n1.raft.role(), Role::Leader);
    assert_eq!(n1.raft.membership().incarnations, [(1, 11), (2, 22)].into());
}

/// M05. A removed server is replicated to until it has C_new and knows that it is committed, also where C_new was compacted meanwhile.
///
/// Fails when: `let_go_of_removed` lets go of it at once.
#[test]
fn a_removed_server_is_told_that_c_new_is_committed() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Remove { id: 3 }).persisted();
    n1.matched(2, 2).matched(3, 2).persisted();
    n1.matched(2, 3);
    n1.step(Input::SnapshotWritten { snapshot: snapshot((3, 1), 8) });
    assert_eq!(n1.raft.base().index, 3);
    n1.now += HEARTBEAT;
    n1.ring();
    assert!(!n1.effects.contains(&Effect::Forget { peer: 3 }), "it does not have C_new");
    n1.matched(3, 3);
    n1.now += HEARTBEAT;
    n1.ring();
    assert!(n1.effects.contains(&Effect::Forget { peer: 3 }));
}

/// M06. A disk that is not the one that is meant votes for nobody, and that is for itself as well, until the log has it.
///
/// Fails when: `may_campaign` does not ask whether it was told.
#[test]
fn a_server_that_was_told_that_it_was_wiped_campaigns_no_more() {
    let mut n1 = Fixture::of(3);
    n1.step(Input::ToldWiped);
    n1.alarm();
    assert_eq!((n1.raft.role(), n1.sent().len()), (Role::Follower, 0));
}

/// M06. The log of a replaced disk that catches up tells of times when its id was another disk's: of a cluster of one, for
/// instance, whose only voter it is by its number. It is none of those voters. (Found by a storm: seed 4861 of its day.)
///
/// Fails when: `may_campaign` looks only at what the server was told (`told_wiped`): it elects itself, and two lead.
#[test]
fn a_new_disk_is_no_voter_of_the_configurations_of_the_disk_before() {
    for (incarnation, expected) in [(7, Role::Leader), (8, Role::Follower)] {
        let membership = Membership { incarnations: [(1, 7)].into(), ..ids(&[1]) };
        let entry = Entry { index: 1, term: 1, payload: Payload::Membership(membership.into()) };
        let hard_state = HardState { current_term: 1, voted_for: None };
        let recovered = Recovered { hard_state, entries: vec![entry], ..Recovered::default() };
        let mut n1 = Fixture::start_with(recovered, |settings| settings.incarnation = incarnation);
        for _ in 0..3 {
            n1.persisted().alarm();
        }
        assert_eq!(n1.raft.role(), expected, "as disk {incarnation}");
    }
}

/// M06. A disk that takes another one's place joins with nothing, and cannot know what its id has voted before.
/// (Found by a storm: seed 7367 of its day, where it made a leader of a first member that had never heard of anything.)
///
/// Fails when: `is_as_up_to_date` compares logs alone.
#[test]
fn a_server_that_knows_no_cluster_yet_votes_for_nobody() {
    let mut n1 = Fixture::start(Recovered::default());
    n1.pre_vote(2, 1, (0, 0));
    assert_eq!(n1.replies(), ["PreVoteReply term=0 refused"]);
    n1.request_vote(2, 1, (0, 0)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=1 refused"]);
}
