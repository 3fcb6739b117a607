//! C01 at the layer of processes: the command line's writes count once while leaders are killed.

use ractor_raft::rpc::ClusterClient;

use crate::{cluster::Cluster, command_line::run, server::PATIENCE};

/// So many steps for the counter.
const STEPS: u64 = 8;

/// A counter by compare-and-swap: a step that were made twice, or whose first answer got lost, would find the wrong number
/// there and say so (exit code 5), or leave its outcome open (7). The leader is killed as soon as it has a step in its log, so
/// that its answer is lost more often than not.
///
/// Fails when: the command line sends its writes without a session; a node applies a repeated write; an unknown outcome is not
/// tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_of_the_command_line_misses_no_step_while_leaders_are_killed() {
    let mut cluster = Cluster::start(&[]).await;
    let endpoints = cluster.endpoints();
    cluster.leader().await;
    run(&endpoints, &["cas", "counter", "--set", "0", "--timeout", "20s"]).await.exits_with(0);
    for step in 0..STEPS {
        let (expected, next) = (step.to_string(), (step + 1).to_string());
        let arguments = ["cas", "counter", "--expect", &expected, "--set", &next, "--timeout", "20s"];
        let leader = cluster.leader().await;
        let status = ClusterClient::new(&leader.address, PATIENCE).expect("an address");
        let killed = async {
            // The session is opened by one entry, the step is another.
            until_it_has(&status, leader.last + 2).await;
            cluster.servers.get_mut(&leader.id).expect("it runs").start_kill();
        };
        let (ran, ()) = tokio::join!(run(&endpoints, &arguments), killed);
        ran.exits_with(0);
        cluster.servers.remove(&leader.id).expect("it ran").ended().await;
        cluster.spawn(leader.id, cluster.serve(leader.id));
        cluster.are_ready().await;
    }
    let read = run(&endpoints, &["get", "counter", "--timeout", "20s"]).await.exits_with(0);
    assert_eq!(read.stdout.trim(), STEPS.to_string());
    cluster.agree().await;
}

/// Asks again and again, so as to miss the moment by little.
async fn until_it_has(node: &ClusterClient, last_index: u64) {
    let began = tokio::time::Instant::now();
    while node.status().await.expect("it runs").last_index < last_index {
        assert!(began.elapsed() < PATIENCE, "the write never reached the leader");
    }
}
