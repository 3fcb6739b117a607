//! What becomes of a node whose snapshot goes wrong: a disk that is slow, full or damaged, a state machine that panics,
//! refuses or never ends.

#[path = "snapshot_faults/moody.rs"]
mod moody;

use std::{
    sync::{atomic::Ordering::SeqCst, mpsc},
    time::Duration,
};

use ractor::{ActorStatus, registry::where_is};
use ractor_raft::{
    Config,
    error::{NodeError, SnapshotError},
    flow::Filter,
    node::{Crash, NodeEvent, NodeRef},
    raft::{LogIndex, NodeId},
    storage::StorageError,
    testing::{Cluster, Ledger, Line},
};
use tokio::{runtime::Handle, task::JoinHandle, time::timeout};

use moody::{Moment, Moody, POISON, Trouble};

async fn write(cluster: &Cluster<Moody>, lines: u64) -> LogIndex {
    let mut last = 0;
    for number in 0..lines {
        last = cluster.propose(Line::new(format!("line {number}"))).await.expect("there is a leader").index;
    }
    last
}

/// Has a snapshot taken, in bounded time.
async fn taken(node: &NodeRef) -> Result<LogIndex, SnapshotError> {
    answer(taking(node)).await
}

fn taking(node: &NodeRef) -> JoinHandle<Result<LogIndex, SnapshotError>> {
    let node = node.clone();
    tokio::spawn(async move { node.take_snapshot().await })
}

async fn answer(call: JoinHandle<Result<LogIndex, SnapshotError>>) -> Result<LogIndex, SnapshotError> {
    timeout(Duration::from_secs(20), call).await.expect("nobody hangs").expect("no panic")
}

/// How a node ended by itself.
async fn end(cluster: &Cluster<Moody>, id: NodeId) -> NodeError {
    let node = cluster.node(id).expect("its handle is there");
    timeout(Duration::from_secs(20), node.stopped()).await.expect("it stops").expect_err("something is wrong")
}

/// N08. While every node writes a snapshot and does not get on with it, entries are applied and nobody is elected.
///
/// Fails when: the applier writes the snapshot itself, or the snapshotter has no thread of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn applies_and_heartbeats_go_on_while_snapshots_are_written() {
    let mut config = Config::default();
    config.election_timeout_min = Duration::from_secs(1);
    config.election_timeout_max = Duration::from_secs(2);
    let trouble = Trouble::default();
    trouble.0.threads.store(true, SeqCst);
    let cluster = trouble.cluster(3, 701).config(config).start().await;
    let before = write(&cluster, 5).await;
    cluster.until_applied(before).await;

    trouble.set_gate(true);
    let take = |id| taking(&cluster.node(id).expect("it runs"));
    let calls: Vec<_> = cluster.ids().into_iter().map(take).collect();
    cluster.until("all to be in the middle of it", |_| (trouble.0.waiting.load(SeqCst) == 3).then_some(())).await;
    let term = cluster.status(1).expect("it runs").term;
    let after = write(&cluster, 100).await;
    cluster.until_applied(after).await;
    cluster.run_for(Duration::from_secs(3)).await;
    for id in cluster.ids() {
        let status = cluster.status(id).expect("it runs");
        assert_eq!((status.term, status.snapshot_index, status.restarts), (term, 0, 0), "node {id}");
    }

    trouble.set_gate(false);
    for call in calls {
        assert_eq!(answer(call).await, Ok(before), "it is of what was applied when it was taken");
    }
}

/// Fails when: `Consensus::stop` does not say it, or `Paced` does not listen.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_snapshot_without_end_holds_up_no_shutdown() {
    let trouble = Trouble::default();
    trouble.0.threads.store(true, SeqCst);
    let cluster = trouble.cluster(1, 702).start().await;
    write(&cluster, 5).await;
    trouble.0.endless.store(true, SeqCst);
    let node = cluster.node(1).expect("it runs");
    let call = taking(&node);
    let written = || trouble.0.written.load(SeqCst);
    cluster.until("it to be written", |_| (written() > 1 << 20).then_some(())).await;
    timeout(Duration::from_secs(5), cluster.stop(1)).await.expect("it stops at once").expect("nothing was wrong");
    assert_eq!(answer(call).await, Err(SnapshotError::Unavailable { node: 1 }));
    let stopped_at = written();
    tokio::task::yield_now().await;
    assert_eq!(written(), stopped_at, "somebody still writes");
}

