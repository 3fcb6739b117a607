//! What is believed of others' words and what is not, and what stays bounded whatever they say.

use ractor_raft::raft::*;

use crate::{
    fixture::{ELECTION_TIMEOUT_MAX, Fixture, HEARTBEAT, append_reply, snapshot},
    snapshots::{compacted, recovered},
};

fn installed(term: Term, match_index: LogIndex) -> Reply {
    Reply::InstallSnapshot(InstallSnapshotReply { term, outcome: InstallOutcome::Installed { match_index } })
}

fn lost(term: Term) -> Reply {
    append_reply(term, AppendOutcome::Lost { last_index: 0 })
}

/// A leader of term 2 that is sending n2 a snapshot of the four entries that its log stands on; n3 has said nothing.
fn sending() -> Fixture {
    let mut n1 = compacted(1, (4, 1), &[]);
    n1.campaign();
    n1.win();
    n1.persisted().conflict(2, 2, 0);
    assert_eq!(n1.ordered().len(), 1, "SendSnapshot");
    n1
}

/// Transfer to whoever fits best: whether the leader found anybody.
fn finds_a_successor(n1: &mut Fixture) -> bool {
    n1.step(Input::TransferLeadership { call: 9, to: None });
    n1.told().is_empty()
}

/// Nobody has more of the leader's log than there is: who says so is not believed, neither of entries nor of a snapshot, nor taken
/// for a peer in touch.
///
/// Fails when: `append_entries_reply` or `install_snapshot_reply` does not compare the index with the end of the log.
#[test]
fn acknowledgements_beyond_the_log_are_dropped() {
    let mut n1 = Fixture::leader_of(3, &[]);
    n1.matched(2, 2);
    assert_eq!((n1.raft.commit_index(), n1.sent()), (0, vec![]), "the log ends with 1");
    assert!(!finds_a_successor(&mut n1), "n2 said nothing that counts");
    let mut n1 = sending();
    n1.reply_from(2, installed(2, 6));
    assert_eq!((n1.raft.commit_index(), n1.sent()), (4, vec![]), "the log ends with 5");
}

/// Leader Completeness (§5.4): no leader has another entry than one that is committed. One that sends such an entry proves that the
/// protocol was broken elsewhere; here it would take back what was applied.
///
/// Fails when: `store_entries` does not compare the term at the base.
#[test]
#[should_panic(expected = "Leader Completeness: entry 4 is committed")]
fn an_entry_that_denies_the_base_of_the_log_is_a_broken_protocol() {
    compacted(2, (4, 1), &[]).append(2, (3, 1), &[2], 4);
}

/// The same with an entry that is still in the log.
///
/// Fails when: `truncate_from` does not compare with the commit index.
#[test]
#[should_panic(expected = "Leader Completeness: entry 2 is committed")]
fn an_entry_that_denies_a_committed_one_is_a_broken_protocol() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1, 1], 2).persisted();
    n1.append(2, (1, 1), &[2], 2);
}

/// The same with the last entry of a snapshot, where entries overtook it.
///
/// Fails when: `install` does not compare with the commit index.
#[test]
#[should_panic(expected = "Leader Completeness: entry 5 is committed")]
fn a_snapshot_that_denies_a_committed_entry_is_a_broken_protocol() {
    let mut n1 = Fixture::recovered(3, 2, None, &[]);
    n1.install(2, &snapshot((3, 1), 8), 0, 8).chunk_stored(8, true).persisted();
    n1.install(2, &snapshot((5, 2), 8), 0, 8);
    let call = 2;
    n1.append(2, (3, 1), &[1, 1, 1], 6).persisted();
    n1.step(Input::ChunkStored { call, stored: 8, complete: true });
}

