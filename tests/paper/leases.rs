//! Reads by the leader's lease: thesis §6.4.1.

use std::time::Duration;

use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MIN, Fixture, entries};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A leader of three whose round was sent at once, and confirmed `after` that.
fn with_lease(after: Duration) -> (Fixture, Duration) {
    let mut n1 = Fixture::settled_leader();
    let sent_at = n1.now;
    n1.step(Input::Read { call: 1, lease: true });
    n1.now += after;
    n1.confirmed(2, 1, 1);
    assert_eq!(n1.told(), ["AnswerRead call=1 read_index=1"], "the first one takes the round");
    (n1, sent_at)
}

/// R04. "Once the leader's heartbeats were acknowledged by a majority of the cluster, the leader would extend its lease to
/// start + election timeout / clock drift bound, since the followers shouldn't time out before then" (thesis §6.4.1): `start` is when
/// they were sent.
///
/// Fails when: `confirm_reads` dates the lease from the answer, or without the margin.
#[test]
fn a_lease_is_dated_from_when_its_round_was_sent() {
    let (mut n1, sent_at) = with_lease(100 * MILLISECOND);
    assert_eq!(n1.raft.lease_until(), Some(sent_at + ELECTION_TIMEOUT_MIN * 9 / 10));
    n1.now = sent_at + ELECTION_TIMEOUT_MIN * 9 / 10 - MILLISECOND;
    n1.step(Input::Read { call: 5, lease: true });
    assert_eq!(n1.told(), ["AnswerRead call=5 read_index=1 lease_until=1.585s"]);
    n1.now += MILLISECOND;
    n1.step(Input::Read { call: 6, lease: true });
    assert_eq!(n1.told(), [""; 0], "it is over: a round has to be confirmed");
}

/// "During the lease period, the leader would service read-only queries" (thesis §6.4.1): those that ask for no more.
///
/// Fails when: every read is answered by the lease.
#[test]
fn a_linearizable_read_takes_a_round_all_the_same() {
    let (mut n1, _) = with_lease(MILLISECOND);
    n1.step(Input::Read { call: 5, lease: false });
    assert_eq!(n1.told(), [""; 0]);
}

/// R04. "A leader ... would need to expire its lease when a leadership transfer occurs" (thesis §6.4.1), for good: the word to take over
/// may arrive late.
///
/// Fails when: `tell_to_take_over` keeps the lease, or a later round gives another one.
#[test]
fn a_leader_that_told_another_to_take_over_has_no_lease_any_more() {
    let (mut n1, _) = with_lease(MILLISECOND);
    n1.step(Input::TransferLeadership { call: 5, to: Some(2) });
    assert_eq!((n1.sent(), n1.raft.lease_until()), (vec!["n2 TimeoutNow term=1".to_owned()], None));
    n1.step(Input::Read { call: 6, lease: true });
    n1.confirmed(2, 1, 2);
    assert_eq!((n1.told(), n1.raft.lease_until()), (vec!["AnswerRead call=6 read_index=1".to_owned()], None));
}

/// R04. A leader that steps down has no lease.
///
/// Fails when: the lease outlives the leadership.
#[test]
fn a_leader_that_steps_down_has_no_lease() {
    let (mut n1, _) = with_lease(MILLISECOND);
    n1.append(2, (1, 1), &[], 1);
    assert_eq!(n1.raft.lease_until(), None);
}

/// R04. The lease rests on servers that refuse their votes for as long; one that has restarted may have heard the leader just before.
///
/// Fails when: `new` forgets that a leader may have been heard.
#[test]
fn a_server_that_has_restarted_refuses_its_vote_for_an_election_timeout() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.now -= MILLISECOND;
    n1.request_vote(3, 2, (1, 1));
    assert_eq!(n1.replies(), ["RequestVoteReply term=1 refused"]);
    n1.now += MILLISECOND;
    n1.request_vote(3, 2, (1, 1)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=2 granted"]);
}

/// M06. So does one whose disk is empty: its former disk may have voted in the very term that it is asked for, and for as long
/// it can be told so. All servers of a cluster that begins are like that, and an election timeout later they vote.
///
/// Fails when: `new` says that only one with a term may have heard a leader.
#[test]
fn a_server_whose_disk_is_empty_refuses_its_vote_for_an_election_timeout() {
    let mut n1 = Fixture::of(3);
    n1.now -= MILLISECOND;
    n1.request_vote(2, 1, (0, 0));
    assert_eq!(n1.replies(), ["RequestVoteReply term=0 refused"]);
    assert_eq!((n1.raft.current_term(), &n1.in_flight), (0, &None));
    n1.now += MILLISECOND;
    n1.request_vote(2, 1, (0, 0)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=1 granted"]);
}

/// R04. A server that is the only voter of its latest configuration does not elect itself at once, if that is not known to be
/// committed: the leader that is on its way out may answer by a lease that rests on this server.
///
/// Fails when: `is_alone` looks at the latest configuration only.
#[test]
fn a_lone_heir_waits_for_the_lease_to_end() {
    let cluster = |ids: &[NodeId]| Membership::of_voters(ids.iter().map(|id| (*id, "")));
    let mut log = entries(1, &[1]);
    let alone = Payload::Membership(cluster(&[1]).into());
    log.push(Entry { index: 2, term: 1, payload: alone });
    let hard_state = HardState { current_term: 1, voted_for: None };
    let recovered = Recovered { hard_state, membership: cluster(&[1, 2]), entries: log, ..Recovered::default() };
    let mut n1 = Fixture::start(recovered.clone());
    assert_eq!((n1.raft.role(), n1.raft.current_term()), (Role::Follower, 1));
    n1.alarm();
    assert_eq!((n1.raft.role(), n1.raft.current_term()), (Role::Candidate, 2));
    let n1 = Fixture::start(Recovered { membership: cluster(&[1]), ..recovered });
    assert_eq!(n1.raft.role(), Role::Candidate, "a cluster of one starts at once");
}
