//! The leader: Figure 2 "Leaders", §5.3, §5.4.2.

use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MAX, Fixture, HEARTBEAT};

/// "Upon election: send initial empty AppendEntries RPCs (heartbeat) to each server; repeat during idle periods to prevent
/// election timeouts." (Figure 2, Leaders; §5.2)
///
/// Fails when: a new leader's progress is not due for a heartbeat.
#[test]
fn a_new_leader_sends_heartbeats_at_once_and_repeats_them() {
    let mut n1 = Fixture::of(3);
    n1.campaign();
    n1.granted(2);
    let heartbeats = ["n2 AppendEntries term=1 prev=0@0 [] commit=0", "n3 AppendEntries term=1 prev=0@0 [] commit=0"];
    assert_eq!(n1.sent(), heartbeats);
    n1.now += HEARTBEAT;
    n1.ring();
    assert_eq!(n1.sent(), heartbeats);
}

/// "When a leader first comes to power, it initializes all nextIndex values to the index just after the last one in its
/// log" (§5.3), and opens its term with a no-op (§8).
///
/// Fails when: the no-op is missing, or `next_index` starts behind it.
#[test]
fn a_new_leader_starts_behind_its_last_entry_with_a_no_op() {
    let mut n1 = Fixture::recovered(3, 2, None, &[1, 2]);
    n1.campaign();
    n1.granted(2);
    assert_eq!(n1.sent()[0], "n2 AppendEntries term=3 prev=2@2 [] commit=0");
    assert_eq!(n1.log(), [1, 2, 3]);
}

/// "If command received from client: append entry to local log, respond after entry applied to state machine." (Figure 2,
/// Leaders; §5.3)
///
/// Fails when: the client is told before a majority has the entry.
#[test]
fn a_client_is_told_when_its_entry_is_applied() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5);
    assert_eq!((n1.log(), n1.told()), (vec![1, 1], vec![]));
    n1.persisted();
    assert_eq!(n1.told(), [""; 0], "on one disk of three");
    n1.matched(3, 2);
    assert_eq!(n1.told(), ["Apply [2@1 \"command 5\"] 2=>call 5"]);
}

/// "If last log index >= nextIndex for a follower: send AppendEntries RPC with log entries starting at nextIndex."
/// (Figure 2, Leaders; §5.3) They leave while the leader writes them itself (thesis §10.2.1).
///
/// Fails when: `finish` replicates before it hands the entries to the disk: they then leave with the next step.
#[test]
fn entries_go_to_the_followers_while_the_leader_writes_them() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5);
    let request = "AppendEntries term=1 prev=1@1 [2@1 \"command 5\"] commit=1";
    assert_eq!(n1.sent(), [format!("n2 {request}"), format!("n3 {request}")]);
    assert_eq!(n1.writing().as_deref(), Some("[2@1 \"command 5\"]"));
}

/// Thesis §10.2.1: "the leader may even commit an entry before it has been written to its own disk, if a majority of
/// followers have written it"; its own copy counts when it is there.
///
/// Fails when: the leader counts its last entry as its own match.
#[test]
fn the_leaders_own_copy_counts_when_it_is_durable() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).matched(2, 2);
    assert_eq!(n1.raft.commit_index(), 1, "on n2's disk alone");
    n1.matched(3, 2);
    assert_eq!(n1.raft.commit_index(), 2, "on n2's and n3's");
    assert_eq!(n1.told(), [""; 0], "but nothing is applied here before it is durable here");
    n1.persisted();
    assert_eq!(n1.told(), ["Apply [2@1 \"command 5\"] 2=>call 5"]);
}

/// "If successful: update nextIndex and matchIndex for follower. If AppendEntries fails because of log inconsistency:
/// decrement nextIndex and retry." (Figure 2, Leaders; §5.3)
///
/// Fails when: a conflict is answered with nothing.
#[test]
fn after_a_conflict_the_leader_goes_back_and_retries() {
    let mut n1 = Fixture::leader_of(3, &[1, 1, 1]);
    n1.conflict(2, 2, 0);
    assert_eq!(n1.sent(), ["n2 AppendEntries term=2 prev=1@1 [] commit=0"]);
    n1.matched(2, 1);
    let sent = [
        "n2 AppendEntries term=2 prev=1@1 [2@1 noop, 3@1 noop] commit=0",
        "n2 AppendEntries term=2 prev=3@1 [4@2 noop] commit=0",
    ];
    assert_eq!(n1.sent(), sent);
}

