//! Letters of the network inside one process: which may overtake each other, which come twice, and how a snapshot ends.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use ractor_raft::{
    Config,
    flow::Filter,
    node::Node,
    raft::{AppendEntriesRequest, LogPosition, NodeId, Request, RequestVoteRequest},
    storage::{Identity, MemoryStorage},
    testing::{Cluster, Ledger, Line},
    transport::{Fate, Heard, InProcess, Letter, Link, Transport},
};
use tokio::time::sleep;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Node 1 of two, which hears nobody but us.
struct Correspondence {
    _node: Node<Ledger>,
    network: InProcess,
    /// The sessions of what was answered, in order.
    answered: Arc<Mutex<Vec<u64>>>,
    cluster_id: u64,
}

impl Correspondence {
    /// `fates` are those of the letters to node 1, in order; all others come at once.
    async fn new(fates: impl IntoIterator<Item = Fate>) -> Self {
        let fates = Mutex::new(fates.into_iter().collect::<Vec<_>>().into_iter());
        let wire = move |letter: &Letter| {
            let to_us = letter.to == 1 && !letter.reply;
            let next = to_us.then(|| fates.lock().expect("nobody panics here").next()).flatten();
            next.unwrap_or(Fate::Deliver { after: Duration::ZERO })
        };
        let network = InProcess::with_wire(Arc::new(wire));
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let node = Node::builder(1, Ledger::default)
            .cluster([(1, "one"), (2, "two")])
            .cluster_name(format!("letters {}", NUMBER.fetch_add(1, SeqCst)))
            .storage(MemoryStorage::new())
            .transport(network.clone())
            .seed(1)
            .spawn()
            .await
            .expect("nothing is missing");
        let cluster_id = node.identity().cluster_id;
        Correspondence { _node: node, network, answered: Arc::default(), cluster_id }
    }

    fn link(&self) -> Link {
        let answered = self.answered.clone();
        Link {
            from: Identity { cluster_id: self.cluster_id, node_id: 2 },
            to: 1,
            address: "one".to_owned(),
            snapshot_timeout: DAY,
            from_incarnation: 0,
            to_incarnation: Arc::default(),
            heard: Arc::new(move |heard| match heard {
                Heard::Answer { session, .. } => answered.lock().expect("nobody panics here").push(session),
                Heard::Broken { cause, .. } => panic!("{cause}"),
            }),
        }
    }

    fn answered(&self) -> Vec<u64> {
        self.answered.lock().expect("nobody panics here").clone()
    }
}

fn heartbeat() -> Request {
    Request::AppendEntries(AppendEntriesRequest {
        term: 5,
        leader_id: 2,
        prev_log_index: 0,
        prev_log_term: 0,
        entries: Vec::new(),
        leader_commit: 0,
        read_round: 0,
        acknowledged: 0,
    })
}

fn vote() -> Request {
    let last_log = LogPosition { index: 0, term: 0 };
    Request::RequestVote(RequestVoteRequest { term: 1, candidate_id: 2, last_log, leadership_transfer: false })
}

fn after(milliseconds: u64) -> Fate {
    Fate::Deliver { after: Duration::from_millis(milliseconds) }
}

/// Fails when: all kinds of requests share a lane (the vote waits), or a lane does not keep order (3 before 1).
#[tokio::test(start_paused = true)]
async fn requests_of_other_kinds_overtake_and_those_of_one_kind_do_not() {
    let post = Correspondence::new([after(50), after(1), after(2)]).await;
    let mut connection = post.network.connect(post.link());
    connection.send(1, heartbeat(), Vec::new());
    connection.send(2, vote(), Vec::new());
    connection.send(3, heartbeat(), Vec::new());
    sleep(Duration::from_millis(100)).await;
    assert_eq!(post.answered(), [2, 1, 3]);
}

