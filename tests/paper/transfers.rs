//! Leadership transfer (thesis §3.10), and when a leader gives way.

use std::time::Duration;

use bytes::Bytes;
use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MAX, Fixture, HEARTBEAT};

fn transfer(n1: &mut Fixture, call: CallId, to: Option<NodeId>) {
    n1.step(Input::TransferLeadership { call, to });
}

/// "1. The prior leader stops accepting new client requests." (Thesis §3.10) They are held back.
///
/// Fails when: `propose` does not ask whether a transfer is under way.
#[test]
fn a_leader_that_hands_over_takes_no_proposals() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    transfer(&mut n1, 6, Some(2));
    n1.propose(7);
    assert_eq!((n1.raft.last_index(), n1.told()), (2, vec![]));
}

/// "2. The prior leader fully updates the target server's log to match its own. 3. [It] sends a TimeoutNow request to the target
/// server." (Thesis §3.10)
///
/// Fails when: `advance_transfer` does not wait for the match.
#[test]
fn the_other_server_is_told_when_it_has_everything() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    transfer(&mut n1, 6, Some(2));
    assert_eq!(n1.sent(), [""; 0]);
    n1.matched(2, 2);
    assert!(n1.sent().contains(&"n2 TimeoutNow term=1".to_owned()), "{:?}", n1.sent());
    n1.matched(2, 2);
    assert!(!n1.sent().contains(&"n2 TimeoutNow term=1".to_owned()), "once");
}

/// "This request has the same effect as the target server's election timer firing: the target server starts a new election" (thesis
/// §3.10), and says that it does so for the leader.
///
/// Fails when: `timeout_now` asks for pre-votes, or does not say that the leader wanted it.
#[test]
fn who_is_told_starts_an_election_at_once() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.request(2, Request::TimeoutNow(TimeoutNowRequest { term: 1, leader_id: 2 })).persisted();
    let asked = "RequestVote term=2 last=1@1 leadership_transfer";
    assert_eq!(n1.sent(), [format!("n2 {asked}"), format!("n3 {asked}")]);
}

/// An election that the leader itself asked for is not refused because the leader is heard (thesis §4.2.3).
///
/// Fails when: `request_vote` does not look at `leadership_transfer`.
#[test]
fn a_transfer_election_is_not_refused_for_a_live_leader() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    let last_log = LogPosition { index: 1, term: 1 };
    let request = RequestVoteRequest { term: 2, candidate_id: 3, last_log, leadership_transfer: true };
    n1.request(3, Request::RequestVote(request)).persisted();
    assert_eq!(n1.replies(), ["RequestVoteReply term=2 granted"]);
}

/// A late TimeoutNow, of another term, starts no election.
///
/// Fails when: `timeout_now` does not compare the terms.
#[test]
fn a_late_word_starts_no_election() {
    let mut n1 = Fixture::of(3);
    n1.append(3, (0, 0), &[3], 1).persisted();
    n1.request(2, Request::TimeoutNow(TimeoutNowRequest { term: 2, leader_id: 2 }));
    assert_eq!((n1.raft.role(), n1.replies()), (Role::Follower, vec!["TimeoutNowReply term=3".to_owned()]));
}

/// "If leadership transfer does not complete after about an election timeout, the prior leader aborts the transfer and resumes accepting
/// client requests." (Thesis §3.10)
///
/// Fails when: `check_transfer` waits for ever, or forgets who was held back.
#[test]
fn a_transfer_is_given_up_after_an_election_timeout() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    transfer(&mut n1, 6, Some(2));
    n1.propose(7);
    for _ in 0..5 {
        n1.now += HEARTBEAT;
        n1.ring();
        assert_eq!(n1.told(), [""; 0]);
        n1.matched(3, 1);
    }
    n1.now += HEARTBEAT;
    n1.ring();
    assert_eq!((n1.told(), n1.raft.last_index()), (vec!["Refuse call=6 TransferFailed to=n2".to_owned()], 3));
}

