//! What never starts again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor_raft::{
    error::NodeError,
    flow::{Crash, Moment, Saboteur, Status},
    node::NodeEvent,
    testing::{Cluster, Ledger, Line, Told},
};

/// Dies at every start, once it is told to.
#[derive(Clone)]
struct NeverStarts {
    path: &'static str,
    how: Crash,
    now: Arc<AtomicBool>,
}

impl Saboteur for NeverStarts {
    fn strikes(&self, path: &str, message: &'static str, moment: Moment) -> Option<Crash> {
        let here = path == self.path && message == "Start" && moment == Moment::Before;
        (here && self.now.load(SeqCst)).then_some(self.how)
    }
}

/// C06. Every try is a death that counts: the node stops, says who did not start, and why, and nobody is left.
///
/// Fails when: `server_died` gives up at the first try (`Start` instead of `BudgetSpent`), or a courier's start is not named, or
/// `child_stopped` says that a courier was restarted before it knows whether it started.
#[tokio::test(start_paused = true)]
async fn a_child_that_never_starts_again_spends_the_budget() {
    super::trial::hush();
    let keepers = ["log store", "applier", "consensus"];
    let couriers = ["consensus/election timer", "consensus/snapshotter", "consensus/replicator 2"];
    for path in keepers.into_iter().chain(couriers).chain(["server"]) {
        for how in [Crash::Panic, Crash::Kill] {
            let saboteur = NeverStarts { path, how, now: Arc::default() };
            let now = saboteur.now.clone();
            let cluster =
                Cluster::builder(Ledger::default).seed(46).sabotaged_by(move |_| saboteur.clone()).start().await;
            cluster.leader().await;
            let node = cluster.node(1).expect("it runs");
            now.store(true, SeqCst);
            assert!(node.crash(path, Crash::Kill), "nobody lives at {path}");
            let stopped = tokio::time::timeout(Duration::from_secs(5), node.stopped()).await.expect("it stops");
            let Err(error @ NodeError::BudgetSpent { .. }) = stopped else { panic!("{path}: {stopped:?}") };
            let NodeError::BudgetSpent { actor, failures, cause, .. } = &error else { unreachable!("just matched") };
            assert_eq!(*failures, 6);
            // A courier that does not start takes consensus with it.
            assert_eq!(actor, if couriers.contains(&path) { "consensus" } else { path });
            assert!(!couriers.contains(&path) || cause.contains(&format!("{path} did not start")), "{cause}");
            assert!(cause.contains(if how == Crash::Kill { "killed" } else { "was told to crash" }), "{cause}");
            cluster
                .until("the supervisor and the subscriber to be told", |cluster| {
                    let told = cluster.ends() == [(1, Told::Failed(error.clone()))];
                    let stopped = (1, NodeEvent::Stopped { cause: Some(error.clone()) });
                    (told && cluster.events().contains(&stopped)).then_some(())
                })
                .await;
            let restarted = |(_, event): &(_, NodeEvent)| match event {
                NodeEvent::ActorRestarted { path: restarted, .. } => restarted == path,
                _ => false,
            };
            assert!(!cluster.events().iter().any(restarted), "{path} was never started again");
            let ended = |cluster: &Cluster<Ledger>| {
                let tree = cluster.node(1).map(|node| node.tree()).unwrap_or_default();
                tree.iter().all(|actor| actor.status != Status::Running).then_some(())
            };
            cluster.until("nobody to be left", ended).await;
            now.store(false, SeqCst);
            cluster.restart(1).await;
            let written = cluster.propose(Line::new("all together")).await.expect("there is a leader");
            cluster.until_applied(written.index).await;
        }
    }
}
