//! Connections that are dead, and nobody knows.

use std::time::Duration;

use ractor_raft::{Node, testing::Ledger};

use super::{
    cluster::{Cluster, Plan},
    record::host,
};

/// A connection on which nothing comes is asked after a second, and given up two seconds later.
pub const NOTICED_WITHIN: Duration = Duration::from_secs(3);

/// A replicator may rest for half a second before it connects again, and connecting may take a second.
pub const CONNECTED_WITHIN: Duration = Duration::from_millis(1500);

/// Ten of the longest election timeouts.
const ELECTED_WITHIN: Duration = Duration::from_secs(3);

/// Once the network is whole again, a cluster serves within this, on every node.
pub const SERVES_WITHIN: Duration = Duration::from_millis(
    (NOTICED_WITHIN.as_millis() + CONNECTED_WITHIN.as_millis() + ELECTED_WITHIN.as_millis()) as u64,
);

// Fails when: the keepalive is taken out of `channel::endpoint`, or not asked for while a connection is idle.
#[test]
fn a_half_open_connection_comes_back() {
    let mut cluster = Cluster::start(Plan::quiet(1));
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    cluster.run_for(Duration::from_millis(500));
    // For as long as a message takes: what is lost is lost, and all connections between the two are half-open.
    cluster.cut(&host(leader), &host(follower));
    cluster.run_for(Duration::from_millis(150));
    cluster.mend();
    let index = cluster.write(leader, "with the other one", Duration::from_secs(1));
    let took = cluster.until_applied(index, NOTICED_WITHIN + CONNECTED_WITHIN);
    println!("half-open for {took:?}");
}

// Fails when: the keepalive is taken out of `channel::endpoint`: the votes' connections stay dead as well.
#[test]
fn a_cluster_all_of_whose_connections_are_half_open_serves_again() {
    let mut cluster = Cluster::start(Plan::quiet(2));
    let hosts = cluster.hosts();
    // Whoever leads, or asks for votes, opens connections: everybody has to all others before they are cut…
    for heir in cluster.ids() {
        let leader = cluster.leader();
        if heir != leader {
            let transfer = move |node: Node<Ledger>| async move { node.transfer_leadership(heir).await.is_ok() };
            cluster.on(leader, Duration::from_secs(6), transfer);
        }
    }
    cluster.run_for(Duration::from_millis(300));
    for one in &hosts {
        hosts.iter().for_each(|other| cluster.cut(one, other));
    }
    // … and for long enough that they lose heartbeats, and requests for votes.
    cluster.run_for(Duration::from_secs(1));
    cluster.mend();
    let began = cluster.elapsed();
    for id in cluster.ids() {
        let left = (began + SERVES_WITHIN).saturating_sub(cluster.elapsed());
        cluster.write(id, &format!("on n{id}"), left);
    }
    println!("served again after {:?}", cluster.elapsed() - began);
}
