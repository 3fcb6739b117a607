//! Where a rule of elections, replication and reads begins and where it ends: at the boundary, and one step beside it.

use std::time::Duration;

use ractor_raft::raft::*;

use crate::{
    fixture::{Fixture, HEARTBEAT, append_reply},
    snapshots::compacted,
};

const MICROSECOND: Duration = Duration::from_micros(1);

/// A heartbeat of the leader n2 of term 1, to a server that acknowledged so much.
fn heartbeat(acknowledged: LogIndex) -> AppendEntriesRequest {
    AppendEntriesRequest {
        term: 1,
        leader_id: 2,
        prev_log_index: 0,
        prev_log_term: 0,
        entries: Vec::new(),
        leader_commit: 0,
        read_round: 0,
        acknowledged,
    }
}

fn take_over(term: Term) -> Request {
    Request::TimeoutNow(TimeoutNowRequest { term, leader_id: 2 })
}

/// "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower" (§5.1), also where the
/// request is to take over (thesis §3.10): its election is then of the term behind that one.
///
/// Fails when: `timeout_now` adopts no later term.
#[test]
fn a_word_of_a_later_term_starts_the_election_behind_that_term() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.request(2, take_over(3)).persisted();
    assert_eq!(n1.state(), "candidate in term 4, voted for n1");
    assert_eq!(n1.sent()[0], "n2 RequestVote term=4 last=1@1 leadership_transfer");
}

/// A word to take over is for a follower (thesis §3.10); a candidate of that term goes on with the election that it has.
///
/// Fails when: `timeout_now` takes the sender for a new leader of the term that it has itself.
#[test]
fn a_candidate_that_is_told_to_take_over_starts_no_second_election() {
    let mut n1 = Fixture::of(3);
    n1.campaign();
    n1.request(2, take_over(1)).persisted();
    assert_eq!(n1.state(), "candidate in term 1, voted for n1");
}

/// Where the heartbeat comes as soon, it tells what is committed; a notice is for what would have to wait longer.
///
/// Fails when: `replicate` sets the alarm for a notice although the heartbeat is due just then.
#[test]
fn no_notice_is_set_for_when_the_heartbeat_is_due() {
    let notices = |before_heartbeat| {
        let mut n1 = Fixture::settled_leader();
        n1.now += HEARTBEAT;
        n1.ring();
        n1.propose(5).persisted();
        n1.now += HEARTBEAT - before_heartbeat;
        n1.matched(2, 2);
        let notice = |effect: &&Effect| matches!(effect, Effect::SetTimer { alarm: Alarm::Notice, .. });
        n1.effects.iter().filter(notice).count()
    };
    assert_eq!((notices(HEARTBEAT / 10), notices(HEARTBEAT / 10 + MICROSECOND)), (0, 1));
}

/// What is on disk is acknowledged at once when it comes again, although what stands behind it is still being written.
///
/// Fails when: `append_entries` waits with the reply for the write in flight.
#[test]
fn entries_that_are_durable_are_acknowledged_while_later_ones_are_written() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 0).persisted();
    n1.append(1, (1, 1), &[1], 0);
    n1.append(1, (0, 0), &[1], 0);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 match=1"]);
}

/// "Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm" (§5.3): the entry that the log
/// stands on is one whose term is known. Only what is before it matches unseen (L03).
///
/// Fails when: `conflict_at` lets the base pass with any term.
#[test]
fn the_base_of_the_log_is_compared_like_an_entry() {
    let mut n1 = compacted(2, (4, 1), &[]);
    n1.append(2, (4, 2), &[], 4);
    assert!(n1.replies()[0].starts_with("AppendEntriesReply term=2 conflict="), "{:?}", n1.replies());
    n1.append(2, (3, 2), &[], 4);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=2 match=3"]);
}

/// Whoever waits for an entry that is committed is told its outcome when it is applied, also by a server that was removed
/// meanwhile; only of what is behind that it will never hear.
///
/// Fails when: `abandon_proposals` begins with the last committed entry, or before it.
#[test]
fn a_removed_server_answers_what_it_knows_to_be_committed() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).propose(6);
    n1.matched(2, 2).matched(3, 2);
    n1.append(2, (2, 1), &[], 2);
    assert_eq!((n1.raft.commit_index(), n1.told()), (2, vec![]), "its own disk is slow");
    n1.step(Input::ToldRemoved);
    assert_eq!(n1.told(), ["Refuse call=6 Unknown"]);
    n1.persisted();
    assert_eq!(n1.told(), ["Apply [2@1 \"command 5\"] 2=>call 5"]);
}

