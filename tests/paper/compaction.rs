//! Taking snapshots, compaction behind them, and sending them: §7, thesis §5.

use ractor_raft::raft::*;

use crate::{
    fixture::{ELECTION_TIMEOUT_MAX, Fixture, snapshot},
    snapshots::{compacted, recovered},
};

/// A leader whose log begins behind what a follower lacks "must send a snapshot" (§7), and then what stands behind it.
///
/// Fails when: a conflict at the log's base is probed again.
#[test]
fn a_follower_that_lacks_what_was_compacted_is_sent_the_snapshot() {
    let mut n1 = compacted(1, (4, 1), &[]);
    n1.campaign();
    n1.win();
    n1.persisted().conflict(2, 2, 0);
    assert_eq!(n1.ordered(), [format!("SendSnapshot to=n2 session={} term=2 snapshot=4@1 of 20 bytes", n1.session(2))]);
    n1.conflict(2, 2, 0);
    assert_eq!(n1.ordered(), [""; 0], "it is on its way");
    let outcome = InstallOutcome::Installed { match_index: 4 };
    n1.reply_from(2, Reply::InstallSnapshot(InstallSnapshotReply { term: 2, outcome }));
    assert_eq!(n1.sent(), ["n2 AppendEntries term=2 prev=4@1 [5@2 noop] commit=4"]);
}

/// N06 (RedisLabs/raft#58). A late conflict of a follower that has what the log stands on sends it no snapshot.
///
/// Fails when: `append_entries_reply` does not look at what has matched.
#[test]
fn a_follower_that_has_the_base_is_sent_no_snapshot() {
    let mut n1 = compacted(1, (4, 1), &[]);
    n1.campaign();
    n1.win();
    n1.persisted().matched(2, 4);
    n1.step(Input::Undelivered { peer: 2 });
    n1.now += ELECTION_TIMEOUT_MAX / 6;
    n1.ring();
    n1.conflict(2, 3, 0);
    assert_eq!(n1.ordered(), [""; 0]);
}

/// N04. "The snapshot also includes the latest configuration in the log as of last included index" (§7).
///
/// Fails when: `order_snapshot_now` takes the configuration in force.
#[test]
fn a_snapshot_has_the_membership_as_of_its_index() {
    let mut n1 = Fixture::settled_leader();
    n1.change(5, Change::Remove { id: 3 });
    n1.step(Input::TakeSnapshot { call: 6 });
    assert_eq!(n1.ordered(), ["TakeSnapshot last_included=1@1 voters=n1,n2,n3"]);
}

/// N04. A server that joined, and has not heard who belongs to the cluster, takes no snapshot: it would say that nobody does.
///
/// Fails when: `order_snapshot` does not look at who belongs to the cluster.
#[test]
fn a_server_that_knows_nobody_takes_no_snapshot() {
    let joined = Recovered::default();
    let mut n1 = Fixture::start_with(joined, |settings| settings.snapshot_threshold = 1);
    n1.append(1, (0, 0), &[1], 1).persisted();
    assert_eq!((n1.told(), n1.ordered()), (vec!["Apply [1@1 noop]".to_owned()], vec![]));
    n1.step(Input::TakeSnapshot { call: 9 });
    assert_eq!(n1.told(), ["Refuse call=9 SnapshotFailed"]);
}

/// Whoever waits for a snapshot is answered when one that reaches so far is there, also one from elsewhere.
///
/// Fails when: `chunk_stored` forgets who waits.
#[test]
fn an_installed_snapshot_answers_who_waits_for_one() {
    let mut n1 = Fixture::recovered(3, 1, None, &[]);
    n1.append(1, (0, 0), &[1], 1).persisted();
    n1.step(Input::TakeSnapshot { call: 8 });
    n1.append(1, (1, 1), &[1], 2).persisted();
    n1.step(Input::TakeSnapshot { call: 9 });
    n1.install(1, &snapshot((5, 1), 8), 0, 8).chunk_stored(8, true);
    assert_eq!(n1.told(), ["AnswerSnapshot call=8 index=5", "AnswerSnapshot call=9 index=5"]);
    n1.persisted();
    n1.step(Input::SnapshotWritten { snapshot: snapshot((1, 1), 8) });
    assert_eq!(n1.raft.snapshot(), LogPosition { index: 5, term: 1 }, "the late one is older");
}

