//! The transport over gRPC: [`Grpc`] listens for a node and connects it to its peers.
//!
//! A connection to a peer is three: one carries the stream of AppendEntries, one all that must not wait behind data
//! (votes, read indexes), and while a snapshot is sent, one carries that. Each opens with the first request, and again
//! with the first after it broke.

mod snapshot;
mod stream;
mod unary;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{net::TcpListener, sync::oneshot};
use tonic::service::Routes;

use super::{
    error::{self, Told, in_words},
    forward::{self, Leaders},
    identity::Refused,
    listener,
    sockets::{Listener, Sockets, Tcp},
};
use crate::{
    config::Config,
    error::{ChangeError, NodeError, ProposeError},
    flow::TraceId,
    node::{Applied, NodeRef, Status},
    raft::{InstallSnapshotRequest, LogIndex, NodeId, Payload, Request},
    storage::Identity,
    transport::{Breach, Chunks, Connection, Heard, Link, Listening, Order, Transport},
};
use snapshot::SnapshotStream;
use stream::AppendStream;
use unary::Calls;

type Services = Box<dyn Fn(NodeRef) -> Routes + Send + Sync>;

/// A node's network, by gRPC. One value serves one node.
pub struct Grpc(Arc<Shared>);

struct Shared {
    services: Option<Services>,
    port: Mutex<Port>,
    deadlines: Mutex<Deadlines>,
    leaders: Leaders,
    sockets: Arc<dyn Sockets>,
}

/// Where to listen: a server that is started again takes the port it had.
enum Port {
    /// At the node's own address.
    Unbound,
    /// On a listener that someone else has opened.
    Given(std::net::TcpListener),
    /// Where it listened before.
    Known(String),
}

/// How long calls may take, by the node's settings.
#[derive(Clone, Copy)]
struct Deadlines {
    vote: Duration,
    request: Duration,
}

impl Deadlines {
    fn of(config: &Config) -> Self {
        // A vote that comes after the candidate's next timeout is of no use.
        Deadlines { vote: config.election_timeout_max, request: config.request_timeout }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Grpc::new()
    }
}

impl Grpc {
    /// Listens at the node's own address.
    pub fn new() -> Self {
        Grpc::on(Port::Unbound, Tcp)
    }

    /// Listens at the node's own address, and connects to the others, over these sockets instead of TCP.
    pub fn over(sockets: impl Sockets) -> Self {
        Grpc::on(Port::Unbound, sockets)
    }

    /// Listens on a port that is open already (systemd, tests on port 0).
    pub fn with_listener(listener: std::net::TcpListener) -> Self {
        Grpc::on(Port::Given(listener), Tcp)
    }

    fn on(port: Port, sockets: impl Sockets) -> Self {
        let sockets: Arc<dyn Sockets> = Arc::new(sockets);
        let deadlines = Deadlines::of(&Config::default());
        Grpc(Arc::new(Shared {
            services: None,
            port: Mutex::new(port),
            deadlines: Mutex::new(deadlines),
            leaders: Leaders::new(sockets.clone()),
            sockets,
        }))
    }

    /// Serves these besides `Raft` and `Cluster`, on the same port. Called once for each start of the server. Set a
    /// maximum decoding size of [`limits::client_message`](super::limits::client_message) on services that take commands.
    ///
    /// # Panics
    /// If the transport has been handed to a node already.
    pub fn services(mut self, services: impl Fn(NodeRef) -> Routes + Send + Sync + 'static) -> Self {
        let shared = Arc::get_mut(&mut self.0).expect("no node has this transport yet");
        shared.services = Some(Box::new(services));
        self
    }
}

