//! What runs on the simulated hosts: an application with a node under it, and clients.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use prost::Message as _;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_raft::{
    Config, Node,
    error::NodeError,
    node::{Consistency, NodeEvent},
    raft::NodeId,
    rpc::{ClusterClient, Grpc, SessionClient, channel},
    storage::MemoryStorage,
    testing::{Ledger, Line, Written},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    network::{Breaks, HostSockets},
    record::{Onlooker, Operation, Record, host},
};

/// No caller may wait longer than its patience and this.
const GRACE: Duration = Duration::from_secs(1);

/// How long a session's command is tried.
const PATIENCE: Duration = Duration::from_secs(4);

/// Something to be done on a node's host.
pub type Order = Box<dyn FnOnce(Node<Ledger>) -> BoxFuture<'static, ()> + Send>;

/// The place of a node, whether it runs or not.
pub struct Seat {
    pub id: NodeId,
    pub cluster: Arc<Blueprint>,
    pub storage: MemoryStorage,
    present: Mutex<Present>,
}

/// What a seat has in its present life.
#[derive(Default)]
struct Present {
    lives: u64,
    node: Option<Node<Ledger>>,
    orders: Option<mpsc::UnboundedSender<Order>>,
}

/// What all nodes of a cluster have in common.
pub struct Blueprint {
    pub name: String,
    pub members: BTreeMap<NodeId, String>,
    pub config: Config,
    pub seed: u64,
    pub record: Record,
    pub breaks: Breaks,
    /// One of so many snapshots on their way breaks. 0: none.
    pub breaks_one_transfer_of: u32,
    /// Clients on each node's host.
    pub clients: u64,
}

impl Seat {
    pub fn new(id: NodeId, cluster: Arc<Blueprint>) -> Self {
        Seat { id, cluster, storage: MemoryStorage::new(), present: Mutex::default() }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: it does not run, or not yet.
    pub fn node(&self) -> Option<Node<Ledger>> {
        self.present().node.clone()
    }

    /// Takes it for gone.
    pub fn leave(&self) -> Option<(Node<Ledger>, mpsc::UnboundedSender<Order>)> {
        let mut present = self.present();
        present.node.take().zip(present.orders.take())
    }

    /// Lets something be done on its host. Returns whether it will be, unless it falls.
    pub fn order(&self, order: Order) -> bool {
        self.present().orders.as_ref().is_some_and(|orders| orders.send(order).is_ok())
    }
}

/// The software of a node's host.
pub async fn live(seat: Arc<Seat>) -> turmoil::Result {
    let Blueprint { name, members, config, record, breaks, .. } = &*seat.cluster;
    let life = {
        let mut present = seat.present();
        present.lives += 1;
        present.lives
    };
    let mut random = SmallRng::seed_from_u64(seat.cluster.seed ^ (seat.id << 32) ^ (life << 48));
    let witness = record.witness.clone();
    let mid_transfer = Some((breaks.clone(), seat.cluster.breaks_one_transfer_of));
    let (application, _) = Actor::spawn(None, Application { node: seat.id, record: record.clone() }, ()).await?;
    let node = Node::builder(seat.id, move || Ledger::watched_by(&witness))
        .cluster(members.clone())
        .cluster_name(name.clone())
        .config(config.clone())
        .storage(seat.storage.clone())
        .transport(Grpc::over(HostSockets { host: host(seat.id), breaks: breaks.clone() }))
        .seed(random.random())
        .observer(Arc::new(Onlooker::new(record.clone(), life, random.random(), mid_transfer)))
        .spawn_linked(application.get_cell())
        .await?;
    node.subscribe(&application, Heard);
    let (orders, mut queue) = mpsc::unbounded_channel();
    {
        let mut present = seat.present();
        (present.node, present.orders) = (Some(node.clone()), Some(orders));
    }
    for client in 0..seat.cluster.clients {
        let name = format!("n{}.{life}.{client}", seat.id);
        tokio::spawn(work_inside(name, node.clone(), record.clone(), random.random()));
    }
    while let Some(order) = queue.recv().await {
        tokio::spawn(order(node.clone()));
    }
    std::future::pending().await
}

/// The software of a host on which there are only clients.
pub async fn use_it(cluster: Arc<Blueprint>) -> turmoil::Result {
    let sockets = HostSockets { host: "user".to_owned(), breaks: cluster.breaks.clone() };
    let session = SessionClient::connect_over(sockets.clone(), cluster.members.values().cloned())?;
    let mut random = SmallRng::seed_from_u64(!cluster.seed);
    for client in 0..2 {
        let (record, session) = (cluster.record.clone(), session.clone().with_timeout(PATIENCE));
        tokio::spawn(work_in_session(format!("session.{client}"), session, record, random.random()));
    }
    drop(session);
    for address in cluster.members.values() {
        let client = ClusterClient::over(channel::lazy_over(&sockets, address)?, cluster.config.request_timeout);
        let name = format!("user of {address}");
        tokio::spawn(work_outside(
            name,
            client,
            cluster.config.request_timeout,
            cluster.record.clone(),
            random.random(),
        ));
    }
    std::future::pending().await
}

/// A session of a client on the present host.
pub fn session_on(host: &str, endpoints: impl IntoIterator<Item = String>) -> SessionClient {
    let sockets = HostSockets { host: host.to_owned(), breaks: Breaks::default() };
    SessionClient::connect_over(sockets, endpoints).expect("addresses")
}

/// A client is at work.
struct AtWork {
    name: String,
    record: Record,
    random: SmallRng,
    count: u64,
}

impl AtWork {
    fn new(name: String, record: Record, seed: u64) -> Self {
        record.notes().clients += 1;
        AtWork { name, record, random: SmallRng::seed_from_u64(seed), count: 0 }
    }

