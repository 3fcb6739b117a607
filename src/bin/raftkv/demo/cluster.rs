//! The cluster of the demo: nodes as `serve` runs them, all in this process.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use ractor_raft::{
    Config,
    flow::{ActorReport, Status as ActorStatus},
    http::View,
    kv::Kv,
    node::{Builder, Crash, Node, RestartPolicy},
    raft::{NodeId, Role},
    rpc::Grpc,
};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::partition::Partition;
use crate::{
    client::Client,
    config::ClientSettings,
    error::{Failure, exit},
    serve::routes,
};

/// The longest that anything in the demo is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often a condition is looked at while it is waited for.
const GLANCE: Duration = Duration::from_millis(1);

/// The demo kills far more than a healthy node would ever see.
const PATIENT: RestartPolicy = RestartPolicy { budget: 1000, window: Duration::from_secs(60) };

/// Entries that a log keeps behind a snapshot: so few that a new node has to be sent the snapshot.
const TRAILING: u64 = 10;

/// All nodes, running or not.
pub struct Cluster {
    /// The cluster's first members: what its identity is made of, whoever joins or leaves.
    first: BTreeMap<NodeId, String>,
    /// Where each member is.
    pub members: BTreeMap<NodeId, String>,
    /// Those that run.
    pub nodes: BTreeMap<NodeId, Node<Kv>>,
    /// Between them.
    pub network: Partition,
    /// What the page shows.
    view: watch::Sender<View>,
    begun: Instant,
    data: PathBuf,
    /// Removes the directory at the end, if it is ours.
    temporary: Option<TempDir>,
}

impl Cluster {
    /// Starts `count` nodes, each on a port of its own.
    pub async fn start(count: u64, data: Option<PathBuf>) -> Result<Self, Failure> {
        let begun = Instant::now();
        let (data, temporary) = directory(data)?;
        let mut members = BTreeMap::new();
        let mut listeners = BTreeMap::new();
        for id in 1..=count {
            let (listener, address) = port()?;
            members.insert(id, address);
            listeners.insert(id, listener);
        }
        let (first, nodes, network) = (members.clone(), BTreeMap::new(), Partition::default());
        let (view, _) = watch::channel(View::default());
        let mut cluster = Cluster { first, members, nodes, network, view, begun, data, temporary };
        for (id, listener) in listeners {
            cluster.start_node(id, Grpc::with_listener(listener)).await?;
        }
        Ok(cluster)
    }

    /// Starts one more node, which joins the others, and returns its number once it belongs to them. It may have to catch up
    /// still.
    pub async fn join(&mut self) -> Result<NodeId, Failure> {
        let id = self.members.keys().next_back().map_or(1, |last| last + 1);
        let (listener, address) = port()?;
        let others = self.members.values().cloned().collect::<Vec<_>>();
        let node = self.builder(id, Grpc::with_listener(listener)).join(others).advertise(address.clone());
        self.nodes.insert(id, node.spawn().await?);
        self.members.insert(id, address);
        self.show();
        Ok(id)
    }

    /// Stops a node that was removed, for good.
    pub async fn dismiss(&mut self, id: NodeId) -> Result<(), Failure> {
        self.stop_node(id).await?;
        self.members.remove(&id);
        self.show();
        Ok(())
    }

    /// Starts a stopped node again, from its disk, at its old address.
    pub async fn restart(&mut self, id: NodeId) -> Result<(), Failure> {
        self.start_node(id, Grpc::new()).await
    }

    async fn start_node(&mut self, id: NodeId, transport: Grpc) -> Result<(), Failure> {
        let node = self.builder(id, transport).cluster(self.first.clone()).spawn().await?;
        self.nodes.insert(id, node);
        self.show();
        Ok(())
    }

    /// Which nodes there are, as it changes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// The page reads one of those that run without the network, and asks the others as anyone could.
    fn show(&self) {
        let node = self.nodes.values().next().map(|node| node.as_ref().clone());
        self.view.send_replace(View { node, members: self.members.clone() });
    }

    fn builder(&self, id: NodeId, transport: Grpc) -> Builder<Kv> {
        let (_, health) = tonic_health::server::health_reporter();
        let transport = transport.services(move |node| routes(node, health.clone()));
        Node::builder(id, Kv::default)
            .data_dir(self.data.join(format!("node-{id}")))
            .transport(self.network.over(transport))
            .config(config())
            .restart_policy(PATIENT)
    }

    /// Stops one node in an orderly way.
    pub async fn stop_node(&mut self, id: NodeId) -> Result<(), Failure> {
        let Some(node) = self.nodes.remove(&id) else { return Ok(()) };
        self.show();
        Ok(node.shutdown().await?)
    }

