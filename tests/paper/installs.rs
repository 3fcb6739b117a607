//! What an installed snapshot does to what was there before, and what is said about it: Figure 13, §7.

use ractor_raft::raft::*;

use crate::{
    fixture::{ELECTION_TIMEOUT_MAX, Fixture, snapshot},
    snapshots::recovered,
};

/// What a snapshot has is not taken again, also where entries overtook one that came from the leader; and what is said of it is what
/// is on disk here, not what is committed elsewhere.
///
/// Fails when: `order_snapshot` does not look how far the finished one reaches; `chunk_stored` names the commit index.
#[test]
fn what_a_snapshot_has_is_not_taken_again() {
    let mut n1 = Fixture::start_with(recovered(1, (0, 0), &[]), |settings| settings.snapshot_threshold = 5);
    n1.append(1, (0, 0), &[1, 1, 1, 1], 4).persisted();
    n1.install(1, &snapshot((5, 1), 8), 0, 8);
    n1.append(1, (4, 1), &[1], 5);
    n1.step(Input::ChunkStored { call: 2, stored: 8, complete: true }).persisted();
    assert_eq!((n1.raft.snapshot().index, n1.told(), n1.ordered()), (5, vec!["Apply [5@1 noop]".to_owned()], vec![]));
    n1.persisted();
    assert_eq!(n1.replies(), ["InstallSnapshotReply term=1 match=4"]);
}

/// An install that is not needed is answered with what is on this disk (N06): what is committed may still be on its way there.
///
/// Fails when: `install_snapshot` names the commit index.
#[test]
fn an_install_is_answered_with_what_is_durable() {
    let mut n1 = Fixture::of(3);
    n1.append(1, (0, 0), &[1, 1], 0).persisted();
    n1.append(1, (2, 1), &[1], 3);
    n1.install(1, &snapshot((1, 1), 8), 0, 8);
    assert_eq!(n1.replies(), ["InstallSnapshotReply term=1 match=2"]);
}

/// L10. Whoever waits for an entry of a log that was discarded (Figure 13, 7) is told that its outcome is unknown, wherever the
/// entry stood.
///
/// Fails when: `install` forgets them.
#[test]
fn who_waits_for_an_entry_of_a_discarded_log_is_told_unknown() {
    let mut n1 = Fixture::settled_leader();
    n1.propose(5).propose(6);
    n1.install(2, &snapshot((2, 2), 8), 0, 8).chunk_stored(8, true);
    assert_eq!(n1.told(), ["Refuse call=5 Unknown", "Refuse call=6 Unknown"]);
}

/// With the log its configurations go (Figure 13, 7 and 8): in force is that of the snapshot.
///
/// Fails when: `install` keeps a configuration that stood behind the snapshot's last entry.
#[test]
fn a_configuration_of_a_discarded_log_is_in_force_no_more() {
    let mut log = crate::fixture::entries(1, &[1, 1]);
    let two = Membership::of_voters([(1, ""), (2, "")]);
    log.push(Entry { index: 3, term: 1, payload: Payload::Membership(two.into()) });
    let mut n1 = Fixture::start(Recovered { entries: log, ..recovered(1, (0, 0), &[]) });
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2");
    n1.install(2, &snapshot((2, 2), 8), 0, 8).chunk_stored(8, true);
    assert_eq!(n1.raft.membership().to_string(), "voters=n1,n2,n3");
}

/// A disk that was slow to store the last chunk is no reason for an election: the alarm counts from then on (§5.2).
///
/// Fails when: `chunk_stored` leaves the alarm dated from when the chunk came.
#[test]
fn a_slow_disk_under_a_snapshot_starts_no_election() {
    let mut n1 = Fixture::of(3);
    n1.install(1, &snapshot((5, 1), 8), 0, 8);
    n1.ring();
    n1.now += ELECTION_TIMEOUT_MAX;
    n1.chunk_stored(8, true);
    n1.ring();
    assert_eq!(n1.raft.role(), Role::Follower);
    n1.alarm();
    assert_eq!(n1.raft.role(), Role::PreCandidate);
}
