//! A cluster in one process: its nodes, what is done to them, and waiting for what comes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message as _;
use ractor::ActorRef;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, sleep, timeout};

use super::{
    application::{Application, Diary, Heard, Told, kill_tree},
    network::Network,
    setup::{ClusterBuilder, Disk, OwnSaboteur, address_of, cluster_name},
};
#[cfg(feature = "sqlite")]
use crate::testing::disk::SimulatedDisk;
use crate::{
    config::Config,
    error::{NodeError, ProposeError, ReadError},
    node::{Consistency, Node, NodeEvent, NodeRef, Observer, RestartPolicy, Status},
    raft::{Address, LogIndex, NodeId, Role, Term},
    state_machine::StateMachine,
    storage::MemoryStorage,
    transport::InProcess,
};

/// How long a wait may take before the test is given up. In simulated time that is nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at while nothing is reported.
const GLANCE: Duration = Duration::from_millis(2);

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
    observer: Option<Arc<dyn Observer>>,
    saboteur: Option<OwnSaboteur>,
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
            (*id, Seat { address: address.clone(), disk: new_disk(*id), joins: false })
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
            observer: builder.observer,
            saboteur: builder.saboteur,
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

/// Its nodes' lives.
impl<M: StateMachine> Cluster<M> {
    /// Cuts a node's power: all its actors are gone at once, and its disk keeps only what was durable. Does nothing to a
    /// node that does not run.
    pub async fn crash(&self, id: NodeId) {
        let Some(Running { node, application }) = self.running().remove(&id) else { return };
        self.0.network.set_down(id, true);
        #[cfg(feature = "sqlite")]
        if let Disk::Simulated(disk) = self.seat(id).disk {
            disk.power_loss(&mut *self.random());
        }
        self.end(id, node, application).await;
    }

    /// Kills a node's process: all its actors are gone at once, and its disk keeps what was written, durable or not.
    pub async fn kill(&self, id: NodeId) {
        let Some(Running { node, application }) = self.running().remove(&id) else { return };
        self.0.network.set_down(id, true);
        #[cfg(feature = "sqlite")]
        if let Disk::Simulated(disk) = self.seat(id).disk {
            disk.process_crash();
        }
        self.end(id, node, application).await;
    }

    async fn end(&self, id: NodeId, node: Node<M>, application: ActorRef<Heard>) {
        application.kill();
        self.within("every actor of a crashed node to be gone", kill_tree(&node)).await;
        self.0.network.set_down(id, false);
    }

    /// Shuts a node down in order, and waits until it is gone.
    ///
    /// # Errors
    /// It had stopped by itself before, because of this.
    pub async fn stop(&self, id: NodeId) -> Result<(), NodeError> {
        let Some(Running { node, application }) = self.running().remove(&id) else { return Ok(()) };
        let stopped = self.within(&format!("node {id} to shut down"), node.shutdown()).await;
        application.stop(None);
        let _ = application.wait(None).await;
        stopped
    }

