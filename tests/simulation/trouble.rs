//! Disks that are full, that hang, that have forgotten what they had acknowledged.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use ractor_raft::{
    config::Config,
    error::{NodeError, ProposeError},
    node::{Consistency, NodeEvent, Trouble},
    raft::{LogIndex, NodeId, Role, Write},
    storage::{Bootstrap, MemoryStorage, Opened, Snapshots, Storage, StorageError, Store},
    testing::{Cluster, Ledger, Line},
};

use super::{
    forgetful::ForgetfulDisk,
    support::{ELECTION_TIMEOUT, cluster},
};

/// D05, on the leader.
///
/// Fails when: `LogStore::persist` calls a full disk failed (the node stops), or gives the write up (`TryAgain` without a
/// write: nothing is ever written again).
#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_serves_reads_and_resumes_by_itself() {
    // Alone, so that nobody else can take the writes.
    let cluster = cluster(1, 505).await;
    let leader = cluster.leader().await;
    let before = cluster.write("before").await;
    cluster.memory(leader).set_full(true);
    let in_flight = cluster.writing(leader, "in flight");
    let node = cluster.node(leader).expect("it runs");
    cluster.until("it to be noticed", |_| (node.status().trouble == Some(Trouble::DiskFull)).then_some(())).await;
    let refused = cluster.propose_on(leader, Line::new("refused")).await;
    assert_eq!(refused, Err(ProposeError::DiskFull { node: leader }));
    assert_eq!(refused.expect_err("just seen").code().to_string(), "R016");
    let read = cluster.read_on(leader, Consistency::Linearizable, |ledger| ledger.len()).await;
    assert_eq!(read.expect("reads need no disk").0, 1);
    cluster.run_for(Duration::from_secs(3)).await;
    assert_eq!(node.status().role, Role::Leader, "it is alone");

    cluster.memory(leader).set_full(false);
    let written = in_flight.await.expect("no panic").expect("it has waited for the room");
    assert!(written.index > before);
    cluster.until("it to be over", |_| node.status().trouble.is_none().then_some(())).await;
    let after = cluster.write("after").await;
    assert!(after > written.index);
    let told = |full| cluster.events().contains(&(leader, NodeEvent::DiskFull { full }));
    assert!(told(true) && told(false));
    cluster.agree_on(&[(before, "before".to_owned()), (after, "after".to_owned())]).await;
}

/// D05, on a follower: the others do not need it, and it follows again when there is room.
///
/// Fails when: a follower acknowledges what found no room.
#[tokio::test(start_paused = true)]
async fn a_follower_without_room_is_behind_and_catches_up() {
    let cluster = cluster(3, 515).await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let full = leader % 3 + 1;
    cluster.memory(full).set_full(true);
    let mut acknowledged = Vec::new();
    for count in 0..20 {
        let text = format!("write {count}");
        acknowledged.push((cluster.write(&text).await, text));
    }
    cluster.run_for(3 * ELECTION_TIMEOUT).await;
    assert_eq!(cluster.leader().await, leader, "nobody was disturbed");
    let of_full = cluster.status(leader).expect("it runs").peers.into_iter().find(|peer| peer.id == full);
    assert!(of_full.expect("a peer").match_index < acknowledged[0].0, "it cannot have written any of it");
    cluster.memory(full).set_full(false);
    cluster.agree_on(&acknowledged).await;
}

/// D05, on the leader of three: another one has room, so it leads.
///
/// Fails when: consensus is not told of `DiskFull`: the leader then holds all writes back.
#[tokio::test(start_paused = true)]
async fn a_leader_without_room_hands_over() {
    let cluster = cluster(3, 525).await;
    cluster.acquainted().await;
    let full = cluster.leader().await;
    cluster.memory(full).set_full(true);
    let mut acknowledged = vec![(cluster.write("on two disks").await, "on two disks".to_owned())];
    let next = cluster
        // Sooner than it would be taken for one that hangs.
        .until_within(2 * ELECTION_TIMEOUT, "another to lead", |cluster| {
            cluster.known_leader().filter(|next| *next != full)
        })
        .await;
    acknowledged.push((cluster.write("with another leader").await, "with another leader".to_owned()));
    assert_eq!(cluster.status(full).expect("it runs").trouble, Some(Trouble::DiskFull));
    cluster.memory(full).set_full(false);
    cluster.agree_on(&acknowledged).await;
    assert_eq!(cluster.leader().await, next);
}

