//! Snapshots: Figure 13, §7, thesis §5.

use ractor_raft::raft::*;

use crate::fixture::{ELECTION_TIMEOUT_MAX, Fixture, entries, snapshot};

pub fn recovered(current_term: Term, base: (LogIndex, Term), log: &[Term]) -> Recovered {
    Recovered {
        hard_state: HardState { current_term, voted_for: None },
        base: LogPosition { index: base.0, term: base.1 },
        membership: Membership::of_voters((1..=3).map(|id| (id, ""))),
        entries: entries(base.0 + 1, log),
        snapshot: (base.0 > 0).then(|| snapshot(base, 20)),
        ..Recovered::default()
    }
}

/// n1, its log compacted up to `base`, its state machine restored.
pub fn compacted(current_term: Term, base: (LogIndex, Term), log: &[Term]) -> Fixture {
    let mut n1 = Fixture::start(recovered(current_term, base, log));
    n1.step(Input::Restored { index: base.0 });
    n1
}

/// "1. Reply immediately if term < currentTerm." (Figure 13)
///
/// Fails when: `install_snapshot` does not ask whether the sender leads.
#[test]
fn an_install_of_a_deposed_leader_is_refused() {
    let mut n1 = Fixture::recovered(3, 5, None, &[]);
    n1.install(4, &snapshot((9, 4), 20), 0, 8);
    assert_eq!(n1.replies(), ["InstallSnapshotReply term=5 stale"]);
    assert_eq!(n1.ordered(), [""; 0]);
}

/// "2. Create new snapshot file if first chunk (offset is 0). 3. Write data into snapshot file at given offset. 4. Reply and
/// wait for more data chunks if done is false." (Figure 13)
///
/// Fails when: the reply goes out with the order to store.
#[test]
fn a_chunk_is_acknowledged_when_it_is_stored() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.install(1, &snapshot((9, 1), 20), 0, 8);
    assert_eq!(n1.ordered(), ["StoreChunk call=1 snapshot=9@1 of 20 bytes offset=0 8 bytes"]);
    assert_eq!(n1.replies(), [""; 0]);
    n1.chunk_stored(8, false);
    assert_eq!(n1.replies(), ["InstallSnapshotReply term=1 stored=8"]);
    n1.install(1, &snapshot((9, 1), 20), 8, 8);
    assert_eq!(n1.ordered(), ["StoreChunk call=2 snapshot=9@1 of 20 bytes offset=8 8 bytes"]);
}

/// N05. A leader that begins asks what is there, and goes on from there.
///
/// Fails when: the question is stored like a chunk, or `recovered` forgets what was being received.
#[test]
fn a_transfer_goes_on_from_what_is_stored() {
    let receiving = Some((snapshot((9, 1), 20), 16));
    let mut n1 = Fixture::start(Recovered { receiving, ..recovered(1, (0, 0), &[1]) });
    n1.install(1, &snapshot((9, 1), 20), 0, 0);
    assert_eq!(n1.replies(), ["InstallSnapshotReply term=1 stored=16"]);
    n1.install(1, &snapshot((12, 1), 20), 0, 0);
    assert_eq!(n1.replies(), ["InstallSnapshotReply term=1 stored=0"], "of another one nothing is there");
}

/// A chunk that does not follow on is not stored: it came twice, or another got lost.
///
/// Fails when: `install_snapshot` does not compare the offset.
#[test]
fn a_chunk_out_of_order_is_answered_with_what_is_there() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.install(1, &snapshot((9, 1), 20), 0, 8).chunk_stored(8, false);
    for offset in [0, 16] {
        n1.install(1, &snapshot((9, 1), 20), offset, 4);
        assert_eq!((n1.replies(), n1.ordered()), (vec!["InstallSnapshotReply term=1 stored=8".to_owned()], vec![]));
    }
}