    /// Starts a node that is none of the first members, on an empty disk: it asks those that run to be added, and this
    /// returns when it was. It catches up and becomes a voter by itself.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn join(&self, id: NodeId) -> Node<M> {
        self.try_join(id).await.unwrap_or_else(|error| panic!("node {id} does not join: {error}"))
    }

    /// As [`join`](Cluster::join), where it may be refused.
    ///
    /// # Errors
    /// What [`spawn_linked`](crate::node::Builder::spawn_linked) says.
    pub async fn try_join(&self, id: NodeId) -> Result<Node<M>, NodeError> {
        let (address, disk) = (self.address(id), (self.0.new_disk)(id));
        self.seats().entry(id).or_insert(Seat { address, disk, joins: true }).joins = true;
        self.try_restart(id).await
    }

    /// Cuts a node's power, and gives it an empty disk.
    pub async fn wipe(&self, id: NodeId) {
        self.crash(id).await;
        let disk = (self.0.new_disk)(id);
        if let Some(seat) = self.seats().get_mut(&id) {
            seat.disk = disk;
        }
    }

    /// Where a node of this number is, or would be.
    pub fn address(&self, id: NodeId) -> Address {
        address_of(id)
    }

    /// Starts a node from its disk. One that still runs is crashed before.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&self, id: NodeId) -> Node<M> {
        self.try_restart(id).await.unwrap_or_else(|error| panic!("node {id} does not start: {error}"))
    }

    /// As [`restart`](Cluster::restart), for a disk that may refuse.
    ///
    /// # Errors
    /// What [`spawn_linked`](crate::node::Builder::spawn_linked) says.
    pub async fn try_restart(&self, id: NodeId) -> Result<Node<M>, NodeError> {
        self.crash(id).await;
        let (inner, factory) = (&self.0, self.0.factory.clone());
        let seed = self.random().random();
        let Seat { address, disk, joins } = self.seat(id);
        let builder = Node::builder(id, move || factory());
        let builder = if joins {
            let others: Vec<_> =
                self.seats().iter().filter(|(other, _)| **other != id).map(|(_, seat)| seat.address.clone()).collect();
            builder.join(others).listen(address)
        } else {
            builder.cluster(inner.members.clone()).cluster_name(inner.name.clone())
        };
        let builder = builder
            .config(inner.config.clone())
            .restart_policy(inner.policy)
            .transport(inner.transport.clone())
            .seed(seed);
        let builder = match &inner.observer {
            Some(observer) => builder.observer(observer.clone()),
            None => builder,
        };
        let builder = match &inner.saboteur {
            Some(make) => builder.sabotage(make(id)),
            None => builder,
        };
        let builder = match &disk {
            Disk::Memory(storage) => builder.storage(storage.clone()),
            Disk::Own(storage) => builder.storage(storage.clone()),
            #[cfg(feature = "sqlite")]
            Disk::Simulated(disk) => builder.storage(disk.storage()),
        };
        let application = Application::start(id, inner.diary.clone()).await;
        let started = self.within(&format!("node {id} to start"), builder.spawn_linked(application.get_cell())).await;
        if started.is_err() {
            application.stop(None);
            let _ = application.wait(None).await;
        }
        let node = started?;
        Application::subscribe(&application, &node);
        self.running().insert(id, Running { node: node.clone(), application });
        Ok(node)
    }
}

/// Using it.
impl<M: StateMachine> Cluster<M> {
    /// Proposes to the leader, which is waited for.
    ///
    /// # Errors
    /// As for [`Node::propose`].
    pub async fn propose(&self, command: M::Command) -> Result<Committed<M::Output>, ProposeError> {
        let leader = self.leader().await;
        self.propose_on(leader, command).await
    }

    /// Proposes to a certain node, which forwards the command if it does not lead.
    ///
    /// # Errors
    /// As for [`Node::propose`]; `Unavailable` if the node does not run.
    ///
    /// # Panics
    /// If there is no answer a second after the request's timeout: no caller may hang.
    pub async fn propose_on(&self, id: NodeId, command: M::Command) -> Result<Committed<M::Output>, ProposeError> {
        let Some(node) = self.node(id) else { return Err(ProposeError::Unavailable { node: id }) };
        let node: &NodeRef = &node;
        let answer = node.propose(command.encode_to_vec().into(), true, node.flow().new_trace());
        let applied = self.promptly(&format!("node {id} to answer a proposal"), answer).await?;
        let output = M::Output::decode(applied.output).expect("the state machine's own output");
        Ok(Committed { output, index: applied.index })
    }

    /// Asks the state machine of a certain node, and tells which index the answer is of.
    ///
    /// # Errors
    /// As for [`Node::read`]; `Unavailable` if the node does not run.
    ///
    /// # Panics
    /// If there is no answer a second after the request's timeout: no caller may hang.
    pub async fn read_on<R: Send + 'static>(
        &self,
        id: NodeId,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), ReadError> {
        let Some(node) = self.node(id) else { return Err(ReadError::Unavailable { node: id }) };
        self.promptly(&format!("node {id} to answer a read"), node.read_at(consistency, query)).await
    }

    /// What a node's state machine holds now, however old.
    ///
    /// # Panics
    /// If the node does not run.
    pub async fn look<R: Send + 'static>(&self, id: NodeId, query: impl FnOnce(&M) -> R + Send + 'static) -> R {
        let seen = self.read_on(id, Consistency::Stale, query).await;
        seen.unwrap_or_else(|error| panic!("node {id} cannot be looked into: {error}")).0
    }

    /// What a node is; `None` while it does not run.
    pub fn status(&self, id: NodeId) -> Option<Status> {
        self.node(id).map(|node| node.status())
    }

    /// The leader that a majority follows, once there is one.
    pub async fn leader(&self) -> NodeId {
        self.until("a leader that a majority follows", |cluster| cluster.known_leader()).await
    }

    /// The leader that a majority follows now.
    pub fn known_leader(&self) -> Option<NodeId> {
        let statuses: Vec<_> = self.ids().into_iter().filter_map(|id| self.status(id)).collect();
        let leaders = statuses.iter().filter(|status| status.role == Role::Leader);
        let leader = leaders.max_by_key(|status| status.term)?;
        let voters = &leader.membership.voters;
        let follows = |status: &&Status| status.term == leader.term && status.leader == Some(leader.id);
        let following = statuses.iter().filter(follows).filter(|status| voters.contains_key(&status.id)).count();
        (following > voters.len() / 2).then_some(leader.id)
    }

    /// What happened to the nodes so far, as their subscriber was told.
    pub fn events(&self) -> Vec<(NodeId, NodeEvent)> {
        self.0.diary.events()
    }

    /// How nodes ended so far, as their supervisors were told. Crashes of whole nodes are not among them.
    pub fn ends(&self) -> Vec<(NodeId, Told)> {
        self.0.diary.ends()
    }

    /// Who led in which term. "At most one leader can be elected in a given term" (§5.2).
    pub fn leaders(&self) -> BTreeMap<Term, BTreeSet<NodeId>> {
        let mut leaders: BTreeMap<Term, BTreeSet<NodeId>> = BTreeMap::new();
        for (id, event) in self.events() {
            if let NodeEvent::RoleChanged { role: Role::Leader, term, .. } = event {
                leaders.entry(term).or_default().insert(id);
            }
        }
        leaders
    }
}

