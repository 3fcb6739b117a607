//! From settings to a running tree.

mod seams;

use std::{any::TypeId, collections::BTreeMap, marker::PhantomData, path::PathBuf, sync::Arc, time::Duration};

use ractor::{ActorCell, SpawnErr};
use tokio::{sync::watch, time::Instant};

pub(crate) use self::seams::Seams;
use super::{
    Node, NodeRef, RestartPolicy,
    admission::{Admission, Intake},
    applier::Factory,
    changes::unroutable,
    child::await_namesake,
    joining::{be_added, cluster_to_join},
    shared::{Place, Progress, Shared, Standing},
    supervision::{Blueprint, Root},
};
use crate::{
    config::Config,
    error::{ChangeError, NodeError},
    flow::{self, Flow, Placement},
    raft::{Address, Membership, NodeId},
    state_machine::{Machine, StateMachine},
    storage::{Identity, Storage},
    transport::Transport,
};

/// Where the root stands in the tree.
const ROOT: &str = "node";

/// Settings of a node to be.
pub struct Builder<M> {
    id: NodeId,
    factory: Factory,
    members: BTreeMap<NodeId, Address>,
    cluster_name: Option<String>,
    join: Vec<Address>,
    advertise: Option<Address>,
    storage: Option<Arc<dyn Storage>>,
    transport: Option<Arc<dyn Transport>>,
    listen: Option<Address>,
    peer_addresses: BTreeMap<NodeId, Address>,
    config: Config,
    policy: RestartPolicy,
    seed: Option<u64>,
    recorded: bool,
    /// Where incidents are kept as well.
    incidents: Option<PathBuf>,
    seams: Seams,
    machine: PhantomData<fn() -> M>,
}

impl<M: StateMachine> Builder<M> {
    pub(crate) fn new(id: NodeId, factory: impl Fn() -> M + Send + Sync + 'static) -> Self {
        Builder {
            id,
            factory: Arc::new(move || Box::new(factory()) as Box<dyn Machine>),
            members: BTreeMap::new(),
            cluster_name: None,
            join: Vec::new(),
            advertise: None,
            storage: None,
            transport: None,
            listen: None,
            peer_addresses: BTreeMap::new(),
            config: Config::default(),
            policy: RestartPolicy::default(),
            seed: None,
            recorded: true,
            incidents: None,
            seams: Seams::default(),
            machine: PhantomData,
        }
    }

    /// The first members, the same on every node, in any order.
    pub fn cluster(mut self, members: impl IntoIterator<Item = (NodeId, impl Into<Address>)>) -> Self {
        self.members = members.into_iter().map(|(id, address)| (id, address.into())).collect();
        self
    }