/// L08. What a peer acknowledged before its disk lost it may come behind the word that it is lost: it counts for nothing any more,
/// neither for an entry nor for a snapshot.
///
/// Fails when: `append_entries_reply` or `install_snapshot_reply` takes it for a match.
#[test]
fn a_late_acknowledgement_of_a_lost_disk_counts_for_nothing() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(7).persisted();
    n1.reply_from(2, lost(1));
    assert!(n1.effects.contains(&Effect::PeerLostData { peer: 2 }));
    n1.matched(2, 2);
    assert_eq!(n1.raft.commit_index(), 1, "n1's disk is the only one that has it");
    n1.reply_from(2, installed(1, 2));
    assert_eq!(n1.raft.commit_index(), 1);
    n1.matched(3, 2);
    assert_eq!(n1.raft.commit_index(), 2);
}

/// L08, R02. Nor does it confirm a leader: a disk that lost entries may have lost a vote.
///
/// Fails when: `append_entries_reply` notes the round that it answers.
#[test]
fn a_lost_disk_confirms_no_read() {
    let mut n1 = Fixture::settled_leader();
    n1.step(Input::Read { call: 9, lease: false });
    n1.reply_from(2, lost(1));
    n1.confirmed(2, 1, 1);
    assert_eq!(n1.told(), [""; 0]);
    n1.confirmed(3, 1, 1);
    assert_eq!(n1.told(), ["AnswerRead call=9 read_index=1"]);
}

/// A peer whose connection broke does not answer, as far as is known: the leader hands over to another one.
///
/// Fails when: `Progress::lost` leaves it reachable.
#[test]
fn a_peer_behind_a_broken_connection_is_no_successor() {
    let mut n1 = Fixture::settled_leader();
    n1.step(Input::Undelivered { peer: 2 }).step(Input::Undelivered { peer: 3 });
    assert!(!finds_a_successor(&mut n1));
    n1.now += HEARTBEAT;
    n1.ring();
    n1.matched(2, 1);
    assert!(finds_a_successor(&mut n1));
}

/// What a peer was told before its log was in doubt may have been refused with the rest: it is told once more what is committed.
///
/// Fails when: `Progress::restart` leaves `commit_sent`.
#[test]
fn a_peer_in_doubt_is_told_anew_what_is_committed() {
    let notices = |n1: &Fixture| {
        n1.effects.iter().filter(|effect| matches!(effect, Effect::SetTimer { alarm: Alarm::Notice, .. })).count()
    };
    let mut n1 = Fixture::settled_leader();
    n1.now += HEARTBEAT;
    n1.ring();
    n1.matched(2, 1);
    assert_eq!(notices(&n1), 0, "the heartbeat told it");
    n1.conflict(2, 1, 0).matched(2, 1);
    assert_eq!(notices(&n1), 1);
}

/// …and which round of reads it is to confirm.
///
/// Fails when: `Progress::restart` leaves `read_round_sent`.
#[test]
fn a_peer_in_doubt_is_told_anew_of_a_round_of_reads() {
    let mut n1 = Fixture::settled_leader();
    n1.step(Input::Read { call: 9, lease: false });
    assert_eq!(n1.sent().len(), 2);
    n1.matched(2, 1);
    assert_eq!(n1.sent(), [""; 0], "it has been told");
    n1.conflict(2, 1, 0).matched(2, 1);
    assert_eq!(n1.sent(), ["n2 AppendEntries term=1 prev=1@1 [] commit=1 round=1"]);
}

/// A peer that fell behind the log's base is asked at once whether it has that (§7): nothing else may come to ask it for a while.
///
/// Fails when: `fell_behind` waits for the heartbeat.
#[test]
fn a_peer_that_fell_behind_the_log_is_probed_at_once() {
    let mut n1 = Fixture::settled_leader();
    for call in 5..10 {
        n1.propose(call).persisted();
    }
    n1.matched(3, 6).matched(3, 6);
    assert_eq!(n1.raft.commit_index(), 6, "without n2, whose window is full");
    n1.step(Input::Applied { index: 6 });
    n1.step(Input::TakeSnapshot { call: 20 });
    n1.step(Input::SnapshotWritten { snapshot: snapshot((6, 1), 8) });
    assert!(n1.sent().contains(&"n2 AppendEntries term=1 prev=6@1 [] commit=6".to_owned()), "{:?}", n1.sent());
}