/// One chunk is on its way to the disk at a time, whatever comes: of another snapshot, too. The one that is on its way may be the
/// last of its own.
///
/// Fails when: another snapshot takes the place of the one whose chunk is in flight.
#[test]
fn one_chunk_is_on_its_way_to_the_disk() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.install(1, &snapshot((9, 1), 8), 0, 8);
    n1.install(1, &snapshot((9, 1), 8), 0, 8);
    assert_eq!((n1.replies(), n1.ordered()), (vec!["InstallSnapshotReply term=1 stored=0".to_owned()], vec![]));
    n1.install(1, &snapshot((12, 1), 20), 0, 8);
    assert_eq!((n1.replies(), n1.ordered()), (vec!["InstallSnapshotReply term=1 stored=0".to_owned()], vec![]));
    n1.step(Input::ChunkStored { call: 1, stored: 8, complete: true });
    assert_eq!(n1.raft.snapshot(), LogPosition { index: 9, term: 1 });
}

/// N02. "7. Discard the entire log." (Figure 13)
///
/// Fails when: `install` keeps the log, whatever its entry there.
#[test]
fn a_log_that_does_not_agree_with_the_snapshot_is_discarded() {
    let mut n1 = Fixture::recovered(3, 4, None, &[1, 1, 2, 2, 2]);
    n1.install(4, &snapshot((3, 3), 8), 0, 8).chunk_stored(8, true);
    assert_eq!(n1.writing().as_deref(), Some("truncate_from=1 base=3@3 voters=n1,n2,n3"));
    assert_eq!((n1.raft.last_index(), n1.raft.base().index), (3, 3));
}

/// N02. "6. If existing log entry has same index and term as snapshot's last included entry, retain log entries following it and
/// reply." (Figure 13)
///
/// Fails when: `install` discards the log in any case.
#[test]
fn a_log_that_agrees_with_the_snapshot_is_kept_behind_it() {
    let mut n1 = Fixture::recovered(3, 4, None, &[1, 1, 3, 3, 3]);
    n1.install(4, &snapshot((3, 3), 8), 0, 8).chunk_stored(8, true);
    assert_eq!(n1.writing().as_deref(), Some("base=3@3 voters=n1,n2,n3"));
    assert_eq!((n1.raft.last_index(), n1.raft.base().index), (5, 3));
}

/// N03. "8. Reset state machine using snapshot contents (and load snapshot's cluster configuration)." (Figure 13) First the log
/// stands on it, on disk; and nothing behind it is applied before the state machine is there.
///
/// Fails when: `install` orders the restore at once, or `apply` does not wait for it.
#[test]
fn first_durable_then_restored_then_applied() {
    let mut n1 = Fixture::recovered(3, 1, None, &[]);
    n1.install(1, &snapshot((3, 1), 8), 0, 8).chunk_stored(8, true);
    assert_eq!((n1.ordered(), n1.replies()), (vec![], vec![]));
    n1.persisted();
    assert_eq!(n1.ordered(), ["Restore snapshot=3@1 of 8 bytes"]);
    assert_eq!(n1.replies(), ["InstallSnapshotReply term=1 match=3"]);
    n1.append(1, (3, 1), &[1], 4).persisted();
    assert_eq!((n1.told(), n1.raft.commit_index(), n1.raft.last_applied()), (vec![], 4, 0));
    n1.step(Input::Restored { index: 3 });
    assert_eq!(n1.told(), ["Apply [4@1 noop]"]);
}

/// N01, N06. What is committed here already needs no snapshot; the reply says how far this server is.
///
/// Fails when: `install_snapshot` compares with the last snapshot, not with what is committed; or replies with the snapshot's end.
#[test]
fn an_install_older_than_what_is_committed_is_not_needed() {
    let mut n1 = compacted(1, (4, 1), &[1, 1]);
    n1.append(1, (6, 1), &[1], 7).persisted();
    for index in [3, 6] {
        n1.install(1, &snapshot((index, 1), 8), 0, 8);
        assert_eq!((n1.ordered(), n1.replies()), (vec![], vec!["InstallSnapshotReply term=1 match=7".to_owned()]));
    }
}

