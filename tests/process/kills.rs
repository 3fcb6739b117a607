//! Processes that end without a word, under load (SAFETY: E01, E03, D02, C04 at the layer of processes).

use crate::{
    cluster::Cluster,
    load::{Load, assert_kept},
    witness::Witness,
};

/// So many clients write while nodes are killed.
const CLIENTS: usize = 8;

/// How often the leader is killed; `KILLS` asks for more.
fn kills() -> usize {
    std::env::var("KILLS").map_or(8, |kills| kills.parse().expect("KILLS is a number"))
}

/// Fails when: a follower answers before its write is on disk (`Persisted`), or the leader counts itself before.
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

/// Fails when: a term, a vote or an entry counts before it is on disk; then it is gone from all disks at once.
#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_lose_nothing_acknowledged_and_forget_no_term() {
    let mut cluster = Cluster::start(&[]).await;
    let witness = Witness::of(&cluster.addresses);
    let load = Load::start(&cluster.addresses, CLIENTS);
    for _ in 0..3 {
        cluster.leader().await;
        load.goes_on(100).await;
        cluster.servers.values_mut().for_each(|server| server.start_kill());
        for id in 1..=3 {
            cluster.servers.get_mut(&id).expect("it ran").ended().await;
        }
        let term = witness.newest_term();
        (1..=3).for_each(|id| cluster.spawn(id, cluster.serve(id)));
        cluster.are_ready().await;
        let leader = cluster.leader().await;
        assert!(leader.term > term, "term {term} had a leader, and term {} has one again", leader.term);
    }
    load.goes_on(100).await;
    let writes = load.stop().await;
    assert_kept(&writes, &cluster.agree().await);
    witness.finds_nothing_wrong();
}
