//! The tree. (Signatures agreed; bodies to come.)
#![allow(unused_variables, dead_code, missing_docs)]

use std::{marker::PhantomData, path::PathBuf, sync::Arc};

use bytes::Bytes;
use ractor::ActorCell;
use tokio::sync::oneshot;

use crate::{
    config::Config,
    error::{NodeError, ProposeError, ReadError},
    flow::{Flow, TraceId},
    raft::{Address, LogIndex, Membership, NodeId, Reply, Request, Role, Term},
    state_machine::StateMachine,
    storage::{Identity, Storage},
    transport::Transport,
};

/// A command's result, and where in the log it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub output: Bytes,
    pub index: LogIndex,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was answered before the read began (ReadIndex, on any node).
    Linearizable,
    /// Sees at least this index.
    AtLeast(LogIndex),
    /// Whatever this node has applied.
    Stale,
}

/// What a node is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: NodeId,
    pub address: Address,
    pub cluster_id: u64,
    pub role: Role,
    pub term: Term,
    pub leader: Option<NodeId>,
    pub commit_index: LogIndex,
    pub applied_index: LogIndex,
    pub last_index: LogIndex,
    pub snapshot_index: LogIndex,
    pub membership: Membership,
    /// How often its supervisors restarted an actor.
    pub restarts: u64,
    /// The leader's view of the others; empty elsewhere.
    pub peers: Vec<PeerStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub id: NodeId,
    pub match_index: LogIndex,
    pub reachable: bool,
}

/// A node without its state machine's type: what transports and servers hold. Cheap to clone.
#[derive(Clone)]
pub struct NodeRef(Arc<()>);

impl NodeRef {
    pub fn identity(&self) -> &Identity {
        todo!()
    }
    /// Where it is to listen; the address in the membership unless the builder was told otherwise.
    pub fn listen_address(&self) -> &str {
        todo!()
    }
    pub fn config(&self) -> &Config {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
    pub fn flow(&self) -> &Flow {
        todo!()
    }
    /// Passes another node's request to consensus. The receiver fails if consensus falls before it answers.
    /// Identity was checked by the transport.
    pub fn deliver(
        &self,
        from: NodeId,
        request: Request,
        traces: Vec<(LogIndex, TraceId)>,
    ) -> oneshot::Receiver<Reply> {
        todo!()
    }
    /// Proposes an encoded command. Where this node does not lead: forwards it, or says who does.
    pub async fn propose(&self, command: Bytes, forward: bool, trace: TraceId) -> Result<Applied, ProposeError> {
        todo!()
    }
    /// With its type again; `None` if the node was not built with this state machine.
    pub fn typed<M: StateMachine>(&self) -> Option<Node<M>> {
        todo!()
    }
}

/// A running node. Cheap to clone; the node runs until it is shut down or its supervisor stops.
pub struct Node<M>(NodeRef, PhantomData<fn() -> M>);

impl<M: StateMachine> Node<M> {
    pub fn builder<F: Fn() -> M + Send + Sync + 'static>(id: NodeId, factory: F) -> Builder<M> {
        todo!()
    }
    pub fn as_ref(&self) -> &NodeRef {
        &self.0
    }
    pub async fn propose(&self, command: M::Command) -> Result<M::Output, ProposeError> {
        todo!()
    }
    pub async fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        todo!()
    }
    /// As [`read`](Node::read), and also tells which index the state was of.
    pub async fn read_at<R: Send + 'static>(
        &self,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), ReadError> {
        todo!()
    }
    pub fn status(&self) -> Status {
        todo!()
    }
    /// Hands over, drains, stops children first, closes files.
    pub async fn shutdown(&self) -> Result<(), NodeError> {
        todo!()
    }
    /// Waits until the node has stopped by itself or by `shutdown`.
    pub async fn stopped(&self) -> Result<(), NodeError> {
        todo!()
    }
}

/// Settings of a node to be.
pub struct Builder<M>(PhantomData<fn() -> M>);

impl<M: StateMachine> Builder<M> {
    /// The first members, the same on every node, in any order.
    pub fn cluster(self, members: impl IntoIterator<Item = (NodeId, impl Into<Address>)>) -> Self {
        todo!()
    }
    pub fn data_dir(self, path: impl Into<PathBuf>) -> Self {
        todo!()
    }
    pub fn storage(self, storage: impl Storage) -> Self {
        todo!()
    }
    pub fn transport(self, transport: impl Transport) -> Self {
        todo!()
    }
    pub fn listen(self, address: impl Into<Address>) -> Self {
        todo!()
    }
    /// Dial that peer there instead of at its address in the membership: proxies, NAT.
    pub fn peer_address(self, id: NodeId, address: impl Into<Address>) -> Self {
        todo!()
    }
    pub fn config(self, config: Config) -> Self {
        todo!()
    }
    pub fn restart_policy(self, policy: RestartPolicy) -> Self {
        todo!()
    }
    /// All the randomness of this node comes from this seed; drawn from the system without it.
    pub fn seed(self, seed: u64) -> Self {
        todo!()
    }
    pub async fn spawn_linked(self, supervisor: ActorCell) -> Result<Node<M>, NodeError> {
        todo!()
    }
    pub async fn spawn(self) -> Result<Node<M>, NodeError> {
        todo!()
    }
}

/// How many failures a child may have before the node gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    pub budget: usize,
    pub window: std::time::Duration,
}