/// N01. Entries overtook the snapshot while its last chunk was on its way to the disk: the state does not go back.
///
/// Fails when: `chunk_stored` installs whatever is complete.
#[test]
fn a_snapshot_that_entries_overtook_is_not_installed() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.install(1, &snapshot((3, 1), 8), 0, 8);
    n1.append(1, (1, 1), &[1, 1, 1], 4).persisted();
    n1.step(Input::ChunkStored { call: 1, stored: 8, complete: true });
    assert_eq!((n1.ordered(), n1.raft.commit_index()), (vec![], 4));
    n1.persisted();
    assert_eq!(
        n1.raft.snapshot(),
        LogPosition { index: 3, term: 1 },
        "it took the place of the one before all the same"
    );
}

/// The same, while those entries are still on their way to the disk and not applied: the log is not compacted beyond them.
///
/// Fails when: `compact` looks at the snapshot only.
#[test]
fn what_was_not_applied_is_not_compacted() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1]);
    n1.install(1, &snapshot((3, 1), 8), 0, 8);
    n1.append(1, (1, 1), &[1, 1, 1], 4);
    n1.step(Input::ChunkStored { call: 1, stored: 8, complete: true });
    n1.persisted();
    assert_eq!(n1.told(), ["Apply [2@1 noop, 3@1 noop, 4@1 noop]"]);
}

/// Entries overtook a snapshot while an earlier one is still to be restored, which is not on disk any more: this one is restored
/// instead, or the state machine would wait for ever.
///
/// Fails when: `chunk_stored` keeps it for later.
#[test]
fn a_snapshot_that_took_the_place_of_one_to_be_restored_is_restored() {
    let mut n1 = Fixture::recovered(3, 1, None, &[]);
    n1.install(1, &snapshot((3, 1), 8), 0, 8).chunk_stored(8, true).persisted();
    n1.install(1, &snapshot((5, 1), 8), 0, 8);
    let call = 2;
    n1.append(1, (3, 1), &[1, 1, 1], 6).persisted();
    n1.step(Input::ChunkStored { call, stored: 8, complete: true }).persisted();
    assert_eq!(n1.ordered(), ["Restore snapshot=5@1 of 8 bytes"]);
    n1.step(Input::Restored { index: 3 });
    assert_eq!(n1.told(), [""; 0]);
    n1.step(Input::Restored { index: 5 });
    assert_eq!(n1.told(), ["Apply [6@1 noop]"]);
}

/// N03, N01. The order to restore is given once: a second one would come when entries behind the snapshot are applied already.
///
/// Fails when: `snapshotter_lost` orders it while the log does not stand on the snapshot yet.
#[test]
fn a_restore_is_not_ordered_before_the_log_stands_on_the_snapshot() {
    let mut n1 = Fixture::recovered(3, 1, None, &[]);
    n1.install(1, &snapshot((3, 1), 8), 0, 8).chunk_stored(8, true);
    n1.step(Input::Lost(Courier::Snapshotter));
    assert_eq!(n1.ordered(), [""; 0]);
    n1.persisted();
    assert_eq!(n1.ordered(), ["Restore snapshot=3@1 of 8 bytes"]);
    n1.step(Input::Lost(Courier::Snapshotter));
    assert_eq!(n1.ordered(), ["Restore snapshot=3@1 of 8 bytes"], "what it carried is lost");
}

/// L03. "prevLogIndex lies under the snapshot": what it replaced is committed, and matches.
///
/// Fails when: `conflict_at` looks only for the entry.
#[test]
fn what_a_snapshot_replaced_matches() {
    let mut n1 = compacted(1, (4, 1), &[1]);
    n1.append(1, (2, 1), &[1, 1, 1, 1], 5);
    assert_eq!(n1.writing().as_deref(), Some("[6@1 noop]"), "the others are there, or under the snapshot");
    n1.persisted();
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 match=6"]);
    n1.append(1, (1, 1), &[1], 5);
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 match=2"]);
}

