//! Reads that are not asked of the leader.

use ractor_raft::{error::ReadError, node::Consistency, testing::Ledger};

use super::support::cluster;

/// R05. A follower that does not know yet what is committed asks its leader, and waits until it has applied it; one that
/// cannot ask does not answer.
///
/// Fails when: `Raft::read` answers a follower's read with the commit index that it knows itself.
#[tokio::test(start_paused = true)]
async fn a_follower_answers_a_linearizable_read_once_it_has_applied_the_read_index() {
    let cluster = cluster(3, 5).await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    let mut behind = 0;
    for lines in 1..=20 {
        let written = cluster.write(&format!("line {lines}")).await;
        behind += u32::from(cluster.status(follower).expect("it runs").applied_index < written);
        let (seen, index) =
            cluster.read_on(follower, Consistency::Linearizable, Ledger::len).await.expect("its leader answers");
        assert!(
            seen == lines && index >= written,
            "it saw {seen} lines as of {index}, after line {lines} at {written}"
        );
    }
    assert!(behind > 0, "the follower always knew already: nothing was shown");

    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != follower).collect();
    cluster.network().partition(&[follower], &others);
    cluster.write("unseen").await;
    let cut_off = cluster.read_on(follower, Consistency::Linearizable, Ledger::len).await;
    assert!(matches!(cut_off, Err(ReadError::NoLeader { .. } | ReadError::TimedOut { .. })), "{cut_off:?}");
    cluster.check();
}
