//! What the supervision tree promises: stale messages dropped, callers answered, budgets, poison, and an orderly end.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor_raft::{
    error::{NodeError, ProposeError},
    flow::Filter,
    node::{Crash, NodeEvent, RestartPolicy},
    raft::LogIndex,
    state_machine::{RestoreError, Snapshot, StateMachine},
    testing::{Cluster, Ledger, Line, Told, Written},
};
use tokio::runtime::Handle;

use super::support::{answered, cluster};

/// C05. Consensus falls with its mailbox and the ports of all calls: every caller hears of it, at once.
///
/// Fails when: a port that is dropped says nothing (`Port` without `Drop`).
#[tokio::test(start_paused = true)]
async fn callers_of_a_fallen_consensus_are_answered() {
    for how in [Crash::Kill, Crash::Panic] {
        let cluster = cluster(3, 306).await;
        let leader = cluster.leader().await;
        let before = tokio::time::Instant::now();
        let calls: Vec<_> = (0..100).map(|count| (count, cluster.writing(leader, format!("line {count}")))).collect();
        // Half of them are under way when it falls; the others come while nobody is there.
        cluster.run_for(Duration::from_micros(300)).await;
        assert!(cluster.node(leader).expect("it runs").crash("consensus", how));
        let late: Vec<_> = (100..200).map(|count| (count, cluster.writing(leader, format!("line {count}")))).collect();

        let mut acknowledged = Vec::new();
        let mut unknown = 0;
        for (count, call) in calls.into_iter().chain(late) {
            match answered(call).await {
                Ok(committed) => acknowledged.push((committed.index, format!("line {count}"))),
                Err(ProposeError::Unknown { .. }) => unknown += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(before.elapsed() < Duration::from_secs(3), "somebody waited {:?}", before.elapsed());
        assert!(unknown > 0 && !acknowledged.is_empty(), "{unknown} unknown, {} acknowledged", acknowledged.len());
        cluster.agree_on(&acknowledged).await;
    }
}

/// C06. Fails when: `count_death` never ends the node, or `give_up` keeps the error to itself.
#[tokio::test(start_paused = true)]
async fn a_spent_budget_stops_the_node_and_its_supervisor_is_told_why() {
    let policy = RestartPolicy { budget: 2, window: Duration::from_secs(10) };
    let couriers = ["consensus/election timer", "consensus/replicator 2", "consensus/snapshotter", "server"];
    for path in ["log store", "applier", "consensus"].into_iter().chain(couriers) {
        let cluster = Cluster::builder(Ledger::default).seed(306).restart_policy(policy).start().await;
        cluster.leader().await;
        let node = cluster.node(1).expect("it runs");
        for death in 1..=3_usize {
            cluster.until("the actor to live", |_| node.crash(path, Crash::Panic).then_some(())).await;
            cluster
                .until("its death to be noticed", |cluster| {
                    let restarted =
                        |event: &NodeEvent| matches!(event, NodeEvent::ActorRestarted { path: at, .. } if at == path);
                    let restarts = cluster.events().iter().filter(|(id, event)| *id == 1 && restarted(event)).count();
                    (restarts == death || !cluster.ends().is_empty()).then_some(())
                })
                .await;
        }
        let stopped = tokio::time::timeout(Duration::from_secs(5), node.stopped()).await.expect("it stops");
        match &stopped {
            Err(NodeError::BudgetSpent { actor, failures: 3, budget: 2, cause, .. }) => {
                assert_eq!(actor, path);
                assert!(cause.contains("was told to crash"), "{cause}");
            }
            other => panic!("{path}: the node ended as {other:?}"),
        }
        let cause = stopped.expect_err("just seen");
        cluster
            .until("the supervisor and the subscriber to be told", |cluster| {
                let told = cluster.ends() == [(1, Told::Failed(cause.clone()))];
                (told && cluster.events().contains(&(1, NodeEvent::Stopped { cause: Some(cause.clone()) })))
                    .then_some(())
            })
            .await;
        cluster.propose(Line::new("the others go on")).await.expect("two of three");
    }
}

/// Deaths that are further apart than the window are healed for ever.
///
/// Fails when: `count_death` forgets to let old deaths go.
#[tokio::test(start_paused = true)]
async fn deaths_outside_the_window_do_not_count() {
    let policy = RestartPolicy { budget: 1, window: Duration::from_secs(10) };
    let cluster = Cluster::builder(Ledger::default).seed(316).restart_policy(policy).start().await;
    let node = cluster.node(1).expect("it runs");
    for _ in 0..5 {
        assert!(node.crash("applier", Crash::Panic));
        cluster.run_for(Duration::from_secs(11)).await;
    }
    assert_eq!(node.status().restarts, 5);
}

/// C07. Fails when: `stop_all` stops the keepers before the server, or a sleep outlives its actor (`Alarm` without `Drop`).
#[tokio::test(start_paused = true)]
async fn a_stopped_node_stops_its_children_first_and_leaves_nothing_behind() {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let builder = Cluster::builder(Ledger::default).seed(307);
    #[cfg(feature = "sqlite")]
    let builder = builder.simulated_disks();
    let cluster = builder.start().await;
    let leader = cluster.leader().await;
    for count in 0..20 {
        cluster.propose(Line::new(format!("line {count}"))).await.expect("there is a leader");
    }
    let flows: Vec<_> =
        cluster.ids().into_iter().filter_map(|id| Some((id, cluster.node(id)?.flow().clone()))).collect();
    // One under load, and the leader first, so that the others' calls and connections are open.
    let call = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.propose_on(leader, Line::new("the last one")).await }
    });
    tokio::task::yield_now().await;
    let ids = [leader, leader % 3 + 1, (leader + 1) % 3 + 1];
    for id in ids {
        cluster.stop(id).await.expect("nothing was wrong with it");
    }
    call.await.expect("no panic").expect("who is in gets his answer");

    for (id, flow) in flows {
        let events = flow.events(&Filter::default());
        let stops = events.iter().filter(|event| event.message == "Stop").map(|event| event.receiver.to_string());
        let (one, other) = (id % 3 + 1, (id + 1) % 3 + 1);
        let replicator = |peer| format!("consensus/replicator {peer}");
        let expected = [
            "server",
            &replicator(one.max(other)),
            &replicator(one.min(other)),
            "consensus/snapshotter",
            "consensus/election timer",
            "consensus",
            "applier",
            "log store",
            "node",
        ];
        assert_eq!(stops.collect::<Vec<_>>(), expected);
    }
    let stops = |id| (id, NodeEvent::Stopped { cause: None });
    assert!(ids.into_iter().all(|id| cluster.events().contains(&stops(id))), "a subscriber was not told");
    for _ in 0..10 {
        // What was aborted goes at its next turn.
        tokio::task::yield_now().await;
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks, "a task was left behind");
    assert!(ractor::registry::registered().iter().all(|name| !ids_of(&cluster, name)), "an actor was left behind");

    // The files are closed: the nodes can be started again at once, from what is on them.
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    let last = cluster.propose(Line::new("another life")).await.expect("there is a leader");
    assert_eq!(last.output.before, 21);
}