/// A later term in a request for the read index is adopted (§5.1): whoever led the earlier one leads no more.
///
/// Fails when: `read_index` compares the terms the other way round.
#[test]
fn a_read_index_of_a_later_term_deposes_the_leader() {
    let mut n1 = Fixture::settled_leader();
    n1.request(2, Request::ReadIndex(ReadIndexRequest { term: 2 })).persisted();
    assert_eq!(n1.state(), "follower in term 2, voted for nobody");
    assert_eq!(n1.replies(), ["ReadIndexReply term=2 refused"]);
}

/// A follower whose connection to its leader breaks tells those that wait for a read index; another connection is none of theirs.
///
/// Fails when: `undelivered` does not ask whose connection it was.
#[test]
fn a_follower_gives_its_reads_up_with_the_connection_to_its_leader() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.step(Input::Read { call: 9, lease: false });
    n1.step(Input::Undelivered { peer: 3 });
    assert_eq!(n1.told(), [""; 0]);
    n1.step(Input::Undelivered { peer: 2 });
    assert_eq!(n1.told(), ["Refuse call=9 NotLeader leader=none"]);
}

/// A follower of n2 in term 1, of whom a client waits for a read index.
fn reading_follower() -> Fixture {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.step(Input::Read { call: 9, lease: false });
    assert_eq!(n1.sent(), ["n2 ReadIndex term=1"]);
    n1
}

const REFUSED_READ: [&str; 1] = ["Refuse call=9 NotLeader leader=none"];

/// R02. Whoever waits for a leader's read index does not wait for one that is a leader no more: not when an election starts, by
/// the alarm or at another's word, nor when another leader is heard.
///
/// Fails when: `start_pre_vote`, `start_election` or `become_follower` refuses no reads.
#[test]
fn reads_do_not_outlive_the_leader_that_was_asked() {
    let mut n1 = reading_follower();
    n1.alarm();
    // It is asked once more before, since the question may have got lost.
    assert_eq!((n1.raft.role(), n1.told()), (Role::Follower, vec![]), "that alarm rang too early");
    n1.alarm();
    assert_eq!((n1.raft.role(), n1.told()), (Role::PreCandidate, REFUSED_READ.map(String::from).into()));
    let mut n1 = reading_follower();
    n1.request(2, take_over(1));
    assert_eq!((n1.raft.role(), n1.told()), (Role::Candidate, REFUSED_READ.map(String::from).into()));
    let mut n1 = reading_follower();
    n1.request(3, Request::AppendEntries(AppendEntriesRequest { term: 2, leader_id: 3, ..heartbeat(0) }));
    assert_eq!(n1.told(), REFUSED_READ);
}

/// M05. A server that was told that it was removed has no leader to name, and a leader that was told so leaves nobody waiting when
/// it steps down.
///
/// Fails when: `is_told_removed` keeps the leader; `become_follower` does not abandon the proposals of a removed leader.
#[test]
fn a_removed_server_sends_nobody_to_its_leader() {
    let mut n1 = reading_follower();
    n1.step(Input::ToldRemoved);
    assert_eq!(n1.told(), REFUSED_READ);
    n1.propose(5);
    assert_eq!(n1.told(), ["Refuse call=5 NotLeader leader=none"]);
    let mut n1 = Fixture::settled_leader();
    n1.propose(5);
    n1.step(Input::ToldRemoved);
    assert_eq!((n1.raft.role(), n1.told()), (Role::Leader, vec![]), "it goes on until no quorum listens");
    n1.append(2, (1, 1), &[], 1);
    assert_eq!(n1.told(), ["Refuse call=5 Unknown"]);
}

/// The window is full when so many bytes are unanswered, not only when there are more.
///
/// Fails when: `may_send` lets a batch out at its very bound.
#[test]
fn a_window_that_is_just_full_lets_nothing_out() {
    let mut n1 = Fixture::settled_leader();
    let command = |bytes| Payload::Command(bytes::Bytes::from(vec![7; bytes]));
    n1.step(Input::Propose { call: 5, payload: command(1000) }).persisted();
    assert_eq!(n1.raft.last_index(), 2);
    n1.step(Input::Propose { call: 6, payload: command(1) });
    assert_eq!(n1.sent(), [""; 0], "1000 bytes are unanswered");
    n1.matched(2, 2);
    assert_eq!(n1.sent(), ["n2 AppendEntries term=1 prev=2@1 [3@1 1 bytes] commit=2"]);
}

