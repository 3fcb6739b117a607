//! Every actor of the tree dies, killed and by a panic, on the leader and on a follower, under load, on both runtimes.
//!
//! What must hold each time, as `src/node.rs` promises it: the right actors start again, and no others; the tree shows the
//! cause; subscribers are told; no acknowledged write is lost; no caller hangs; the node goes on.
//!
//! The matrix goes through all messages at which they can die.
#![cfg(feature = "testing")]

#[path = "supervision/acts.rs"]
mod acts;
#[path = "supervision/budget.rs"]
mod budget;
#[path = "supervision/checks.rs"]
mod checks;
#[path = "support/forgetful.rs"]
mod forgetful;
#[path = "supervision/matrix.rs"]
mod matrix;
#[cfg(feature = "sqlite")]
#[path = "supervision/own_threads.rs"]
mod own_threads;
#[path = "supervision/permits.rs"]
mod permits;
#[path = "supervision/stage.rs"]
mod stage;
#[path = "supervision/strike.rs"]
mod strike;
#[path = "supervision/trial.rs"]
mod trial;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor_raft::{
    error::{NodeError, ProposeError},
    flow::{ActorReport, Status},
    node::{Crash, Node, NodeEvent, RestartPolicy},
    raft::{LogIndex, NodeId},
    testing::{Cluster, Ledger, Line, Told, Witness},
};