/// Fails when: `Stopping` says nothing when it is dropped: the next snapshotter cannot be started then.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_snapshot_without_end_holds_up_no_restart_of_the_keepers() {
    let trouble = Trouble::default();
    trouble.0.threads.store(true, SeqCst);
    let cluster = trouble.cluster(1, 703).start().await;
    write(&cluster, 5).await;
    for how in [Crash::Panic, Crash::Kill] {
        trouble.0.endless.store(true, SeqCst);
        let node = cluster.node(1).expect("it runs");
        let call = taking(&node);
        let before = trouble.0.written.load(SeqCst);
        let written = || trouble.0.written.load(SeqCst) > before + (1 << 20);
        cluster.until("it to be written", |_| written().then_some(())).await;
        assert!(node.crash("consensus", how));
        assert_eq!(answer(call).await, Err(SnapshotError::Unavailable { node: 1 }));
        trouble.0.endless.store(false, SeqCst);
        timeout(Duration::from_secs(5), write(&cluster, 1)).await.expect("it heals at once");
        taken(&node).await.expect("there is room");
        write(&cluster, 1).await;
    }
}

/// Fails when: `Snapshotter::write` takes a full disk for a broken one, or forgets to report it.
#[tokio::test(start_paused = true)]
async fn no_room_for_a_snapshot_harms_nobody() {
    let trouble = Trouble::default();
    let cluster = trouble.cluster(1, 704).start().await;
    let node = cluster.node(1).expect("it runs");
    let last = write(&cluster, 5).await;
    for flag in [&trouble.0.full, &trouble.0.fails] {
        flag.store(true, SeqCst);
        assert_eq!(taken(&node).await, Err(SnapshotError::Failed { node: 1 }));
        flag.store(false, SeqCst);
    }
    assert_eq!((node.status().snapshot_index, node.status().restarts), (0, 0));
    assert_eq!(taken(&node).await, Ok(last));
}

/// Fails when: a courier's death is not told to the core (`Lost`), which then waits for the report for ever.
#[tokio::test(start_paused = true)]
async fn a_panic_of_the_users_write_is_a_couriers_death() {
    let trouble = Trouble::default();
    let cluster = trouble.cluster(1, 705).start().await;
    let node = cluster.node(1).expect("it runs");
    let last = write(&cluster, 5).await;
    trouble.0.panics.store(true, SeqCst);
    let call = taking(&node);
    let restarted = |event: &NodeEvent| match event {
        NodeEvent::ActorRestarted { path, cause } => path == "consensus/snapshotter" && cause.contains("no mood"),
        _ => false,
    };
    cluster
        .until("it to be started again", |cluster| {
            cluster.events().iter().any(|(_, event)| restarted(event)).then_some(())
        })
        .await;
    assert_eq!(answer(call).await, Ok(last));
    write(&cluster, 1).await;
}