/// Waiting.
impl<M: StateMachine> Cluster<M> {
    /// Waits until `condition` gives something, and returns it.
    ///
    /// # Panics
    /// After 60 seconds, with `what` was awaited and what each node is.
    pub async fn until<T>(&self, what: &str, condition: impl FnMut(&Self) -> Option<T>) -> T {
        self.until_within(PATIENCE, what, condition).await
    }

    /// As [`until`](Cluster::until), with another deadline.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn until_within<T>(
        &self,
        deadline: Duration,
        what: &str,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let began = Instant::now();
        loop {
            let written = self.0.diary.written().notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if let Some(found) = condition(self) {
                return found;
            }
            if began.elapsed() >= deadline {
                self.give_up(what, deadline);
            }
            // A report, or a glance: not everything is reported.
            let _ = timeout(GLANCE, written).await;
        }
    }

    /// Waits until every node that runs has applied this.
    pub async fn until_applied(&self, index: LogIndex) {
        let what = format!("every running node to have applied {index}");
        self.until(&what, |cluster| {
            let mut statuses = cluster.ids().into_iter().filter_map(|id| cluster.status(id));
            statuses.all(|status| status.applied_index >= index).then_some(())
        })
        .await;
    }

    /// Waits until the log says which disk each server has. From then on only what is proposed or ordered adds entries.
    pub async fn acquainted(&self) {
        self.until("the log to know the disks of all servers", |cluster| {
            let leader = cluster.status(cluster.known_leader()?)?;
            let known = |id| leader.membership.incarnations.contains_key(&id);
            let settled = leader.membership.addresses().all(|(id, _)| known(id));
            (settled && leader.commit_index == leader.last_index).then_some(())
        })
        .await;
    }

    /// Lets time pass.
    pub async fn run_for(&self, time: Duration) {
        sleep(time).await;
    }

    async fn promptly<T>(&self, what: &str, answer: impl Future<Output = T>) -> T {
        self.within_time(self.0.config.request_timeout + Duration::from_secs(1), what, answer).await
    }

    async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        self.within_time(PATIENCE, what, future).await
    }

    async fn within_time<T>(&self, deadline: Duration, what: &str, future: impl Future<Output = T>) -> T {
        match timeout(deadline, future).await {
            Ok(output) => output,
            Err(_) => self.give_up(what, deadline),
        }
    }

    fn give_up(&self, what: &str, deadline: Duration) -> ! {
        panic!("awaited {deadline:?} in vain: {what}\n{}", self.describe());
    }

    /// One line for each node: what it is, and how it ended if it did.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for id in self.ids() {
            let line = match self.status(id) {
                Some(Status { role, term, leader, commit_index, applied_index, last_index, restarts, .. }) => format!(
                    "{role} in term {term}, leader {leader:?}, last {last_index}, committed {commit_index}, applied \
                     {applied_index}, {restarts} restarts"
                ),
                None => "not running".to_owned(),
            };
            let _ = writeln!(text, "  node {id}: {line}");
        }
        for (id, told) in self.ends() {
            let _ = writeln!(text, "  the supervisor of node {id} was told: {told:?}");
        }
        text
    }
}
