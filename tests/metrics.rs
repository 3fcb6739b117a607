//! The figures of a node as text: parsed strictly, complete, right, and drawn by the dashboard as they are named.
#![cfg(all(feature = "metrics", feature = "testing"))]

#[cfg(feature = "server")]
#[path = "metrics/dashboard.rs"]
mod dashboard;
#[path = "metrics/openmetrics.rs"]
mod openmetrics;

#[cfg(feature = "server")]
#[path = "metrics/served.rs"]
mod served;

use std::{collections::BTreeMap, time::Duration};

use openmetrics::{Exposition, parse};
use ractor_raft::{
    metrics,
    node::Crash,
    raft::NodeId,
    testing::{Cluster, Ledger, Line},
};

/// SURFACE: names that other programs are written against, with their labels.
const PROMISED: [(&str, &[&str]); 13] = [
    ("raft_term", &[]),
    ("raft_is_leader", &[]),
    ("raft_commit_index", &[]),
    ("raft_applied_index", &[]),
    ("raft_leader_changes_total", &[]),
    ("raft_peer_lag_entries", &["peer"]),
    ("raft_log_fsync_seconds_bucket", &["le"]),
    ("raft_proposals_total", &["result"]),
    ("raft_snapshot_seconds_bucket", &["le"]),
    ("raft_actor_mailbox_depth", &["actor"]),
    ("raft_actor_mailbox_wait_seconds_bucket", &["actor", "le"]),
    ("raft_actor_handle_seconds_bucket", &["actor", "le", "message"]),
    ("raft_actor_restarts_total", &["actor"]),
];

async fn cluster() -> Cluster<Ledger> {
    let cluster = Cluster::builder(Ledger::default).nodes(3).seed(7).start().await;
    cluster.acquainted().await;
    cluster
}

fn of(cluster: &Cluster<Ledger>, node: NodeId) -> Exposition {
    parse(&metrics::text(&cluster.node(node).expect("it runs")))
}

/// Fails when: a family is renamed or loses a label, a type or a unit is wrong, or the text does not end as it should.
#[tokio::test(start_paused = true)]
async fn every_promised_name_is_there() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let text = of(&cluster, leader);
    for (name, labels) in PROMISED {
        let found = text.samples.iter().find(|sample| sample.name == name);
        let found = found.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(found.labels.keys().map(String::as_str).collect::<Vec<_>>(), labels, "{name}");
    }
    for family in text.families.values() {
        assert!(family.help.len() > 20, "{}: an operator learns nothing from {:?}", family.name, family.help);
    }
}

/// Fails when: a figure is of another thing than its name says, or of a moment long ago.
#[tokio::test(start_paused = true)]
async fn the_figures_are_those_of_the_cluster() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let before = of(&cluster, leader);
    let mut last = 0;
    for n in 0..20 {
        last = cluster.propose(Line::new(format!("line {n}"))).await.expect("it is applied").index;
    }
    cluster.until_applied(last).await;
    cluster.run_for(Duration::from_secs(1)).await;
    let nodes = cluster.ids();
    let texts: BTreeMap<_, _> = nodes.iter().map(|id| (*id, of(&cluster, *id))).collect();
    for (id, text) in &texts {
        let status = cluster.status(*id).expect("it runs");
        assert_eq!(text.value("raft_term", &[]), status.term as f64);
        assert_eq!(text.value("raft_is_leader", &[]), f64::from(u8::from(*id == leader)));
        assert_eq!(text.value("raft_has_leader", &[]), 1.0);
        assert_eq!(text.value("raft_voters", &[]), 3.0);
        assert_eq!(text.value("raft_applied_index", &[]), last as f64);
        assert_eq!(text.value("raft_commit_index", &[]), last as f64);
        assert_eq!(text.value("raft_last_index", &[]), last as f64);
        assert_eq!(text.value("raft_leader_changes_total", &[]), 1.0);
        assert_eq!(text.value("raft_log_fsync_seconds_count", &[]), status.log_writes as f64);
        assert_eq!(text.value("raft_pending_calls", &[]), 0.0);
        assert_eq!(text.value("raft_actor_running", &[("actor", "consensus/election timer")]), 1.0);
        let lags = text.all("raft_peer_lag_entries").count();
        assert_eq!(lags, if *id == leader { 2 } else { 0 }, "only the leader knows");
    }
    let text = &texts[&leader];
    for peer in nodes.iter().filter(|id| **id != leader) {
        assert_eq!(text.value("raft_peer_lag_entries", &[("peer", &peer.to_string())]), 0.0);
        assert_eq!(text.value("raft_peer_reachable", &[("peer", &peer.to_string())]), 1.0);
    }
    let applied = [("result", "applied")];
    assert_eq!(text.value("raft_proposals_total", &applied) - before.value("raft_proposals_total", &applied), 20.0);
    assert_eq!(text.value("raft_proposal_seconds_count", &[]) - before.value("raft_proposal_seconds_count", &[]), 20.0);
    let persist = [("actor", "log store"), ("message", "Persist")];
    let writes = text.value("raft_log_fsync_seconds_count", &[]);
    assert_eq!(text.value("raft_actor_handle_seconds_count", &persist), writes);
    assert!(text.value("raft_recorder_events_total", &[]) > 100.0);
    assert_eq!(text.value("raft_recorder_limit_bytes", &[]), 16_384.0 * 64.0);
    for (name, labels, value) in before.counters() {
        assert!(text.lookup(&name, &labels) >= Some(value), "{name} {labels:?} fell");
    }
}

