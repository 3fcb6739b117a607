//! Proposals: each its own entry, and no success for one that another leader overwrote.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use ractor_raft::{
    error::ProposeError,
    raft::{LogIndex, NodeId, Write},
    storage::{Bootstrap, MemoryStorage, Opened, Snapshots, Storage, StorageError, Store},
    testing::{Cluster, Ledger, Line},
};

use super::support::{ELECTION_TIMEOUT, answered, cluster};

/// L09. Fails when: `propose` puts a call behind the entry after its own.
#[tokio::test(start_paused = true)]
async fn concurrent_proposals_each_get_an_index_of_their_own_in_order() {
    let cluster = cluster(3, 109).await;
    let leader = cluster.leader().await;
    let text = |node: NodeId, count: u32| format!("{count} on node {node}");
    let calls: Vec<_> = (0..200)
        .flat_map(|count| cluster.ids().into_iter().map(move |node| (node, count)))
        .map(|(node, count)| (node, text(node, count), cluster.writing(node, text(node, count))))
        .collect();

    let mut acknowledged = Vec::new();
    let mut last_on_leader = 0;
    for (node, text, call) in calls {
        let index = answered(call).await.unwrap_or_else(|error| panic!("{text}: {error}")).index;
        if node == leader {
            assert!(index > last_on_leader, "{text} stands at {index}, what was proposed before at {last_on_leader}");
            last_on_leader = index;
        }
        acknowledged.push((index, text));
    }
    cluster.agree_on(&acknowledged).await;
    assert_eq!(cluster.lines(leader).await.len(), 601, "every proposal stands there once");
}

/// L10. Fails when: `truncate_from` leaves the proposals whose entries it takes away, so that their callers are answered
/// when another leader's entries at the same indexes are applied.
#[tokio::test(start_paused = true)]
async fn a_proposal_that_another_leader_overwrites_never_succeeds() {
    let cluster = cluster(5, 110).await;
    let leader = cluster.leader().await;
    cluster.write("before").await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.network().partition(&[leader], &others);

    let overwritten: Vec<_> = (0..5).map(|count| cluster.writing(leader, format!("lost {count}"))).collect();
    cluster
        .until("the others to elect another leader", |cluster| {
            cluster.known_leader().filter(|elected| *elected != leader)
        })
        .await;
    for count in 0..10 {
        cluster.write(&format!("kept {count}")).await;
    }
    cluster.network().heal();

    for call in overwritten {
        let answer = answered(call).await;
        assert!(
            matches!(answer, Err(ProposeError::Unknown { .. } | ProposeError::NotLeader { .. })),
            "its entry was overwritten, and it was told {answer:?}"
        );
    }
    cluster.agree_on(&[]).await;
    assert!(cluster.lines(leader).await.iter().all(|(_, text)| !text.starts_with("lost")));
}

/// L05. Entries of a deposed leader are on its disk; another leader's at the same indexes are in its memory and on their
/// way to the disk. The report about the first must not count for the second.
///
/// (That the first are still on their way as well cannot be had in a whole tree: a new leader sends no entries before its
/// probe is answered, and the answer waits for the write of the new term, which stands behind them.)
///
/// In real time, since a disk that holds its writes back holds a thread.
///
/// Fails when: `Outbox::truncate_from` leaves `durable_index` as it was, or a heartbeat's answer does not look at it.
#[tokio::test]
async fn a_report_about_a_truncated_write_counts_for_nothing() {
    let disks: Arc<[SlowDisk; 3]> = Arc::new(std::array::from_fn(|_| SlowDisk::default()));
    let cluster = Cluster::builder(Ledger::default).seed(105).storage({
        let disks = disks.clone();
        move |id| disks[id as usize - 1].clone()
    });
    let cluster = cluster.start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let before = cluster.propose(Line::new("before")).await.expect("there is a leader").index;
    cluster.until_applied(before).await;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let slow = &disks[leader as usize - 1];

    cluster.network().partition(&[leader], &others);
    let lost: Vec<_> = (0..3).map(|count| propose_on(&cluster, leader, format!("lost {count}"))).collect();
    let durable = |cluster: &Cluster<Ledger>| (cluster.status(leader)?.last_index == before + 3).then_some(());
    cluster.until("the deposed leader to have written", durable).await;
    let next = cluster
        .until("the others to elect another leader", |cluster| {
            cluster.known_leader().filter(|elected| *elected != leader)
        })
        .await;
    for count in 0..10 {
        let kept = propose_on(&cluster, next, format!("kept {count}")).await.expect("no panic");
        kept.expect("it has a majority");
    }
    let last = cluster.status(next).expect("it runs").last_index;
    slow.hold_truncations();
    cluster.network().heal();
    cluster.until("the truncation to be under way", |_| slow.is_waiting().then_some(())).await;

    // Heartbeats are answered meanwhile; none of the answers may say that the new entries are durable.
    let match_index = |cluster: &Cluster<Ledger>| {
        let peers = cluster.status(next).expect("it runs").peers;
        peers.iter().find(|peer| peer.id == leader).map_or(0, |peer| peer.match_index)
    };
    cluster.run_for(3 * ELECTION_TIMEOUT).await;
    assert!(match_index(&cluster) <= before, "{} counts as durable, {before} is", match_index(&cluster));
    slow.release();
    cluster.until("the slow disk to have caught up", |cluster| (match_index(cluster) >= last).then_some(())).await;
    for call in lost {
        assert!(call.await.expect("no panic").is_err(), "its entry was overwritten");
    }
}

fn propose_on(cluster: &Cluster<Ledger>, node: NodeId, text: String) -> super::support::Answer {
    let cluster = cluster.clone();
    tokio::spawn(async move { cluster.propose_on(node, Line::new(text)).await })
}

/// A disk that can hold its truncations back.
#[derive(Clone, Default)]
struct SlowDisk {
    storage: MemoryStorage,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    waiting: bool,
}

impl SlowDisk {
    fn hold_truncations(&self) {
        self.gate().closed = true;
    }

    fn release(&self) {
        self.gate().closed = false;
        self.gate.1.notify_all();
    }

    fn is_waiting(&self) -> bool {
        self.gate().waiting
    }

    fn pass(&self) {
        let mut gate = self.gate();
        while gate.closed {
            gate.waiting = true;
            let (next, timeout) = self.gate.1.wait_timeout(gate, Duration::from_secs(30)).expect("nobody panics here");
            gate = next;
            gate.closed &= !timeout.timed_out();
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.0.lock().expect("nobody panics here")
    }
}

impl Storage for SlowDisk {
    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        let (store, opened) = self.storage.open(bootstrap)?;
        Ok((Box::new(SlowStore { disk: self.clone(), store }), opened))
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        self.storage.snapshots()
    }
}

struct SlowStore {
    disk: SlowDisk,
    store: Box<dyn Store>,
}

impl Store for SlowStore {
    fn persist(&mut self, write: &Write) -> Result<(), StorageError> {
        if write.truncate_from.is_some() {
            self.disk.pass();
        }
        self.store.persist(write)
    }

    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex) -> Result<(), StorageError> {
        self.store.condemn(acknowledged, last)
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        self.store.tidy()
    }
}