/// Under `paused`: simulated time. Under `threads`: several threads and real time.
macro_rules! on_both_runtimes {
    ($($(#[$doc:meta])* $name:ident => $test:expr;)*) => {
        mod paused {
            $($(#[$doc])* #[tokio::test(start_paused = true)]
            async fn $name() {
                use super::*;
                $test.await;
            })*
        }
        mod threads {
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                use super::*;
                $test.await;
            })*
        }
    };
}

on_both_runtimes! {
    /// Fails when: `keeper_died` starts nobody.
    a_fallen_log_store_takes_the_keepers_with_it => dies("log store");
    /// Fails when: `keeper_died` starts nobody.
    a_fallen_applier_takes_the_keepers_with_it => dies("applier");
    /// Fails when: a port that is dropped says nothing.
    a_fallen_consensus_takes_the_keepers_with_it => dies("consensus");
    /// Fails when: `Consensus::child_stopped` does not start it again, or does not tell the core `Lost`: no alarm rings then.
    an_election_timer_is_restarted_alone => dies("consensus/election timer");
    /// Fails when: `Consensus::child_stopped` does not start it again.
    a_replicator_is_restarted_alone => dies("consensus/replicator");
    /// Fails when: `Consensus::child_stopped` does not start it again.
    a_snapshotter_is_restarted_alone => dies("consensus/snapshotter");
    /// Fails when: `server_died` does not start it again, `restarted` tells nobody, or `note_end` writes nothing down.
    a_server_is_restarted_alone => dies("server");
    /// Fails when: `count_death` has no end, or `give_up` does not fail the root with its error.
    a_spent_budget_ends_in_a_told_cause => spends_the_budget();
    /// Fails when: the server is not started as the root's child.
    a_fallen_root_takes_everything_with_it => loses_its_root();
}

const KEEPERS: [&str; 3] = ["log store", "applier", "consensus"];

async fn dies(actor: &str) {
    let witness = Witness::default();
    let factory = {
        let witness = witness.clone();
        move || Ledger::watched_by(&witness)
    };
    let policy = RestartPolicy { budget: 100, window: Duration::from_secs(10) };
    let cluster = Cluster::builder(factory).seed(7).restart_policy(policy).start().await;
    cluster.leader().await;
    let load = Load::start(&cluster);
    for how in [Crash::Kill, Crash::Panic] {
        for of_leader in [true, false] {
            load.more(&cluster, 10).await;
            let leader = cluster.leader().await;
            let victim = if of_leader { leader } else { leader % 3 + 1 };
            let path = match actor {
                "consensus/replicator" => format!("consensus/replicator {}", (victim + 1) % 3 + 1),
                other => other.to_owned(),
            };
            heals(&cluster, victim, &path, how).await;
            load.more(&cluster, 10).await;
        }
    }
    let acknowledged = load.stop().await;

    // What started again does its work: both followers can do without their leader.
    let leader = cluster.leader().await;
    for follower in cluster.ids().into_iter().filter(|id| *id != leader) {
        let path = actor.replace("replicator", &format!("replicator {leader}"));
        heals(&cluster, follower, &path, Crash::Kill).await;
    }
    cluster.crash(leader).await;
    cluster
        .until_within(Duration::from_secs(10), "one of the healed followers to lead", |cluster| {
            cluster.known_leader().filter(|elected| *elected != leader)
        })
        .await;
    cluster.restart(leader).await;
    let last = cluster.propose(Line::new("the last line")).await.expect("there is a leader").index;
    cluster.until_applied(last).await;
    for id in cluster.ids() {
        let lines = cluster.look(id, |ledger| ledger.lines().map(|(at, text)| (at, text.to_owned())).collect());
        let lines: BTreeMap<LogIndex, String> = lines.await;
        for (index, text) in &acknowledged {
            assert_eq!(lines.get(index), Some(text), "acknowledged at {index}, on node {id}");
        }
    }
    assert_eq!(witness.contradiction(), None, "State Machine Safety");
    assert!(cluster.leaders().values().all(|leaders| leaders.len() == 1), "Election Safety: {:?}", cluster.leaders());
}

/// Lets one actor die and looks at what becomes of the tree.
async fn heals(cluster: &Cluster<Ledger>, victim: NodeId, path: &str, how: Crash) {
    let node = cluster.node(victim).expect("it runs");
    let before = lives(&node);
    let told = |cluster: &Cluster<Ledger>| {
        let restarted = |event: &NodeEvent| match event {
            NodeEvent::ActorRestarted { path: at, cause } if at == path => Some(cause.clone()),
            _ => None,
        };
        cluster.events().iter().filter(|(id, _)| *id == victim).filter_map(|(_, event)| restarted(event)).collect()
    };
    let told_before: Vec<String> = told(cluster);
    assert!(node.crash(path, how), "nobody lives at {path} of node {victim}");
    let cause = cluster
        .until(&format!("word of the restart of {path} of node {victim}, {how:?}"), |cluster| {
            let causes = told(cluster);
            (causes.len() > told_before.len()).then(|| causes.last().cloned()).flatten()
        })
        .await;

    // Which of them live anew: the keepers with all that is below them, or the courier alone.
    let anew = |at: &str| match KEEPERS.contains(&path) {
        true => KEEPERS.iter().any(|keeper| at == *keeper || at.starts_with(&format!("{keeper}/"))),
        false => at == path,
    };
    let expected: BTreeMap<_, _> =
        before.iter().map(|(at, life)| (at.clone(), if anew(at) { life + 1 } else { *life })).collect();
    cluster
        .until(&format!("the tree of node {victim} to be whole after {path} died, {how:?}"), |_| {
            let running = |actor: &ActorReport| actor.status == Status::Running;
            (node.tree().iter().all(running) && lives(&node) == expected).then_some(())
        })
        .await;

    let report = node.tree().into_iter().find(|actor| actor.path == path).expect("it is there");
    let last_failure = report.last_failure.unwrap_or_default();
    let word = if how == Crash::Kill { "killed" } else { "was told to crash" };
    assert!(cause.contains(word), "the subscriber was told: {cause}");
    assert!(last_failure.contains(word), "the tree shows: {last_failure}");
}

fn lives(node: &Node<Ledger>) -> BTreeMap<String, u32> {
    node.tree().into_iter().map(|actor| (actor.path, actor.incarnation)).collect()
}

async fn spends_the_budget() {
    let policy = RestartPolicy { budget: 1, window: Duration::from_secs(60) };
    for path in ["applier", "consensus/election timer"] {
        let cluster = Cluster::builder(Ledger::default).seed(8).restart_policy(policy).start().await;
        let leader = cluster.leader().await;
        let node = cluster.node(leader).expect("it runs");
        heals(&cluster, leader, path, Crash::Panic).await;
        assert!(node.crash(path, Crash::Panic));
        let stopped = tokio::time::timeout(Duration::from_secs(10), node.stopped()).await.expect("it stops");
        let Err(cause @ NodeError::BudgetSpent { failures: 2, budget: 1, .. }) = stopped else { panic!("{stopped:?}") };
        cluster
            .until("the application to be told why", |cluster| {
                let events = cluster.events();
                let subscriber = events.contains(&(leader, NodeEvent::Stopped { cause: Some(cause.clone()) }));
                (subscriber && cluster.ends() == [(leader, Told::Failed(cause.clone()))]).then_some(())
            })
            .await;
        let after = cluster.propose_on(leader, Line::new("to a node that has stopped")).await;
        assert!(matches!(after, Err(ProposeError::Unavailable { .. })), "{after:?}");
        assert!(node.tree().iter().all(|actor| actor.status != Status::Running), "somebody lives on");
    }
}

async fn loses_its_root() {
    for how in [Crash::Kill, Crash::Panic] {
        let cluster = Cluster::builder(Ledger::default).seed(9).start().await;
        let leader = cluster.leader().await;
        let load = Load::start(&cluster);
        load.more(&cluster, 10).await;
        let node = cluster.node(leader).expect("it runs");
        assert!(node.crash("node", how));
        cluster
            .until("the application to be told", |cluster| {
                let told = cluster.ends().into_iter().find(|(id, _)| *id == leader)?.1;
                match (how, &told) {
                    (Crash::Kill, Told::Stopped) => Some(()),
                    (Crash::Panic, Told::Panicked(cause)) if cause.contains("was told to crash") => Some(()),
                    other => panic!("{other:?}"),
                }
            })
            .await;
        cluster
            .until("all its actors to be gone", |_| {
                node.tree().iter().all(|actor| actor.status != Status::Running).then_some(())
            })
            .await;
        // The application decides: it starts the node again.
        cluster.restart(leader).await;
        load.more(&cluster, 10).await;
        let acknowledged = load.stop().await;
        let last = cluster.propose(Line::new("the last line")).await.expect("there is a leader").index;
        cluster.until_applied(last).await;
        for (index, text) in acknowledged {
            let found = cluster.look(leader, move |ledger| ledger.at(index).map(str::to_owned)).await;
            assert_eq!(found, Some(text), "acknowledged at {index}");
        }
    }
}

/// One client at each node, a call at a time.
struct Load {
    over: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(LogIndex, String)>>>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster<Ledger>) -> Self {
        let (over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let client = |node| tokio::spawn(write(cluster.clone(), node, over.clone(), acknowledged.clone()));
        let clients = cluster.ids().into_iter().map(client).collect();
        Load { over, acknowledged, clients }
    }

    /// Waits until so many more writes are acknowledged.
    async fn more(&self, cluster: &Cluster<Ledger>, writes: usize) {
        let count = || self.acknowledged.lock().expect("no client panicked").len();
        let enough = count() + writes;
        cluster.until("more writes to be acknowledged", |_| (count() >= enough).then_some(())).await;
    }

    /// Panics with a client that did.
    async fn stop(self) -> Vec<(LogIndex, String)> {
        self.over.store(true, Relaxed);
        for client in self.clients {
            client.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        std::mem::take(&mut *self.acknowledged.lock().expect("no client panicked"))
    }
}

async fn write(
    cluster: Cluster<Ledger>,
    node: NodeId,
    over: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(LogIndex, String)>>>,
) {
    let mut count = 0;
    while !over.load(Relaxed) {
        count += 1;
        let text = format!("{count} on node {node}");
        match cluster.propose_on(node, Line::new(text.as_str())).await {
            Ok(committed) => acknowledged.lock().expect("no client panicked").push((committed.index, text)),
            // An answer that only a deadline gave is a caller that was left hanging. (A killed root can tell nobody.)
            Err(ProposeError::Unknown { reason }) if reason.contains("request_timeout") => {
                let root_lives = cluster.ends().is_empty();
                assert!(!root_lives, "the caller of {text:?} was left hanging: {reason}");
            }
            Err(_) => cluster.run_for(Duration::from_millis(2)).await,
        }
    }
}