    /// Stops all of them. What fails now is past helping.
    pub async fn stop(&mut self) {
        while let Some((_, node)) = self.nodes.pop_last() {
            let _ = node.shutdown().await;
        }
        drop(self.temporary.take());
    }

    /// How long ago the first node began to start.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Where the data is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Who leads, if all running nodes agree; but one that is cut off is not asked.
    pub fn leader(&self) -> Option<NodeId> {
        let asked = self.nodes.iter().filter(|(id, _)| Some(**id) != self.network.node());
        let statuses = asked.map(|(_, node)| node.status()).collect::<Vec<_>>();
        let leader = statuses.iter().find(|status| status.role == Role::Leader)?;
        let agreed =
            |status: &ractor_raft::node::Status| (status.term, status.leader) == (leader.term, Some(leader.id));
        statuses.iter().all(agreed).then_some(leader.id)
    }

    /// Waits until all running nodes agree on a leader.
    pub async fn await_leader(&self) -> Result<NodeId, Failure> {
        wait_for("a leader that all agree on", || self.leader()).await
    }

    /// A node that runs.
    pub fn node(&self, id: NodeId) -> &Node<Kv> {
        &self.nodes[&id]
    }

    /// A node that runs, other than this one.
    pub fn another(&self, id: NodeId) -> NodeId {
        self.nodes.keys().copied().find(|other| *other != id).expect("the demo has three nodes or more")
    }

    /// A client of all running nodes; of this one first, if one is named.
    pub fn client(&self, first: Option<NodeId>) -> Client {
        let others = self.nodes.keys().copied().filter(|id| Some(*id) != first);
        let endpoints = first.into_iter().chain(others).map(|id| self.members[&id].clone()).collect();
        Client::new(&ClientSettings { endpoints, timeout: PATIENCE })
    }

    /// A client of one node alone.
    pub fn client_of(&self, id: NodeId) -> Client {
        self.hasty_client_of(id, PATIENCE)
    }

    /// The same, which waits no longer than this for an answer.
    pub fn hasty_client_of(&self, id: NodeId, timeout: Duration) -> Client {
        Client::new(&ClientSettings { endpoints: vec![self.members[&id].clone()], timeout })
    }

    /// What node `id` knows about its actor at `path`.
    pub fn actor(&self, id: NodeId, path: &str) -> Option<ActorReport> {
        self.node(id).tree().into_iter().find(|actor| actor.path == path)
    }

    /// Kills the actor at `path` of node `id`, as a bug would, and waits until its successor is there.
    pub async fn crash(&self, id: NodeId, path: &str) -> Result<Duration, Failure> {
        let before = self.actor(id, path).map_or(0, |actor| actor.incarnation);
        let killed_at = Instant::now();
        if !self.node(id).crash(path, Crash::Kill) {
            return Err(Failure::other(format!("node {id} has no actor {path:?}"), "nobody lives there"));
        }
        let is_back = || {
            let actor = self.actor(id, path)?;
            (actor.incarnation > before && actor.status == ActorStatus::Running).then(|| killed_at.elapsed())
        };
        wait_for(&format!("{path} of node {id} to come back"), is_back).await
    }
}

/// Looks until there is something to see.
///
/// # Errors
/// There was not, for as long as [`PATIENCE`].
pub async fn wait_for<T>(what: &str, look: impl Fn() -> Option<T>) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        sleep(GLANCE).await;
    }
    Err(Failure::other(format!("waited {PATIENCE:?} for {what}"), "it did not happen"))
}

/// Small thresholds, so that there is something to see; and nobody is elected by accident on a busy machine.
fn config() -> Config {
    let mut config = Config::default();
    config.snapshot_trailing = TRAILING;
    config.election_timeout_min = Duration::from_millis(300);
    config.election_timeout_max = Duration::from_millis(600);
    config
}

/// A port of its own on loopback, and its address.
fn port() -> Result<(TcpListener, String), Failure> {
    let no_port = |error: std::io::Error| Failure::other("no port could be had on 127.0.0.1", error.to_string());
    let listener = TcpListener::bind("127.0.0.1:0").map_err(no_port)?;
    let address = listener.local_addr().map_err(no_port)?.to_string();
    Ok((listener, address))
}

fn directory(data: Option<PathBuf>) -> Result<(PathBuf, Option<TempDir>), Failure> {
    let Some(data) = data else {
        let temporary = tempfile::Builder::new().prefix("raftkv-demo-").tempdir();
        let temporary =
            temporary.map_err(|error| Failure::other("no temporary directory could be made", error.to_string()))?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    let used = std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        let what = format!("--data {} is not empty", data.display());
        let why = "the demo starts a new cluster on new ports, which old data would not belong to";
        return Err(Failure::new(20, exit::USAGE, what, why, "name a directory that is empty or not there yet"));
    }
    Ok((data, None))
}
