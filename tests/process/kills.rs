//! Processes that end without a word, under load (SAFETY: E01, E03, D02, C04 at the layer of processes).

use crate::{
    cluster::Cluster,
    load::{Load, assert_kept},
    shim::Fault,
    witness::Witness,
};

/// So many clients write while nodes are killed.
const CLIENTS: usize = 8;

/// How often the leader is killed; `KILLS` asks for more.
fn kills() -> usize {
    std::env::var("KILLS").map_or(8, |kills| kills.parse().expect("KILLS is a number"))
}

/// Fails when: the leader commits without a majority, or a start does not bring back what was on disk.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_however_often_the_leader_is_killed() {
    let mut cluster = Cluster::start(&[]).await;
    let witness = Witness::of(&cluster.addresses);
    let load = Load::start(&cluster.addresses, CLIENTS);
    let kills = kills();
    for kill in 0..kills {
        let leader = cluster.leader().await;
        load.goes_on(30).await;
        cluster.kill(leader.id).await;
        // Sometimes it is back before the others have noticed, sometimes they go on without it.
        if kill % 2 == 0 {
            load.goes_on(30).await;
        }
        cluster.restart(leader.id).await;
    }
    load.goes_on(30).await;
    let writes = load.stop().await;
    assert_kept(&writes, &cluster.agree().await);
    let terms = witness.finds_nothing_wrong();
    assert!(terms > kills / 2, "{kills} kills, and leaders in {terms} terms only");
}

/// Any two nodes have everything between them. Two disks are slow and these two nodes start first, so that a promise made
/// before the write is broken.
///
/// Fails when: a follower answers before its write is on disk; or a term is not written.
#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_lose_nothing_acknowledged_and_forget_no_term() {
    let mut cluster = Cluster::start_with_shim().await;
    let witness = Witness::of(&cluster.addresses);
    let load = Load::start(&cluster.addresses, CLIENTS);
    for round in 0..4 {
        let leader = cluster.leader().await;
        let followers = [leader.id % 3 + 1, (leader.id + 1) % 3 + 1];
        let (slow, fast) =
            if round % 2 == 0 { (followers, leader.id) } else { ([leader.id, followers[0]], followers[1]) };
        slow.iter().for_each(|id| cluster.disks().set(Fault::SyncIsSlow, *id));
        load.goes_on(100).await;
        cluster.servers.values_mut().for_each(|server| server.start_kill());
        for id in 1..=3 {
            cluster.servers.remove(&id).expect("it ran").ended().await;
        }
        slow.iter().for_each(|id| cluster.disks().repair(Fault::SyncIsSlow, *id));
        let term = witness.newest_term();
        slow.iter().for_each(|id| cluster.spawn(*id, cluster.serve(*id)));
        cluster.are_ready().await;
        let leader = cluster.leader().await;
        assert!(leader.term > term, "term {term} had a leader, and term {} has one again", leader.term);
        cluster.restart(fast).await;
    }
    load.goes_on(100).await;
    let writes = load.stop().await;
    assert_kept(&writes, &cluster.agree().await);
    witness.finds_nothing_wrong();
}
