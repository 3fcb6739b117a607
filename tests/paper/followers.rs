//! The receiver of AppendEntries: Figure 2 "AppendEntries RPC", §5.3.

use ractor_raft::raft::*;

use crate::fixture::Fixture;

/// "Reply false if term < currentTerm." (Figure 2, AppendEntries 1; §5.1)
///
/// Fails when: `append_entries` does not compare the term.
#[test]
fn entries_of_an_earlier_term_are_rejected() {
    let mut n1 = Fixture::recovered(3, 2, None, &[1]);
    n1.append(1, (1, 1), &[1], 2);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=2 stale"]);
    assert_eq!((n1.log(), n1.raft.commit_index()), (vec![1], 0));
}

/// "Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm." (Figure 2,
/// AppendEntries 2; §5.3)
///
/// Fails when: `conflict_at` compares the index alone.
#[test]
fn entries_behind_another_log_are_rejected() {
    let mut n1 = Fixture::recovered(3, 3, None, &[1, 2, 2]);
    n1.append(3, (3, 3), &[3], 4);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=3 conflict=2@2"], "the first entry of the term in its way");
    n1.append(3, (7, 3), &[3], 4);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=3 conflict=4@0"], "its log ends before");
    assert_eq!((n1.log(), n1.raft.commit_index()), (vec![1, 2, 2], 0));
}

/// "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and all that
/// follow it." (Figure 2, AppendEntries 3; §5.3) "Append any new entries not already in the log." (4)
///
/// Fails when: `store_entries` truncates behind the new entries, or not at all.
#[test]
fn a_conflicting_suffix_is_replaced() {
    let mut n1 = Fixture::recovered(3, 3, None, &[1, 1, 2, 2]);
    n1.append(3, (1, 1), &[1, 3], 0);
    assert_eq!(n1.log(), [1, 1, 3]);
    assert_eq!(n1.writing().as_deref(), Some("truncate_from=3 [3@3 noop]"));
    assert_eq!(n1.raft.durable_index(), 2, "what is to be deleted is no longer counted as durable");
    n1.persisted();
    assert_eq!(n1.replies(), ["AppendEntriesReply term=3 match=3"]);
}

/// L02. "Raft RPCs are idempotent" (§5.5): a delayed request that covers entries already stored changes nothing, and what
/// stands behind them stays.
///
/// Fails when: `store_entries` truncates at the first new entry, conflict or not.
#[test]
fn a_delayed_request_truncates_nothing() {
    let mut n1 = Fixture::recovered(3, 2, None, &[]);
    n1.append(2, (0, 0), &[2, 2, 2], 0).persisted();
    n1.append(2, (0, 0), &[2], 0);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=2 match=1"]);
    n1.append(2, (1, 2), &[], 0);
    assert_eq!((n1.log(), n1.writing()), (vec![2, 2, 2], None));
}

/// "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)." (Figure 2,
/// AppendEntries 5)
///
/// Fails when: `append_entries` takes the leader's commit index as it is.
#[test]
fn a_follower_commits_what_its_leader_has() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1, 1], 1);
    assert_eq!(n1.raft.commit_index(), 1);
    n1.append(1, (2, 1), &[], 9);
    assert_eq!(n1.raft.commit_index(), 2);
    n1.append(1, (2, 1), &[], 1);
    assert_eq!(n1.raft.commit_index(), 2, "a late request does not take it back");
}

/// L04. What stands behind the last new entry has not been compared with the leader's log, and may be another's.
///
/// Fails when: the commit index is bounded by the follower's own last entry.
#[test]
fn a_heartbeat_commits_at_most_up_to_its_previous_entry() {
    let mut n1 = Fixture::recovered(3, 2, None, &[1, 1, 1]);
    n1.append(2, (1, 1), &[], 3);
    assert_eq!(n1.raft.commit_index(), 1);
}