fn ids_of(cluster: &Cluster<Ledger>, name: &str) -> bool {
    cluster.ids().into_iter().filter_map(|id| cluster.node(id)).any(|node| name.starts_with(node.flow().name()))
}

/// C03. A command at which the state machine always panics: a node rebuilds it once, then names the entry and stops. When
/// a majority has stopped, the rest cannot learn any more that the entry is committed; they wait, and skip nothing.
///
/// Fails when: the applier skips what panics, or `check_poison` forgets the entry.
#[tokio::test(start_paused = true)]
async fn a_poison_entry_is_named_and_never_skipped() {
    let cluster = Cluster::builder(|| Brittle { panics: Panics::Always, ledger: Ledger::default() }).seed(303);
    let cluster = cluster.start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let before = cluster.propose(Line::new("good")).await.expect("there is a leader").index;
    let refused = cluster.propose_on(leader, Line::new(POISON)).await;
    assert!(matches!(refused, Err(ProposeError::Unknown { .. })), "{refused:?}");

    cluster.until("a majority to have stopped", |cluster| (cluster.ends().len() >= 2).then_some(())).await;
    cluster.run_for(Duration::from_secs(20)).await;
    for id in cluster.ids() {
        let node = cluster.node(id).expect("its handle is there");
        let told = cluster.ends().into_iter().find(|(ended, _)| *ended == id).map(|(_, told)| told);
        let Some(told) = told else {
            assert!(node.status().applied_index <= before, "node {id} has skipped the entry");
            continue;
        };
        let Told::Failed(NodeError::PoisonEntry { index, cause }) = &told else { panic!("node {id}: {told:?}") };
        assert_eq!(*index, before + 1);
        assert!(cause.contains("that hurts"), "{cause}");
        assert!(node.status().restarts >= 1, "it was not rebuilt first");
    }
}

