//! How a node ends where something is in the way: a thread that is blocked, a disk, a panic that is not its own.

use std::sync::{Mutex, mpsc::Receiver};

use ractor_raft::{
    raft::{LogIndex, Write},
    storage::{Bootstrap, Opened, Snapshots, Storage, StorageError, Store},
};

use super::{
    verdicts::{Heard, application},
    *,
};

/// A disk whose writes, and whose opening, do not return while it hangs.
#[derive(Clone, Default)]
struct HangingDisk {
    disk: MemoryStorage,
    hang: Arc<Mutex<Option<Hang>>>,
}

/// Told that a write hangs, and waits to be let go.
struct Hang {
    hangs: tokio::sync::oneshot::Sender<()>,
    go_on: Receiver<()>,
}

impl HangingDisk {
    /// Lets it hang at whatever it is asked next. Returns who is told then, and who lets it go on when it is dropped.
    fn hang(&self) -> (tokio::sync::oneshot::Receiver<()>, std::sync::mpsc::Sender<()>) {
        let (hangs, is_hanging) = tokio::sync::oneshot::channel();
        let (let_go, go_on) = std::sync::mpsc::channel();
        *self.hang.lock().expect("nobody panics in there") = Some(Hang { hangs, go_on });
        (is_hanging, let_go)
    }

    fn pass(&self) {
        let hang = self.hang.lock().expect("nobody panics in there").take();
        if let Some(Hang { hangs, go_on }) = hang {
            let _ = hangs.send(());
            let _ = go_on.recv_timeout(Duration::from_secs(60));
        }
    }
}

struct HangingStore(Box<dyn Store>, HangingDisk);

impl Storage for HangingDisk {
    fn open(&self, bootstrap: &Bootstrap) -> Result<(Box<dyn Store>, Opened), StorageError> {
        self.pass();
        let (store, opened) = self.disk.open(bootstrap)?;
        Ok((Box::new(HangingStore(store, self.clone())), opened))
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        self.disk.snapshots()
    }
}

impl Store for HangingStore {
    fn persist(&mut self, write: &Write) -> Result<(), StorageError> {
        self.1.pass();
        self.0.persist(write)
    }

    fn condemn(&mut self, acknowledged: LogIndex, last: LogIndex) -> Result<(), StorageError> {
        self.0.condemn(acknowledged, last)
    }

    fn tidy(&mut self) -> Result<bool, StorageError> {
        self.0.tidy()
    }
}

// C06. Fails when: `keeper_died` goes on after a keeper that does not stop: it then tries for ever.
#[tokio::test]
async fn a_keeper_whose_thread_is_blocked_ends_the_node_and_is_named() {
    let cluster = Cluster::new("blocked", 1);
    let disk = HangingDisk::default();
    let node = soon("the start", cluster.builder(1).storage(disk.clone()).spawn()).await.expect("it starts");
    add(&node, 1).await;
    let (is_hanging, let_go) = disk.hang();
    let waiting = tokio::spawn({
        let node = node.clone();
        async move { node.propose(Add { amount: 1 }).await }
    });
    soon("the write", is_hanging).await.expect("it hangs");

    // What the log store's thread does, it does in its own time; here nobody waits for it any more.
    tokio::time::pause();
    assert!(node.crash("consensus", Crash::Panic));
    let told = soon("the end", node.stopped()).await;
    let named =
        matches!(&told, Err(NodeError::Start { what, cause }) if what == "log store" && cause.contains("blocked"));
    assert!(named, "{told:?}");
    let answer = soon("the answer", waiting).await.expect("no panic");
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    drop(let_go);
}

// C07. A node that is told to stop while its disk is opened anew, and does not answer, stops all the same; what was being
// opened is let go.
//
// Fails when: `start_log_store` does not hear that the node is to stop, or `LogStore::start` keeps what nobody waits for.
#[tokio::test]
async fn a_shutdown_is_heard_while_the_disk_hangs_at_its_opening() {
    let cluster = Cluster::new("opening", 1);
    let disk = HangingDisk::default();
    let node = soon("the start", cluster.builder(1).storage(disk.clone()).spawn()).await.expect("it starts");
    add(&node, 1).await;
    let (is_hanging, let_go) = disk.hang();
    assert!(node.crash("consensus", Crash::Panic));
    soon("the opening", is_hanging).await.expect("it hangs");

    tokio::time::pause();
    let told = soon("the end", node.shutdown()).await;
    let named =
        matches!(&told, Err(NodeError::Start { what, cause }) if what == "log store" && cause.contains("blocked"));
    assert!(named, "{told:?}");
    tokio::time::resume();
    drop(let_go);
    let node = soon("the start", cluster.builder(1).storage(disk).spawn()).await.expect("the disk is free again");
    add(&node, 2).await;
}