/// Whoever answers is in touch, also where it answers about a snapshot: a leader that hears it does not step down for want of a
/// quorum (thesis §6.2), and may hand over to it.
///
/// Fails when: `install_snapshot_reply` does not note when it was, or that it came.
#[test]
fn an_answer_about_a_snapshot_is_an_answer() {
    let leads = |answers: bool| {
        let mut n1 = sending();
        n1.now += ELECTION_TIMEOUT_MAX;
        if answers {
            n1.reply_from(2, installed(2, 4));
        }
        n1.now += HEARTBEAT;
        n1.ring();
        n1.raft.role() == Role::Leader
    };
    assert_eq!((leads(true), leads(false)), (true, false));
    let mut n1 = sending();
    n1.step(Input::Undelivered { peer: 2 });
    n1.now += HEARTBEAT;
    n1.ring();
    n1.reply_from(2, installed(2, 4));
    assert!(finds_a_successor(&mut n1));
}

/// Who has installed a snapshot, and what stands behind it, is counted like one that acknowledged entries (§5.3).
///
/// Fails when: `install_snapshot_reply` does not look what a majority has now.
#[test]
fn what_an_installed_snapshot_brought_counts() {
    let mut n1 = sending();
    n1.reply_from(2, installed(2, 5));
    assert_eq!(n1.raft.commit_index(), 5);
}

/// N03. A state machine that was restored from a later snapshot than the ordered one, while entries overtook both, goes on behind that
/// one; and a client that waits for an entry which it brought is told that its outcome is not known (L10).
///
/// Fails when: `restored` goes on behind the ordered one, or forgets who waits.
#[test]
fn a_restore_that_reaches_farther_is_gone_on_from() {
    let mut n1 = Fixture::start(recovered(1, (4, 1), &[]));
    n1.campaign();
    n1.win();
    n1.propose(7).propose(8).persisted();
    n1.persisted();
    n1.matched(2, 4).matched(2, 7);
    assert_eq!((n1.raft.commit_index(), n1.told()), (7, vec![]), "nothing is applied before the restore");
    n1.step(Input::Restored { index: 6 });
    assert_eq!(n1.told(), ["Refuse call=7 Unknown", "Apply [7@2 \"command 8\"] 7=>call 8"]);
}

/// Who looks on is told from the first who belongs to the cluster.
///
/// Fails when: `Raft::new` does not say it.
#[test]
fn a_server_tells_its_membership_when_it_starts() {
    let n1 = Fixture::of(3);
    let told = |effect: &Effect| match effect {
        Effect::MembershipChanged(membership) => Some(membership.to_string()),
        _ => None,
    };
    assert_eq!(n1.effects.iter().find_map(told).as_deref(), Some("voters=n1,n2,n3"));
}

/// What waits at the state machine is bounded, however long the log that is replayed: the next entries come when it has got on.
///
/// Fails when: `apply` hands over all that is committed; or goes on before it is told.
#[test]
fn a_long_log_is_applied_in_steps() {
    let applied = |n1: &Fixture| {
        n1.effects.iter().find_map(|effect| match effect {
            Effect::Apply { entries, .. } => Some((entries[0].index, entries.len())),
            _ => None,
        })
    };
    let mut n1 = Fixture::recovered(3, 1, None, &[1; 9000]);
    n1.append(1, (9000, 1), &[], 9000);
    assert_eq!(applied(&n1), Some((1, 8192)));
    n1.append(1, (9000, 1), &[], 9000);
    assert_eq!(applied(&n1), None);
    n1.step(Input::Applied { index: 100 });
    assert_eq!(applied(&n1), Some((8193, 100)));
}
