//! When a snapshot is due, and what becomes of it where two of them meet: §7, thesis §5.1.3.

use bytes::Bytes;
use ractor_raft::raft::*;

use crate::{
    fixture::{ELECTION_TIMEOUT_MAX, Fixture, HEARTBEAT, snapshot},
    snapshots::recovered,
};

/// How many commands of so many bytes a fresh leader has applied when it orders its first snapshot, or its first behind `last`.
fn due_after(last: Option<SnapshotMetadata>, bytes: usize, adjust: impl FnOnce(&mut Settings)) -> u64 {
    let base = last.as_ref().map_or(LogPosition::default(), |last| last.last_included);
    let membership = Membership::of_voters([(1, "")]);
    let hard_state = HardState { current_term: base.term, voted_for: None };
    let server = Recovered { hard_state, base, membership, snapshot: last, ..Recovered::default() };
    let mut n1 = Fixture::start_with(server, adjust);
    n1.step(Input::Restored { index: base.index });
    // Alone it leads at once; its no-op is no command.
    for _ in 0..3 {
        n1.persisted();
    }
    assert_eq!((n1.raft.role(), n1.raft.commit_index()), (Role::Leader, base.index + 1));
    (1..100).find(|call| orders(&mut n1, *call, bytes)).expect("one is due in the end")
}

/// Whether this command, once applied, makes a snapshot due.
fn orders(n1: &mut Fixture, call: CallId, bytes: usize) -> bool {
    n1.step(Input::Propose { call, payload: Payload::Command(Bytes::from(vec![7; bytes])) }).persisted();
    n1.ordered().iter().any(|order| order.starts_with("TakeSnapshot"))
}

/// A leader of three with the committed log 1 to 5, which is sending n2 a snapshot of the first four entries, and answers from n3.
fn sending(adjust: impl FnOnce(&mut Settings)) -> Fixture {
    let mut n1 = Fixture::start_with(recovered(1, (4, 1), &[]), adjust);
    n1.step(Input::Restored { index: 4 });
    n1.campaign();
    n1.win();
    n1.persisted().conflict(2, 2, 0);
    assert_eq!(n1.ordered().len(), 1, "SendSnapshot");
    n1.matched(3, 4).matched(3, 5);
    n1.step(Input::Applied { index: 5 });
    n1
}

/// The command of `bytes` bytes that is the first to make a snapshot due beside the one that is sent; entry 5 is a no-op.
fn due_while_sending(bytes: usize, adjust: impl FnOnce(&mut Settings)) -> u64 {
    let mut n1 = sending(adjust);
    let mut due = |call: CallId| {
        let own = orders(&mut n1, call, bytes);
        n1.matched(3, 5 + call);
        own || n1.ordered().iter().any(|order| order.starts_with("TakeSnapshot"))
    };
    (1..100).find(|call| due(*call)).expect("one is due in the end")
}

/// "One simple strategy is to take a snapshot when the log reaches a fixed size in bytes" (§7); also when it has so many entries.
///
/// Fails when: `note_applied` forgets the bytes, or `snapshot_is_due` looks at one of the two only.
#[test]
fn a_snapshot_is_due_after_so_many_entries_or_bytes() {
    assert_eq!(due_after(None, 10, |settings| settings.snapshot_threshold = 8), 7, "the no-op is an entry");
    assert_eq!(due_after(None, 10, |settings| settings.snapshot_threshold_bytes = 80), 8);
    assert_eq!(due_after(None, 10, |settings| settings.snapshot_threshold_bytes = 81), 9);
}

