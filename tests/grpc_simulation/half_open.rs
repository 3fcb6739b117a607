//! Connections that are dead, and nobody knows.

use std::time::Duration;

use super::{
    cluster::{Cluster, Plan},
    record::host,
};

/// A connection on which nothing comes is asked after a second, and given up two seconds later.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

/// A replicator may rest for half a second before it connects again, and connecting may take a second.
const CONNECTED_WITHIN: Duration = Duration::from_millis(1500);

/// Ten of the longest election timeouts.
const ELECTED_WITHIN: Duration = Duration::from_secs(3);

/// Once the network is whole again, a cluster serves within this, on every node.
pub const SERVES_WITHIN: Duration =
    Duration::from_millis((NOTICED_WITHIN.as_millis() + CONNECTED_WITHIN.as_millis() + ELECTED_WITHIN.as_millis()) as u64);

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