impl Shared {
    fn deadlines(&self) -> Deadlines {
        *self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bind(&self, node: &NodeRef) -> Result<Listener, NodeError> {
        let port = std::mem::replace(&mut *self.lock_port(), Port::Unbound);
        let listener = match port {
            Port::Unbound => listener::bind(&*self.sockets, node.listen_address()).await?,
            Port::Known(address) => {
                // Known still, should it not be had this time.
                *self.lock_port() = Port::Known(address.clone());
                listener::bind(&*self.sockets, &address).await?
            }
            Port::Given(listener) => {
                let adopted = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
                let adopted = adopted.and_then(Tcp::accept_on);
                adopted.map_err(|error| NodeError::Start { what: "server".to_owned(), cause: error.to_string() })?
            }
        };
        *self.lock_port() = Port::Known(listener.address.clone());
        Ok(listener)
    }

    fn lock_port(&self) -> std::sync::MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Grpc {
    fn listen(&self, node: NodeRef) -> BoxFuture<'static, Result<Listening, NodeError>> {
        let shared = self.0.clone();
        Box::pin(async move {
            *shared.deadlines.lock().unwrap_or_else(PoisonError::into_inner) = Deadlines::of(node.config());
            let listener = shared.bind(&node).await?;
            let address = listener.address.clone();
            let routes = shared.services.as_ref().map_or_else(Routes::default, |services| services(node.clone()));
            let (close, closed) = listener::serve(listener, node, routes);
            Ok(Listening { address, guard: Box::new(Guard { _close: close, shared }), closed })
        })
    }

    fn connect(&self, link: Link) -> Box<dyn Connection> {
        let link = Arc::new(link);
        Box::new(Peer {
            entries: AppendStream::new(link.clone(), self.0.sockets.clone()),
            snapshot: SnapshotStream::new(link.clone(), self.0.sockets.clone()),
            calls: Calls::new(link, self.0.sockets.clone()),
            shared: self.0.clone(),
        })
    }

    fn propose(
        &self,
        to: &Link,
        payload: Payload,
        trace: TraceId,
    ) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        let client = self.0.leaders.client(&to.address, self.0.deadlines().request);
        Box::pin(forward::propose(client, to.from.cluster_id, to.to, payload, trace))
    }

    fn order(
        &self,
        from: &Identity,
        address: &str,
        order: Order,
        forward: bool,
    ) -> BoxFuture<'static, Result<LogIndex, ChangeError>> {
        let client = self.0.leaders.client(address, self.0.deadlines().request);
        let cluster_id = from.cluster_id;
        Box::pin(async move {
            // An address that cannot be dialled: the order has not left this node.
            let client = client.map_err(|_| ChangeError::Unavailable { node: 0 })?;
            client.order(cluster_id, order, forward).await
        })
    }

    fn status(&self, _: NodeId, address: &str) -> BoxFuture<'static, Result<Status, String>> {
        let client = self.0.leaders.client(address, self.0.deadlines().request);
        Box::pin(async move {
            let client = client.map_err(|bad| bad.to_string())?;
            client.status().await.map_err(|status| in_words(&status))
        })
    }
}

/// Closes the server when it is dropped, and what the node kept open towards its leaders.
struct Guard {
    _close: oneshot::Sender<()>,
    shared: Arc<Shared>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.leaders.clear();
    }
}

/// A connection to one peer.
struct Peer {
    entries: AppendStream,
    snapshot: SnapshotStream,
    calls: Calls,
    shared: Arc<Shared>,
}

impl Connection for Peer {
    fn send(&mut self, session: u64, request: Request, traces: Vec<(LogIndex, TraceId)>) {
        let Deadlines { vote, request: patient } = self.shared.deadlines();
        match request {
            Request::AppendEntries(request) => self.entries.send(session, request, traces),
            Request::InstallSnapshot(_) => unreachable!("snapshots are sent by send_snapshot"),
            // The leader needs a round of heartbeats for it.
            Request::ReadIndex(_) => self.calls.send(session, request, &traces, patient),
            Request::RequestVote(_) | Request::PreVote(_) | Request::TimeoutNow(_) => {
                self.calls.send(session, request, &traces, vote);
            }
        }
    }

    fn send_snapshot(&mut self, session: u64, request: InstallSnapshotRequest, chunks: Chunks) {
        self.snapshot.send(session, request, chunks);
    }
}

/// Ends its task when it is dropped.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is reported of a call that failed.
fn broken(status: &tonic::Status) -> Heard {
    let why = error::breach(status);
    match Told::of(status) {
        Some(told) if why != Breach::Lost => {
            let (code, fix) = (told.code().unwrap_or_default(), told.fix().unwrap_or_default());
            Heard::Broken { cause: format!("{code}: {}; {fix}", status.message()), why }
        }
        _ => Heard::Broken { cause: in_words(status), why },
    }
}

/// What is reported where there was not even a connection.
fn lost(cause: impl ToString) -> Heard {
    Heard::Broken { cause: cause.to_string(), why: Breach::Lost }
}

/// What is reported of an answer that cannot be accepted.
fn refused(refused: Refused) -> Heard {
    match refused {
        Refused::Malformed(malformed) => lost(format!("a malformed answer: {malformed}")),
        Refused::WrongPeer(wrong) => Heard::Broken { cause: wrong.in_words(), why: wrong.to_the_noticing() },
    }
}

#[cfg(test)]
mod tests;