/// L11. "The follower can include the term of the conflicting entry and the first index it stores for that term. With this
/// information, the leader can decrement nextIndex to bypass all of the conflicting entries in that term." (§5.3)
///
/// Fails when: the leader goes back by one entry.
#[test]
fn the_leader_goes_back_by_a_term_at_a_time() {
    let mut n1 = Fixture::leader_of(3, &[1, 1, 4, 4, 4, 4]);
    n1.conflict(2, 3, 3);
    assert_eq!(
        n1.sent(),
        ["n2 AppendEntries term=5 prev=2@1 [] commit=0"],
        "it has no term 3: before the follower's first"
    );
    let mut n1 = Fixture::leader_of(3, &[1, 1, 1, 4, 4, 4]);
    n1.conflict(2, 1, 1);
    assert_eq!(n1.sent(), ["n2 AppendEntries term=5 prev=3@1 [] commit=0"], "it has term 1: behind its own last");
}

/// "If there exists an N such that N > commitIndex, a majority of matchIndex[i] >= N, and log[N].term == currentTerm: set
/// commitIndex = N." (Figure 2, Leaders; §5.3, §5.4)
///
/// Fails when: the highest match is taken instead of the majority's.
#[test]
fn an_entry_on_a_majority_is_committed() {
    let mut n1 = Fixture::leader_of(5, &[]);
    n1.matched(2, 1);
    assert_eq!(n1.raft.commit_index(), 0);
    n1.matched(3, 1);
    assert_eq!(n1.raft.commit_index(), 1);
}

/// L01. "Raft never commits log entries from previous terms by counting replicas. Only log entries from the leader's current
/// term are committed by counting replicas; once an entry from the current term has been committed in this way, then all
/// prior entries are committed indirectly." (§5.4.2, Figure 8)
///
/// Fails when: `advance_commit_index` does not compare the entry's term.
#[test]
fn a_leader_commits_only_entries_of_its_own_term() {
    let mut n1 = Fixture::leader_of(3, &[1, 2]);
    n1.matched(2, 2);
    assert_eq!(n1.raft.commit_index(), 0, "entry 2 of term 2 is on a majority");
    n1.matched(2, 3);
    assert_eq!(n1.raft.commit_index(), 3, "the no-op of term 3 commits all before it");
}

/// "A leader never overwrites or deletes entries in its own log; it only appends new entries." (Leader Append-Only,
/// Figure 3) Two leaders of one term would have to: that is impossible, and no reason to go on.
///
/// Fails when: `append_entries` follows another leader of its own term.
#[test]
#[should_panic(expected = "Election Safety: n1 and n2 both lead term 1")]
fn two_leaders_of_one_term_are_impossible() {
    Fixture::settled_leader().append(1, (0, 0), &[1], 0);
}

/// L06. An acknowledgement of an earlier leadership or of a broken connection is worth nothing now.
///
/// Fails when: `append_entries_reply` does not compare the session, or the term.
#[test]
fn acknowledgements_of_another_session_or_term_are_dropped() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    let before = n1.session(2);
    n1.step(Input::Undelivered { peer: 2 });
    let matched = |term| crate::fixture::append_reply(term, AppendOutcome::Matched { match_index: 2 });
    n1.step(Input::Response { from: 2, session: before, reply: matched(1) });
    assert_eq!(n1.raft.commit_index(), 1, "over the broken connection");
    n1.now += HEARTBEAT;
    n1.ring();
    n1.reply_from(2, matched(0));
    assert_eq!(n1.raft.commit_index(), 1, "of an earlier term");
    n1.reply_from(2, matched(1));
    assert_eq!(n1.raft.commit_index(), 2);
}

/// L07. Pipelined requests follow on from what was sent, not from what was acknowledged, and acknowledgements that overtake
/// each other take nothing back.
///
/// Fails when: `prev_log_index` comes from `match_index`, or `match_index` is set to whatever arrives.
#[test]
fn pipelined_requests_follow_on_and_acknowledgements_never_fall() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    n1.propose(6);
    assert_eq!(n1.sent()[0], "n2 AppendEntries term=1 prev=2@1 [3@1 \"command 6\"] commit=1");
    n1.persisted();
    n1.matched(2, 3).matched(2, 2);
    assert_eq!(n1.raft.peers().next(), Some((2, 3, true)));
    n1.propose(7);
    assert_eq!(n1.sent()[0], "n2 AppendEntries term=1 prev=3@1 [4@1 \"command 7\"] commit=3");
}

/// L09. Concurrent proposals each get an index of their own, in the order in which they came; none is lost.
///
/// Fails when: a proposal takes the index behind `written_index`, or the answers are not matched by index.
#[test]
fn concurrent_proposals_each_get_their_own_index() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).propose(6).propose(7);
    assert_eq!(n1.writing().as_deref(), Some("[2@1 \"command 5\"]"), "what comes meanwhile forms the next write");
    n1.persisted();
    assert_eq!(n1.writing().as_deref(), Some("[3@1 \"command 6\", 4@1 \"command 7\"]"));
    n1.persisted();
    n1.matched(2, 4);
    let applied = "Apply [2@1 \"command 5\", 3@1 \"command 6\", 4@1 \"command 7\"] 2=>call 5 3=>call 6 4=>call 7";
    assert_eq!(n1.told(), [applied]);
}

