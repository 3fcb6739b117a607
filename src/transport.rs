//! How nodes reach each other: over gRPC, or inside one process.
//!
//! *Architecture invariant: the network is touched only behind [`Transport`], so that a simulation can stand in for it.*

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    error::{ChangeError, NodeError, ProposeError},
    flow::TraceId,
    node::{Applied, NodeRef, Status},
    raft::{Change, Incarnation, InstallSnapshotRequest, LogIndex, NodeId, Payload, Reply, Request},
    storage::Identity,
};

mod identity;
pub mod in_process;

pub use identity::WrongPeer;
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

    /// Passes an operator's order on to the node at `address`, if it is of the same cluster. That one carries it out if it
    /// leads; if not, it passes it on where it may `forward` it. Gives the entry of the change, or 0.
    fn order(
        &self,
        from: &Identity,
        address: &str,
        order: Order,
        forward: bool,
    ) -> BoxFuture<'static, Result<LogIndex, ChangeError>>;

    /// What the node at `address` is, of whichever cluster. `Err`: why it cannot be asked, in words.
    fn status(&self, from: NodeId, address: &str) -> BoxFuture<'static, Result<Status, String>>;
}

/// What an operator wants of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Other servers.
    Change(Change),
    /// Another leader: this one, or whoever has most of the log.
    Transfer(Option<NodeId>),
}

/// Who sends a request, and what it knows of the one it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The asking server.
    pub id: NodeId,
    /// Its disk. 0: it does not say.
    pub incarnation: Incarnation,
    /// The addressee's disk, as the asking server knows it from the log. 0: it does not.
    pub knows: Incarnation,
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
    /// The speaker's disk.
    pub from_incarnation: Incarnation,
    /// The disk of the one spoken to, as the speaker knows it at the moment. 0: it does not.
    pub to_incarnation: Arc<AtomicU64>,
    /// Hears what becomes of the requests. Called from the transport's own tasks; never waits.
    pub heard: Arc<dyn Fn(Heard) + Send + Sync>,
}

impl Link {
    /// What heads a request of this link now.
    pub fn caller(&self) -> Caller {
        Caller { id: self.from.node_id, incarnation: self.from_incarnation, knows: self.to_incarnation.load(Relaxed) }
    }

    /// Checks who answers: an answer of another disk than the known one counts for nothing (M06). 0: it does not say.
    ///
    /// # Errors
    /// R007.
    pub fn check_answer(&self, incarnation: Incarnation) -> Result<(), WrongPeer> {
        let known = self.to_incarnation.load(Relaxed);
        if known == 0 || incarnation == 0 || known == incarnation {
            return Ok(());
        }
        Err(WrongPeer::Replaced { node: self.from.node_id, peer: self.to, known, found: incarnation })
    }
}

/// What a connection reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The peer answered.
    Answer {
        /// The request's.
        session: u64,
        /// The peer's disk. 0: it does not say.
        incarnation: Incarnation,
        /// The answer.
        reply: Reply,
    },
    /// The connection broke, or a request was refused: it and everything unanswered before it may be lost. That a request
    /// got no answer in time is not reported.
    Broken {
        /// Why, in words.
        cause: String,
        /// Why, for those who decide.
        why: Breach,
    },
}

/// Why a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It just did: the network, or the peer's end.
    Lost,
    /// The peer is another node, or of another cluster (R004, R005).
    WrongPeer,
    /// The peer has another disk than the log knows it by (R007).
    PeerWiped,
    /// The peer knows this node by another disk (R007).
    Wiped,
    /// The peer knows that this node was removed (R008).
    Removed,
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