/// D04, R017. Fails when: what reading said is taken for what the state machine said, or is not said at all.
#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_and_one_that_is_refused_stop_the_node_and_are_told_apart() {
    let trouble = Trouble::default();
    let cluster = trouble.cluster(1, 706).start().await;
    let last = write(&cluster, 5).await;
    taken(&cluster.node(1).expect("it runs")).await.expect("there is room");

    trouble.0.damaged.store(true, SeqCst);
    cluster.restart(1).await;
    let error = end(&cluster, 1).await;
    assert!(matches!(&error, NodeError::Storage(StorageError::Corrupt { cause, .. }) if cause.contains("block 3")));
    assert_eq!(error.code().map(|code| code.to_string()).as_deref(), Some("R017"));
    trouble.0.damaged.store(false, SeqCst);

    trouble.0.refuses.store(true, SeqCst);
    cluster.restart(1).await;
    let error = end(&cluster, 1).await;
    let cause = "the snapshot cannot be restored: I do not like it".to_owned();
    assert!(
        matches!(&error, NodeError::Restore { index, cause } if *index == last && cause.ends_with("like it")),
        "{cause}"
    );
    assert_eq!(error.code().map(|code| code.to_string()).as_deref(), Some("R017"));
    trouble.0.refuses.store(false, SeqCst);

    cluster.restart(1).await;
    assert_eq!(cluster.look(1, |moody| moody.ledger.len()).await, 5);
}

/// Fails when: `Snapshotter::write` goes on after a disk error (a later snapshot then succeeds).
#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_in_a_snapshot_stops_the_node() {
    let cluster = Cluster::builder(Ledger::default).nodes(1).seed(707).start().await;
    cluster.propose(Line::new("a line")).await.expect("it leads alone");
    cluster.memory(1).fail_snapshot_writes(1);
    let node = cluster.node(1).expect("it runs");
    assert_eq!(taken(&node).await, Err(SnapshotError::Unavailable { node: 1 }));
    let stopped = timeout(Duration::from_secs(20), node.stopped()).await.expect("it stops");
    assert!(matches!(stopped, Err(NodeError::Storage(StorageError::Failed { .. }))), "{stopped:?}");
}

/// C03. Fails when: `check_poison` forgets the entry, or the applier starts anew from an empty state.
#[tokio::test(start_paused = true)]
async fn a_poison_entry_behind_a_snapshot_is_found_after_one_rebuild() {
    let trouble = Trouble::default();
    let cluster = trouble.cluster(1, 708).start().await;
    let last = write(&cluster, 5).await;
    taken(&cluster.node(1).expect("it runs")).await.expect("there is room");
    let _ = cluster.propose(Line::new(POISON)).await;
    let error = end(&cluster, 1).await;
    assert!(matches!(error, NodeError::PoisonEntry { index, .. } if index == last + 1), "{error}");
    assert_eq!(cluster.status(1).expect("its handle is there").restarts, 1);
}

/// N03. A node that starts is slow to read its own snapshot; a later one comes from the leader, and takes its place.
///
/// Fails when: `Snapshotter::restore` takes a snapshot that was replaced for one that cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_snapshot_may_be_replaced_before_it_is_restored() {
    let mut config = Config::default();
    config.snapshot_trailing = 0;
    let trouble = Trouble::default();
    trouble.0.threads.store(true, SeqCst);
    let cluster = trouble.cluster(3, 709).config(config).start().await;
    let take_all = async || {
        for id in cluster.ids() {
            if let Some(node) = cluster.node(id) {
                taken(&node).await.expect("there is room");
            }
        }
    };
    let last = write(&cluster, 5).await;
    cluster.until_applied(last).await;
    take_all().await;
    let follower = cluster.leader().await % 3 + 1;
    cluster.stop(follower).await.expect("nothing was wrong");
    let last = write(&cluster, 5).await;
    cluster.until_applied(last).await;
    take_all().await;
    let last = write(&cluster, 5).await;

    trouble.set_gate(true);
    cluster.restart(follower).await;
    cluster
        .until("the later one to be there", |cluster| {
            let waits = trouble.0.waiting.load(SeqCst) > 0;
            (waits && cluster.status(follower)?.snapshot_index >= last - 5).then_some(())
        })
        .await;
    trouble.set_gate(false);
    cluster.until_applied(last).await;
    assert_eq!(cluster.look(follower, |moody| moody.ledger.len()).await, 15);
    assert_eq!(cluster.status(follower).expect("it runs").restarts, 0);
}