    /// Tells clusters apart whose first members are the same. Without it the first members are the name.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = Some(name.into());
        self
    }

    /// Joins the cluster that any of these members belongs to, instead of being one of its first members: the node starts
    /// empty, asks to be added, catches up as a learner, and votes once it has. A node that belongs to its cluster already
    /// just starts, whatever stands here.
    pub fn join(mut self, members: impl IntoIterator<Item = impl Into<Address>>) -> Self {
        self.join = members.into_iter().map(Into::into).collect();
        self
    }

    /// Where the others reach a node that [joins](Builder::join). Without it that is where it listens.
    pub fn advertise(mut self, address: impl Into<Address>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// Keeps term, vote and log in SQLite, in this directory; it is made if it is not there. [Incidents](Flow::incidents) are kept
    /// there as well, in the directory `incidents`.
    #[cfg(feature = "sqlite")]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self.incidents = Some(path.join("incidents"));
        self.storage(crate::storage::SqliteStorage::new(path))
    }

    /// Keeps term, vote and log there.
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// Reaches the other nodes by it. gRPC if it is not set and built in.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Listens there instead of at its address in the membership.
    pub fn listen(mut self, address: impl Into<Address>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Dials that peer there instead of at its address in the membership: proxies, NAT.
    pub fn peer_address(mut self, id: NodeId, address: impl Into<Address>) -> Self {
        self.peer_addresses.insert(id, address.into());
        self
    }

    /// Timeouts and limits.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How many failures of an actor are healed before the node gives up.
    pub fn restart_policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// All the randomness of this node comes from this seed; drawn from the system without it.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Whether the flight recorder is on from the beginning, as it is without this.
    pub fn recorded(mut self, recorded: bool) -> Self {
        self.recorded = recorded;
        self
    }

    /// Starts the node under `supervisor`, which gets `ActorFailed` with a [`NodeError`] if the node gives up.
    ///
    /// # Errors
    /// A setting is missing or wrong, the store cannot be opened, the address cannot be had, or a node with this id and
    /// cluster runs in this process.
    pub async fn spawn_linked(self, supervisor: ActorCell) -> Result<Node<M>, NodeError> {
        self.start(Some(supervisor)).await
    }

    /// Starts the node without a supervisor; [`NodeRef::stopped`] tells if it gives up.
    ///
    /// # Errors
    /// As for [`spawn_linked`](Builder::spawn_linked).
    pub async fn spawn(self) -> Result<Node<M>, NodeError> {
        self.start(None).await
    }

    async fn start(mut self, supervisor: Option<ActorCell>) -> Result<Node<M>, NodeError> {
        let joining = std::mem::take(&mut self.join);
        if joining.is_empty() || !self.members.is_empty() {
            let blueprint = self.blueprint(None)?;
            let node = spawn_root(blueprint, supervisor).await?;
            node.ask_for_former_disk().await;
            return Ok(Node::new(node));
        }
        self.config.validate()?;
        let address = self.reached_at()?;
        let (storage, transport) = (self.take_storage()?, self.take_transport()?);
        let deadline = Instant::now() + self.config.request_timeout;
        let cluster_id = cluster_to_join(self.id, &storage, &transport, &joining, deadline).await?;
        (self.storage, self.transport) = (Some(storage), Some(transport));
        let node = spawn_root(self.blueprint(Some(cluster_id))?, supervisor).await?;
        if let Err(error) = be_added(&node, &address, &joining).await {
            // What it ended with is said already.
            let _ = node.shutdown().await;
            return Err(error);
        }
        Ok(Node::new(node))
    }

    /// Where the others are to reach a node that joins (R012).
    fn reached_at(&mut self) -> Result<Address, NodeError> {
        let Some(address) = self.advertise.clone().or_else(|| self.listen.clone()) else {
            return Err(missing("advertise", "say where the others reach this node"));
        };
        if let Some(cause) = unroutable(&address) {
            let (id, what) = (self.id, format!("node {} cannot join a cluster", self.id));
            return Err(NodeError::Join { what, cause: ChangeError::Unroutable { id, address, cause } });
        }
        self.listen.get_or_insert_with(|| address.clone());
        Ok(address)
    }

    fn take_storage(&mut self) -> Result<Arc<dyn Storage>, NodeError> {
        self.storage.take().ok_or_else(|| missing("storage", "set a data directory, or a storage"))
    }

    fn take_transport(&mut self) -> Result<Arc<dyn Transport>, NodeError> {
        self.transport.take().or_else(default_transport).ok_or_else(|| missing("transport", "set one"))
    }

    /// `joined` is the cluster of a node that is none of its first members.
    fn blueprint(mut self, joined: Option<u64>) -> Result<Blueprint, NodeError> {
        self.config.validate()?;
        let own_address = match joined {
            None => self.members.get(&self.id).cloned().ok_or_else(|| self.no_cluster())?,
            Some(_) => self.listen.clone().unwrap_or_default(),
        };
        let (storage, transport) = (self.take_storage()?, self.take_transport()?);
        let members = Membership::of_voters(self.members.clone());
        let first_members = cluster_id(self.cluster_name.as_deref(), &self.members);
        // One that was restored for these first members has an id of its own; any other store is compared when it is opened.
        let restoration = storage.restoration()?.filter(|restoration| restoration.first_members == first_members);
        let bootstrapped = restoration.map_or(first_members, |restoration| restoration.cluster_id);
        let cluster_id = joined.unwrap_or(bootstrapped);
        let seed = self.seed.unwrap_or_else(rand::random);
        let settings = flow::Settings { seed, ..flow::Settings::default() };
        let flow = Flow::with_settings(format!("raft/{cluster_id:016x}/{}", self.id), settings);
        flow.set_recording(self.recorded);
        if let Some(directory) = self.incidents {
            flow.keep_incidents_in(directory);
        }
        let shared = Arc::new(Shared {
            identity: Identity { cluster_id, node_id: self.id },
            listen_address: self.listen.unwrap_or(own_address),
            peer_addresses: self.peer_addresses,
            transport,
            clock: self.seams.clock(),
            admission: Admission::new(self.config.max_pending, self.config.max_pending_bytes),
            intake: Arc::new(Intake::new()),
            root: Default::default(),
            consensus: Place::nowhere(),
            applier: Place::nowhere(),
            log_store: Place::nowhere(),
            snapshot: Default::default(),
            standing: watch::Sender::new(Standing::starting(members.clone())),
            leader_known: Default::default(),
            membership_known: Default::default(),
            incarnation: Default::default(),
            known_disks: Default::default(),
            troubles: Default::default(),
            progress: Progress::default(),
            applied_waiters: Default::default(),
            restarts: Default::default(),
            disk_failure: Default::default(),
            verdict: Default::default(),
            stopping: watch::Sender::new(false),
            bound_address: Default::default(),
            client: flow.outside("client", 0),
            server: flow.outside("server", 0),
            machine: TypeId::of::<M>(),
            config: self.config,
            flow: self.seams.flow(flow),
            #[cfg(any(test, feature = "testing"))]
            seams: self.seams,
        });
        Ok(Blueprint { shared, storage, factory: self.factory, members, policy: self.policy, seed })
    }

    /// R003: there is nothing to bootstrap.
    fn no_cluster(&self) -> NodeError {
        let (value, fix) = if self.members.is_empty() {
            ("empty".to_owned(), format!("name its first members, node {} among them, or members to join", self.id))
        } else {
            let ids = self.members.keys().map(|id| id.to_string()).collect::<Vec<_>>().join(", ");
            (format!("nodes {ids}"), format!("add node {} with its address", self.id))
        };
        NodeError::Config { key: "cluster", value, fix }
    }
}

