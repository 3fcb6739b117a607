//! Watches over breaks: whoever watches sees every change exactly once, in order, whatever becomes of the nodes.
#![cfg(all(feature = "grpc", feature = "testing"))]

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use ractor_raft::{
    Config, Node, WatchError,
    kv::{self, Change, Command, Kv, Outcome, WatchClient, Watched},
    node::{Crash, NodeRef},
    raft::{LogIndex, NodeId, Role},
    rpc::{Grpc, error::Told, reason},
    storage::MemoryStorage,
    testing::Cluster,
};
use tokio::time::{sleep, timeout};
use tonic::service::Routes;

/// More than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const PREFIX: &str = "watched/";

/// Nodes over real gRPC, in memory.
struct Nodes {
    nodes: Vec<Node<Kv>>,
    members: Vec<(NodeId, String)>,
    name: &'static str,
}

impl Nodes {
    async fn start(count: NodeId, name: &'static str) -> Self {
        let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a port");
        let listeners: Vec<_> = (1..=count).map(bind).collect();
        let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
        let members = (1..).zip(listeners.iter().map(address)).collect();
        let mut cluster = Nodes { nodes: Vec::new(), members, name };
        for (id, listener) in (1..).zip(listeners) {
            let node = cluster.spawn(id, Grpc::with_listener(listener), Kv::default).await;
            cluster.nodes.push(node);
        }
        cluster
    }

    async fn spawn(&self, id: NodeId, grpc: Grpc, store: fn() -> Kv) -> Node<Kv> {
        let services = |node: NodeRef| Routes::new(kv::service(node.typed().expect("it is built with Kv")));
        let mut config = Config::default();
        // On a loaded machine no election comes by itself.
        config.election_timeout_min = Duration::from_millis(500);
        config.election_timeout_max = Duration::from_millis(1000);
        let builder = Node::builder(id, store).cluster(self.members.clone()).cluster_name(self.name);
        let node = builder.storage(MemoryStorage::new()).transport(grpc.services(services)).config(config).spawn();
        node.await.expect("it starts")
    }

    fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|(_, address)| address.clone()).collect()
    }

    /// Writes through whichever node takes it, until it is certain that it was applied. Returns the revision.
    async fn put(&self, key: &str, value: &str) -> LogIndex {
        loop {
            for node in &self.nodes {
                // One that failed may have been applied all the same; then it is seen, too.
                let Ok(output) = node.propose(Command::put(key.to_owned(), value.to_owned())).await else { continue };
                match output.outcome {
                    Some(Outcome::Put(put)) => return put.revision,
                    other => panic!("a put was proposed, {other:?} came back"),
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn place(&self, role: Role) -> usize {
        self.nodes.iter().position(|node| node.status().role == role).expect("there is one")
    }

    async fn shutdown(self) {
        for node in &self.nodes {
            node.shutdown().await.expect("it stops by order");
        }
    }
}

/// Every change of the prefix, as a node remembers them. (That it remembers them rightly is shown beside its code.)
async fn remembered(node: &Node<Kv>, up_to: LogIndex) -> Vec<Change> {
    node.applied_past(up_to - 1).await.expect("it runs");
    let all = |store: &Kv| store.changes(&kv::KeyRange::Prefix(PREFIX.into()), 1, usize::MAX, usize::MAX);
    let all = node.read(ractor_raft::Consistency::Stale, all).await.expect("it runs").expect("nothing is forgotten");
    assert!(all.complete);
    all.changes.into_iter().filter(|change| change.revision <= up_to).collect()
}

async fn follow(mut client: WatchClient, until: LogIndex) -> Result<Vec<Change>, tonic::Status> {
    let mut seen = Vec::new();
    loop {
        let Watched { changes, applied_index } = client.next().await?;
        seen.extend(changes);
        if applied_index >= until {
            return Ok(seen.into_iter().filter(|change| change.revision <= until).collect());
        }
    }
}

// Fails when: the client goes on from the revision that it saw last (a repeat) or from where the next node is (a loss), or
// does not go on; or a follower's watch ends with the leader.
#[tokio::test]
async fn a_client_and_a_follower_see_every_change_once_while_leaders_are_stopped() {
    let story = async {
        let mut cluster = Nodes::start(3, "watch over leaders").await;
        let first = cluster.put("watched/begin", "0").await;
        let leader = cluster.place(Role::Leader);
        let follower = cluster.nodes[cluster.place(Role::Follower)].clone();
        // The client begins at the leader, which will be stopped.
        let mut endpoints = cluster.endpoints();
        endpoints.rotate_left(leader);
        let mut client = WatchClient::new(endpoints, PREFIX, first + 1);
        assert_eq!(client.next().await.expect("the leader answers").changes, []);
        let asked_first = client.endpoint().to_owned();
        let mut on_follower = kv::watch(&follower, PREFIX, first + 1);

        let mut last = first;
        for n in 0..30 {
            if n == 10 {
                let stopped = cluster.nodes.remove(cluster.place(Role::Leader));
                stopped.shutdown().await.expect("it stops by order");
            }
            last = cluster.put(&format!("watched/{}", n % 4), &n.to_string()).await;
            cluster.put("others/", &n.to_string()).await;
        }
        let expected: Vec<_> =
            remembered(&follower, last).await.into_iter().filter(|change| change.revision > first).collect();
        assert!(expected.len() >= 30);
        let mut seen = Vec::new();
        while seen.last().is_none_or(|change: &Change| change.revision < last) {
            seen.extend(on_follower.next().await.expect("no end").expect("it survives the leader").changes);
        }
        assert_eq!(seen, expected);
        let second_half = follow(client, last).await.expect("it goes on elsewhere");
        assert_eq!(second_half, expected);
        assert!(!cluster.nodes.iter().any(|node| node.status().address == asked_first), "it was stopped");
        cluster.shutdown().await;
    };
    timeout(PATIENCE, story).await.expect("it does not hang");
}

// Fails when: the first node that has forgotten is believed for all of them, or the client asks for ever.
#[tokio::test]
async fn a_client_asks_all_nodes_before_it_says_that_changes_are_compacted() {
    let story = async {
        let ports: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
        let members = (1..).zip(ports.iter().map(address)).collect();
        let mut cluster = Nodes { nodes: Vec::new(), members, name: "watch what is forgotten" };
        let stores: [fn() -> Kv; 3] =
            [|| Kv::with_history(1, 0), || Kv::with_history(2, 1 << 20), || Kv::with_history(4, 1 << 20)];
        for ((id, listener), store) in (1..).zip(ports).zip(stores) {
            let node = cluster.spawn(id, Grpc::with_listener(listener), store).await;
            cluster.nodes.push(node);
        }
        let mut revisions = Vec::new();
        for n in 0..6 {
            revisions.push(cluster.put("watched/a", &n.to_string()).await);
        }
        let last = revisions[5];
        for node in &cluster.nodes {
            node.applied_past(last - 1).await.expect("it runs");
        }
        let mut client = WatchClient::new(cluster.endpoints(), PREFIX, revisions[2]);
        assert_eq!(client.next().await.expect("the third remembers").changes.len(), 4);
        assert_eq!(client.endpoint(), cluster.members[2].1);
        let mut client = WatchClient::new(cluster.endpoints(), PREFIX, revisions[1]);
        let status = client.next().await.expect_err("nobody remembers");
        let told = Told::of(&status).expect("a node says so");
        assert_eq!((told.reason.as_str(), told.code()), (reason::REVISION_COMPACTED, Some("R022")));
        assert_eq!(told.metadata["oldest"], revisions[2].to_string(), "the best that there is");
        cluster.shutdown().await;
    };
    timeout(PATIENCE, story).await.expect("it does not hang");
}

// Fails when: the client's patience counts from the last change, or has no end.
#[tokio::test]
async fn a_client_that_finds_nobody_gives_up_after_its_patience_and_no_sooner() {
    let story = async {
        let cluster = Nodes::start(1, "watch and stop").await;
        let patience = Duration::from_millis(300);
        let mut client = WatchClient::new(cluster.endpoints(), PREFIX, 0).patience(patience);
        client.next().await.expect("the node answers");
        // Nothing happens for longer than that: no reason to give up.
        timeout(2 * patience, client.next()).await.expect_err("there is nothing to tell");
        cluster.shutdown().await;
        let began = tokio::time::Instant::now();
        let status = client.next().await.expect_err("nobody is left");
        assert!(began.elapsed() >= patience, "{:?}: {status}", began.elapsed());
    };
    timeout(PATIENCE, story).await.expect("it does not hang");
}

/// One that watches now this node, now that one, for as long as each lets it or it likes to.
async fn wander(cluster: Arc<Cluster<Kv>>, first: NodeId, end: Arc<AtomicU64>) -> Vec<Change> {
    let (mut at, mut next, mut seen) = (first, 1, Vec::new());
    loop {
        if let Some(node) = cluster.node(at) {
            let mut stream: BoxStream<'static, Result<Watched, WatchError>> = kv::watch(&node, PREFIX, next);
            let leave = sleep(Duration::from_millis(cluster.draw(2000)));
            tokio::pin!(leave);
            loop {
                let item = tokio::select! {
                    biased;
                    () = &mut leave => break,
                    item = stream.next() => item.expect("a stream ends with an error"),
                };
                match item {
                    Ok(Watched { changes, applied_index }) => {
                        assert!(changes.iter().all(|change| (next..=applied_index).contains(&change.revision)));
                        seen.extend(changes);
                        next = applied_index + 1;
                    }
                    Err(WatchError::Read(_)) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        if next > end.load(SeqCst) {
            return seen;
        }
        at = at % 3 + 1;
        sleep(Duration::from_millis(5)).await;
    }
}

/// One of the things that happen to clusters.
async fn something_happens(cluster: &Cluster<Kv>) {
    let id = 1 + cluster.draw(3);
    match cluster.draw(6) {
        0 if cluster.node(id).is_some() => {
            cluster.crash(id).await;
            cluster.run_for(Duration::from_millis(cluster.draw(800))).await;
            cluster.restart(id).await;
        }
        1 => drop(cluster.node(id).map(|node| node.crash("applier", Crash::Panic))),
        2 => {
            let others: Vec<_> = cluster.ids().into_iter().filter(|other| *other != id).collect();
            cluster.network().partition(&[id], &others);
            cluster.run_for(Duration::from_millis(cluster.draw(6000))).await;
            cluster.network().heal();
        }
        _ => cluster.run_for(Duration::from_millis(cluster.draw(100))).await,
    }
}

async fn wanderers_see_all(seed: u64) {
    let cluster = Arc::new(Cluster::builder(Kv::default).nodes(3).seed(seed).start().await);
    let end = Arc::new(AtomicU64::new(LogIndex::MAX));
    let watchers: Vec<_> = (1..=3).map(|id| tokio::spawn(wander(cluster.clone(), id, end.clone()))).collect();
    for _ in 0..60 {
        let key = format!("{}{}", if cluster.draw(3) == 0 { "others/" } else { PREFIX }, cluster.draw(4));
        let command = match cluster.draw(4) {
            0 => Command::delete(key),
            _ => Command::put(key, cluster.draw(100).to_string()),
        };
        let _ = cluster.propose_on(1 + cluster.draw(3), command).await;
        if cluster.draw(4) == 0 {
            something_happens(&cluster).await;
        }
    }
    cluster.network().heal();
    // An actor may just be on its way down.
    let last = loop {
        if let Ok(written) = cluster.propose(Command::put("watched/end", "1")).await {
            break written.index;
        }
    };
    end.store(last, SeqCst);
    cluster.until_applied(last).await;
    let expected = remembered(&cluster.node(1).expect("it runs"), last).await;
    let revisions: BTreeSet<_> = expected.iter().map(|change| change.revision).collect();
    assert_eq!(revisions.len(), expected.len());
    for watcher in watchers {
        let seen = timeout(PATIENCE, watcher).await.expect("it comes to the end").expect("no panic");
        let seen: Vec<_> = seen.into_iter().filter(|change| change.revision <= last).collect();
        assert_eq!(seen, expected, "Rerun: SEED={seed} cargo test --test watch");
    }
}

// Fails when: a watch goes on behind what it was told, tells progress before what it looked at, or begins anew after the keepers' fall.
#[tokio::test(start_paused = true)]
async fn whoever_wanders_between_failing_nodes_sees_every_change_once_in_order() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..12).collect(),
    };
    for seed in seeds {
        wanderers_see_all(seed).await;
    }
}