    /// Rests, and says what to write next, in one of some ways; `None`: it is over.
    async fn next(&mut self, ways: u32) -> Option<(u32, String, u64)> {
        sleep(Duration::from_millis(self.random.random_range(1..60))).await;
        let mut notes = self.record.notes();
        if notes.over {
            return None;
        }
        notes.calls += 1;
        drop(notes);
        self.count += 1;
        let text = format!("{} of {} {}", self.count, self.name, "·".repeat(self.random.random_range(0..40)));
        Some((self.random.random_range(0..ways), text, self.record.now()))
    }

    /// An answer within `patience`, or it is noted down that a caller hangs.
    async fn promptly<T>(&self, what: &str, patience: Duration, call: impl Future<Output = T>) -> Option<T> {
        let answer = timeout(patience + GRACE, call).await;
        if answer.is_err() {
            self.record.violated(format!("a caller hangs: {what} of {} after {:?}", self.name, patience + GRACE));
        }
        answer.ok()
    }

    fn wrote(&self, invoked: u64, position: u64, text: String) {
        let answered = self.record.now();
        self.record.answered(Operation { invoked, answered, position, wrote: Some(text), saw: 0 });
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.record.notes().clients -= 1;
    }
}

/// In the process of a node: commands that it forwards, commands of a session, linearizable reads.
async fn work_inside(name: String, node: Node<Ledger>, record: Record, seed: u64) {
    let mut work = AtWork::new(name, record, seed);
    let (session, patience) = (node.client().with_timeout(PATIENCE), node.config().request_timeout);
    while let Some((way, text, invoked)) = work.next(10).await {
        let line = Line::new(text.as_str());
        match way {
            0..4 => {
                if let Some(Ok(written)) = work.promptly("a proposal", patience, node.propose(line)).await {
                    work.wrote(invoked, written.index, text);
                }
            }
            4..6 => {
                if let Some(Ok(written)) = work.promptly("a command", PATIENCE, session.propose(line)).await {
                    work.wrote(invoked, written.index, text);
                }
            }
            _ => {
                let read = node.read_at(Consistency::Linearizable, Ledger::len);
                if let Some(Ok((saw, position))) = work.promptly("a read", patience, read).await {
                    let answered = work.record.now();
                    work.record.answered(Operation { invoked, answered, position, wrote: None, saw });
                }
            }
        }
    }
}

/// Over one stream, several at a time.
async fn work_in_session(name: String, session: SessionClient, record: Record, seed: u64) {
    let mut work = AtWork::new(name, record, seed);
    while let Some((_, text, invoked)) = work.next(1).await {
        let command = session.propose(Line::new(text.as_str()).encode_to_vec().into());
        if let Some(Ok(applied)) = work.promptly("a streamed command", PATIENCE, command).await {
            work.wrote(invoked, applied.index, text);
        }
    }
}

/// By unary calls to one node.
async fn work_outside(name: String, client: ClusterClient, patience: Duration, record: Record, seed: u64) {
    let mut work = AtWork::new(name, record, seed);
    while let Some((_, text, invoked)) = work.next(1).await {
        let command = Line::new(text.as_str()).encode_to_vec().into();
        let answer = client.propose(command, true, work.count);
        if let Some(Ok(applied)) = work.promptly("a unary command", patience, answer).await {
            let written = Written::decode(applied.output).expect("the state machine's own output");
            assert_eq!(written.index, applied.index);
            work.wrote(invoked, applied.index, text);
        }
    }
}

/// The supervisor of one life of a node. Whatever dies without being told to is noted down.
struct Application {
    node: NodeId,
    record: Record,
}

/// What it hears.
struct Heard(NodeEvent);

#[cfg(feature = "cluster")]
impl ractor::Message for Heard {}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Application {
    type Msg = Heard;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Heard>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Heard>, Heard(event): Heard, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if let NodeEvent::ActorRestarted { path, cause } = event
            && !cause.contains("killed")
            && !cause.contains("was told to crash")
        {
            self.record.violated(format!("{path} of n{} died of itself: {cause}", self.node));
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Heard>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            let error = error.downcast::<NodeError>().map_or_else(|other| other.to_string(), |error| error.to_string());
            self.record.violated(format!("n{} gave up: {error}", self.node));
        }
        Ok(())
    }
}

/// An order whose outcome is put somewhere.
pub fn ordered<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    what: impl FnOnce(Node<Ledger>) -> F + Send + 'static,
) -> (Order, Arc<Mutex<Option<T>>>) {
    let outcome = Arc::new(Mutex::new(None));
    let there = outcome.clone();
    let order: Order = Box::new(move |node| {
        async move {
            let done = what(node).await;
            *there.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        }
        .boxed()
    });
    (order, outcome)
}