async fn spawn_root(blueprint: Blueprint, supervisor: Option<ActorCell>) -> Result<NodeRef, NodeError> {
    let shared = blueprint.shared.clone();
    await_namesake(&shared.flow, ROOT, Duration::from_secs(1)).await;
    match flow::spawn::<Root>(&shared.flow, ROOT, Placement::Runtime, blueprint, supervisor).await {
        Ok(_) => Ok(NodeRef::new(shared)),
        Err(SpawnErr::ActorAlreadyRegistered(_)) => Err(NodeError::Start {
            what: format!("node {} of cluster {:016x}", shared.id(), shared.identity.cluster_id),
            cause: "it runs in this process already".to_owned(),
        }),
        Err(SpawnErr::StartupFailed(cause)) => Err(match cause.downcast::<NodeError>() {
            Ok(error) => *error,
            Err(cause) => NodeError::Start { what: format!("node {}", shared.id()), cause: cause.to_string() },
        }),
        Err(other) => Err(NodeError::Start { what: format!("node {}", shared.id()), cause: other.to_string() }),
    }
}

fn missing(key: &'static str, fix: &str) -> NodeError {
    NodeError::Config { key, value: "not set".to_owned(), fix: fix.to_owned() }
}

/// gRPC, where it is built in.
fn default_transport() -> Option<Arc<dyn Transport>> {
    #[cfg(feature = "grpc")]
    return Some(Arc::new(crate::rpc::Grpc::new()));
    #[cfg(not(feature = "grpc"))]
    None
}

/// The same on every node, in every version: FNV-1a over the name, or over the first members by rising id.
pub(crate) fn cluster_id(name: Option<&str>, members: &BTreeMap<NodeId, Address>) -> u64 {
    let text = match name {
        Some(name) => name.to_owned(),
        None => members.iter().map(|(id, address)| format!("{id}={address}\n")).collect(),
    };
    fnv(&text)
}

/// FNV-1a.
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl Default for RestartPolicy {
    /// 5 failures of an actor within 10 seconds are healed.
    fn default() -> Self {
        RestartPolicy { budget: 5, window: Duration::from_secs(10) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when: anything in `cluster_id` changes. Stores on disk carry the number.
    #[test]
    fn the_cluster_id_never_changes() {
        let members = BTreeMap::from([(1, "127.0.0.1:7001".to_owned()), (2, "127.0.0.1:7002".to_owned())]);
        assert_eq!(format!("{:016x}", cluster_id(None, &members)), "a28bddd2631172fd");
        assert_eq!(format!("{:016x}", cluster_id(Some("bank"), &members)), "9a1adf9baa01f4b7");
    }
}
