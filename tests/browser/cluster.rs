//! Three nodes with gRPC between them, and a page, as the demo has them.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_raft::{
    Config,
    http::{self, Fault, Faults, Options, Order, Server, View},
    kv::{Command, Kv},
    node::Node,
    raft::{NodeId, Role},
    rpc::Grpc,
    storage::MemoryStorage,
};
use tokio::time::{Instant, sleep};

/// The longest that anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

const GLANCE: Duration = Duration::from_millis(2);

/// What would run, if it were not text: the name of the actor above the nodes begins so, too.
pub const HOSTILE: &str = "<img src=x onerror='window.struck = 1'><script>window.struck = 1</script>";

type Nodes = Arc<Mutex<BTreeMap<NodeId, Node<Kv>>>>;

/// The cluster.
pub struct Three {
    nodes: Nodes,
    members: BTreeMap<NodeId, String>,
    pub page: Server,
    address: String,
    application: ActorRef<()>,
    written: u64,
}

impl Three {
    pub async fn start() -> Self {
        let ports: BTreeMap<NodeId, TcpListener> =
            (1..=3).map(|id| (id, TcpListener::bind("127.0.0.1:0").expect("a port is free"))).collect();
        let members: BTreeMap<_, _> =
            ports.iter().map(|(id, port)| (*id, port.local_addr().expect("it is open").to_string())).collect();
        let name = format!("{HOSTILE} {}", members[&1]);
        let (application, _) = Actor::spawn(Some(name), Application, ()).await.expect("it starts");
        let nodes = Nodes::default();
        for (id, port) in ports {
            let node = Node::builder(id, Kv::default)
                .cluster(members.clone())
                .storage(MemoryStorage::new())
                .transport(Grpc::with_listener(port))
                .config(config())
                .spawn_linked(application.get_cell())
                .await
                .expect("it starts");
            nodes.lock().expect("nobody panics with it").insert(id, node);
        }
        let page = open(&nodes, &members, "127.0.0.1:0").await;
        let address = page.address().to_string();
        Three { nodes, members, page, address, application, written: 0 }
    }

    pub fn node(&self, id: NodeId) -> Node<Kv> {
        self.nodes.lock().expect("nobody panics with it")[&id].clone()
    }

    pub fn election_timeout(&self) -> Duration {
        config().election_timeout_max
    }

    /// Who leads, as all that run say.
    pub async fn leader(&self) -> NodeId {
        self.leader_but(0).await
    }

    pub async fn leader_but(&self, old: NodeId) -> NodeId {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(leader) = agreed(&self.nodes).filter(|leader| *leader != old) {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody was elected");
            sleep(GLANCE).await;
        }
    }

    /// Writes something, at a node that need not lead.
    pub async fn write(&mut self) {
        self.written += 1;
        let node = self.node(2);
        // One that fails is followed by the next.
        let _ = node.propose(Command::put("written", self.written.to_string())).await;
    }

    pub async fn stop_page(&mut self) {
        let closed = open(&self.nodes, &self.members, "127.0.0.1:0").await;
        std::mem::replace(&mut self.page, closed).stop().await;
    }

    /// Where it was before.
    pub async fn start_page(&mut self) {
        self.page = open(&self.nodes, &self.members, &self.address).await;
    }

    pub async fn end(self) {
        self.page.stop().await;
        let nodes: Vec<_> = self.nodes.lock().expect("nobody panics with it").values().cloned().collect();
        for node in nodes {
            let _ = node.shutdown().await;
        }
        self.application.stop(None);
    }
}

async fn open(nodes: &Nodes, members: &BTreeMap<NodeId, String>, address: &str) -> Server {
    let listener = http::bind(address).await.expect("the port is free");
    let (seen, members) = (nodes.clone(), members.clone());
    let view = move || {
        let node = seen.lock().expect("nobody panics with it").values().next().map(|node| node.as_ref().clone());
        View { node, members: members.clone() }
    };
    http::serve_view(view, listener, Options { faults: Some(Arc::new(Killer(nodes.clone()))), ..Options::default() })
}

fn agreed(nodes: &Nodes) -> Option<NodeId> {
    let statuses: Vec<_> = nodes.lock().expect("nobody panics with it").values().map(|node| node.status()).collect();
    let leader = statuses.iter().find(|status| status.role == Role::Leader)?;
    statuses.iter().all(|status| status.leader == Some(leader.id) && status.term == leader.term).then_some(leader.id)
}

/// Nobody is elected by accident on a busy machine.
fn config() -> Config {
    let mut config = Config::default();
    config.election_timeout_min = Duration::from_millis(500);
    config.election_timeout_max = Duration::from_millis(1000);
    config
}

/// The one button of this page.
struct Killer(Nodes);

impl Faults for Killer {
    fn offered(&self) -> Vec<Fault> {
        vec![Fault { name: "kill", label: "Stop the leader", hint: "" }]
    }

    fn inject(&self, _: Order) -> BoxFuture<'static, Result<String, String>> {
        let nodes = self.0.clone();
        async move {
            let leader = agreed(&nodes).ok_or("nobody leads")?;
            let node = nodes.lock().expect("nobody panics with it").remove(&leader).ok_or("it is gone")?;
            node.shutdown().await.map_err(|error| error.to_string())?;
            Ok(format!("node {leader} is stopped"))
        }
        .boxed()
    }
}

/// The application's own actor, above the nodes.
struct Application;

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Application {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
