//! Disks that fail, lose power and tear writes, under the real SQLite store.

use std::time::Duration;

use ractor_raft::{
    error::{NodeError, ProposeError},
    node::{Crash, NodeEvent},
    storage::StorageError,
    testing::{Line, Told},
};

use super::support::{ELECTION_TIMEOUT, Watched, answered, cluster, cluster_on_disks};

/// D01, on the leader and on a follower.
///
/// Fails when: `LogStore::persist` reports `Persisted` after an error, or keeps the error to itself.
#[tokio::test(start_paused = true)]
async fn a_failed_fsync_stops_the_node_with_its_cause_and_the_others_go_on() {
    for on_leader in [true, false] {
        let cluster = cluster_on_disks(3, 201).await;
        let leader = cluster.leader().await;
        cluster.write("before").await;
        let victim = if on_leader { leader } else { leader % 3 + 1 };
        let node = cluster.node(victim).expect("it runs");
        let durable = node.status().last_index;

        cluster.disk(victim).fail_syncs(1);
        let during = answered(cluster.writing(leader, "during")).await;
        match (on_leader, during) {
            (true, Err(ProposeError::Unknown { .. })) | (false, Ok(_)) => {}
            (_, other) => panic!("the proposer was told {other:?}"),
        }
        let stopped = tokio::time::timeout(Duration::from_secs(5), node.stopped()).await.expect("it stops");
        let Err(NodeError::Storage(StorageError::Failed { .. })) = &stopped else { panic!("it ended as {stopped:?}") };
        let cause = stopped.expect_err("just seen");
        cluster
            .until("supervisor and subscriber to be told", |cluster| {
                let told = cluster.ends() == [(victim, Told::Failed(cause.clone()))];
                let stopped = NodeEvent::Stopped { cause: Some(cause.clone()) };
                (told && cluster.events().contains(&(victim, stopped))).then_some(())
            })
            .await;
        // Nothing is acknowledged any more, however good the disk is by now.
        let after = answered(cluster.writing(victim, "to a node that has stopped")).await;
        assert!(matches!(after, Err(ProposeError::Unavailable { .. })), "{after:?}");
        assert_eq!(node.status().applied_index, 0, "a stopped node shows nothing as applied");

        cluster
            .until_within(10 * ELECTION_TIMEOUT, "the others to have a leader", |cluster| {
                let next = cluster.known_leader()?;
                (next != victim).then_some(())
            })
            .await;
        let acknowledged = (cluster.write("after").await, "after".to_owned());
        assert!(acknowledged.0 > durable);
        cluster.restart(victim).await;
        cluster.agree_on(&[acknowledged]).await;
    }
}

/// D02. All power fails in the very moment in which a caller hears "applied".
///
/// Fails when: a write's `then` is carried out with the write and not behind it, or SQLite runs with
/// `synchronous=NORMAL`.
#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_a_power_loss_right_afterwards() {
    let cluster = cluster_on_disks(3, 202).await;
    let mut acknowledged = Vec::new();
    for round in 0..30 {
        let text = format!("round {round}");
        let index = cluster.write(&text).await;
        for id in cluster.ids() {
            cluster.crash(id).await;
        }
        acknowledged.push((index, text));
        for id in cluster.ids() {
            cluster.restart(id).await;
        }
    }
    cluster.agree_on(&acknowledged).await;
}

/// D03. A follower's power fails in the middle of a write, at each of its steps.
///
/// Fails when: `wal::scan` calls a torn tail damage, or the recovery refuses what it finds behind the last commit.
#[tokio::test(start_paused = true)]
async fn a_torn_tail_is_dropped_and_the_node_starts() {
    let cluster = cluster_on_disks(3, 203).await;
    let mut acknowledged = Vec::new();
    let mut torn = 0;
    for operation in 1..=25 {
        let leader = cluster.leader().await;
        let victim = leader % 3 + 1;
        cluster.disk(victim).crash_at(operation);
        for count in 0..10 {
            let text = format!("{count} when operation {operation} is the last");
            acknowledged.push((cluster.write(&text).await, text));
        }
        cluster.run_for(Duration::from_millis(20)).await;
        torn += u32::from(cluster.disk(victim).has_crashed());
        cluster.crash(victim).await;
        cluster.restart(victim).await;
    }
    assert!(torn >= 10, "only {torn} of the power losses fell into a write");
    cluster.agree_on(&acknowledged).await;
}

/// D07. Nodes restart, keepers restart, and each state machine is built anew from the log: every entry once.
///
/// Fails when: `Applier` begins a new life at another index than consensus does, or keeps its state machine while it is
/// fed the log again.
#[tokio::test(start_paused = true)]
async fn a_restart_never_applies_an_entry_twice_nor_skips_one() {
    applies_each_entry_once(cluster(3, 207).await).await;
    applies_each_entry_once(cluster_on_disks(3, 208).await).await;
}

async fn applies_each_entry_once(cluster: Watched) {
    let mut acknowledged = Vec::new();
    for round in 0..12_u64 {
        for count in 0..5 {
            let text = format!("{count} of round {round}");
            let Ok(committed) = cluster.propose(Line::new(text.as_str())).await else { continue };
            assert!(acknowledged.iter().all(|(index, _)| *index != committed.index), "{} twice", committed.index);
            acknowledged.push((committed.index, text));
        }
        let victim = round % 3 + 1;
        match round % 4 {
            0 => cluster.crash(victim).await,
            1 => drop(cluster.stop(victim).await),
            2 => assert!(cluster.node(victim).expect("it runs").crash("applier", Crash::Kill)),
            _ => assert!(cluster.node(victim).expect("it runs").crash("consensus", Crash::Panic)),
        }
        if cluster.node(victim).is_none() {
            cluster.restart(victim).await;
        }
    }
    cluster.agree_on(&acknowledged).await;
    // What the state machine counted agrees with where it stands: nothing was applied twice.
    let lines = cluster.lines(1).await;
    assert!(lines.is_sorted_by(|(one, _), (next, _)| one < next), "{lines:?}");
    assert!(lines.len() >= 60, "{} lines", lines.len());
}