/// Who asked for the transfer hears whether it came to that: not, where someone else leads.
///
/// Fails when: `end` looks only whether the other server was told.
#[test]
fn a_transfer_succeeds_in_favour_of_who_was_named() {
    for (leader, told) in [(2, "AnswerTransfer call=6"), (3, "Refuse call=6 TransferFailed to=n2")] {
        let mut n1 = Fixture::settled_leader();
        transfer(&mut n1, 6, Some(2));
        let entries = Vec::new();
        let request = AppendEntriesRequest {
            term: 2,
            leader_id: leader,
            prev_log_index: 1,
            prev_log_term: 1,
            entries,
            leader_commit: 1,
            read_round: 0,
            acknowledged: 0,
        };
        n1.request(leader, Request::AppendEntries(request));
        assert_eq!(n1.told(), [told]);
    }
}

/// Without a name it is the voter that has most of the log, among those that answer.
///
/// Fails when: `best_successor` takes anybody, or one that does not answer.
#[test]
fn the_best_successor_has_most_of_the_log_and_answers() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    n1.matched(3, 2);
    transfer(&mut n1, 6, None);
    assert_eq!(n1.sent().last().map(String::as_str), Some("n3 TimeoutNow term=1"));
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    n1.matched(3, 2);
    n1.step(Input::Undelivered { peer: 3 });
    transfer(&mut n1, 6, None);
    n1.matched(2, 2);
    assert_eq!(n1.sent().last().map(String::as_str), Some("n2 TimeoutNow term=1"));
}

/// D06. A leader whose disk hangs gives way, though its heartbeats are answered; and does not campaign meanwhile.
///
/// Fails when: `heartbeat` does not look at the disk; `timeout` does not.
#[test]
fn a_leader_whose_disk_hangs_gives_way() {
    let cluster = Membership::of_voters((1..=3).map(|id| (id, "")));
    let recovered = Recovered { membership: cluster, ..Recovered::default() };
    let mut n1 = Fixture::start_with(recovered, |settings| settings.disk_timeout = Duration::from_millis(80));
    n1.campaign();
    n1.win();
    n1.persisted().matched(2, 1).matched(3, 1);
    n1.propose(5);
    n1.now += HEARTBEAT;
    n1.ring().matched(2, 1).matched(3, 1);
    assert_eq!(n1.raft.role(), Role::Leader);
    n1.now += HEARTBEAT;
    n1.ring();
    assert_eq!((n1.raft.role(), n1.sent()), (Role::Follower, vec!["n2 TimeoutNow term=1".to_owned()]));
    n1.alarm().alarm();
    assert_eq!(n1.raft.role(), Role::Follower, "it could not even vote for itself");
}

/// D05. A full disk is no hanging one: nothing is accepted, and the leader stays, if there is nobody to take over.
///
/// Fails when: `propose` accepts, or `disk_hangs` does not look whether the disk is full.
#[test]
fn a_leader_without_room_refuses_and_stays() {
    let recovered = Recovered { membership: Membership::of_voters([(1, "")]), ..Recovered::default() };
    let mut n1 = Fixture::start_with(recovered, |settings| settings.disk_timeout = Duration::from_millis(80));
    n1.persisted().persisted();
    n1.propose(5).step(Input::DiskFull);
    n1.now += ELECTION_TIMEOUT_MAX;
    n1.ring();
    n1.step(Input::Propose { call: 6, payload: Payload::Command(Bytes::from("x")) });
    assert_eq!((n1.told(), n1.raft.role()), (vec!["Refuse call=6 DiskFull".to_owned()], Role::Leader));
    n1.step(Input::Read { call: 7, lease: false });
    assert_eq!(n1.told(), ["AnswerRead call=7 read_index=1"]);
    n1.step(Input::DiskFreed);
    n1.persisted();
    assert_eq!(n1.told(), ["Apply [2@1 \"command 5\"] 2=>call 5"]);
}

/// D05. What has no room here has been sent to nobody: another server need not have it to take over.
///
/// Fails when: `advance_transfer` waits for the end of the log.
#[test]
fn a_leader_without_room_hands_over_what_it_has_written() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5);
    n1.propose(6);
    n1.step(Input::DiskFull);
    assert_eq!(n1.sent(), [""; 0], "n2, the best, lacks what was written");
    n1.matched(2, 2);
    assert_eq!(n1.sent(), ["n2 TimeoutNow term=1"]);
}
