//! A network between the demo's nodes from which one can be cut off: gRPC, until somebody cuts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use futures_util::future::{self, BoxFuture, FutureExt};
use ractor_raft::{
    error::{ChangeError, NodeError, ProposeError},
    flow::TraceId,
    node::{Applied, NodeRef, Status},
    raft::{InstallSnapshotRequest, LogIndex, NodeId, Payload, Request},
    rpc::Grpc,
    storage::Identity,
    transport::{Breach, Chunks, Connection, Heard, Link, Listening, Order, Transport},
};

/// Which node the others do not reach, and which does not reach them. Its clones are one network.
#[derive(Clone, Default)]
pub struct Partition {
    /// 0: nobody.
    cut_off: Arc<AtomicU64>,
}

impl Partition {
    /// Cuts this node off, or with `None` nobody.
    pub fn cut_off(&self, node: Option<NodeId>) {
        self.cut_off.store(node.unwrap_or(0), Relaxed);
    }

    /// Who is cut off.
    pub fn node(&self) -> Option<NodeId> {
        Some(self.cut_off.load(Relaxed)).filter(|node| *node != 0)
    }

    /// What a node reaches the others by. Clients reach it all the same.
    pub fn over(&self, grpc: Grpc) -> Divisible {
        Divisible { grpc, partition: self.clone() }
    }

    fn is_between(&self, one: NodeId, other: NodeId) -> bool {
        self.node().is_some_and(|node| node == one || node == other)
    }
}

/// gRPC with a partition.
pub struct Divisible {
    grpc: Grpc,
    partition: Partition,
}

impl Transport for Divisible {
    fn listen(&self, node: NodeRef) -> BoxFuture<'static, Result<Listening, NodeError>> {
        self.grpc.listen(node)
    }

    fn connect(&self, link: Link) -> Box<dyn Connection> {
        let (partition, hears) = (self.partition.clone(), link.heard.clone());
        let (from, to) = (link.from.node_id, link.to);
        // What is on its way when the network is cut does not arrive either.
        let heard = Arc::new(move |heard| {
            if !partition.is_between(from, to) {
                hears(heard);
            }
        });
        let told = link.heard.clone();
        let connection = self.grpc.connect(Link { heard, ..link });
        Box::new(Divided { connection, partition: self.partition.clone(), from, to, told })
    }

    fn propose(
        &self,
        to: &Link,
        payload: Payload,
        trace: TraceId,
    ) -> BoxFuture<'static, Result<Applied, ProposeError>> {
        if self.partition.is_between(to.from.node_id, to.to) {
            return future::ready(Err(ProposeError::Unavailable { node: to.to })).boxed();
        }
        self.grpc.propose(to, payload, trace)
    }

    fn order(
        &self,
        from: &Identity,
        address: &str,
        order: Order,
        forward: bool,
    ) -> BoxFuture<'static, Result<LogIndex, ChangeError>> {
        self.grpc.order(from, address, order, forward)
    }

    fn status(&self, from: NodeId, address: &str) -> BoxFuture<'static, Result<Status, String>> {
        self.grpc.status(from, address)
    }
}

/// A connection with a partition in it, perhaps.
struct Divided {
    connection: Box<dyn Connection>,
    partition: Partition,
    from: NodeId,
    to: NodeId,
    told: Arc<dyn Fn(Heard) + Send + Sync>,
}

impl Divided {
    fn is_cut(&self) -> bool {
        let is_cut = self.partition.is_between(self.from, self.to);
        if is_cut {
            let cause = "the demo has cut the network".to_owned();
            (self.told)(Heard::Broken { cause, why: Breach::Lost });
        }
        is_cut
    }
}

impl Connection for Divided {
    fn send(&mut self, session: u64, request: Request, traces: Vec<(LogIndex, TraceId)>) {
        if !self.is_cut() {
            self.connection.send(session, request, traces);
        }
    }

    fn send_snapshot(&mut self, session: u64, request: InstallSnapshotRequest, chunks: Chunks) {
        if !self.is_cut() {
            self.connection.send_snapshot(session, request, chunks);
        }
    }
}