/// A snapshot that was ordered before another was installed, and is reported late, is not the one that is under way.
///
/// Fails when: `snapshot_written` takes any for the one that was ordered.
#[test]
fn a_late_report_is_not_of_the_snapshot_under_way() {
    let follower = recovered(1, (0, 0), &[]);
    let mut n1 = Fixture::start_with(follower, |settings| settings.snapshot_threshold = 1);
    n1.append(1, (0, 0), &[1], 1).persisted();
    assert_eq!(n1.ordered(), ["TakeSnapshot last_included=1@1 voters=n1,n2,n3"]);
    n1.install(1, &snapshot((5, 1), 8), 0, 8).chunk_stored(8, true).persisted();
    n1.append(1, (5, 1), &[1], 6).persisted();
    n1.step(Input::Restored { index: 5 });
    assert_eq!(n1.ordered(), ["TakeSnapshot last_included=6@1 voters=n1,n2,n3"]);
    n1.step(Input::SnapshotWritten { snapshot: snapshot((1, 1), 8) });
    n1.append(1, (6, 1), &[1], 7).persisted();
    assert_eq!(n1.ordered(), [""; 0], "one is under way");
    n1.step(Input::SnapshotWritten { snapshot: snapshot((6, 1), 8) });
    assert_eq!(n1.ordered(), ["TakeSnapshot last_included=7@1 voters=n1,n2,n3"]);
}

/// Compaction goes in bounded steps, each with a write of its own, and not before the state machine is restored.
///
/// Fails when: `compact` takes it all at once, or does not wait for the disk.
#[test]
fn a_long_log_is_compacted_in_steps() {
    let snapshot = Some(snapshot((10_000, 1), 20));
    let mut n1 = Fixture::start(Recovered { snapshot, ..recovered(1, (0, 0), &[1; 10_001]) });
    assert_eq!(n1.raft.base().index, 0);
    n1.step(Input::Restored { index: 10_000 });
    for (step, base) in [4096, 8192, 10_000, 10_000].into_iter().enumerate() {
        n1.append(1, (10_001, 1), &[], 10_001);
        assert_eq!(n1.raft.base().index, base, "step {step}");
        n1.append(1, (10_001, 1), &[], 10_001);
        assert_eq!(n1.raft.base().index, base, "the write of step {step} is in flight");
        n1.persisted();
    }
}

/// What a peer is being sent has to be followed by what comes behind it: the log is not compacted beyond it meanwhile, but is when
/// the peer has it, or has not been heard for long.
///
/// Fails when: `compact` does not look at what is being sent; `matched` does not note that it has arrived.
#[test]
fn compaction_waits_for_a_snapshot_on_its_way() {
    let held = || {
        let mut n1 = compacted(1, (4, 1), &[]);
        n1.campaign();
        n1.win();
        n1.persisted().conflict(2, 2, 0);
        n1.matched(3, 4).matched(3, 5);
        n1.step(Input::SnapshotWritten { snapshot: snapshot((5, 2), 20) });
        assert_eq!((n1.raft.snapshot().index, n1.raft.base().index), (5, 4));
        n1
    };
    let mut n1 = held();
    let outcome = InstallOutcome::Installed { match_index: 4 };
    n1.reply_from(2, Reply::InstallSnapshot(InstallSnapshotReply { term: 2, outcome }));
    assert_eq!(n1.raft.base().index, 5);
    let mut n1 = held();
    n1.now += 11 * ELECTION_TIMEOUT_MAX;
    n1.step(Input::Applied { index: 5 });
    assert_eq!(n1.raft.base().index, 5);
}