// C05. Fails when: the verdict of a root that could not give one is `Ok`.
#[tokio::test(start_paused = true)]
async fn a_root_that_falls_does_not_pass_for_an_orderly_end() {
    for how in [Crash::Kill, Crash::Panic] {
        let cluster = Cluster::new("fallen", 1);
        let node = cluster.start(1).await;
        assert!(node.crash("node", how));
        let told = soon("the end", node.stopped()).await;
        let fallen =
            matches!(&told, Err(NodeError::Start { what, cause }) if what == "node 1" && cause.contains("killed or"));
        assert!(fallen, "{how:?}: {told:?}");
    }
}

// Fails when: `Subscriber::tell` catches no panic: the root falls with it.
#[tokio::test(start_paused = true)]
async fn a_panicking_subscriber_is_forgotten_and_the_node_goes_on() {
    let cluster = Cluster::new("subscriber", 1);
    let node = cluster.start(1).await;
    let (application, mut heard) = application().await;
    let asked = Arc::new(AtomicU64::new(0));
    for panics_at_once in [true, false] {
        let asked = asked.clone();
        node.subscribe(&application, move |event| {
            let restart = matches!(event, NodeEvent::ActorRestarted { .. });
            if panics_at_once || restart {
                asked.fetch_add(1, SeqCst);
                panic!("a bad subscriber");
            }
            Heard::Failed(None)
        });
    }
    node.subscribe(&application, Heard::Event);
    let subscribed = async { while !matches!(heard.recv().await, Some(Heard::Event(_))) {} };
    soon("the first event", subscribed).await;
    for _ in 0..2 {
        assert!(node.crash("applier", Crash::Panic));
        let restarted =
            async { while !matches!(heard.recv().await, Some(Heard::Event(NodeEvent::ActorRestarted { .. }))) {} };
        soon("the event", restarted).await;
    }
    assert_eq!(asked.load(SeqCst), 2, "one that panicked is told no more");
    assert_eq!(add(&node, 1).await, 1);
    shut_down(vec![node]).await;
}

// Fails when: `first_start` does not try again, or never stops trying.
#[tokio::test(start_paused = true)]
async fn a_store_that_this_process_is_about_to_release_is_waited_for() {
    let cluster = Cluster::new("release", 1);
    let node = cluster.start(1).await;
    add(&node, 1).await;
    let identity = node.identity().clone();
    shut_down(vec![node]).await;
    let bootstrap = Bootstrap { identity, incarnation: 0, membership: Default::default() };

    // As the log store of a tree that was killed has it, until its thread gets round to ending.
    let (held, _) = cluster.disks[0].open(&bootstrap).expect("nobody has it");
    let (node, ()) = tokio::join!(cluster.start(1), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(held);
    });
    assert_eq!(add(&node, 1).await, 2);
    shut_down(vec![node]).await;

    let _held = cluster.disks[0].open(&bootstrap).expect("nobody has it");
    let told = soon("the refusal", cluster.builder(1).spawn()).await.err().expect("the store is in use");
    assert!(matches!(told, NodeError::Storage(StorageError::InUse { .. })), "{told:?}");
}

// D01. Fails when: `keeper_died` does not ask `check_disk`: the death is heard first, and spends the budget.
#[tokio::test(start_paused = true)]
async fn a_disk_error_is_the_verdict_also_where_a_death_is_heard_first() {
    let mut cluster = Cluster::new("first", 1);
    cluster.policy = RestartPolicy { budget: 0, window: Duration::from_secs(10) };
    let node = cluster.start(1).await;
    add(&node, 1).await;
    cluster.disks[0].fail_writes(1);
    // Consensus orders the write and falls, then the write fails, and only then the root gets its turn.
    let call = begin(node.propose(Add { amount: 1 })).await;
    assert!(node.crash("consensus", Crash::Panic));
    let told = soon("the end", node.stopped()).await;
    assert!(matches!(told, Err(NodeError::Storage(StorageError::Failed { .. }))), "{told:?}");
    let answer = soon("the answer", call).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
}