/// Proposals that come together leave together: one write, one request to each peer, an answer each. A disk that lost what it had
/// acknowledged takes none (L08).
///
/// Fails when: `propose_all` forgets them, or ends a step after each.
#[test]
fn proposals_that_come_together_leave_together() {
    let mut n1 = Fixture::settled_leader();
    let proposals = || [5, 6].map(|call| (call, Payload::OpenSession));
    let mut effects = Vec::new();
    n1.raft.propose_all(n1.now, proposals(), &mut effects);
    let effects: Vec<_> = effects.iter().map(Effect::to_string).collect();
    let (sent, written): (Vec<_>, Vec<_>) = effects.iter().partition(|effect| effect.starts_with("Send"));
    assert_eq!((sent.len(), written), (2, vec![&"Persist seq=3 [2@1 open session, 3@1 open session]".to_owned()]));
    let mut n1 = Fixture::of(3);
    n1.request(2, Request::AppendEntries(heartbeat(9)));
    let mut effects = Vec::new();
    n1.raft.propose_all(n1.now, proposals(), &mut effects);
    assert_eq!(effects, []);
}

/// A conflict that comes late, behind one that led farther back, does not lead forward again (§5.3: "decrement nextIndex and
/// retry").
///
/// Fails when: `conflicted` goes to where that answer says the logs may agree.
#[test]
fn a_late_conflict_does_not_lead_forward() {
    let mut n1 = Fixture::leader_of(3, &[1, 1, 1, 1]);
    n1.conflict(2, 2, 0);
    assert_eq!(n1.sent(), ["n2 AppendEntries term=2 prev=1@1 [] commit=0"]);
    n1.conflict(2, 4, 0);
    assert_eq!(n1.sent(), ["n2 AppendEntries term=2 prev=0@0 [] commit=0"]);
}

/// What a log line shows of a command: text where it is text that stays on a line and is short, its size where it is not.
///
/// Fails when: `Printable` writes long text, or text with a line break, or calls 40 characters long.
#[test]
fn a_command_is_shown_on_a_line() {
    let shown = |command: &str| Payload::Command(command.to_owned().into()).to_string();
    let (longest, longer) = ("x".repeat(40), "x".repeat(41));
    assert_eq!((shown(&longest), shown(&longer)), (format!("{longest:?}"), "41 bytes".to_owned()));
    assert_eq!(shown("two\nlines"), "9 bytes");
}

/// A leader of term 2 whose log stands on 4@1 and goes up to 9.
fn compacted_leader() -> Fixture {
    let mut n1 = compacted(1, (4, 1), &[1, 1, 1, 1]);
    n1.campaign();
    n1.win();
    n1.persisted();
    n1
}

/// The leader looks for where the logs agree in what it has (§5.3), before it sends what it does not have any more (§7).
///
/// Fails when: `append_entries_reply` sends the snapshot at the first conflict.
#[test]
fn the_log_is_probed_down_to_its_base_before_a_snapshot_is_sent() {
    let mut n1 = compacted_leader();
    n1.conflict(2, 7, 0);
    assert_eq!((n1.ordered(), n1.sent()), (vec![], vec!["n2 AppendEntries term=2 prev=6@1 [] commit=4".to_owned()]));
    n1.conflict(2, 2, 0);
    assert_eq!((n1.ordered(), n1.sent()), (vec![], vec!["n2 AppendEntries term=2 prev=4@1 [] commit=4".to_owned()]));
    n1.conflict(2, 2, 0);
    assert_eq!(n1.ordered().len(), 1);
}

/// An answer to an earlier probe must not pass for one to the probe at the base: it would send a snapshot to a follower that may
/// need none. That probe has a session of its own (L06).
///
/// Fails when: `append_entries_reply` keeps the session, or gives one that was there before.
#[test]
fn the_probe_at_the_base_has_a_session_of_its_own() {
    let mut n1 = compacted_leader();
    let (probe, other) = (n1.session(2), n1.session(3));
    n1.conflict(2, 6, 0);
    assert_eq!(n1.session(2), probe, "5 is not the base");
    n1.conflict(2, 2, 0);
    assert!(n1.session(2) > probe.max(other), "{} after {probe} and {other}", n1.session(2));
    let reply = append_reply(2, AppendOutcome::Conflict { conflict_term: 0, conflict_index: 2 });
    n1.step(Input::Response { from: 2, session: probe, reply });
    assert_eq!(n1.ordered(), [""; 0]);
    n1.conflict(2, 2, 0);
    assert_eq!(n1.ordered().len(), 1);
}

/// A peer that waits for a snapshot is not taken for one that has the log, whatever it acknowledges below the log's base.
///
/// Fails when: `append_entries_reply` takes any acknowledgement of such a peer, or refuses those of all the others.
#[test]
fn a_peer_that_waits_for_a_snapshot_is_not_matched_below_the_base() {
    let mut n1 = compacted_leader();
    n1.conflict(2, 2, 0).conflict(2, 2, 0);
    assert_eq!(n1.ordered().len(), 1);
    n1.matched(2, 3);
    assert_eq!(n1.sent(), [""; 0]);
    n1.matched(2, 4);
    assert_eq!(n1.sent()[0], "n2 AppendEntries term=2 prev=4@1 [5@1 noop, 6@1 noop] commit=4");
}
