//! From settings to a running cluster.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{cluster::Cluster, network::Network};
#[cfg(feature = "sqlite")]
use crate::testing::disk::SimulatedDisk;
use crate::{
    config::Config,
    flow::Saboteur,
    node::{Observer, RestartPolicy},
    raft::{Address, NodeId},
    state_machine::StateMachine,
    storage::{MemoryStorage, Storage},
};

/// Settings of a cluster to be.
pub struct ClusterBuilder<M> {
    pub(super) factory: Arc<dyn Fn() -> M + Send + Sync>,
    pub(super) size: u64,
    pub(super) seed: u64,
    pub(super) config: Config,
    pub(super) policy: RestartPolicy,
    #[cfg(feature = "sqlite")]
    pub(super) simulated_disks: bool,
    pub(super) own: Option<OwnStorage>,
    pub(super) recorded: bool,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) saboteur: Option<OwnSaboteur>,
    pub(super) clock_rate: Arc<dyn Fn(NodeId) -> f64 + Send + Sync>,
}

/// Makes the storage of a node.
type OwnStorage = Arc<dyn Fn(NodeId) -> Arc<dyn Storage> + Send + Sync>;

/// Makes what decides which actors of a node die.
pub(super) type OwnSaboteur = Arc<dyn Fn(NodeId) -> Arc<dyn Saboteur> + Send + Sync>;

/// What one node keeps over its crashes.
#[derive(Clone)]
pub(super) enum Disk {
    Memory(MemoryStorage),
    #[cfg(feature = "sqlite")]
    Simulated(SimulatedDisk),
    Own(Arc<dyn Storage>),
}

impl Disk {
    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Disk::Memory(storage) => Arc::new(storage.clone()),
            #[cfg(feature = "sqlite")]
            Disk::Simulated(disk) => Arc::new(disk.storage()),
            Disk::Own(storage) => storage.clone(),
        }
    }
}

impl<M: StateMachine> ClusterBuilder<M> {
    pub(super) fn new(factory: impl Fn() -> M + Send + Sync + 'static) -> Self {
        ClusterBuilder {
            factory: Arc::new(factory),
            size: 3,
            seed: 0,
            config: Config::default(),
            policy: RestartPolicy::default(),
            #[cfg(feature = "sqlite")]
            simulated_disks: false,
            own: None,
            recorded: true,
            observer: None,
            saboteur: None,
            clock_rate: Arc::new(|_| 1.0),
        }
    }

    /// How many voters it has, numbered from 1. 3 without this.
    pub fn nodes(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    /// All chance, of the nodes, the network and the disks, comes from this. 0 without it.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Timeouts and limits of every node.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The restart policy of every node.
    pub fn restart_policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Runs the real SQLite store on disks that lose in a crash what was not synced. Without it each node has a disk in
    /// memory on which every write is durable at once.
    #[cfg(feature = "sqlite")]
    pub fn simulated_disks(mut self) -> Self {
        self.simulated_disks = true;
        self
    }

    /// Gives each node a storage of your own, which must survive a crash of the node by itself.
    pub fn storage<S: Storage>(mut self, make: impl Fn(NodeId) -> S + Send + Sync + 'static) -> Self {
        self.own = Some(Arc::new(move |id| Arc::new(make(id))));
        self
    }

    /// Whether the nodes' flight recorders are on, as they are without this. Off, many short runs take less time.
    pub fn recorded(mut self, recorded: bool) -> Self {
        self.recorded = recorded;
        self
    }

    /// Shows every step of every node's rules to `observer`.
    pub fn observed_by(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Lets actors die at certain messages: `make` gives each life of each node its saboteur.
    pub fn sabotaged_by<S: Saboteur>(mut self, make: impl Fn(NodeId) -> S + Send + Sync + 'static) -> Self {
        self.saboteur = Some(Arc::new(move |id| Arc::new(make(id))));
        self
    }

    /// Lets the clock of each node run at a rate of its own, asked for at each start: 1.1 is a tenth too fast. Leases hold
    /// while no clock runs faster than another by more than a tenth.
    pub fn clock_rates(mut self, rate: impl Fn(NodeId) -> f64 + Send + Sync + 'static) -> Self {
        self.clock_rate = Arc::new(rate);
        self
    }

    /// Starts all nodes.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start(self) -> Cluster<M> {
        let cluster = Cluster::new(self);
        for id in cluster.ids() {
            cluster.restart(id).await;
        }
        cluster
    }

    /// Makes an empty disk for a node.
    pub(super) fn disks(&self) -> Box<dyn Fn(NodeId) -> Disk + Send + Sync> {
        if let Some(make) = self.own.clone() {
            return Box::new(move |id| Disk::Own(make(id)));
        }
        #[cfg(feature = "sqlite")]
        if self.simulated_disks {
            return Box::new(|_| Disk::Simulated(SimulatedDisk::new()));
        }
        Box::new(|_| Disk::Memory(MemoryStorage::new()))
    }

    pub(super) fn members(&self) -> BTreeMap<NodeId, Address> {
        (1..=self.size).map(|id| (id, address_of(id))).collect()
    }

    pub(super) fn network(&self) -> Network {
        Network::new(self.seed)
    }
}

pub(super) fn address_of(id: NodeId) -> Address {
    format!("n{id}:1")
}

/// Names of actors are process-wide, so each cluster of a process has its own.
pub(super) fn cluster_name() -> String {
    static CLUSTERS: AtomicU64 = AtomicU64::new(1);
    format!("testing {}", CLUSTERS.fetch_add(1, Relaxed))
}