/// N07. "State = snapshot + replay": a server that starts is restored before it applies anything.
///
/// Fails when: `recovered` does not order the restore, or `apply` does not wait for it.
#[test]
fn a_server_starts_at_its_snapshot() {
    let mut n1 = Fixture::start(recovered(1, (4, 1), &[1]));
    assert_eq!(n1.ordered(), ["Restore snapshot=4@1 of 20 bytes"]);
    n1.append(1, (5, 1), &[], 5);
    assert_eq!((n1.raft.commit_index(), n1.raft.last_applied(), n1.told()), (5, 0, vec![]));
    n1.step(Input::Restored { index: 4 });
    assert_eq!((n1.told(), n1.raft.last_applied()), (vec!["Apply [5@1 noop]".to_owned()], 4));
}

/// A server that fell between the snapshot and the log's turn makes up for it.
///
/// Fails when: `start_from` takes the log for the snapshot's.
#[test]
fn a_server_that_fell_before_its_log_stood_on_the_snapshot_stands_on_it() {
    let snapshot = Some(snapshot((6, 2), 20));
    let mut n1 = Fixture::start(Recovered { snapshot, ..recovered(2, (0, 0), &[1, 1]) });
    assert_eq!((n1.writing().as_deref(), n1.ordered()), (Some("truncate_from=1 base=6@2 voters=n1,n2,n3"), vec![]));
    n1.persisted();
    assert_eq!(n1.ordered(), ["Restore snapshot=6@2 of 20 bytes"]);
}

/// L08. "A follower restarts with a shorter durable log than it had acknowledged": it is told, and gives up.
///
/// Fails when: `append_entries` does not look at `acknowledged`.
#[test]
fn a_disk_that_lost_what_it_acknowledged_is_condemned() {
    let mut n1 = Fixture::recovered(3, 1, None, &[1, 1]);
    let append = |acknowledged| AppendEntriesRequest {
        term: 1,
        leader_id: 2,
        prev_log_index: 1,
        prev_log_term: 1,
        entries: Vec::new(),
        leader_commit: 0,
        read_round: 0,
        acknowledged,
    };
    n1.request(2, Request::AppendEntries(append(2)));
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 match=1"]);
    n1.request(2, Request::AppendEntries(append(3)));
    assert_eq!(n1.replies(), ["AppendEntriesReply term=1 lost last=2"]);
    assert!(n1.effects.contains(&Effect::Condemn { acknowledged: 3, last: 2 }));
    n1.request_vote(3, 9, (9, 9));
    assert_eq!(n1.replies(), [""; 0], "it votes no more");
}

/// L08. A peer whose disk lost entries counts for nothing more, and gets none. It is only told again, since it may have
/// fallen before its disk was marked.
///
/// Fails when: `replicate` does not look whether it lost data.
#[test]
fn a_peer_that_lost_its_disk_is_in_no_quorum() {
    let mut n1 = Fixture::settled_leader();
    n1.matched(2, 1);
    let lost = AppendEntriesReply { term: 1, outcome: AppendOutcome::Lost { last_index: 0 }, read_round: 0 };
    n1.reply_from(2, Reply::AppendEntries(lost));
    assert!(n1.effects.contains(&Effect::PeerLostData { peer: 2 }));
    n1.propose(7).persisted();
    n1.matched(2, 2);
    n1.now += ELECTION_TIMEOUT_MAX / 6;
    n1.ring();
    assert!(n1.sent().iter().all(|sent| !sent.starts_with("n2") || sent.contains(" [] ")), "{:?}", n1.sent());
}

/// L10. Whoever waits here for an entry that a snapshot brought is not told of success: its outcome is not known here.
///
/// Fails when: `install` keeps who waits for what the snapshot replaced.
#[test]
fn who_waits_for_an_entry_that_a_snapshot_brought_is_told_unknown() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(9).persisted();
    n1.install(2, &snapshot((2, 1), 8), 0, 8).chunk_stored(8, true);
    assert_eq!(n1.told(), ["Refuse call=9 Unknown"]);
}