/// L05. A report about a write whose entries were replaced meanwhile says nothing about the new ones.
///
/// Fails when: `Outbox::truncate_from` leaves the write in flight as it is: n1 then acknowledges entries 2 and 3 of
/// term 2 with the write of those of term 1.
#[test]
fn a_write_of_entries_that_were_replaced_counts_for_nothing() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1, 1, 1], 0);
    n1.append(2, (1, 1), &[2, 2], 3);
    n1.persisted();
    assert_eq!(n1.raft.durable_index(), 1, "entry 1 stands, entries 2 and 3 are others now");
    assert_eq!(n1.told(), ["Apply [1@1 noop]"]);
    assert_eq!(n1.writing().as_deref(), Some("current_term=2 voted_for=none truncate_from=2 [2@2 noop, 3@2 noop]"));
    n1.step(Input::Persisted { seq: 1 });
    assert_eq!(n1.raft.durable_index(), 1, "the first write's report comes again");
    n1.persisted();
    assert_eq!(n1.raft.durable_index(), 3);
}

/// "Updated on stable storage before responding to RPCs." (Figure 2, persistent state)
///
/// Fails when: `append_entries` replies at once.
#[test]
fn entries_are_acknowledged_when_they_are_durable() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1);
    assert_eq!((n1.replies(), n1.told()), (vec![], vec![]), "neither acknowledged nor applied");
    n1.persisted();
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 match=1"]);
    assert_eq!(n1.told(), ["Apply [1@1 noop]"]);
}

/// Requests that repeat what is on its way to the disk are acknowledged with what is there, never with more.
///
/// Fails when: `append_entries` takes entries that it has in memory for durable.
#[test]
fn a_repeated_request_is_acknowledged_with_what_is_durable() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 0).persisted();
    n1.append(1, (1, 1), &[1], 0);
    n1.append(1, (2, 1), &[], 0);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 match=1"], "a heartbeat's reply needs no disk");
}

/// Entries that come again while their write is under way are acknowledged when it is done, not at the next heartbeat.
///
/// Fails when: `append_entries` waits for the disk only where it has stored something.
#[test]
fn entries_that_are_repeated_while_they_are_written_are_acknowledged_by_the_write() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 0).persisted();
    n1.append(1, (1, 1), &[1], 0);
    n1.append(1, (1, 1), &[1], 0);
    assert_eq!(n1.replies(), [""; 0]);
    n1.persisted();
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 match=2"; 2]);
}

/// "If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied] to state machine." (Figure 2, all servers)
///
/// Fails when: `apply` starts from `last_applied` instead of what it has handed over.
#[test]
fn committed_entries_are_applied_once_and_in_order() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1, 1], 1).persisted();
    assert_eq!(n1.told(), ["Apply [1@1 noop]"]);
    n1.append(1, (2, 1), &[], 2);
    assert_eq!(n1.told(), ["Apply [2@1 noop]"], "though the first is not yet reported");
    n1.step(Input::Applied { index: 2 });
    assert_eq!((n1.raft.last_applied(), n1.told().len()), (2, 0));
}

/// L10. An entry that another leader's entry replaces was not replicated: its client is never told of success, nor that
/// it failed, since another server may have it and lead again.
///
/// Fails when: `truncate_from` keeps the clients: call 5 is then told of the success of another entry 2.
#[test]
fn a_proposal_whose_entry_is_replaced_has_an_unknown_outcome() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    n1.append(2, (1, 1), &[2], 2);
    assert_eq!(n1.told(), ["Refuse call=5 Unknown"]);
    n1.persisted();
    assert_eq!(n1.told(), ["Apply [2@2 noop]"]);
}

/// "The new leader has all committed entries" (§5.2, Leader Completeness), also those that an earlier leader proposed:
/// their client is told of success, though its server no longer leads.
///
/// Fails when: a leader that steps down forgets its clients.
#[test]
fn a_proposal_that_the_next_leader_commits_is_a_success() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).persisted();
    n1.append(2, (2, 1), &[2], 3);
    assert_eq!(n1.told(), ["Apply [2@1 \"command 5\"] 2=>call 5"]);
}
