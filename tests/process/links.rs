//! Connections between nodes that are cut both ways, one way, or slow (SAFETY: E09, E11, R02).
//!
//! Each node reaches each other by a valve of its own.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    client,
    cluster::{Cluster, LOOK_AGAIN},
    pauses::{Watched, another_leads},
    server::PATIENCE,
    valve::{Flow, Valve},
};

/// Three nodes and the six ways between them, by who dials whom.
struct Net {
    cluster: Cluster,
    valves: BTreeMap<(u64, u64), Valve>,
}

impl Net {
    async fn start(election_timeout_ms: &str) -> Net {
        let mut cluster = Cluster::new(&["--election-timeout-ms", election_timeout_ms]);
        let mut valves = BTreeMap::new();
        for id in 1..=3 {
            let mut command = cluster.serve(id);
            for peer in (1..=3).filter(|peer| *peer != id) {
                let valve = Valve::towards(&cluster.addresses[&peer]).await;
                command.args(["--peer", &format!("{peer}={}", valve.address)]);
                valves.insert((id, peer), valve);
            }
            cluster.spawn(id, command);
        }
        cluster.are_ready().await;
        cluster.leader().await;
        Net { cluster, valves }
    }

    /// What flows on the ways that this is true of, by who dials whom; on the others all does.
    fn set(&self, flow: Flow, which: impl Fn(u64, u64) -> bool) {
        for ((from, to), valve) in &self.valves {
            valve.set(if which(*from, *to) { flow } else { Flow::Open });
        }
    }
}

/// Its own patience is longer than that of those who elect another. Fails when: a linearizable read is answered without a
/// round (`confirm_reads`).
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_answers_nothing_stale() {
    let net = Net::start("300-3000").await;
    let watched = Watched::start(&net.cluster);
    // Both ways, then what it says, then what it hears.
    for round in 0..3 {
        let old = net.cluster.leader().await.id;
        watched.clients.go_on(30).await;
        match round {
            0 => net.set(Flow::Cut, |from, to| from == old || to == old),
            1 => net.set(Flow::NothingThere, |from, to| from == old || to == old),
            _ => net.set(Flow::NothingBack, |from, to| from == old || to == old),
        }
        another_leads(&net.cluster, old).await;
        watched.clients.go_on(60).await;
        net.set(Flow::Open, |_, _| false);
        watched.go_on().await;
    }
    watched.finds_nothing_wrong(&net.cluster).await;
}

/// Fails when: a pre-vote counts without a majority (`count_pre_votes`).
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_comes_back_without_an_election() {
    let net = Net::start("300-600").await;
    let watched = Watched::start(&net.cluster);
    let leader = net.cluster.leader().await;
    for follower in [leader.id % 3 + 1, (leader.id + 1) % 3 + 1] {
        net.set(Flow::Cut, |from, to| from == follower || to == follower);
        let deadline = Instant::now() + PATIENCE;
        while client::status(&net.cluster.addresses[&follower]).await.expect("it runs").role != "pre-candidate" {
            assert!(Instant::now() < deadline, "it does not notice");
            sleep(LOOK_AGAIN).await;
        }
        watched.clients.go_on(60).await;
        net.set(Flow::Open, |_, _| false);
        let committed = net.cluster.leader().await.commit;
        client::has_applied(&net.cluster.addresses[&follower], committed).await;
        watched.go_on().await;
        let now = net.cluster.leader().await;
        assert_eq!((now.id, now.term), (leader.id, leader.term), "it disturbs nobody");
    }
    watched.finds_nothing_wrong(&net.cluster).await;
}

/// Fails when: a leader steps down that was not answered for 75 ms (`heartbeat`).
#[tokio::test(flavor = "multi_thread")]
async fn slow_connections_slow_the_clients_down_and_elect_nobody() {
    let net = Net::start("1500-3000").await;
    let watched = Watched::start(&net.cluster);
    let leader = net.cluster.leader().await;
    // More than the heartbeat interval, both ways together.
    net.set(Flow::Slow(Duration::from_millis(40)), |_, _| true);
    for _ in 0..3 {
        watched.go_on().await;
    }
    let now = net.cluster.leader().await;
    assert_eq!((now.id, now.term), (leader.id, leader.term), "slow is not dead");
    net.set(Flow::Open, |_, _| false);
    watched.finds_nothing_wrong(&net.cluster).await;
}
