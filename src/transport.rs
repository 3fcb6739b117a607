//! How nodes reach each other: over gRPC, or inside one process.
//!
//! *Architecture invariant: the network is touched only behind [`Transport`], so that a simulation can stand in for it.*

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    error::{NodeError, ProposeError},
    flow::TraceId,
    node::{Applied, NodeRef},
    raft::{InstallSnapshotRequest, LogIndex, NodeId, Payload, Reply, Request},
    storage::Identity,
};

pub mod in_process;

pub use in_process::{Fate, InProcess, Letter, Wire};

/// A network.
pub trait Transport: Send + Sync + 'static {
    /// Lets `node` be reached at its address until the returned guard is dropped.
    ///
    /// # Errors
    /// [`NodeError::Start`]: the address cannot be had.
    fn listen(&self, node: NodeRef) -> BoxFuture<'static, Result<Listening, NodeError>>;

    /// Makes a connection to one peer, without waiting for it: it is opened by the first request.
    fn connect(&self, link: Link) -> Box<dyn Connection>;

    /// Passes what a client wants in the log on to the node that leads: a command, with or without a session, or the opening
    /// of one. It is not forwarded again.
    fn propose(&self, to: &Link, payload: Payload, trace: TraceId)
    -> BoxFuture<'static, Result<Applied, ProposeError>>;
}

/// Keeps a node reachable. Dropping it closes the port at once, and lets what is behind it end by itself.
pub struct Listening {
    /// Where the node can be reached, with the port that was really taken.
    pub address: String,
    /// Dropped with it.
    pub guard: Box<dyn Send>,
    /// Ends within bounded time of the guard's drop: once the calls under way are answered and their tasks have ended.
    pub closed: BoxFuture<'static, ()>,
}

impl Listening {
    /// Closes the port, and waits until nothing is left behind it.
    pub async fn close(self) {
        drop(self.guard);
        self.closed.await;
    }
}

/// One direction between two nodes.
#[derive(Clone)]
pub struct Link {
    /// Who speaks, in which cluster.
    pub from: Identity,
    /// Who is spoken to.
    pub to: NodeId,
    /// Where it is.
    pub address: String,
    /// A snapshot that makes no progress for so long is given up.
    pub snapshot_timeout: Duration,
    /// Hears what becomes of the requests. Called from the transport's own tasks; never waits.
    pub heard: Arc<dyn Fn(Heard) + Send + Sync>,
}

/// What a connection reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The peer answered.
    Answer {
        /// The request's.
        session: u64,
        /// The answer.
        reply: Reply,
    },
    /// The connection broke, or a request was refused: it and everything unanswered before it may be lost. That a request
    /// got no answer in time is not reported.
    Broken {
        /// Why, in words.
        cause: String,
        /// The peer is another node, or of another cluster (R004, R005).
        wrong_peer: bool,
    },
}

/// A connection to one peer. Dropping it ends every task behind it.
pub trait Connection: Send {
    /// Sends a request; the same kind of request arrives in the order sent. Never waits: the core bounds what is in
    /// flight. `traces` tells which entries of an AppendEntries belong to which trace.
    fn send(&mut self, session: u64, request: Request, traces: Vec<(LogIndex, TraceId)>);

    /// Streams a snapshot beside the requests. `request` is its first message, which carries no bytes and asks how much is
    /// there; then it goes on from there with `chunks`. Ends with one [`Heard::Answer`], or with [`Heard::Broken`]: when no
    /// progress was made for [`Link::snapshot_timeout`], too. Another one of the same
    /// connection ends the one before.
    fn send_snapshot(&mut self, session: u64, request: InstallSnapshotRequest, chunks: Chunks);
}

/// Gives the chunk of a snapshot that begins at an offset; `None`: the snapshot is not there any more.
pub type Chunks = Box<dyn FnMut(u64) -> BoxFuture<'static, Option<Bytes>> + Send>;
