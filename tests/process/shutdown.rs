//! Servers that are asked to stop, and started again.

use std::time::Duration;

use ractor_raft::rpc::{error::Told, reason};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    load::{Load, assert_kept},
    server::PATIENCE,
    valve::Valve,
    witness::Witness,
};

/// The calls that are under way when a server is asked to stop.
const CALLS: usize = 50;

/// Less than a server that stops waits for anything.
const BELOW_ANY_GRACE: Duration = Duration::from_millis(300);

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

/// Fails when: nothing waits for what was forwarded: neither is it among the calls that a stopping node counts, nor does
/// the process wait for the end of its server. (That it does also for what no node counts is shown in `tests/cluster.rs`.)
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_asked_to_stop_passes_on_the_answers_to_what_it_has_forwarded() {
    let mut cluster = Cluster::start(&["--election-timeout-ms", "1500-3000"]).await;
    let witness = Witness::of(&cluster.addresses);
    let leader = cluster.leader().await;
    let follower = leader.id % 3 + 1;
    // It reaches its leader by way of the valve, and follows it still.
    let valve = Valve::towards(&leader.address).await;
    cluster.kill(follower).await;
    let mut command = cluster.serve(follower);
    command.args(["--peer", &format!("{}={}", leader.id, valve.address)]);
    cluster.spawn(follower, command);
    cluster.are_ready().await;
    let address = cluster.addresses[&follower].clone();
    client::put_somewhere([&address].into_iter(), "the first write", "through the valve").await;

    valve.close();
    let before = client::status(&leader.address).await.expect("it runs");
    assert_eq!((before.id, before.term), (leader.id, leader.term), "it leads still");
    let calls: JoinSet<_> = (0..CALLS)
        .map(|call| {
            let address = address.clone();
            async move { (call, client::put(&address, format!("call {call}"), "value").await) }
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while client::status(&leader.address).await.expect("it runs").applied < before.last + CALLS as u64 {
        assert!(Instant::now() < deadline, "the calls do not arrive");
        sleep(LOOK_AGAIN).await;
    }
    let mut server = cluster.servers.remove(&follower).expect("it runs");
    server.signal("TERM").await;
    assert!(server.says("SIGTERM").await);
    // Either it closes its port at once, or it waits for what it has forwarded.
    let closed = async {
        while TcpStream::connect(&address).await.is_ok() {
            sleep(LOOK_AGAIN).await
        }
    };
    let _ = timeout(BELOW_ANY_GRACE, closed).await;
    valve.open();
    server.ends_with(0, &["stopped"]).await;

    cluster.restart(follower).await;
    let state = cluster.agree().await;
    for (call, answer) in calls.join_all().await {
        let revision = answer.unwrap_or_else(|status| panic!("call {call} was applied, and is told {status:?}"));
        let found = state.get(format!("call {call}").as_bytes()).map(|(_, revision)| *revision);
        assert_eq!(found, Some(revision), "call {call} was acknowledged");
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