/// Fails when: a forwarded write counts twice, or one that was refused counts for none.
#[tokio::test(start_paused = true)]
async fn a_proposal_counts_once_where_it_is_decided() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("there are two");
    let results = |id| {
        let text = of(&cluster, id);
        let counts = text.all("raft_proposals_total").map(|sample| (sample.labels["result"].clone(), sample.value));
        counts.filter(|(_, count)| *count > 0.0).collect::<BTreeMap<_, _>>()
    };
    let before = results(leader).get("applied").copied().unwrap_or(0.0);
    cluster.propose_on(follower, Line::new("by another node")).await.expect("it is applied");
    assert_eq!(results(follower), BTreeMap::from([("forwarded".to_owned(), 1.0)]));
    assert_eq!(results(leader)["applied"] - before, 1.0);
    let limit = cluster.node(leader).expect("it runs").config().max_entry_bytes;
    cluster.propose_on(leader, Line::new("x".repeat(limit + 1))).await.expect_err("it is too large");
    assert_eq!(results(leader)["too_large"], 1.0);
}

/// Fails when: a restart of actors sets a counter back, or counts the leader of the same term again.
#[tokio::test(start_paused = true)]
async fn counters_outlive_the_actors() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let index = cluster.propose(Line::new("before")).await.expect("it is applied").index;
    cluster.until_applied(index).await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("there are two");
    let before = of(&cluster, follower);
    assert!(cluster.node(follower).expect("it runs").crash("consensus", Crash::Panic));
    cluster
        .until("the follower to know its leader again", |cluster| {
            let status = cluster.status(follower)?;
            (status.restarts > 0 && status.leader == Some(leader)).then_some(())
        })
        .await;
    let after = of(&cluster, follower);
    for (name, labels, value) in before.counters() {
        assert!(after.lookup(&name, &labels) >= Some(value), "{name} {labels:?} fell from {value}");
    }
    assert_eq!(after.value("raft_actor_restarts_total", &[("actor", "consensus")]), 1.0);
    assert_eq!(after.value("raft_leader_changes_total", &[]), 1.0);
}

/// Fails when: a label takes a value for each message, call or connection.
#[tokio::test(start_paused = true)]
async fn the_number_of_series_is_bounded() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let write = async |count| {
        for n in 0..count {
            cluster.propose(Line::new(format!("line {n}"))).await.expect("it is applied");
        }
        cluster.run_for(Duration::from_secs(5)).await;
        of(&cluster, leader).samples.len()
    };
    write(100).await;
    let (some, many) = (write(100).await, write(1000).await);
    assert_eq!(some, many);
    assert!(many < 1000, "{many} series for one node of three");
}