/// N01. The snapshotter dies just after it has sent a state to be installed; its successor sends it again, late: by then the
/// log has gone on.
///
/// Fails when: `Applier::install` takes what is older than what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_state_that_is_installed_twice_does_not_go_back() {
    let trouble = Trouble::default();
    trouble.0.threads.store(true, SeqCst);
    let cluster = trouble.cluster(1, 710).start().await;
    let node = cluster.node(1).expect("it runs");
    write(&cluster, 5).await;
    taken(&node).await.expect("there is room");
    let last = write(&cluster, 5).await;
    cluster.stop(1).await.expect("nothing was wrong");
    trouble.at(Moment::Restore, {
        let (trouble, runtime) = (trouble.clone(), Handle::current());
        move || {
            // The first one dies behind this order; the next waits with the same one.
            let snapshotter = where_is(format!("{}/consensus/snapshotter", node.flow().name())).expect("it restores");
            node.crash("consensus/snapshotter", Crash::Kill);
            trouble.set_gate(true);
            // Nobody else gets to run before it is dead, or else what it sent would be reported before its death.
            let (held, is_held) = mpsc::channel();
            runtime.spawn(async move {
                held.send(()).expect("it is waited for");
                while snapshotter.get_status() != ActorStatus::Stopped {
                    std::thread::yield_now();
                }
            });
            is_held.recv().expect("there is a worker");
        }
    });
    let node = cluster.restart(1).await;
    cluster.until_applied(last).await;
    cluster.until("the next one to be at it", |_| (trouble.0.waiting.load(SeqCst) == 1).then_some(())).await;
    trouble.set_gate(false);
    let installs = || node.flow().events(&Filter::default()).iter().filter(|event| event.message == "Install").count();
    cluster.until("it to be sent twice", |_| (installs() == 2).then_some(())).await;
    assert_eq!(cluster.look(1, |moody| moody.ledger.len()).await, 10);
    write(&cluster, 1).await;
    assert_eq!(node.status().restarts, 1);
}

/// C04. The snapshotters die at each of their messages, killed and by a panic: what they were doing is ordered anew.
///
/// Fails when: the core is not told `Lost(Snapshotter)`.
#[tokio::test(start_paused = true)]
async fn a_snapshotter_may_die_at_each_of_its_messages() {
    let mut config = Config::default();
    config.snapshot_trailing = 0;
    for moment in [Moment::Write, Moment::Restore, Moment::Discard] {
        for how in [Crash::Kill, Crash::Panic] {
            let trouble = Trouble::default();
            let cluster = trouble.cluster(3, 711).config(config.clone()).start().await;
            let last = write(&cluster, 5).await;
            cluster.until_applied(last).await;
            let nodes: Vec<_> = cluster.ids().into_iter().filter_map(|id| cluster.node(id)).collect();
            let leader = cluster.leader().await;
            let follower = leader % 3 + 1;
            let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != follower).collect();
            cluster.network().partition(&[follower], &others);
            write(&cluster, 5).await;
            trouble.at(moment, move || {
                for node in nodes {
                    // It dies at its next message or await: when it has done what it is at.
                    node.crash("consensus/snapshotter", how);
                }
            });
            for id in &others {
                let node = cluster.node(*id).expect("it runs");
                taken(&node).await.unwrap_or_else(|error| panic!("{moment:?}, {how:?}: {error}"));
            }
            cluster.run_for(Duration::from_secs(5)).await;
            cluster.network().heal();
            let last = write(&cluster, 1).await;
            cluster.until_applied(last).await;
            let is_installed = |(id, event): &(NodeId, NodeEvent)| {
                *id == follower && matches!(event, NodeEvent::SnapshotInstalled { .. })
            };
            assert!(cluster.events().iter().any(is_installed), "{moment:?}, {how:?}");
            for id in cluster.ids() {
                assert_eq!(cluster.look(id, |moody| moody.ledger.len()).await, 11, "{moment:?}, {how:?}, node {id}");
                assert_eq!(cluster.status(id).expect("it runs").restarts, 1, "{moment:?}, {how:?}, node {id}");
            }
        }
    }
}
