//! Nodes of one process reach each other by address, without sockets.
//!
//! A [`Wire`] can be laid between them: it says of every letter whether and when it arrives. So a test can delay, lose and
//! cut without knowing anything else of the nodes.

mod line;
mod snapshot;

use std::{
    collections::BTreeMap,
    future::{pending, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use self::line::Line;
use super::{Breach, Connection, Link, Listening, Order, Transport};
use crate::{
    error::{ChangeError, NodeError, ProposeError},
    flow::TraceId,
    node::{Applied, NodeRef, Status},
    raft::{LogIndex, NodeId, Payload},
    storage::Identity,
};

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Who sends it.
    pub from: NodeId,
    /// Who gets it.
    pub to: NodeId,
    /// "AppendEntries", "Propose", …: the request, also where this is the answer to it.
    pub name: &'static str,
    /// Whether it is the answer.
    pub reply: bool,
}

/// What becomes of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after this time. Letters of one connection and of one name do not overtake each other.
    Deliver {
        /// Zero: at once.
        after: Duration,
    },
    /// As `Deliver`, and it arrives once more, whatever has overtaken it by then and whether or not its connection still
    /// stands. Only what one server asks another is repeated; for all else, and for answers, this is `Deliver`.
    Repeat {
        /// Zero: at once.
        after: Duration,
        /// So long after the first time.
        again: Duration,
    },
    /// It is lost, and nobody is told.
    Drop,
    /// It is lost, and the sender of the request hears that the connection broke.
    Break,
}

/// Decides about every letter.
pub type Wire = Arc<dyn Fn(&Letter) -> Fate + Send + Sync>;

/// A network inside this process. Clones are the same network.
#[derive(Clone, Default)]
pub struct InProcess {
    nodes: Arc<Mutex<BTreeMap<String, NodeRef>>>,
    wire: Option<Wire>,
}

impl InProcess {
    /// A network on which everything arrives at once.
    pub fn new() -> Self {
        InProcess::default()
    }

    /// A network on which `wire` decides.
    pub fn with_wire(wire: Wire) -> Self {
        InProcess { nodes: Arc::default(), wire: Some(wire) }
    }

    /// The node at this address, if it is the one that is meant; else why not, and whether it is another one.
    fn find(&self, link: &Link) -> Result<NodeRef, (String, Breach)> {
        let Some(node) = self.at(&link.address) else {
            return Err((format!("nobody listens on {}", link.address), Breach::Lost));
        };
        let found = node.identity();
        if found.cluster_id != link.from.cluster_id {
            let cause = format!("{} belongs to cluster {:016x}", link.address, found.cluster_id);
            return Err((cause, Breach::WrongPeer));
        }
        if found.node_id != link.to {
            let cause = format!("{} is node {}, not node {}", link.address, found.node_id, link.to);
            return Err((cause, Breach::WrongPeer));
        }
        Ok(node)
    }

    fn at(&self, address: &str) -> Option<NodeRef> {
        self.nodes().get(address).cloned()
    }

    /// A question by address, and its answer. `lost` is what a break of the second letter means.
    async fn ask<T, E>(
        &self,
        from: NodeId,
        address: &str,
        name: &'static str,
        unreached: impl Fn(NodeId) -> E,
        lost: impl Fn(NodeId) -> E,
        ask: impl AsyncFnOnce(NodeRef) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(node) = self.at(address) else { return Err(unreached(0)) };
        let to = node.identity().node_id;
        self.travel(from, to, name, false).await.map_err(|Broke| unreached(to))?;
        node.flow().awake().await;
        let answer = ask(node).await;
        self.travel(to, from, name, true).await.map_err(|Broke| lost(to))?;
        answer
    }

    /// A letter's way that is not a connection's. It ends when the letter arrives: never, if it is lost.
    async fn travel(&self, from: NodeId, to: NodeId, name: &'static str, reply: bool) -> Result<(), Broke> {
        if !reply {
            self.sender_awake(from).await;
        }
        match self.fate(from, to, name, reply) {
            Fate::Deliver { after } | Fate::Repeat { after, .. } => pause(after).await,
            Fate::Drop => pending().await,
            Fate::Break => return Err(Broke),
        }
        Ok(())
    }

    /// What stands for a node outside its actors (a call that is passed on, a snapshot on its way) is held where they are.
    async fn sender_awake(&self, from: NodeId) {
        let sender = self.nodes().values().find(|node| node.identity().node_id == from).cloned();
        if let Some(sender) = sender {
            sender.flow().awake().await;
        }
    }

    fn fate(&self, from: NodeId, to: NodeId, name: &'static str, reply: bool) -> Fate {
        let at_once = Fate::Deliver { after: Duration::ZERO };
        self.wire.as_ref().map_or(at_once, |wire| wire(&Letter { from, to, name, reply }))
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, NodeRef>> {
        // Nothing can be half done in there.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for InProcess {
    fn listen(&self, node: NodeRef) -> BoxFuture<'static, Result<Listening, NodeError>> {
        let network = self.clone();
        Box::pin(async move {
            let address = node.listen_address().to_owned();
            let mut nodes = network.nodes();
            if nodes.contains_key(&address) {
                let cause = "another node of this process listens there".to_owned();
                return Err(NodeError::Start { what: format!("server on {address}"), cause });
            }
            nodes.insert(address.clone(), node);
            drop(nodes);
            let guard = Box::new(Door { network, address: address.clone() });
            // Whoever waits for an answer waits in a task of its own.
            Ok(Listening { address, guard, closed: Box::pin(ready(())) })
        })
    }

    fn connect(&self, link: Link) -> Box<dyn Connection> {
        Box::new(Line::new(self.clone(), link))
    }

    fn propose(
        &self,
        to: &Link,
        payload: Payload,
        trace: TraceId,
    ) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        let (network, link) = (self.clone(), to.clone());
        Box::pin(async move {
            let (from, to) = (link.from.node_id, link.to);
            let unreached = || ProposeError::Unavailable { node: to };
            network.travel(from, to, "Propose", false).await.map_err(|Broke| unreached())?;
            let Ok(node) = network.find(&link) else { return Err(unreached()) };
            node.flow().awake().await;
            let answer = node.propose_payload(payload, false, trace).await;
            network.travel(to, from, "Propose", true).await.map_err(|Broke| {
                let reason = format!("the connection to node {to} broke before it answered");
                ProposeError::Unknown { reason }
            })?;
            answer
        })
    }

    fn order(
        &self,
        from: &Identity,
        address: &str,
        order: Order,
        forward: bool,
    ) -> BoxFuture<'static, Result<LogIndex, ChangeError>> {
        let (network, from, address) = (self.clone(), from.clone(), address.to_owned());
        Box::pin(async move {
            let unreached = |node| ChangeError::Unavailable { node };
            let lost = |node| ChangeError::Unknown {
                reason: format!("the connection to node {node} broke before it answered"),
            };
            let ask = async |node: NodeRef| node.order(from.cluster_id, order, forward).await;
            network.ask(from.node_id, &address, "Order", unreached, lost, ask).await
        })
    }

    fn status(&self, from: NodeId, address: &str) -> BoxFuture<'static, Result<Status, String>> {
        let (network, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let unreached = |_| format!("nobody listens on {address}");
            let ask = async |node: NodeRef| Ok(node.status());
            network.ask(from, &address, "Status", unreached, unreached, ask).await
        })
    }
}

/// The connection broke.
struct Broke;

/// Takes the address out of the registry when it is dropped.
struct Door {
    network: InProcess,
    address: String,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.network.nodes().remove(&self.address);
    }
}

/// Not a yield where there is nothing to wait for.
async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