/// "If followers crash or run slowly, or if network packets are lost, the leader retries AppendEntries RPCs indefinitely."
/// (§5.3)
///
/// Fails when: a lost batch keeps its place in the window for ever.
#[test]
fn what_was_lost_is_sent_again() {
    let mut n1 = Fixture::settled_leader();
    for call in [5, 6] {
        n1.propose(call).persisted();
    }
    n1.step(Input::Lost(Courier::Replicator(2)));
    assert_eq!(
        n1.sent(),
        ["n2 AppendEntries term=1 prev=1@1 [] commit=1"],
        "a replicator that is back is asked at once"
    );
    n1.matched(2, 1);
    let again = "n2 AppendEntries term=1 prev=1@1 [2@1 \"command 5\", 3@1 \"command 6\"] commit=1";
    assert_eq!(n1.sent(), [again], "what was in flight takes no room in the window");
}

/// L08. A follower whose disk lost what it had acknowledged conflicts for ever. Going back is no use: it is asked again with
/// the heartbeats, and not at the speed of the network.
///
/// Fails when: every conflict makes the next probe due at once.
#[test]
fn a_follower_that_lost_what_it_acknowledged_is_not_asked_in_a_loop() {
    let mut n1 = Fixture::settled_leader();
    n1.now += HEARTBEAT;
    n1.ring();
    n1.conflict(2, 1, 0);
    assert_eq!(n1.sent(), [""; 0]);
    n1.now += HEARTBEAT;
    n1.ring();
    assert_eq!(n1.sent()[0], "n2 AppendEntries term=1 prev=1@1 [] commit=1");
}

/// No more requests with entries than the window holds are unanswered at a peer; heartbeats go on.
///
/// Fails when: `may_send` does not count what is in flight.
#[test]
fn the_window_bounds_what_is_unanswered() {
    let mut n1 = Fixture::settled_leader();
    for call in [5, 6] {
        n1.propose(call).persisted();
    }
    n1.propose(7);
    assert_eq!(n1.sent(), [""; 0], "two batches are in flight to each");
    n1.now += HEARTBEAT;
    n1.ring();
    assert_eq!(n1.sent()[0], "n2 AppendEntries term=1 prev=3@1 [] commit=1");
    n1.matched(2, 2);
    assert_eq!(n1.sent(), ["n2 AppendEntries term=1 prev=3@1 [4@1 \"command 7\"] commit=2"]);
}

/// "A leader steps down if an election timeout elapses without a successful round of heartbeats to a majority of its
/// cluster." (thesis §6.2)
///
/// Fails when: `heartbeat` does not look at `last_heard`.
#[test]
fn a_leader_that_no_quorum_answers_steps_down() {
    let mut n1 = Fixture::settled_leader();
    n1.now += ELECTION_TIMEOUT_MAX;
    n1.ring();
    assert_eq!(n1.raft.role(), Role::Leader, "not before the timeout is over");
    n1.now += HEARTBEAT;
    n1.ring();
    assert_eq!((n1.raft.role(), n1.raft.leader()), (Role::Follower, None));
}

/// A server that does not lead says who does, and that nothing was done.
///
/// Fails when: a follower appends what clients propose.
#[test]
fn a_follower_refuses_proposals_and_names_its_leader() {
    let mut n1 = Fixture::of(3);
    n1.propose(5);
    assert_eq!(n1.told(), ["Refuse call=5 NotLeader leader=none"]);
    n1.append(1, (0, 0), &[], 0).propose(6);
    assert_eq!((n1.told(), n1.raft.last_index()), (vec!["Refuse call=6 NotLeader leader=n2".to_owned()], 0));
}

/// "The leader keeps track of the highest index it knows to be committed, and it includes that index in future AppendEntries
/// RPCs (including heartbeats) so that the other servers eventually find out." (§5.3) Where no entries follow, they are
/// told before the heartbeat.
///
/// Fails when: `replicate` does not set the alarm for it, or `leader_timeout` takes every alarm for the heartbeat's.
#[test]
fn followers_without_new_entries_learn_what_is_committed_before_the_heartbeat() {
    let mut n1 = Fixture::settled_leader();
    n1.alarm();
    n1.propose(5).persisted();
    n1.matched(2, 2);
    assert_eq!(n1.sent(), [""; 0], "the next entries would carry it");
    n1.now += HEARTBEAT / 10;
    n1.ring();
    assert_eq!(
        n1.sent(),
        ["n2 AppendEntries term=1 prev=2@1 [] commit=2", "n3 AppendEntries term=1 prev=2@1 [] commit=2"]
    );
}
