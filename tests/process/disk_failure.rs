//! A disk whose fsync fails (SAFETY: D01), for real: a library between the process and the system says so.
#![cfg(target_os = "linux")]

use tokio::task::JoinSet;

use crate::{client, cluster::Cluster, shim::Fault, witness::Witness};

/// Fails when: the store goes on after a failed fsync, or `Persisted` is said all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_fsync_fails_acknowledges_nothing_more_and_stops_with_the_cause() {
    let mut cluster = Cluster::start_with_shim().await;
    let leader = cluster.leader().await;
    let address = &cluster.addresses[&leader.id];
    let witness = Witness::of(&cluster.addresses);
    client::put(address, "before", "the failure").await.expect("the disk works");
    cluster.disks().set(Fault::SyncFails, leader.id);
    let mut writers = JoinSet::new();
    for number in 0..8 {
        let address = address.clone();
        writers.spawn(async move { client::put(&address, format!("after {number}"), "the failure").await });
    }
    while let Some(answer) = writers.join_next().await {
        let answer = answer.expect("no writer panics");
        assert!(answer.is_err(), "acknowledged at {answer:?} by a node that cannot write");
    }
    stops_with_the_cause(&mut cluster, leader.id).await;
    let next = cluster.leader().await;
    assert!(next.term > leader.term);
    client::put(&next.address, "meanwhile", "the others go on").await.expect("two are a majority");

    cluster.disks().repair(Fault::SyncFails, leader.id);
    cluster.restart(leader.id).await;
    let state = cluster.agree().await;
    assert!(state.contains_key(&b"before"[..]) && state.contains_key(&b"meanwhile"[..]));
    witness.finds_nothing_wrong();
}

/// Fails when: the node is not told of its disk's failure and lives on, or its end makes the others elect.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_fsync_fails_stops_and_the_others_go_on_in_the_same_term() {
    let mut cluster = Cluster::start_with_shim().await;
    let leader = cluster.leader().await;
    let follower = leader.id % 3 + 1;
    cluster.disks().set(Fault::SyncFails, follower);
    let written = client::put(&leader.address, "key", "value").await.expect("two are a majority");
    stops_with_the_cause(&mut cluster, follower).await;
    let now = cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term));
    cluster.disks().repair(Fault::SyncFails, follower);
    cluster.restart(follower).await;
    assert_eq!(cluster.agree().await[&b"key"[..]].1, written);
}

async fn stops_with_the_cause(cluster: &mut Cluster, id: u64) {
    let mut server = cluster.servers.remove(&id).expect("it ran");
    // SQLite's code for a failed fsync.
    server.ends_with(11, &["error[R016]", "raft.db", "1034"]).await;
}
