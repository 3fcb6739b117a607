//! The permits of calls that nobody waits for any more.

use std::time::Duration;

use ractor_raft::{
    Config,
    node::Consistency,
    testing::{Cluster, Ledger, Line},
};

/// A leader that is cut off does not know what becomes of its proposals, and may not know for hours. Their callers have
/// gone long since, and others must be let in.
///
/// Fails when: `Consensus::let_go_of_abandoned` is not called.
#[tokio::test(start_paused = true)]
async fn calls_that_nobody_waits_for_keep_nobody_out() {
    let mut config = Config::default();
    config.request_timeout = Duration::from_millis(500);
    config.max_pending = 20;
    let cluster = Cluster::builder(Ledger::default).seed(47).config(config).start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.network().partition(&[leader], &others);
    let calls = (0..20).map(|count| {
        let cluster = cluster.clone();
        tokio::spawn(async move { cluster.propose_on(leader, Line::new(format!("line {count}"))).await })
    });
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.expect("a client does not panic");
        assert!(answer.is_err_and(|error| error.may_have_been_applied()), "nobody can know");
    }
    cluster.run_for(Duration::from_secs(2)).await;
    let node = cluster.node(leader).expect("it runs");
    assert_eq!(node.pending(), 0);
    cluster.read_on(leader, Consistency::Stale, Ledger::len).await.expect("there is room again");

    cluster.network().heal();
    let written = cluster.propose(Line::new("all together")).await.expect("there is a leader");
    cluster.until_applied(written.index).await;
}
