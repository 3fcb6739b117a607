//! Servers that are asked to stop, and started again.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use crate::{
    client,
    cluster::Cluster,
    load::{Load, assert_kept},
    witness::Witness,
};

/// Fails when: the server closes before the calls under way are answered, or the process ends as if it had failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_asked_to_stop_answers_its_calls_and_exits_with_0() {
    let mut cluster = Cluster::start(&[]).await;
    let witness = Witness::of(&cluster.addresses);
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let address = leader.address.clone();
        let calls: JoinSet<_> = (0..200)
            .map(|call| {
                let address = address.clone();
                async move { (call, client::put(&address, format!("{}/{call}", leader.term), "value").await) }
            })
            .collect();
        cluster.servers[&leader.id].terminate().await;
        let mut server = cluster.servers.remove(&leader.id).expect("it runs");
        server.ends_with(0, &["SIGTERM", "stopped"]).await;
        let mut acknowledged = BTreeMap::new();
        for (call, answer) in calls.join_all().await {
            match answer {
                Ok(revision) => drop(acknowledged.insert(format!("{}/{call}", leader.term).into_bytes(), revision)),
                // It came too late, and is told so, or finds the port closed.
                Err(status) => {
                    let error = ractor_raft::rpc::error::propose_error(&status, leader.id);
                    assert!(!error.may_have_been_applied(), "call {call} hears nothing certain: {status:?}");
                }
            }
        }
        println!("{} calls are acknowledged", acknowledged.len());
        cluster.restart(leader.id).await;
        let state = cluster.agree().await;
        for (key, revision) in acknowledged {
            assert_eq!(state.get(&key).map(|(_, revision)| *revision), Some(revision));
        }
    }
    witness.finds_nothing_wrong();
}

/// Fails when: what identifies the cluster depends on the order of its members, or a start writes the first membership
/// over what is there.
#[tokio::test(flavor = "multi_thread")]
async fn bootstrapping_is_idempotent_in_any_order_of_the_members() {
    let mut cluster = Cluster::start(&[]).await;
    let before = cluster.leader().await;
    let load = Load::start(&cluster.addresses, 4);
    load.goes_on(50).await;
    let writes = load.stop().await;
    for server in cluster.servers.values_mut() {
        server.terminate().await;
        server.ends_with(0, &[]).await;
    }
    for (id, order) in [(1, [3, 2, 1]), (2, [2, 3, 1]), (3, [1, 3, 2])] {
        let members = order.map(|id| format!("{id}={}", cluster.addresses[&id])).join(",");
        cluster.spawn(id, cluster.serve_with(id, &members));
    }
    cluster.are_ready().await;
    let after = cluster.leader().await;
    assert!(after.cluster_id == before.cluster_id && after.term > before.term);
    assert_eq!(after.voters, before.voters);
    assert_kept(&writes, &cluster.agree().await);
}