/// Thesis §5.1.3: the log is compared with the last snapshot's size, so that no more is written for snapshots than for the log. Here
/// it has to be half as large, counted with what an entry takes up besides its payload: 64 bytes.
///
/// Fails when: `snapshot_is_due` does not compare the sizes, or counts payloads or entries alone.
#[test]
fn no_snapshot_is_due_before_the_log_is_half_as_large_as_the_last() {
    let behind =
        |size, bytes| due_after(Some(snapshot((4, 1), size)), bytes, |settings| settings.snapshot_threshold = 1);
    assert_eq!(behind(1280, 0), 9, "ten entries of 64 bytes");
    assert_eq!(behind(1281, 0), 10);
    assert_eq!(behind(1280, 80), 4, "five entries, of which four have 80 bytes");
}

/// While a snapshot is sent, none takes its place, unless the log grows fourfold.
///
/// Fails when: `snapshot_is_due` multiplies where it divides, or does not ask what is sent.
#[test]
fn a_snapshot_beside_one_that_is_sent_is_due_after_four_times_as_much() {
    assert_eq!(due_while_sending(0, |settings| settings.snapshot_threshold = 2), 7, "and the no-op");
    let bytes = |settings: &mut Settings| settings.snapshot_threshold_bytes = 20;
    assert_eq!((due_while_sending(10, bytes), due_while_sending(40, bytes)), (8, 2));
}

/// N01. A snapshot that comes to its end when its last entry has just been committed is not needed any more: the state machine
/// stays where it is.
///
/// Fails when: `chunk_stored` installs it.
#[test]
fn a_snapshot_that_entries_caught_up_with_is_not_installed() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1, 1], 1).persisted();
    n1.install(1, &snapshot((2, 1), 8), 0, 8);
    let call = 2;
    n1.append(1, (2, 1), &[], 2);
    assert_eq!(n1.raft.commit_index(), 2);
    n1.step(Input::ChunkStored { call, stored: 8, complete: true });
    n1.persisted();
    assert_eq!((n1.ordered(), n1.raft.snapshot().index), (vec![], 2), "nothing is restored");
}

/// "8. Reset state machine using snapshot contents (and load snapshot's cluster configuration)." (Figure 13) Whoever looks on is told
/// of that configuration.
///
/// Fails when: `install` says nothing of the membership, or says it where it is the same.
#[test]
fn the_configuration_of_a_snapshot_is_told() {
    let told = |ids: &[NodeId]| {
        let membership = Membership::of_voters(ids.iter().map(|id| (*id, ""))).into();
        let mut n1 = Fixture::recovered(3, 1, None, &[]);
        n1.install(1, &SnapshotMetadata { membership, ..snapshot((5, 1), 8) }, 0, 8).chunk_stored(8, true);
        n1.effects.iter().filter(|effect| matches!(effect, Effect::MembershipChanged(_))).count()
    };
    assert_eq!((told(&[1, 2]), told(&[1, 2, 3])), (1, 0));
}

/// L06. What a peer says of a snapshot over an earlier connection, or in another term, counts for nothing.
///
/// Fails when: `install_snapshot_reply` compares neither, or one of the two only.
#[test]
fn a_late_word_about_a_snapshot_is_dropped() {
    let mut n1 = sending(|_| {});
    let installed = |term| {
        let outcome = InstallOutcome::Installed { match_index: 4 };
        Reply::InstallSnapshot(InstallSnapshotReply { term, outcome })
    };
    let session = n1.session(2);
    n1.step(Input::Response { from: 2, session: session - 1, reply: installed(2) });
    n1.step(Input::Response { from: 2, session, reply: installed(1) });
    assert_eq!(n1.sent(), [""; 0]);
    n1.step(Input::Response { from: 2, session, reply: installed(2) });
    assert_eq!(n1.sent(), ["n2 AppendEntries term=2 prev=4@1 [5@2 noop] commit=5"]);
}

