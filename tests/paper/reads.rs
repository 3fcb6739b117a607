//! Linearizable reads: §8, thesis §6.4.

use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MAX, Fixture, HEARTBEAT};

fn answer(n1: &mut Fixture, from: NodeId, match_index: LogIndex, read_round: u64) {
    let (term, outcome) = (n1.raft.current_term(), AppendOutcome::Matched { match_index });
    n1.reply_from(from, Reply::AppendEntries(AppendEntriesReply { term, outcome, read_round }));
}

/// R01. "A leader must have the latest information on which entries are committed. [At the start of its term] it may not
/// know which those are." (§8)
///
/// Fails when: `confirm_reads` does not wait for `first_index`.
#[test]
fn a_fresh_leader_reads_when_its_no_op_is_committed() {
    let mut n1 = Fixture::leader_of(3, &[]);
    n1.step(Input::Read { call: 5, lease: false });
    answer(&mut n1, 2, 0, 9);
    assert_eq!(n1.told(), [""; 0]);
    answer(&mut n1, 2, 1, 0);
    assert_eq!(n1.sent().last().map(String::as_str), Some("n2 AppendEntries term=1 prev=1@1 [] commit=1 round=1"));
    answer(&mut n1, 2, 1, 1);
    assert_eq!(n1.told(), ["AnswerRead call=5 read_index=1"]);
}

/// R03. "It must check whether it has been deposed before processing a read-only request" (§8): with an answer to a request
/// that was sent after the read came, not with any answer.
///
/// Fails when: `confirm_reads` counts every answer, whatever its round.
#[test]
fn each_round_of_reads_has_its_own_token() {
    let mut n1 = Fixture::settled_leader();
    n1.step(Input::Read { call: 5, lease: false });
    n1.step(Input::Read { call: 6, lease: false });
    answer(&mut n1, 2, 1, 0);
    assert_eq!(n1.told(), [""; 0], "an answer to what was sent before the round");
    answer(&mut n1, 2, 1, 1);
    assert_eq!(n1.told(), ["AnswerRead call=5 read_index=1"], "call 6 came while round 1 was out");
    answer(&mut n1, 3, 1, 1);
    assert_eq!(n1.told(), [""; 0], "round 1 says nothing about round 2");
    answer(&mut n1, 3, 1, 2);
    assert_eq!(n1.told(), ["AnswerRead call=6 read_index=1"]);
}

/// R02. A leader that has lost its quorum answers no read.
///
/// Fails when: `become_follower` forgets the reads, or answers them.
#[test]
fn a_deposed_leader_refuses_its_reads() {
    let mut n1 = Fixture::settled_leader();
    n1.step(Input::Read { call: 5, lease: false });
    n1.now += ELECTION_TIMEOUT_MAX + HEARTBEAT;
    n1.ring();
    assert_eq!(n1.told(), ["Refuse call=5 NotLeader leader=none"]);
}

/// R05. A follower asks its leader for the read index (thesis §6.4), one question for all that wait.
///
/// Fails when: a follower answers from its own commit index.
#[test]
fn a_follower_asks_its_leader_for_the_read_index() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.step(Input::Read { call: 5, lease: false });
    assert_eq!(n1.sent(), ["n2 ReadIndex term=1"]);
    n1.step(Input::Read { call: 6, lease: false });
    assert_eq!(n1.sent(), [""; 0]);
    n1.reply_from(2, Reply::ReadIndex(ReadIndexReply { term: 1, read_index: Some(4) }));
    assert_eq!(n1.told(), ["AnswerRead call=5 read_index=4"]);
    assert_eq!(n1.sent(), ["n2 ReadIndex term=1"], "call 6 came too late for the first question");
}
