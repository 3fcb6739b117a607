//! Servers that are asked to stop, and started again.

use ractor_raft::rpc::{error::Told, reason};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    load::{Load, assert_kept},
    server::PATIENCE,
    witness::Witness,
};

/// The calls that are under way when the leader is asked to stop.
const CALLS: usize = 50;

/// Fails when: the server closes before the calls under way are answered, or the process ends as if it had failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_asked_to_stop_answers_its_calls_and_exits_with_0() {
    let mut cluster = Cluster::start(&["--election-timeout-ms", "1500-3000"]).await;
    let witness = Witness::of(&cluster.addresses);
    let leader = cluster.leader().await;
    let mut server = cluster.servers.remove(&leader.id).expect("it runs");
    // Nobody confirms the writes, so none can be answered.
    for follower in cluster.servers.values() {
        follower.signal("STOP").await;
    }
    let calls: JoinSet<_> = (0..CALLS)
        .map(|call| {
            let address = leader.address.clone();
            async move { (call, client::put(&address, format!("call {call}"), "value").await) }
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while client::status(&leader.address).await.expect("it runs").last < leader.last + CALLS as u64 {
        assert!(Instant::now() < deadline, "the calls do not arrive");
        sleep(LOOK_AGAIN).await;
    }
    server.signal("TERM").await;
    assert!(server.says("SIGTERM").await);
    // GNU timeout signals twice. Fails when: the second one is taken for impatience, since the server cannot end yet.
    server.signal("TERM").await;
    for follower in cluster.servers.values() {
        follower.signal("CONT").await;
    }
    server.ends_with(0, &["stopped"]).await;

    cluster.restart(leader.id).await;
    let state = cluster.agree().await;
    let mut acknowledged = 0;
    for (call, answer) in calls.join_all().await {
        match answer {
            Ok(revision) => {
                let found = state.get(format!("call {call}").as_bytes()).map(|(_, revision)| *revision);
                assert_eq!(found, Some(revision), "call {call} was acknowledged");
                acknowledged += 1;
            }
            // The machine was too busy for the others to confirm it in time.
            Err(status) => {
                let told =
                    Told::of(&status).unwrap_or_else(|| panic!("call {call} is left without an answer: {status:?}"));
                assert_eq!(told.reason, reason::UNKNOWN_OUTCOME, "call {call}");
            }
        }
    }
    assert!(acknowledged > 0, "calls under way are waited for");
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
        server.signal("TERM").await;
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
