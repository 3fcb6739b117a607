//! What operators ask for, and what a leader does about its servers by itself: §6, thesis §3.10 and §4.

use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN, Fixture, HEARTBEAT};

/// n1 leads three servers that have addresses: a1, a2, a3. Its no-op is committed.
fn leader() -> Fixture {
    leader_on(0)
}

fn leader_on(incarnation: Incarnation) -> Fixture {
    let membership = Membership::of_voters((1..=3).map(|id| (id, format!("a{id}"))));
    let recovered = Recovered { membership, ..Recovered::default() };
    let mut n1 = Fixture::start_with(recovered, |settings| settings.incarnation = incarnation);
    n1.campaign();
    n1.win();
    n1.persisted();
    for peer in [2, 3] {
        n1.matched(peer, 0);
        n1.matched(peer, 1);
    }
    n1
}

fn add(id: NodeId, address: &str, promote: bool) -> Change {
    Change::Add { id, address: address.to_owned(), promote }
}

/// n4 as a learner that has the log up to the entry that made it one, which is committed.
fn with_learner(promote: bool) -> Fixture {
    with_learner_of(leader(), promote)
}

fn with_learner_of(mut n1: Fixture, promote: bool) -> Fixture {
    n1.change(5, add(4, "a4", promote)).persisted();
    n1.matched(2, 2).matched(3, 2);
    assert_eq!(n1.raft.commit_index(), 2);
    n1
}

/// And everyone's disk is named, in entries that are committed.
fn with_known_learner(promote: bool) -> Fixture {
    let mut n1 = with_learner_of(leader_on(11), promote);
    n1.met(2, 22).met(3, 33).met(4, 44);
    for index in 3..6 {
        n1.persisted().matched(2, index).matched(3, index);
    }
    let learner = if promote { "learners=n4 staged=n4" } else { "learners=n4" };
    assert_eq!(n1.raft.membership().to_string(), format!("voters=n1,n2,n3 {learner} known=n1,n2,n3,n4"));
    n1
}

/// M11. One server, one address: whoever is there already is named, and asking for what is so already changes nothing.
///
/// Fails when: `plan_addition` does not compare addresses, of the server itself or of the others.
#[test]
fn a_server_has_one_address_and_an_address_one_server() {
    let told = |change| leader().change(5, change).told();
    assert_eq!(told(add(2, "a2", true)), ["AnswerChange call=5 index=0"], "it is so already");
    assert_eq!(told(add(2, "a9", false)), ["Refuse call=5 AlreadyThere n2"]);
    assert_eq!(told(add(4, "a3", false)), ["Refuse call=5 AlreadyThere n3"]);
    let replace = |address: &str| Change::Replace { id: 2, address: address.to_owned() };
    assert_eq!(told(replace("a3")), ["Refuse call=5 AlreadyThere n3"]);
    assert_eq!(told(replace("a2")), [""; 0], "another disk at the same address");
}

/// A learner has no vote, so that it leaves with one entry, without a joint configuration (thesis §4.2.1): for good, and with all
/// that was known of it.
///
/// Fails when: `plan` looks for it among the voters only, or keeps what it was going to be.
#[test]
fn a_learner_is_removed_by_one_entry() {
    let mut n1 = with_known_learner(true);
    n1.change(6, Change::Remove { id: 4 });
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 removed=n4 known=n1,n2,n3");
    n1.persisted();
    n1.matched(2, 6);
    assert!(n1.told().contains(&"AnswerChange call=6 index=6".to_owned()), "{:?}", n1.told());
}

/// While leadership is handed over, nothing is changed (thesis §3.10): also not by the leader itself, which would promote a learner.
///
/// Fails when: `advance_membership` does not ask whether there is an obstacle.
#[test]
fn no_learner_is_promoted_while_leadership_is_handed_over() {
    let mut n1 = with_learner(true);
    n1.propose(6).persisted();
    n1.step(Input::TransferLeadership { call: 7, to: Some(3) });
    n1.matched(4, 3);
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3 learners=n4 staged=n4");
}

/// M05. A removed server has been told when it has C_new *and* has heard that it is committed; one of the two is not enough.
///
/// Fails when: `let_go_of_removed` takes either for both.
#[test]
fn a_removed_server_is_let_go_when_it_knows_both() {
    let forgotten = |n1: &mut Fixture| {
        n1.now += HEARTBEAT;
        n1.ring();
        n1.effects.contains(&Effect::Forget { peer: 3 })
    };
    let removed = || {
        let mut n1 = leader();
        n1.change(5, Change::Remove { id: 3 }).persisted();
        n1.matched(2, 2).matched(3, 2).persisted();
        n1
    };
    let mut n1 = removed();
    n1.matched(3, 3).matched(2, 3);
    assert!(!forgotten(&mut n1), "it has C_new, and has not heard that it is committed");
    assert!(forgotten(&mut n1), "now it has");
    let mut n1 = removed();
    n1.matched(2, 3);
    assert!(!forgotten(&mut n1));
    n1.matched(2, 3);
    assert!(!forgotten(&mut n1), "it has heard, and does not have C_new");
}