/// D06. The disk hangs while heartbeats go on: nobody would ever elect another one. In real time, since a write that does
/// not return holds a thread.
///
/// Fails when: `heartbeat` does not ask `disk_hangs`.
#[tokio::test]
async fn a_leader_whose_disk_hangs_steps_down_and_another_one_serves() {
    let mut config = Config::default();
    config.disk_timeout = Duration::from_millis(300);
    let disks = Disks::<HangingDisk>::default();
    let cluster = Cluster::builder(Ledger::default).seed(506).config(config).storage(disks.maker()).start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    cluster.propose(Line::new("before")).await.expect("there is a leader");
    let hung = disks.of(leader);
    hung.hang(true);
    let in_flight = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.propose_on(leader, Line::new("in flight")).await }
    });
    let next = cluster
        .until_within(Duration::from_secs(10), "another one to lead", |cluster| {
            cluster.known_leader().filter(|next| *next != leader)
        })
        .await;
    let during = cluster.propose_on(next, Line::new("during")).await.expect("two disks are a majority");
    assert_ne!(cluster.status(leader).expect("it runs").role, Role::Leader);
    hung.hang(false);
    cluster.until_applied(during.index).await;
    if let Ok(written) = in_flight.await.expect("no panic") {
        assert!(written.index < during.index, "the others had it, and committed it");
    }
    assert_eq!(cluster.leaders().values().map(std::collections::BTreeSet::len).max(), Some(1));
}

/// L08. A node comes back with less than it had acknowledged.
///
/// Fails when: `Effect::Condemn` is not carried out (the node votes with what is left), or `Effect::PeerLostData` is not told.
#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_forgot_what_it_acknowledged_gives_up_and_is_replaced() {
    let disks = Disks::<ForgetfulDisk>::default();
    let cluster = Cluster::builder(Ledger::default).seed(508).storage(disks.maker()).start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let mut last = 0;
    for count in 0..10 {
        last = cluster.propose(Line::new(format!("line {count}"))).await.expect("there is a leader").index;
    }
    cluster.until_applied(last).await;
    let victim = leader % 3 + 1;
    cluster.crash(victim).await;
    disks.of(victim).forget(3);
    let node = cluster.restart(victim).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), node.stopped()).await.expect("it gives up");
    let Err(NodeError::Storage(error @ StorageError::LostEntries { .. })) = ended else { panic!("{ended:?}") };
    assert_eq!(error.code().to_string(), "R007");
    let StorageError::LostEntries { acknowledged, last: had, .. } = &error else { unreachable!("just matched") };
    assert_eq!((*acknowledged, *had), (last, last - 3));
    cluster
        .until("the leader to say so", |cluster| {
            cluster.events().contains(&(leader, NodeEvent::PeerLostData { peer: victim })).then_some(())
        })
        .await;
    let again = cluster.try_restart(victim).await.err().expect("its disk is marked");
    assert!(matches!(again, NodeError::Storage(StorageError::LostEntries { .. })), "{again:?}");

    // The others go on, and it is replaced by an empty one.
    cluster.propose(Line::new("meanwhile")).await.expect("two are a majority");
    let operator = cluster.node(leader).expect("it runs");
    let replaced = tokio::spawn({
        let address = cluster.address(victim);
        async move { operator.replace_server(victim, address).await }
    });
    cluster.run_for(ELECTION_TIMEOUT).await;
    cluster.wipe(victim).await;
    cluster.join(victim).await;
    replaced.await.expect("no panic").expect("it catches up");
    let written = cluster.propose(Line::new("all together")).await.expect("there is a leader").index;
    cluster.until_applied(written).await;
    assert_eq!(cluster.look(victim, Ledger::len).await, 12);
}

/// The disks of one cluster, as they were made; the last one of each node.
struct Disks<D>(Arc<Mutex<BTreeMap<NodeId, D>>>);

impl<D> Default for Disks<D> {
    fn default() -> Self {
        Disks(Arc::default())
    }
}

impl<D: Storage + Clone + Default> Disks<D> {
    fn maker(&self) -> impl Fn(NodeId) -> D + Send + Sync + 'static {
        let disks = self.0.clone();
        move |id| {
            let disk = D::default();
            disks.lock().expect("nobody panics here").insert(id, disk.clone());
            disk
        }
    }

    fn of(&self, id: NodeId) -> D {
        self.0.lock().expect("nobody panics here")[&id].clone()
    }
}

/// A disk that can be made to hang.
#[derive(Clone, Default)]
struct HangingDisk {
    storage: MemoryStorage,
    hangs: Arc<(Mutex<bool>, Condvar)>,
}

impl HangingDisk {
    fn hang(&self, hangs: bool) {
        *self.hangs.0.lock().expect("nobody panics here") = hangs;
        self.hangs.1.notify_all();
    }
}

impl Storage for HangingDisk {
    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        let (store, opened) = self.storage.open(bootstrap)?;
        Ok((Box::new(HangingStore { disk: self.clone(), store }), opened))
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        self.storage.snapshots()
    }
}

struct HangingStore {
    disk: HangingDisk,
    store: Box<dyn Store>,
}

impl Store for HangingStore {
    fn persist(&mut self, write: &Write) -> Result<(), StorageError> {
        let hangs = self.disk.hangs.0.lock().expect("nobody panics here");
        // Never for ever, lest a test that fails does not end.
        let patience = Duration::from_secs(30);
        drop(self.disk.hangs.1.wait_timeout_while(hangs, patience, |hangs| *hangs).expect("nobody panics here"));
        self.store.persist(write)
    }

    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex) -> Result<(), StorageError> {
        self.store.condemn(acknowledged, last)
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        self.store.tidy()
    }
}