/// C03. A state machine that panics once and not again is rebuilt, and its replicas are the same as before.
///
/// Fails when: the applier skips what panics (this replica then lacks the line).
#[tokio::test(start_paused = true)]
async fn a_panic_that_does_not_repeat_is_healed_and_no_replica_diverges() {
    let panicked = Arc::new(AtomicBool::new(false));
    let factory = {
        let panicked = panicked.clone();
        move || Brittle { panics: Panics::Once(panicked.clone()), ledger: Ledger::default() }
    };
    let cluster = Cluster::builder(factory).seed(313).start().await;
    cluster.propose(Line::new("good")).await.expect("there is a leader");
    let answer = cluster.propose(Line::new(POISON)).await;
    assert!(matches!(answer, Ok(_) | Err(ProposeError::Unknown { .. })), "{answer:?}");
    let last = cluster.propose(Line::new("good again")).await.expect("there is a leader").index;
    cluster.until_applied(last).await;
    assert!(panicked.load(SeqCst));
    let mut replicas = Vec::new();
    for id in cluster.ids() {
        let lines =
            |brittle: &Brittle| brittle.ledger.lines().map(|(at, text)| (at, text.to_owned())).collect::<Vec<_>>();
        replicas.push(cluster.look(id, lines).await);
    }
    assert!(replicas.iter().all(|lines| *lines == replicas[0] && lines.len() == 3), "{replicas:?}");
    let restarts: u64 =
        cluster.ids().into_iter().filter_map(|id| cluster.status(id)).map(|status| status.restarts).sum();
    assert_eq!(restarts, 1);
}

/// Keepers that are killed at once: each hands what it held to the root with the news of its death.
///
/// Fails when: the root starts keepers anew before it has heard of all deaths: the store is still locked, or the queue of calls
/// still taken, and the budget is spent in no time.
#[tokio::test(start_paused = true)]
async fn keepers_that_are_killed_at_once_start_anew() {
    let keepers = ["log store", "applier", "consensus"];
    for (seed, pair) in [[0, 1], [0, 2], [1, 2], [1, 0], [2, 0], [2, 1]].into_iter().enumerate() {
        let cluster = cluster(3, 340 + seed as u64).await;
        let before = cluster.write("before").await;
        let leader = cluster.leader().await;
        let node = cluster.node(leader).expect("it runs");
        for keeper in pair {
            assert!(node.crash(keepers[keeper], Crash::Kill));
        }
        let after = cluster.write("after").await;
        cluster.until_applied(after).await;
        assert_eq!(node.status().restarts, 1, "{pair:?}: they fall together\n{}", cluster.describe());
        cluster.agree_on(&[(before, "before".to_owned()), (after, "after".to_owned())]).await;
    }
}

const POISON: &str = "poison";

/// A ledger that cannot stand a certain line.
struct Brittle {
    panics: Panics,
    ledger: Ledger,
}

enum Panics {
    Always,
    Once(Arc<AtomicBool>),
}

impl StateMachine for Brittle {
    type Command = Line;
    type Output = Written;

    fn apply(&mut self, at: LogIndex, line: Line) -> Written {
        if line.text == POISON {
            let hurts = match &self.panics {
                Panics::Always => true,
                Panics::Once(panicked) => !panicked.swap(true, SeqCst),
            };
            assert!(!hurts, "that hurts");
        }
        self.ledger.apply(at, line)
    }

    fn snapshot(&self) -> impl Snapshot {
        self.ledger.snapshot()
    }

    fn restore(&mut self, bytes: impl Read) -> Result<(), RestoreError> {
        self.ledger.restore(bytes)
    }
}

/// C07. Between a fall and the next start nobody is there who could answer those who wait, and nobody is waited for.
///
/// Fails when: the drain does not look whether there is a consensus: it then takes a second.
#[tokio::test(start_paused = true)]
async fn a_shutdown_after_a_fall_waits_for_nobody() {
    let cluster = cluster(1, 617).await;
    cluster.write("before").await;
    let node = cluster.node(1).expect("it runs");
    cluster.hang_disk(1, true);
    drop(cluster.writing(1, "at the disk"));
    cluster.run_for(Duration::from_millis(10)).await;
    assert!(node.crash("consensus", Crash::Kill));
    // The root waits for the log store, which is at its write, and a call for the next consensus.
    cluster.run_for(Duration::from_millis(100)).await;
    let waiting = cluster.writing(1, "in the queue");
    cluster.run_for(Duration::from_millis(10)).await;
    assert!(node.pending() > 0, "a call waits");
    let ending = tokio::spawn(async move { node.shutdown().await });
    cluster.run_for(Duration::from_millis(10)).await;
    assert!(!ending.is_finished(), "the root is at the fall");
    let began = tokio::time::Instant::now();
    cluster.hang_disk(1, false);
    let ended = tokio::time::timeout(Duration::from_secs(30), ending).await.expect("it ends").expect("no panic");
    assert_eq!(ended, Ok(()));
    assert!(began.elapsed() < Duration::from_millis(500), "it waited for nobody: {:?}", began.elapsed());
    assert!(waiting.await.expect("no panic").is_err());
}