/// N05. A snapshot that ended before its end is sent again, once the next heartbeat has found that it is still needed.
///
/// Fails when: `install_snapshot_reply` goes on waiting for it.
#[test]
fn a_snapshot_that_stopped_is_sent_again() {
    let mut n1 = sending(|_| {});
    let outcome = InstallOutcome::Stored { offset: 8 };
    n1.reply_from(2, Reply::InstallSnapshot(InstallSnapshotReply { term: 2, outcome }));
    assert_eq!(n1.sent(), [""; 0], "not at once");
    n1.now += HEARTBEAT;
    n1.ring();
    assert!(n1.sent().contains(&"n2 AppendEntries term=2 prev=4@1 [] commit=5".to_owned()), "{:?}", n1.sent());
    n1.conflict(2, 2, 0);
    assert_eq!(n1.ordered().len(), 1, "SendSnapshot");
}

/// A peer that is sent a snapshot is asked meanwhile, by heartbeats, about the snapshot's last entry, not about what is kept before it.
///
/// Fails when: `needs_snapshot` begins anywhere else.
#[test]
fn heartbeats_beside_a_snapshot_are_about_its_last_entry() {
    let last_included = (6, 1);
    let server = Recovered { snapshot: Some(snapshot(last_included, 20)), ..recovered(1, (4, 1), &[1, 1, 1]) };
    let mut n1 = Fixture::start_with(server, |settings| settings.snapshot_trailing = 2);
    n1.step(Input::Restored { index: 6 });
    n1.campaign();
    n1.win();
    n1.persisted().conflict(2, 2, 0).conflict(2, 2, 0);
    assert_eq!(n1.ordered().len(), 1, "SendSnapshot");
    n1.matched(3, 7);
    n1.now += HEARTBEAT;
    n1.ring();
    assert!(n1.sent().contains(&"n2 AppendEntries term=2 prev=6@1 [] commit=6".to_owned()), "{:?}", n1.sent());
}

/// What was heard of a peer not longer ago than ten election timeouts still holds the compaction, to the moment.
///
/// Fails when: `compaction_held_at` stops earlier, or never.
#[test]
fn a_snapshot_holds_the_compaction_for_ten_election_timeouts() {
    let base_after = |silence| {
        let mut n1 = sending(|_| {});
        n1.step(Input::SnapshotWritten { snapshot: snapshot((5, 2), 20) });
        n1.now += silence;
        n1.step(Input::Applied { index: 5 });
        n1.raft.base().index
    };
    let patience = 10 * ELECTION_TIMEOUT_MAX;
    assert_eq!((base_after(patience), base_after(patience + HEARTBEAT / 50)), (4, 5));
}

/// Of two snapshots that end with the same entry the first stays: it is what the disk has, and what peers are sent.
///
/// Fails when: `keep_newer` takes one that reaches no farther.
#[test]
fn of_two_snapshots_of_one_entry_the_first_stays() {
    let mut n1 = Fixture::start(recovered(1, (4, 1), &[]));
    n1.step(Input::Restored { index: 4 });
    n1.step(Input::SnapshotWritten { snapshot: snapshot((4, 1), 99) });
    n1.campaign();
    n1.win();
    n1.persisted().conflict(2, 2, 0);
    assert_eq!(n1.ordered(), [format!("SendSnapshot to=n2 session={} term=2 snapshot=4@1 of 20 bytes", n1.session(2))]);
}

/// Bytes are counted from the last snapshot on.
///
/// Fails when: `order_snapshot_now` goes on counting.
#[test]
fn the_next_snapshot_is_due_after_as_many_bytes_again() {
    let server = Recovered { membership: Membership::of_voters([(1, "")]), ..Recovered::default() };
    let mut n1 = Fixture::start_with(server, |settings| settings.snapshot_threshold_bytes = 80);
    n1.persisted().persisted();
    let due: Vec<CallId> = (1..=16)
        .filter(|call| {
            let orders = orders(&mut n1, *call, 10);
            if orders {
                n1.step(Input::SnapshotWritten { snapshot: snapshot((call + 1, 1), 8) }).persisted();
            }
            orders
        })
        .collect();
    assert_eq!(due, [8, 16]);
}
