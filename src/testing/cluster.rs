//! A cluster in one process: its nodes, what is done to them, and waiting for what comes of it.

mod calls;
mod faults;
mod lives;
mod waiting;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ractor::ActorRef;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    application::{Diary, Heard},
    network::Network,
    pace::Pace,
    setup::{ClusterBuilder, Disk, OwnSaboteur, cluster_name},
    strikes::Strikes,
};
#[cfg(feature = "sqlite")]
use crate::testing::disk::SimulatedDisk;
use crate::{
    config::Config,
    node::{Node, Observer, RestartPolicy},
    raft::{Address, LogIndex, NodeId},
    state_machine::StateMachine,
    storage::MemoryStorage,
    transport::InProcess,
};

/// Sets the seed of the strikes apart.
const STRIKES: u64 = 0x57A1_CE55;

/// A cluster in one process. Its clones are the same cluster.
pub struct Cluster<M>(Arc<Inner<M>>);

struct Inner<M> {
    factory: Arc<dyn Fn() -> M + Send + Sync>,
    name: String,
    /// Its first members.
    members: BTreeMap<NodeId, Address>,
    seats: Mutex<BTreeMap<NodeId, Seat>>,
    new_disk: Box<dyn Fn(NodeId) -> Disk + Send + Sync>,
    config: Config,
    policy: RestartPolicy,
    recorded: bool,
    observer: Option<Arc<dyn Observer>>,
    saboteur: Option<OwnSaboteur>,
    strikes: Strikes,
    clock_rate: Arc<dyn Fn(NodeId) -> f64 + Send + Sync>,
    network: Network,
    transport: InProcess,
    running: Mutex<BTreeMap<NodeId, Running<M>>>,
    random: Mutex<SmallRng>,
    diary: Diary,
}

/// The place of a node, whether it runs or not.
#[derive(Clone)]
struct Seat {
    address: Address,
    disk: Disk,
    pace: Pace,
    /// It is none of the first members, or is to be taken for none.
    joins: bool,
}

struct Running<M> {
    node: Node<M>,
    application: ActorRef<Heard>,
}

/// What a proposal came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<O> {
    /// What the state machine returned.
    pub output: O,
    /// Where in the log the command stands.
    pub index: LogIndex,
}

impl<M> Clone for Cluster<M> {
    fn clone(&self) -> Self {
        Cluster(self.0.clone())
    }
}

impl<M: StateMachine> Cluster<M> {
    /// Begins to describe a cluster. `factory` makes an empty state machine; each node calls it at each start.
    pub fn builder(factory: impl Fn() -> M + Send + Sync + 'static) -> ClusterBuilder<M> {
        ClusterBuilder::new(factory)
    }

    pub(super) fn new(builder: ClusterBuilder<M>) -> Self {
        let (members, network, new_disk) = (builder.members(), builder.network(), builder.disks());
        let seat = |(id, address): (&NodeId, &Address)| {
            (
                *id,
                Seat {
                    address: address.clone(),
                    disk: new_disk(*id),
                    pace: Pace::new(builder.seed ^ *id),
                    joins: false,
                },
            )
        };
        let seats = members.iter().map(seat).collect();
        Cluster(Arc::new(Inner {
            name: cluster_name(),
            transport: network.transport(),
            network,
            seats: Mutex::new(seats),
            members,
            running: Mutex::default(),
            random: Mutex::new(SmallRng::seed_from_u64(!builder.seed)),
            diary: Diary::new(),
            new_disk,
            factory: builder.factory,
            config: builder.config,
            policy: builder.policy,
            recorded: builder.recorded,
            observer: builder.observer,
            saboteur: builder.saboteur,
            strikes: Strikes::new(builder.seed.wrapping_add(STRIKES)),
            clock_rate: builder.clock_rate,
        }))
    }

    /// The numbers of its nodes, running or not.
    pub fn ids(&self) -> Vec<NodeId> {
        self.seats().keys().copied().collect()
    }

    /// The handle of a node; `None` while it does not run.
    pub fn node(&self, id: NodeId) -> Option<Node<M>> {
        self.running().get(&id).map(|running| running.node.clone())
    }

    /// The network between the nodes.
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// The disk of a node, where it is one in memory.
    ///
    /// # Panics
    /// If there is no such node, or if the cluster was built with other disks.
    pub fn memory(&self, id: NodeId) -> MemoryStorage {
        match self.seat(id).disk {
            Disk::Memory(storage) => storage,
            _ => panic!("node {id} has another kind of disk"),
        }
    }

    /// The disk of a node, where it is a simulated one.
    ///
    /// # Panics
    /// If there is no such node, or if the cluster was built with other disks.
    #[cfg(feature = "sqlite")]
    pub fn disk(&self, id: NodeId) -> SimulatedDisk {
        match self.seat(id).disk {
            Disk::Simulated(disk) => disk,
            _ => panic!("node {id} has another kind of disk"),
        }
    }

    /// Draws from the cluster's seed, for the choices of a test.
    pub fn draw(&self, below: u64) -> u64 {
        self.random().random_range(0..below)
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seat>> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self, id: NodeId) -> Seat {
        self.seats().get(&id).cloned().unwrap_or_else(|| panic!("there is no node {id}"))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<NodeId, Running<M>>> {
        // Nothing can be half done in there.
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn random(&self) -> MutexGuard<'_, SmallRng> {
        self.0.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
