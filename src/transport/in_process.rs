//! Nodes of one process reach each other by address, without sockets.
//!
//! A [`Wire`] can be laid between them: it says of every letter whether and when it arrives. So a test can delay, lose and
//! cut without knowing anything else of the nodes.

mod snapshot;

use std::{
    collections::BTreeMap,
    future::{Future, pending, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{Breach, Chunks, Connection, Heard, Link, Listening, Order, Transport, WrongPeer};
use crate::{
    error::{ChangeError, NodeError, ProposeError},
    flow::TraceId,
    node::{Applied, NodeRef, Status},
    raft::{Incarnation, InstallSnapshotRequest, LogIndex, NodeId, Payload, Reply, Request},
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
    /// It arrives after this time. Letters of one connection do not overtake each other.
    Deliver {
        /// Zero: at once.
        after: Duration,
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
        match self.fate(from, to, name, false) {
            Fate::Deliver { after } => pause(after).await,
            Fate::Drop => return pending().await,
            Fate::Break => return Err(unreached(to)),
        }
        let answer = ask(node).await;
        match self.fate(to, from, name, true) {
            Fate::Deliver { after } => pause(after).await,
            Fate::Drop => return pending().await,
            Fate::Break => return Err(lost(to)),
        }
        answer
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
        let (letters, arriving) = mpsc::unbounded_channel();
        let task = tokio::spawn(carry(self.clone(), link.clone(), arriving));
        Box::new(Line {
            network: self.clone(),
            link,
            letters,
            last: Instant::now(),
            task: task.abort_handle(),
            snapshot: None,
        })
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
            match network.fate(from, to, "Propose", false) {
                Fate::Deliver { after } => pause(after).await,
                Fate::Drop => return pending().await,
                Fate::Break => return Err(ProposeError::Unavailable { node: to }),
            }
            let Ok(node) = network.find(&link) else { return Err(ProposeError::Unavailable { node: to }) };
            let answer = node.propose_payload(payload, false, trace).await;
            match network.fate(to, from, "Propose", true) {
                Fate::Deliver { after } => pause(after).await,
                Fate::Drop => return pending().await,
                Fate::Break => {
                    let reason = format!("the connection to node {to} broke before it answered");
                    return Err(ProposeError::Unknown { reason });
                }
            }
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

/// A request on its way.
struct Sent {
    session: u64,
    request: Request,
    traces: Vec<(LogIndex, TraceId)>,
    /// `None`: the connection breaks here.
    arrives: Option<Instant>,
}

/// One connection. Its task ends with it.
struct Line {
    network: InProcess,
    link: Link,
    letters: mpsc::UnboundedSender<Sent>,
    /// When the last letter arrives: none overtakes it.
    last: Instant,
    task: AbortHandle,
    /// The snapshot on its way.
    snapshot: Option<AbortHandle>,
}

impl Connection for Line {
    fn send(&mut self, session: u64, request: Request, traces: Vec<(LogIndex, TraceId)>) {
        let arrives = match self.network.fate(self.link.from.node_id, self.link.to, request.name(), false) {
            Fate::Deliver { after } => {
                self.last = self.last.max(Instant::now() + after);
                Some(self.last)
            }
            Fate::Drop => return,
            Fate::Break => None,
        };
        let _ = self.letters.send(Sent { session, request, traces, arrives });
    }

    fn send_snapshot(&mut self, session: u64, request: InstallSnapshotRequest, chunks: Chunks) {
        self.end_snapshot();
        let task = tokio::spawn(snapshot::stream(self.network.clone(), self.link.clone(), session, request, chunks));
        self.snapshot = Some(task.abort_handle());
    }
}

impl Line {
    fn end_snapshot(&mut self) {
        if let Some(task) = self.snapshot.take() {
            task.abort();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
        self.end_snapshot();
    }
}

/// Brings the letters of one connection to their addressee in order, and the answers back.
async fn carry(network: InProcess, link: Link, mut arriving: mpsc::UnboundedReceiver<Sent>) {
    let mut answers = JoinSet::new();
    let broken = |cause: String, why: Breach| (link.heard)(Heard::Broken { cause, why });
    loop {
        let sent = tokio::select! {
            biased;
            Some(_) = answers.join_next() => continue,
            sent = arriving.recv() => sent,
        };
        let Some(Sent { session, request, traces, arrives }) = sent else { return };
        let Some(arrives) = arrives else { return broken("the connection broke".to_owned(), Breach::Lost) };
        if arrives > Instant::now() {
            sleep_until(arrives).await;
        }
        let node = match network.find(&link) {
            Ok(node) => node,
            Err((cause, why)) => return broken(cause, why),
        };
        let name = request.name();
        match node.deliver(link.caller(), request, traces) {
            Ok(reply) => {
                let reply = async { reply.await.ok() };
                let incarnation = node.incarnation();
                answers.spawn(bring_back(network.clone(), link.clone(), session, name, incarnation, reply));
            }
            Err(wrong) => {
                answers.spawn(refuse(network.clone(), link.clone(), name, wrong));
            }
        }
    }
}

async fn bring_back(
    network: InProcess,
    link: Link,
    session: u64,
    name: &'static str,
    incarnation: Incarnation,
    reply: impl Future<Output = Option<Reply>>,
) {
    let broken = |cause: String| (link.heard)(Heard::Broken { cause, why: Breach::Lost });
    let Some(reply) = reply.await else { return broken(format!("node {} fell before it answered", link.to)) };
    match network.fate(link.to, link.from.node_id, name, true) {
        Fate::Deliver { after } => pause(after).await,
        Fate::Drop => return,
        Fate::Break => return broken("the connection broke before the answer came".to_owned()),
    }
    (link.heard)(match link.check_answer(incarnation) {
        Ok(()) => Heard::Answer { session, incarnation, reply },
        Err(wrong) => Heard::Broken { cause: wrong.in_words(), why: wrong.to_the_noticing() },
    });
}

/// Brings back the news that a request was not heard.
async fn refuse(network: InProcess, link: Link, name: &'static str, wrong: WrongPeer) {
    let heard = match network.fate(link.to, link.from.node_id, name, true) {
        Fate::Deliver { after } => {
            pause(after).await;
            Heard::Broken { cause: wrong.in_words(), why: wrong.to_the_refused() }
        }
        Fate::Drop => return,
        Fate::Break => {
            Heard::Broken { cause: "the connection broke before the answer came".to_owned(), why: Breach::Lost }
        }
    };
    (link.heard)(heard);
}

/// Not a yield where there is nothing to wait for.
async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