/// M05. A removed server that does not answer is let go after ten election timeouts, to the moment.
///
/// Fails when: `let_go_of_removed` waits longer, or for ever.
#[test]
fn a_removed_server_that_is_silent_is_let_go_in_the_end() {
    let mut n1 = leader();
    n1.change(5, Change::Remove { id: 3 }).persisted();
    let joint_at = n1.now;
    n1.matched(2, 2).matched(3, 2).persisted();
    n1.matched(2, 3);
    let mut ring_at = |after| {
        while n1.now < joint_at + after {
            n1.now = (n1.now + HEARTBEAT).min(joint_at + after);
            n1.ring();
            n1.matched(2, 3);
        }
        n1.raft.peers().any(|(id, ..)| id == 3)
    };
    let patience = 10 * ELECTION_TIMEOUT_MAX;
    assert!(ring_at(patience - HEARTBEAT));
    assert!(!ring_at(patience));
}

/// Who takes over is a voter, and one that answers (thesis §3.10): a learner with more of the log cannot win, and one that is silent
/// would not hear of it.
///
/// Fails when: `best_successor` takes either for enough.
#[test]
fn the_best_successor_votes_and_answers() {
    let mut n1 = with_learner(false);
    n1.matched(4, 2);
    n1.propose(6).persisted();
    n1.matched(4, 3);
    n1.step(Input::TransferLeadership { call: 7, to: None });
    assert_eq!((n1.sent(), n1.told()), (vec![], vec![]), "n2 is brought up to date first");
    n1.matched(2, 3);
    assert!(n1.sent().contains(&"n2 TimeoutNow term=1".to_owned()), "{:?}", n1.sent());
    let mut n1 = leader();
    n1.now += ELECTION_TIMEOUT_MAX + HEARTBEAT;
    n1.step(Input::TransferLeadership { call: 7, to: None });
    assert_eq!(n1.told(), ["Refuse call=7 TransferFailed to=n0"]);
}

/// D05. As long as there is no room, a leader that could not hand over tries it again.
///
/// Fails when: `heartbeat` does not call `hand_over_for_room`.
#[test]
fn a_leader_without_room_hands_over_again() {
    let mut n1 = leader();
    n1.step(Input::DiskFull);
    let word = || "n2 TimeoutNow term=1".to_owned();
    assert_eq!(n1.sent(), [word()]);
    let mut said = 0;
    for _ in 0..7 {
        n1.matched(2, 1).matched(3, 1);
        n1.now += HEARTBEAT;
        n1.ring();
        said += n1.sent().iter().filter(|sent| **sent == word()).count();
    }
    assert_eq!(said, 1, "once an election timeout later");
    n1.step(Input::DiskFreed);
    for _ in 0..7 {
        n1.matched(2, 1).matched(3, 1);
        n1.now += HEARTBEAT;
        n1.ring();
        assert!(!n1.sent().contains(&word()), "there is room");
    }
}

/// A learner whose round took less than an election timeout keeps up; one whose round took just as long does not (thesis §4.2.1).
///
/// Fails when: `catch_up` lets the very timeout pass.
#[test]
fn a_round_as_long_as_an_election_timeout_is_too_long() {
    let staged = |after| {
        let mut n1 = with_learner(true);
        n1.now += after;
        n1.matched(4, 2);
        n1.raft.membership().staged.contains(&4)
    };
    assert_eq!((staged(ELECTION_TIMEOUT_MIN), staged(ELECTION_TIMEOUT_MIN - HEARTBEAT)), (true, false));
}

/// "A server always uses the latest configuration in its log, regardless of whether the entry is committed" (§6): whoever votes only
/// as of that one campaigns, since it may be what the others need.
///
/// Fails when: `since` ends with the configuration that is committed.
#[test]
fn a_voter_of_an_uncommitted_configuration_campaigns() {
    let voters = |ids: &[NodeId]| Membership::of_voters(ids.iter().map(|id| (*id, "")));
    let joint = Membership { outgoing: voters(&[2, 3]).voters, ..voters(&[1, 2, 3]) };
    let entries = vec![
        Entry { index: 1, term: 1, payload: Payload::Noop },
        Entry { index: 2, term: 1, payload: Payload::Membership(joint.into()) },
    ];
    let hard_state = HardState { current_term: 1, voted_for: None };
    let recovered = Recovered { hard_state, membership: voters(&[2, 3]), entries, ..Recovered::default() };
    let mut n1 = Fixture::start(recovered);
    n1.alarm();
    assert_eq!(n1.raft.role(), Role::PreCandidate);
}

/// M06. A learner's disk that is replaced is known no more: the next one under its id is another.
///
/// Fails when: `plan_replacement` keeps the number of a learner's disk.
#[test]
fn the_replaced_disk_of_a_learner_is_forgotten() {
    let mut n1 = with_known_learner(false);
    n1.change(6, Change::Replace { id: 4, address: "a4".to_owned() });
    assert_eq!(n1.raft.membership().incarnations, [(1, 11), (2, 22), (3, 33)].into());
}

/// L06. Every connection has a session of its own, also one to a server that was just added.
///
/// Fails when: `follow_membership` does not count the sessions that it gives.
#[test]
fn a_new_servers_session_is_given_once() {
    let mut n1 = with_learner(false);
    let session = n1.session(4);
    n1.step(Input::Lost(Courier::Replicator(2)));
    assert!(n1.session(2) > session, "{} after {session}", n1.session(2));
}
