//! Leadership that is handed over (thesis §3.10).

use ractor_raft::{error::ChangeError, raft::Role};
use tokio::time::Instant;

use super::{
    load::Load,
    support::{ELECTION_TIMEOUT, cluster},
};

/// To a named one, from any node, and to whoever is best; writers notice nothing but a pause.
///
/// Fails when: `Transfer::end` refuses what was held back as `Unknown`, or the core answers before TimeoutNow was sent.
#[tokio::test(start_paused = true)]
async fn leadership_moves_under_load_and_no_write_is_lost_or_refused() {
    let cluster = cluster(3, 620).await;
    cluster.leader().await;
    let load = Load::start(&cluster, 4);
    for round in 0..12_u64 {
        load.goes_on(&cluster, 20).await;
        let leader = cluster.leader().await;
        let to = (round % 3 != 2).then_some(leader % 3 + 1);
        let asked = cluster.node(round % 3 + 1).expect("it runs");
        let began = Instant::now();
        asked.transfer_leadership(to).await.expect("all are there");
        let next =
            cluster.until("another to lead", |cluster| cluster.known_leader().filter(|next| *next != leader)).await;
        assert!(to.is_none_or(|to| to == next), "node {next} leads instead of {to:?}");
        assert!(began.elapsed() < ELECTION_TIMEOUT, "it took {:?}", began.elapsed());
    }
    let (acknowledged, refused, slowest) = load.stop().await;
    assert!(refused.is_empty(), "{refused:?}");
    assert!(slowest < ELECTION_TIMEOUT, "a write took {slowest:?}");
    cluster.agree_on(&acknowledged).await;
}

/// Fails when: `check_transfer` never gives a transfer up: writes are then held back for ever.
#[tokio::test(start_paused = true)]
async fn a_transfer_to_a_dead_node_is_given_up_and_the_leader_goes_on() {
    let cluster = cluster(3, 621).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let dead = leader % 3 + 1;
    cluster.crash(dead).await;
    let node = cluster.node(leader).expect("it runs");
    let term = node.status().term;
    let began = Instant::now();
    let transfer = tokio::spawn({
        let node = node.clone();
        async move { node.transfer_leadership(dead).await }
    });
    let held_back = cluster.writing(leader, "meanwhile");
    assert_eq!(transfer.await.expect("no panic"), Err(ChangeError::TransferFailed { to: dead }));
    assert!(began.elapsed() < 2 * ELECTION_TIMEOUT, "{:?}", began.elapsed());
    held_back.await.expect("no panic").expect("it is written when the transfer is given up");
    assert_eq!((node.status().role, node.status().term), (Role::Leader, term));
    let nobody = node.transfer_leadership(9).await;
    assert!(nobody.is_err(), "there is no such server");
    cluster.check();
}

/// Fails when: `hand_over` is not called before the drain: the others then wait for an election timeout.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_shut_down_hands_over_first() {
    let cluster = cluster(3, 622).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).expect("it runs").term;
    let began = Instant::now();
    cluster.stop(leader).await.expect("it stops in order");
    let next = cluster.leader().await;
    assert!(began.elapsed() < ELECTION_TIMEOUT / 3, "it took {:?}", began.elapsed());
    assert_eq!(cluster.status(next).expect("it runs").term, term + 1, "one election, and nobody had to wait for it");

    // One that is alone has nobody to hand over to, and does not wait for one.
    let alone = super::support::cluster(1, 623).await;
    alone.leader().await;
    let began = Instant::now();
    alone.stop(1).await.expect("it stops in order");
    assert!(began.elapsed() < ELECTION_TIMEOUT / 3, "it took {:?}", began.elapsed());
}
