//! Serves a node on its port until the guard is dropped.
//!
//! Then the port is closed at once, calls under way have [`GRACE`] to be answered, and what is left is cut: a stream
//! of a peer or a client that does not listen keeps no task alive.

pub(super) mod oversized;
mod socket;

use std::time::Duration;

use futures_util::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, Shared},
    stream,
};
use tokio::sync::oneshot;
use tonic::{service::Routes, transport::Server};

use super::{
    channel::{CONNECTION_WINDOW, STREAM_WINDOW},
    limits, pb,
    server::Handlers,
    sockets::{Listener, Sockets},
};
use crate::{error::NodeError, node::NodeRef};
use oversized::Oversized;
use socket::Socket;

/// Fires when its sender is used or dropped.
pub(super) type Signal = Shared<oneshot::Receiver<()>>;

/// How long calls under way have to be answered once the server closes.
const GRACE: Duration = Duration::from_secs(1);

/// How long the connections are waited for that are cut after that: their tasks end as soon as they are run again.
const CUT: Duration = Duration::from_secs(1);

/// A client on which nothing was heard for so long is asked whether it is alive, and has as long to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Calls under way on one connection; what may wait at the node is bounded by its admission.
const MAX_STREAMS: u32 = 16 << 10;

/// How long a port that is still taken is tried again: a restarted server may meet the one before it.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// How long no connection is accepted after one could not be (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes `address`, with some patience if it is in use.
pub(super) async fn bind(sockets: &dyn Sockets, address: &str) -> Result<Listener, NodeError> {
    let last_try = tokio::time::Instant::now() + BIND_PATIENCE;
    loop {
        match sockets.listen(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tokio::time::Instant::now() < last_try => {
                tokio::time::sleep(BIND_PAUSE).await;
            }
            Err(error) => {
                return Err(NodeError::Start { what: format!("server on {address}"), cause: error.to_string() });
            }
        }
    }
}

/// Serves `node` and `routes` on `listener` until the returned sender is dropped. The future ends once it has ended.
pub(super) fn serve(
    listener: Listener,
    node: NodeRef,
    routes: Routes,
) -> (oneshot::Sender<()>, BoxFuture<'static, ()>) {
    let (close, closing) = signal();
    let config = node.config();
    let (client_message, peer_message) = (limits::client_message(config), limits::peer_message(config));
    let handlers = Handlers::new(node, closing.clone());
    let raft = pb::raft_server::RaftServer::new(handlers.clone()).max_decoding_message_size(peer_message);
    let cluster = pb::cluster_server::ClusterServer::new(handlers).max_decoding_message_size(client_message);
    let server = tokio::spawn(run(listener, routes.add_service(raft).add_service(cluster), closing));
    // One that panicked has ended as well.
    (close, server.map(drop).boxed())
}

async fn run(listener: Listener, routes: Routes, closing: Signal) {
    let services = Oversized(routes.prepare());
    let (cut, cutting) = signal();
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS);
    let closed = closing.clone().map(|_| ());
    let serving = server.serve_with_incoming_shutdown(services, connections(listener, cutting), closed);
    tokio::pin!(serving);
    let grace = async {
        let _ = closing.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        _ = &mut serving => return,
        () = grace => drop(cut),
    }
    // Each connection now reads an error and ends.
    let _ = tokio::time::timeout(CUT, serving).await;
}

/// Connections as they are accepted.
pub(super) fn connections(listener: Listener, cutting: Signal) -> impl Stream<Item = std::io::Result<Socket>> {
    stream::unfold((listener.connections, cutting), |(mut incoming, cutting)| async {
        loop {
            match incoming.next().await? {
                Ok(accepted) => return Some((Ok(Socket::new(accepted, cutting.clone())), (incoming, cutting))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

pub(super) fn signal() -> (oneshot::Sender<()>, Signal) {
    let (sender, receiver) = oneshot::channel();
    (sender, receiver.shared())
}

#[cfg(test)]
mod tests;