/// Fails when: `Line::send` takes `Repeat` for `Deliver`, or the second time ends with the connection.
#[tokio::test(start_paused = true)]
async fn a_repeated_request_comes_late_and_after_its_connection() {
    let again = Duration::from_millis(100);
    let post = Correspondence::new([Fate::Repeat { after: Duration::from_millis(1), again }]).await;
    let mut connection = post.network.connect(post.link());
    connection.send(1, heartbeat(), Vec::new());
    connection.send(2, heartbeat(), Vec::new());
    sleep(Duration::from_millis(50)).await;
    assert_eq!(post.answered(), [1, 2]);
    drop(connection);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(post.answered(), [1, 2, 1], "it was answered again, to nobody in particular");
}

/// How often a snapshot was sent to a node whose disk has no room for it, and how it went on when there was.
///
/// Fails when: the transport asks the addressee again by itself: then it is sent once.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_does_not_advance_is_given_back_to_the_core() {
    let (cluster, leader, behind) = one_behind(1).await;
    cluster.memory(behind).set_full(true);
    cluster.restart(behind).await;
    cluster.until("it to be sent twice", |cluster| (sent(cluster, leader) > 1).then_some(())).await;
    cluster.memory(behind).set_full(false);
    let last = cluster.propose(Line::new("last")).await.expect("there is a leader").index;
    cluster.until_applied(last).await;
    assert!(cluster.status(behind).expect("it runs").snapshot_index > 0, "it came by a snapshot");
}

/// Chunks that are lost, late, repeated, and that break their connection.
///
/// Fails when: a stream that stalled is waited for without an end (`within_time`).
#[tokio::test(start_paused = true)]
async fn a_snapshot_arrives_over_a_bad_network() {
    for seed in 0..8 {
        let (cluster, _, behind) = one_behind(seed).await;
        let second = Duration::from_secs(1);
        // Where connections do not break either, nothing but the timeout ends a stall.
        cluster.network().set_faults(100, if seed.is_multiple_of(2) { 20 } else { 0 });
        cluster.network().set_repeats(200, second);
        cluster.network().set_long_tail(50, second);
        cluster.restart(behind).await;
        cluster.run_for(2 * second).await;
        cluster.network().heal();
        let last = cluster.propose(Line::new("last")).await.expect("there is a leader").index;
        cluster.until_applied(last).await;
        let lines = cluster.ids().into_iter().map(|id| (id, cluster.clone()));
        let mut states = BTreeMap::new();
        for (id, cluster) in lines {
            states.insert(id, cluster.look(id, |ledger| ledger.lines().map(|(at, _)| at).collect::<Vec<_>>()).await);
        }
        assert!(states.values().all(|state| *state == states[&1]), "seed {seed}: {states:?}");
    }
}

/// A leader that has compacted its log, and a node that is down and needs what it compacted, in many chunks.
async fn one_behind(seed: u64) -> (Cluster<Ledger>, NodeId, NodeId) {
    let mut config = Config::default();
    (config.snapshot_threshold, config.snapshot_trailing) = (50, 5);
    config.snapshot_chunk_bytes = 256;
    config.snapshot_timeout = Duration::from_millis(500);
    let cluster = Cluster::builder(Ledger::default).seed(seed).config(config).start().await;
    cluster.acquainted().await;
    let leader = cluster.leader().await;
    let behind = leader % 3 + 1;
    cluster.crash(behind).await;
    for count in 0..200 {
        cluster.propose(Line::new(format!("line {count}"))).await.expect("two are a majority");
    }
    let compacted =
        |cluster: &Cluster<Ledger>| cluster.status(leader).is_some_and(|status| status.snapshot_index > 100);
    cluster.until("the log to be compacted", |cluster| compacted(cluster).then_some(())).await;
    (cluster, leader, behind)
}

/// How many snapshots a node began to send.
fn sent(cluster: &Cluster<Ledger>, id: NodeId) -> usize {
    let events = cluster.node(id).expect("it runs").flow().events(&Filter::default());
    events.iter().filter(|event| event.message == "DeliverSnapshot").count()
}
